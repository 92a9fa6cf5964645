"""The contact step written for this one scene: an object on points, an exactly driven pusher.

The same physics as MJX on the scene of ``contact.driven_scene`` (sphere-plane and
sphere-prism contacts, MuJoCo's reference accelerations and impedances, elliptic
cones, semi-implicit Euler), in scalars and for the object's six degrees of freedom
only: the pusher moves as it is told, so that it enters as a known velocity. Its slow
trusted twins are MJX itself (``ContactConfig.solver = "mjx"``) and C MuJoCo.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float

from p2r_jax.sim.contact_newton import Body, Contacts, solve_acceleration
from p2r_jax.sim.contact_scalars import (
    Matrix,
    Vector,
    add,
    cross,
    materialize,
    rotate,
    rotated,
    rotation,
    scale,
    subtract,
    turned,
    unrotate,
)
from p2r_jax.sim.footprint import Part
from p2r_jax.sim.mjcf import SUPPORT_RADIUS
from p2r_jax.sim.planar import GRAVITY
from p2r_jax.types import PhysicsParams


@dataclass(frozen=True)
class Softness:
    """How a contact gives way, in MuJoCo's terms.

    Attributes:
      solref: time constant (s) and damping ratio, both positive.
      solimp: impedance at no depth and at ``width``, width (m), midpoint, power.
    """

    solref: tuple[float, float]
    solimp: tuple[float, ...]

    def __post_init__(self):
        if min(self.solref) <= 0:
            raise ValueError(f"solref {self.solref} is MuJoCo's direct form; give a time constant")

    def reference(self, distance: Array, step_s: float) -> tuple[Array, float, Array]:
        """Reference acceleration from the depth, damping (1/s), and impedance ratio d / (1 - d).

        Args:
          distance: m, negative in contact.
          step_s: physics step; time constants below twice of it are raised, as MuJoCo does.
        """
        low, high, width, middle, power = self.solimp
        low, high, middle = (
            min(max(x, mujoco.mjMINIMP), mujoco.mjMAXIMP) for x in (low, high, middle)
        )
        constant, ratio = max(self.solref[0], 2 * step_s), self.solref[1]
        x = jnp.minimum(jnp.abs(distance) / width, 1.0)
        power = int(power) if power == int(power) else power
        rise = x**power / middle ** (power - 1)
        fall = 1 - (1 - x) ** power / (1 - middle) ** (power - 1)
        impedance = low + (high - low) * jnp.where(x < middle, rise, fall)
        stiffness = 1 / (high * constant * ratio) ** 2
        damping = 2 / (high * constant)
        return stiffness * impedance * distance, damping, impedance / (1 - impedance)


@dataclass(frozen=True)
class FusedScene:
    """What does not change from episode to episode.

    Attributes:
      parts: convex parts of the object's footprint.
      height_m: of the object.
      pusher_radius: m; a sphere at the object's mid height.
      pusher_invweight: MuJoCo's ``body_invweight0`` of the pusher, 1/kg.
      table, pusher: softness of the two kinds of contact.
      impratio, iterations, ls_iterations: see ``ContactConfig``.
      step_s: physics step, s.
      substeps: physics steps per action.
    """

    parts: tuple[Part, ...]
    height_m: float
    pusher_radius: float
    pusher_invweight: float
    table: Softness
    pusher: Softness
    impratio: float
    iterations: int
    ls_iterations: int
    step_s: float
    substeps: int


class Motion(NamedTuple):
    """State of the object in MuJoCo's coordinates, as scalars.

    Attributes:
      origin: of the object frame in the world, m.
      quaternion: (w, x, y, z).
      velocity: of the origin, world axes, m/s.
      spin: angular velocity, object axes, rad/s.
      acceleration: of the last step, in the coordinates of ``velocity`` and ``spin``.
    """

    origin: Vector
    quaternion: Vector
    velocity: Vector
    spin: Vector
    acceleration: Vector


class Frame(NamedTuple):
    """The object between two steps, world axes.

    Attributes:
      axes: object axes, as rotation matrix.
      arm: from the origin of the object frame to the centre of mass, m.
      center: centre of mass, m.
      twist: velocity of the centre of mass and angular velocity.
      swing: spin x (spin x arm), m/s^2.
    """

    axes: Matrix
    arm: Vector
    center: Vector
    twist: Vector
    swing: Vector


def advance(
    scene: FusedScene,
    physics: PhysicsParams,
    qpos: Float[Array, " 7"],
    qvel: Float[Array, " 6"],
    qacc: Float[Array, " 6"],
    ee_xy: Float[Array, " 2"],
    ee_velocity: Float[Array, " 2"],
) -> tuple[Float[Array, " 7"], Float[Array, " 6"], Float[Array, " 6"], Float[Array, ""]]:
    """One action: the pusher moves in a straight line at constant speed.

    Args:
      scene: static.
      physics: of this environment.
      qpos, qvel: of the object's free joint.
      qacc: acceleration of the last step.
      ee_xy, ee_velocity: pusher at the start, m and m/s.

    Returns:
      qpos, qvel, qacc after the action, and the share of the steps with pusher contact.
    """

    def substep(carry, index):
        motion, touched = carry
        border = functools.partial(materialize, index >= 0)
        pusher = tuple(ee_xy + index * scene.step_s * ee_velocity)
        motion, touching = _step(scene, physics, motion, pusher, tuple(ee_velocity), border)
        return (motion, touched + touching), None

    start = Motion(*map(tuple, (qpos[:3], qpos[3:], qvel[:3], qvel[3:], qacc)))
    start = (start, jnp.zeros_like(ee_xy[0]))
    (motion, touched), _ = jax.lax.scan(substep, start, jnp.arange(scene.substeps))
    qpos = jnp.stack(motion.origin + motion.quaternion)
    qvel = jnp.stack(motion.velocity + motion.spin)
    return qpos, qvel, jnp.stack(motion.acceleration), touched / scene.substeps


def _step(
    scene: FusedScene,
    physics: PhysicsParams,
    motion: Motion,
    pusher: Vector,
    pusher_velocity: Vector,
    border: Callable,
) -> tuple[Motion, Array]:
    """One physics step, and whether the pusher touches at its start (1.0 or 0.0)."""
    frame, body, last = border(_kinematics(physics, motion))
    contacts, gap = _contacts(scene, physics, motion, frame, pusher, pusher_velocity)
    contacts = border(contacts)
    acceleration = solve_acceleration(
        body, contacts, scene.impratio, last, scene.iterations, scene.ls_iterations, border
    )
    return _integrated(scene.step_s, motion, frame, acceleration), (gap < 0).astype(gap.dtype)


def _kinematics(physics: PhysicsParams, motion: Motion) -> tuple[Frame, Body, Vector]:
    """World-axes quantities of a state, and the last acceleration at the centre of mass."""
    axes = rotation(motion.quaternion)
    arm = rotate(axes, tuple(physics.com))
    spin = rotate(axes, motion.spin)
    drift = cross(spin, arm)
    swing = cross(spin, drift)
    frame = Frame(axes, arm, add(motion.origin, arm), add(motion.velocity, drift) + spin, swing)
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = physics.inertia
    body = Body(physics.mass, rotated(axes, (xx, yy, zz, xy, xz, yz)), ())
    torque = cross(body.momentum(frame.twist)[3:], spin)
    still = jnp.zeros_like(physics.mass)
    body = body._replace(force=(still, still, -GRAVITY * physics.mass, *torque))
    turning = rotate(axes, motion.acceleration[3:])
    linear = add(add(motion.acceleration[:3], cross(turning, arm)), swing)
    return frame, body, linear + turning


def _contacts(
    scene: FusedScene,
    physics: PhysicsParams,
    motion: Motion,
    frame: Frame,
    pusher: Vector,
    pusher_velocity: Vector,
) -> tuple[Contacts, Array]:
    """Table contacts, then one per part with the pusher, whose smallest gap (m) follows."""
    zero = jnp.zeros_like(physics.support[:, 0])
    foot = (physics.support[:, 0], physics.support[:, 1], zero + _foot_z(scene))
    point = rotate(frame.axes, foot)
    gap = motion.origin[2] + point[2] - SUPPORT_RADIUS
    # MuJoCo puts a contact midway between the surfaces, here at half the gap above the table
    lever = (point[0] - frame.arm[0], point[1] - frame.arm[1], 0.5 * gap - frame.center[2])
    table = _soft_contacts(
        frame, lever, (zero, zero, zero + 1), gap, (0.0, 0.0, 0.0),
        scene.table, 1 / physics.mass, physics.friction_table, scene.step_s,
    )  # fmt: skip
    ball = (*pusher, scene.height_m / 2)
    normal, gap = _ball_and_parts(scene, motion, frame, ball)
    lever = add(subtract(ball, frame.center), scale(scene.pusher_radius + 0.5 * gap, normal))
    parts = _soft_contacts(
        frame, lever, normal, gap, (*pusher_velocity, 0.0),
        scene.pusher, 1 / physics.mass + scene.pusher_invweight, physics.friction_pusher,
        scene.step_s,
    )  # fmt: skip
    both = jax.tree.map(lambda *x: jnp.concatenate(x), table, parts)
    return both, gap.min()


def _foot_z(scene: FusedScene) -> float:
    return SUPPORT_RADIUS - scene.height_m / 2


def _soft_contacts(
    frame: Frame,
    lever: Vector,
    normal: Vector,
    gap: Array,
    against: Vector,
    softness: Softness,
    invweight: Array,
    friction: Array,
    step_s: float,
) -> Contacts:
    """Contacts with something that moves at the velocity ``against``."""
    push, damping, ratio = softness.reference(gap, step_s)
    slip = subtract(add(frame.twist[:3], cross(frame.twist[3:], lever)), against)
    # MuJoCo's J qacc leaves out what the point accelerates at zero qacc, on both sides
    wanted = add(scale(damping, slip), scale(push, normal))
    offset = subtract(wanted, frame.swing)
    weight = jnp.where(gap < 0, ratio / invweight, 0.0)
    return Contacts(lever, normal, offset, weight, jnp.broadcast_to(friction, gap.shape))


def _ball_and_parts(
    scene: FusedScene, motion: Motion, frame: Frame, ball: Vector
) -> tuple[Vector, Array]:
    """Normals from the pusher into each part, world axes, and the gaps between them, m."""
    x, y, z = unrotate(frame.axes, subtract(ball, motion.origin))
    nearest = [part.nearest(x, y) for part in scene.parts]
    nx, ny, beside = (jnp.stack(values) for values in zip(*nearest, strict=True))
    above, up = jnp.abs(z) - scene.height_m / 2, jnp.sign(z)
    # an upright prism: its side, its top or bottom, or the edge between them
    edge = jnp.maximum(beside, 0.0) * jnp.maximum(above, 0.0) > 0
    beyond = jnp.sqrt(jnp.where(edge, beside * beside + above * above, 1.0))
    along = jnp.where(edge, beside / beyond, 1.0 * (beside >= above))
    upward = jnp.where(edge, above / beyond, 1.0 * (beside < above))
    distance = jnp.where(edge, beyond, jnp.maximum(beside, above))
    outward = (along * nx, along * ny, upward * up)
    return rotate(frame.axes, scale(-1.0, outward)), distance - scene.pusher_radius


def _integrated(step_s: float, motion: Motion, frame: Frame, acceleration: Vector) -> Motion:
    """Semi-implicit Euler in MuJoCo's coordinates."""
    turning = acceleration[3:]
    linear = subtract(subtract(acceleration[:3], cross(turning, frame.arm)), frame.swing)
    angular = unrotate(frame.axes, turning)
    velocity = add(motion.velocity, scale(step_s, linear))
    spin = add(motion.spin, scale(step_s, angular))
    origin = add(motion.origin, scale(step_s, velocity))
    quaternion = turned(motion.quaternion, spin, step_s)
    return Motion(origin, quaternion, velocity, spin, linear + angular)
