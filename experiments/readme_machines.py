"""Tables about starting, splitting and repeating work."""

from readme_layout import grid, machine


def scaling(record: dict) -> str:
    """The training step on several devices of one machine."""
    rows = []
    for r in record["rows"]:
        moved = sum(kind["bytes"] for kind in r["collectives"].values())
        rate = r["control_steps_per_s"]["median"]
        rows.append([
            f"{r['devices']}", f"{rate / 1e3:.1f} k", f"{r['ratio_to_one']:.2f}",
            f"{r['compile_s']:.0f}", f"{sum(k['count'] for k in r['collectives'].values())}",
            f"{moved / 1e6:.1f}",
        ])  # fmt: skip
    first = record["rows"][0]
    head = (
        "virtual devices",
        "control steps/s",
        "to one",
        "compile s",
        "collectives",
        "MB in them",
    )
    return (
        f"{machine(record)}\n\n{first['num_envs']} environments, {first['parameters']} parameters, "
        f"{first['gradient_steps']} gradient steps per update. The devices share the cores.\n\n"
        f"{grid(head, rows)}\nA collective inside a loop is counted once.\n"
    )


def evaluation(record: dict) -> str:
    """Closed-loop trials."""
    rows = []
    for r in record["rows"]:
        rate, whole = r["control_steps_per_s"], r["whole_trial_s"]["median"]
        rows.append([
            r["world"], f"{r['trials']}", f"{rate['median']:.0f}", f"{whole:.2f}",
            f"{r['first_s']:.1f}",
        ])  # fmt: skip
    head = ("world", "trials at once", "control steps/s", "s per whole trial", "first call s")
    return f"{machine(record)}\n\n{grid(head, rows)}"


def sweep(record: dict) -> str:
    """A sweep against one process per seed."""
    ours, other = record["sweep"], record["process_per_seed"]
    rows = [
        [
            f"one sweep, {ours['programs']} programs", f"{ours['runs']}",
            f"{ours['seconds'] / 60:.1f}", f"{ours['seconds_per_run']:.1f}",
        ],
        [
            f"a process per seed, {other['at_once']} at once", f"{other['runs']}",
            f"{other['seconds'] / 60:.1f}", f"{other['seconds_per_run']:.1f}",
        ],
    ]  # fmt: skip
    target = record["targets"]
    verdict = "met" if record["reached"] else "not met"
    return (
        f"{machine(record)}\n\n{ours['variants']} variants x {ours['seeds']} seeds.\n\n"
        f"{grid(('way', 'runs', 'minutes', 's per run'), rows)}\n"
        f"The sweep is {record['faster_by']:.1f} times faster per run; the losses of both ways "
        f"differ by at most {record['largest_loss_difference']:.0e}. Marks, "
        f"{target['minutes']:g} min and {target['faster_by']:g} times: {verdict}.\n"
    )


def start_up(record: dict) -> str:
    """Imports and commands."""
    rows = [
        [
            r["what"], f"{r['seconds']['median']:.2f}",
            f"{r['beyond_jax']['median']:.2f}" if "beyond_jax" in r else "",
        ]
        for r in record["rows"]
    ]  # fmt: skip
    marks = ", ".join(
        f"{m['what']} {m['mark']:g} s {'met' if m['met'] else 'not met'}" for m in record["marks"]
    )
    table = grid(("what", "seconds", "beyond jax"), rows)
    return f"{machine(record)}\n\n{table}\nMarks: {marks}.\n"


def reconstruction(record: dict) -> str:
    """Seconds of the steps of a small reconstruction."""
    rows = [
        [r["step"], f"{r['seconds']['median']:.1f}", f"{r['first_s']:.1f}"] for r in record["rows"]
    ]
    return f"{machine(record)}\n\n{grid(('step', 's', 'first time s'), rows)}"


def packaging(record: dict) -> str:
    """Which extras resolve on which Python, and what the lowest versions did."""
    found: dict[str, dict[str, str]] = {}
    for row in record["resolve"]["rows"]:
        told = f"{row['count']} packages" if row["ok"] else "no"
        found.setdefault(row["extra"], {})[row["python"]] = told
    pythons = list(dict.fromkeys(row["python"] for row in record["resolve"]["rows"]))
    rows = [[f"`{extra}`", *(by[v] for v in pythons)] for extra, by in found.items()]
    low = record["lowest"]
    return (
        f"{record['resolve']['uv']}, {record['resolve']['date']}.\n\n"
        f"{grid(('extra', *(f'Python {v}' for v in pythons)), rows)}\n"
        f"Lowest direct versions, Python {low['python']}, {len(low['tests'])} test files: "
        f"{low['summary'].strip('= ')}\n"
    )
