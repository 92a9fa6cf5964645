"""Figures from arrays: each function writes one PNG and returns nothing.

Lengths come in as metres and are drawn in centimetres (beliefs) or metres (maps).
Colours are Okabe and Ito's, which colour-blind readers can tell apart; every line
also has its own dash, so that a grey print stays readable.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import shapely
from jaxtyping import Bool, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D

from p2r_jax.evaluation.statistics import wilson
from p2r_jax.sim.asset import Asset
from p2r_jax.types import Gaussian, wrap_angle

DPI = 200
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
PRIOR, ESTIMATE, FUSED, TRUTH = "#0072B2", "#E69F00", "#009E73", "#000000"
TIME_COLORS = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.86, 0.0, 256)))
GOAL, GOAL_DASH = "#D55E00", (0, (3, 1.5))
SWAP_XY = Affine2D(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


@dataclass(frozen=True)
class LineStyle:
    """How a method is drawn, everywhere.

    Attributes:
      label: what the legend says.
      color: hex.
      dash: matplotlib line style.
    """

    label: str
    color: str
    dash: str | tuple = "-"


METHOD_STYLES = {
    "privileged": LineStyle("privileged (true θ)", "#000000", (0, (5, 1.5))),
    "privileged-noisy": LineStyle("privileged (true θ, noisy policy)", "#777777", (0, (5, 1.5))),
    "fused": LineStyle("fused (prior + interaction)", FUSED, "-"),
    "vlm-only": LineStyle("vlm-only (prior)", PRIOR, (0, (1, 1))),
    "rma-only": LineStyle("rma-only (interaction)", ESTIMATE, (0, (4, 1, 1, 1))),
    "dr": LineStyle("dr (never sees θ)", "#CC79A7", (0, (2.5, 1))),
}
SPARE_COLORS = ("#56B4E9", "#D55E00", "#8C6D31", "#5B4A8A")


def method_style(name: str, others: int = 0) -> LineStyle:
    """Style of a method; a name without one gets the spare colour number ``others``."""
    return METHOD_STYLES.get(name) or LineStyle(name, SPARE_COLORS[others % len(SPARE_COLORS)])


def theta_figure(
    path: Path,
    time_s: Float[np.ndarray, " t"],
    truth: float,
    prior: Gaussian,
    estimate: Gaussian,
    fused: Gaussian,
    contact: Bool[np.ndarray, " t"],
    *,
    title: str = "",
    ylabel: str = "centre of mass along x (cm)",
    unit_scale: float = 100.0,
) -> None:
    """One component of theta through one episode: prior, estimate and fused belief ± σ.

    Args:
      path: PNG to write.
      time_s: time of each control step; evenly spaced.
      truth: m.
      prior, estimate, fused: mean and variance, Float[T] or scalars; m and m^2. An
        infinite variance fills the whole axis.
      contact: whether the pusher touched the object in the action that began then; shaded.
      title: above the figure.
      ylabel: with the unit that ``unit_scale`` makes.
      unit_scale: figure units per unit of theta.
    """
    with _figure(path, 6.6, 3.3) as figure:
        axes = figure.add_subplot()
        for start, end in _spans(contact, time_s):
            axes.axvspan(start, end, color="#ECECEC", lw=0, zorder=0)
        beliefs = (
            ("prior", prior, PRIOR, (0, (1, 1))),
            ("estimate", estimate, ESTIMATE, (0, (4, 1, 1, 1))),
            ("fused", fused, FUSED, "-"),
        )
        reach = [truth * unit_scale]
        for name, belief, color, dash in beliefs:
            shape = np.shape(time_s)
            mean = np.broadcast_to(np.asarray(belief.mean, float), shape) * unit_scale
            sigma = np.sqrt(np.broadcast_to(np.asarray(belief.variance, float), shape)) * unit_scale
            wide = np.where(np.isfinite(sigma), sigma, 1e3)
            axes.fill_between(time_s, mean - wide, mean + wide, color=color, alpha=0.17, lw=0)
            width = 2.2 if name == "fused" else 1.6
            axes.plot(time_s, mean, color=color, ls=dash, lw=width, label=f"{name} ± σ")
            finite = np.isfinite(sigma)
            reach += [*(mean - sigma)[finite], *(mean + sigma)[finite], *mean]
        axes.axhline(truth * unit_scale, color=TRUTH, lw=1.2, ls=(0, (6, 2)), label="truth")
        low, high = min(reach), max(reach)
        margin = 0.04 * (high - low) + 1e-9
        axes.set(
            xlim=(time_s[0], time_s[-1]),
            ylim=(low - margin, high + margin),
            xlabel="time (s)",
            ylabel=ylabel,
        )
        handles, _ = axes.get_legend_handles_labels()
        if np.any(contact):
            handles.append(Line2D([], [], color="#E0E0E0", lw=8, label="in contact"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        axes.set_title(title)


def success_figure(
    path: Path,
    panels: Mapping[str, Mapping[str, Bool[np.ndarray, "n ticks"]]],
    *,
    period_s: float = 1.0,
    criterion: str = "3 cm, 20°",
    title: str = "",
) -> None:
    """Share of trials that satisfy the criterion at each time, with 95% Wilson bands.

    Args:
      path: PNG to write.
      panels: condition -> method -> Bool[N, T + 1], ticks 0 to T, e.g.
        ``outcomes.judge(...).hardware``. One panel per condition.
      period_s: control period.
      criterion: named on the axis.
      title: above the figure.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    unknown = [name for name in names if name not in METHOD_STYLES]
    with _figure(path, max(4.6, 3.1 * len(panels) + 0.5), 3.6) as figure:
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (condition, curves) in zip(grid, panels.items(), strict=True):
            for name, met in curves.items():
                style = method_style(name, unknown.index(name) if name in unknown else 0)
                met = np.asarray(met)
                trials, ticks = met.shape
                time = period_s * np.arange(ticks)
                rate = 100 * np.array([wilson(int(k), trials) for k in met.sum(0)])
                width = 2.0 if name == "fused" else 1.4
                axes.plot(time, rate[:, 0], color=style.color, ls=style.dash, lw=width)
                axes.fill_between(time, *rate[:, 1:].T, color=style.color, alpha=0.11, lw=0)
            axes.set_title(condition)
            axes.set(xlim=(0, time[-1]), ylim=(0, 100), xlabel="time (s)")
            axes.grid(axis="y")
        grid[0].set_ylabel(f"trials within {criterion} (%)")
        handles = []
        for name in names:
            style = method_style(name, unknown.index(name) if name in unknown else 0)
            handles.append(
                Line2D([], [], color=style.color, ls=style.dash, label=style.label, lw=1.8)
            )
        columns = min(len(handles), 1 + len(panels))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.8)
        if title:
            figure.suptitle(title, fontsize=10)


