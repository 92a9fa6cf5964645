"""MuJoCo's soft contacts as a convex problem in six unknowns, solved by Newton.

The acceleration a of the object's centre of mass minimises (MuJoCo, "Computation")

    1/2 a' M a - f' a + sum_i s_i(J_i a - aref_i),

where s_i is the cost of an elliptic contact with friction mu, weight D (1/R of the
normal row, ``impratio`` D of the tangential ones), m^2 = mu^2 / impratio:

    sticking, m^2 n + mu t <= 0:    D/2 (n^2 + impratio t^2)
    sliding, between the two:       D / (2 (1 + m^2)) (n - mu t)^2
    parted, n >= mu t:              0

for normal part n and length t of the tangential part of J a - aref. The same
formulas as in C MuJoCo and MJX, for one body of six degrees of freedom.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.sim.contact_scalars import Symmetric, Vector, add, cross, dot, scale, solve, times

SQUARE_FLOOR = 1e-20  # (m/s^2)^2; keeps square roots differentiable at zero


class Body(NamedTuple):
    """Left-hand side of the problem: the object without contacts, world axes.

    Attributes:
      mass: kg.
      inertia: about the centre of mass, kg m^2.
      force: force and torque at the centre of mass, gyroscopic torque included.
    """

    mass: Array
    inertia: Symmetric
    force: Vector

    def momentum(self, motion: Vector) -> Vector:
        """M times a motion (linear and angular part)."""
        return scale(self.mass, motion[:3]) + times(self.inertia, motion[3:])


class Contacts(NamedTuple):
    """Contacts of one environment: arrays over the contacts, world axes.

    Attributes:
      lever: contact points from the centre of mass, m.
      normal: unit vectors into the object.
      offset: J a - aref less the acceleration of the point, m/s^2.
      weight: D of the normal row, 1/R; zero where nothing touches.
      friction: mu, Coulomb coefficient.
    """

    lever: Vector
    normal: Vector
    offset: Vector
    weight: Float[Array, " contacts"]
    friction: Float[Array, " contacts"]

    def motion(self, motion: Vector) -> Vector:
        """What a motion of the body is at the contact points."""
        return add(motion[:3], cross(motion[3:], self.lever))

    def split(self, vector: Vector) -> tuple[Array, Vector]:
        """Normal and tangential part."""
        normal = dot(self.normal, vector)
        return normal, tuple(v - normal * n for v, n in zip(vector, self.normal, strict=True))

    def zones(self, normal: Array, tangential: Array, impratio: float) -> tuple[Array, ...]:
        """Which contacts stick, which slide, the stiffness of sliding, and n - mu t."""
        mu = self.friction
        sticks = mu * normal <= -impratio * tangential
        slides = ~sticks & (normal < mu * tangential)
        stiffness = self.weight / (1 + mu * mu / impratio)
        return sticks, slides, stiffness, normal - mu * tangential


def solve_acceleration(
    body: Body,
    contacts: Contacts,
    impratio: float,
    last: Vector,
    iterations: int,
    ls_iterations: int,
    materialize: Callable,
) -> Vector:
    """Acceleration of the centre of mass: linear, then angular.

    Newton starts from the last step's acceleration or from none, whichever costs
    less: pushing is steady most of the time, and when a contact is made or broken
    the last acceleration is far off.

    Args:
      body, contacts: the problem.
      impratio: MuJoCo's ratio of friction to normal impedance.
      last: acceleration of the last step.
      iterations, ls_iterations: Newton steps and line-search steps in each.
      materialize: see ``contact_scalars``.
    """
    still = tuple(jnp.zeros_like(x) for x in last)
    costs = [_cost(body, contacts, impratio, x) for x in (still, last)]
    (rest_is_better,) = materialize((costs[0] < costs[1],))

    def newton(_, acceleration):
        residual = add(contacts.motion(acceleration), contacts.offset)
        force, hessian = materialize(_contact_derivatives(contacts, residual, impratio))
        gradient, lower = materialize(_assemble(body, contacts, acceleration, force, hessian))
        step = materialize(scale(-1.0, solve(lower, gradient)))
        slope = jnp.minimum(dot(gradient, step), 0.0)  # rounding, at the minimum
        alpha = _line_search(
            body, contacts, impratio, acceleration, residual, step, slope, ls_iterations,
            materialize,
        )  # fmt: skip
        return add(acceleration, scale(alpha, step))

    start = tuple(jnp.where(rest_is_better, 0.0, x) for x in last)
    return jax.lax.fori_loop(0, iterations, newton, start)


def _cost(body: Body, contacts: Contacts, impratio: float, acceleration: Vector) -> Array:
    residual = add(contacts.motion(acceleration), contacts.offset)
    n, tangent = contacts.split(residual)
    square = dot(tangent, tangent)
    sticks, slides, stiffness, excess = contacts.zones(n, jnp.sqrt(square + SQUARE_FLOOR), impratio)
    sliding = jnp.where(slides, stiffness * excess * excess, 0.0)
    cost = jnp.where(sticks, contacts.weight * (n * n + impratio * square), sliding)
    smooth = 0.5 * dot(acceleration, body.momentum(acceleration)) - dot(acceleration, body.force)
    return 0.5 * cost.sum() + smooth


def _contact_derivatives(
    contacts: Contacts, residual: Vector, impratio: float
) -> tuple[Vector, Symmetric]:
    """Gradient and Hessian of the contacts' costs with respect to their points."""
    mu, weight, normal = contacts.friction, contacts.weight, contacts.normal
    n, tangent = contacts.split(residual)
    t = jnp.sqrt(dot(tangent, tangent) + SQUARE_FLOOR)
    sticks, slides, stiffness, excess = contacts.zones(n, t, impratio)
    sliding = jnp.where(slides, stiffness, 0.0)
    along_normal = jnp.where(sticks, weight * n, sliding * excess)
    per_tangent = jnp.where(sticks, impratio * weight, -sliding * mu * excess / t)
    gradient = tuple(
        along_normal * a + per_tangent * b for a, b in zip(normal, tangent, strict=True)
    )
    # H = p E + (d - p) n n' - mu k (n u' + u n') + (mu^2 k - p [sliding]) u u', u = tangent / t
    nn = jnp.where(sticks, weight, sliding) - per_tangent
    nu = -mu * sliding
    uu = mu * mu * sliding - jnp.where(slides, per_tangent, 0.0)
    unit = scale(1 / t, tangent)

    def entry(i, j):
        mixed = normal[i] * unit[j] + normal[j] * unit[i]
        return nn * normal[i] * normal[j] + nu * mixed + uu * unit[i] * unit[j]

    diagonal = tuple(per_tangent + entry(i, i) for i in range(3))
    return gradient, (*diagonal, entry(0, 1), entry(0, 2), entry(1, 2))


