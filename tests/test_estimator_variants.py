"""Kinds of estimators: old files, recurrence, contact, other histories, seeds side by side."""

import json
from dataclasses import replace
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from p2r_jax.estimator.calibration import after_contact
from p2r_jax.estimator.ensemble import (
    bounded_log_variance,
    init_ensemble,
    load_ensemble,
    save_ensemble,
    touches,
    transitions,
)
from p2r_jax.estimator.rollouts import Episodes
from p2r_jax.estimator.train import (
    EstimatorConfig,
    contract_of,
    load_training,
    seed_keys,
    train_estimator,
    train_seeds,
)
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.files import as_record, write_json
from p2r_jax.policy.policy import Policy, actor_network, load_policy, save_policy
from p2r_jax.policy.policy import contract_of as policy_contract
from p2r_jax.sim.observation import FEATURES, policy_features
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.window import Window, window_inputs
from p2r_jax.types import Measurement, PlanarPose, to_world

FLOAT_TOLERANCE = 1e-5
TRAINED_TOLERANCE = 1e-5  # of parameters: float sums in another order, through training
KINDS = {
    "mlp": {},
    "all": {"network": "gru", "layers": (8, 16), "contact": True, "history": 20},
}


@pytest.fixture
def tiny(task, tmp_path):
    """A configuration that trains in seconds, and a random policy for it."""
    short = replace(task, episode_length=12, planar=replace(task.planar, substeps=2))
    policy = random_policy(short, "noisy")
    save_policy(tmp_path / "policy", policy)
    return EstimatorConfig(
        short,
        tmp_path / "policy",
        tmp_path / "run",
        members=2,
        layers=(16,),
        rounds=2,
        episodes=16,
        steps=4,
        batch=16,
        test_episodes=8,
    )


def random_policy(task, phase):
    contract = policy_contract(task, phase, (16,), 0)
    size = contract.observation_size
    params = jax.jit(actor_network(contract).policy_network.init)(jax.random.key(0))
    return Policy(params, jnp.zeros(size), jnp.ones(size), contract)


def pushed_window(history, steps, seed=0):
    """A window after some steps of a pusher and an object that wander."""
    rng, window = np.random.default_rng(seed), Window.empty(history)
    goal = PlanarPose(jnp.array([0.3, -0.2]), jnp.array(0.0))
    xy, yaw, ee = np.array([0.3, 0.2]), 0.4, np.array([0.3, 0.05])
    for _ in range(steps):
        sent = rng.uniform(-1, 1, 2)
        xy, yaw, ee = xy + 0.01 * rng.normal(size=2), yaw + 0.1 * rng.normal(), ee + 0.03 * sent
        measured = Measurement(PlanarPose(jnp.array(xy), jnp.array(yaw)), jnp.array(ee))
        window = window.push(policy_features(measured, goal, jnp.zeros(2)), jnp.array(sent))
    return window


def written_out_head(layers, x):
    """Dense layers with SiLU, then mean and log-variance, in numpy."""
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if index < len(layers) - 1:
            x = x / (1 + np.exp(-x))
    mean, raw = np.split(x, 2)
    return mean, np.asarray(bounded_log_variance(raw))


def dense(member):
    return [(member[k]["kernel"], member[k]["bias"]) for k in sorted(member) if "Dense" in k]


@pytest.mark.skipif(
    not (CHECKPOINT_ROOT / "push_tblock" / "estimator").is_dir(), reason="no shipped estimator"
)
def test_an_estimator_from_before_the_new_keys_loads_and_answers_as_it_did(task):
    folder = CHECKPOINT_ROOT / "push_tblock" / "estimator"
    assert '"network"' not in (folder / "estimator.json").read_text()
    ensemble = load_ensemble(folder, task)
    assert (ensemble.contract.network, ensemble.contract.outline) == ("mlp", ())
    window = pushed_window(10, 7)
    means, variances = jax.jit(lambda e, w: e.members(w))(ensemble, window)
    raw = flax.serialization.msgpack_restore((folder / "estimator.msgpack").read_bytes())
    x = np.asarray(window_inputs(window, task.action_scale_m))
    for i in range(ensemble.contract.members):
        member = jax.tree.map(lambda p, i=i: np.asarray(p[i], np.float64), raw["params"])
        mean, log_variance = written_out_head(dense(member), x)
        np.testing.assert_allclose(
            means[i], task.theta_mean + task.theta_std * mean, atol=FLOAT_TOLERANCE
        )
        np.testing.assert_allclose(
            variances[i], task.theta_std**2 * np.exp(log_variance), rtol=1e-3
        )


