"""Planar pushing, fast: one object, one round pusher, Coulomb friction, no heights.

Time stepping at the velocity level (Stewart & Trinkle 1996; Moreau): every
substep finds the object's twist v and the contact impulses with

    (M + h D(v)) v = M v0 + sum_i J_i^T lambda_i,      D(v) v = table friction at v,

hard non-penetration with look-ahead, and Coulomb's cone at the pusher. Table
friction is implicit, hence stable at any step; D comes either from the
ellipsoidal limit surface or from the sum over the support points themselves.
Everything is written in the object's axes with the origin at the centre of
mass, where M is diagonal, and in scalars, which XLA fuses into few loops.

Its slow trusted twins are ``planar_mjx`` (the ellipsoid in MuJoCo MJX), ``contact``
and C MuJoCo itself; ``benchmarks/parity.py`` says how far it may be trusted.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.sim.asset import Asset
from p2r_jax.sim.support import friction_radius, support_load
from p2r_jax.types import PhysicsParams, PlanarPose, rotate, to_world

GRAVITY = 9.81
MAX_CONTACTS = 2  # parts touched at once


@dataclass(frozen=True)
class PlanarConfig:
    """Numerical settings of the planar step.

    Attributes:
      substeps: steps per action.
      table_friction: ``ellipsoid`` (limit surface) or ``points`` (sum over support).
      friction_iterations: fixed-point updates of D(v).
      contact_sweeps: Gauss-Seidel sweeps over the parts in contact.
      slip_speed: m/s below which Coulomb friction becomes viscous.
      push_height: let the load shift forward as the pusher acts at mid height
        (``points`` only).
    """

    substeps: int = 10
    table_friction: Literal["ellipsoid", "points"] = "points"
    friction_iterations: int = 3
    contact_sweeps: int = 2
    slip_speed: float = 2e-4
    push_height: bool = True


@struct.dataclass
class PlanarState:
    """Object and pusher between actions.

    Attributes:
      pose: object frame in the world.
      twist: (vx, vy, yaw rate) of the centre of mass, world axes, m/s and rad/s.
      ee_xy: pusher centre, m.
      contact: share of the last action's substeps with pusher contact.
    """

    pose: PlanarPose
    twist: Float[Array, "*env 3"]
    ee_xy: Float[Array, "*env 2"]
    contact: Float[Array, "*env"]


@struct.dataclass
class PlanarCache:
    """What the substeps need of the physics, derived once per episode.

    Attributes:
      radius: friction radius of the ellipsoid, m.
      load: share of the weight on each support point.
      load_gradient: its change per metre of shift of the centre of pressure.
    """

    radius: Float[Array, "*env"]
    load: Float[Array, "*env points"]
    load_gradient: Float[Array, "*env points 2"]


class PlanarDynamics:
    """Planar dynamics of one asset and a round pusher."""

    def __init__(self, asset: Asset, pusher_radius: float, dt_s: float, config: PlanarConfig):
        """Fix shapes and step sizes.

        Args:
          asset: the object; its parts are what the pusher touches.
          pusher_radius: m.
          dt_s: duration of one action, s.
          config: numerical settings.
        """
        self.asset, self.config = asset, config
        self.pusher_radius, self.dt_s = pusher_radius, dt_s

    def init(self, pose: PlanarPose, ee_xy: Float[Array, " 2"]) -> PlanarState:
        """State at rest."""
        return PlanarState(pose, jnp.zeros(3), ee_xy, jnp.zeros(()))

    def derive(self, physics: PhysicsParams) -> PlanarCache:
        """Quantities that change only with the physics."""
        com = physics.com[:2]
        return PlanarCache(
            friction_radius(physics.support, com), *support_load(physics.support, com)
        )

    def advance(
        self,
        physics: PhysicsParams,
        cache: PlanarCache,
        state: PlanarState,
        ee_target: Float[Array, " 2"],
    ) -> PlanarState:
        """Move the pusher in a straight line at constant speed for one action."""
        h = self.dt_s / self.config.substeps
        ee_velocity = (ee_target - state.ee_xy) / self.dt_s
        com_xy = to_world(state.pose, physics.com[:2])
        body = _Body(physics, cache, self.asset, self.pusher_radius, self.config, h)

        def substep(carry, _):
            x, y, yaw, vx, vy, w, px, py, touched = carry
            (vx, vy, w), touching = body.solve(
                (x, y, yaw), (vx, vy, w), (px, py), (ee_velocity[0], ee_velocity[1])
            )
            moved = (x + h * vx, y + h * vy, yaw + h * w)
            pusher = (px + h * ee_velocity[0], py + h * ee_velocity[1])
            return (*moved, vx, vy, w, *pusher, touched + touching), None

        start = (
            com_xy[0],
            com_xy[1],
            state.pose.yaw,
            state.twist[0],
            state.twist[1],
            state.twist[2],
            state.ee_xy[0],
            state.ee_xy[1],
            jnp.zeros(()),
        )
        end, _ = jax.lax.scan(substep, start, None, length=self.config.substeps)
        x, y, yaw, vx, vy, w, px, py, touched = end
        origin = jnp.stack([x, y]) - rotate(yaw, physics.com[:2])
        return PlanarState(
            PlanarPose(origin, yaw),
            jnp.stack([vx, vy, w]),
            jnp.stack([px, py]),
            touched / self.config.substeps,
        )


class _Body:
    """One substep, in scalars; object axes, origin at the centre of mass."""

    def __init__(self, physics, cache, asset, pusher_radius, config, h):
        self.config, self.h, self.pusher_radius = config, h, pusher_radius
        self.parts = asset.parts
        self.com = (physics.com[0], physics.com[1])
        self.mass, self.izz = physics.mass, physics.inertia[2, 2]
        self.mu = physics.friction_pusher
        self.force = physics.friction_table * physics.mass * GRAVITY
        self.radius = cache.radius
        self.load, self.load_gradient = cache.load, cache.load_gradient
        self.tilt = physics.friction_table * asset.height_m / 2
        self.rest = physics.support - physics.com[:2]

    def solve(self, pose, twist, pusher, pusher_velocity):
        """New twist (world axes) and whether the pusher touches."""
        x, y, yaw = pose
        c, s = jnp.cos(yaw), jnp.sin(yaw)
        v0 = (c * twist[0] + s * twist[1], c * twist[1] - s * twist[0], twist[2])
        dx, dy = pusher[0] - x, pusher[1] - y
        p = (c * dx + s * dy, c * dy - s * dx)
        u = (
            c * pusher_velocity[0] + s * pusher_velocity[1],
            c * pusher_velocity[1] - s * pusher_velocity[0],
        )
        contacts = self._contacts(p, u)
        v, touching = v0, 0.0
        for _ in range(self.config.friction_iterations):
            v, touching = self._solve_contacts(self._inverse(v), v0, contacts)
        return (c * v[0] - s * v[1], s * v[0] + c * v[1], v[2]), touching

    def _contacts(self, p, u):
        """Contacts with the ``MAX_CONTACTS`` nearest parts; a disc touches no more at once."""
        x, y = p[0] + self.com[0], p[1] + self.com[1]
        nearest = [part.nearest(x, y) for part in self.parts]
        for place in range(MAX_CONTACTS if len(nearest) > MAX_CONTACTS else 0):  # selection sort
            for other in range(place + 1, len(nearest)):
                a, b = nearest[place], nearest[other]
                swap = b[2] < a[2]
                nearest[place] = tuple(jnp.where(swap, w, v) for v, w in zip(a, b, strict=True))
                nearest[other] = tuple(jnp.where(swap, v, w) for v, w in zip(a, b, strict=True))
        return [self._contact(*near, p, u) for near in nearest[:MAX_CONTACTS]]

    def _contact(self, nx, ny, distance, p, u):
        """Jacobian rows (normal, tangent) of a touching part and the velocities to reach."""
        gap = distance - self.pusher_radius
        cx, cy = p[0] - nx * distance, p[1] - ny * distance
        normal = (nx, ny, cx * ny - cy * nx)
        tangent = (-ny, nx, cx * nx + cy * ny)
        reach_n = u[0] * nx + u[1] * ny + gap / self.h
        reach_t = -u[0] * ny + u[1] * nx
        return normal, tangent, reach_n, reach_t

    def _inverse(self, v):
        """(M + h D(v))^-1 as (a, b, d, e, f, g): a symmetric 3 x 3 matrix."""
        if self.config.table_friction == "ellipsoid":
            return self._inverse_ellipsoid(v)
        return self._inverse_points(v)

    def _inverse_ellipsoid(self, v):
        slip = v[0] ** 2 + v[1] ** 2 + (self.radius * v[2]) ** 2
        drag = self.h * self.force * jax.lax.rsqrt(slip + self.config.slip_speed**2)
        a = 1.0 / (self.mass + drag)
        return a, 0.0, 0.0, a, 0.0, 1.0 / (self.izz + drag * self.radius**2)

    def _inverse_points(self, v):
        px, py = self.rest[:, 0], self.rest[:, 1]
        sx, sy = v[0] - v[2] * py, v[1] + v[2] * px
        slowness = jax.lax.rsqrt(sx * sx + sy * sy + self.config.slip_speed**2)
        drag = self.load * slowness
        if self.config.push_height:
            # pushing above the table presses the leading points: moment balance moves the
            # centre of pressure by (friction force / weight) x height
            ahead_x, ahead_y = self.tilt * (drag * sx).sum(), self.tilt * (drag * sy).sum()
            gx, gy = self.load_gradient[:, 0], self.load_gradient[:, 1]
            drag = jnp.maximum(self.load + ahead_x * gx + ahead_y * gy, 0.0) * slowness
        scale = self.h * self.force
        total = scale * drag.sum()
        kx, ky = -scale * (drag * py).sum(), scale * (drag * px).sum()
        kw = self.izz + scale * (drag * (px * px + py * py)).sum()
        m = self.mass + total
        # [[m, 0, kx], [0, m, ky], [kx, ky, kw]] inverted by its Schur complement
        g = 1.0 / (kw - (kx * kx + ky * ky) / m)
        d, f = -g * kx / m, -g * ky / m
        return 1.0 / m - d * kx / m, -d * ky / m, d, 1.0 / m - f * ky / m, f, g

    def _solve_contacts(self, inverse, v0, contacts):
        """Twist after contact, by block Gauss-Seidel; exact for a single contact."""
        free = _apply(inverse, (self.mass * v0[0], self.mass * v0[1], self.izz * v0[2]))
        rows = []
        for normal, tangent, reach_n, reach_t in contacts:
            an, at = _apply(inverse, normal), _apply(inverse, tangent)
            rows.append(
                (
                    normal,
                    tangent,
                    reach_n,
                    reach_t,
                    an,
                    at,
                    _dot(normal, an),
                    _dot(normal, at),
                    _dot(tangent, at),
                )
            )
        impulses = [(0.0, 0.0)] * len(rows)
        v = free
        sweeps = self.config.contact_sweeps if len(rows) > 1 else 1
        for _ in range(sweeps):
            for i, (normal, tangent, reach_n, reach_t, an, at, gnn, gnt, gtt) in enumerate(rows):
                old_n, old_t = impulses[i]
                rn = reach_n - _dot(normal, v) + gnn * old_n + gnt * old_t
                rt = reach_t - _dot(tangent, v) + gnt * old_n + gtt * old_t
                new_n, new_t = self._cone(rn, rt, gnn, gnt, gtt)
                dn, dt = new_n - old_n, new_t - old_t
                v = tuple(a + dn * b + dt * c for a, b, c in zip(v, an, at, strict=True))
                impulses[i] = (new_n, new_t)
        touching = sum(n < 0 for n, _ in impulses) > 0
        return v, touching.astype(jnp.float32)

    def _cone(self, rn, rt, gnn, gnt, gtt):
        """Impulse along (n, t) that reaches (rn, rt): stick, else slide, else nothing."""
        det = gnn * gtt - gnt * gnt
        stick_n, stick_t = (gtt * rn - gnt * rt) / det, (gnn * rt - gnt * rn) / det
        sign = jnp.where(stick_t < 0, -1.0, 1.0)
        # sliding: t = -sign mu n with n < 0 (the pusher pushes along -n)
        slide_n = rn / jnp.maximum(gnn - sign * self.mu * gnt, 0.1 * gnn)
        sticks = (stick_n < 0) & (jnp.abs(stick_t) <= -self.mu * stick_n)
        n = jnp.where(sticks, stick_n, slide_n)
        t = jnp.where(sticks, stick_t, -sign * self.mu * slide_n)
        active = rn < 0
        return jnp.where(active, n, 0.0), jnp.where(active, t, 0.0)


def _apply(m, v):
    a, b, d, e, f, g = m
    return (
        a * v[0] + b * v[1] + d * v[2],
        b * v[0] + e * v[1] + f * v[2],
        d * v[0] + f * v[1] + g * v[2],
    )


def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
