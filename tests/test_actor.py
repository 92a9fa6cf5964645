"""Actors with another head or a memory: their twins, and that training carries a memory right."""

from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from brax.training.acme import running_statistics
from flax import linen as nn
from flax import struct

from p2r_jax.deploy.bundle import check_networks
from p2r_jax.deploy.export import loop_spec
from p2r_jax.deploy.loop import Bundle, loop_step
from p2r_jax.evaluation.methods import Checkpoints, make_bundle, uninformed_ensemble
from p2r_jax.evaluation.trials import batched_loop_step, empty_memory
from p2r_jax.files import load_pytree, save_pytree, write_json
from p2r_jax.policy.actor import BEGINS, MEMORY, RecurrentActor, RecurrentNetwork
from p2r_jax.policy.heads import ACTION_VALUES, CategoricalDistribution
from p2r_jax.policy.policy import Policy, actor_network, contract_of, load_policy, save_policy
from p2r_jax.policy.ppo import PPO, PPOConfig
from p2r_jax.policy.train import TrainConfig, check_memory, default_ppo, phase_task, train
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.training_env import TrainingEnv
from p2r_jax.types import Gaussian, Measurement, PlanarPose

FLOAT32 = 1e-5  # sums of a dozen terms in another order
SIZE, HIDDEN, OUTPUTS, ENVS, TIME = 3, 8, 4, 5, 7
RECALL = PPOConfig(
    total_steps=50_000,
    num_envs=64,
    unroll_length=6,
    num_minibatches=2,
    num_epochs=4,
    learning_rate=3e-3,
    final_learning_rate=1e-3,
    discount=0.5,
    policy_layers=(16,),
    value_layers=(16,),
    action_head="categorical",
)


@struct.dataclass
class CueState:
    """The cue and the step count."""

    cue: jax.Array
    step: jax.Array


class CueEnv(Env):
    """The first observation of an episode of four steps shows what to do in the other three."""

    observation_size = {"state": (2,), "privileged_state": (3,)}  # noqa: RUF012
    action_size = 2
    backend = "none"

    def reset(self, rng):
        inner = CueState(jnp.sign(jax.random.normal(rng)), jnp.zeros(()))
        zero = jnp.zeros(())
        return State(inner, self._obs(inner), zero, zero, {"miss": zero}, {"truncation": zero})

    def step(self, state, action):
        inner = state.pipeline_state
        hidden = (inner.step > 0).astype(jnp.float32)
        miss = hidden * jnp.abs(action[0] - inner.cue)
        after = inner.replace(step=inner.step + 1)
        done = (after.step >= 4).astype(jnp.float32)
        return state.replace(
            pipeline_state=after,
            obs=self._obs(after),
            reward=-miss,
            done=done,
            metrics={"miss": miss},
            info={**state.info, "truncation": 0 * done},
        )

    def _obs(self, inner):
        shown = jnp.where(inner.step == 0, inner.cue, 0.0)
        seen = jnp.array([shown, inner.step])
        return {"state": seen, "privileged_state": jnp.array([*seen, inner.cue])}


def recurrent_network():
    network = RecurrentNetwork(RecurrentActor(HIDDEN, (6,), OUTPUTS), SIZE)
    return network, jax.jit(network.init)(jax.random.key(0))


def unroll_of(key, begins=0.3):
    key_obs, key_memory, key_begins = jax.random.split(key, 3)
    return {
        "state": jax.random.normal(key_obs, (TIME, ENVS, SIZE)),
        MEMORY: jax.random.normal(key_memory, (1, ENVS, HIDDEN)),
        BEGINS: jax.random.bernoulli(key_begins, begins, (TIME, ENVS)).astype(jnp.float32),
    }


# --- the categorical head -------------------------------------------------------------------


