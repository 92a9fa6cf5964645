"""What can be wrong with a log of pushes, told with row, column and a way out.

Rows count from 0 and leave headers out. Checks that need the object's outline run
only where an asset is given.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.pushlog.log import PushLog
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.types import wrap_angle

POSE_COLUMNS = ("object_x", "object_y", "object_yaw")
TOOL_COLUMNS = ("tool_x", "tool_y")


@dataclass(frozen=True)
class Limits:
    """What counts as impossible.

    Attributes:
      speed_mps: of the object or the tool between two rows.
      yaw_rate_rps: of the object between two rows.
      jump_m, jump_rad: steps below these are never a jump (noise at high rates).
      span_m: a log whose positions spread further is not in metres.
      touch_m: the tool has to come this near to the object at least once.
      inside_m: the tool may appear this deep in the object (calibration, rounding).
    """

    speed_mps: float = 2.0
    yaw_rate_rps: float = 20.0
    jump_m: float = 0.01
    jump_rad: float = 0.2
    span_m: float = 20.0
    touch_m: float = 5e-3
    inside_m: float = 5e-3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
      push: the push it spoils; None when it concerns the whole log.
      message: one sentence that names row and column.
    """

    push: int | None
    message: str


def check_log(
    log: PushLog, asset: Asset | None = None, limits: Limits | None = None
) -> list[Problem]:
    """What is wrong with a log: with the whole of it, or else the first thing per push.

    Args:
      log: as read.
      asset: with it, also whether tool and object meet.
      limits: what counts as impossible.
    """
    limits = limits or Limits()
    found = list(_whole_log(log, asset, limits))
    if found:
        return found
    for push in log.pushes:
        rows = log.rows(push)
        one = next(_one_push(log.take(rows), rows.start, asset, limits), None)
        if one:
            found.append(Problem(int(push), one))
    return found


def tool_gap(
    asset: Asset, pose: Float[np.ndarray, "n 3"], tool_xy: Float[np.ndarray, "n 2"], radius_m: float
) -> Float[np.ndarray, " n"]:
    """Distance between the tool's surface and the object, m; negative inside, NaN if unknown."""
    cos, sin = np.cos(pose[:, 2]), np.sin(pose[:, 2])
    dx, dy = (tool_xy - pose[:, :2]).T
    point = np.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1)
    return signed_distance(asset.parts, point, np) - radius_m


def _whole_log(log: PushLog, asset: Asset | None, limits: Limits) -> Iterator[Problem]:
    if not log.t.size:
        yield Problem(None, "it has no rows")
        return
    changes = np.flatnonzero(np.diff(log.push)) + 1
    again = [i for i in changes if log.push[i] in log.push[:i]]
    if again:
        i = again[0]
        yield Problem(
            None, f"row {i}, column push: push {log.push[i]} comes back after another one; "
            "rows of a push must stand together",
        )  # fmt: skip
    seen = log.observed
    if not seen.any():
        yield Problem(None, "columns object_x, object_y, object_yaw hold no complete row")
        return
    yield from _wrong_units(log, asset, limits)


def _wrong_units(log: PushLog, asset: Asset | None, limits: Limits) -> Iterator[Problem]:
    seen = np.flatnonzero(log.observed)
    places = {"object_x": log.object_pose[:, 0], "object_y": log.object_pose[:, 1]}
    places |= {"tool_x": log.tool_xy[:, 0], "tool_y": log.tool_xy[:, 1]}
    for name, values in places.items():
        known = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(known).all():
            yield Problem(None, f"column {name} holds no number")
            return
        row, span = int(np.nanargmax(np.abs(known))), float(np.nanmax(known) - np.nanmin(known))
        if span > limits.span_m:
            yield Problem(
                None, f"row {row}, column {name}: {values[row]:g}, and the column spans "
                f"{span:.0f} m; are these millimetres? The format is in metres",
            )  # fmt: skip
            return
    apart = np.linalg.norm(log.tool_xy - log.object_pose[:, :2], axis=1)
    near = np.nanmin(apart, initial=np.inf)
    if np.isfinite(near) and near > limits.span_m / 2:
        yield Problem(
            None, f"row {np.nanargmin(apart)}, columns tool_x, tool_y: the tool never comes nearer "
            f"than {near:.0f} m to the object; are these millimetres, or two frames?",
        )  # fmt: skip
        return
    yaw = log.object_pose[seen, 2]
    row = int(seen[0]) if abs(yaw[0]) > 2 * np.pi + 0.01 else int(seen[np.abs(yaw).argmax()])
    if abs(yaw[0]) > 2 * np.pi + 0.01 or np.abs(yaw).max() > 8 * np.pi:
        yield Problem(
            None, f"row {row}, column object_yaw: {log.object_pose[row, 2]:g} rad; "
            "is this in degrees? The format is in radians",
        )  # fmt: skip


