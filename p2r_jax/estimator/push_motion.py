"""Pushing without force: replay the tool, compare where the object ends.

Slow pushing does not depend on mass or table friction, only on the centre of mass, the
friction radius and the friction at the tool. Two engines: the planar dynamics, and the closed
form of one sliding contact, which ends within a tenth of a millimetre of it at a fifth of the
cost.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.estimator.hypotheses import Hypothesis
from p2r_jax.estimator.limit_surface import student_t
from p2r_jax.estimator.quasistatic import push_along
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.planar import PlanarCache, PlanarConfig, PlanarDynamics
from p2r_jax.types import PhysicsParams, PlanarPose, rotate

REPLAY_FRICTION = 0.3  # of the table; any value does: slow motion does not depend on it


@dataclass(frozen=True)
class ReplayConfig:
    """The replay.

    Attributes:
      engine: ``quasistatic`` (closed form) or ``planar`` (implicit dynamics).
      step_s: duration of one piece of the tool's way in ``planar``; slow enough to be
        quasi-static.
      tool_radius_m: used where a log does not give one.
      planar: numerical settings of ``planar``.
    """

    engine: Literal["quasistatic", "planar"] = "quasistatic"
    step_s: float = 0.3
    tool_radius_m: float = 0.005
    planar: PlanarConfig = field(
        default_factory=lambda: PlanarConfig(
            substeps=2, table_friction="ellipsoid", friction_iterations=3, slip_speed=5e-5
        )
    )


class Replay:
    """Pushes of one object by one tool, under any hypothesis."""

    def __init__(self, asset: Asset, tool_radius_m: float | None, config: ReplayConfig):
        """Fix shapes.

        Args:
          asset: outline, mass and inertia.
          tool_radius_m: of the log; None takes the configured one.
          config: numerical settings.
        """
        radius = config.tool_radius_m if tool_radius_m is None else tool_radius_m
        self.parts, self.tool_radius_m, self.engine = asset.parts, radius, config.engine
        self.dynamics = PlanarDynamics(asset, radius, config.step_s, config.planar)
        self.mass, self.inertia = asset.mass_kg, np.array(asset.inertia)
        lower, upper = asset.footprint_bounds
        self.lever = float((upper - lower).max()) / 3

    def final_pose(
        self, h: Hypothesis, start: Float[Array, " 3"], path: Float[Array, "points 2"]
    ) -> Float[Array, " 3"]:
        """Pose (x, y, yaw) of the object after the tool went its way, world."""
        if self.engine == "quasistatic":
            args = h.com, h.radius, h.friction_pusher, start, path
            return push_along(self.parts, self.tool_radius_m, *args)
        return self._planar_pose(h, start, path)

    def _planar_pose(self, h: Hypothesis, start, path) -> Float[Array, " 3"]:
        physics = self._physics(h)
        cache = PlanarCache(h.radius, jnp.ones(1), jnp.zeros((1, 2)))
        state = self.dynamics.init(PlanarPose(start[:2], start[2]), path[0])

        def advance(state, target):
            return self.dynamics.advance(physics, cache, state, target), None

        state, _ = jax.lax.scan(advance, state, path[1:])
        return jnp.concatenate([state.pose.xy, state.pose.yaw[None]])

    def log_likelihood(
        self,
        h: Hypothesis,
        start: Float[Array, "n 3"],
        end: Float[Array, "n 3"],
        path: Float[Array, "n points 2"],
    ) -> Float[Array, " n"]:
        """Student-t likelihood of the poses after N pushes, up to a constant.

        The misfit (position and, by a lever of a third of the side, yaw) is relative to
        how far the object moved.
        """
        predicted = jax.vmap(self.final_pose, (None, 0, 0))(h, start, path)
        return self.misfit_log_likelihood(h, predicted, start, end)

    def misfit_log_likelihood(
        self,
        h: Hypothesis,
        predicted: Float[Array, "n 3"],
        start: Float[Array, "n 3"],
        end: Float[Array, "n 3"],
    ) -> Float[Array, " n"]:
        """The same for poses that were predicted already."""
        scale = jnp.array([1.0, 1.0, self.lever])
        moved = jnp.linalg.norm((end - start) * scale, axis=-1)
        misfit = rotate(-start[:, 2], (predicted - end)[:, :2])
        misfit = jnp.concatenate([misfit, (predicted - end)[:, 2:]], -1) * scale
        return student_t(misfit / moved[:, None], h.motion_noise)

    def _physics(self, h: Hypothesis) -> PhysicsParams:
        return PhysicsParams(
            mass=jnp.asarray(self.mass),
            com=jnp.concatenate([h.com, jnp.zeros(1)]),
            inertia=jnp.asarray(self.inertia),
            friction_table=jnp.asarray(REPLAY_FRICTION),
            friction_pusher=h.friction_pusher,
            support=jnp.zeros((1, 2)),
        )