def test_a_categorical_head_is_plain_arithmetic_over_evenly_spaced_values():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 2 * ACTION_VALUES)).astype(np.float32)
    head, values = CategoricalDistribution(2), np.linspace(-1, 1, ACTION_VALUES)
    weights = np.exp(outputs.reshape(5, 2, ACTION_VALUES))
    share = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(head.mode(outputs), values[share.argmax(-1)], atol=FLOAT32)
    draws = head.sample_no_postprocessing(outputs, jax.random.key(1))
    picked = np.take_along_axis(share, np.asarray(draws)[..., None], -1)[..., 0]
    np.testing.assert_allclose(head.log_prob(outputs, draws), np.log(picked).sum(-1), atol=FLOAT32)
    entropy = -(share * np.log(share)).sum((-1, -2))
    np.testing.assert_allclose(head.entropy(outputs, jax.random.key(0)), entropy, atol=FLOAT32)
    made = head.create_dist(outputs)
    mean = share @ values
    np.testing.assert_allclose(made.loc, mean, atol=FLOAT32)
    std = np.sqrt(share @ values**2 - mean**2)
    np.testing.assert_allclose(made.scale, std, atol=FLOAT32)
    other = share[::-1]
    kl = (other * np.log(other / share)).sum((-1, -2))
    found = made.kl_divergence(head.create_dist(outputs[::-1]))
    np.testing.assert_allclose(found, kl, atol=FLOAT32)


def test_draws_of_a_categorical_head_are_as_frequent_as_it_says():
    head, values = CategoricalDistribution(1), np.linspace(-1, 1, ACTION_VALUES)
    outputs = jnp.arange(ACTION_VALUES) / 3.0
    drawn = head.sample(jnp.tile(outputs, (20_000, 1)), jax.random.key(0))
    share = np.asarray(jax.nn.softmax(outputs))
    found = (np.abs(np.asarray(drawn) - values) < FLOAT32).mean(0)
    np.testing.assert_allclose(found, share, atol=0.012)  # 3.5 sigma of 20 000 draws
    assert 0.0 in values


# --- the recurrent network ------------------------------------------------------------------


def test_the_scan_over_an_unroll_is_the_step_taken_again_and_again():
    network, params = recurrent_network()
    obs = unroll_of(jax.random.key(1))
    fast = jax.jit(lambda o: network.apply(None, params, o))(obs)
    memory, step = obs[MEMORY][0], jax.jit(lambda o: network.step(None, params, o))
    for t in range(TIME):
        seen = {"state": obs["state"][t], MEMORY: memory, BEGINS: obs[BEGINS][t]}
        outputs, memory = step(seen)
        np.testing.assert_allclose(fast[t], outputs, atol=FLOAT32)


def test_the_gates_are_those_of_flax_gru_cell():
    network, params = recurrent_network()
    gates, recall = (params["params"][name] for name in ("gates", "recall"))
    ours = {}
    for i, name in enumerate("rzn"):
        part = slice(i * HIDDEN, (i + 1) * HIDDEN)
        ours[f"i{name}"] = {"kernel": gates["kernel"][:, part], "bias": gates["bias"][part] + 0.1}
        ours[f"h{name}"] = {"kernel": recall["kernel"][:, part]}
    ours["hn"]["bias"] = recall["bias"][2 * HIDDEN :] + 0.2
    params["params"]["gates"]["bias"] = gates["bias"] + 0.1
    params["params"]["recall"]["bias"] = recall["bias"].at[2 * HIDDEN :].add(0.2)
    obs = unroll_of(jax.random.key(2))
    memory, seen = obs[MEMORY][0], obs["state"][0]
    expected, _ = nn.GRUCell(HIDDEN).apply({"params": ours}, memory, seen)
    found = jax.jit(network.actor.apply)(params, memory, seen)[1]
    np.testing.assert_allclose(found, expected, atol=FLOAT32)


