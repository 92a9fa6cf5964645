"""Table and plot of ``benchmarks.parity``."""

from pathlib import Path

SHOWN = ("planar points", "planar ellipsoid", "contact")


def table(cells: dict) -> str:
    """Markdown table of the errors by cell (support or task) and dynamics."""
    lines = [
        "| | | median mm | p95 mm | median deg | p95 deg |",
        "|---|---|---|---|---|---|",
    ]
    for cell, rows in cells.items():
        for name, row in rows.items():
            mm, deg = row["position_mm"], row["yaw_deg"]
            numbers = (mm["median"], mm["p95"], deg["median"], deg["p95"])
            lines.append(f"| {cell} | {name} | " + " | ".join(f"{c:.2f}" for c in numbers) + " |")
    return "\n".join(lines)


def plot(record: dict, file: Path) -> None:
    """Errors by support, by task, by speed and by substeps; position above, yaw below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = plt.get_cmap("tab10").colors
    names = ["judge, half its step", "judge, stiffer contacts", *SHOWN]
    names += ["C at this speed against C at 3 cm/s"]
    color = dict(zip(names, ("0.7", "0.45", *colors), strict=False))
    figure, axes = plt.subplots(2, 4, figsize=(17, 7), layout="constrained")
    for row, (key, label) in enumerate((("position_mm", "position, mm"), ("yaw_deg", "yaw, deg"))):
        support, task, speed, steps = axes[row]
        _bars(support, record["by_support"], key, names[:5], color)
        _bars(task, record["by_task"], key, names[:5], color)
        _lines(speed, record["by_speed"], key, "speed_mps", 100, color)
        _lines(steps, record["by_substeps"], key, "substeps", 1, color)
        support.set_ylabel(f"error in {label}")
        for axis in (support, task, steps):
            axis.set_yscale("log")
        speed.axvline(100 * chosen_speed(record), color="0.6", lw=1, zorder=0)
    titles = ("by support", "by task, at its own speed", "by pushing speed", "by substeps")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
        axis.legend(fontsize=7)
    axes[1, 2].set_xlabel("cm/s (line: the speed trained at)")
    axes[1, 3].set_xlabel("physics steps per push")
    settings = record["settings"]
    figure.suptitle(
        f"One push against C MuJoCo: median (bar, line) and 95th percentile (dash, dots) of "
        f"{settings['pushes']} random pushes; supports, speeds and substeps: {settings['tasks'][0]}"
    )
    figure.savefig(file, dpi=100)
    plt.close(figure)


def chosen_speed(record: dict) -> float:
    """Pushing speed of the first task, m/s."""
    return record["pushes"][record["settings"]["tasks"][0]][2]


def _bars(axis, cells: dict, key: str, names: list[str], color: dict) -> None:
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        found = [rows[name][key] for rows in cells.values()]
        x = [n + (i - len(names) / 2 + 0.5) * width for n in range(len(cells))]
        axis.bar(x, [c["median"] for c in found], width, color=color[name], label=name)
        axis.plot(x, [c["p95"] for c in found], "_", color=color[name], ms=9, mew=2)
    axis.set_xticks(range(len(cells)), [cell.removeprefix("push_") for cell in cells])


def _lines(axis, rows_by_name: dict, key: str, along: str, scale: float, color: dict) -> None:
    for name, rows in rows_by_name.items():
        x = [scale * r[along] for r in rows]
        axis.plot(x, [r[key]["median"] for r in rows], "o-", color=color[name], label=name)
        axis.plot(x, [r[key]["p95"] for r in rows], ":", color=color[name])
    axis.set_xscale("log")
    axis.set_xticks(x, [f"{v:g}" for v in x])
    axis.minorticks_off()
