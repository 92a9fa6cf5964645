"""RMA with a latent (Kumar et al. 2021): the policy is told an encoding of the physics.

The encoder reads what the simulator knows of an episode (``physics_vector``) and is trained
end to end with the policy, through Brax's loss. Afterwards both are cut apart: the policy is
one like the others, whose theta are the ``LATENT`` numbers of the encoding; the encoder lies
beside it. On a robot nobody knows the physics; ``estimator.adaptor`` reads the encoding from
the window.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from brax.training import networks as brax_networks
from brax.training.acme import running_statistics
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.contracts import read_contract, write_contract
from p2r_jax.files import load_pytree, save_pytree
from p2r_jax.policy.policy import STD_FLOOR, Policy, PolicyContract
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv, PushState
from p2r_jax.tasks import Task
from p2r_jax.types import PhysicsParams

LATENT = 8
ENCODER_LAYERS = (64, 64)
PHYSICS = "physics"  # key of an observation
PHYSICS_NAMES = (
    "com_object_x",
    "com_object_y",
    "friction_table",
    "friction_pusher",
    "mass",
    "inertia_z",
    "support_radius",
)


def physics_vector(physics: PhysicsParams) -> Float[Array, "*env 7"]:
    """What the encoder reads, in SI units and the order of ``PHYSICS_NAMES``.

    The support enters by the mean distance of its points from the centre of mass, which is
    the arm of the friction torque.
    """
    arm = jnp.linalg.norm(physics.support - physics.com[..., None, :2], axis=-1)
    scalars = (
        physics.friction_table,
        physics.friction_pusher,
        physics.mass,
        physics.inertia[..., 2, 2],
        jnp.mean(arm, -1),
    )
    return jnp.concatenate([physics.com[..., :2], jnp.stack(scalars, -1)], -1)


class PhysicsEnv(PushEnv):
    """The push task, whose observations also hold the physics, for the encoder alone."""

    @property
    def observation_size(self) -> dict[str, tuple[int]]:
        """Sizes of the actor's, the critic's and the encoder's observation."""
        return {**super().observation_size, PHYSICS: (len(PHYSICS_NAMES),)}

    def observe(self, inner: PushState) -> dict[str, Float[Array, " n"]]:
        """Those of the task, and the physics of the episode."""
        return {**super().observe(inner), PHYSICS: physics_vector(inner.physics)}


class LatentActor(nn.Module):
    """Encoder and policy in one.

    Attributes:
      layers: hidden sizes of the policy.
      outputs: parameters of the action's distribution.
    """

    layers: tuple[int, ...]
    outputs: int

    def setup(self):
        """Two of Brax's networks."""
        self.encoder = brax_networks.MLP((*ENCODER_LAYERS, LATENT), activation=nn.swish)
        self.policy = brax_networks.MLP((*self.layers, self.outputs), activation=nn.swish)

    def __call__(
        self, features: Float[Array, "*n f"], physics: Float[Array, "*n p"]
    ) -> Float[Array, "*n o"]:
        """Outputs from normalised features and physics."""
        z = nn.tanh(self.encoder(physics))
        return self.policy(jnp.concatenate([features, z], -1))


class LatentNetwork:
    """``LatentActor`` in the place of Brax's policy network.

    Of ``state`` it reads the features alone: theta, behind them, is constant in this phase.
    """

    def __init__(self, layers: tuple[int, ...], outputs: int):
        """Of these hidden sizes and outputs."""
        self.actor = LatentActor(layers, outputs)

    def init(self, key: Array) -> dict:
        """Untrained parameters."""
        sizes = len(FEATURES), len(PHYSICS_NAMES)
        return self.actor.init(key, *(jnp.zeros((1, size)) for size in sizes))

    def apply(self, statistics: struct.PyTreeNode, params: dict, obs: dict) -> Float[Array, "*n o"]:
        """Outputs; ``statistics`` normalise the observations."""
        seen = (
            running_statistics.normalize(obs[k], brax_networks.normalizer_select(statistics, k))
            for k in ("state", PHYSICS)
        )
        state, physics = seen
        return self.actor.apply(params, state[..., : len(FEATURES)], physics)


@dataclass(frozen=True)
class EncoderContract:
    """What an encoder reads.

    Attributes:
      task: registered name of the task it was trained on.
      features: of the policy it was trained with.
      physics: order of its inputs.
    """

    task: str
    features: tuple[str, ...]
    physics: tuple[str, ...]


@struct.dataclass
class Encoder:
    """From physics to what a policy of phase ``latent`` is told.

    Attributes:
      params: of the network.
      mean, std: of its inputs.
      contract: what it reads (static).
    """

    params: dict
    mean: Float[Array, " p"]
    std: Float[Array, " p"]
    contract: EncoderContract = struct.field(pytree_node=False)

    def __call__(self, physics: PhysicsParams) -> Float[Array, "*env z"]:
        """The encoding, each number within -1 and 1."""
        seen = (physics_vector(physics) - self.mean) / self.std
        return nn.tanh(_encoder().apply(self.params, seen))


def _encoder() -> nn.Module:
    return brax_networks.MLP((*ENCODER_LAYERS, LATENT), activation=nn.swish)


def latent_names() -> tuple[str, ...]:
    """Names of the numbers of an encoding."""
    return tuple(f"z_{i}" for i in range(LATENT))


def cut_apart(params, normalizer, contract: PolicyContract) -> tuple[Policy, Encoder]:
    """Policy and encoder out of a PPO training state.

    Args:
      params, normalizer: of the state.
      contract: of the policy, with the task's theta; the returned policy's has the encoding.
    """
    both, width = params.policy["params"], len(FEATURES)
    told = replace(
        contract, theta=latent_names(), theta_mean=(0.0,) * LATENT, theta_std=(1.0,) * LATENT
    )
    mean = jnp.concatenate([normalizer.mean["state"][:width], jnp.zeros(LATENT)])
    std = jnp.maximum(normalizer.std["state"][:width], STD_FLOOR)
    policy = Policy(
        {"params": both["policy"]}, mean, jnp.concatenate([std, jnp.ones(LATENT)]), told
    )
    reads = EncoderContract(contract.task, contract.features, PHYSICS_NAMES)
    spread = jnp.maximum(normalizer.std[PHYSICS], STD_FLOOR)
    encoder = Encoder({"params": both["encoder"]}, normalizer.mean[PHYSICS], spread, reads)
    return policy, encoder


def save_encoder(folder: Path, encoder: Encoder) -> None:
    """Write ``encoder.msgpack`` and ``encoder.json``, beside the policy's."""
    folder.mkdir(parents=True, exist_ok=True)
    save_pytree(folder / "encoder.msgpack", encoder)
    write_contract(folder / "encoder.json", encoder.contract)


def load_encoder(folder: str | Path, task: Task | None = None) -> Encoder:
    """Load an encoder from its folder; if ``task`` is given it must match.

    Raises:
      FileNotFoundError: if the folder holds no encoder.
      ValueError: if it belongs to another task or reads other physics.
    """
    folder = Path(folder)
    contract = read_contract(folder / "encoder.json", EncoderContract, task)
    if contract.physics != PHYSICS_NAMES:
        raise ValueError(f"{folder} encodes {contract.physics}, this version has {PHYSICS_NAMES}")
    size = len(PHYSICS_NAMES)
    params = jax.eval_shape(lambda: _encoder().init(jax.random.key(0), jnp.zeros((1, size))))
    template = Encoder(params, jnp.zeros(size), jnp.zeros(size), contract)
    return load_pytree(folder / "encoder.msgpack", template)
