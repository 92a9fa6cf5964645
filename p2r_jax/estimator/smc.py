"""A sampler for posteriors that are cheap in bulk: tempered sequential Monte Carlo.

Particles start from the prior N(0, I) and follow prior x likelihood^b as b rises from 0
to 1, each step as large as half of the effective sample size allows (Del Moral, Doucet &
Jasra 2006). No gradients: contact has none worth having.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

STEP_SIZES = (2.0, 0.6)  # of a random-walk move, in units of the particles' spread / sqrt(dim)


@dataclass(frozen=True)
class SmcConfig:
    """Cost and care of the sampler.

    Attributes:
      particles: how many.
      moves: random-walk moves after each tempering step.
      last_moves: further moves at b = 1.
      stages: tempering steps at most; past it b jumps to 1.
    """

    particles: int = 1024
    moves: int = 4
    last_moves: int = 8
    stages: int = 30


@struct.dataclass
class Samples:
    """What the sampler returns.

    Attributes:
      z: equally weighted samples.
      stages: tempering steps taken.
      acceptance: share of the last moves accepted.
    """

    z: Float[Array, "particles dim"]
    stages: Float[Array, ""]
    acceptance: Float[Array, ""]


def sample(
    log_likelihood: Callable[[Float[Array, "particles dim"]], Float[Array, " particles"]],
    dim: int,
    key: Array,
    config: SmcConfig,
) -> Samples:
    """Samples of N(0, I) x exp(log_likelihood).

    Args:
      log_likelihood: of all particles at once; finite.
      dim: size of a particle.
      key: random.
      config: cost and care.
    """
    key_start, key_last, key = jax.random.split(key, 3)
    z = jax.random.normal(key_start, (config.particles, dim))

    def unfinished(carry):
        _, _, b, stage, _ = carry
        return (b < 1) & (stage < config.stages)

    def temper(carry):
        z, ll, b, stage, key = carry
        key_pick, key_move, key = jax.random.split(key, 3)
        b_next = jnp.where(stage == config.stages - 1, 1.0, _next_power(ll, b))
        chosen = systematic_resampling((b_next - b) * ll, key_pick)
        z, ll = z[chosen], ll[chosen]
        z, ll, _ = _move(log_likelihood, z, ll, b_next, key_move, config.moves)
        return z, ll, b_next, stage + 1, key

    start = (z, log_likelihood(z), jnp.zeros(()), jnp.zeros((), jnp.int32), key)
    z, ll, b, stages, _ = jax.lax.while_loop(unfinished, temper, start)
    z, _, accepted = _move(log_likelihood, z, ll, b, key_last, config.last_moves)
    return Samples(z, stages.astype(jnp.float32), accepted)


def _next_power(ll, b):
    """Largest power that keeps half of the effective sample size, by bisection."""

    def keeps_half(power):
        w = jax.nn.softmax((power - b) * ll)
        return jnp.sum(w) ** 2 >= 0.5 * ll.shape[0] * jnp.sum(w * w)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        good = keeps_half(middle)
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    low, _ = jax.lax.fori_loop(0, 25, halve, (b, jnp.ones(())))
    return jnp.where(keeps_half(jnp.ones(())), 1.0, jnp.maximum(low, b + 1e-6))


def systematic_resampling(
    log_weight: Float[Array, " particles"], key: Array
) -> Int[Array, " particles"]:
    """Indices of particles, as many as there are, drawn in proportion to their weights."""
    n = log_weight.shape[0]
    u = (jax.random.uniform(key) + jnp.arange(n)) / n
    return jnp.clip(jnp.searchsorted(jnp.cumsum(jax.nn.softmax(log_weight)), u), 0, n - 1)


def _move(log_likelihood, z, ll, b, key, moves: int):
    """Random-walk Metropolis moves of all particles, shaped by their own spread."""
    n, dim = z.shape
    root = jnp.linalg.cholesky(jnp.atleast_2d(jnp.cov(z.T)) + 1e-6 * jnp.eye(dim))

    def move(carry, key):
        z, ll = carry
        key_step, key_size, key_accept = jax.random.split(key, 3)
        big = jax.random.uniform(key_size, (n, 1)) < 0.5
        size = jnp.where(big, *STEP_SIZES) / dim**0.5
        tried = z + size * jax.random.normal(key_step, z.shape) @ root.T
        ll_tried = log_likelihood(tried)
        gain = b * (ll_tried - ll) - 0.5 * (jnp.sum(tried**2, 1) - jnp.sum(z**2, 1))
        accept = jnp.log(jax.random.uniform(key_accept, (n,))) < gain
        z = jnp.where(accept[:, None], tried, z)
        return (z, jnp.where(accept, ll_tried, ll)), jnp.mean(accept)

    (z, ll), accepted = jax.lax.scan(move, (z, ll), jax.random.split(key, moves))
    return z, ll, jnp.mean(accepted)
