"""The pytrees that every room shares, and the planar geometry they need.

SI units and radians everywhere. Frames: ``world`` is the robot's base frame;
``object`` is the centre of the footprint's bounding box, +x along the axis
whose centre of mass is unknown. ``T_a_b`` maps b-coordinates into a.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class PhysicsParams:
    """What the world does to the object: a traced pytree, drawn anew at every reset.

    Attributes:
      mass: object mass, kg.
      com: centre of mass in the object frame, m.
      inertia: inertia about the centre of mass, object axes, kg m^2.
      friction_table: effective (product) Coulomb coefficient object-table.
      friction_pusher: effective (product) Coulomb coefficient object-pusher.
      support: points of the footprint that rest on the table, object frame, m.
    """

    mass: Float[Array, "*env"]
    com: Float[Array, "*env 3"]
    inertia: Float[Array, "*env 3 3"]
    friction_table: Float[Array, "*env"]
    friction_pusher: Float[Array, "*env"]
    support: Float[Array, "*env points 2"]


@struct.dataclass
class PlanarPose:
    """Pose of the object frame on the table.

    Attributes:
      xy: origin of the object frame in the world, m.
      yaw: rotation about +z, rad (not wrapped).
    """

    xy: Float[Array, "*env 2"]
    yaw: Float[Array, "*env"]


@struct.dataclass
class Gaussian:
    """A belief about theta with independent components.

    Attributes:
      mean: m (or the component's own unit).
      variance: the same unit squared; may be infinite ("knows nothing").
    """

    mean: Float[Array, "*env k"]
    variance: Float[Array, "*env k"]


class Measurement(NamedTuple):
    """What a robot can measure at a control step; the only input of a policy step.

    Attributes:
      object_pose: pose of the object, world frame.
      ee_xy: position of the pusher's tip, world frame, m.
    """

    object_pose: PlanarPose
    ee_xy: Float[Array, "*env 2"]


def wrap_angle(angle: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Angle in [-pi, pi), rad; NumPy in, NumPy out (and float64 stays)."""
    return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi


def rotate(yaw: Float[Array, "*n"], v: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """Rotate v by +yaw: object axes -> world axes when yaw is the object's."""
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    return jnp.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], -1)


def to_object(pose: PlanarPose, point: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """World point -> object frame, m."""
    return rotate(-pose.yaw, point - pose.xy)


def to_world(pose: PlanarPose, point: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """Object-frame point -> world, m."""
    return pose.xy + rotate(pose.yaw, point)


def tree_where(condition: Float[Array, "*env"], a, b):
    """Per environment: leaves of ``a`` where condition holds, else those of ``b``."""

    def pick(x, y):
        mask = jnp.reshape(condition, condition.shape + (1,) * (x.ndim - condition.ndim))
        return jnp.where(mask, x, y)

    return jax.tree.map(pick, a, b)
