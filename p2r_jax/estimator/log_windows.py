"""A recorded push as the estimator saw pushes in training: windows at the control period.

``windows_of`` is the one way from a log to the estimator:

1. The log is brought to the task's control period by ``pushlog.resample``: linear
   interpolation at t0, t0 + period, ... of the tool and of the object's pose, each push
   from its own first row. A last step shorter than a period is dropped.
2. The action before a row is what the tool did since the row before it, over the action
   scale; logs hold no commands. It is not clipped.
3. A row at which the object was not observed (nearest observations over ``max_gap_s``
   apart) gives no estimate, and the window starts anew after it, as after a reset: in
   training a window never had a hole.

Positions are taken relative to where the object starts and the goal lies there, without
rotation. The ensemble reads motions in the object's own axes, so where the goal lies
changes nothing but rounding.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from p2r_jax.pushlog import PushLog, resample, tool_gap
from p2r_jax.pushlog.log import MAX_GAP_S
from p2r_jax.sim.observation import FEATURES, policy_features
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task
from p2r_jax.types import Measurement, PlanarPose

TOUCH_M = 4e-3  # nearer than this counts as touching: calibration of tool and markers
RADIUS_TOLERANCE_M = 1e-3


@dataclass(frozen=True)
class LogWindows:
    """What the estimator is asked, one row per control step at which the object was seen.

    Attributes:
      push: which push of the log.
      t: s, of the log.
      object_pose: (x, y, yaw) then, world frame, m and rad.
      window: o[t-H+1..t] and the actions before them, zeros where the window is younger.
      age: rows in the window, 1 to H.
      contact: the tool was near the object at some row of the log since the step before.
      skipped: control steps at which the object was not observed.
    """

    push: Int[np.ndarray, " n"]
    t: Float[np.ndarray, " n"]
    object_pose: Float[np.ndarray, "n 3"]
    window: Window
    age: Int[np.ndarray, " n"]
    contact: Bool[np.ndarray, " n"]
    skipped: int


def windows_of(
    log: PushLog, task: Task, max_gap_s: float = MAX_GAP_S, touch_m: float = TOUCH_M
) -> LogWindows:
    """Windows of every push of a log, at the task's control period.

    Args:
      log: about the task's object, with the object's pose throughout.
      task: its control period, action scale, history and tool count.
      max_gap_s: the object is not interpolated over longer gaps.
      touch_m: distance between tool and object that counts as contact.

    Raises:
      ValueError: for a log of another object or of a tool of another radius.
      LogError: if the tool was not recorded while it moved.
    """
    _check_same_set_up(log, task)
    period = task.control_period_s
    regular = resample(log, period, max_gap_s)
    whole = np.concatenate([
        regular.t[regular.rows(p)] <= log.t[log.rows(p)][-1] + 1e-6 for p in regular.pushes
    ])  # fmt: skip
    regular = regular.take(whole)
    parts = [_windows_of_push(regular.take(regular.rows(p)), task) for p in regular.pushes]
    features, actions, age = (np.concatenate(x) for x in zip(*parts, strict=True))
    seen = regular.observed
    return LogWindows(
        push=regular.push[seen], t=regular.t[seen], object_pose=regular.object_pose[seen],
        window=Window(jnp.asarray(features), jnp.asarray(actions)), age=age,
        contact=_contact(log, regular, task, touch_m)[seen], skipped=int((~seen).sum()),
    )  # fmt: skip


def _check_same_set_up(log: PushLog, task: Task) -> None:
    if log.asset not in (None, task.object.name):
        raise ValueError(
            f"{log.name} is about {log.asset!r}, task {task.name!r} pushes {task.object.name!r}"
        )
    radius = log.tool_radius_m
    if radius is not None and abs(radius - task.pusher_radius_m) > RADIUS_TOLERANCE_M:
        raise ValueError(
            f"{log.name}: the tool has a radius of {1000 * radius:g} mm, task {task.name!r} was "
            f"trained with {1000 * task.pusher_radius_m:g} mm; train one with the tool's radius "
            "(--task.pusher-radius-m)"
        )


def _windows_of_push(log: PushLog, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, H, F), actions (n, H, 2) and ages (n,) of the rows that were observed."""
    rows = np.hstack(_rows(log, task))  # (n, F + 2)
    steps, seen = np.arange(len(rows)), log.observed
    last_gap = np.maximum.accumulate(np.where(seen, -1, steps))
    age = np.minimum(steps - last_gap, task.history)[seen]
    back = np.arange(task.history)[::-1]
    stacked = rows[np.maximum(steps[seen, None] - back, 0)]  # (n, H, F + 2)
    stacked[back >= age[:, None]] = 0.0
    return stacked[..., : len(FEATURES)], stacked[..., len(FEATURES) :], age


def _rows(log: PushLog, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F) and actions (n, 2) of every control step; zero action at the first."""
    sent = np.diff(log.tool_xy, axis=0, prepend=log.tool_xy[:1]) / task.action_scale_m
    origin = log.object_pose[log.observed][:1, :2].sum(0)  # zero if it was never seen
    pose = PlanarPose(
        jnp.asarray(log.object_pose[:, :2] - origin, jnp.float32),
        jnp.asarray(log.object_pose[:, 2], jnp.float32),
    )
    measured = Measurement(pose, jnp.asarray(log.tool_xy - origin, jnp.float32))
    goal = PlanarPose(jnp.zeros(2), jnp.zeros(()))
    features = policy_features(measured, goal, jnp.asarray(sent, jnp.float32))
    return np.asarray(features), sent.astype(np.float32)


def _contact(log: PushLog, regular: PushLog, task: Task, touch_m: float) -> np.ndarray:
    """For every control step, whether the tool was near at any row since the one before."""
    radius = task.pusher_radius_m if log.tool_radius_m is None else log.tool_radius_m
    near = tool_gap(task.object, log.object_pose, log.tool_xy, radius) < touch_m  # NaN: False
    touched = np.zeros(regular.t.size, bool)
    for push in regular.pushes:
        rows, steps = log.rows(push), regular.rows(push)
        first = np.searchsorted(regular.t[steps], log.t[rows] - 1e-6)
        inside = near[rows] & (first < steps.stop - steps.start)
        touched[steps.start + first[inside]] = True
    return touched
