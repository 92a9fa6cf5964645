"""What a run writes down: a header, one record per control step, and why it ended.

Every writer, reader, replay and live view speaks in these; SI units, radians,
world frame. ``NaN`` stands for what was not known.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

RUN_SCHEMA = 1
KILLED = "killed"  # how a log without an end reads


@dataclass(frozen=True)
class RunHeader:
    """What is known before the first step; JSON-serialisable.

    Attributes:
      task: its registered name.
      control_period_s, action_scale_m: meaning of an action.
      theta: names of the components of theta.
      goal: x, y, yaw of the goal.
      robot, tracker: their names.
      outline: corners of the object's footprint, object frame, m.
      workspace: corners of the polygon the tip must stay in, m.
      started_unix_s: wall-clock time of the start.
      clock_start_s: the loop's clock at the same moment.
      asset: name or folder of the object's asset; empty if the task's.
      tool_radius_m: of the pusher; NaN if the task's.
      config: every setting of the command.
      provenance: versions, device, git revision (``files.provenance``).
    """

    task: str
    control_period_s: float
    action_scale_m: float
    theta: tuple[str, ...]
    goal: tuple[float, float, float]
    robot: str
    tracker: str
    outline: tuple[tuple[float, float], ...]
    workspace: tuple[tuple[float, float], ...]
    started_unix_s: float
    clock_start_s: float
    asset: str = ""
    tool_radius_m: float = math.nan
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepRecord:
    """One control step.

    Attributes:
      step: 0, 1, 2, ...
      stamp_s: loop clock when the step began.
      object_pose: x, y, yaw the policy was given; ``pose_stamp_s`` when it was seen.
      ee_xy: measured tip; ``ee_stamp_s`` when it was there, NaN for the step's begin.
      action: what the policy wanted, in [-1, 1]^2.
      safe_action: after ``safety``; what was asked of the robot.
      sent_action: what the robot really did; goes into the estimator's history.
      target_xy: tip target that was sent, m.
      theta_used: what the policy was told.
      prior_mean, prior_sigma, estimate_mean, estimate_sigma, fused_mean,
        fused_sigma: beliefs at the step, one entry per component of theta.
      safety: causes that clipped or stopped this step; empty if none.
      sections_s: seconds spent in ``observe``, ``infer``, ``act``, ``log``, and how
        ``late`` the step began.
    """

    step: int
    stamp_s: float
    object_pose: tuple[float, float, float]
    pose_stamp_s: float
    ee_xy: tuple[float, float]
    action: tuple[float, float]
    safe_action: tuple[float, float]
    sent_action: tuple[float, float]
    target_xy: tuple[float, float]
    theta_used: tuple[float, ...]
    prior_mean: tuple[float, ...]
    prior_sigma: tuple[float, ...]
    estimate_mean: tuple[float, ...]
    estimate_sigma: tuple[float, ...]
    fused_mean: tuple[float, ...]
    fused_sigma: tuple[float, ...]
    safety: tuple[str, ...] = ()
    sections_s: dict[str, float] = field(default_factory=dict)
    ee_stamp_s: float = math.nan


class RunWriter(Protocol):
    """Something that steps are written to as they happen."""

    def step(self, record: StepRecord) -> None:
        """Take one step; must not block the loop for longer than a millisecond."""
        ...

    def close(self, cause: str) -> None:
        """Write why the run ended and close; may be called twice, the first cause counts."""
        ...
