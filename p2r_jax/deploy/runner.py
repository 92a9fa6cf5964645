"""The loop itself: observe, propose, check, act, log; and the one way it ends.

Whatever happens (the last step, success, a stop request, SIGINT, a lost device, a bug),
the robot is stopped first, then the log is closed with the cause, then the rest is closed.
"""

import itertools
import math
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from p2r_jax.deploy.controller import Controller, Decision
from p2r_jax.deploy.polygon import nearest_inside
from p2r_jax.deploy.protocols import (
    EE_KEYS,
    EE_STAMP,
    Clock,
    DeviceError,
    Robot,
    TrackedPose,
    Tracker,
)
from p2r_jax.deploy.records import RunWriter, StepRecord
from p2r_jax.deploy.safety import Limits, Situation, Verdict, check
from p2r_jax.deploy.timing import Pacer, Timing, undisturbed
from p2r_jax.types import wrap_angle

STOP_ATTEMPTS = 3
START_READINGS = 3  # of the tip, which have to agree
ROUNDING_M = 1e-9
UNKNOWN = (math.nan, math.nan)
NO_POSE = TrackedPose(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class RunOptions:
    """How long to run.

    Attributes:
      steps: at most.
      success_hold_s: end when the object was at the goal for so long; None: do not.
      dry_run: everything but motion: no action is sent.
    """

    steps: int
    success_hold_s: float | None = 2.0
    dry_run: bool = False


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
      cause: as in the log, and what went wrong after it was closed.
      planned: whether it ended as it was meant to: steps, success, or a request to stop.
      success: the object was at the goal in the last step.
      timing: how the pace was kept.
      error: what was raised, if something was.
      safety: causes of a stop by ``safety.check``.
    """

    cause: str
    planned: bool
    success: bool
    timing: Timing
    error: BaseException | None = None
    safety: tuple[str, ...] = ()


class View(Protocol):
    """Someone who watches and may ask to stop (``deploy.live.LiveView``)."""

    stop_requested: bool

    def update(self, record: StepRecord) -> None:
        """Show a step; must not block."""
        ...

    def close(self) -> None:
        """No more steps will come."""
        ...


class Interruptions:
    """While entered, SIGINT and SIGTERM ask the loop to end.

    A second SIGINT raises KeyboardInterrupt, for a device that hangs; while ``connecting``,
    when an arm may travel for a minute, the first one of either does. Not any more once the
    run is ``ending``, when the robot is being stopped. Does nothing in other threads than
    the main one.
    """

    def __init__(self):
        self.asked = self.connecting = self.ending = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruptions":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        again, self.asked = self.asked, True
        if self.ending:
            return
        if self.connecting:
            self.ending = True  # nothing interrupts the robot's own stop in ``connect``
            raise KeyboardInterrupt
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt


class Runner:
    """One run of the loop.

    Attributes:
      pacer: keeps the time; its ``report`` is part of the result.
    """

    def __init__(
        self,
        controller: Controller,
        limits: Limits,
        robot: Robot,
        tracker: Tracker,
        clock: Clock,
        writer: RunWriter,
        options: RunOptions,
        view: View | None = None,
        on_step: Callable[[StepRecord], object] | None = None,
    ):
        """Put together what was made; nothing is connected yet.

        Args:
          controller: compiled and warm.
          limits: of ``safety.check``.
          robot, tracker, clock: see ``deploy.protocols``.
          writer: of the log; closed at the end.
          options: how long to run.
          view: may ask to stop; closed at the end.
          on_step: called with every record, e.g. to move a progress bar.
        """
        self.controller, self.limits, self.options = controller, limits, options
        self.robot, self.tracker, self.writer, self.view = robot, tracker, writer, view
        self.pacer = Pacer(clock, limits.period_s)
        self._on_step = on_step
        self._last_begin: float | None = None
        self._last_pose: tuple[float, ...] = NO_POSE[:3]
        self._last_target: tuple[float, float] = UNKNOWN
        self._holding_since: float | None = None
        self._success_since: float | None = None
        self._stopped_by: tuple[str, ...] = ()
        self._interruptions = Interruptions()

    def run(self) -> RunResult:
        """Connect, loop, and end; the result says how, and nothing is raised."""
        error: BaseException | None = None
        with self._interruptions:
            try:
                self._connect()
                self._last_target = self._resting_tip()
                with undisturbed():
                    cause, planned = self._loop()
            except BaseException as raised:
                error, planned, cause = raised, False, _cause_of(raised)
            finally:
                self._interruptions.ending = True
                troubles = self._end_robot()
            cause = "; ".join((cause, *troubles))
            try:
                self.writer.close(cause)  # now: a tracker that hangs must not cost the cause
            except Exception as raised:
                error, cause = error or raised, f"{cause}; the log: {raised}"
            later = self._end_others()
        return RunResult(
            cause="; ".join((cause, *later)),
            planned=planned and not troubles and not later and error is None,
            success=self._success_since is not None,
            timing=self.pacer.report(),
            error=error,
            safety=self._stopped_by,
        )

    def _connect(self) -> None:
        self._interruptions.connecting = True
        self.tracker.connect()
        self.robot.connect()
        self._interruptions.connecting = False

    def _loop(self) -> tuple[str, bool]:
        """Cause of the end, and whether it was planned."""
        for number in range(self.options.steps):
            begin = self.pacer.begin(self._asked_to_end)
            if begin is None:
                return self._request(), True
            record, verdict = self._step(number, begin)
            self._log(record)
            self.pacer.end()
            if verdict.stop:
                self._stopped_by = verdict.causes
                return f"safety: {', '.join(verdict.causes)}", False
            if self._succeeded(begin):
                return "success", True
        self.pacer.wait(self._asked_to_end)  # the last action is carried out as well
        return "steps", True

    def _step(self, number: int, begin: float) -> tuple[StepRecord, Verdict]:
        seen = self.tracker.get_pose() or NO_POSE
        ee, height_m, ee_stamp_s = self._observe()
        self.pacer.section()
        decision = self.controller.propose(seen[:3], ee)
        self.pacer.section()
        situation = self._situation(begin, seen, ee, height_m, decision)
        verdict = check(self.limits, situation)
        safe, sent, target = self._act(verdict, decision, ee)
        self._remember(begin, seen, verdict, target)
        self.pacer.section()
        acted = (safe, sent, target)
        tip = (ee, ee_stamp_s)
        return self._record(number, begin, seen, tip, decision, acted, verdict), verdict

    def _resting_tip(self) -> tuple[float, float]:
        """Where the tip is before it moves: one reading alone could not be doubted."""
        readings = [self._observe()[0] for _ in range(START_READINGS)]
        pairs = itertools.combinations(readings, 2)
        if not all(math.dist(a, b) <= self.limits.max_tracking_m for a, b in pairs):
            places = ", ".join(f"({x:.3f}, {y:.3f})" for x, y in readings)
            raise DeviceError(f"{self.robot.name}: readings of its tip at rest differ: {places}")
        return readings[-1]

    def _observe(self) -> tuple[tuple[float, float], float, float]:
        """Measured tip (x, y), its height, and when that was; NaN for what is not told."""
        found = self.robot.get_observation()
        try:
            height_m, stamp_s = (float(found.get(key, math.nan)) for key in ("ee.z", EE_STAMP))
            return (float(found["ee.x"]), float(found["ee.y"])), height_m, stamp_s
        except (KeyError, TypeError, ValueError) as error:
            raise DeviceError(f"{self.robot.name} observed {found}, not {EE_KEYS}") from error

    def _situation(self, begin, seen: TrackedPose, ee, height_m, decision: Decision) -> Situation:
        now = self.pacer.clock.now()  # a device may have blocked since the step began
        held = 0.0 if self._holding_since is None else now - self._holding_since
        return Situation(
            now_s=now,
            pose_stamp_s=seen.stamp_s,
            gap_s=now - (begin if self._last_begin is None else self._last_begin),
            held_s=held,
            pose=seen[:3],
            last_pose=self._last_pose,
            ee=ee,
            height_m=height_m,
            last_target=ee if self.options.dry_run else self._last_target,
            action=decision.action,
        )

    def _act(self, verdict: Verdict, decision: Decision, ee) -> tuple[tuple[float, float], ...]:
        """Safe action, action that was really sent, and its target; commits the step."""
        if verdict.stop:
            _attempt(self.robot.stop, "")  # at once; ``_end_robot`` makes sure of it
            return UNKNOWN, UNKNOWN, UNKNOWN
        safe = self._as_action(verdict.target, ee, decision.action)
        if self.options.dry_run:
            sent, target = (0.0, 0.0), ee
        else:
            answer = self.robot.send_action(dict(zip(EE_KEYS, verdict.target, strict=True)))
            target = tuple(float(answer[key]) for key in EE_KEYS)
            if not all(map(math.isfinite, target)):
                raise DeviceError(f"{self.robot.name} says it went to {target}")
            sent = self._as_action(target, ee, decision.action)
        if "jump" in verdict.causes:
            self.controller.forget()
        elif not verdict.held:
            self.controller.commit(sent)
        return safe, sent, target

    def _as_action(self, target, ee, wanted) -> tuple[float, float]:
        """The action that sends the measured tip to ``target``.

        In training an action's target is kept in the workspace and the history holds the
        action; so ``wanted`` stays as it is if its target, so kept, is this one.
        """
        spec = self.controller.spec
        plain = tuple(e + spec.action_scale_m * w for e, w in zip(ee, wanted, strict=True))
        if math.dist(nearest_inside(spec.workspace, plain), target) <= ROUNDING_M:
            return wanted
        return tuple((t - e) / spec.action_scale_m for t, e in zip(target, ee, strict=True))

    def _remember(self, begin: float, seen: TrackedPose, verdict: Verdict, target) -> None:
        self._last_begin, self._last_target = begin, target
        if all(map(math.isfinite, seen[:3])):  # a jump may hide behind poses that are no numbers
            self._last_pose = seen[:3]
        if not verdict.held:
            self._holding_since = None
        elif self._holding_since is None:
            self._holding_since = begin
        if verdict.held or not self._at_goal(seen):
            self._success_since = None
        elif self._success_since is None:
            self._success_since = begin

    def _succeeded(self, now: float) -> bool:
        """Whether the object has been at the goal for long enough to end."""
        hold_s, since = self.options.success_hold_s, self._success_since
        return hold_s is not None and since is not None and now - since >= hold_s - 1e-9

    def _at_goal(self, seen: TrackedPose) -> bool:
        x, y, yaw = self.controller.goal
        spec = self.controller.spec
        turned = abs(wrap_angle(seen.yaw - yaw))
        near = math.dist((seen.x, seen.y), (x, y)) <= spec.success_position_m
        return near and turned <= spec.success_yaw_rad

    def _record(self, number, begin, seen, tip, decision, acted, verdict) -> StepRecord:
        (ee, ee_stamp_s), (safe, sent, target) = tip, acted
        return StepRecord(
            step=number,
            stamp_s=begin,
            object_pose=seen[:3],
            pose_stamp_s=seen.stamp_s,
            ee_xy=ee,
            ee_stamp_s=ee_stamp_s,
            action=decision.action,
            safe_action=safe,
            sent_action=sent,
            target_xy=target,
            theta_used=decision.theta,
            prior_mean=self.controller.prior_mean,
            prior_sigma=self.controller.prior_sigma,
            estimate_mean=decision.estimate_mean,
            estimate_sigma=decision.estimate_sigma,
            fused_mean=decision.fused_mean,
            fused_sigma=decision.fused_sigma,
            safety=verdict.causes,
            sections_s=self.pacer.sections_before() | {"late": self.pacer.late_s},
        )

    def _log(self, record: StepRecord) -> None:
        self.writer.step(record)
        if self.view:
            self.view.update(record)
        if self._on_step:
            self._on_step(record)
        self.pacer.section()

    def _asked_to_end(self) -> bool:
        return self._interruptions.asked or bool(self.view and self.view.stop_requested)

    def _request(self) -> str:
        return "interrupted" if self._interruptions.asked else "stop requested"

    def _end_robot(self) -> list[str]:
        """Stop the robot and disconnect it; returns what went wrong doing so."""
        troubles = (self._stop_robot(), _attempt(self.robot.disconnect, "disconnecting"))
        return [trouble for trouble in troubles if trouble]

    def _end_others(self) -> list[str]:
        """Close the tracker and the view; their troubles are told, but not in the log."""
        troubles = [_attempt(self.tracker.disconnect, "disconnecting")]
        if self.view:
            troubles.append(_attempt(self.view.close, "the live view"))
        return [trouble for trouble in troubles if trouble]

    def _stop_robot(self) -> str | None:
        trouble = None
        for _ in range(STOP_ATTEMPTS):
            trouble = _attempt(self.robot.stop, "the robot did not confirm the stop")
            if trouble is None:
                break
        return trouble


def _attempt(call: Callable[[], object], what: str) -> str | None:
    try:
        call()
    except Exception as error:
        return f"{what}: {error}"
    return None


def _cause_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, DeviceError):
        return f"device: {error}"
    return f"error: {type(error).__name__}: {error}"
