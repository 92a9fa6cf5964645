"""A trained policy: loaded from its folder alone, a pytree that maps features to actions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from brax.training.agents.ppo import networks
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.contracts import read_contract, write_contract
from p2r_jax.files import git_revision, load_pytree, save_pytree
from p2r_jax.fusion import no_wider
from p2r_jax.policy.actor import make_actor
from p2r_jax.policy.heads import ActionHead
from p2r_jax.sim.observation import FEATURES, scale_told
from p2r_jax.sim.window import Window, window_inputs, window_size
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian

# what ``policy.train`` trains
Phase = Literal["privileged", "noisy", "belief", "dr", "dr-history", "dr-recurrent", "latent"]
STD_FLOOR = 1e-6  # a constant input (dr's theta) must not be divided by zero


@dataclass(frozen=True)
class PolicyContract:
    """What a policy expects of the world it runs in.

    Attributes:
      task: registered name of the task it was trained on.
      phase: of training, see ``policy.train``.
      features: observation order, without theta.
      theta: names of the components of theta.
      theta_mean, theta_std: scaling of theta, in its own unit.
      action_scale_m, control_period_s: meaning of an action.
      layers: hidden sizes of the actor.
      steps: control steps of training.
      git: revision that trained it.
      history: rows of the window that it sees besides the features; 0 for none.
      action_head: distribution of its actions in training, see ``policy.heads``.
      memory: size of its recurrent state, see ``policy.actor``; 0 for none.
    """

    task: str
    phase: str
    features: tuple[str, ...]
    theta: tuple[str, ...]
    theta_mean: tuple[float, ...]
    theta_std: tuple[float, ...]
    action_scale_m: float
    control_period_s: float
    layers: tuple[int, ...]
    steps: int
    git: str
    history: int = 0
    action_head: ActionHead = "gaussian"
    memory: int = 0

    @property
    def sees_theta(self) -> bool:
        """Whether theta changes what the policy does; ``dr`` policies train without it."""
        return not self.phase.startswith("dr")

    @property
    def sees_sigma(self) -> bool:
        """Whether it is told how sure theta is, after theta itself."""
        return self.phase == "belief"

    @property
    def theta_size(self) -> int:
        """Length of what it is told about theta."""
        return len(self.theta) * (2 if self.sees_sigma else 1)

    @property
    def observation_size(self) -> int:
        """Length of what the network reads."""
        seen = window_size(self.history) if self.history else 0
        return len(self.features) + self.theta_size + seen


@struct.dataclass
class Policy:
    """Deterministic actor with its observation normaliser.

    Attributes:
      params: network parameters.
      mean, std: of the actor's observation, Float[features + K].
      contract: what it expects (static).
    """

    params: dict
    mean: Float[Array, " n"]
    std: Float[Array, " n"]
    contract: PolicyContract = struct.field(pytree_node=False)

    def __call__(
        self,
        features: Float[Array, "*env f"],
        theta: Float[Array, "*env k"],
        window: Window | None = None,
    ) -> Float[Array, "*env 2"]:
        """Action in [-1, 1]^2 of a policy without a memory, see ``act``.

        Raises:
          ValueError: if it has a memory, or for a window that is too short.
        """
        return self.act(features, theta, window)[0]

    def act(
        self,
        features: Float[Array, "*env f"],
        theta: Float[Array, "*env k"],
        window: Window | None = None,
        memory: Float[Array, "*env m"] | None = None,
    ) -> tuple[Float[Array, "*env 2"], Float[Array, "*env m"] | None]:
        """The deterministic action, and the memory to hand to the next step.

        Args:
          features: of now.
          theta: in its own unit, m, what ``hears`` makes of a belief; ``dr`` ignores it.
          window: that ends with ``features``; only a policy with a history looks at it, at
            as many of the last rows as it reads.
          memory: what came out of the last step, ``empty_memory`` at the start of an
            episode; None for a policy without one.

        Raises:
          ValueError: if a policy with a history gets none, or a shorter one; if a recurrent
            policy gets no memory, or one of another size; for a theta of another size.
        """
        obs, actor = self._observation(features, theta, window), actor_network(self.contract)
        if self.contract.memory:
            size = 0 if memory is None else memory.shape[-1]
            if size != self.contract.memory:
                raise ValueError(
                    f"this policy carries a memory of {self.contract.memory}, {size} are given; "
                    "begin an episode with its empty_memory and hand on what act returns"
                )
            logits, memory = actor.policy_network.actor.apply(self.params, memory, obs)
        else:
            logits = actor.policy_network.apply(None, self.params, obs)
        return actor.parametric_action_distribution.mode(logits), memory

    def hears(self, belief: Gaussian) -> Float[Array, "*env n"]:
        """What it is told of a belief: the mean, and behind it sigma if it was trained so.

        Training knew no belief wider than its own prior: nor does the policy hear of one.
        """
        if not self.contract.sees_sigma:
            return belief.mean
        c = self.contract
        known = Gaussian(jnp.array(c.theta_mean), jnp.array(c.theta_std) ** 2)
        belief = no_wider(belief, known)
        return jnp.concatenate([belief.mean, jnp.sqrt(belief.variance)], -1)

    def empty_memory(self, *batch: int) -> Float[Array, "*batch m"] | None:
        """The memory at the start of an episode; None for a policy without one."""
        return jnp.zeros((*batch, self.contract.memory)) if self.contract.memory else None

    def _observation(self, features, theta, window) -> Float[Array, "*env n"]:
        """What the network reads, normalised."""
        c = self.contract
        if theta.shape[-1] != c.theta_size:
            told = ", ".join(c.theta)
            raise ValueError(f"this policy is told {told}; {theta.shape[-1]} numbers are given")
        scaled = scale_told(theta, jnp.array(c.theta_mean), jnp.array(c.theta_std))
        if not c.sees_theta:
            scaled = jnp.zeros_like(scaled)  # what it was trained on: the training mean
        seen = [features, scaled]
        if c.history:
            rows = 0 if window is None else window.features.shape[-2]
            if rows < c.history:
                raise ValueError(f"this policy reads {c.history} rows of history, {rows} are given")
            last = Window(*(x[..., -c.history :, :] for x in (window.features, window.actions)))
            seen.append(window_inputs(last, c.action_scale_m))
        return (jnp.concatenate(seen, -1) - self.mean) / self.std


def actor_network(contract: PolicyContract):
    """Brax networks of the contract's sizes, without observation normalisation."""
    size = contract.observation_size
    stock = networks.make_ppo_networks(size, 2, policy_hidden_layer_sizes=contract.layers)
    return make_actor(stock, size, 2, contract.layers, contract.action_head, contract.memory)


