"""The learner: exact resume, one trace, seeds on an axis, and Brax's stock loop as twin."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from brax.training.acme import running_statistics
from flax import struct

from p2r_jax.compat import enable_stock_brax_training
from p2r_jax.contracts import write_contract
from p2r_jax.files import load_pytree, save_pytree, write_json
from p2r_jax.policy.policy import (
    Policy,
    contract_of,
    load_policy,
    policy_from_training,
    save_policy,
)
from p2r_jax.policy.ppo import PPO, PPOConfig
from p2r_jax.policy.train import TrainConfig, phase_task, train
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.training_env import TrainingEnv

# vmap changes the order of float32 sums in matrix products
SEED_AXIS_TOLERANCE = 1e-4


@struct.dataclass
class PointState:
    """Position and step count."""

    x: jax.Array
    step: jax.Array


class PointEnv(Env):
    """Move a point to the origin: solvable in thousands of steps, no physics to compile."""

    observation_size = {"state": (2,), "privileged_state": (2,)}  # noqa: RUF012
    action_size = 2
    backend = "none"

    def reset(self, rng):
        x = jax.random.uniform(rng, (2,), minval=-1.0, maxval=1.0)
        zero = jnp.zeros(())
        info = {"truncation": zero}
        return State(PointState(x, zero), self._obs(x), zero, zero, {"distance": zero}, info)

    def step(self, state, action):
        inner = state.pipeline_state
        x = inner.x + 0.2 * jnp.clip(action, -1.0, 1.0)
        distance = jnp.linalg.norm(x)
        timeout = (inner.step + 1 >= 20).astype(jnp.float32)
        return state.replace(
            pipeline_state=PointState(x, inner.step + 1),
            obs=self._obs(x),
            reward=-distance,
            done=timeout,
            metrics={**state.metrics, "distance": distance},
            info={**state.info, "truncation": timeout},
        )

    def _obs(self, x):
        return {"state": x, "privileged_state": x}


SMALL = PPOConfig(
    total_steps=4 * 16 * 5,
    num_envs=16,
    unroll_length=5,
    num_minibatches=2,
    num_epochs=2,
    policy_layers=(16,),
    value_layers=(16,),
)


def small_learner(env=None, **changes):
    return PPO(env or TrainingEnv(PointEnv(), 20), replace(SMALL, **changes))


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def test_training_2n_equals_n_save_load_n(tmp_path):
    learner = small_learner()
    start = jax.jit(learner.init)(jax.random.key(0))
    update = jax.jit(learner.update)
    straight = start
    for _ in range(4):
        straight, _ = update(straight)
    half = start
    for _ in range(2):
        half, _ = update(half)
    save_pytree(tmp_path / "state.msgpack", half)
    resumed = load_pytree(tmp_path / "state.msgpack", start)
    for _ in range(2):
        resumed, _ = update(resumed)
    assert_same(straight, resumed)


def test_update_is_traced_once():
    learner, traces = small_learner(), []

    @jax.jit
    def update(state):
        traces.append(1)
        return learner.update(state)[0]

    state = jax.jit(learner.init)(jax.random.key(0))
    for _ in range(3):
        state = update(state)
    assert len(traces) == 1


def test_seeds_ride_on_a_vmap_axis():
    learner = small_learner()
    keys = jax.random.split(jax.random.key(0), 2)
    together, _ = jax.jit(jax.vmap(learner.update))(jax.jit(jax.vmap(learner.init))(keys))
    for i in range(2):
        alone, _ = jax.jit(learner.update)(jax.jit(learner.init)(keys[i]))
        for x, y in zip(
            jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True
        ):
            np.testing.assert_allclose(x[i], y, atol=SEED_AXIS_TOLERANCE)


def final_distance(policy, episodes=256):
    env = PointEnv()
    state = jax.vmap(env.reset)(jax.random.split(jax.random.key(9), episodes))
    for _ in range(15):
        state = jax.vmap(env.step)(state, policy(state.obs))
    return float(state.metrics["distance"].mean())


def test_learns_what_stock_brax_ppo_learns():
    from brax.training.agents.ppo import train as stock

    enable_stock_brax_training()
    steps, envs, unroll, minibatches, epochs = 60_000, 64, 10, 4, 4
    make_policy, params, _ = stock.train(
        PointEnv(),
        num_timesteps=steps,
        episode_length=20,
        num_envs=envs,
        unroll_length=unroll,
        batch_size=envs // minibatches,
        num_minibatches=minibatches,
        num_updates_per_batch=epochs,
        learning_rate=3e-3,
        entropy_cost=1e-3,
        discounting=0.95,
        clipping_epsilon=0.2,
        normalize_observations=True,
        num_evals=2,
        num_eval_envs=16,
        seed=0,
        use_pmap_on_reset=False,
    )
    stock_policy = make_policy(params, deterministic=True)
    theirs = final_distance(lambda obs: stock_policy(obs, jax.random.key(0))[0])
    learner = small_learner(
        total_steps=steps,
        num_envs=envs,
        unroll_length=unroll,
        num_minibatches=minibatches,
        num_epochs=epochs,
        learning_rate=3e-3,
        final_learning_rate=3e-3,
        discount=0.95,
        entropy_cost=1e-3,
        final_entropy_cost=1e-3,
        policy_layers=(32,) * 2,
    )
    state, update = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.update)
    for _ in range(learner.config.num_updates):
        state, _ = update(state)
    networks = learner.networks

    def our_policy(obs):
        logits = networks.policy_network.apply(state.normalizer, state.params.policy, obs)
        return networks.parametric_action_distribution.mode(logits)

    ours, untrained = final_distance(our_policy), final_distance(lambda o: jnp.zeros((256, 2)))
    assert theirs < 0.3 * untrained
    assert ours < max(1.5 * theirs, 0.1 * untrained)


@pytest.mark.parametrize("phase", ["privileged", "dr-history"])
def test_policy_folder_gives_the_same_actions_and_refuses_other_tasks(tmp_path, small_task, phase):
    task = phase_task(small_task, phase)
    env = TrainingEnv(PushEnv(task), small_task.episode_length)
    learner = small_learner(env)
    state = jax.jit(learner.init)(jax.random.key(0))
    seen = running_statistics.update(state.normalizer, state.env_state.obs)
    state = state.replace(normalizer=seen)
    contract = contract_of(task, phase, (16,), steps=80)
    policy = policy_from_training(state.params, state.normalizer, contract)
    save_policy(tmp_path, policy)
    obs = state.env_state.obs["state"]
    theta = state.env_state.pipeline_state.theta_input
    networks = learner.networks
    logits = networks.policy_network.apply(state.normalizer, state.params.policy, {"state": obs})
    expected = networks.parametric_action_distribution.mode(logits)
    loaded, window = load_policy(tmp_path, task), state.env_state.pipeline_state.window
    now = obs[:, : len(FEATURES)]
    np.testing.assert_allclose(loaded(now, theta, window), expected, atol=1e-5)
    if phase == "dr-history":
        with pytest.raises(ValueError, match="reads 10 rows of history, 0 are given"):
            loaded(now, theta)
    with pytest.raises(ValueError, match=r"'push_tblock', not on 'push_hammer'"):
        load_policy(tmp_path, replace(small_task, name="push_hammer"))


def test_policy_of_another_schema_or_other_features_is_refused(tmp_path, small_task):
    contract = contract_of(small_task, "dr", (16,), steps=0)
    write_contract(tmp_path / "policy.json", replace(contract, features=FEATURES[:-1]))
    with pytest.raises(ValueError, match="expects features"):
        load_policy(tmp_path)
    text = (tmp_path / "policy.json").read_text()
    (tmp_path / "policy.json").write_text(text.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(ValueError, match="has schema 9, this version reads 1"):
        load_policy(tmp_path)


def test_a_policy_that_never_saw_theta_ignores_it(tmp_path, small_task):
    learner = small_learner(TrainingEnv(PushEnv(small_task), small_task.episode_length))
    params = jax.jit(learner.networks.policy_network.init)(jax.random.key(0))
    size = len(FEATURES) + 1
    obs = jnp.ones((1, len(FEATURES)))
    for phase, same in (("dr", True), ("noisy", False)):
        contract = contract_of(small_task, phase, (16,), steps=0)
        policy = Policy(params, jnp.zeros(size), jnp.ones(size), contract)
        low, high = policy(obs, jnp.array([[-0.03]])), policy(obs, jnp.array([[0.07]]))
        assert np.array_equal(low, high) == same


def forget_settings(folder, *names):
    record = json.loads((folder / "config.json").read_text())
    for name in names:
        del record["ppo"][name]
    write_json(folder / "config.json", record)


def test_interrupted_run_leaves_a_checkpoint_and_resumes_to_the_same_result(
    tmp_path, small_task, monkeypatch
):
    config = TrainConfig(small_task, "privileged", SMALL, tmp_path / "a", evaluations=4)
    straight = train(config)
    config = replace(config, out=tmp_path / "b")
    calls = []
    with monkeypatch.context() as patch:
        import p2r_jax.policy.train as module

        write = module.MetricLog.write

        def interrupt(self, step, row):
            write(self, step, row)
            calls.append(step)
            if len(calls) == 2:
                raise KeyboardInterrupt

        patch.setattr(module.MetricLog, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    forget_settings(config.out, "action_head", "memory")  # as an older version wrote it
    resumed = train(replace(config, resume=True))
    assert_same(straight.params, resumed.params)
    assert resumed.contract.steps == straight.contract.steps
    with pytest.raises(FileExistsError, match="overwrite"):
        train(config)
    other = replace(config, resume=True, ppo=replace(SMALL, learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"ppo.learning_rate = 0.0005, not 0.001"):
        train(other)
    other = replace(config, resume=True, ppo=replace(SMALL, action_head="categorical"))
    with pytest.raises(ValueError, match=r"ppo.action_head = None, not categorical"):
        train(other)


def test_noisy_phase_needs_a_policy_to_continue(tmp_path, small_task):
    with pytest.raises(ValueError, match="--init"):
        train(TrainConfig(small_task, "noisy", SMALL, tmp_path / "c"))
