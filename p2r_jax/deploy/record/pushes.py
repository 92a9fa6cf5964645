"""A run as the other halves of this project read recordings: a push log, and windows.

``push_log`` gives what ``p2r identify`` and ``p2r replay`` take. The tip was measured once
per control period and is written as moving in a straight line in between, which is what
the robot was told; the object stands in rows of its own at the times the tracker saw it.

``windows_of_run`` gives what the estimator was asked during the run, row by row: the
measurements and the actions that were really sent, without interpolation.

A step that safety held is in neither: the loop put its measurement aside, and so do they.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from p2r_jax.deploy.record.codec import RunError
from p2r_jax.deploy.record.mcap import Run, log_file, read_run
from p2r_jax.deploy.safety import CLIPS
from p2r_jax.estimator.log_windows import TOUCH_M, LogWindows
from p2r_jax.pushlog import PushLog, split_by_contact, tool_gap, write_log
from p2r_jax.pushlog.log import MAX_GAP_S
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.window import Window
from p2r_jax.tasks import load_task
from p2r_jax.types import Measurement, PlanarPose

LOST_PERIODS = 1.5  # steps further apart than this many periods: nobody knows what was between
FILL_S = 0.8 * MAX_GAP_S  # the tip's straight way is written at least this densely
SAME_TIME_S = 1e-6
PUSHES_NAME = "pushes.npz"


def push_log(run: Run, asset: Asset | None = None) -> PushLog:
    """The stretches of a run in which the tip is near the object, as separate pushes.

    Args:
      run: with at least two steps.
      asset: by default the one that the header names, or the task's.

    Raises:
      RunError: if the object was not seen, or the tip never came near it.
    """
    asset, radius = asset or asset_of(run), tool_radius_of(run)
    t, pose, tip, stretch = _rows(run)
    log = PushLog(run.header.task, asset.name, radius, stretch, t, pose, tip)
    if log.observed.sum() < 2:
        raise RunError(f"the run of {run.header.task} holds {log.observed.sum()} poses of the "
                       "object; a push needs one before and one after")  # fmt: skip
    gap = tool_gap(asset, log.object_pose, log.tool_xy, radius)
    period = run.header.control_period_s
    pushes = split_by_contact(
        log, gap, TOUCH_M, apart_s=max(0.5, LOST_PERIODS * period), margin_s=max(0.25, period)
    )
    kept = [p for p in pushes.pushes if pushes.observed[pushes.rows(p)].sum() >= 2]
    if not kept:
        raise RunError(f"the tip never touched {asset.name}; it stayed "
                       f"{1000 * np.nanmin(gap):.0f} mm away")  # fmt: skip
    return pushes.select(kept)


def write_pushes(path: Path, out: Path | None = None) -> Path:
    """Write a run's push log, by default ``pushes.npz`` beside it; returns where.

    Args:
      path: the run's folder or ``.mcap``.
      out: ``.npz``, ``.parquet`` or ``.csv``.
    """
    out = out or log_file(path).parent / PUSHES_NAME
    write_log(out, push_log(read_run(path)))
    return out


def windows_of_run(run: Run, history: int, asset: Asset | None = None) -> LogWindows:
    """What the estimator was asked at every step; see ``log_windows.windows_of``.

    The loop's memory passes over a step that was held, and is emptied by a "jump". Where
    steps are missing, or one that was not held has no pose, the window starts anew too.

    Args:
      run: any run.
      history: length of a window, H.
      asset: for the contact; by default the one that the header names, or the task's.
    """
    asset, held = asset or asset_of(run), held_steps(run)
    forgotten = np.cumsum(_jumps(run))[~held]  # how often, before a step
    stretch = np.cumsum(_starts_late(run))[~held] + forgotten
    names = ("object_pose", "ee_xy", "stamp_s", "sent_action")
    pose, tip, t, sent = (run.column(name)[~held] for name in names)
    seen = np.isfinite(pose).all(1) & np.isfinite(tip).all(1)
    age = _ages(seen, np.diff(stretch, prepend=stretch[:1]) > 0, history)
    before = np.roll(sent, 1, axis=0)
    before[np.diff(forgotten, prepend=-1) > 0] = 0.0
    rows = np.hstack([_features(run, pose, tip, before), before])  # (n, F + 2)
    back = np.arange(history)[::-1]
    stacked = rows[np.maximum(np.arange(len(t))[seen, None] - back, 0)]  # (n, H, F + 2)
    stacked[back >= age[seen, None]] = 0.0
    near = tool_gap(asset, pose, tip, tool_radius_of(run)) < TOUCH_M
    return LogWindows(
        push=np.zeros(int(seen.sum()), int), t=t[seen], object_pose=pose[seen],
        window=Window(jnp.asarray(stacked[..., :-2]), jnp.asarray(stacked[..., -2:])),
        age=age[seen], contact=near[seen], skipped=len(run.steps) - int(seen.sum()),
    )  # fmt: skip


def held_steps(run: Run) -> Bool[np.ndarray, " n"]:
    """The steps whose action was put aside: everything that safety did but shorten it."""
    return np.array([not set(CLIPS).issuperset(step.safety) for step in run.steps], bool)


def asset_of(run: Run) -> Asset:
    """The object that was pushed."""
    name = run.header.asset
    return load_asset(name) if name else load_task(run.header.task).object


def tool_radius_of(run: Run) -> float:
    """Radius of the pusher, m."""
    radius = run.header.tool_radius_m
    return load_task(run.header.task).pusher_radius_m if np.isnan(radius) else radius


def _rows(run: Run) -> tuple[np.ndarray, ...]:
    """Times, object poses (NaN where there is none), tips and numbers of the stretch."""
    measured, tip = run.column("ee_stamp_s"), run.column("ee_xy")
    stamp = np.where(np.isfinite(measured), measured, run.column("stamp_s"))
    known = np.isfinite(tip).all(1) & (np.diff(stamp, prepend=-np.inf) > 0)
    stamp, tip = stamp[known], tip[known]
    seen_t, seen = _observations(run)
    inside = (seen_t >= stamp[0]) & (seen_t <= stamp[-1])
    seen_t, seen = seen_t[inside], seen[inside]
    t = _union(np.concatenate([stamp, _between(stamp, run), seen_t]))
    pose = np.full((t.size, 3), np.nan)
    pose[np.searchsorted(t, seen_t - SAME_TIME_S)] = seen
    way = np.stack([np.interp(t, stamp, column) for column in tip.T], -1)
    lost = stamp[1:][np.diff(stamp) > LOST_PERIODS * run.header.control_period_s]
    moved = run.column("pose_stamp_s")[_jumps(run)]  # by someone else than the tip
    stretch = np.searchsorted(np.sort(np.concatenate([lost, moved])), t + SAME_TIME_S)
    known = _covered(t, stamp, run)
    return t[known], pose[known], way[known], stretch[known]


def _observations(run: Run) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Every pose the tracker gave and safety believed, once, when it was seen, in order."""
    t, pose = run.column("pose_stamp_s"), run.column("object_pose")
    known = np.isfinite(pose).all(1) & np.isfinite(t) & ~held_steps(run)
    t, first = np.unique(t[known], return_index=True)
    return t, pose[known][first]


