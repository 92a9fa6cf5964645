"""What goes wrong on a robot, on purpose: wrappers that break things, and one that watches.

``faulted_episode`` runs the real loop on the simulated robot while poses are dropped,
delayed, duplicated, NaN or elsewhere, while the robot lies or fails, and while the process
stalls or is interrupted. ``Watcher`` sits next to the robot and judges every command, and
the pose that it was given on, by its own arithmetic; it shares no code with ``safety``.
"""

import math
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2r_jax.deploy.command import DeployConfig, header_of, limits_of
from p2r_jax.deploy.controller import Controller
from p2r_jax.deploy.protocols import EE_KEYS, DeviceError, Robot, TrackedPose, Tracker
from p2r_jax.deploy.record import RunError, open_run, read_run
from p2r_jax.deploy.robots.sim import SimRobot, SimRobotConfig
from p2r_jax.deploy.runner import Runner, RunOptions
from p2r_jax.deploy.trackers.sim import SimTracker
from p2r_jax.tasks import Task

TRACKER_FAULTS = ("dropped", "delayed", "duplicated", "nan", "teleport", "future", "lost", "stall")
ROBOT_FAULTS = ("ee-nan", "ee-teleport", "observe-error", "send-error", "stop-error", "sigint")
RARE = (  # they end a run
    "lost", "stall", "ee-teleport", "observe-error", "send-error", "stop-error", "sigint",
)  # fmt: skip
ROUNDING_M = 1e-9
OLD_S, AHEAD_S = 0.25, 0.02  # of a pose that somebody may act on
TURN_RAD = 1.0  # of the object between two poses
AT_REST_M = 2e-3  # tip motion that a stopped servo may still show


class Chance:
    """Seeded faults: rates per call, and a count of what happened."""

    def __init__(self, rng: np.random.Generator, names: tuple[str, ...]):
        """Every fault is off, now and then, or often."""
        often, rare, seldom_asked = (0.0, 0.0, 0.01, 0.1), (0.0, 0.0, 0.01), (0.0, 0.5)
        rates = dict.fromkeys(RARE, rare) | {"stop-error": seldom_asked}
        self.rng, self.happened = rng, Counter()
        self.rates = {name: rng.choice(rates.get(name, often)) for name in names}

    def of(self, name: str) -> bool:
        """Whether this fault happens now."""
        happens = self.rng.uniform() < self.rates[name]
        self.happened[name] += int(happens)
        return happens


class FaultyTracker:
    """A tracker whose poses cannot be relied on; ``given`` is what it answered so far."""

    def __init__(self, tracker: Tracker, robot: SimRobot, rng: np.random.Generator):
        self.name, self._tracker, self._robot = tracker.name, tracker, robot
        self.given: list[TrackedPose | None] = []
        self.chance = Chance(rng, TRACKER_FAULTS)
        self._past: list[TrackedPose] = []

    def connect(self) -> None:
        """As the tracker."""
        self._tracker.connect()

    def get_pose(self) -> TrackedPose | None:
        """A pose, or what came of it."""
        self.given.append(self._look())
        return self.given[-1]

    def _look(self) -> TrackedPose | None:
        chance, rng = self.chance, self.chance.rng
        if chance.of("lost"):
            raise DeviceError("tracker: connection lost")
        if chance.of("stall"):
            self._robot.run_unattended(rng.uniform(0.1, 1.0))
        if chance.of("dropped"):
            return self._past[-1] if self._past else None
        if chance.of("delayed") and self._past:
            return self._past[-min(int(rng.integers(1, 8)), len(self._past))]
        pose = self._tracker.get_pose()
        self._past.append(pose)
        if chance.of("duplicated") and len(self._past) > 1:
            pose = self._past[-2]._replace(stamp_s=pose.stamp_s)
        if chance.of("nan"):
            pose = pose._replace(**{rng.choice(TrackedPose._fields): math.nan})
        if chance.of("teleport"):
            x, y, yaw = rng.normal(0, 10.0 ** rng.uniform(-2, 6), 3)
            pose = pose._replace(x=float(x), y=float(y), yaw=float(yaw))
        if chance.of("future"):
            pose = pose._replace(stamp_s=pose.stamp_s + float(rng.uniform(0, 100)))
        return pose

    def disconnect(self) -> None:
        """As the tracker."""
        self._tracker.disconnect()


