"""Random pushes of an object, what C MuJoCo makes of them, and what our dynamics make.

Pushes vary as the task varies: mass, centre of mass, inertia and friction from its
physics ranges (the pusher's friction drawn on its own), and yaw, contact point and
direction from all around. The pusher is driven exactly, so no servo lag enters.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from p2r_jax.sim.asset import Asset
from p2r_jax.sim.contact import SETTLE_S, driven_scene, push_in_c
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.mjcf import SceneOptions, write_physics
from p2r_jax.tasks import Task
from p2r_jax.types import PhysicsParams, PlanarPose, wrap_angle

START_GAP_M = 5e-4  # the pusher starts this far from the object
JUDGE_ARMATURE_KG = 1e5  # contact forces of ~1 N change its speed by 1e-5 m/s per second


@dataclass(frozen=True)
class Judge:
    """Settings of C MuJoCo where its word is the truth.

    10 line-search steps leave some pushes unconverged, millimetres off; 20 are enough.

    Attributes:
      timestep_s: physics step.
      table_time_s, pusher_time_s: time constants of MuJoCo's soft contacts under the
        object and at the pusher; the defaults are those of "reality".
      threads: CPU threads.
    """

    timestep_s: float = 0.001
    table_time_s: float = SceneOptions.table_solref[0]
    pusher_time_s: float = SceneOptions.pusher_solref[0]
    threads: int = 2

    @property
    def options(self) -> SceneOptions:
        """Solver settings of the scene."""
        return SceneOptions(
            timestep_s=self.timestep_s,
            iterations=100,
            ls_iterations=50,
            table_solref=(self.table_time_s, 1.0),
            pusher_solref=(self.pusher_time_s, 1.0),
        )


class Pushes(NamedTuple):
    """N random pushes, world frame with the object's origin at zero.

    Attributes:
      mass, com, inertia: kg, m, kg m^2; see ``PhysicsParams``.
      friction: of table and pusher, Float[N, 2].
      yaw: of the object, rad.
      ee_xy: pusher centre, ``START_GAP_M`` from the object.
      direction: unit vector.
    """

    mass: np.ndarray
    com: np.ndarray
    inertia: np.ndarray
    friction: np.ndarray
    yaw: np.ndarray
    ee_xy: np.ndarray
    direction: np.ndarray

    def physics(self, support: np.ndarray) -> PhysicsParams:
        """The same as a batch of physics on these support points; float32."""
        support = np.broadcast_to(support, (len(self.mass), *support.shape))
        columns = (self.mass, self.com, self.inertia, *self.friction.T, support)
        return PhysicsParams(*(jnp.float32(x) for x in columns))


def sample_pushes(task: Task, count: int, seed: int = 0) -> Pushes:
    """Pushers that come from all around and stop just before they touch."""
    rng, asset = np.random.default_rng(seed), task.object
    size = np.linalg.norm(np.subtract(*asset.footprint_bounds))
    chosen, found = [], 0
    while found < count:
        yaw, angle = rng.uniform(-np.pi, np.pi, (2, count))
        offset = rng.uniform(-size / 3, size / 3, count)
        direction = np.stack([np.cos(angle), np.sin(angle)], -1)
        ee = np.stack([-direction[:, 1], direction[:, 0]], -1) * offset[:, None] - size * direction
        for _ in range(200):
            gap = _gap(asset, yaw, ee) - task.pusher_radius_m
            ee = ee + direction * np.maximum(gap - START_GAP_M, 0.0)[:, None]
        hit = np.abs(gap - START_GAP_M) < 1e-5
        masses = [_draw_mass_properties(task, rng) for _ in range(count)]
        friction = rng.uniform(*task.physics.friction, (count, 2))
        columns = (*map(np.stack, zip(*masses, strict=True)), friction, yaw, ee, direction)
        chosen.append([x[hit] for x in columns])
        found += int(hit.sum())
    return Pushes(*(np.concatenate(x)[:count] for x in zip(*chosen, strict=True)))


def _draw_mass_properties(task: Task, rng: np.random.Generator) -> tuple:
    ranges = task.physics
    if ranges.com_m is None:
        return task.object.with_weight(rng.uniform(*ranges.weight_x_m))
    com = [rng.uniform(*side) for side in ranges.com_m]
    return task.object.with_com(com, rng.uniform(*ranges.mass_scale))


def _gap(asset: Asset, yaw: np.ndarray, point: np.ndarray) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    local = np.stack([c * point[:, 0] + s * point[:, 1], c * point[:, 1] - s * point[:, 0]], -1)
    return signed_distance(asset.parts, local, np)


def push_in_judge(
    task: Task,
    pushes: Pushes,
    support: np.ndarray,
    push_m: float,
    speed_mps: float,
    judge: Judge = Judge(),
) -> PlanarPose:
    """Poses after straight pushes of ``push_m`` at ``speed_mps`` in C MuJoCo."""
    asset, models = task.object, []
    for mass, com, inertia, friction in zip(*pushes[:4], strict=True):
        model = driven_scene(
            asset, support, task.pusher_radius_m, judge.options, JUDGE_ARMATURE_KG
        )  # fmt: skip
        model.opt.tolerance, model.stat.meaninertia = 1e-10, asset.mass_kg
        write_physics(model, mass, com, inertia, *friction)
        models.append(model)
    start = PlanarPose(np.zeros_like(pushes.ee_xy), pushes.yaw)
    velocity, duration = pushes.direction * speed_mps, push_m / speed_mps
    return push_in_c(models, start, pushes.ee_xy, velocity, duration, judge.threads)


def push_in(dynamics, pushes: Pushes, support: np.ndarray, push_m: float) -> PlanarPose:
    """Poses after the pushes in one of our dynamics, one action per push.

    Objects settle on their soft contacts first, as they do for the judge.
    """
    poses = PlanarPose(jnp.zeros((len(pushes.yaw), 2)), jnp.float32(pushes.yaw))
    target = jnp.float32(pushes.ee_xy + push_m * pushes.direction)
    moved = _push(dynamics, pushes.physics(support), poses, jnp.float32(pushes.ee_xy), target)
    return jax.device_get(moved)


@functools.partial(jax.jit, static_argnames="dynamics")
def _push(dynamics, physics, poses, ee_xy, target) -> PlanarPose:
    cache = jax.vmap(dynamics.derive)(physics)
    settling = math.ceil(SETTLE_S / dynamics.dt_s)

    def act(index, state):
        goal = jnp.where(index < settling, ee_xy, target)
        return jax.vmap(dynamics.advance)(physics, cache, state, goal)

    return jax.lax.fori_loop(0, settling + 1, act, jax.vmap(dynamics.init)(poses, ee_xy)).pose


def distances(pose: PlanarPose, truth: PlanarPose) -> tuple[np.ndarray, np.ndarray]:
    """Distance in position (mm) and yaw (deg), one per push."""
    turn = wrap_angle(pose.yaw - truth.yaw)
    return 1e3 * np.linalg.norm(pose.xy - truth.xy, axis=-1), np.degrees(np.abs(turn))


def errors(pose: PlanarPose, truth: PlanarPose) -> dict:
    """Median and 95th percentile of the distance in position (mm) and yaw (deg)."""
    position, yaw = distances(pose, truth)

    def summary(x):
        return {"median": float(np.median(x)), "p95": float(np.quantile(x, 0.95))}

    return {"position_mm": summary(position), "yaw_deg": summary(yaw)}
