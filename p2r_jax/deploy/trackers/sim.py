"""The simulated tracker: sees the simulated robot's object with noise, latency and gaps."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2r_jax.deploy.protocols import DeviceError, TrackedPose
from p2r_jax.deploy.robots.sim import SimRobot


@dataclass(frozen=True)
class SimTrackerConfig:
    """How well a simulated tracker sees; noise and latency are the reality's.

    Attributes:
      sees: the object, or the tip (for ``p2r deploy --check``).
      rate_hz: frames per second; None looks whenever it is asked.
      dropout: probability that a frame shows nothing.
      extra_latency_s: on top of the reality's.
      seed: of the dropouts.
    """

    sees: Literal["object", "tip"] = "object"
    rate_hz: float | None = None
    dropout: float = 0.0
    extra_latency_s: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if self.rate_hz is not None and self.rate_hz <= 0:
            raise ValueError(f"rate_hz is {self.rate_hz}; it must be positive")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout}; it is a probability")


class SimTracker:
    """Poses of the object of a ``SimRobot``."""

    name = "sim"

    def __init__(self, robot: SimRobot, config: SimTrackerConfig | None = None):
        self.config, self._robot = config or SimTrackerConfig(), robot
        self._last: TrackedPose | None = None
        self._connected = False

    def connect(self) -> None:
        """Start seeing."""
        self._connected = True

    def get_pose(self) -> TrackedPose | None:
        """The newest frame that showed the object; DeviceError when not connected."""
        if not self._connected:
            raise DeviceError("sim tracker: not connected; call connect() first")
        self._robot.live()
        stamp, age, frame = self._newest_frame()
        if (self._last is None or stamp > self._last.stamp_s) and not self._dropped(frame):
            pose, tip = self._robot.world.seen(age)
            pose = pose if self.config.sees == "object" else np.append(tip, 0.0)
            noise, world = self._robot.noise(), self._robot.reality
            x, y = pose[:2] + world.position_noise_m * noise[:2]
            yaw = pose[2] + world.yaw_noise_rad * noise[2]
            self._last = TrackedPose(float(x), float(y), float(yaw), stamp)
        return self._last

    def disconnect(self) -> None:
        """Stop seeing."""
        self._connected = False

    def _newest_frame(self) -> tuple[float, float, int]:
        """When it was taken, how long ago that is, and its number."""
        now, dt = self._robot.world.time_s, self._robot.world.dt_s
        age = self._robot.reality.latency_s + self.config.extra_latency_s
        if self.config.rate_hz is None:
            return now - age, age, round(now / dt)
        frame = int(np.floor((now - age) * self.config.rate_hz + 1e-9))
        stamp = frame / self.config.rate_hz
        return stamp, now - stamp, frame

    def _dropped(self, frame: int) -> bool:
        rng = np.random.default_rng([self.config.seed, frame & 0xFFFFFFFF])
        return bool(rng.uniform() < self.config.dropout)
