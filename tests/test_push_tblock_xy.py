"""The T-block whose theta is its centre of mass in x and y: world, noise, priors, trials."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import Checkpoints, condition, make_bundle, uninformed_ensemble
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.fusion import fuse
from p2r_jax.policy.policy import Policy, actor_network, contract_of
from p2r_jax.prior.prior import Prior, load_prior, save_prior
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.reality import REALITY_DEV, Reality
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

TASK = load_task("push_tblock_xy")
PLUS = load_task("push_tblock_plus")
SHORT = replace(TASK, episode_length=6, planar=replace(TASK.planar, substeps=2))
KEYS = jax.random.split(jax.random.key(0), 2000)
MOMENT_TOLERANCE = 0.08  # of the standard deviation: four errors of a mean over 2000 draws


def drawn(task, phase="true"):
    """Physics and what the policy is told of it, many episodes."""
    env = PushEnv(replace(task, theta_input=phase))

    def one(key):
        physics = env.draw_physics(key)
        return physics, env.draw_theta_input(key, physics)

    return jax.jit(jax.vmap(one))(KEYS)


def trials(task, count=3):
    """Of an object with its weight at the top."""
    return draw_trials(task, condition("top").mass_properties(task.object), count, 0)


def test_its_world_is_that_of_the_plus_task_and_theta_has_the_declared_moments():
    physics, theta = drawn(TASK)
    other, told = drawn(PLUS)
    jax.tree.map(np.testing.assert_array_equal, physics, other)
    np.testing.assert_array_equal(theta[:, :1], told)
    np.testing.assert_array_equal(theta, physics.com[:, :2])
    std = TASK.theta_std
    np.testing.assert_allclose(theta.mean(0) / std, TASK.theta_mean / std, atol=MOMENT_TOLERANCE)
    np.testing.assert_allclose(theta.std(0) / std, 1.0, atol=MOMENT_TOLERANCE)
    low, high = zip(*((t.low, t.high) for t in TASK.theta), strict=True)
    assert np.all((theta >= np.array(low) - 1e-6) & (theta <= np.array(high) + 1e-6))


def test_noise_of_phase_1_5_is_as_large_in_both_components_relative_to_their_ranges():
    physics, told = drawn(TASK, "noisy")
    noise = np.std(np.asarray(told - physics.com[:, :2]), axis=0)
    assert noise[0] == pytest.approx(PLUS.theta_noise_m, rel=MOMENT_TOLERANCE)
    np.testing.assert_allclose(*(noise / TASK.theta_std), rtol=MOMENT_TOLERANCE)


def test_a_share_of_the_noise_is_given_to_every_component_or_to_none():
    with pytest.raises(ValueError, match="theta_noise_share has 1 values, theta 2 components"):
        PushEnv(replace(TASK, theta_noise_share=(1.0,)))
    PushEnv(replace(TASK, theta_noise_share=()))


def test_a_prior_along_x_alone_gets_the_training_prior_across_and_says_so(tmp_path):
    of_x = load_prior("paper-top", PLUS)
    save_prior(tmp_path / "x.json", of_x)
    prior = load_prior("paper-top", TASK)
    assert prior == load_prior(tmp_path / "x.json", TASK)
    assert prior.theta == ("com_object_x", "com_object_y")
    assert (prior.mean[0], prior.sigma[0]) == (of_x.mean[0], of_x.sigma[0])
    assert (prior.mean[1], prior.sigma[1]) == (0.0, pytest.approx(0.01 / 3**0.5))
    assert prior.source == f"{of_x.source}; com_object_y: the training prior of push_tblock_xy"
    bundle = make_bundle("vlm-only", checkpoints(TASK), TASK, of_x, np.zeros((2, 2)))
    np.testing.assert_allclose(bundle.prior.mean, [prior.mean] * 2)


def test_a_prior_for_both_axes_is_taken_as_it_is_and_one_along_another_axis_completed():
    both = load_prior("heuristic", TASK)
    assert "training prior" not in both.source
    of_y = Prior(
        ("com_object_y",), (0.004,), (0.002,), ("m",), "synthetic", "a test", "tblock",
        ((-0.1, 0.1),),
    )  # fmt: skip
    bundle = make_bundle("vlm-only", checkpoints(TASK), TASK, of_y, np.zeros((1, 2)))
    np.testing.assert_allclose(bundle.prior.mean[0], [TASK.theta[0].mean, 0.004])


def test_a_prior_that_says_more_than_theta_has_or_is_about_another_object_is_refused(tmp_path):
    save_prior(tmp_path / "xy.json", load_prior("heuristic", TASK))
    with pytest.raises(ValueError, match=r"com_object_y.*task 'push_tblock_plus' has"):
        load_prior(tmp_path / "xy.json", PLUS)
    hammer = load_prior("heuristic", load_task("push_hammer"))
    save_prior(tmp_path / "hammer.json", hammer)
    with pytest.raises(ValueError, match="about object 'hammer', 'push_tblock_xy' pushes"):
        load_prior(tmp_path / "hammer.json", TASK)


def checkpoints(task):
    """A random policy that is told theta, and an estimator that knows nothing."""
    contract = contract_of(replace(task, theta_input="noisy"), "noisy", (8,), 0)
    size = contract.observation_size
    params = actor_network(contract).policy_network.init(jax.random.key(1))
    policy = Policy(params, jnp.zeros(size), jnp.ones(size), contract)
    return Checkpoints({"noisy": policy}, uninformed_ensemble(task))


def test_trials_tell_the_policy_both_components_and_judge_them_against_both():
    world = TrainingWorld(SHORT, trials(SHORT), off_axis_m=0.01)
    prior = load_prior("paper-top", SHORT)
    record = run_cell("fused-paper", world, checkpoints(SHORT), SHORT, prior)
    estimate = Gaussian(record.estimate_mean, record.estimate_sigma**2)
    expected = fuse(prior.to_gaussian(), estimate).mean
    assert expected.shape == (3, 6, 2)
    np.testing.assert_allclose(record.theta_used, expected, atol=1e-6)
    np.testing.assert_array_equal(record.theta_true, world.theta)


def test_the_training_world_moves_the_mass_aside_when_asked_and_only_then():
    drawn_trials = trials(SHORT)
    on_axis = TrainingWorld(SHORT, drawn_trials).theta
    aside = TrainingWorld(SHORT, drawn_trials, off_axis_m=0.01).theta
    np.testing.assert_array_equal(on_axis[:, 1], 0.0)
    np.testing.assert_array_equal(aside[:, 0], on_axis[:, 0])
    np.testing.assert_allclose(aside[:, 1], 0.01 * drawn_trials.off_axis_share, rtol=1e-6)


def test_reality_tells_the_truth_about_both_components():
    config = replace(REALITY_DEV, off_axis_com_m=0.005)
    world = Reality(config, TASK, trials(TASK, 2), threads=1)
    _, com, _ = condition("top").mass_properties(TASK.object)
    expected = np.stack([np.full(2, com[0]), 0.005 * world.trials.off_axis_share], -1)
    np.testing.assert_allclose(world.theta, expected, rtol=1e-6)
