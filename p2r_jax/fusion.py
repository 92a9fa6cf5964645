"""Fusion of a visual prior with an interaction estimate (Phys2Real eqs. 1-4).

Stateless, as in the paper: at every step the prior is fused with the estimate
of the current window; nothing is remembered.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.types import Gaussian

VARIANCE_FLOOR = 1e-12  # (1 micrometre)^2: two "certain" beliefs still have a mean
VARIANCE_CAP = 1e12


def ensemble_moments(
    means: Float[Array, "members *env k"], variances: Float[Array, "members *env k"]
) -> Gaussian:
    """Mean and total variance of an ensemble (eqs. 1-3).

    theta = mean_i mu_i; the variance is epistemic, mean_i (mu_i - theta)^2,
    plus aleatoric, mean_i sigma_i^2.
    """
    mean = jnp.mean(means, 0)
    epistemic = jnp.mean((means - mean) ** 2, 0)
    return Gaussian(mean, epistemic + jnp.mean(variances, 0))


def fuse(prior: Gaussian, estimate: Gaussian) -> Gaussian:
    """Inverse-variance weighting of two beliefs (eq. 4).

    Finite for every pair of variances: an infinite one contributes nothing,
    two zeros average, two infinities return the plain mean.
    """
    a = jnp.clip(prior.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    b = jnp.clip(estimate.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    weight = b / (a + b)  # = (1/a) / (1/a + 1/b), without overflow
    mean = weight * prior.mean + (1 - weight) * estimate.mean
    return Gaussian(mean, weight * a)
