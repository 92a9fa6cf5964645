"""RMA with a latent: encoder and policy trained as one, cut apart, and adapted to the window."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.acme import running_statistics
from brax.training.agents.ppo.losses import PPONetworkParams
from test_ppo import SMALL as PPO_SMALL

from p2r_jax.estimator import train as estimator_train
from p2r_jax.estimator.adaptor import default_adaptor, load_adaptor, train_adaptor
from p2r_jax.evaluation.evaluate import make_world, run_cell
from p2r_jax.evaluation.methods import load_checkpoints
from p2r_jax.evaluation.outcomes import summarize
from p2r_jax.evaluation.true_physics import true_physics
from p2r_jax.policy.latent import (
    LATENT,
    PHYSICS,
    PHYSICS_NAMES,
    PhysicsEnv,
    cut_apart,
    latent_names,
    load_encoder,
    save_encoder,
)
from p2r_jax.policy.logging import MetricLog
from p2r_jax.policy.policy import Policy, actor_network, contract_of, load_policy, save_policy
from p2r_jax.policy.ppo import PPO
from p2r_jax.policy.train import TrainConfig, phase_task, train
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.training_env import TrainingEnv
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

FLOAT32 = 1e-5  # sums of a dozen terms in another order
PRIOR = Gaussian(jnp.array([0.03]), jnp.array([2e-4]))


@pytest.fixture(scope="module")
def task():
    """The plus task, in which all physics vary, short and coarse."""
    base = load_task("push_tblock_plus")
    return replace(base, episode_length=6, planar=replace(base.planar, substeps=2))


def learner_of(task):
    return PPO(TrainingEnv(PhysicsEnv(phase_task(task, "latent")), task.episode_length), PPO_SMALL)


@pytest.fixture(scope="module")
def episodes(task):
    """Observations and physics of some episodes' first moments."""
    env = PhysicsEnv(phase_task(task, "latent"))
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(3), 16))
    return state.obs, state.pipeline_state.physics


@pytest.fixture(scope="module")
def whole(task, episodes):
    """An untrained actor that has seen these episodes: networks, normaliser, parameters."""
    made = learner_of(task).networks
    blank = running_statistics.init_state({k: x[0] for k, x in episodes[0].items()})
    seen = running_statistics.update(blank, episodes[0])
    return made, seen, jax.jit(made.policy_network.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def cut(task, whole):
    """Policy and encoder that are cut out of it."""
    _, normalizer, params = whole
    contract = contract_of(phase_task(task, "latent"), "latent", (16,), 0)
    return cut_apart(PPONetworkParams(policy=params, value=None), normalizer, contract)


def store(root, policy, encoder):
    save_policy(root / "latent", policy)
    save_encoder(root / "latent", encoder)


def test_the_encoder_reads_what_the_episode_drew(episodes):
    obs, physics = episodes
    arms = np.asarray(physics.support) - np.asarray(physics.com)[:, None, :2]
    expected = {
        "com_object_x": physics.com[:, 0],
        "com_object_y": physics.com[:, 1],
        "friction_table": physics.friction_table,
        "friction_pusher": physics.friction_pusher,
        "mass": physics.mass,
        "inertia_z": physics.inertia[:, 2, 2],
        "support_radius": np.linalg.norm(arms, axis=-1).mean(-1),
    }
    for i, name in enumerate(PHYSICS_NAMES):
        np.testing.assert_allclose(obs[PHYSICS][:, i], expected[name], rtol=1e-5)
    varied = dict(zip(PHYSICS_NAMES, np.std(obs[PHYSICS], 0) > 1e-6, strict=True))
    assert varied == {name: name != "mass" for name in PHYSICS_NAMES}  # the weight's is given


def test_policy_and_encoder_apart_do_what_the_actor_did(tmp_path, task, episodes, whole, cut):
    (obs, physics), (made, normalizer, params) = episodes, whole
    store(tmp_path, *cut)
    policy, encoder = (load(tmp_path / "latent", task) for load in (load_policy, load_encoder))
    outputs = made.policy_network.apply(normalizer, params, obs)
    expected = made.parametric_action_distribution.mode(outputs)
    features, z = obs["state"][:, : len(FEATURES)], encoder(physics)
    assert z.shape == (16, LATENT)
    np.testing.assert_allclose(policy(features, z), expected, atol=FLOAT32)
    assert not np.allclose(policy(features, z), policy(features, -z))
    with pytest.raises(ValueError, match=r"told z_0, .*z_7; 1 numbers are given"):
        policy(features, jnp.zeros((16, 1)))
    with pytest.raises(ValueError, match="on task 'push_tblock_plus', not on 'push_hammer'"):
        load_encoder(tmp_path / "latent", replace(task, name="push_hammer"))


@pytest.mark.slow
def test_the_loss_trains_the_encoder_and_the_normaliser_sees_the_physics(task):
    learner = learner_of(task)
    start = jax.jit(learner.init)(jax.random.key(0))
    after, _ = jax.jit(learner.update)(start)
    before, now = (s.params.policy["params"]["encoder"] for s in (start, after))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, now)
    assert min(jax.tree.leaves(moved)) > 0
    mean = after.normalizer.mean[PHYSICS]
    low, high = task.physics.friction
    assert low < float(mean[2]) < high


