"""Pushes as system identification sees them: short, quasi-static, from one pose to the next.

A log is cut into segments between two observed poses of the object. A segment keeps the
tool's way (for the dynamics) and, with force, the mean wrench (for the limit surface).
"""

from dataclasses import dataclass
from types import ModuleType

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from p2r_jax.pushlog import LogError, PushLog, tool_gap
from p2r_jax.sim.asset import Asset


@dataclass(frozen=True)
class SegmentConfig:
    """How a log becomes segments.

    Attributes:
      path_points: points of the tool's way that are kept, evenly along its length.
      travel_m: where the object is observed throughout, a segment ends after this way of
        the tool in contact.
      settle: share of the way in contact whose forces are left out (static friction, slack).
      touch_m: a tool within this of the outline touches.
      least_motion_m: segments in which the object moved less say nothing and are left out.
    """

    path_points: int = 13
    travel_m: float = 0.015
    settle: float = 0.3
    touch_m: float = 2e-3
    least_motion_m: float = 1e-3


@struct.dataclass
class Segments:
    """N segments of pushing; SI units, radians.

    Attributes:
      start, end: observed poses of the object (x, y, yaw), world.
      path: centre of the tool from first touch to last, world, m.
      wrench: mean (f_x, f_y, moment about the object's origin), object axes, N and N m;
        NaN without force.
      used: rows that count; the others are padding.
    """

    start: Float[Array, "n 3"]
    end: Float[Array, "n 3"]
    path: Float[Array, "n points 2"]
    wrench: Float[Array, "n 3"]
    used: Bool[Array, " n"]

    @property
    def has_force(self) -> bool:
        """Whether every segment that counts has a wrench."""
        used = np.asarray(self.used)
        return bool(used.any() and np.isfinite(np.asarray(self.wrench)[used]).all())

    def take(self, rows) -> "Segments":
        """The same with these rows."""
        return jax.tree.map(lambda x: x[rows], self)


def segments_of(log: PushLog, asset: Asset, config: SegmentConfig | None = None) -> Segments:
    """Cut a checked log into segments.

    Args:
      log: as ``read_log`` returns it.
      asset: outline of the object.
      config: how to cut.

    Raises:
      LogError: if no segment is left, saying why.
    """
    config = config or SegmentConfig()
    found = []
    for push in log.pushes:
        one = log.take(log.rows(push))
        for first, last in _stretches(one, asset, config):
            segment = _segment(one, first, last, asset, config)
            if segment is not None:
                found.append(segment)
    if not found:
        raise LogError(
            f"{log.name}: in none of {len(log.pushes)} pushes the object moved by "
            f"{1000 * config.least_motion_m:g} mm while the tool touched it"
        )
    columns = zip(*found, strict=True)
    start, end, path, wrench = (np.stack(c).astype(np.float32) for c in columns)
    return Segments(start, end, path, wrench, np.ones(len(found), bool))


def body_twist(start: Float[np.ndarray, "n 3"], end: Float[np.ndarray, "n 3"], xp: ModuleType = np):
    """Constant twist, object axes, that moves ``start`` to ``end`` in unit time: Float[n, 3].

    The logarithm of the relative planar motion: (x, y) of the object's origin and the
    turn, m and rad. ``xp`` is ``numpy`` or ``jax.numpy``.
    """
    turn = end[:, 2] - start[:, 2]
    half = turn / 2
    stretch = 1 / xp.sinc(half / np.pi)
    dx, dy = (end[:, :2] - start[:, :2]).T
    c, s = xp.cos(start[:, 2] + half), xp.sin(start[:, 2] + half)
    return xp.stack([stretch * (c * dx + s * dy), stretch * (c * dy - s * dx), turn], -1)


def _stretches(log: PushLog, asset: Asset, config: SegmentConfig):
    """Pairs of observed rows that bound a segment."""
    seen = np.flatnonzero(log.observed)
    if seen.size < 2:
        return
    if seen.size == 2:
        yield seen[0], seen[1]
        return
    gap = tool_gap(asset, log.object_pose[seen], log.tool_xy[seen], log.tool_radius_m or 0.0)
    touching = gap < config.touch_m
    way = np.concatenate([[0.0], np.cumsum(_steps(log.tool_xy[seen]))])
    first = None
    for i in range(seen.size):
        if first is None and touching[i]:
            first = i
        if first is None:
            continue
        if way[i] - way[first] >= config.travel_m and touching[i]:
            yield seen[first], seen[i]
            first = i
        elif not touching[i]:
            first = None