def test_the_recurrent_network_equals_its_equations_written_out(task, tiny):
    config = replace(tiny, network="gru", layers=(6, 8))
    ensemble = init_ensemble(contract_of(task, config), jax.random.key(1))
    window = pushed_window(10, 7)
    means, variances = jax.jit(lambda e, w: e.members(w))(ensemble, window)
    rows = np.asarray(transitions(window, ensemble.contract))
    for i in range(config.members):
        member = jax.tree.map(lambda p, i=i: np.asarray(p[i], np.float64), ensemble.params)
        member = member["params"]
        (cell,) = (member[k] for k in member if "GRU" in k)

        def gate(name, v, cell=cell):
            return v @ cell[name]["kernel"] + cell[name].get("bias", 0.0)

        h = np.zeros(6)
        for x in rows:  # Cho et al. 2014, with the reset gate after the product
            reset, update = (
                1 / (1 + np.exp(-gate(f"i{k}", x) - gate(f"h{k}", h))) for k in ("r", "z")
            )
            h = (1 - update) * np.tanh(gate("in", x) + reset * gate("hn", h)) + update * h
        mean, log_variance = written_out_head(dense(member), h)
        np.testing.assert_allclose(
            means[i], task.theta_mean + task.theta_std * mean, atol=FLOAT_TOLERANCE
        )
        np.testing.assert_allclose(
            variances[i], task.theta_std**2 * np.exp(log_variance), rtol=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_starts_at_the_training_prior_and_survives_its_file(tiny, tmp_path, kind):
    contract = contract_of(tiny.task, replace(tiny, **KINDS[kind]))
    ensemble = init_ensemble(contract, jax.random.key(2))
    answer = jax.jit(lambda e, w: e(w))
    empty = answer(ensemble, Window.empty(contract.history))
    np.testing.assert_allclose(empty.mean, contract.theta_mean, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(empty.variance), contract.theta_std, rtol=0.05)
    save_ensemble(tmp_path / "saved", ensemble)
    loaded = load_ensemble(tmp_path / "saved", tiny.task)
    assert loaded.contract == contract
    window = pushed_window(contract.history, 4)
    for a, b in zip(*(jax.tree.leaves(answer(e, window)) for e in (ensemble, loaded)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_contact_seen_in_a_window_is_the_simulators(tiny, task):
    env = PushEnv(task, training=False)
    contract = contract_of(task, replace(tiny, contact=True, history=9))
    pose = PlanarPose(jnp.array([0.3, 0.0]), jnp.array(0.7))
    lower, upper = task.object.footprint_bounds
    side = jnp.array([upper[0] - 0.02, lower[1] - task.pusher_radius_m - 0.05])
    ahead = to_world(pose, side + jnp.array([0.0, 1.0])) - to_world(pose, side)
    toward = jnp.array([1.0, 1.0, 1.0, 0.5, 1.0, -1.0, -1.0, 0.5])

    def step(carry, share):
        state, window = carry
        state = env.step(state, share * ahead)
        inner = state.pipeline_state
        window = window.push(env.features(inner), inner.last_action)
        return (state, window), inner.dynamics.contact > 0

    @jax.jit
    def run():
        physics = env.physics_for(env.task.object.with_weight(0.0), 0.25)
        state = env.reset_to(physics, pose, to_world(pose, side), physics.com[:1])
        window = Window.empty(9).push(env.features(state.pipeline_state), jnp.zeros(2))
        (_, window), contact = jax.lax.scan(step, (state, window), toward)
        return touches(window, contract), contact

    seen, contact = run()
    np.testing.assert_array_equal(contact, [0, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(seen, contact)


def test_contact_is_a_column_more_and_nothing_before_the_start(task, tiny):
    plain = contract_of(task, tiny)
    told = contract_of(task, replace(tiny, contact=True))
    assert told.pusher_radius_m == task.pusher_radius_m
    np.testing.assert_array_equal(transitions(Window.empty(10), told), np.zeros((9, 11)))
    window = pushed_window(10, 6)
    rows = transitions(window, told)
    np.testing.assert_array_equal(rows[:, :-1], transitions(window, plain))
    np.testing.assert_array_equal(rows[:4, -1], 0.0)  # before the first of six rows


def test_a_window_of_another_length_is_refused(task, tiny):
    ensemble = init_ensemble(contract_of(task, replace(tiny, history=5)), jax.random.key(0))
    with pytest.raises(ValueError, match="reads 5 rows of history, 10 are given"):
        ensemble(Window.empty(10))


def test_a_policy_with_a_history_takes_the_last_rows_and_refuses_fewer(task):
    policy = random_policy(replace(task, actor_history=4), "dr-history")
    features, theta, window = jnp.ones(len(FEATURES)), jnp.zeros(1), pushed_window(9, 9)
    last = Window(window.features[-4:], window.actions[-4:])
    act = jax.jit(lambda w: policy(features, theta, w))
    np.testing.assert_array_equal(act(window), act(last))
    assert np.any(act(last) != act(Window.empty(4)))
    with pytest.raises(ValueError, match="reads 4 rows of history, 3 are given"):
        policy(features, theta, Window.empty(3))


def test_bad_kinds_are_named(task, tiny):
    with pytest.raises(ValueError, match="history is 1; motion needs 2"):
        replace(tiny, history=1)
    contract = contract_of(task, tiny)
    with pytest.raises(ValueError, match=r"no estimator network 'lstm' \(networks: mlp, gru\)"):
        replace(contract, network="lstm")
    with pytest.raises(ValueError, match="a GRU needs at least one layer"):
        replace(contract, network="gru", layers=())


def turning_episodes(task, count=64, length=12):
    """Episodes in which the object turns in proportion to theta."""
    rng = np.random.default_rng(0)
    theta = task.theta_mean + task.theta_std * rng.normal(size=(count, 1))
    spin = 0.1 * (theta - task.theta_mean) / task.theta_std
    yaw = jnp.array(spin * np.arange(length))
    pose = PlanarPose(jnp.broadcast_to(jnp.array([0.3, 0.2]), (count, length, 2)), yaw)
    ee = jnp.broadcast_to(jnp.array([0.3, 0.0]), (count, length, 2))
    goal = PlanarPose(jnp.array([0.3, -0.2]), jnp.array(0.0))
    sent = jnp.zeros((count, length, 2))
    features = policy_features(Measurement(pose, ee), goal, sent)
    return Episodes(features, sent, jnp.ones((count, length)), jnp.array(theta), None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_learns_what_a_window_shows(tiny, kind):
    config = replace(tiny, batch=64, rounds=1, steps=80, learning_rate=1e-2, **KINDS[kind])
    training = load_training(config)
    data = turning_episodes(tiny.task)
    rows = training.episode_rows(data)

    def member(key):
        key_net, key_steps = jax.random.split(key)
        params = jax.tree.map(lambda x: x[0], init_ensemble(training.contract, key_net).params)

        def step(carry, key):
            params, optimizer, loss = training.member_step(*carry, key, rows, data.theta)
            return (params, optimizer), loss

        start = (params, training.optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key_steps, config.steps))[1]

    losses = np.asarray(jax.jit(member)(jax.random.key(0)))
    assert losses[:5].mean() == pytest.approx(0.5, abs=0.2)  # the prior's, up to a constant
    assert losses[-20:].mean() < -0.5


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_whole_episodes_are_those_of_their_windows(tiny, kind):
    training = load_training(replace(tiny, **KINDS[kind]))
    data, contract = turning_episodes(tiny.task, count=3), training.contract
    rows, width = training.episode_rows(data), contract.history - 1
    for t in (0, 4, 11):
        for env in range(3):
            window = transitions(data.window(env, t, contract.history), contract)
            np.testing.assert_allclose(rows[env, t : t + width], window, atol=FLOAT_TOLERANCE)
    assert rows.shape[1] == width + 11


def test_seeds_in_one_program_equal_runs_of_their_own(tiny):
    training, rounds = load_training(replace(tiny, contact=True, history=5)), []
    together = train_seeds(training, (0, 3), lambda nll: rounds.append(nll.shape))
    assert rounds == [(2,), (2,)]
    state, step = jax.jit(training.init)(seed_keys(3)[0]), jax.jit(training.round)
    for _ in rounds:
        state, _ = step(state)
    trained = zip(*(jax.tree.leaves(x.params) for x in (together, state)), strict=True)
    for both, alone in trained:
        np.testing.assert_allclose(both[1], alone, atol=TRAINED_TOLERANCE)
        assert np.any(np.abs(both[0] - alone) > 100 * TRAINED_TOLERANCE)


def test_a_run_of_another_kind_is_not_resumed(tiny):
    tiny.out.mkdir()
    write_json(tiny.out / "config.json", as_record(replace(tiny, network="gru")))
    with pytest.raises(ValueError, match="started with network = gru, not mlp"):
        train_estimator(replace(tiny, resume=True))


@pytest.fixture(scope="module")
def ablations():
    """The experiment as a module."""
    pytest.importorskip("matplotlib", reason="the experiment draws")
    from experiments import estimator_ablations

    return estimator_ablations


def test_all_windows_after_the_first_contact_are_pooled_by_hand():
    row = {"bias_cm": 0.0, "sigma_cm": 1.0, "nll": 2.0, "coverage_95": 1.0}
    first = {"windows": 3, "rmse_cm": 1.0, **row}
    second = {"windows": 1, "rmse_cm": 3.0, **row, "nll": -2.0, "coverage_95": 0.5}
    rows = {"0-0": {"windows": 9, "rmse_cm": 9.0, **row}, "1-3": first, "4-6": {"windows": 0},
            "7-9": second}  # fmt: skip
    found = after_contact({"since_contact": rows})
    assert found["windows"] == 4
    assert found["rmse_cm"] == pytest.approx(np.sqrt((3 * 1 + 9) / 4))
    assert found["nll"] == pytest.approx(1.0)
    assert found["coverage_95"] == pytest.approx(0.875)
    assert after_contact({"since_contact": {"0-0": first, "1-3": {"windows": 0}}}) == {}


def test_differences_are_paired_by_seed(ablations):
    metrics = dict.fromkeys(ablations.METRICS, 1.0)

    def seeds(values):
        return [{"row": {"windows": 1, **metrics, "rmse_cm": v}} for v in values]

    found = ablations.summarize(seeds([1.0, 2.0, 3.0]), seeds([2.0, 3.0, 4.0]))["row"]["rmse_cm"]
    assert found["per_seed"] == [1.0, 2.0, 3.0]
    assert found["mean"]["value"] == pytest.approx(2.0)
    # Student's t with 2 degrees of freedom: 4.303 / sqrt(3)
    assert found["mean"]["high"] == pytest.approx(2.0 + 4.3027 / np.sqrt(3), abs=1e-3)
    assert found["minus_base"] == pytest.approx({"value": -1.0, "low": -1.0, "high": -1.0})
    missing = seeds([1.0, 2.0, 3.0])
    missing[0]["row"] = {"windows": 0}
    found = ablations.summarize(missing, None)["row"]["rmse_cm"]
    assert found["per_seed"][0] is None
    assert found["mean"]["value"] == pytest.approx(2.5)


def test_the_shifted_world_is_the_same_task_with_other_physics(ablations, task):
    world = ablations.world_of(task, "push_tblock_plus")
    assert world.physics.rim_share == (0.0, 1.0)
    assert replace(world, physics=task.physics, planar=task.planar) == task
    with pytest.raises(ValueError, match="push_hammer pushes 'hammer', push_tblock 'tblock'"):
        ablations.world_of(task, "push_hammer")


def test_other_settings_do_not_mix_with_what_is_there(ablations, tmp_path):
    config = ablations.AblationConfig(tmp_path / "out")
    record = ablations.started(config)
    write_json(tmp_path / "out" / "estimator_ablations.json", record)
    assert ablations.started(replace(config, variants=("gru",), speed=False)) == record
    with pytest.raises(ValueError, match="variants with steps = 200, not 7; choose another --out"):
        ablations.started(replace(config, steps=7))
    with pytest.raises(ValueError, match="no variant 'members 2'"):
        replace(config, variants=("members 2",))


def test_finished_variants_are_kept_and_drawn(ablations, tmp_path, monkeypatch, capsys):
    def made_up(config, name):
        row = {"windows": 10, "rmse_cm": len(name) / 10, "sigma_cm": 1.0, "nll": 0.5,
               "coverage_95": 0.9}  # fmt: skip
        rows = {key: row for key in ("before contact", ablations.AFTER, ablations.FULL)}
        return {"parameters_per_member": 9, "per_seed": {w: [rows] * 2 for w in ablations.WORLDS}}

    config = ablations.AblationConfig(tmp_path / "out", seeds=(0, 1), speed=False)
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    monkeypatch.setattr(ablations, "run", made_up)
    ablations.main(replace(config, variants=("base", "members 1")))
    monkeypatch.setattr(ablations, "run", None)  # nothing is left to run
    ablations.main(replace(config, variants=("base", "members 1"), publish=True))
    assert "members 1" in capsys.readouterr().out
    assert (tmp_path / "estimator_ablations.png").stat().st_size > 10_000
    result = json.loads((tmp_path / "estimator_ablations.json").read_text())
    cell = result["variants"]["members 1"]["worlds"]["home"][ablations.AFTER]["rmse_cm"]
    assert cell["per_seed"] == [0.9, 0.9]
    assert cell["minus_base"]["value"] == pytest.approx(0.5)
    assert result["settings"]["seeds"] == [0, 1]
    monkeypatch.syspath_prepend(str(Path(ablations.__file__).parent))
    from readme_ablations import estimator_ablations

    table = estimator_ablations(result)
    row = next(line for line in table.splitlines() if line.startswith("| members 1"))
    assert "0.90 [0.90, 0.90] | +0.50 [+0.50, +0.50]" in row
    assert "8 rounds of 512 episodes" in table


@pytest.mark.slow
def test_a_variant_is_trained_and_tested_in_every_world(ablations, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "load_task", lambda name: tiny.task)
    monkeypatch.setitem(ablations.VARIANTS, "base", {"members": 2, **KINDS["all"]})
    config = ablations.AblationConfig(
        tmp_path / "out", policy=tiny.policy, variants=("base",), seeds=(0, 1), rounds=1,
        episodes=8, steps=2, batch=8, test_episodes=4, speed=False,
    )  # fmt: skip
    found = ablations.run(config, "base")["per_seed"]
    assert set(found) == set(ablations.WORLDS)
    for seeds in found.values():
        assert [one["before contact"]["windows"] > 0 for one in seeds] == [True, True]
        assert seeds[0]["before contact"]["rmse_cm"] != seeds[1]["before contact"]["rmse_cm"]


def test_the_frozen_policy_of_the_experiment_is_the_shipped_one(ablations, tmp_path, task):
    config = ablations.training_config(ablations.AblationConfig(tmp_path), "history 50")
    if not config.policy.is_dir():
        pytest.skip(f"{config.policy} is not shipped")
    assert load_policy(config.policy, task).contract.phase == "noisy"
    assert contract_of(task, config).history == 50
