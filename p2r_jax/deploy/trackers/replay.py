"""A tracker that shows what was recorded: a run of ``p2r deploy``, or a log of pushes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import Clock, DeviceError, TrackedPose
from p2r_jax.types import wrap_angle


@dataclass(frozen=True)
class ReplayConfig:
    """What to show.

    Attributes:
      path: folder or ``.mcap`` of a run, or a log of pushes (npz, parquet, csv).
      push: of a log of pushes: which one; None is the first.
    """

    path: Path | None = None
    push: int | None = None


class ReplayTracker:
    """Recorded poses at their pace, from the moment of ``connect``."""

    name = "replay"

    def __init__(self, config: ReplayConfig, clock: Clock):
        """Read the recording.

        Raises:
          ValueError: without a path, or when the object was never seen in it.
          FileNotFoundError, KeyError: for a recording or push that is not there.
        """
        if config.path is None:
            raise ValueError("replay: say what to show: --trackers.replay.path")
        self._times, self._poses = recorded_poses(config.path, config.push)
        if not len(self._times):
            raise ValueError(f"{config.path}: the object was never seen in it")
        self._clock = clock
        self._started_s: float | None = None

    def connect(self) -> None:
        """Start the recording."""
        self._started_s = self._clock.now()

    def get_pose(self) -> TrackedPose | None:
        """The last recorded pose up to now; at the end it stays, and grows old."""
        if self._started_s is None:
            raise DeviceError("replay: not connected; call connect() first")
        since = self._clock.now() - self._started_s
        index = int(np.searchsorted(self._times, since + 1e-9, side="right")) - 1
        if index < 0:
            return None
        stamp = self._started_s + float(self._times[index])
        return TrackedPose(*map(float, self._poses[index]), stamp_s=stamp)

    def disconnect(self) -> None:
        """Stop the recording."""
        self._started_s = None


def recorded_poses(
    path: Path, push: int | None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Times since the begin, s, and object poses (yaw in [-pi, pi)) where it was seen."""
    times, poses = _of_run(path) if _is_run(path) else _of_log(path, push)
    seen = np.all(np.isfinite(poses), axis=1) & np.isfinite(times)
    times, poses = times[seen], poses[seen]
    if len(times):
        times, first = np.unique(times - times[0], return_index=True)
        poses = poses[first]
    return times, np.concatenate([poses[:, :2], np.asarray(wrap_angle(poses[:, 2:]))], axis=1)


def _is_run(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".mcap"


def _of_run(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from p2r_jax.deploy.record import read_run

    steps = read_run(path).steps
    stamps = np.array([step.pose_stamp_s for step in steps], float)
    return stamps, np.array([step.object_pose for step in steps], float).reshape(-1, 3)


def _of_log(path: Path, push: int | None) -> tuple[np.ndarray, np.ndarray]:
    from p2r_jax.pushlog.files import read_log

    log = read_log(path)
    rows = log.rows(int(log.pushes[0]) if push is None else push)
    return log.t[rows], log.object_pose[rows]
