"""``p2r replay LOG``: how well does the simulation predict pushes that somebody recorded?

Half of the pushes (drawn by the seed) may be used to fit friction and are used to fit
the second baseline; errors are stated on the other half.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from jaxtyping import Float

from p2r_jax.evaluation.statistics import bootstrap
from p2r_jax.files import as_record, new_folder, provenance, write_json
from p2r_jax.pushlog import PushLog, read_log, split_by_contact, split_windows, tool_gap
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.contact import ContactConfig, ContactDynamics
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.replay import (
    Dynamics,
    apply_transform,
    fit_friction,
    fit_transform,
    natural_speed_up,
    pose_errors,
    replay,
    rest_physics,
)
from p2r_jax.sim.support import SUPPORTS, support_points
from p2r_jax.types import PhysicsParams

SCHEMA_VERSION = 1
FEWEST_TO_SPLIT = 4
METRICS = {"position_mm": "position, mm", "yaw_deg": "yaw, deg", "outline_mm": "outline, mm"}
STILL, TRANSFORM = "object does not move", "fixed transform of the tool's motion"


@dataclass(frozen=True)
class ReplayConfig:
    """One replay.

    Attributes:
      log: ``.npz``, ``.parquet`` or ``.csv``; the columns are in ``p2r_jax.pushlog.files``.
      out: folder for ``replay.json`` and ``replay.png``.
      asset: shipped name or folder; by default the one the log names.
      tool_radius_m: of the round tool; by default what the log says.
      support: ``patch``, ``rim``, ``feet``, or points "x,y;x,y;x,y" in the object frame, m.
      support_count: points of a named support.
      friction_pusher, friction_table: coefficients; the first is only where ``fit`` starts.
      fit: fit the friction at the pusher on half of the pushes.
      dynamics: ``planar`` or ``contact``.
      period_s: of the resampled tool path, in the log's time.
      substeps: physics steps per period.
      speed_up: how much faster than recorded; by default up to 2 cm/s, never slower.
      split: cut a continuous log into pushes: ``contact`` (one per touch) or ``windows``.
      window_s: longest window of ``split = windows``.
      on_bad: ``raise`` at a bad push, or ``exclude`` it and say so.
      seed: of the halves.
      overwrite: allow a folder that is not empty.
    """

    log: tyro.conf.Positional[Path]
    out: Path
    asset: str | None = None
    tool_radius_m: float | None = None
    support: str = "patch"
    support_count: int = 24
    friction_pusher: float = 0.25
    friction_table: float = 0.25
    fit: bool = False
    dynamics: Literal["planar", "contact"] = "planar"
    period_s: float = 0.2
    substeps: int = 10
    speed_up: float | None = None
    split: Literal["none", "contact", "windows"] = "none"
    window_s: float = 5.0
    on_bad: Literal["raise", "exclude"] = "raise"
    seed: int = 0
    overwrite: bool = False


def replay_command(config: ReplayConfig) -> dict:
    """Replay a log, print the errors, write JSON and plot; returns what the JSON holds.

    Raises:
      FileNotFoundError: no such log or asset.
      ValueError: for a bad log, too few pushes to fit, or support points that do not
        enclose the centre of mass.
      FileExistsError: if ``out`` is not empty.
    """
    log, asset = open_log(config)
    support = parse_support(config.support, asset, config.support_count)
    physics = rest_physics(asset, support, config.friction_pusher, config.friction_table)
    fitting, testing = halves(log, config.seed)
    if config.fit and not fitting.pushes.size:
        raise ValueError(f"{log.name} has {len(log.pushes)} pushes; --fit needs {FEWEST_TO_SPLIT}")
    speed_up = config.speed_up or natural_speed_up(log)
    dynamics = make_dynamics(
        config.dynamics, asset, log.tool_radius_m, config.period_s / speed_up, config.substeps,
        len(support),
    )  # fmt: skip
    new_folder(config.out, config.overwrite)
    if config.fit:
        physics, _ = fit_friction(fitting, physics, dynamics, config.period_s)
    predicted = predictions(config.dynamics, fitting, testing, physics, dynamics, config.period_s)
    result = {
        "schema": SCHEMA_VERSION, "kind": "replay", "config": as_record(config),
        "log": describe_log(log), "asset": asset.name, "speed_up": speed_up,
        "physics": describe_physics(physics), "fitted": config.fit,
        "pushes_fitted": fitting.pushes.tolist(), "pushes_tested": testing.pushes.tolist(),
        "errors": {k: summary(pose_errors(asset, v, testing.poses_after()))
                   for k, v in predicted.items()},
        "by_push": by_push(asset, testing, predicted), "provenance": provenance(),
    }  # fmt: skip
    write_json(config.out / "replay.json", result)
    print(table(result))
    try:
        replay_figure(config.out / "replay.png", asset, testing, predicted, config.dynamics)
    except ImportError:
        print("no picture: that needs matplotlib; pip install 'p2r_jax[viz]'")
    return result


def open_log(config: ReplayConfig) -> tuple[PushLog, Asset]:
    """The log, checked, cut into pushes, and the asset it is about."""
    named = read_log(config.log, on_bad="exclude").asset if config.asset is None else config.asset
    if named is None:
        raise ValueError(f"{config.log} names no asset; say which with --asset")
    asset = load_asset(named)
    log = read_log(config.log, asset, config.on_bad)
    if config.tool_radius_m is not None:
        log = replace(log, tool_radius_m=config.tool_radius_m)
    if log.tool_radius_m is None:
        raise ValueError(f"{config.log} does not say how thick the tool is; add --tool-radius-m")
    if config.split == "contact":
        gap = tool_gap(asset, log.object_pose, log.tool_xy, log.tool_radius_m)
        log = split_by_contact(log, gap)
    elif config.split == "windows":
        log = split_windows(log, config.window_s)
    if not log.t.size:
        raise ValueError(f"{config.log}: nothing is left to replay after --split {config.split}")
    return log, asset


def parse_support(text: str, asset: Asset, count: int = 24) -> Float[np.ndarray, "points 2"]:
    """Support points from a name or from "x,y;x,y;x,y" (object frame, m).

    Raises:
      ValueError: if it is neither, or has fewer than three points.
    """
    if text in SUPPORTS:
        return support_points(asset, text, count)
    try:
        points = np.array([[float(v) for v in pair.split(",")] for pair in text.split(";")])
    except ValueError:
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError(
            f"support {text!r} is neither one of {', '.join(SUPPORTS)} nor three or more points "
            '"x,y;x,y;x,y" in metres'
        )
    return points


def make_dynamics(
    name: str, asset: Asset, tool_radius_m: float, dt_s: float, substeps: int, support_count: int
) -> Dynamics:
    """The dynamics of a name, for a tool that moves for ``dt_s`` per period."""
    if name == "planar":
        return PlanarDynamics(asset, tool_radius_m, dt_s, PlanarConfig(substeps=substeps))
    if not tool_radius_m > 0:
        raise ValueError("contact dynamics needs a tool with a radius above zero; planar does not")
    config = ContactConfig(substeps=substeps, support_count=support_count)
    return ContactDynamics(asset, tool_radius_m, dt_s, config)


def halves(log: PushLog, seed: int) -> tuple[PushLog, PushLog]:
    """A random half to fit on and the other half; all to test on if they are too few."""
    pushes = log.pushes
    if len(pushes) < FEWEST_TO_SPLIT:
        return log.select([]), log
    chosen = np.random.default_rng(seed).permutation(len(pushes))[: len(pushes) // 2]
    fitted = np.isin(np.arange(len(pushes)), chosen)
    return log.select(pushes[fitted]), log.select(pushes[~fitted])


def predictions(
    name: str, fitting: PushLog, testing: PushLog, physics: PhysicsParams, dynamics: Dynamics,
    period_s: float,
) -> dict[str, Float[np.ndarray, "n 3"]]:  # fmt: skip
    """Poses after the tested pushes, by the dynamics and by both baselines."""
    predicted = {name: replay(testing, physics, dynamics, period_s)[1]}
    predicted[STILL] = testing.poses_before()
    if fitting.pushes.size:
        predicted[TRANSFORM] = apply_transform(testing, fit_transform(fitting))
    return predicted


def describe_log(log: PushLog) -> dict:
    """Name, size, and what was left out and why."""
    return {
        "name": log.name, "pushes": len(log.pushes), "rows": log.t.size,
        "tool_radius_m": log.tool_radius_m,
        "excluded": [{"push": e.push, "reason": e.reason} for e in log.excluded],
    }  # fmt: skip


def describe_physics(physics: PhysicsParams) -> dict:
    """Friction and support as plain numbers."""
    return {
        "friction_pusher": round(float(physics.friction_pusher), 4),
        "friction_table": round(float(physics.friction_table), 4),
        "support_m": np.round(np.asarray(physics.support, float), 5).tolist(),
    }


def summary(errors: dict[str, np.ndarray]) -> dict:
    """Median with its 95% bootstrap interval, and the 95th percentile, by metric."""
    out = {}
    for name, values in errors.items():
        median = bootstrap(values, np.median)
        out[name] = median._asdict() | {"p95": float(np.percentile(values, 95))}
    return out


def by_push(asset: Asset, log: PushLog, predicted: dict[str, np.ndarray]) -> list[dict]:
    """Measured and predicted pose after every push, and the errors."""
    after = log.poses_after()
    errors = {name: pose_errors(asset, poses, after) for name, poses in predicted.items()}
    return [
        {"push": int(push), "measured": np.round(after[i], 6).tolist()}
        | {
            name: {"pose": np.round(predicted[name][i], 6).tolist()}
            | {metric: round(float(v[i]), 4) for metric, v in errors[name].items()}
            for name in predicted
        }
        for i, push in enumerate(log.pushes)
    ]


def table(result: dict) -> str:
    """Markdown table of the errors, with what was left out below it."""
    log = result["log"]
    lines = [
        f"{log['name']}: {len(result['pushes_tested'])} pushes tested, "
        f"{len(result['pushes_fitted'])} kept for fitting; friction pusher "
        f"{result['physics']['friction_pusher']:g}{' (fitted)' if result['fitted'] else ''}, "
        f"table {result['physics']['friction_table']:g}",
        "",
        "| median error of the final pose [95%] | " + " | ".join(METRICS.values()) + " |",
        "|---|" + "---|" * len(METRICS),
    ]
    for name, row in result["errors"].items():
        cells = [row[m] for m in METRICS]
        text = (f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells)
        lines.append(f"| {name} | " + " | ".join(text) + " |")
    excluded = log["excluded"]
    if excluded:
        lines += ["", f"{len(excluded)} pushes left out; the first, push {excluded[0]['push']}: "
                  f"{excluded[0]['reason']}"]  # fmt: skip
    return "\n".join(lines)


def replay_figure(
    path: Path, asset: Asset, log: PushLog, predicted: dict[str, np.ndarray], name: str
) -> None:
    """Pushes at the 10th, 50th and 90th percentile of error, and error distributions."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from p2r_jax.evaluation.figures import DPI, RC

    after = log.poses_after()
    order = np.argsort(pose_errors(asset, predicted[name], after)["outline_mm"])
    shown = [int(order[round(q * (len(order) - 1))]) for q in (0.1, 0.5, 0.9)]
    with rc_context(RC):
        figure = Figure(figsize=(11.0, 6.4), dpi=DPI, layout="constrained")
        axes = figure.subplots(2, 3)
        for axis, i, label in zip(axes[0], shown, ("good", "median", "poor"), strict=True):
            _draw_push(axis, asset, log, i, predicted[name][i], name)
            axis.set_title(f"push {log.pushes[i]} ({label})")
        axes[0, 0].legend(loc="best")
        for axis, metric in zip(axes[1], METRICS, strict=True):
            _draw_distribution(axis, metric, asset, after, predicted)
        axes[1, 0].set_ylabel("share of pushes")
        axes[1, 2].legend(loc="lower right")
        figure.savefig(path)


