"""What the control loop asks of a robot, a tracker and a clock.

``Robot`` duck-types LeRobot's robots: plain dictionaries of named floats, and
``send_action`` returns what was really sent. Everything on our side is in
metres and radians, in the task's world frame; an adapter converts for its arm.
"""

from typing import NamedTuple, Protocol, runtime_checkable

EE_KEYS = ("ee.x", "ee.y")  # tip of the pusher, m; keys of observations and actions
EE_STAMP = "ee.stamp_s"  # of an observation: when the tip was there; missing means just now


class TrackedPose(NamedTuple):
    """Where a tracker saw the object.

    Attributes:
      x, y: origin of the object frame in the world, m.
      yaw: rad.
      stamp_s: when the light left the object (not when the message came), on the
        clock of the loop.
    """

    x: float
    y: float
    yaw: float
    stamp_s: float


class DeviceError(RuntimeError):
    """A robot or tracker that failed or was lost; the loop stops the robot and ends."""


@runtime_checkable
class Robot(Protocol):
    """An arm that carries a pusher over a table.

    Attributes:
      name: for the log.
    """

    name: str

    @property
    def is_connected(self) -> bool:
        """Whether ``connect`` succeeded and ``disconnect`` was not yet called."""
        ...

    def connect(self) -> None:
        """Open the connection and make ready to move; DeviceError if that fails."""
        ...

    def get_observation(self) -> dict[str, float]:
        """Measured ``ee.x`` and ``ee.y``, and whatever else it knows; DeviceError if lost.

        ``ee.z`` (m) is watched by safety; ``ee.stamp_s`` is the time of the measurement on
        the loop's clock, for a robot that answers with an old one.
        """
        ...

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Start moving the tip to ``ee.x``, ``ee.y`` within one control period; do not block.

        Returns:
          the target that was really sent, after the robot's own limits.
        """
        ...

    def stop(self) -> None:
        """Stop motion now and stay stopped; may be called at any time, any number of times."""
        ...

    def disconnect(self) -> None:
        """Stop and close the connection; may be called twice."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Something that sees the object's pose."""

    name: str

    def connect(self) -> None:
        """Open it; DeviceError names what is missing."""
        ...

    def get_pose(self) -> TrackedPose | None:
        """The newest pose, possibly one returned before; None if there was never one."""
        ...

    def disconnect(self) -> None:
        """Close it; may be called twice."""
        ...


class Clock(Protocol):
    """Time of the loop; a simulated one lets the same loop run faster than real time."""

    def now(self) -> float:
        """Seconds since an arbitrary origin; never runs backwards."""
        ...

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s`` or, if that has passed, at once."""
        ...