def overlay_figure(
    path: Path,
    poses: Float[np.ndarray, "t 3"],
    ee: Float[np.ndarray, "t 2"],
    asset: Asset,
    goal: Float[np.ndarray, " 3"],
    *,
    period_s: float = 1.0,
    pusher_radius_m: float = 0.0125,
    com_object_m: Float[np.ndarray, " 2"] | None = None,
    snapshots: int = 7,
    title: str = "",
) -> None:
    """One episode from above: the object at several times, the pusher's path, the goal.

    The robot's base lies below the picture: world +x points up, +y to the left.

    Args:
      path: PNG to write.
      poses: x, y (m), yaw (rad) of the object at each control step, world frame.
      ee: pusher at each control step, world frame, m.
      asset: the object.
      goal: goal x, y (m), yaw (rad).
      period_s: control period.
      pusher_radius_m: drawn at each snapshot.
      com_object_m: true centre of mass, object frame; marked on every outline.
      snapshots: number of outlines, evenly spaced in the object's motion.
      title: above the figure.
    """
    poses, goal = np.asarray(poses, float), np.asarray(goal, float)
    path_yx = np.asarray(ee, float)[:, ::-1]
    outline = object_outline(asset)
    norm, colors = Normalize(0, period_s * (len(poses) - 1)), TIME_COLORS
    shown = _snapshot_indices(poses, snapshots)
    placed = [outline.transformed(pose_transform(p)).vertices for p in (*poses[shown], goal)]
    spread = np.ptp(np.concatenate([*placed, ee]), axis=0)
    com = None if com_object_m is None else np.asarray(com_object_m, float)
    with _figure(path, 6.6, 1.35 + 5.2 * spread[0] / spread[1]) as figure:
        axes = figure.add_subplot()
        for index in shown:
            alpha, width = (0.35, 1.8) if index == shown[-1] else (0.10, 1.1)
            color = colors(norm(period_s * index))
            _draw_object(axes, outline, poses[index], com, color, alpha, width)
        target = outline.transformed(pose_transform(goal) + SWAP_XY)
        axes.add_patch(PathPatch(target, fc="none", ec=GOAL, lw=1.8, ls=GOAL_DASH, zorder=5))
        segments = np.stack([path_yx[:-1], path_yx[1:]], 1)
        lines = LineCollection(list(segments), cmap=colors, norm=norm, lw=1.6, zorder=4)
        lines.set_array(period_s * np.arange(len(segments)))
        axes.add_collection(lines)
        for index, face in ((0, "white"), (-1, "#444444")):
            axes.add_patch(Circle(path_yx[index], pusher_radius_m, fc=face, ec="#444444", zorder=6))
        time = ScalarMappable(norm, colors)
        bar = figure.colorbar(time, ax=axes, label="time (s)", pad=0.02, shrink=0.84, aspect=24)
        bar.outline.set_visible(False)
        axes.set_aspect("equal")
        axes.autoscale_view()
        axes.invert_xaxis()
        axes.set(xlabel="y (m)", ylabel="x (m)", title=title)
        axes.grid()
        _explain_overlay(figure, with_com=com is not None)


