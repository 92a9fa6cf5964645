"""Tables about the loop on a robot."""

from readme_layout import grid, machine


def control_loop(record: dict) -> str:
    """The compiled step, loading, and how runs against the simulated robot kept their pace."""
    loads = {row["form"]: row for row in record["loads"]}
    rows = [
        [
            r["form"], f"{r['rate_hz']:g} Hz" if r["rate_hz"] else "back to back",
            f"{r['median_ms']:.3f}", f"{r['p99_ms']:.3f}",
            f"{loads[r['form']]['load_s']['median']:.1f}",
        ]
        for r in record["steps"]
    ]  # fmt: skip
    steps = grid(("form", "called", "median ms", "p99 ms", "load and compile s"), rows)
    rows = [
        [
            f"{r['asked_hz']:g} Hz", f"{r['minutes']:g} min", f"{r['rate_hz']:.3f} Hz",
            f"{r['missed']} of {r['steps']}", f"{1e3 * r['jitter']['p99_s']:.2f}",
            f"{1e3 * r['work']['median_s']:.2f} ({1e3 * r['work']['p99_s']:.2f})",
            f"{r['worst']}, {1e3 * r['sections'][r['worst']]['max_s']:.1f} ms",
        ]
        for r in record["paces"]
    ]  # fmt: skip
    head = ("asked", "for", "achieved", "missed", "jitter p99 ms", "work ms (p99)", "worst section")
    marks = ", ".join(f"{k} {'met' if v else 'not met'}" for k, v in record["met"].items())
    return f"{machine(record)}\n\n{steps}\n{grid(head, rows)}\nMarks: {marks}.\n"


def deploy_faults(record: dict) -> str:
    """What faulted and killed runs sent and left behind."""
    found, killed, settings = record["faulted"], record["killed"], record["settings"]
    moved = killed["moved_for_s"]
    rows = [
        [
            "faults in simulated time", f"{found['episodes']}", f"{found['commands']}",
            f"{found['unsafe_commands']}", f"{found['unreadable_logs']}", "",
        ],
        [
            "kill -9 in real time, 1 Hz", f"{killed['episodes']}", f"{killed['commands']}",
            f"{sum(len(r['unsafe']) for r in killed['rows'])}",
            f"{sum(r['cause'] is None for r in killed['rows'])}", f"{moved['max']:.2f} s",
        ],
    ]  # fmt: skip
    head = ("episodes with", "count", "commands", "unsafe", "unreadable logs", "moved for at most")
    faults = ", ".join(f"{name} {count}" for name, count in found["faults"].items())
    verdict = "met" if record["met"] else "not met"
    mark = (
        f"{settings['episodes']} episodes, motion stops within {killed['target_s']:g} s: {verdict}"
    )
    return f"{grid(head, rows)}\nFaults that happened: {faults}. {mark}.\n"


def apriltag(record: dict) -> str:
    """Errors of tracked poses."""
    settings, target = record["settings"], record["target"]
    position = [f"{1e3 * record['position_m'][k]:.2f}" for k in ("median", "p95", "max")]
    yaw = [f"{record['yaw_deg'][k]:.2f}" for k in ("median", "p95", "max")]
    rows = [
        ["position, mm", *position, f"{1e3 * target['position_m']:g}"],
        ["yaw, deg", *yaw, f"{target['yaw_deg']:g}"],
    ]
    seen = f"{record['seen']} of {record['seen'] + record['missed']} poses seen"
    picture = f"{settings['width']} x {settings['height']} at {settings['distance_m']:g} m"
    verdict = "met" if record["met"] else "not met"
    table = grid(("error", "median", "p95", "largest", "mark"), rows)
    about = f"{seen}, {picture}, tags of {1e3 * settings['tag_m']:g} mm"
    return f"{about}.\n\n{table}\nMarks: {verdict}.\n"
