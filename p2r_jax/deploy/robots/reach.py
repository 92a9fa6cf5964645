"""Where a tip may be sent: the workspace, the arm's reach, and no faster than allowed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.robots.kinematics import ArmGeometry, solve_ik, tool_down

MARGIN_M = 5e-3  # targets stay this far inside the ring that the tip can reach


@dataclass(frozen=True)
class Reach:
    """A box, and a ring around the base.

    Attributes:
      lower, upper: corners of the box, m.
      near_m, far_m: radii of the ring.
    """

    lower: tuple[float, float]
    upper: tuple[float, float]
    near_m: float
    far_m: float

    def nearest(self, xy: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """``xy`` itself, or a point in reach close to it."""
        xy = np.clip(xy, self.lower, self.upper)
        distance = float(np.hypot(*xy))
        near, far = self.near_m + MARGIN_M, self.far_m - MARGIN_M
        if near <= distance <= far:
            return xy
        if distance == 0.0:
            return np.array([near, 0.0])
        return xy * (np.clip(distance, near, far) / distance)

    def require(self, xy: tuple[float, float]) -> None:
        """Raise ValueError if the tip cannot be held at ``xy``."""
        if not np.allclose(self.nearest(np.array(xy, float)), xy):
            raise ValueError(
                f"the arm cannot hold its tool at {list(xy)}: it reaches {self.near_m:.3f} to "
                f"{self.far_m:.3f} m from its base, within {self.lower} to {self.upper}"
            )


def arm_reach(
    arm: ArmGeometry,
    tip_height_m: float,
    lower: tuple[float, float],
    upper: tuple[float, float],
) -> Reach:
    """Reach of a tool that points straight down, to a millimetre.

    The first joint turns freely, so only the distance from the base matters.

    Raises:
      ValueError: if the tool cannot be held anywhere at this height.
    """
    radii = np.arange(0.001, 1.0, 1e-3)
    tips = np.stack([radii, 0 * radii, 0 * radii + tip_height_m], -1)
    _, reached = solve_ik(arm, *tool_down(arm, tips))
    if not reached.any():
        raise ValueError(f"the arm cannot hold its tool at a height of {tip_height_m} m")
    return Reach(lower, upper, float(radii[reached].min()), float(radii[reached].max()))


def no_further(
    origin: Float[np.ndarray, " 2"], target: Float[np.ndarray, " 2"], longest_m: float
) -> Float[np.ndarray, " 2"]:
    """``target``, or the point on the way there that lies ``longest_m`` from ``origin``."""
    way = target - origin
    length = float(np.linalg.norm(way))
    return target if length <= longest_m else origin + way * (longest_m / length)


def require_positive(config: object, *names: str) -> None:
    """Raise ValueError naming the first of these settings that is not a positive number."""
    for name in names:
        value = getattr(config, name)
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be positive")
