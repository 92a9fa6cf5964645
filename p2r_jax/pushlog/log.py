"""A log of pushes in memory: rows of time, object pose and tool, grouped into pushes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

MAX_GAP_S = 0.25  # what lies between two rows further apart than this is not known


class LogError(ValueError):
    """A log that cannot be used; the message names row and column, and the way out."""


@dataclass(frozen=True)
class Exclusion:
    """A push that was left out, and why.

    Attributes:
      push: its number in the file.
      reason: one sentence, with row and column.
    """

    push: int
    reason: str


@dataclass(frozen=True)
class PushLog:
    """What was recorded while a tool pushed an object: SI units, world frame.

    Attributes:
      name: of the log, for tables and plots.
      asset: asset the log is about, if it says so.
      tool_radius_m: radius of the (round) tool, if the log says so.
      push: which push a row belongs to; rows of a push stand together.
      t: s; increases within a push, may start anew with the next one.
      object_pose: (x, y, yaw) of the object frame, m and rad; NaN in rows where the
        object was not observed. Yaw is unwrapped within a push.
      tool_xy: centre of the tool, m.
      force_xy: force of the tool on the object, world axes, N; NaN where not measured.
      excluded: pushes that the reader left out (``on_bad="exclude"``).
    """

    name: str
    asset: str | None
    tool_radius_m: float | None
    push: Int[np.ndarray, " n"]
    t: Float[np.ndarray, " n"]
    object_pose: Float[np.ndarray, "n 3"]
    tool_xy: Float[np.ndarray, "n 2"]
    force_xy: Float[np.ndarray, "n 2"] | None = None
    excluded: tuple[Exclusion, ...] = ()

    @property
    def observed(self) -> Bool[np.ndarray, " n"]:
        """Rows in which the object was observed."""
        return ~np.isnan(self.object_pose).any(axis=1)

    @property
    def pushes(self) -> Int[np.ndarray, " pushes"]:
        """The push numbers, in the order of the rows."""
        numbers, first = np.unique(self.push, return_index=True)
        return numbers[np.argsort(first)]

    def rows(self, push: int) -> slice:
        """The rows of a push.

        Raises:
          KeyError: if there is no such push.
        """
        at = np.flatnonzero(self.push == push)
        if not at.size:
            raise KeyError(f"{self.name} has no push {push}")
        return slice(int(at[0]), int(at[-1]) + 1)

    def take(self, rows) -> "PushLog":
        """The same log with these rows (slice, mask or indices)."""
        force = None if self.force_xy is None else self.force_xy[rows]
        return replace(
            self, push=self.push[rows], t=self.t[rows], object_pose=self.object_pose[rows],
            tool_xy=self.tool_xy[rows], force_xy=force,
        )  # fmt: skip

    def select(self, pushes: Sequence[int]) -> "PushLog":
        """The same log with these pushes, in this order."""
        slices = [self.rows(push) for push in pushes]
        return self.take(np.concatenate([np.r_[s] for s in slices] or [np.zeros(0, int)]))

    def poses_before(self) -> Float[np.ndarray, "pushes 3"]:
        """First observed object pose of every push."""
        return self._ends()[0]

    def poses_after(self) -> Float[np.ndarray, "pushes 3"]:
        """Last observed object pose of every push; yaw continues from the first."""
        return self._ends()[1]

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        seen = self.take(self.observed)
        slices = [seen.rows(push) for push in self.pushes]
        first = np.array([s.start for s in slices], int)
        last = np.array([s.stop - 1 for s in slices], int)
        return seen.object_pose[first], seen.object_pose[last]


def resample(log: PushLog, period_s: float, max_gap_s: float = MAX_GAP_S) -> PushLog:
    """The log at a uniform period, every push from its own first row.

    Linear interpolation of the tool, the object's position, its unwrapped yaw and the
    force. Nothing is invented: where two observations of the object (or of the force)
    lie further apart than ``max_gap_s``, the rows between them hold NaN. A push that
    does not last a whole number of periods ends with one row, less than a period late,
    that repeats the last row, so that the pose after the push is kept.

    Args:
      log: any log.
      period_s: s.
      max_gap_s: s.

    Raises:
      LogError: if the tool moved by over 2 mm while it was not recorded for that long.
    """
    if not period_s > 0:
        raise ValueError(f"period_s is {period_s}; it must be positive")
    parts = [_resample_push(log.take(log.rows(p)), period_s, max_gap_s) for p in log.pushes]
    return _join(log, parts)


def _resample_push(log: PushLog, period_s: float, max_gap_s: float) -> PushLog:
    _check_tool_gaps(log, max_gap_s)
    count = int(np.ceil((log.t[-1] - log.t[0]) / period_s - 1e-6)) + 1
    grid = log.t[0] + period_s * np.arange(count)
    seen = log.observed
    pose = log.object_pose[seen].copy()
    pose[:, 2] = np.unwrap(pose[:, 2])
    force = log.force_xy
    if force is not None:
        felt = ~np.isnan(force).any(axis=1)
        force = _interpolate(grid, log.t[-1], log.t[felt], force[felt], max_gap_s)
    return replace(
        log, push=np.full(count, log.push[0]), t=grid,
        object_pose=_interpolate(grid, log.t[-1], log.t[seen], pose, max_gap_s),
        tool_xy=_interpolate(grid, log.t[-1], log.t, log.tool_xy, np.inf), force_xy=force,
    )  # fmt: skip


def _interpolate(grid, end: float, t, values, max_gap_s: float) -> np.ndarray:
    """Linear interpolation at ``grid``; NaN outside the data and inside long gaps."""
    out = np.full((grid.size, values.shape[1]), np.nan)
    if not t.size:
        return out
    at = np.minimum(grid, end)
    after = np.clip(np.searchsorted(t, at - 1e-9), 0, t.size - 1)
    before = np.clip(np.searchsorted(t, at + 1e-9, side="right") - 1, 0, t.size - 1)
    known = (t[after] - t[before] <= max_gap_s) & (t[0] <= at + 1e-9) & (at <= t[-1] + 1e-9)
    for column in range(values.shape[1]):
        out[known, column] = np.interp(at[known], t, values[:, column])
    return out


def _check_tool_gaps(log: PushLog, max_gap_s: float, still_m: float = 2e-3) -> None:
    moved = np.linalg.norm(np.diff(log.tool_xy, axis=0), axis=1)
    bad = np.flatnonzero((np.diff(log.t) > max_gap_s) & (moved > still_m))
    if bad.size:
        i = int(bad[0])
        raise LogError(
            f"{log.name}, push {log.push[0]}: tool_x, tool_y are not recorded for "
            f"{log.t[i + 1] - log.t[i]:.2f} s at t = {log.t[i]:.2f} s while the tool moved "
            f"{1000 * moved[i]:.0f} mm; split the push there or allow a larger gap"
        )


def _join(log: PushLog, parts: Sequence[PushLog]) -> PushLog:
    """One log from the pushes of another."""
    if not parts:
        return log

    def stack(field: str):
        return np.concatenate([getattr(part, field) for part in parts])

    return replace(
        log, push=stack("push"), t=stack("t"), object_pose=stack("object_pose"),
        tool_xy=stack("tool_xy"), force_xy=None if log.force_xy is None else stack("force_xy"),
    )  # fmt: skip


def split_by_contact(
    log: PushLog, gap: Float[np.ndarray, " n"], touch_m: float = 5e-3,
    apart_s: float = 0.5, margin_s: float = 0.25,
) -> PushLog:  # fmt: skip
    """A continuous log as separate pushes: one per stretch in which the tool is near.

    Args:
      log: usually one that was read without a push column.
      gap: distance between tool and object in every row (``tool_gap``), m; NaN where
        the object was not observed.
      touch_m: nearer than this counts as touching.
      apart_s: the tool has to stay away for this long to begin another push.
      margin_s: kept before and after each touch.

    Returns:
      The rows within a margin of a touch, renumbered 0, 1, ... Empty if nothing touches.
    """
    push, kept, number = np.zeros_like(log.push), np.zeros(log.t.size, bool), 0
    for old in log.pushes:
        rows = log.rows(old)
        t = log.t[rows]
        times = t[gap[rows] < touch_m]
        for stretch in np.split(times, np.flatnonzero(np.diff(times) > apart_s) + 1):
            if not stretch.size:
                continue
            near = (t >= stretch[0] - margin_s) & (t <= stretch[-1] + margin_s)
            kept[rows] |= near
            push[rows] = np.where(near, number, push[rows])
            number += 1
    return replace(log, push=push).take(kept)


def split_windows(log: PushLog, window_s: float) -> PushLog:
    """Every push cut into windows of at most ``window_s``, renumbered 0, 1, ...

    For long recordings: each window starts from an observed pose of its own. Windows
    with fewer than two observations of the object are dropped.
    """
    push, kept, number = np.zeros_like(log.push), np.zeros(log.t.size, bool), 0
    for old in log.pushes:
        rows = log.rows(old)
        window = ((log.t[rows] - log.t[rows][0]) / window_s).astype(int)
        for index in np.unique(window):
            own = np.arange(rows.start, rows.stop)[window == index]
            if log.observed[own].sum() >= 2:
                push[own], kept[own] = number, True
                number += 1
    return replace(log, push=push).take(kept)
