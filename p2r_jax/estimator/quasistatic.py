"""One round tool pushes one object slowly: the motion in closed form, step by step.

Slow pushing on an ellipsoidal limit surface with one point contact has a solution without
iteration (Lynch, Maekawa & Tanie 1992): the contact sticks if the force that makes it follow
the tool lies in the friction cone, else it slides along the edge of the cone. About five
times cheaper than the planar dynamics, which is its twin; it knows one contact at a time, so
a tool in an inner corner is beyond it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.sim.footprint import Part, nearest
from p2r_jax.types import PlanarPose, to_object, to_world

LEAST_YIELD = 0.1  # of the normal compliance of a sliding contact; a jammed one has less


def push_along(
    parts: Sequence[Part],
    tool_radius_m: float,
    com: Float[Array, " 2"],
    friction_radius: Float[Array, ""],
    friction_pusher: Float[Array, ""],
    start: Float[Array, " 3"],
    path: Float[Array, "points 2"],
) -> Float[Array, " 3"]:
    """Pose (x, y, yaw) of the object after the tool went straight from point to point, world.

    Args:
      parts: convex parts of the outline, object frame.
      tool_radius_m: of the round tool.
      com: centre of mass, object frame, m.
      friction_radius: of the limit surface, m.
      friction_pusher: coefficient tool-object.
      start: pose of the object.
      path: centres of the tool, world, m; the steps should be small against the object.
    """

    def advance(pose, ends):
        return step(parts, tool_radius_m, com, friction_radius, friction_pusher, pose, *ends), None

    pose = PlanarPose(start[:2], start[2])
    pose, _ = jax.lax.scan(advance, pose, (path[:-1], path[1:]))
    return jnp.concatenate([pose.xy, pose.yaw[None]])


def step(
    parts: Sequence[Part],
    tool_radius_m: float,
    com: Float[Array, " 2"],
    friction_radius: Float[Array, ""],
    friction_pusher: Float[Array, ""],
    pose: PlanarPose,
    before: Float[Array, " 2"],
    after: Float[Array, " 2"],
) -> PlanarPose:
    """The object makes way for a tool that moved from ``before`` to ``after`` (world, m)."""
    came, now = to_object(pose, before), to_object(pose, after)
    nx, ny, distance = nearest(parts, now[0], now[1])
    depth = jnp.maximum(tool_radius_m - distance, 0.0)
    moved = now - came
    approach = -(moved[0] * nx + moved[1] * ny)
    in_contact = jnp.clip(depth / jnp.maximum(approach, 1e-9), 0.0, 1.0)
    along = in_contact * (moved[1] * nx - moved[0] * ny)
    rx, ry = now[0] - tool_radius_m * nx - com[0], now[1] - tool_radius_m * ny - com[1]
    fx, fy = _force(nx, ny, rx, ry, depth, along, friction_radius, friction_pusher)
    turn = (rx * fy - ry * fx) / friction_radius**2
    center = to_world(pose, com)
    center = to_world(PlanarPose(center, pose.yaw + turn / 2), jnp.stack([fx, fy]))
    yaw = pose.yaw + turn
    return PlanarPose(to_world(PlanarPose(center, yaw), -com), yaw)


def _force(nx, ny, rx, ry, depth, along, radius, friction):
    """Force at the contact (and motion of the CoM), scaled so that the object gives way.

    The contact point moves by M f, M = I + a a' / radius^2 with a = (-r_y, r_x): by ``depth``
    against the outward normal, and by ``along`` the tangent (-n_y, n_x) where it sticks.
    """
    # in axes (into the object, tangent) r is (into, .) and a is (side, -into)
    into, side = -(rx * nx + ry * ny), ry * nx - rx * ny
    aa, ab, bb = 1 + (side / radius) ** 2, -side * into / radius**2, 1 + (into / radius) ** 2
    determinant = aa * bb - ab * ab
    stick_n = (bb * depth - ab * along) / determinant
    stick_t = (aa * along - ab * depth) / determinant
    edge = jnp.where(stick_t < 0, -friction, friction)
    slide = depth / jnp.maximum(aa + ab * edge, LEAST_YIELD)
    sticks = jnp.abs(stick_t) <= friction * stick_n
    f_n, f_t = jnp.where(sticks, stick_n, slide), jnp.where(sticks, stick_t, slide * edge)
    return -nx * f_n - ny * f_t, -ny * f_n + nx * f_t