def test_nothing_is_remembered_across_the_beginning_of_an_episode():
    network, params = recurrent_network()
    obs = unroll_of(jax.random.key(3), begins=0.0)
    obs[BEGINS] = obs[BEGINS].at[4].set(1.0)

    def outputs(first):
        return network.apply(None, params, obs | {MEMORY: first})

    slopes = jax.jit(jax.jacobian(outputs))(obs[MEMORY])
    reach = np.abs(slopes).max(axis=(1, 2, 3, 4, 5))  # by time of the output
    assert (reach[:4] > 0).all()
    assert (reach[4:] == 0).all()


# --- training -------------------------------------------------------------------------------


def test_the_loss_sees_what_the_actor_did_also_in_the_middle_of_episodes():
    learner = PPO(TrainingEnv(CueEnv(), 4), replace(RECALL, memory=HIDDEN))

    @jax.jit
    def unroll(state, key):
        env_state, data, *_ = learner._unroll(state, key, lambda *_: None)
        obs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), data.observation)
        again = learner.networks.policy_network.apply(state.normalizer, state.params.policy, obs)
        did = data.extras["policy_extras"]["distribution_params"]
        return state.replace(env_state=env_state), jnp.swapaxes(again, 0, 1), did, data.observation

    state = jax.jit(learner.init)(jax.random.key(0))
    assert np.array_equal(state.env_state.obs[BEGINS], np.ones(RECALL.num_envs))
    for number in range(3):
        state = state.replace(env_state=learner.env.refill(state.env_state, jax.random.key(number)))
        state, again, did, obs = unroll(state, jax.random.key(number))
        np.testing.assert_allclose(again, did, atol=FLOAT32)
        assert obs[MEMORY].shape == (RECALL.num_envs, 1, HIDDEN)
        assert np.any(obs[MEMORY] != 0) == (number > 0)  # carried from unroll to unroll
        step = np.asarray(obs["state"][..., 1])
        np.testing.assert_array_equal(obs[BEGINS][:, 1:], step[:, 1:] == 0)


def trained(memory, at_update=lambda state: None):
    """Miss of the last update, the update and the state after it; ``at_update`` sees each."""
    learner = PPO(TrainingEnv(CueEnv(), 4), replace(RECALL, memory=memory))
    state, update = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.update)
    for _ in range(learner.config.num_updates):
        at_update(state)
        state, metrics = update(state)
    return float(metrics["env/miss"]), update, state


@pytest.mark.slow
def test_a_recurrent_actor_learns_what_must_be_remembered_and_resumes_exactly(tmp_path):
    def keep(state):
        if state.update == 5:  # unrolls of 6 steps, episodes of 4: in the middle of one
            save_pytree(tmp_path / "state.msgpack", state)
        if state.update == 7:
            reached.append(state)

    reached = []
    miss, update, state = trained(HIDDEN, keep)
    assert miss < 0.3
    resumed = load_pytree(tmp_path / "state.msgpack", state)
    for _ in range(2):
        resumed, _ = update(resumed)
    for now, then in zip(jax.tree.leaves(resumed), jax.tree.leaves(reached[0]), strict=True):
        if jnp.issubdtype(now.dtype, jax.dtypes.prng_key):
            now, then = jax.random.key_data(now), jax.random.key_data(then)
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
def test_a_feed_forward_actor_cannot_learn_what_must_be_remembered():
    assert trained(0)[0] > 0.6  # 0.75: right half of the time


def test_a_feed_forward_training_is_stored_as_it_was():
    learner = PPO(TrainingEnv(CueEnv(), 4), RECALL)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert set(state.env_state.obs) == {"state", "privileged_state"}