def _assemble(
    body: Body, contacts: Contacts, acceleration: Vector, force: Vector, hessian: Symmetric
) -> tuple[Vector, list[list[Array]]]:
    """Gradient, and lower triangle of the Hessian, of the whole problem."""
    contact = tuple(x.sum() for x in force + cross(contacts.lever, force))
    smooth = zip(body.momentum(acceleration), body.force, contact, strict=True)
    gradient = tuple(m - f + c for m, f, c in smooth)
    # a point moves by dv + dw x lever: the blocks are C, L C and L C L' with L = [lever]x
    xx, yy, zz, xy, xz, yz = hessian
    columns = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
    mixed = [cross(contacts.lever, column) for column in columns]
    turning = [cross(contacts.lever, row) for row in zip(*mixed, strict=True)]
    ixx, iyy, izz, ixy, ixz, iyz = body.inertia
    inertia = ((ixx,), (ixy, iyy), (ixz, iyz, izz))
    lower = [[columns[i][j].sum() for j in range(i + 1)] for i in range(3)]
    for i in range(3):
        lower[i][i] = lower[i][i] + body.mass
        below = [mixed[j][i].sum() for j in range(3)]
        below += [inertia[i][j] + turning[i][j].sum() for j in range(i + 1)]
        lower.append(below)
    return gradient, lower


def _line_search(
    body: Body,
    contacts: Contacts,
    impratio: float,
    acceleration: Vector,
    residual: Vector,
    step: Vector,
    slope_at_zero: Array,
    iterations: int,
    materialize: Callable,
) -> Array:
    """Share of the step to take: root of the slope along it.

    Newton from 1 until the slope turns positive, then false position. Contacts that stick,
    slide or part make the slope a chain of pieces of very different steepness: Newton would
    leave the bracket, and halving it instead ends far from the root after few iterations.
    """
    mu, weight = contacts.friction, contacts.weight
    n, tangent = contacts.split(residual)
    dn, change = contacts.split(contacts.motion(step))
    uu, uv, vv = dot(tangent, tangent), dot(tangent, change), dot(change, change)
    pull = dot(step, body.momentum(acceleration)) - dot(step, body.force)
    inertia = dot(step, body.momentum(step))
    n, dn, uu, uv, vv, pull, inertia = materialize((n, dn, uu, uv, vv, pull, inertia))

    def slope(alpha):
        normal, cross_term = n + alpha * dn, uv + alpha * vv
        t = jnp.sqrt(jnp.maximum(uu + alpha * (uv + cross_term), 0.0) + SQUARE_FLOOR)
        sticks, slides, stiffness, excess = contacts.zones(normal, t, impratio)
        dt = cross_term / t
        ddt = (vv - dt * dt) / t
        rate = dn - mu * dt
        sliding = jnp.where(slides, stiffness, 0.0)
        first = jnp.where(
            sticks, weight * (normal * dn + impratio * cross_term), sliding * excess * rate
        )
        second = jnp.where(
            sticks,
            weight * (dn * dn + impratio * vv),
            sliding * (rate * rate - excess * mu * ddt),
        )
        first, second = materialize((first, second))
        return pull + alpha * inertia + first.sum(), inertia + second.sum()

    def closer(_, bracket):
        alpha, low, high, slope_low, slope_high = bracket
        first, second = slope(alpha)
        falls = first < 0
        low, slope_low = jnp.where(falls, alpha, low), jnp.where(falls, first, slope_low)
        high, slope_high = jnp.where(falls, high, alpha), jnp.where(falls, slope_high, first)
        newton = alpha - first / second
        beyond = jnp.where(newton > low, newton, 2 * alpha)
        # at the minimum both slopes are zero
        share = slope_high / jnp.maximum(slope_high - slope_low, SQUARE_FLOOR)
        between = high - share * (high - low)
        return jnp.where(slope_high < 0, beyond, between), low, high, slope_low, slope_high

    one = jnp.ones_like(pull)
    bracket = (one, jnp.zeros_like(one), one, slope_at_zero, -one)  # no upper end yet
    return jax.lax.fori_loop(0, iterations, closer, bracket)[0]