def _draw_object(axes, outline: Outline, pose, com, color, alpha: float, width: float) -> None:
    """The object's outline at a pose, with its centre of mass unless that is None."""
    place = pose_transform(pose)
    shape = outline.transformed(place + SWAP_XY)
    axes.add_patch(PathPatch(shape, fc=(*color[:3], alpha), ec=color, lw=width))
    if com is not None:
        x, y = place.transform(com)
        axes.plot(y, x, marker="o", ms=4.5, mfc="white", mec=color, mew=1.4, zorder=6)


def _explain_overlay(figure: Figure, with_com: bool) -> None:
    """What the marks of ``overlay_figure`` mean, below it."""
    handles = [
        Line2D([], [], color="#3b7a86", label="object"),
        Line2D([], [], color=GOAL, lw=1.8, ls=GOAL_DASH, label="goal"),
        _dot("white", "#444444", "pusher, start"),
        _dot("#444444", "#444444", "pusher, end"),
    ]
    if with_com:
        handles.append(_dot("white", "#3b7a86", "true centre of mass", size=5))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        handlelength=1.8,
        columnspacing=1.4,
    )


def object_outline(asset: Asset) -> Outline:
    """Outline of the union of the asset's parts, object frame, m; holes run clockwise."""
    # rounding closes the hair-wide gaps that float corners leave between touching parts
    union = shapely.union_all([shapely.Polygon(np.round(p.corners, 9)) for p in asset.parts])
    loops = []
    for piece in map(shapely.geometry.polygon.orient, getattr(union, "geoms", [union])):
        loops += [
            Outline(np.array(r.coords), closed=True) for r in (piece.exterior, *piece.interiors)
        ]
    return Outline.make_compound_path(*loops)


def pose_transform(pose: Float[np.ndarray, " 3"]) -> Affine2D:
    """Object frame -> world for a pose (x, y, yaw)."""
    return Affine2D().rotate(float(pose[2])).translate(float(pose[0]), float(pose[1]))


@contextmanager
def _figure(path: Path, width: float, height: float):
    """A figure in the house style, saved on a clean exit; no pyplot, so no global state."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path)


def _spans(contact: Bool[np.ndarray, " t"], time_s: Float[np.ndarray, " t"]):
    """Start and end of each run of contact; the action of time t lasts one period."""
    period = np.median(np.diff(time_s)) if len(time_s) > 1 else 1.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(contact, int), [0]])))
    return [(time_s[a], time_s[b - 1] + period) for a, b in edges.reshape(-1, 2)]


def _snapshot_indices(poses: Float[np.ndarray, "t 3"], count: int) -> list[int]:
    """Steps that split the object's motion (10 cm of travel weigh as much as 1 rad) evenly."""
    step = np.diff(poses, axis=0)
    step[:, 2] = wrap_angle(step[:, 2])
    motion = np.linalg.norm(step * [1.0, 1.0, 0.1], axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(motion)])
    marks = np.linspace(0, travelled[-1], count)
    indices = [*np.searchsorted(travelled, marks[:-1], side="left"), len(poses) - 1]
    return sorted({int(i) for i in indices})


def _dot(face: str, edge: str, label: str, size: float = 7) -> Line2D:
    return Line2D([], [], ls="none", marker="o", ms=size, mfc=face, mec=edge, label=label)
