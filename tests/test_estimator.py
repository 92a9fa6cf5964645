"""The estimator: windows, bounds, honesty before contact, resume."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.estimator.calibration import calibration_report
from p2r_jax.estimator.ensemble import (
    Ensemble,
    bounded_log_variance,
    init_ensemble,
    load_ensemble,
    save_ensemble,
)
from p2r_jax.estimator.rollouts import Disturbances, Drive, Episodes, collect
from p2r_jax.estimator.train import (
    EstimatorConfig,
    contract_of,
    gaussian_nll,
    train_estimator,
)
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.policy.policy import Policy, actor_network, load_policy, save_policy
from p2r_jax.policy.policy import contract_of as policy_contract
from p2r_jax.sim.observation import FEATURES, policy_features
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.window import Window, window_inputs
from p2r_jax.types import Gaussian, Measurement, PlanarPose, rotate

FLOAT_TOLERANCE = 1e-5


@pytest.fixture
def tiny(task, tmp_path):
    """A configuration that trains in seconds, and a random policy for it."""
    short = replace(task, episode_length=12, planar=replace(task.planar, substeps=2))
    contract = policy_contract(short, "noisy", (16,), 0)
    size = len(FEATURES) + 1
    params = actor_network(contract).policy_network.init(jax.random.key(0))
    save_policy(tmp_path / "policy", Policy(params, jnp.zeros(size), jnp.ones(size), contract))
    return EstimatorConfig(
        short,
        tmp_path / "policy",
        tmp_path / "run",
        members=3,
        layers=(16,),
        rounds=2,
        episodes=32,
        steps=4,
        batch=16,
        test_episodes=16,
    )


def features_of(x, y, yaw, ee):
    goal = PlanarPose(jnp.array([0.3, -0.2]), jnp.array(0.0))
    pose = PlanarPose(jnp.array([x, y]), jnp.array(yaw))
    return policy_features(Measurement(pose, jnp.array(ee)), goal, jnp.zeros(2))


def test_window_keeps_the_last_rows_in_order():
    window = Window.empty(3)
    for i in range(1, 6):
        window = window.push(jnp.full(len(FEATURES), float(i)), jnp.full(2, float(i)))
    np.testing.assert_array_equal(window.features[:, 0], [3, 4, 5])
    np.testing.assert_array_equal(window.actions[:, 0], [3, 4, 5])


def test_episode_windows_equal_the_windows_pushed_step_by_step(task):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 15, len(FEATURES))).astype(np.float32)
    sent = rng.normal(size=(1, 15, 2)).astype(np.float32)
    belief = Gaussian(jnp.zeros((1, 15, 1)), jnp.ones((1, 15, 1)))
    data = Episodes(
        jnp.array(features), jnp.array(sent), jnp.zeros((1, 15)), jnp.zeros((1, 1)), belief
    )
    window = Window.empty(10)
    for t in range(15):
        window = window.push(features[0, t], sent[0, t])
        cut = data.window(0, t, 10)
        np.testing.assert_array_equal(cut.features, window.features)
        np.testing.assert_array_equal(cut.actions, window.actions)


def test_network_inputs_do_not_depend_on_where_and_how_the_scene_is_turned():
    def history(turn, shift):
        window = Window.empty(4)
        for i in range(4):
            xy = rotate(turn, jnp.array([0.01 * i, 0.005 * i])) + jnp.array(shift)
            ee = rotate(turn, jnp.array([0.1 + 0.02 * i, 0.05])) + jnp.array(shift)
            action = rotate(turn, jnp.array([0.7, 0.1]))
            window = window.push(features_of(*xy, 0.3 + 0.1 * i + turn, ee), action)
        return window_inputs(window, 0.03)

    here, there = history(jnp.array(0.0), (0.3, 0.1)), history(jnp.array(1.2), (0.4, -0.2))
    np.testing.assert_allclose(here, there, atol=1e-3)


def test_empty_rows_contribute_nothing():
    window = Window.empty(10).push(features_of(0.3, 0.2, 0.1, [0.3, 0.0]), jnp.zeros(2))
    np.testing.assert_array_equal(window_inputs(window, 0.03), 0.0)


def test_window_holds_no_theta(tiny):
    task = tiny.task
    env = PushEnv(task, training=False)
    pose, ee = PlanarPose(jnp.array([0.3, 0.2]), jnp.array(0.5)), jnp.array([0.3, 0.0])
    windows = []
    for weight in (-0.13, 0.13):
        physics = env.physics_for(env.task.object.with_weight(weight), 0.25)
        state = env.reset_to(physics, pose, ee, physics.com[:1])
        inner = state.pipeline_state
        features = policy_features(env.measure(inner), inner.goal, inner.last_action)
        windows.append(Window.empty(10).push(features, inner.last_action))
    for a, b in zip(*(jax.tree.leaves(w) for w in windows), strict=True):
        np.testing.assert_array_equal(a, b)


def test_log_variance_is_bounded_and_starts_at_the_training_priors():
    raw = jnp.array([-1e6, -3.0, 0.0, 3.0, 1e6])
    bounded = bounded_log_variance(raw)
    assert np.all(np.diff(bounded) >= 0)
    assert bounded[0] == pytest.approx(-8.0)
    assert bounded[-1] == pytest.approx(0.5)
    assert bounded[2] == pytest.approx(0.0, abs=0.1)


def test_nll_is_hand_worked():
    # 0.5 log 4 + 0.5 * 1^2 / 4
    value = gaussian_nll(jnp.zeros(1), jnp.log(jnp.array([4.0])), jnp.ones(1))
    assert value == pytest.approx(0.5 * np.log(4) + 0.125, abs=1e-6)


def test_vmapped_ensemble_equals_a_loop_over_members(task, tiny):
    ensemble = init_ensemble(contract_of(tiny.task, tiny), jax.random.key(1))
    window = Window.empty(10)
    for i in range(6):
        window = window.push(features_of(0.3 + 0.01 * i, 0.2, 0.1 * i, [0.3, 0.1]), jnp.ones(2))
    means, variances = ensemble.members(window)
    for i in range(3):
        one = Ensemble(
            jax.tree.map(lambda x, i=i: x[i : i + 1], ensemble.params), ensemble.contract
        )
        mean, variance = one.members(window)
        np.testing.assert_allclose(mean[0], means[i], atol=FLOAT_TOLERANCE)
        np.testing.assert_allclose(variance[0], variances[i], atol=FLOAT_TOLERANCE)
    belief = ensemble(window)
    np.testing.assert_allclose(
        belief.variance, np.var(means, axis=0) + np.mean(variances, axis=0), atol=FLOAT_TOLERANCE
    )


def test_run_resumes_exactly_and_the_folder_stands_alone(tiny):
    straight = train_estimator(tiny)
    with pytest.raises(FileExistsError, match="overwrite"):
        train_estimator(tiny)
    half = replace(tiny, out=tiny.out.parent / "half")

    def interrupted(*_):
        raise KeyboardInterrupt

    import p2r_jax.estimator.train as module

    real, calls = module.save_ensemble, []

    def save_then_stop(folder, ensemble):
        real(folder, ensemble)
        calls.append(folder)
        if len(calls) == 1:
            interrupted()

    module.save_ensemble = save_then_stop
    try:
        with pytest.raises(KeyboardInterrupt):
            train_estimator(half)
    finally:
        module.save_ensemble = real
    resumed = train_estimator(replace(half, resume=True))
    loaded = load_ensemble(half.out / "estimator", tiny.task)
    for a, b, c in zip(
        *(jax.tree.leaves(e.params) for e in (straight, resumed, loaded)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b, c)
    with pytest.raises(ValueError, match="members = 3, not 4"):
        train_estimator(replace(half, resume=True, members=4))


def test_estimator_of_another_task_is_refused(tiny, tmp_path):
    save_ensemble(tmp_path / "e", init_ensemble(contract_of(tiny.task, tiny), jax.random.key(0)))
    with pytest.raises(ValueError, match=r"'push_tblock', not on 'push_hammer'"):
        load_ensemble(tmp_path / "e", replace(tiny.task, name="push_hammer"))


def test_calibration_report_of_a_perfectly_calibrated_belief():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.03, 0.07, (400, 1)).astype(np.float32)
    mean = truth[:, None] + 0.01 * rng.normal(size=(400, 60, 1))
    contact = np.zeros((400, 60))
    contact[:, 20:] = 1
    report = calibration_report(
        Episodes(
            np.zeros((400, 60, 1)),
            np.zeros((400, 60, 2)),
            contact,
            truth,
            Gaussian(mean, np.full_like(mean, 1e-4)),
        )
    )
    for table in ("since_contact", "contact_steps_in_window"):
        for row in report[table].values():
            assert row["rmse_cm"] == pytest.approx(1.0, rel=0.1)
            assert row["coverage_50"] == pytest.approx(0.5, abs=0.05)
            assert row["coverage_95"] == pytest.approx(0.95, abs=0.03)
    assert report["since_contact"]["0-0"]["windows"] == 400 * 20
    assert report["contact_steps_in_window"]["10-10"]["windows"] == 400 * 31


@pytest.mark.skipif(
    not (CHECKPOINT_ROOT / "push_tblock" / "estimator").is_dir(), reason="no shipped estimator"
)
def test_shipped_estimator_says_the_training_prior_before_contact_and_learns_after(task):
    root = CHECKPOINT_ROOT / task.name
    policy, ensemble = load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)
    env = PushEnv(task, training=False)
    run = jax.jit(lambda k: collect(env, policy, ensemble, Disturbances(), Drive(), k, 64))
    report = calibration_report(run(jax.random.key(123)))
    before = report["since_contact"]["0-0"]
    # the training prior is 2.0 +- 3.13 cm; an estimate that knows more has been told
    assert before["sigma_cm"] == pytest.approx(3.13, abs=0.35)
    assert before["rmse_cm"] == pytest.approx(3.13, abs=0.5)
    after = report["contact_steps_in_window"]["10-10"]
    assert after["rmse_cm"] < 0.5 * before["rmse_cm"]
    assert after["coverage_95"] > 0.85


def test_priors_that_drive_experience_know_nothing_of_the_truth(task):
    drive = Drive(fused_share=0.5, sigma=(0.5, 1.0))
    drawn = jax.jit(jax.vmap(lambda key: drive.draw(task, key)))
    prior = drawn(jax.random.split(jax.random.key(0), 4000))
    told = np.isfinite(prior.variance[:, 0])
    assert told.mean() == pytest.approx(0.5, abs=0.03)
    std = task.theta_std[0]
    assert np.std(prior.mean) == pytest.approx(std, rel=0.05)
    sigma = np.sqrt(prior.variance[told, 0]) / std
    assert 0.5 <= sigma.min() < 0.51
    assert 0.99 < sigma.max() <= 1.0


def test_a_fused_drive_changes_what_the_policy_does_and_a_share_of_zero_does_not(tiny, task):
    policy = load_policy(tiny.policy, task)
    ensemble = init_ensemble(contract_of(tiny.task, tiny), jax.random.key(1))
    env, key = PushEnv(tiny.task), jax.random.key(2)

    def actions(drive):
        run = jax.jit(lambda k: collect(env, policy, ensemble, Disturbances(), drive, k, 8))
        return run(key).sent

    alone = actions(Drive())
    np.testing.assert_array_equal(alone, actions(Drive(sigma=(0.1, 0.2))))
    changed = np.any(alone != actions(Drive(fused_share=1.0)), axis=(1, 2))
    assert changed.all()
