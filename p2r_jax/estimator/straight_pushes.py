"""Experience for the estimator without a policy: straight pushes, as robots record them.

A policy's episodes follow from what it was told and where its goal lies; a log of a
robot that pushes for its own reasons looks otherwise. Here the tool starts near the
object, heads straight for a point of it, and now and then for another one, at another
speed. What such a log leaves open varies far beyond the task's own ranges: what the
object rests on, friction at the tool, and a constant error between tool and object frame.

The action of a log is what the tool was seen to do, because its command was not
recorded: here as in ``log_windows``.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.estimator.rollouts import Disturbances, Episodes
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.health import is_healthy
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.sim.support import check_support, support_points
from p2r_jax.types import Measurement, PhysicsParams, PlanarPose, rotate, to_world

AIMS = 64  # points of the object that a tool may head for
RIM_POINTS = 12  # support points of an uneven support
APPROACH_STEPS = 40  # of sphere tracing; grazing approaches end a little further away


@dataclass(frozen=True)
class StraightPushes:
    """What is drawn per episode, uniformly, and per step.

    Attributes:
      steps: control steps of an episode.
      speed: per step, in units of the task's action scale.
      turn: probability per step that the tool heads elsewhere, at another speed.
      gap_m: largest distance between tool and object at the start.
      spread: support points lie at this share of the way from the centre of mass to the
        corners (half of the episodes: three feet) or to points along the rim.
      friction_pusher: coefficient between tool and object.
      frame_m: constant offset of the measured tool in the object's axes, per axis.
    """

    steps: int = 40
    speed: tuple[float, float] = (0.05, 1.0)
    turn: float = 0.15
    gap_m: float = 0.02
    spread: tuple[float, float] = (0.2, 1.0)
    friction_pusher: tuple[float, float] = (0.1, 0.8)
    frame_m: float = 0.002


class _Tool(NamedTuple):
    """Where a tool is going: world frame, unit vector and share of the action scale."""

    heading: Float[Array, " 2"]
    speed: Float[Array, ""]


class PushSource:
    """Episodes of straight pushes of one task's object."""

    def __init__(self, env: PushEnv, config: StraightPushes):
        """Fix the points that tools head for and that supports are drawn from.

        Raises:
          ValueError: if three feet by the corners would not carry every centre of mass.
        """
        self.env, self.config = env, config
        asset = env.task.object
        ranges = [(t.low, t.high) for t in env.task.theta] + [(0.0, 0.0)]
        feet = support_points(asset, "corners", 3)
        check_support(feet, np.array(list(itertools.product(*ranges[:2]))), asset.name)
        self._aims = jnp.asarray(support_points(asset, "patch", AIMS), jnp.float32)
        self._rim = jnp.asarray(support_points(asset, "corners", RIM_POINTS), jnp.float32)
        self._size = float(np.linalg.norm(np.subtract(*asset.footprint_bounds)))

    def collect(
        self, ensemble: Ensemble | None, disturbances: Disturbances, key: Array, episodes: int
    ) -> Episodes:
        """``episodes`` episodes; time on axis 1.

        Args:
          ensemble: what states ``Episodes.estimate``; None leaves it out (it drives nothing).
          disturbances: white noise of the measurements; ``step_gain`` is not used.
          key: for everything that is drawn.
          episodes: how many.
        """
        data = jax.vmap(lambda k: self._episode(disturbances, k))(jax.random.split(key, episodes))
        if ensemble is None:
            return data
        history, times = ensemble.contract.history, jnp.arange(self.config.steps)

        def estimates(env):
            return ensemble(jax.vmap(lambda t: data.window(env, t, history))(times))

        return data.replace(estimate=jax.lax.map(estimates, jnp.arange(episodes)))

    def draw_physics(self, key: Array) -> PhysicsParams:
        """Mass and centre of mass as in the task; support and friction of the tool wider."""
        key_task, key_support, key_friction = jax.random.split(key, 3)
        physics = self.env.draw_physics(key_task)
        low, high = self.config.friction_pusher
        return physics.replace(
            support=self._draw_support(key_support, physics.com[:2]),
            friction_pusher=jax.random.uniform(key_friction, (), minval=low, maxval=high),
        )

    def _draw_support(self, key: Array, com: Float[Array, " 2"]) -> Float[Array, "points 2"]:
        """Three feet or an uneven patch: drawn in towards ``com``, so that they enclose it."""
        key_kind, key_feet, key_rim = jax.random.split(key, 3)
        low, high = self.config.spread
        repeats = RIM_POINTS // 3

        def drawn_in(points, key):
            share = jax.random.uniform(key, (len(points), 1), minval=low, maxval=high)
            return com + share * (points - com)

        feet = jnp.tile(drawn_in(self._rim[:3], key_feet), (repeats, 1))
        return jnp.where(jax.random.bernoulli(key_kind), feet, drawn_in(self._rim, key_rim))

    def _draw_tool(self, key: Array, pose: PlanarPose, ee_xy: Float[Array, " 2"]) -> _Tool:
        key_aim, key_speed = jax.random.split(key)
        ahead = to_world(pose, jax.random.choice(key_aim, self._aims)) - ee_xy
        low, high = self.config.speed
        speed = jax.random.uniform(key_speed, (), minval=low, maxval=high)
        return _Tool(ahead / (jnp.linalg.norm(ahead) + 1e-6), speed)

    def _draw_start(self, key: Array) -> tuple[PlanarPose, Float[Array, " 2"]]:
        """An object anywhere turned, a tool within ``gap_m`` of it (sphere tracing)."""
        keys = jax.random.split(key, 4)
        yaw, angle = jax.random.uniform(keys[0], (2,), minval=-jnp.pi, maxval=jnp.pi)
        gap = jax.random.uniform(keys[1], (), maxval=self.config.gap_m)
        outwards = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        point = jax.random.choice(keys[2], self._aims) + self._size * outwards
        parts, away = self.env.task.object.parts, self.env.task.pusher_radius_m + gap

        def approach(_, point):
            return point - outwards * jnp.maximum(signed_distance(parts, point) - away, 0.0)

        point = jax.lax.fori_loop(0, APPROACH_STEPS, approach, point)
        pose = PlanarPose(jnp.array(self.env.task.layout.start_xy), yaw)
        return pose, to_world(pose, point)

    def _episode(self, disturbances: Disturbances, key: Array) -> Episodes:
        task, config = self.env.task, self.config
        key_physics, key_start, key_frame, key_noise, key_tool, key_steps = jax.random.split(key, 6)
        physics = self.draw_physics(key_physics)
        pose, ee_xy = self._draw_start(key_start)
        offset = config.frame_m * jax.random.uniform(key_frame, (2,), minval=-1.0, maxval=1.0)
        scale, _ = disturbances.draw(key_noise)
        advance = self._advance(physics)

        def step(carry, key):
            state, tool = carry
            key_measure, key_turn, key_redraw = jax.random.split(key, 3)
            shifted = Measurement(state.pose, state.ee_xy + rotate(state.pose.yaw, offset))
            seen = disturbances.measure(shifted, scale, key_measure)
            other = self._draw_tool(key_redraw, state.pose, state.ee_xy)
            turns = jax.random.bernoulli(key_turn, config.turn)
            tool = jax.tree.map(lambda a, b: jnp.where(turns, a, b), other, tool)
            return (advance(state, tool), tool), (seen, state.contact > 0)

        start = self.env.dynamics.init(pose, ee_xy), self._draw_tool(key_tool, pose, ee_xy)
        _, (seen, contact) = jax.lax.scan(step, start, jax.random.split(key_steps, config.steps))
        sent = jnp.diff(seen.ee_xy, axis=0, prepend=seen.ee_xy[:1]) / task.action_scale_m
        goal = PlanarPose(jnp.array(task.layout.goal_xy), jnp.array(task.layout.goal_yaw_rad))
        features, theta = policy_features(seen, goal, sent), theta_of(physics, len(task.theta))
        return Episodes(features, sent, contact.astype(jnp.float32), theta, None)

    def _advance(self, physics: PhysicsParams) -> Callable:
        """One control step of (state, tool); physics that blows up stays where it was."""
        env = self.env
        cache = env.dynamics.derive(physics)

        def advance(state, tool: _Tool):
            target = state.ee_xy + env.task.action_scale_m * tool.speed * tool.heading
            after = env.dynamics.advance(physics, cache, state, target)
            healthy = is_healthy(after, physics, env.task.layout)
            return jax.tree.map(lambda a, b: jnp.where(healthy, a, b), after, state)

        return advance
