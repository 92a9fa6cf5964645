"""Ten networks read the last observations and actions and state theta with a variance.

One Flax module, vmapped over members. The window holds o[t-9..t] and the
actions sent a[t-10..t-1], no theta; rows before the episode's start are zero.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.contracts import read_contract, write_contract
from p2r_jax.files import load_pytree, save_pytree
from p2r_jax.fusion import ensemble_moments
from p2r_jax.sim.window import Window, window_inputs
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian


@dataclass(frozen=True)
class EstimatorContract:
    """What an estimator expects and means.

    Attributes:
      task: registered task it was trained on.
      features: observation order of a window row.
      theta: names of the components.
      theta_mean, theta_std: its training prior, which an empty window returns.
      history: rows of a window.
      members: ensemble size.
      layers: hidden sizes.
      action_scale_m: metres per unit of action.
      git: revision that trained it.
    """

    task: str
    features: tuple[str, ...]
    theta: tuple[str, ...]
    theta_mean: tuple[float, ...]
    theta_std: tuple[float, ...]
    history: int
    members: int
    layers: tuple[int, ...]
    action_scale_m: float
    git: str


class ThetaNet(nn.Module):
    """One member: an MLP from a window to mean and log-variance, in training-prior units."""

    layers: tuple[int, ...]
    size: int

    @nn.compact
    def __call__(self, x: Float[Array, "*env n"]):
        """Mean and bounded log-variance, Float[*env, K] each."""
        for width in self.layers:
            x = nn.silu(nn.Dense(width)(x))
        out = nn.Dense(
            2 * self.size,
            kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal"),
        )(x)
        mean, raw = jnp.split(out, 2, -1)
        return mean, bounded_log_variance(raw)


LOG_VARIANCE_RANGE = (-8.0, 0.5)  # of theta in training-prior units: sigma 0.018 .. 1.28


def bounded_log_variance(raw: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Smoothly bound a log-variance to ``LOG_VARIANCE_RANGE``; zero is about the prior's."""
    low, high = LOG_VARIANCE_RANGE
    return low + (high - low) * nn.sigmoid(raw + 2.7)


@struct.dataclass
class Ensemble:
    """Members' parameters (leading axis) and the contract (static)."""

    params: dict
    contract: EstimatorContract = struct.field(pytree_node=False)

    def members(self, window: Window) -> tuple[Array, Array]:
        """Means and variances of every member, theta's own unit: Float[M, *env, K]."""
        c = self.contract
        net = ThetaNet(c.layers, len(c.theta))
        x = window_inputs(window, c.action_scale_m)
        mean, log_var = jax.vmap(net.apply, in_axes=(0, None))(self.params, x)
        std = jnp.array(c.theta_std)
        return jnp.array(c.theta_mean) + std * mean, std**2 * jnp.exp(log_var)

    def __call__(self, window: Window) -> Gaussian:
        """Belief about theta from a window (eqs. 1-3)."""
        return ensemble_moments(*self.members(window))


def init_ensemble(contract: EstimatorContract, key: Array) -> Ensemble:
    """Members with independent initial parameters."""
    net = ThetaNet(contract.layers, len(contract.theta))
    x = window_inputs(Window.empty(contract.history), contract.action_scale_m)
    keys = jax.random.split(key, contract.members)
    return Ensemble(jax.vmap(lambda k: net.init(k, x))(keys), contract)


def save_ensemble(folder: Path, ensemble: Ensemble) -> None:
    """Write ``estimator.msgpack`` and ``estimator.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_pytree(folder / "estimator.msgpack", ensemble.params)
    write_contract(folder / "estimator.json", ensemble.contract)


def load_ensemble(folder: str | Path, task: Task | None = None) -> Ensemble:
    """Load an estimator from its folder; if ``task`` is given it must match.

    Raises:
      FileNotFoundError: if the folder holds no estimator.
      ValueError: if it belongs to another task or expects other observations.
    """
    folder = Path(folder)
    contract = read_contract(folder / "estimator.json", EstimatorContract, task)
    template = init_ensemble(contract, jax.random.key(0))
    return template.replace(params=load_pytree(folder / "estimator.msgpack", template.params))