def test_settings_that_make_no_sense_are_refused(small_task, tmp_path):
    with pytest.raises(ValueError, match=r"ppo.memory is -1"):
        replace(RECALL, memory=-1)
    with pytest.raises(ValueError, match=r"no action head 'beta'.*gaussian, categorical"):
        PPO(TrainingEnv(CueEnv(), 4), replace(RECALL, action_head="beta"))
    with pytest.raises(ValueError, match="dr-recurrent needs a memory"):
        train(TrainConfig(small_task, "dr-recurrent", RECALL, tmp_path / "run"))
    with pytest.raises(ValueError, match="only phase dr-recurrent has a memory"):
        check_memory("privileged", replace(RECALL, memory=4))
    recurrent, plain = default_ppo("dr-recurrent"), default_ppo("dr")
    assert replace(recurrent, memory=0) == plain


@pytest.mark.slow
def test_a_recurrent_training_that_is_cut_short_resumes_exactly(tmp_path, small_task, monkeypatch):
    import p2r_jax.policy.train as module

    ppo = replace(RECALL, total_steps=4 * RECALL.steps_per_update, memory=4)
    config = TrainConfig(small_task, "dr-recurrent", ppo, tmp_path / "a", evaluations=4)
    straight = train(config)
    config, calls = replace(config, out=tmp_path / "b"), []
    write = module.MetricLog.write

    def interrupt(self, step, row):
        write(self, step, row)
        calls.append(step)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.MetricLog, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(replace(config, resume=True))
    jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
    assert resumed.contract == replace(straight.contract, git=resumed.contract.git)
    assert (resumed.contract.memory, resumed.contract.action_head) == (4, "categorical")


# --- the trained policy ---------------------------------------------------------------------


def random_policy(task, memory=0, head="gaussian", phase="dr-recurrent"):
    contract = contract_of(phase_task(task, phase), phase, (16,), 0, head, memory)
    size = contract.observation_size
    params = jax.jit(actor_network(contract).policy_network.init)(jax.random.key(4))
    return Policy(params, 0.1 * jnp.ones(size), 0.5 * jnp.ones(size), contract)


@pytest.mark.parametrize(("head", "memory"), [("gaussian", HIDDEN), ("categorical", 0)])
def test_a_policy_folder_keeps_head_and_memory(tmp_path, task, head, memory):
    policy = random_policy(task, memory, head, "dr-recurrent" if memory else "noisy")
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path, task)
    assert loaded.contract == policy.contract
    features, theta = jnp.ones((ENVS, len(FEATURES))), jnp.zeros((ENVS, 1))
    start = policy.empty_memory(ENVS)
    act = jax.jit(lambda p, memory: p.act(features, theta, memory=memory))
    action, memory_after = act(policy, start)
    again, _ = act(loaded, loaded.empty_memory(ENVS))
    np.testing.assert_array_equal(action, again)
    assert (memory_after is None) == (memory == 0)
    if head == "categorical":
        values = np.linspace(-1, 1, ACTION_VALUES)
        assert np.abs(np.asarray(action)[..., None] - values).min(-1).max() < FLOAT32


def test_a_policy_of_before_heads_and_memories_loads(tmp_path, task):
    policy = random_policy(task, phase="noisy")
    save_policy(tmp_path, policy)
    record = asdict(policy.contract) | {"schema": 1}
    for name in ("action_head", "memory"):
        del record[name]
    write_json(tmp_path / "policy.json", record)
    assert load_policy(tmp_path, task).contract == policy.contract


def test_a_recurrent_policy_asks_for_its_memory(task):
    policy, (features, theta) = random_policy(task, HIDDEN), (jnp.ones(len(FEATURES)), jnp.zeros(1))
    with pytest.raises(ValueError, match="carries a memory of 8, 0 are given; begin an episode"):
        policy(features, theta)
    with pytest.raises(ValueError, match="carries a memory of 8, 3 are given"):
        policy.act(features, theta, memory=jnp.zeros(3))


def measurements(steps):
    rng = np.random.default_rng(0)
    pose = np.array([0.3, 0.2, 0.4]) + np.cumsum(rng.normal(0, 0.02, (steps, 3)), 0)
    ee = np.array([0.3, 0.0]) + np.cumsum(rng.normal(0, 0.02, (steps, 2)), 0)
    for p, e in zip(pose, ee, strict=True):
        yield Measurement(PlanarPose(jnp.array(p[:2]), jnp.array(p[2])), jnp.array(e))


