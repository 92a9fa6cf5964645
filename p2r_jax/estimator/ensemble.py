"""Ten networks read the last observations and actions and state theta with a variance.

One Flax module, vmapped over members. The window holds o[t-9..t] and the
actions sent a[t-10..t-1], no theta; rows before the episode's start are zero.
Other packages bring networks as entry points of the group ``p2r_jax.estimator_networks``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.contracts import read_contract, write_contract
from p2r_jax.files import load_pytree, save_pytree
from p2r_jax.fusion import ensemble_moments
from p2r_jax.plugins import Origin, Registry
from p2r_jax.sim.footprint import Polygon, signed_distance
from p2r_jax.sim.observation import REACH_SCALE
from p2r_jax.sim.window import Window, window_inputs
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian

Network = str  # a name in NETWORKS
Outline = tuple[tuple[tuple[float, float], ...], ...]  # corners of convex parts, m
TOUCH_M = 0.002  # a gap that measurement noise may open between a pusher and what it touches


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
      layers: hidden sizes; of a GRU the first is its state's.
      action_scale_m: metres per unit of action.
      git: revision that trained it.
      network: what a member is: ``mlp`` of the whole window, ``gru`` along it, or a name or
        import path of another package's.
      outline: corners of the object's convex parts, object frame, m; empty for an
        estimator that is not told about contact.
      pusher_radius_m: of the pusher that touches them.

    Raises:
      ValueError: for an unknown kind of network, or a GRU without a layer.
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
    network: Network = "mlp"
    outline: Outline = ()
    pusher_radius_m: float = 0.0

    @property
    def training_prior(self) -> Gaussian:
        """Mean and variance of theta in training, its own unit."""
        return Gaussian(jnp.array(self.theta_mean), jnp.array(self.theta_std) ** 2)

    def __post_init__(self):
        check_network(self.network)
        if self.network == "gru" and not self.layers:
            raise ValueError("estimator: a GRU needs at least one layer, its state")


class ThetaNet(nn.Module):
    """One member: from a window's transitions to mean and log-variance of theta.

    Both in training-prior units. The GRU (Cho et al. 2014) reads the transitions one after
    the other; dense layers follow its last state.
    """

    layers: tuple[int, ...]
    size: int
    network: Network = "mlp"

    @nn.compact
    def __call__(self, rows: Float[Array, "*env t n"]):
        """Mean and bounded log-variance, Float[*env, K] each."""
        widths = self.layers
        if self.network == "gru":
            x = nn.RNN(nn.GRUCell(widths[0]))(rows)[..., -1, :]
            widths = widths[1:]
        else:
            x = rows.reshape(*rows.shape[:-2], -1)
        for width in widths:
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


MakeNetwork = Callable[[EstimatorContract], nn.Module]


def _ours(contract: EstimatorContract) -> nn.Module:
    return ThetaNet(contract.layers, len(contract.theta), contract.network)


def _from_outside(make: MakeNetwork, origin: Origin) -> MakeNetwork:
    """A network of another package; it must answer as ``ThetaNet`` does."""

    def checked(contract: EstimatorContract) -> nn.Module:
        net, size = make(contract), len(contract.theta)
        rows = transitions(Window.empty(contract.history), contract)
        answer, _ = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), rows))
        shapes = [getattr(x, "shape", type(x).__name__) for x in jax.tree.leaves(answer)]
        if shapes != [(size,), (size,)]:
            raise origin.failure(f"it returns {shapes}, not mean and log-variance of theta")
        return net

    return checked


NETWORKS = Registry(
    ("no estimator network", "networks"),
    "p2r_jax.estimator_networks",
    {"mlp": _ours, "gru": _ours},
    _from_outside,
)


def check_network(name: str) -> None:
    """Raise ValueError, with what exists, for a name that is no network's; imports nothing."""
    if name not in NETWORKS:
        raise ValueError(
            f"no estimator network {name!r} (networks: {', '.join(NETWORKS)}); "
            "if another package brings it, install that"
        )


def theta_net(contract: EstimatorContract) -> nn.Module:
    """The network of one member: rows Float[*env t n] to mean and log-variance, Float[*env, K]."""
    return NETWORKS[contract.network](contract)


def transitions(window: Window, contract: EstimatorContract) -> Float[Array, "*env t n"]:
    """``window_inputs`` with a row per transition, of a window of any length.

    An estimator that is told about contact gets one more column, ``touches``.
    """
    flat = window_inputs(window, contract.action_scale_m)
    rows = flat.reshape(*flat.shape[:-1], window.features.shape[-2] - 1, -1)
    if not contract.outline:
        return rows
    exists = rows[..., -1]
    return jnp.concatenate([rows, (exists * touches(window, contract))[..., None]], -1)


def touches(window: Window, contract: EstimatorContract) -> Float[Array, "*env t"]:
    """Whether the pusher ended each transition within ``TOUCH_M`` of the object's outline.

    From the measured poses alone, so it needs no other sensor. A pusher that stays in
    quasi-static contact ends its step there; before a step it may still be on its way.
    """
    parts = [Polygon(corners) for corners in contract.outline]
    pusher = window.features[..., 1:, 6:8] / REACH_SCALE
    gap = signed_distance(parts, pusher) - contract.pusher_radius_m
    return (gap <= TOUCH_M).astype(pusher.dtype)


def outline_of(task: Task) -> Outline:
    """Corners of the task's object, for ``EstimatorContract.outline``."""
    return tuple(tuple((float(x), float(y)) for x, y in part.corners) for part in task.object.parts)


@struct.dataclass
class Ensemble:
    """Members' parameters (leading axis) and the contract (static)."""

    params: dict
    contract: EstimatorContract = struct.field(pytree_node=False)

    def members(self, window: Window) -> tuple[Array, Array]:
        """Means and variances of every member, theta's own unit: Float[M, *env, K].

        Raises:
          ValueError: if the window has another length than the contract's.
        """
        c, given = self.contract, window.features.shape[-2]
        if given != c.history:
            raise ValueError(f"this estimator reads {c.history} rows of history, {given} are given")
        members = jax.vmap(theta_net(c).apply, in_axes=(0, None))
        mean, log_var = members(self.params, transitions(window, c))
        std = jnp.array(c.theta_std)
        return jnp.array(c.theta_mean) + std * mean, std**2 * jnp.exp(log_var)

    def __call__(self, window: Window) -> Gaussian:
        """Belief about theta from a window (eqs. 1-3)."""
        return ensemble_moments(*self.members(window))


def init_ensemble(contract: EstimatorContract, key: Array) -> Ensemble:
    """Members with independent initial parameters."""
    net = theta_net(contract)
    rows = transitions(Window.empty(contract.history), contract)
    keys = jax.random.split(key, contract.members)
    return Ensemble(jax.vmap(lambda k: net.init(k, rows))(keys), contract)


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
    corners = (tuple(tuple(corner) for corner in part) for part in contract.outline)
    contract = replace(contract, outline=tuple(corners))  # JSON's lists cannot be hashed
    template = jax.eval_shape(lambda: init_ensemble(contract, jax.random.key(0)))
    return template.replace(params=load_pytree(folder / "estimator.msgpack", template.params))
