"""Trackers by name; each says where the object is and when it was seen."""

from dataclasses import dataclass, field

from p2r_jax.deploy.protocols import Clock, Robot, Tracker
from p2r_jax.deploy.robots.sim import SimRobot
from p2r_jax.deploy.trackers.apriltag import AprilTagConfig, AprilTagTracker
from p2r_jax.deploy.trackers.mocap import MocapConfig, MocapTracker
from p2r_jax.deploy.trackers.replay import ReplayConfig, ReplayTracker
from p2r_jax.deploy.trackers.sim import SimTracker, SimTrackerConfig

TRACKERS = ("sim", "motioncapture", "apriltag", "replay")
OTHER_NAMES = {"mocap": "motioncapture"}


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of every tracker; the one that is chosen reads its own.

    Attributes:
      sim: sees the simulated robot's object.
      mocap: a motion-capture system.
      apriltag: tags on the object, before a camera.
      replay: a recording.
    """

    sim: SimTrackerConfig = field(default_factory=SimTrackerConfig)
    mocap: MocapConfig = field(default_factory=MocapConfig)
    apriltag: AprilTagConfig = field(default_factory=AprilTagConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)


def make_tracker(name: str, config: TrackerConfig, robot: Robot, clock: Clock) -> Tracker:
    """A tracker, not yet connected.

    Args:
      name: which one; ``mocap`` is short for ``motioncapture``.
      config: settings of all of them.
      robot: the one it works beside.
      clock: the loop's, for the stamps.

    Raises:
      KeyError: for an unknown name, with all names.
      ValueError, FileNotFoundError: for settings that the tracker cannot have.
    """
    name = OTHER_NAMES.get(name, name)
    if name == "sim":
        if not isinstance(robot, SimRobot):
            raise ValueError(f"tracker 'sim' sees the simulated robot only, not {robot.name!r}")
        return SimTracker(robot, config.sim)
    if name == "motioncapture":
        return MocapTracker(config.mocap, clock)
    if name == "apriltag":
        return AprilTagTracker(config.apriltag, clock)
    if name == "replay":
        return ReplayTracker(config.replay, clock)
    raise KeyError(f"no tracker {name!r} (trackers: {', '.join(TRACKERS)})")
