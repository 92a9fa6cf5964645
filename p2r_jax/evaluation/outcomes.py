"""From what happened to what a table states; success is judged at the end of the trial.

A task may ask for more: criteria that have held for ``hold_s`` until then.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.evaluation.statistics import Interval, bootstrap, paired_difference, wilson
from p2r_jax.evaluation.trials import TrialRecord
from p2r_jax.tasks import Task
from p2r_jax.types import wrap_angle

CRITERIA = ("hardware", "strict", "strict_pose")


@dataclass(frozen=True)
class Outcomes:
    """Every criterion at every control tick: N trials, ticks 0..T.

    Attributes:
      position_error: distance of the object frame from the goal, m.
      yaw_error: absolute, rad.
      hardware: the paper's hardware criterion, 3 cm and 20 deg.
      strict_pose: 3 cm and 10 deg.
      strict: that, and the object at rest.
      outside: the object has left the workspace at some tick so far.
    """

    position_error: Float[np.ndarray, "n t+1"]
    yaw_error: Float[np.ndarray, "n t+1"]
    hardware: Bool[np.ndarray, "n t+1"]
    strict_pose: Bool[np.ndarray, "n t+1"]
    strict: Bool[np.ndarray, "n t+1"]
    outside: Bool[np.ndarray, "n t+1"]


def judge(record: TrialRecord, task: Task) -> Outcomes:
    """Apply the task's criteria to the true states."""
    layout, limits = task.layout, task.success
    xy, yaw = record.object_pose[..., :2], record.object_pose[..., 2]
    position = np.linalg.norm(xy - np.array(layout.goal_xy), axis=-1)
    turned = wrap_angle(yaw - layout.goal_yaw_rad)
    near, error = position < limits.position_m, np.abs(turned)
    pose = near & (error < limits.yaw_rad)
    left = np.any((xy < np.array(layout.lower)) | (xy > np.array(layout.upper)), axis=-1)
    return Outcomes(
        position_error=position,
        yaw_error=error,
        hardware=near & (error < limits.hardware_yaw_rad),
        strict_pose=pose,
        strict=pose & (record.speed < limits.rest_speed),
        outside=np.logical_or.accumulate(left, axis=1),
    )


def held(outcomes: Outcomes, criterion: str, task: Task) -> Bool[np.ndarray, "n t+1"]:
    """Whether a criterion has held for the task's ``hold_s`` until each tick."""
    now = getattr(outcomes, criterion)
    ticks = round(task.success.hold_s / task.control_period_s)
    since = np.cumsum(now, axis=1)
    before = np.pad(since, ((0, 0), (ticks + 1, 0)))[:, : since.shape[1]]
    return since - before > ticks


def first_success_s(outcomes: Outcomes, task: Task) -> Float[np.ndarray, " m"]:
    """Time of the first hardware success, s, of the trials that had one."""
    success = held(outcomes, "hardware", task)
    return success[success.any(1)].argmax(1) * task.control_period_s


def theta_rmse(record: TrialRecord, belief: str) -> float | None:
    """RMSE over trials, actions and components, m; None if the belief is not about theta.

    Args:
      record: of a method.
      belief: field of the record: ``theta_used``, ``estimate_mean``, ``fused_mean``, ...
    """
    believed = getattr(record, belief)
    if believed.shape[-1] != record.theta_true.shape[-1]:
        return None
    error = believed - record.theta_true[:, None]
    return float(np.sqrt(np.mean(error**2)))


def summarize(record: TrialRecord, task: Task) -> dict:
    """The numbers of one method in one condition, SI units, ready for JSON."""
    outcomes, n = judge(record, task), record.object_pose.shape[0]
    at_end = {name: held(outcomes, name, task)[:, -1] for name in CRITERIA}
    rates = {name: {"successes": int(x.sum()), **as_json(wilson(int(x.sum()), n))}
             for name, x in at_end.items()}  # fmt: skip
    ever = int(held(outcomes, "hardware", task).any(1).sum())
    times = first_success_s(outcomes, task)
    return {
        "n": n,
        **rates,
        "ever": {"successes": ever, **as_json(wilson(ever, n))},
        "first_success_s": {"n": times.size, **as_json(bootstrap(times, np.median))},
        "position_error_m": _errors(outcomes.position_error[:, -1]),
        "yaw_error_rad": _errors(outcomes.yaw_error[:, -1]),
        "left_workspace": int(outcomes.outside[:, -1].sum()),
        "contact_share": float(record.contact.mean()),
        "theta_rmse_m": {
            "used": theta_rmse(record, "theta_used"),
            "estimate": theta_rmse(record, "estimate_mean"),
            "fused": theta_rmse(record, "fused_mean"),
        },
    }


def compare(record: TrialRecord, reference: TrialRecord, task: Task) -> dict:
    """Paired differences of success to a reference that met the same trials."""
    a, b = judge(record, task), judge(reference, task)
    return {
        name: as_json(paired_difference(held(a, name, task)[:, -1], held(b, name, task)[:, -1]))
        for name in CRITERIA
    }


def as_json(interval: Interval) -> dict:
    """Interval as a dictionary; NaN becomes null, which is JSON."""
    return {k: None if np.isnan(v) else float(v) for k, v in interval._asdict().items()}


def _errors(final: Float[np.ndarray, " n"]) -> dict:
    return {"mean": as_json(bootstrap(final)), "median": as_json(bootstrap(final, np.median))}
