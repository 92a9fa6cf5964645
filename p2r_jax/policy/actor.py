"""The actor's network: Brax's own, or one with another head or with a memory.

A recurrent actor is a GRU (Cho et al. 2014) whose state, with the observation, goes through
the layers of the others. Training keeps Brax's loss: what the actor remembered before the
first step of an unroll travels with the observations, and the network runs along the time
axis from there, blank again wherever an episode began. So gradients reach back to the start
of the unroll, and no further.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from brax.training import networks as brax_networks
from brax.training.acme import running_statistics
from brax.training.agents.ppo import networks
from brax.training.types import Transition
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.policy.heads import ActionHead, action_distribution

if TYPE_CHECKING:
    from brax.envs.base import State  # imports every environment of Brax, which robots do without

MEMORY, BEGINS = "memory", "begins"  # keys of a training observation, beside the environment's


class RecurrentActor(nn.Module):
    """A GRU and the layers that read it.

    Attributes:
      memory: size of its state.
      layers: hidden sizes behind it.
      outputs: parameters of the action's distribution.
    """

    memory: int
    layers: tuple[int, ...]
    outputs: int

    def setup(self):
        """Three gates from the observation, three from the memory; the layers are Brax's."""
        self.gates = nn.Dense(3 * self.memory)
        self.recall = nn.Dense(3 * self.memory, kernel_init=_orthogonal_gates)
        self.layers_behind = brax_networks.MLP((*self.layers, self.outputs), activation=nn.swish)

    def read(self, obs: Float[Array, "*n o"]) -> Float[Array, "*n g"]:
        """What the gates make of observations: of a whole unroll at once."""
        return self.gates(obs)

    def remember(
        self, memory: Float[Array, "*env m"], read: Float[Array, "*env g"]
    ) -> Float[Array, "*env m"]:
        """The memory after a step."""
        reset, update, new = jnp.split(read, 3, -1)
        recalled_reset, recalled_update, recalled = jnp.split(self.recall(memory), 3, -1)
        keep = nn.sigmoid(update + recalled_update)
        candidate = nn.tanh(new + nn.sigmoid(reset + recalled_reset) * recalled)
        return keep * memory + (1 - keep) * candidate

    def decide(
        self, memory: Float[Array, "*n m"], obs: Float[Array, "*n o"]
    ) -> Float[Array, "*n p"]:
        """Outputs from observations and the memory that contains them."""
        return self.layers_behind(jnp.concatenate([obs, memory], -1))

    def __call__(
        self, memory: Float[Array, "*env m"], obs: Float[Array, "*env o"]
    ) -> tuple[Float[Array, "*env p"], Float[Array, "*env m"]]:
        """One step: outputs, and the memory after it."""
        memory = self.remember(memory, self.read(obs))
        return self.decide(memory, obs), memory


class RecurrentNetwork:
    """A recurrent actor in the place of Brax's policy network.

    Observations are dictionaries: what the environment shows, with ``MEMORY``, what the actor
    remembered before the step, and ``BEGINS``, one where an episode begins with it. ``statistics``
    normalise them; None leaves them as they are.

    Attributes:
      actor: the network, of normalised observations.
    """

    def __init__(self, actor: RecurrentActor, size: int):
        """Of observations of ``size`` numbers under the key ``state``."""
        self.actor, self._size = actor, size

    def init(self, key: Array) -> dict:
        """Untrained parameters."""
        return self.actor.init(key, jnp.zeros((1, self.actor.memory)), jnp.zeros((1, self._size)))

    def step(
        self, statistics: struct.PyTreeNode, params: dict, obs: dict
    ) -> tuple[Float[Array, "env p"], Float[Array, "env m"]]:
        """Outputs of one step of all environments, and what the actor remembers after it."""
        memory = blank_where(obs[BEGINS], obs[MEMORY])
        return self.actor.apply(params, memory, self._seen(statistics, obs))

    def apply(
        self, statistics: struct.PyTreeNode, params: dict, obs: dict
    ) -> Float[Array, "t env p"]:
        """Outputs of an unroll, as ``step`` would give them with the memory handed on.

        Every entry of ``obs`` has the time first; of ``MEMORY`` only its beginning is read.
        """
        seen = self._seen(statistics, obs)

        def step(memory, begins_and_read):
            begins, read = begins_and_read
            memory = blank_where(begins, memory)
            memory = self.actor.apply(params, memory, read, method="remember")
            return memory, memory

        read = self.actor.apply(params, seen, method="read")
        memories = jax.lax.scan(step, obs[MEMORY][0], (obs[BEGINS], read))[1]
        return self.actor.apply(params, memories, seen, method="decide")

    def _seen(self, statistics, obs):
        if statistics is not None:
            statistics = brax_networks.normalizer_select(statistics, "state")
        return _normalise(obs["state"], statistics)


