"""Settings of the xArm 6; importing them touches no SDK."""

from dataclasses import dataclass

from p2r_jax.deploy.robots.kinematics import XARM6
from p2r_jax.deploy.robots.reach import require_positive


@dataclass(frozen=True)
class XArmConfig:
    """An xArm 6 with a pusher on its flange; the world frame is its base frame.

    Attributes:
      ip: of its control box.
      tip_height_m: at which the tip is held; None is the object's mid height.
      tool_m: from the flange to the tip.
      servo_rate_hz: of the streamed points.
      watchdog_s: motion ends this long after the loop's last sign of life, and it does not
        go on after the stream of points was held up for so long.
      max_speed_m_s: of the commanded tip; a target further off is cut short.
      go_to_start: on connecting, lift the tip, move it over the task's start and lower it;
        without, the tip must be within 1 mm of its height and the tool within 2 degrees.
      travel_speed_m_s, travel_height_m: of that move.
      clear_errors: clear errors that the arm has at the start, instead of refusing.
      still: only look (``--dry-run``): the arm is neither enabled nor moved nor set up.
    """

    ip: str = ""
    tip_height_m: float | None = None
    tool_m: float = XARM6.tool_m
    servo_rate_hz: float = 100.0
    watchdog_s: float = 0.35
    max_speed_m_s: float = 0.25
    go_to_start: bool = True
    travel_speed_m_s: float = 0.05
    travel_height_m: float = 0.12
    clear_errors: bool = False
    still: bool = False

    def __post_init__(self):
        require_positive(
            self, "tool_m", "servo_rate_hz", "watchdog_s", "max_speed_m_s", "travel_speed_m_s"
        )
