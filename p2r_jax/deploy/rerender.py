"""``p2r replay RUN``: a run again, from its log: a picture of the whole and a video.

Both show the table from above beside what was believed about theta (prior, estimate and
fused, each with one sigma) and what the loop spent its time on. Steps that ``safety``
clipped or stopped are marked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from tqdm import tqdm

from p2r_jax.deploy.record import Run, RunError, read_run
from p2r_jax.deploy.record.mcap import log_file
from p2r_jax.files import new_folder
from p2r_jax.film import write_mp4
from p2r_jax.types import wrap_angle

try:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
    from PIL import Image, ImageDraw, ImageFont

    from p2r_jax.deploy.top_view import TopView, placed, places
    from p2r_jax.evaluation.figures import (
        DPI,
        ESTIMATE,
        FUSED,
        GOAL,
        GOAL_DASH,
        PRIOR,
        RC,
        TIME_COLORS,
    )
except ImportError as error:
    raise ImportError("pictures of a run need matplotlib: pip install 'p2r_jax[viz]'") from error

FOLDER, PICTURE, FILM = "replay", "run.png", "run.mp4"
SAFETY, USED = "#C3202F", "#222222"
BELIEFS = (
    ("prior", PRIOR, (0, (1, 1)), 1.6),
    ("estimate", ESTIMATE, (0, (4, 1, 1, 1)), 1.6),
    ("fused", FUSED, "-", 2.2),
)
SECTIONS = {"late": SAFETY, "observe": "#56B4E9", "infer": "#0072B2", "act": "#E69F00",
            "log": "#999999"}  # fmt: skip
MAP_PX, PANEL_PX, HEAD_PX = (520, 480), (440, 480), 40
PANEL_DPI = 100
SNAPSHOTS = 7


@dataclass(frozen=True)
class RerenderConfig:
    """One run to be shown again.

    Attributes:
      run: its folder or its ``.mcap``.
      out: folder for ``run.png`` and ``run.mp4``; by default ``replay`` in the run's.
      speed: how much faster than life the video plays.
      fps: of the video.
      video: make one.
      overwrite: allow a folder that is not empty.
    """

    run: tyro.conf.Positional[Path]
    out: Path | None = None
    speed: float = 8.0
    fps: int = 20
    video: bool = True
    overwrite: bool = False


def rerender(config: RerenderConfig) -> Path:
    """Draw a run from its log; returns the folder.

    Raises:
      FileNotFoundError: if there is no such run.
      RunError: if it cannot be read or holds no step.
      FileExistsError: if ``out`` is not empty.
    """
    run = read_run(config.run)
    if not run.steps:
        raise RunError(f"{config.run} holds no step (it ended: {run.cause}); nothing to draw")
    if config.speed <= 0 or config.fps <= 0:
        raise ValueError(f"speed {config.speed:g} and fps {config.fps} must be above zero")
    print(describe(run))
    out = new_folder(config.out or log_file(config.run).parent / FOLDER, config.overwrite)
    run_figure(run, out / PICTURE)
    if config.video:
        times = np.arange(0.0, run.time_s[-1] + 1e-9, config.speed / config.fps)
        frames = tqdm(film_frames(run, times, config.speed), "frames", len(times), leave=False)
        write_mp4(out / FILM, frames, config.fps)
    print(f"{out}: {PICTURE}" + (f", {FILM}" if config.video else ""))
    return out


def describe(run: Run) -> str:
    """What a run was, in two lines."""
    header, clipped = run.header, [s for s in run.steps if s.safety]
    causes = ", ".join(sorted({cause for s in clipped for cause in s.safety}))
    took = run.time_s[-1] - run.time_s[0]
    rate = f", {(len(run.steps) - 1) / took:.2f} Hz" if took > 0 else ""
    return (
        f"{header.task}: robot {header.robot}, tracker {header.tracker}; "
        f"{len(run.steps)} steps in {took:.1f} s{rate}; ended: {run.cause}\n"
        f"safety: {f'{len(clipped)} steps ({causes})' if clipped else 'nothing to mend'}"
    )


def run_figure(run: Run, path: Path) -> None:
    """The whole run in one picture: the way of object and tip, beliefs, timing."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(10.5, 4.9), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        rows = len(run.header.theta) + 1
        grid = figure.add_gridspec(rows, 2, height_ratios=_heights(run))
        _draw_map(figure.add_subplot(grid[:, 0]), run)
        _draw_panels([figure.add_subplot(grid[row, 1]) for row in range(rows)], run)
        figure.legend(handles=_map_legend() + _belief_legend(), loc="outside lower center", ncols=8,
                      columnspacing=1.3)  # fmt: skip
        header = run.header
        figure.suptitle(
            f"{header.task} on {header.robot}: {len(run.steps)} steps, ended: {run.cause}",
            fontsize=10, fontweight="bold",
        )  # fmt: skip
        figure.savefig(path)


