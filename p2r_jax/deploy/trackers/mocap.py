"""Motion capture (OptiTrack, Vicon, Qualisys, ...) through the ``motioncapture`` package."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import Clock, DeviceError, TrackedPose
from p2r_jax.deploy.trackers.background import Background
from p2r_jax.deploy.trackers.planar import quaternion_transform, read_json, read_transform

SCHEMA = 1
MAX_TILT_RAD = float(np.deg2rad(20))  # an object that lies on the table does not lean more
PROCESS = Path(__file__).with_name("mocap_process.py")


@dataclass(frozen=True)
class MocapConfig:
    """A motion-capture system that streams rigid bodies.

    Attributes:
      system: ``optitrack``, ``vicon``, ``qualisys``, ``vrpn``, ... (see motioncapture).
      host: its address.
      body: name of the object's rigid body there.
      calibration: JSON with ``schema`` 1, ``T_world_mocap`` and ``T_body_object`` (4 x 4, m);
        without a file both are the identity.
      latency_s: from the light to the arrival of a frame; ``p2r deploy --check`` measures it.
      timeout_s: how long to wait for the first pose.
    """

    system: str = "optitrack"
    host: str = ""
    body: str = "object"
    calibration: Path | None = None
    latency_s: float = 0.01
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Calibration:
    """Where the system's frame is in the world, and the object's in its rigid body.

    Attributes:
      T_world_mocap, T_body_object: 4 x 4, m.
    """

    T_world_mocap: Float[np.ndarray, "4 4"]
    T_body_object: Float[np.ndarray, "4 4"]

    def object_pose(self, T_mocap_body: Float[np.ndarray, "4 4"]) -> tuple[np.ndarray, float]:
        """Object (x, y, yaw) in the world, and how far its z axis leans, rad."""
        T = self.T_world_mocap @ T_mocap_body @ self.T_body_object
        yaw, tilt = np.arctan2(T[1, 0], T[0, 0]), np.arccos(np.clip(T[2, 2], -1.0, 1.0))
        return np.array([T[0, 3], T[1, 3], yaw]), float(tilt)


class MocapTracker:
    """The newest frame in which the object was seen.

    A body that the system does not find, that leans as if it were upside down, or that
    repeats its last numbers exactly (systems freeze a lost body) counts as not seen.
    """

    name = "motioncapture"

    def __init__(self, config: MocapConfig, clock: Clock):
        """Read the calibration; nothing is opened yet.

        Raises:
          ValueError, FileNotFoundError: for a missing host or a bad calibration.
        """
        if not config.host:
            raise ValueError("motioncapture: give the system's address: --trackers.mocap.host")
        self.config, self._clock = config, clock
        self._calibration = load_calibration(config.calibration)
        self._process: subprocess.Popen | None = None
        self._background: Background | None = None
        self._last_body: list[float] | None = None
        self._trouble = "no frame came"

    def connect(self) -> None:
        """Start reading and wait for the first pose; DeviceError says what is missing."""
        self.disconnect()
        arguments = (self.config.system, self.config.host, self.config.body)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROCESS), *arguments], stdout=subprocess.PIPE, text=True
        )
        self._background = Background(self.name, self._read)
        self._background.start()
        try:
            if self._background.wait(self.config.timeout_s) is None:
                raise DeviceError(
                    f"motioncapture: no pose of {self.config.body!r} in "
                    f"{self.config.timeout_s:g} s: {self._trouble}"
                )
        except DeviceError:
            self.disconnect()
            raise

    def get_pose(self) -> TrackedPose | None:
        """The newest pose; DeviceError if the reading process ended."""
        if self._background is None:
            raise DeviceError("motioncapture: not connected; call connect() first")
        return self._background.newest()

    def disconnect(self) -> None:
        """End the reading process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._background.stop()
            self._process.stdout.close()
        self._process = self._background = None

    def _read(self) -> TrackedPose | None:
        line = self._process.stdout.readline()
        message = json.loads(line) if line else {"error": "motioncapture: its process ended"}
        if "error" in message:
            raise DeviceError(message["error"])
        body = message["pose"]
        if body is None:
            self._trouble = f"not seen (bodies: {', '.join(message['bodies']) or 'none'})"
        if body is None or body == self._last_body:
            return None
        self._last_body = body
        pose, tilt = self._calibration.object_pose(quaternion_transform(body[:3], body[3:]))
        if tilt > MAX_TILT_RAD:
            self._trouble = (
                f"its z axis leans {np.rad2deg(tilt):.0f} deg; is T_world_mocap right (z up)?"
            )
            return None
        age = time.perf_counter() - message["stamp_s"] + self.config.latency_s
        return TrackedPose(*map(float, pose), stamp_s=self._clock.now() - age)


def load_calibration(path: Path | None) -> Calibration:
    """A calibration from its file; identities without one."""
    if path is None:
        return Calibration(np.eye(4), np.eye(4))
    record = read_json(path, "mocap calibration", SCHEMA)
    names = ("T_world_mocap", "T_body_object")
    for name in names:
        if name not in record:
            raise ValueError(f"{path}: {name} is missing")
    return Calibration(*(read_transform(record[name], f"{path}: {name}") for name in names))
