"""Proximal policy optimisation, readable in one sitting.

Built on Brax's networks, losses, GAE and acting; ``brax.training.agents.ppo``
is its slow twin in the tests. Ours exists because the stock loop cannot resume
exactly, replays resets, and cannot be vmapped over seeds. One update (unroll,
normaliser, epochs of minibatches) is one pure function of ``TrainState``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from brax.training import acting
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo import losses, networks
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.policy.actor import MEMORY, blank_memory, hand_on, make_actor, remembering_policy
from p2r_jax.policy.heads import ActionHead, action_distribution
from p2r_jax.policy.latent import PHYSICS, LatentNetwork
from p2r_jax.sim.training_env import TrainingEnv, UnrollRecord

_COUNTED = ("nan_envs", "overflow_envs")  # metrics that are summed, as ``sim/``, not averaged


@dataclass(frozen=True)
class PPOConfig:
    """Hyper-parameters; total work is ``total_steps`` control steps.

    Attributes:
      total_steps: control steps over all environments.
      num_envs: parallel environments.
      unroll_length: control steps per update and environment.
      num_minibatches, num_epochs: gradient steps per update are their product.
      learning_rate: initial; falls linearly to ``final_learning_rate``.
      entropy_cost: initial; falls linearly to ``final_entropy_cost``.
      discount, gae_lambda, clip, value_cost, max_grad_norm: as usual.
      policy_layers, value_layers: hidden sizes.
      seed: of everything.
      action_head: distribution of the actions, see ``policy.heads``.
      memory: size of the actor's recurrent state, see ``policy.actor``; 0 for none.
    """

    total_steps: int = 12_000_000
    num_envs: int = 2048
    unroll_length: int = 25
    num_minibatches: int = 8
    num_epochs: int = 4
    learning_rate: float = 5e-4
    final_learning_rate: float = 5e-5
    discount: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_cost: float = 1e-2
    final_entropy_cost: float = 1e-3
    value_cost: float = 0.5
    max_grad_norm: float = 1.0
    policy_layers: tuple[int, ...] = (128, 128)
    value_layers: tuple[int, ...] = (128, 128)
    seed: int = 0
    action_head: ActionHead = "gaussian"
    memory: int = 0

    def __post_init__(self):
        if self.num_envs % self.num_minibatches:
            raise ValueError(
                f"num_envs {self.num_envs} is not a multiple of num_minibatches "
                f"{self.num_minibatches}"
            )
        if self.memory < 0:
            raise ValueError(f"ppo.memory is {self.memory}; give its size, or 0 for none")

    @property
    def steps_per_update(self) -> int:
        """Control steps per update."""
        return self.num_envs * self.unroll_length

    @property
    def num_updates(self) -> int:
        """Updates in a full training."""
        return -(-self.total_steps // self.steps_per_update)


@struct.dataclass
class TrainState:
    """Everything a training is; saving and loading it resumes exactly.

    Attributes:
      params: policy and value networks.
      optimizer: optax state.
      normalizer: running observation statistics.
      env_state: batched environment state.
      key: of all further randomness.
      update: updates done.
    """

    params: losses.PPONetworkParams
    optimizer: optax.OptState
    normalizer: running_statistics.RunningStatisticsState
    env_state: struct.PyTreeNode
    key: Array
    update: Array


def make_networks(observation_size: dict, action_size: int, config: PPOConfig):
    """Brax PPO networks: the actor reads ``state``, the critic ``privileged_state``.

    Where the environment also shows ``physics``, the actor has an encoder for it.
    """
    stock = networks.make_ppo_networks(
        observation_size,
        action_size,
        preprocess_observations_fn=running_statistics.normalize,
        policy_hidden_layer_sizes=config.policy_layers,
        value_hidden_layer_sizes=config.value_layers,
        policy_obs_key="state",
        value_obs_key="privileged_state",
    )
    if PHYSICS in observation_size:
        head = action_distribution(config.action_head, action_size)
        actor = LatentNetwork(config.policy_layers, head.param_size)
        return stock.replace(policy_network=actor, parametric_action_distribution=head)
    return make_actor(
        stock,
        observation_size["state"][0],
        action_size,
        config.policy_layers,
        config.action_head,
        config.memory,
    )


class PPO:
    """The algorithm for one environment and configuration: ``init`` and ``update``."""

    def __init__(self, env: TrainingEnv, config: PPOConfig):
        """Fix networks and optimiser; computes nothing."""
        self.env, self.config = env, config
        self.networks = make_networks(env.observation_size, env.action_size, config)
        schedule = optax.linear_schedule(
            config.learning_rate,
            config.final_learning_rate,
            config.num_updates * config.num_epochs * config.num_minibatches,
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule)
        )

    def init(self, key: Array, params=None, normalizer=None) -> TrainState:
        """State before the first update; ``params`` and ``normalizer`` warm-start it."""
        key_policy, key_value, key_env, key_train = jax.random.split(key, 4)
        if params is None:
            params = losses.PPONetworkParams(
                policy=self.networks.policy_network.init(key_policy),
                value=self.networks.value_network.init(key_value),
            )
        sizes = self.env.observation_size
        if normalizer is None:
            normalizer = running_statistics.init_state(
                {k: specs.Array(size, jnp.dtype("float32")) for k, size in sizes.items()}
            )
        env_state = self.env.reset(jax.random.split(key_env, self.config.num_envs))
        if self.config.memory:
            env_state = blank_memory(env_state, self.config.memory)
        return TrainState(
            params=params,
            optimizer=self.optimizer.init(params),
            normalizer=normalizer,
            env_state=env_state,
            key=key_train,
            update=jnp.zeros((), jnp.int32),
        )

    def update(self, state: TrainState) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        """One unroll of every environment and the gradient steps on it."""
        return self._update(state)[:2]

    def update_and_record(
        self, state: TrainState
    ) -> tuple[TrainState, dict[str, Float[Array, ""]], UnrollRecord]:
        """``update``, and what every environment went through; of a push environment."""

        def look(before, action, after):
            blown = after.metrics["nan_envs"] > 0
            return before.pipeline_state.dynamics, action, after.done > 0, blown

        state, metrics, (start, seen) = self._update(state, look)
        record = UnrollRecord(start.pipeline_state, start.info["reserve"][0], *seen)
        return state, metrics, record

    def _update(self, state: TrainState, look: Callable = lambda before, action, after: None):
        """The update, its metrics, and (state at the unroll's start, ``look`` at every step)."""
        key_refill, key_act, key_sgd, key = jax.random.split(state.key, 4)
        start = state.replace(env_state=self.env.refill(state.env_state, key_refill))
        env_state, data, env_metrics, seen = self._unroll(start, key_act, look)
        shown = {k: data.observation[k] for k in self.env.observation_size}
        normalizer = running_statistics.update(state.normalizer, shown)
        loss = functools.partial(
            losses.compute_ppo_loss,
            ppo_network=self.networks,
            entropy_cost=self._entropy_cost(state.update),
            discounting=self.config.discount,
            gae_lambda=self.config.gae_lambda,
            clipping_epsilon=self.config.clip,
            vf_coefficient=self.config.value_cost,
        )
        gradient = jax.grad(loss, has_aux=True)

        def minibatch(carry, batch_and_key):
            params, optimizer = carry
            batch, key = batch_and_key
            grads, metrics = gradient(params, normalizer, batch, key)
            updates, optimizer = self.optimizer.update(grads, optimizer, params)
            return (optax.apply_updates(params, updates), optimizer), metrics

        def epoch(carry, key):
            key_shuffle, key_loss = jax.random.split(key)
            batches = self._shuffle(data, key_shuffle)
            keys = jax.random.split(key_loss, self.config.num_minibatches)
            return jax.lax.scan(minibatch, carry, (batches, keys))

        epoch_keys = jax.random.split(key_sgd, self.config.num_epochs)
        (params, optimizer), loss_metrics = jax.lax.scan(
            epoch, (state.params, state.optimizer), epoch_keys
        )
        metrics = env_metrics | {f"loss/{k}": jnp.mean(v) for k, v in loss_metrics.items()}
        new = TrainState(params, optimizer, normalizer, env_state, key, state.update + 1)
        return new, metrics, (start.env_state, seen)

    def _unroll(self, state: TrainState, key_act, look: Callable):
        """Experience of shape [envs, time], its environment metrics, what ``look`` saw."""
        policy, remembers = self._policy(state), self.config.memory > 0

        def act(before, key):
            after, transition = acting.actor_step(
                self.env, before, policy, key, extra_fields=("truncation",)
            )
            if remembers:
                after, transition = hand_on(after, transition)
            return after, (transition, after.metrics, look(before, transition.action, after))

        keys = jax.random.split(key_act, self.config.unroll_length)
        env_state, (data, metrics, seen) = jax.lax.scan(act, state.env_state, keys)
        # the loss bootstraps from the last next_observation only: drop the others
        data = data._replace(next_observation=jax.tree.map(lambda x: x[-1:], data.next_observation))
        if remembers:
            first = state.env_state.obs[MEMORY][None]
            data = data._replace(observation=data.observation | {MEMORY: first})
        data = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data)
        counts = {f"sim/{k}": jnp.sum(metrics.pop(k)) for k in _COUNTED if k in metrics}
        metrics = counts | {f"env/{k}": jnp.mean(v) for k, v in metrics.items()}
        metrics["env/reserve_reuse"] = jnp.sum(env_state.info["reserve_reuse"])
        return env_state, data, metrics, seen

    def _policy(self, state: TrainState) -> Callable:
        """What acts: observations and a key to actions and what the loss needs of them."""
        if self.config.memory:
            return remembering_policy(self.networks, state.normalizer, state.params.policy)
        return networks.make_inference_fn(self.networks)(
            (state.normalizer, state.params.policy, state.params.value)
        )

    def _shuffle(self, data, key):
        """Trajectories in random order, as [minibatches, envs per batch, time, ...]."""
        order = jax.random.permutation(key, self.config.num_envs)
        count = self.config.num_minibatches
        return jax.tree.map(lambda x: x[order].reshape(count, -1, *x.shape[1:]), data)

    def _entropy_cost(self, update):
        progress = jnp.minimum(update / self.config.num_updates, 1.0)
        start, end = self.config.entropy_cost, self.config.final_entropy_cost
        return start + progress * (end - start)