@pytest.mark.parametrize("dynamics", ["training", "reality-test"])
def test_a_world_says_all_of_its_physics(task, dynamics):
    trials = draw_trials(task, task.object.with_weight(0.095), 2, seed=0)
    world = make_world(dynamics, task, trials)
    physics = true_physics(world)
    np.testing.assert_allclose(physics.com[:, :1], world.theta, atol=1e-6)
    np.testing.assert_allclose(physics.friction_table, trials.friction, rtol=1e-5)
    mass, _, inertia = trials.mass_properties
    np.testing.assert_allclose(physics.mass, [mass] * 2, rtol=1e-5)
    np.testing.assert_allclose(physics.inertia, np.stack([inertia] * 2), atol=1e-8)
    own = np.asarray(physics.friction_pusher) != np.asarray(physics.friction_table)
    assert own.all() == (dynamics == "reality-test")
    assert physics.support.shape[0] == 2
    with pytest.raises(TypeError, match="object does not say its physics"):
        true_physics(object())


@pytest.mark.slow
def test_an_adaptor_learns_the_encoding_resumes_exactly_and_closes_the_loop(
    tmp_path, task, cut, monkeypatch
):
    policy, encoder = cut
    wide = jax.tree.map(lambda x: 3.0 * x, encoder.params)  # encodings that differ more
    store(tmp_path, policy, encoder.replace(params=wide))
    config = replace(
        default_adaptor(task, tmp_path / "latent", tmp_path / "run"),
        layers=(16,),
        rounds=2,
        episodes=32,
        steps=40,
        batch=64,
        test_episodes=16,
    )
    straight = train_adaptor(config)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    errors = [float(row.split(",")[1]) for row in rows[1:]]
    assert errors[1] < errors[0]
    report = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert len(report["mse_by_step"]) == task.episode_length

    save = estimator_train.save_run

    def stop(*args):
        save(*args)
        raise KeyboardInterrupt

    config = replace(config, out=tmp_path / "again")
    with monkeypatch.context() as patch:
        patch.setattr(estimator_train, "save_run", stop)
        with pytest.raises(KeyboardInterrupt):
            train_adaptor(config)
    resumed = train_adaptor(replace(config, resume=True))
    jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
    (tmp_path / "run" / "estimator").rename(tmp_path / "adaptor")
    loaded = load_adaptor(tmp_path / "adaptor", task)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, straight.params)
    trials = draw_trials(task, task.object.with_weight(0.095), 2, seed=0)
    for name in ("rma-latent", "latent-privileged"):
        found = load_checkpoints(tmp_path, task, (name,))
        record = run_cell(name, make_world("training", task, trials), found, task, PRIOR)
        assert record.theta_used.shape == (2, task.episode_length, LATENT)
        assert summarize(record, task)["theta_rmse_m"]["used"] is None
        if name == "rma-latent":
            assert record.theta_used.std(1).max() > 0  # the window decides
            continue
        z = found.encoder(true_physics(make_world("training", task, trials)))
        np.testing.assert_allclose(record.theta_used[:, 3], z, atol=FLOAT32)


def test_an_adaptor_refuses_what_is_no_latent_policy(tmp_path, task):
    with pytest.raises(ValueError, match="one member"):
        train_adaptor(replace(default_adaptor(task, tmp_path, tmp_path / "run"), members=3))
    contract = contract_of(task, "noisy", (16,), 0)
    params = jax.jit(actor_network(contract).policy_network.init)(jax.random.key(0))
    size = contract.observation_size
    save_policy(tmp_path / "noisy", Policy(params, jnp.zeros(size), jnp.ones(size), contract))
    with pytest.raises(ValueError, match="policy of phase noisy; an adaptor needs one"):
        train_adaptor(default_adaptor(task, tmp_path / "noisy", tmp_path / "run"))
    with pytest.raises(ValueError, match="no films"):
        train(TrainConfig(task, "latent", PPO_SMALL, tmp_path / "films", video_every=100))


@pytest.mark.slow
def test_a_latent_training_writes_policy_and_encoder_and_resumes_exactly(
    tmp_path, task, monkeypatch
):
    config = TrainConfig(task, "latent", PPO_SMALL, tmp_path / "a", evaluations=2)
    straight = train(config)
    whole = load_encoder(tmp_path / "a" / "policy", task)
    config, write = replace(config, out=tmp_path / "b"), MetricLog.write

    def stop(self, step, row):
        write(self, step, row)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(replace(config, resume=True))
    jax.tree.map(np.testing.assert_array_equal, straight.params, resumed.params)
    again = load_encoder(tmp_path / "b" / "policy", task)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    assert resumed.contract.theta == latent_names()