def _one_push(log: PushLog, first: int, asset: Asset | None, limits: Limits) -> Iterator[str]:
    yield from _bad_clock(log, first)
    yield from _bad_numbers(log, first)
    if log.observed.sum() < 2:
        yield (
            f"rows {first} to {first + log.t.size - 1}, columns object_x, object_y, object_yaw: "
            f"{log.observed.sum()} complete; a push needs a pose before and a pose after"
        )
        return
    yield from _jumps(log, first, limits)
    if asset is not None:
        yield from _contact(log, first, asset, limits)


def _bad_clock(log: PushLog, first: int) -> Iterator[str]:
    if not np.isfinite(log.t).all():
        yield f"row {first + np.flatnonzero(~np.isfinite(log.t))[0]}, column t: not a number"
        return
    backwards = np.flatnonzero(np.diff(log.t) <= 0)
    if backwards.size:
        i = int(backwards[0])
        how = "repeats" if log.t[i + 1] == log.t[i] else "runs backwards"
        yield (
            f"row {first + i + 1}, column t: the clock {how} ({log.t[i]:.6f} s, then "
            f"{log.t[i + 1]:.6f} s); sort the rows, or number the pushes in a column push"
        )


def _bad_numbers(log: PushLog, first: int) -> Iterator[str]:
    for names, bad in (
        (TOOL_COLUMNS, ~np.isfinite(log.tool_xy)),
        (POSE_COLUMNS, np.isinf(log.object_pose)),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            yield f"row {first + row}, column {names[column]}: not a number"


def _jumps(log: PushLog, first: int, limits: Limits) -> Iterator[str]:
    for columns, values, rows in (
        (TOOL_COLUMNS, log.tool_xy, np.arange(log.t.size)),
        (POSE_COLUMNS[:2], log.object_pose[:, :2], np.flatnonzero(log.observed)),
    ):
        step, dt = np.diff(values[rows], axis=0), np.diff(log.t[rows])
        length = np.linalg.norm(step, axis=1)
        bad = np.flatnonzero((length > limits.jump_m) & (length > limits.speed_mps * dt))
        if bad.size:
            i = int(bad[0])
            column = columns[int(np.abs(step[i]).argmax())]
            yield (
                f"row {first + rows[i + 1]}, column {column}: a jump of {1000 * length[i]:.0f} mm "
                f"in {1000 * dt[i]:.0f} ms (over {limits.speed_mps:g} m/s)"
            )
    rows = np.flatnonzero(log.observed)
    step = np.diff(log.object_pose[rows, 2])
    turn = np.abs(wrap_angle(step))
    dt = np.diff(log.t[rows])
    bad = np.flatnonzero((turn > limits.jump_rad) & (turn > limits.yaw_rate_rps * dt))
    if bad.size:
        i = int(bad[0])
        yield (
            f"row {first + rows[i + 1]}, column object_yaw: a jump of "
            f"{np.degrees(turn[i]):.0f} deg in {1000 * dt[i]:.0f} ms "
            f"(over {limits.yaw_rate_rps:g} rad/s)"
        )


def _contact(log: PushLog, first: int, asset: Asset, limits: Limits) -> Iterator[str]:
    """Does the tool meet the object, from outside? Uses observed poses only.

    A tool of unknown radius is taken as a point that may stay 5 cm away.
    """
    radius = log.tool_radius_m or 0.0
    seen = np.flatnonzero(log.observed)
    gap = tool_gap(asset, log.object_pose[seen], log.tool_xy[seen], radius)
    if gap.min() < -limits.inside_m:
        i = int(np.flatnonzero(gap < -limits.inside_m)[0])
        when = "at the start" if i == 0 else f"at t = {log.t[seen[i]]:.2f} s"
        yield (
            f"row {first + seen[i]}, columns tool_x, tool_y: the tool is {-1000 * gap[i]:.0f} mm "
            f"inside {asset.name} {when}; are object and tool in one frame, and is the object's "
            "origin the centre of its bounding box?"
        )
        return
    # between two observations the object is somewhere: try the one before and the one after
    before = seen[np.clip(np.searchsorted(seen, np.arange(log.t.size), "right") - 1, 0, None)]
    after = seen[np.clip(np.searchsorted(seen, np.arange(log.t.size)), None, seen.size - 1)]
    nearest = min(
        tool_gap(asset, log.object_pose[rows], log.tool_xy, radius).min()
        for rows in (before, after)
    )
    if nearest > limits.touch_m + (0.05 if log.tool_radius_m is None else 0.0):
        yield (
            f"rows {first} to {first + log.t.size - 1}, columns tool_x, tool_y: the tool never "
            f"touches {asset.name}; it stays {1000 * nearest:.0f} mm away"
        )