def _draw_distribution(
    axis, metric: str, asset: Asset, after: np.ndarray, predicted: dict[str, np.ndarray]
) -> None:
    for (who, poses), dash in zip(predicted.items(), ("-", "--", ":"), strict=False):
        values = np.sort(pose_errors(asset, poses, after)[metric])
        share = np.arange(values.size + 1) / values.size
        axis.step(np.insert(values, 0, 0.0), share, where="post", label=who, ls=dash, lw=1.6)
    axis.set_xlabel(f"error of the final pose: {METRICS[metric]}")
    axis.set_ylim(0, 1)
    axis.set_xlim(0)
    axis.grid(True)


def _draw_push(axis, asset: Asset, log: PushLog, i: int, predicted: np.ndarray, name: str) -> None:
    from matplotlib.patches import PathPatch

    from p2r_jax.evaluation.figures import object_outline, pose_transform

    outline = object_outline(asset)
    for pose, color, dash, label in (
        (log.poses_before()[i], "#999999", ":", "before"),
        (log.poses_after()[i], "#000000", "-", "after, measured"),
        (predicted, "#D55E00", "--", f"after, {name}"),
    ):
        patch = outline.transformed(pose_transform(pose))
        axis.add_patch(PathPatch(patch, fill=False, ec=color, ls=dash, lw=1.4, label=label))
    path = log.tool_xy[log.rows(log.pushes[i])]
    axis.plot(*path.T, color="#0072B2", lw=1.2, label="tool")
    axis.plot(*path[-1], "o", color="#0072B2", ms=4)
    axis.set_aspect("equal")
    axis.autoscale_view()
    axis.tick_params(labelsize=7)
