"""The plot of ``benchmarks.throughput``: scaling, the ceiling, and error against speed."""

from pathlib import Path

CEILING = "C MuJoCo (contact scene)"
MARKS = {"physics": 4e5, "control": 2.5e4}  # planar alone; the full environment
COLORS = {
    "planar": "tab:blue",
    "planar ellipsoid": "tab:cyan",
    "planar_mjx": "tab:green",
    "contact": "tab:orange",
    "contact mjx": "tab:brown",
}
STYLES = {"dynamics": "o-", "environment": "s--", "training": "*"}


def plot(record: dict, parity: dict | None, file: Path) -> None:
    """Physics and control steps/s by batch size; parity error against control steps/s."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 6.2), layout="constrained")
    _scaling(axes[0], record["rows"], "physics")
    _scaling(axes[1], record["rows"], "control")
    if parity:
        _trade_off(axes[2], record["rows"], parity["by_substeps"])
    else:
        axes[2].set_axis_off()
    p = record["provenance"]
    figure.suptitle(f"{p['device']}, {p['cpu']}; medians, bars: min to max")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _scaling(axis, rows: list[dict], kind: str) -> None:
    """Rates at the task's own substeps over batch size, with the ceiling and the mark."""
    key = f"{kind}_steps_per_s"
    for (work, name, substeps), group in _curves(rows).items():
        if work not in STYLES or name not in COLORS:
            continue
        if substeps != _own_substeps(rows, name.removesuffix(" ellipsoid")):
            continue
        if kind == "physics" and work != "dynamics":
            continue
        rates = [r[key] for r in group]
        median = [r["median"] for r in rates]
        reach = [[m - r["min"] for m, r in zip(median, rates, strict=True)],
                 [r["max"] - m for m, r in zip(median, rates, strict=True)]]  # fmt: skip
        label = name if work == "dynamics" else f"{name}, {work}"
        batches = [r["batch"] for r in group]
        axis.errorbar(batches, median, reach, fmt=STYLES[work], color=COLORS[name], label=label)
    peers = [r for r in rows if r["dynamics"] not in (*COLORS, CEILING)]
    for r, marker in zip(peers, "<>^v", strict=False):
        axis.plot(r["batch"], r[key]["median"], marker, color="0.45", label=r["dynamics"])
    ceiling = max(r[key]["median"] for r in rows if r["dynamics"] == CEILING)
    axis.axhline(ceiling, color="k", lw=1, label=f"{CEILING}, all cores")
    axis.axhline(MARKS[kind], color="tab:red", lw=1, ls=":", label=f"mark: {MARKS[kind]:,.0f}")
    axis.set(xscale="log", yscale="log", xlabel="environments", ylabel=f"{kind} steps per second")
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2)


def _curves(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows by what is timed, dynamics and substeps, in order of batch size."""
    curves: dict[tuple, list[dict]] = {}
    for r in sorted(rows, key=lambda r: r["batch"]):
        curves.setdefault((r["work"], r["dynamics"], r["substeps"]), []).append(r)
    return curves


def _own_substeps(rows: list[dict], name: str) -> int:
    """Substeps with most rows: those of the task."""
    counted = [r["substeps"] for r in rows if r["dynamics"] == name]
    return max(set(counted), key=counted.count)


def _trade_off(axis, rows: list[dict], by_substeps: dict[str, list[dict]]) -> None:
    """Median error of a 3 cm push against speed, one point per number of substeps."""
    for parity_name, errors in by_substeps.items():
        name = "planar" if parity_name == "planar points" else parity_name
        points = []
        for error in errors:
            speeds = [
                r["control_steps_per_s"]["median"]
                for r in rows
                if (r["work"], r["dynamics"], r["substeps"])
                == ("dynamics", name, error["substeps"])
            ]
            if speeds:
                points.append((max(speeds), error["position_mm"]["median"], error["substeps"]))
        if points:
            x, y = [p[0] for p in points], [p[1] for p in points]
            axis.plot(x, y, "o-", color=COLORS.get(name, "0.5"), label=name)
            for point in points:
                axis.annotate(f"{point[2]}", point[:2], xytext=(3, 4), textcoords="offset points")
    axis.axhline(1.0, color="tab:red", lw=1, ls=":", label="mark: planar 1 mm")
    axis.axhline(0.5, color="tab:orange", lw=1, ls=":", label="mark: contact 0.5 mm")
    axis.set(xscale="log", yscale="log", xlabel="control steps per second, dynamics alone")
    axis.set(ylabel="median error of a 3 cm push, mm", title="numbers: substeps per push")
    axis.legend(fontsize=7)