def _normalise(obs: Array, statistics: struct.PyTreeNode | None) -> Array:
    return obs if statistics is None else running_statistics.normalize(obs, statistics)


def _orthogonal_gates(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """An orthogonal matrix per gate, as GRUs are usually begun."""
    size = shape[0]
    each = [nn.initializers.orthogonal()(k, (size, size), dtype) for k in jax.random.split(key, 3)]
    return jnp.concatenate(each, -1)


def blank_where(
    begins: Float[Array, "*env"], memory: Float[Array, "*env m"]
) -> Float[Array, "*env m"]:
    """The memory, zero where an episode begins."""
    return jnp.where(begins[..., None] > 0, 0.0, memory)


def make_actor(
    stock: networks.PPONetworks,
    size: int,
    action_size: int,
    layers: tuple[int, ...],
    head: ActionHead,
    memory: int,
) -> networks.PPONetworks:
    """Brax's networks with the actor of these settings; a plain Gaussian one is theirs.

    Args:
      stock: what ``make_ppo_networks`` gave.
      size: of an observation of the actor.
      action_size: axes of an action.
      layers: hidden sizes.
      head: of the actions.
      memory: size of the GRU's state; 0 for none.

    Raises:
      ValueError: for an unknown head.
    """
    distribution = action_distribution(head, action_size)
    if memory:
        actor = RecurrentActor(memory, layers, distribution.param_size)
        policy = RecurrentNetwork(actor, size)
    elif head == "gaussian":
        return stock
    else:
        policy = brax_networks.make_policy_network(
            distribution.param_size,
            size,
            preprocess_observations_fn=_normalise,
            hidden_layer_sizes=layers,
            activation=nn.swish,
        )
    return stock.replace(policy_network=policy, parametric_action_distribution=distribution)


def remembering_policy(
    made: networks.PPONetworks, statistics: struct.PyTreeNode, params: dict
) -> Callable[[dict, Array], tuple[Array, dict]]:
    """What ``make_inference_fn`` is for other actors; its extras hold the memory after the step."""
    distribution = made.parametric_action_distribution

    def policy(obs: dict, key: Array) -> tuple[Array, dict]:
        outputs, memory = made.policy_network.step(statistics, params, obs)
        raw = distribution.sample_no_postprocessing(outputs, key)
        extras = {
            "log_prob": distribution.log_prob(outputs, raw),
            "raw_action": raw,
            "distribution_params": outputs,
            MEMORY: memory,
        }
        return distribution.postprocess(raw), extras

    return policy


def blank_memory(state: "State", memory: int) -> "State":
    """A batch of environments at the start of an episode each, the actor's memory blank."""
    count = state.done.shape[0]
    own = {MEMORY: jnp.zeros((count, memory)), BEGINS: jnp.ones(count)}
    return state.replace(obs=state.obs | own)


def hand_on(after: "State", transition: Transition) -> tuple["State", Transition]:
    """Move the memory from what the policy said into the next observation.

    The transition keeps no memories: an unroll needs its first only.
    """
    said = dict(transition.extras["policy_extras"])
    own = {MEMORY: said.pop(MEMORY), BEGINS: after.done}
    seen = {k: v for k, v in transition.observation.items() if k != MEMORY}
    extras = transition.extras | {"policy_extras": said}
    return (
        after.replace(obs=after.obs | own),
        transition._replace(observation=seen, extras=extras),
    )
