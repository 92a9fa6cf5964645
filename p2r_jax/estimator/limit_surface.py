"""Quasi-static pushing with force: the wrench that slides the object, and its likelihood.

Slow sliding balances friction at every instant, so the measured wrench lies on the limit
surface and the twist is normal to it (Goyal, Ruina & Papadopoulos 1991). With both known,
the centre of mass is where the surface is centred: no simulation is needed.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.estimator.hypotheses import Hypothesis

STUDENT_FREEDOM = 4.0  # pushes that fit badly pull less (and lose their vote far out)


def friction_wrench(h: Hypothesis, twist: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Wrench that keeps the object sliding with these twists, in units of mu m g.

    Every foot i carries p_i of the weight. Blurred over a core of radius s it slides at
    speed sqrt(|v_i|^2 + (s w)^2): three feet in one place are the ellipsoid
    f = v / S, m = s^2 w / S, S = sqrt(|v|^2 + (s w)^2).

    Args:
      h: hypothesis.
      twist: (v_x, v_y, w) of the centre of mass, object axes; only its direction counts.

    Returns:
      (f_x, f_y, moment about the centre of mass), object axes; moment in m.
    """
    vx, vy, w = (twist[:, i, None] for i in range(3))
    x, y = h.feet[:, 0], h.feet[:, 1]
    sx, sy = vx - w * y, vy + w * x
    slowness = 1 / jnp.sqrt(sx * sx + sy * sy + (h.core * w) ** 2 + 1e-14)
    a, b = h.anisotropy
    nx, ny = slowness * ((1 + a) * sx + b * sy), slowness * (b * sx + (1 - a) * sy)
    moment = x * ny - y * nx + h.core**2 * w * slowness
    return jnp.stack([nx @ h.load, ny @ h.load, moment @ h.load], -1)


def wrench_log_likelihood(
    h: Hypothesis,
    twist: Float[Array, "n 3"],
    wrench: Float[Array, "n 3"],
    twist_noise: Float[Array, " 3"],
) -> Float[Array, " n"]:
    """Student-t likelihood of measured wrenches, push by push, up to a constant.

    The error of the measured motion counts through the slope of the limit surface: where a
    small change of the twist turns the friction far, as near pure rotation about a foot, a
    push pulls less.

    Args:
      h: hypothesis.
      twist: of the object's origin, object axes; m and rad from pose to pose.
      wrench: (f_x, f_y, moment about the object's origin), object axes, N and N m.
      twist_noise: standard deviations of ``twist``.
    """
    cx, cy = h.com
    moment = wrench[:, 2] - (cx * wrench[:, 1] - cy * wrench[:, 0])
    measured = jnp.stack([wrench[:, 0], wrench[:, 1], moment], -1) / h.limit_force
    unit = jnp.stack([1.0, 1.0, h.radius])

    def friction(twist):
        return friction_wrench(h, at_com(h, twist)) / unit

    predicted = friction(twist)
    slope = jnp.stack([friction(twist + d) - predicted for d in jnp.diag(twist_noise)], -1)
    cov = h.wrench_noise**2 * jnp.eye(3) + slope @ jnp.swapaxes(slope, -1, -2)
    return correlated_student_t(measured / unit - predicted, cov)


def correlated_student_t(misfit: Float[Array, "n 3"], cov: Float[Array, "n 3 3"]):
    """Log density of a 3-d Student t, up to a constant; scale matrix in closed form."""
    (a, b, c), (_, d, e), (_, _, f) = (tuple(cov[:, i, j] for j in range(3)) for i in range(3))
    x, y, z = misfit.T
    aa, bb, cc = d * f - e * e, c * e - b * f, b * e - c * d
    dd, ee, ff = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * aa + b * bb + c * cc
    cross = 2 * (x * y * bb + x * z * cc + y * z * ee)
    squared = (x * x * aa + y * y * dd + z * z * ff + cross) / determinant
    tail = 0.5 * (STUDENT_FREEDOM + 3) * jnp.log1p(squared / STUDENT_FREEDOM)
    return -0.5 * jnp.log(determinant) - tail


def at_com(h: Hypothesis, twist: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    """Twists of the object's origin as twists of the centre of mass."""
    (cx, cy), spin = h.com, twist[:, 2]
    return twist + jnp.stack([-cy * spin, cx * spin, 0 * spin], -1)


def student_t(
    misfit: Float[Array, "n d"], scale: Float[Array, "*n"], freedom: float = STUDENT_FREEDOM
) -> Float[Array, " n"]:
    """Log density of a d-dimensional Student t, up to a constant."""
    d = misfit.shape[-1]
    squared = jnp.sum(misfit**2, -1) / scale**2
    return -d * jnp.log(scale) - 0.5 * (freedom + d) * jnp.log1p(squared / freedom)