def contract_of(
    task: Task,
    phase: str,
    layers: tuple[int, ...],
    steps: int,
    action_head: ActionHead = "gaussian",
    memory: int = 0,
) -> PolicyContract:
    """The contract of a policy that is trained on ``task``."""
    return PolicyContract(
        task=task.name,
        phase=phase,
        features=FEATURES,
        theta=tuple(t.name for t in task.theta),
        theta_mean=tuple(t.mean for t in task.theta),
        theta_std=tuple(t.std for t in task.theta),
        action_scale_m=task.action_scale_m,
        control_period_s=task.control_period_s,
        layers=layers,
        steps=steps,
        git=git_revision(),
        history=task.actor_history,
        action_head=action_head,
        memory=memory,
    )


def policy_from_training(params, normalizer, contract: PolicyContract) -> Policy:
    """Cut the actor out of a PPO training state."""
    std = jnp.maximum(normalizer.std["state"], STD_FLOOR)
    return Policy(params.policy, normalizer.mean["state"], std, contract)


def save_policy(folder: Path, policy: Policy) -> None:
    """Write ``policy.msgpack`` and ``policy.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"params": policy.params, "mean": policy.mean, "std": policy.std}
    save_pytree(folder / "policy.msgpack", arrays)
    write_contract(folder / "policy.json", policy.contract)


def load_policy(folder: str | Path, task: Task | None = None) -> Policy:
    """Load a policy from its folder.

    Args:
      folder: what ``save_policy`` wrote.
      task: if given, the policy must have been trained on it.

    Raises:
      FileNotFoundError: if the folder holds no policy.
      ValueError: if it belongs to another task or expects other observations.
    """
    folder = Path(folder)
    contract = read_contract(folder / "policy.json", PolicyContract, task)
    size = contract.observation_size
    network = actor_network(contract).policy_network
    template = {
        "params": jax.eval_shape(lambda: network.init(jax.random.key(0))),
        "mean": jnp.zeros(size),
        "std": jnp.zeros(size),
    }
    arrays = load_pytree(folder / "policy.msgpack", template)
    return Policy(arrays["params"], arrays["mean"], arrays["std"], contract)