class FaultyRobot:
    """A robot that misreads itself and fails."""

    def __init__(self, robot: Robot, rng: np.random.Generator):
        self.name, self._robot = robot.name, robot
        self.chance = Chance(rng, ROBOT_FAULTS)

    @property
    def is_connected(self) -> bool:
        """As the robot."""
        return self._robot.is_connected

    def connect(self) -> None:
        """As the robot."""
        self._robot.connect()

    def get_observation(self) -> dict[str, float]:
        """The tip, perhaps; a signal to the process, perhaps."""
        if self.chance.of("sigint"):
            os.kill(os.getpid(), signal.SIGINT)
        if self.chance.of("observe-error"):
            raise DeviceError("robot: no answer")
        found = self._robot.get_observation()
        key = str(self.chance.rng.choice(EE_KEYS))
        if self.chance.of("ee-nan"):
            found[key] = math.nan
        if self.chance.of("ee-teleport"):
            found[key] += float(self.chance.rng.normal(0, 10.0 ** self.chance.rng.uniform(-2, 6)))
        return found

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """As the robot; or it fails before or after it has moved."""
        fails, after = self.chance.of("send-error"), self.chance.rng.uniform() < 0.5
        if fails and not after:
            raise DeviceError("robot: command refused")
        sent = self._robot.send_action(action)
        if fails:
            raise DeviceError("robot: connection lost")
        return sent

    def stop(self) -> None:
        """As the robot; or it stops and cannot say so."""
        self._robot.stop()
        if self.chance.of("stop-error"):
            raise DeviceError("robot: stop not acknowledged")

    def disconnect(self) -> None:
        """As the robot."""
        self._robot.disconnect()


