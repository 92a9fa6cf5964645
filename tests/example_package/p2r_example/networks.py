"""An estimator network: a function from the contract to a Flax module."""

import jax.numpy as jnp
from flax import linen as nn

from p2r_jax.estimator.ensemble import EstimatorContract, bounded_log_variance


class DeepSets(nn.Module):
    """Transitions as a set (Zaheer et al. 2017): in which order they came is not seen."""

    layers: tuple[int, ...]
    size: int

    @nn.compact
    def __call__(self, rows):
        """Float[*env t n] to mean and log-variance, Float[*env size] each, in prior units."""
        for width in self.layers:
            rows = nn.silu(nn.Dense(width)(rows))
        mean, raw = jnp.split(nn.Dense(2 * self.size)(rows.mean(-2)), 2, -1)
        return mean, bounded_log_variance(raw)


def deep_sets(contract: EstimatorContract) -> nn.Module:
    """The network of one member."""
    return DeepSets(contract.layers, len(contract.theta))