def test_the_loop_of_a_recurrent_policy_is_its_unroll(task):
    policy, ensemble = random_policy(task, HIDDEN), uninformed_ensemble(task)
    prior, goal = Gaussian(jnp.zeros(1), jnp.ones(1)), PlanarPose(jnp.zeros(2), jnp.zeros(()))
    bundle = Bundle(policy, ensemble, prior, goal, "given")
    memory, step, rows, actions = bundle.empty_memory(), jax.jit(loop_step), [], []
    for seen in measurements(TIME):
        action, memory, _ = step(bundle, memory, seen)
        rows.append(memory.window.features[-1])
        actions.append(action)
    blind = jnp.zeros((TIME, 1))  # theta, which it never sees
    obs = (jnp.concatenate([jnp.stack(rows), blind], -1) - policy.mean) / policy.std
    made = actor_network(policy.contract)
    unroll = {
        "state": obs[:, None],
        MEMORY: jnp.zeros((1, 1, HIDDEN)),
        BEGINS: jnp.zeros((TIME, 1)).at[0].set(1.0),
    }
    outputs = jax.jit(lambda obs: made.policy_network.apply(None, policy.params, obs))(unroll)
    expected = made.parametric_action_distribution.mode(outputs)[:, 0]
    np.testing.assert_allclose(jnp.stack(actions), expected, atol=FLOAT32)
    forgetful = memory.replace(policy=bundle.empty_memory().policy)
    assert not np.allclose(step(bundle, memory, seen)[0], step(bundle, forgetful, seen)[0])


def test_trials_carry_a_memory_each(task):
    checkpoints = Checkpoints(
        {"dr-recurrent": random_policy(task, HIDDEN)}, uninformed_ensemble(task), informed=False
    )
    prior = Gaussian(jnp.array([0.03]), jnp.array([2e-4]))
    bundle = make_bundle("dr-recurrent", checkpoints, task, prior, np.zeros((2, 1)))
    together = empty_memory(bundle, 2)
    single = jax.tree.map(lambda x: x[:1], together)
    seen = [jax.tree.map(lambda x: jnp.stack([x, x + 0.01]), m) for m in measurements(3)]
    alone = bundle.replace(prior=jax.tree.map(lambda x: x[:1], bundle.prior))
    for both in seen:
        actions, together, _ = batched_loop_step(bundle, together, both)
        first = jax.tree.map(lambda x: x[:1], both)
        action, single, _ = batched_loop_step(alone, single, first)
        np.testing.assert_allclose(actions[:1], action, atol=FLOAT32)
    assert together.policy.shape == (2, HIDDEN)
    assert not np.allclose(together.policy[0], together.policy[1])


def test_forms_that_cannot_hold_these_policies_say_so(task):
    ensemble = uninformed_ensemble(task)
    spec = loop_spec(task)
    with pytest.raises(ValueError, match=r"here: the policy is recurrent.*p2r evaluate"):
        check_networks(spec, random_policy(task, HIDDEN), ensemble, "here")
    pytest.importorskip("onnx", reason="needs onnx: pip install 'p2r_jax[onnx]'")
    from p2r_jax.deploy.onnx_graph import step_model

    with pytest.raises(ValueError, match="gaussian action head; this one is categorical"):
        step_model(spec, random_policy(task, head="categorical", phase="noisy"), ensemble)


def test_a_normaliser_never_sees_a_memory():
    learner = PPO(TrainingEnv(CueEnv(), 4), replace(RECALL, memory=HIDDEN))
    state = jax.eval_shape(learner.init, jax.random.key(0))
    assert isinstance(state.normalizer, running_statistics.RunningStatisticsState)
    assert set(state.normalizer.mean) == {"state", "privileged_state"}