def _segment(log: PushLog, first: int, last: int, asset: Asset, config: SegmentConfig):
    """(start, end, path, wrench) of the rows ``first .. last``; None if nothing moved."""
    rows = slice(first, last + 1)
    start, end = log.object_pose[first], log.object_pose[last]
    radius = log.tool_radius_m or 0.0
    lever = float(np.ptp(np.stack(asset.footprint_bounds), axis=0).max()) / 3
    moved = np.hypot(np.linalg.norm(end[:2] - start[:2]), lever * (end[2] - start[2]))
    if moved < config.least_motion_m:
        return None
    tool = log.tool_xy[rows]
    touch, leave = _contact_rows(log, rows, start, end, asset, radius)
    tool = tool[touch : leave + 1]
    share = np.concatenate([[0.0], np.cumsum(_steps(tool))])
    if share[-1] < config.least_motion_m:
        return None
    share = share / share[-1]
    grid = np.linspace(0, 1, config.path_points)
    path = np.stack([np.interp(grid, share, c) for c in tool.T], -1)
    path = path + _to_touch(asset, end, path[-1], radius)
    force = None if log.force_xy is None else log.force_xy[rows][touch : leave + 1]
    return start, end, path, _mean_wrench(force, tool, share, start, end, config.settle)


def _contact_rows(log: PushLog, rows: slice, start, end, asset: Asset, radius: float):
    """First and last row of contact, counted from ``rows.start``.

    The tool touches from where it meets the outline at its first pose; with force, from
    where half of the usual force is felt. It leaves where it is last within a millimetre
    of its deepest place in the last pose's outline.
    """
    tool = log.tool_xy[rows]
    gap_end = tool_gap(asset, np.broadcast_to(end, (len(tool), 3)), tool, radius)
    leave = int(np.flatnonzero(gap_end <= gap_end.min() + 1e-3)[-1])
    gap_start = tool_gap(asset, np.broadcast_to(start, (len(tool), 3)), tool, radius)
    touched = gap_start[: leave + 1] <= 0
    force = None if log.force_xy is None else log.force_xy[rows][: leave + 1]
    if force is not None and np.isfinite(force).all():
        size = np.linalg.norm(force, axis=1)
        touched = size > 0.5 * np.median(size[size.size // 2 :])
    touch = int(touched.argmax()) if touched.any() else 0
    return min(touch, leave - 1) if leave > 0 else 0, leave


def _to_touch(asset: Asset, pose, tool_xy, radius: float) -> np.ndarray:
    """Shift of the tool, world, m, after which it just touches the object at ``pose``.

    Poses and tool come from two instruments and are tenths of a millimetre apart; that
    they touch at the end of a push is known better.
    """
    step = 1e-5
    gap = tool_gap(asset, pose[None], tool_xy[None], radius)[0]
    slope = [
        tool_gap(asset, pose[None], tool_xy[None] + step * axis, radius)[0] - gap
        for axis in np.eye(2)
    ]
    return -gap * np.array(slope) / step


def _mean_wrench(force, tool, share, start, end, settle: float) -> np.ndarray:
    """Mean wrench over the way after ``settle``, object axes, about the object's origin."""
    if force is None:
        return np.full(3, np.nan)
    pose = start + share[:, None] * (end - start)
    c, s = np.cos(pose[:, 2]), np.sin(pose[:, 2])

    def to_axes(v):
        return np.stack([c * v[:, 0] + s * v[:, 1], c * v[:, 1] - s * v[:, 0]], -1)

    arm, f = to_axes(tool - pose[:, :2]), to_axes(force)
    rows = np.column_stack([f, arm[:, 0] * f[:, 1] - arm[:, 1] * f[:, 0]])
    return rows[share >= settle].mean(0)


def _steps(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(points, axis=0), axis=1)