def _jumps(run: Run) -> Bool[np.ndarray, " n"]:
    return np.array(["jump" in step.safety for step in run.steps], bool)


def _starts_late(run: Run) -> Bool[np.ndarray, " n"]:
    """Whether steps are missing before a step."""
    t = run.column("stamp_s")
    return np.diff(t, prepend=t[:1]) > LOST_PERIODS * run.header.control_period_s


def _between(stamp: Float[np.ndarray, " n"], run: Run) -> Float[np.ndarray, " m"]:
    """Times between the steps, ``FILL_S`` apart at most; none where steps are missing."""
    gaps = np.diff(stamp)
    gaps = np.where(gaps > LOST_PERIODS * run.header.control_period_s, 0.0, gaps)
    parts = np.ceil(gaps / FILL_S - 1e-9).astype(int)
    return np.concatenate([
        stamp[i] + gaps[i] * np.arange(1, count) / count for i, count in enumerate(parts)
    ] or [np.zeros(0)])  # fmt: skip


def _covered(t: np.ndarray, stamp: np.ndarray, run: Run) -> Bool[np.ndarray, " n"]:
    """Whether the tip's way at a time is known: not in a hole between two steps."""
    after = np.clip(np.searchsorted(stamp, t - SAME_TIME_S), 1, stamp.size - 1)
    hole = stamp[after] - stamp[after - 1] > LOST_PERIODS * run.header.control_period_s
    inner = (t > stamp[after - 1] + SAME_TIME_S) & (t < stamp[after] - SAME_TIME_S)
    return ~(hole & inner)


def _union(t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    t = np.sort(t)
    return t[np.diff(t, prepend=-np.inf) > SAME_TIME_S]


def _ages(
    seen: Bool[np.ndarray, " n"], fresh: Bool[np.ndarray, " n"], history: int
) -> Int[np.ndarray, " n"]:
    """How many rows a window has at every step."""
    steps = np.arange(seen.size)
    starts = np.where(~seen, steps + 1, np.where(fresh, steps, 0))
    return np.minimum(steps - np.maximum.accumulate(starts) + 1, history)


def _features(run: Run, pose, tip, before) -> Float[np.ndarray, "n features"]:
    goal = np.asarray(run.header.goal, np.float32)
    measured = Measurement(
        PlanarPose(jnp.asarray(pose[:, :2], jnp.float32), jnp.asarray(pose[:, 2], jnp.float32)),
        jnp.asarray(tip, jnp.float32),
    )
    target = PlanarPose(jnp.asarray(goal[:2]), jnp.asarray(goal[2]))
    return np.asarray(policy_features(measured, target, jnp.asarray(before, jnp.float32)))