def film_frames(
    run: Run, times: Float[np.ndarray, " f"], speed: float
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames of the video at these times since the start of the run, s."""
    poses, ee, start = run.column("object_pose"), run.column("ee_xy"), run.time_s
    view = TopView(run.header, MAP_PX, places(run.header.outline, poses, ee))
    panel, columns = _panel_image(run, times)
    means, sigmas = run.column("fused_mean"), run.column("fused_sigma")
    for now, column in zip(times, columns, strict=True):
        k = max(int(np.searchsorted(start, now + 1e-9)) - 1, 0)
        tip = _between(start, ee, now)
        trail = np.concatenate([ee[: k + 1], tip[None]])
        top = view.frame(_between(start, poses, now), tip, trail, means[k], sigmas[k])
        yield _compose(run, k, now, speed, top, _with_cursor(panel, column))


def _between(start, values: Float[np.ndarray, "n m"], now: float) -> Float[np.ndarray, " m"]:
    """Values at a time, linear between two steps; an angle (third entry) takes the short way."""
    k = int(np.clip(np.searchsorted(start, now + 1e-9) - 1, 0, len(start) - 1))
    if k == len(start) - 1:
        return values[k]
    step = values[k + 1] - values[k]
    step[2:] = wrap_angle(step[2:])
    share = np.clip((now - start[k]) / (start[k + 1] - start[k]), 0.0, 1.0)
    return values[k] + share * step


def _compose(run: Run, k: int, now: float, speed: float, top, panel) -> np.ndarray:
    """Map and panel side by side under a line of text."""
    height = max(MAP_PX[1], PANEL_PX[1]) + HEAD_PX
    image = Image.new("RGB", (MAP_PX[0] + PANEL_PX[0], height), "white")
    image.paste(Image.fromarray(top), (0, HEAD_PX))
    image.paste(Image.fromarray(panel), (MAP_PX[0], HEAD_PX))
    draw = ImageDraw.Draw(image)
    header, step = run.header, run.steps[k]
    draw.text((14, 10), f"{header.task} on {header.robot}", "#191919", _font(16, bold=True))
    clock = f"step {step.step}   {now:.1f} s   {speed:g}x"
    draw.text((image.width - 14, 11), clock, "#191919", _font(15), anchor="ra")
    said = ", ".join(step.safety) or (f"ended: {run.cause}" if k == len(run.steps) - 1 else "")
    color = SAFETY if step.safety else "#191919"
    draw.text((14, HEAD_PX + 8), said, color, _font(14, bold=True))
    return np.asarray(image)


def _with_cursor(panel: UInt8[np.ndarray, "h w 3"], column: float) -> UInt8[np.ndarray, "h w 3"]:
    image = Image.fromarray(panel)
    ImageDraw.Draw(image).line([(column, 0), (column, image.height)], "#555555", 1)
    return np.asarray(image)


def _panel_image(run: Run, times) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, " f"]]:
    """Beliefs and timing as a picture, and the pixel column of every time."""
    with mpl.rc_context(RC):
        size = (PANEL_PX[0] / PANEL_DPI, PANEL_PX[1] / PANEL_DPI)
        figure = Figure(figsize=size, dpi=PANEL_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(
            len(run.header.theta) + 1, 1, squeeze=False, height_ratios=_heights(run)
        )[:, 0]
        _draw_panels(axes, run)
        figure.legend(handles=_belief_legend(), loc="outside upper center", ncols=2)
        canvas.draw()
        picture = np.array(canvas.buffer_rgba())[..., :3]
    corners = np.stack([times, np.zeros_like(times)], -1)
    return picture, axes[-1].transData.transform(corners)[:, 0]


def _draw_map(axes, run: Run) -> None:
    """Object at several times, the tip's way, goal and workspace; +x up, +y to the left."""
    header = run.header
    poses, ee, time = run.column("object_pose"), run.column("ee_xy"), run.time_s
    outline = _closed(np.array(header.outline, float))
    axes.plot(
        *_closed(np.array(header.workspace, float).reshape(-1, 2)).T[::-1], color="#9aa0a8", lw=0.9
    )
    axes.plot(*placed(outline, header.goal).T[::-1], color=GOAL, lw=1.8, ls=GOAL_DASH, zorder=5)
    seen = np.flatnonzero(np.isfinite(poses).all(1))
    shown = seen[_evenly(poses[seen])]
    for k in shown:
        color = TIME_COLORS(time[k] / max(time[-1], 1e-9))
        corners = placed(outline, poses[k])
        alpha = 0.35 if k == shown[-1] else 0.08
        axes.fill(*corners.T[::-1], fc=(*color[:3], alpha), ec=color, lw=1.3)
    axes.scatter(*ee.T[::-1], c=time, cmap=TIME_COLORS, s=5, zorder=4)
    axes.plot(*ee.T[::-1], color="#29456f", lw=0.8, alpha=0.5, zorder=3)
    marked = [k for k, step in enumerate(run.steps) if step.safety]
    axes.plot(*ee[marked].T[::-1], "x", color=SAFETY, ms=4, zorder=6)
    axes.set_aspect("equal")
    axes.invert_xaxis()
    axes.set(xlabel="y (m)", ylabel="x (m)")
    axes.grid()


def _evenly(poses: Float[np.ndarray, "n 3"]) -> list[int]:
    """Rows that split the object's motion evenly; 10 cm of travel weigh as much as 1 rad."""
    if not len(poses):
        return []
    step = np.diff(poses, axis=0, prepend=poses[:1])
    step[:, 2] = 0.1 * wrap_angle(step[:, 2])
    way = np.cumsum(np.linalg.norm(step, axis=1))
    return sorted({*np.searchsorted(way, np.linspace(0, way[-1], SNAPSHOTS)[:-1]), len(way) - 1})


def _draw_panels(grid, run: Run) -> None:
    """One panel per component of theta and one of timing, over one time axis."""
    for i, axes in enumerate(grid[:-1]):
        _draw_theta(axes, run, i)
        axes.tick_params(labelbottom=False)
    _draw_timing(grid[-1], run)
    last = max(run.time_s[-1], run.header.control_period_s)
    for axes in grid:
        axes.set_xlim(0, last)
    grid[-1].set_xlabel("time (s)")


def _heights(run: Run) -> list[float]:
    return [2.0] * len(run.header.theta) + [1.0]


def _map_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=TIME_COLORS(0.0), label="start"),
        Line2D([], [], color=TIME_COLORS(1.0), label="end"),
        Line2D([], [], color=GOAL, ls=GOAL_DASH, label="goal"),
        Line2D([], [], color="#9aa0a8", label="workspace"),
    ]


