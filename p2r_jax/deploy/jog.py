"""Small slow motions around where the tip stands, and what robot and tracker see of them."""

import contextlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import EE_KEYS, Clock, DeviceError, Robot, TrackedPose, Tracker

SETTLE_S = 0.6  # after a motion, until the tip stands
LOOKS = 5  # that a position at rest is the mean of
LOOK_S = 0.02  # between looks
REST_S = 0.25  # at both ends of a track, when nothing moves
WATCH_S = 0.01  # between looks at something that moves
INSIST = 3  # actions after a stop, at least


@dataclass
class Track:
    """What was seen while time went by; positions in m, times of the loop's clock.

    Attributes:
      tip_times, tips: the robot's own measurements.
      pose_times, pose_stamps, poses: new poses of the tracker, when they came and of when
        they said to be.
    """

    tip_times: list[float] = field(default_factory=list)
    tips: list[np.ndarray] = field(default_factory=list)
    pose_times: list[float] = field(default_factory=list)
    pose_stamps: list[float] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)

    @property
    def pose_ages(self) -> Float[np.ndarray, " n"]:
        """How old poses were when they came, s; the first one may have waited."""
        return np.subtract(self.pose_times, self.pose_stamps)[1:]

    @staticmethod
    def crossing(times: list[float], positions: list[np.ndarray]) -> float:
        """When half of the way from the first to the last rest was done; NaN if never seen.

        A line is fitted to the middle of the motion, as single positions are noisy.
        """
        t = np.array(times)
        if len(t) < 2:
            return float("nan")
        xy, rest = np.array(positions), REST_S
        first, last = xy[t <= t[0] + rest].mean(0), xy[t >= t[-1] - rest].mean(0)
        way = last - first
        share = (xy - first) @ way / max(float(way @ way), 1e-12)
        middle = (share > 0.2) & (share < 0.8)
        if middle.sum() < 2:
            return float("nan")
        slope, offset = np.polyfit(t[middle], share[middle], 1)
        return float((0.5 - offset) / slope)


class StoppedMotion(NamedTuple):
    """A motion that was stopped half way; Float[2] each, m.

    Attributes:
      target: where the tip was going; ``asked`` where it was told to go after the stop.
      stopped, rested: the tip just after the stop, and a while later.
      insisted: the tip after it was told to go on.
    """

    target: np.ndarray
    asked: np.ndarray
    stopped: np.ndarray
    rested: np.ndarray
    insisted: np.ndarray

    @property
    def drifted(self) -> tuple[float, float]:
        """How far the tip went after the stop, and how far it was from there to the target, m."""
        return _apart(self.rested, self.stopped), _apart(self.target, self.stopped)

    @property
    def obeyed(self) -> tuple[float, float]:
        """How far the tip went when told to go on, and how far it was told to go, m."""
        return _apart(self.insisted, self.rested), _apart(self.asked, self.rested)


class Jog:
    """Motions of a connected robot at a gentle speed."""

    def __init__(
        self, robot: Robot, tracker: Tracker, clock: Clock, period_s: float, speed_m_s: float
    ):
        """Nothing moves yet; ``period_s`` is the time a robot takes for an action."""
        self._robot, self._tracker, self._clock = robot, tracker, clock
        self._period_s, self._step_m = period_s, speed_m_s * period_s

    def tip(self) -> Float[np.ndarray, " 2"]:
        """Measured tip, m."""
        seen = self._robot.get_observation()
        return np.array([seen[key] for key in EE_KEYS], float)

    def wait_for_pose(self, timeout_s: float) -> TrackedPose | None:
        """The first pose, or None."""
        deadline = self._clock.now() + timeout_s
        while (pose := self._tracker.get_pose()) is None and self._clock.now() < deadline:
            self._sleep(LOOK_S)
        return pose

    def watch(self, duration_s: float, track: Track | None = None) -> Track:
        """Look for a while, without moving."""
        track, end = track or Track(), self._clock.now() + duration_s
        while self._clock.now() < end:
            self._look(track)
            self._clock.sleep_until(min(self._clock.now() + WATCH_S, end))
        return track

    def square(self, side_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corners of a square, from where the tip is: sent, measured, tracked; Float[5, 2]."""
        start = self.tip()
        corners = start + side_m * np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
        rows = []
        for corner in corners:
            sent = self._go(corner)
            self._sleep(SETTLE_S)
            rows.append((sent, *self._at_rest()))
        return tuple(np.stack(column) for column in zip(*rows, strict=True))

    def line(self, length_m: float) -> tuple[Track, float]:
        """Along +x and back; the track of the way there, and when half of it was commanded."""
        start, track = self.tip(), Track()
        self.watch(REST_S, track)
        begun = self._clock.now()
        self._go(start + np.array([length_m, 0.0]), track)
        taken = self._clock.now() - begun
        self.watch(SETTLE_S, track)
        self._go(start)
        self._sleep(SETTLE_S)
        return track, begun + taken / 2

    def stop_on_the_way(self, length_m: float) -> StoppedMotion:
        """Begin to move, stop, and then ask for the rest of the way, which must be refused."""
        start = self.tip()
        step = np.array([min(length_m, self._step_m), 0.0])
        self._send(start + step)
        self._sleep(self._period_s / 2)
        self._robot.stop()
        stopped = self._at_rest()[0]
        self._sleep(SETTLE_S)
        rested = self._at_rest()[0]
        whole, count = np.array([length_m, 0.0]), max(INSIST, int(length_m / step[0]))
        for share in np.arange(1, count + 1) / count:
            self._insist(start + share * whole)
        return StoppedMotion(start + step, start + whole, stopped, rested, self.tip())

    def _insist(self, target: Float[np.ndarray, " 2"]) -> None:
        """Send an action that may be refused, and wait for a period."""
        with contextlib.suppress(DeviceError):
            self._send(target)
        self._sleep(self._period_s)

    def _go(self, target: Float[np.ndarray, " 2"], track: Track | None = None) -> np.ndarray:
        """To ``target`` in equal actions; returns where the last one was sent."""
        start = sent = self.tip()
        count = max(1, int(np.ceil(np.linalg.norm(target - start) / self._step_m)))
        for share in np.arange(1, count + 1) / count:
            sent = self._send(start + share * (target - start))
            self.watch(self._period_s, track)
        return sent

    def _send(self, target: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        action = dict(zip(EE_KEYS, map(float, target), strict=True))
        sent = self._robot.send_action(action)
        return np.array([sent[key] for key in EE_KEYS], float)

    def _at_rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean measured tip and mean tracked position over a few looks."""
        tips, poses = [], []
        for _ in range(LOOKS):
            tips.append(self.tip())
            pose = self._tracker.get_pose()
            poses.append((pose.x, pose.y) if pose else (np.nan, np.nan))
            self._sleep(LOOK_S)
        return np.mean(tips, axis=0), np.mean(poses, axis=0)

    def _look(self, track: Track) -> None:
        tip, pose, now = self.tip(), self._tracker.get_pose(), self._clock.now()
        track.tip_times.append(now)
        track.tips.append(tip)
        if pose is not None and (not track.pose_stamps or pose.stamp_s > track.pose_stamps[-1]):
            track.pose_times.append(now)
            track.pose_stamps.append(pose.stamp_s)
            track.poses.append(np.array([pose.x, pose.y]))

    def _sleep(self, duration_s: float) -> None:
        self._clock.sleep_until(self._clock.now() + duration_s)


def _apart(a: Float[np.ndarray, " 2"], b: Float[np.ndarray, " 2"]) -> float:
    return float(np.linalg.norm(a - b))
