"""From the outputs of an actor to actions: a squashed Gaussian (Brax's), or a categorical.

The categorical head draws each axis of an action from ``ACTION_VALUES`` evenly spaced values
(Tang & Agrawal 2020). It answers the interface of Brax's distributions, so that Brax's loss
and acting take it as they take the Gaussian.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from brax.training import distribution
from flax import struct
from jaxtyping import Array, Float, Int

ActionHead = Literal["gaussian", "categorical"]
ACTION_VALUES = 7  # odd, so that standing still is one of them


@struct.dataclass
class Categorical:
    """A value per axis, of ``ACTION_VALUES`` from -1 to 1; draws are their indices.

    Attributes:
      log_weights: normalised logarithms of the probabilities.
    """

    log_weights: Float[Array, "*n axis value"]

    def sample(self, seed: Array) -> Int[Array, "*n axis"]:
        """A draw."""
        return jax.random.categorical(seed, self.log_weights)

    def mode(self) -> Int[Array, "*n axis"]:
        """The most likely value of every axis."""
        return jnp.argmax(self.log_weights, -1)

    def log_prob(self, index: Int[Array, "*n axis"]) -> Float[Array, "*n axis"]:
        """Logarithm of the probability of a draw."""
        return jnp.take_along_axis(self.log_weights, index[..., None], -1)[..., 0]

    def entropy(self) -> Float[Array, "*n axis"]:
        """Nats."""
        return -jnp.sum(jnp.exp(self.log_weights) * self.log_weights, -1)

    def kl_divergence(self, old: "Categorical") -> Float[Array, "*n"]:
        """KL(old || this), summed over the axes, nats."""
        each = jnp.exp(old.log_weights) * (old.log_weights - self.log_weights)
        return jnp.sum(each, (-2, -1))

    @property
    def loc(self) -> Float[Array, "*n axis"]:
        """Mean action, as Brax's loss reports it."""
        return jnp.exp(self.log_weights) @ _values()

    @property
    def scale(self) -> Float[Array, "*n axis"]:
        """Standard deviation of the action, as Brax's loss reports it."""
        square = jnp.exp(self.log_weights) @ _values() ** 2
        return jnp.sqrt(jnp.maximum(square - self.loc**2, 0.0))


class _ValueOfIndex:
    """From a draw to an action, in the place of Brax's tanh."""

    def forward(self, index):
        return _values()[index]

    def inverse(self, action):
        return jnp.argmin(jnp.abs(action[..., None] - _values()), -1)

    def forward_log_det_jacobian(self, index):
        return jnp.zeros(index.shape)


class CategoricalDistribution(distribution.ParametricDistribution):
    """``Categorical`` from a network's outputs, ``ACTION_VALUES`` per axis."""

    def __init__(self, event_size: int):
        """Of ``event_size`` axes."""
        super().__init__(
            param_size=ACTION_VALUES * event_size,
            postprocessor=_ValueOfIndex(),
            event_ndims=1,
            reparametrizable=False,
        )

    def create_dist(self, parameters: Float[Array, "*n outputs"]) -> Categorical:
        """The distribution of these outputs."""
        logits = parameters.reshape(*parameters.shape[:-1], -1, ACTION_VALUES)
        return Categorical(jax.nn.log_softmax(logits))


def _values() -> Float[Array, " value"]:
    return jnp.linspace(-1.0, 1.0, ACTION_VALUES)


HEADS: dict[str, Callable[[int], distribution.ParametricDistribution]] = {
    "gaussian": distribution.NormalTanhDistribution,
    "categorical": CategoricalDistribution,
}


def action_distribution(head: str, action_size: int) -> distribution.ParametricDistribution:
    """The distribution of a head; an unknown name raises ValueError that lists them."""
    if head not in HEADS:
        raise ValueError(f"no action head {head!r} (heads: {', '.join(HEADS)})")
    return HEADS[head](action_size)