def _belief_legend() -> list[Line2D]:
    beliefs = [
        Line2D([], [], color=color, ls=dash, lw=width, label=f"{name} ± σ")
        for name, color, dash, width in BELIEFS
    ]
    return [*beliefs, Line2D([], [], color=USED, lw=0.9, label="told to the policy")]


def _draw_theta(axes, run: Run, i: int) -> None:
    name, scale, label = theta_label(run.header.theta[i])
    time = run.time_s
    reach = []
    for belief, color, dash, width in BELIEFS:
        mean = scale * run.column(f"{belief}_mean")[:, i]
        sigma = scale * run.column(f"{belief}_sigma")[:, i]
        wide = np.where(np.isfinite(sigma), sigma, 1e3 * scale)
        axes.fill_between(time, mean - wide, mean + wide, color=color, alpha=0.17, lw=0)
        axes.plot(time, mean, color=color, ls=dash, lw=width)
        known = np.isfinite(mean) & np.isfinite(sigma)
        reach += [*(mean - sigma)[known], *(mean + sigma)[known]]
    axes.plot(time, scale * run.column("theta_used")[:, i], color=USED, lw=0.9)
    if reach:
        low, high = min(reach), max(reach)
        margin = 0.05 * (high - low) + 1e-9
        axes.set_ylim(low - margin, high + margin)
    _mark_safety(axes, run)
    axes.set(ylabel=f"{name} ({label})" if label else name)
    axes.grid(axis="y")


def _draw_timing(axes, run: Run) -> None:
    """Milliseconds that each section took, stacked, and how late the step began."""
    found = dict.fromkeys(key for step in run.steps for key in step.sections_s)
    base = np.zeros(len(run.steps))
    for name in found:
        took = 1e3 * np.array([step.sections_s.get(name, 0.0) for step in run.steps])
        color = SECTIONS.get(name, "#CC79A7")
        if name == "late":
            axes.plot(run.time_s, took, color=color, lw=0.9, label=name)
            continue
        axes.fill_between(run.time_s, base, base + took, color=color, lw=0, step="post", label=name)
        base = base + took
    if found:
        axes.legend(loc="upper right", ncols=len(found), fontsize=7, handlelength=1.0)
        axes.margins(y=0.45)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="loop (ms)")
    axes.yaxis.set_major_locator(MaxNLocator(3))


def _mark_safety(axes, run: Run) -> None:
    times = [t for t, step in zip(run.time_s, run.steps, strict=True) if step.safety]
    low = np.full(len(times), 0.02)
    axes.plot(times, low, "|", color=SAFETY, ms=7, transform=axes.get_xaxis_transform(), zorder=6)


def theta_label(name: str) -> tuple[str, float, str]:
    """How a component of theta is drawn: its name, units per SI unit, and the unit."""
    if name.startswith("com_object_"):
        return f"centre of mass {name[-1]}", 100.0, "cm"
    return name, 1.0, ""


def _closed(corners: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    return np.concatenate([corners, corners[:1]])


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), size)