class Watcher:
    """Stands between the loop and the robot and notes every command that must not be.

    A new target must rest on a pose that can be: a number, seen just now, near the one
    before. The same target again is a hold; so may be the first one, which is not judged
    in this way.

    Attributes:
      unsafe: what was wrong, one line each.
      commands: how many there were.
      stopped: ``stop`` was called after the last command.
    """

    def __init__(self, robot: SimRobot, task: Task, given: list[TrackedPose | None] | None = None):
        """Watch commands; with ``given``, a tracker's growing list, also what they rest on."""
        self.name, self._robot, self._task = robot.name, robot, task
        self._given = given
        self.unsafe: list[str] = []
        self.commands, self.stopped = 0, False
        self._before = np.array(task.layout.ee_start_xy)

    @property
    def is_connected(self) -> bool:
        """As the robot."""
        return self._robot.is_connected

    def connect(self) -> None:
        """As the robot."""
        self._robot.connect()

    def get_observation(self) -> dict[str, float]:
        """As the robot."""
        return self._robot.get_observation()

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Judge, then pass on."""
        target = np.array([action[key] for key in EE_KEYS])
        self.commands += 1
        layout, scale_m = self._task.layout, self._task.action_scale_m
        below, above = layout.lower - target, target - layout.upper
        if not np.all(np.isfinite(target)):
            self.unsafe.append(f"target {target} is no position")
        elif max(*below, *above) > ROUNDING_M:
            self.unsafe.append(f"target {target} is outside the workspace")
        elif (leap := np.linalg.norm(target - self._before)) > 2.5 * 2**0.5 * scale_m + ROUNDING_M:
            self.unsafe.append(f"target {target} is {leap:.4f} m from the one before")
        if self._given and self.commands > 1 and np.any(target != self._before):
            self.unsafe += [f"command {self.commands} rests on {w}" for w in self._wrong_poses()]
        if self.stopped:
            self.unsafe.append("a command after the stop")
        self._before = target
        return self._robot.send_action(action)

    def _wrong_poses(self) -> list[str]:
        """What is wrong with the newest pose, in words."""
        pose, now = self._given[-1], self._robot.clock.now()
        if pose is None or not np.all(np.isfinite(pose)):
            return ["a pose that is no number"]
        wrong = []
        if now - pose.stamp_s > OLD_S + ROUNDING_M:
            wrong.append(f"a stale pose, {now - pose.stamp_s:.2f} s old")
        if pose.stamp_s - now > AHEAD_S + ROUNDING_M:
            wrong.append(f"a pose from the future, {pose.stamp_s - now:.2f} s ahead")
        before = [p for p in self._given[:-1] if p is not None and np.all(np.isfinite(p[:3]))]
        if before:
            way = float(np.hypot(pose.x - before[-1].x, pose.y - before[-1].y))
            turn = abs(float(np.angle(np.exp(1j * (pose.yaw - before[-1].yaw)))))
            if way > 1.5 * 2**0.5 * self._task.action_scale_m + 0.01 + ROUNDING_M:
                wrong.append(f"a jump of the object by {way:.3f} m")
            if turn > TURN_RAD + ROUNDING_M:
                wrong.append(f"a jump of the object by {turn:.2f} rad")
        return wrong

    def stop(self) -> None:
        """As the robot."""
        self.stopped = True
        self._robot.stop()

    def disconnect(self) -> None:
        """As the robot."""
        self._robot.disconnect()


@dataclass(frozen=True)
class Outcome:
    """One faulted episode.

    Attributes:
      cause: how the loop says it ended; ``logged`` what the log says, None if unreadable.
      steps, logged_steps: begun by the loop, and found in the log.
      commands: that reached the robot.
      faults: how often which fault happened.
      unsafe: what the watcher noted, and whether the robot was left moving.
    """

    cause: str
    logged: str | None
    steps: int
    logged_steps: int
    commands: int
    faults: dict[str, int]
    unsafe: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """What must not be, in words; empty for a good end."""
        wrong = list(self.unsafe)
        if self.logged is None:
            wrong.append("the log cannot be read")
        elif self.logged != self.cause:
            wrong.append(f"the loop ended with {self.cause!r}, the log with {self.logged!r}")
        elif self.logged_steps not in (self.steps, self.steps - 1):  # a step may be cut short
            wrong.append(f"{self.steps} steps were begun, {self.logged_steps} are in the log")
        return wrong


def faulted_episode(
    config: DeployConfig, controller: Controller, task: Task, folder: Path, seed: int, steps: int
) -> Outcome:
    """One run with the faults of a seed, in simulated time; the log goes to ``folder``."""
    rng = np.random.default_rng([7, seed])
    robot = SimRobot.from_config(SimRobotConfig(seed=seed), task)
    tracker = FaultyTracker(SimTracker(robot), robot, rng)
    watcher = Watcher(robot, task, tracker.given)
    faulty = FaultyRobot(watcher, rng)
    limits = limits_of(config, controller.bundle)
    header = header_of(config, controller, limits, (faulty.name, tracker.name), robot.clock)
    controller.forget()
    writer = open_run(folder, header)
    options = RunOptions(steps, success_hold_s=None)
    result = Runner(controller, limits, faulty, tracker, robot.clock, writer, options).run()
    unsafe = watcher.unsafe + _left_moving(robot, watcher)
    faults = dict(tracker.chance.happened + faulty.chance.happened)
    try:
        run = read_run(folder)
        logged, logged_steps = run.cause, len(run.steps)
    except RunError:
        logged, logged_steps = None, 0
    return Outcome(
        result.cause, logged, result.timing.steps, logged_steps, watcher.commands, faults, unsafe
    )


def _left_moving(robot: SimRobot, watcher: Watcher) -> list[str]:
    """Whether the tip goes on after the end, in words."""
    robot.run_unattended(0.2)
    _, before = robot.truth()
    robot.run_unattended(0.5)
    moved = float(np.linalg.norm(robot.truth()[1] - before))
    wrong = [] if watcher.stopped else ["the robot was never stopped"]
    return wrong + ([f"the tip moved {moved:.4f} m after the end"] if moved > AT_REST_M else [])
