"""The CMU triangles as tasks with two unknowns: the answer is not in the prior, nothing tips."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.evaluation.film_scene import scene_qpos
from p2r_jax.evaluation.methods import Checkpoints, make_bundle, uninformed_ensemble
from p2r_jax.evaluation.motion import Motion
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import run_trials
from p2r_jax.policy.policy import Policy, actor_network, contract_of
from p2r_jax.sim.footprint import depth_inside
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.sim.support import check_support, support_points
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

NAMES = ("push_triangle", "push_triangle_101")
FURTHEST_M = 0.015  # the training mean has to be this far from the real centre of mass
REAL_MPS = (0.0025, 0.0085)  # tool speeds over a second in the CMU logs while it pushes


def corners_of_range(task):
    """Extreme centres of mass: Float[4, 2]."""
    return np.array(list(itertools.product(*task.physics.com_m)))


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_in_the_range_but_not_in_the_training_mean(name):
    task = load_task(name)
    truth = np.array(task.object.com_m[:2])
    for spec, side, value in zip(task.theta, task.physics.com_m, truth, strict=True):
        assert (spec.low, spec.high) == side
        assert side[0] < value < side[1]
    assert np.linalg.norm(task.theta_mean - truth) >= FURTHEST_M


@pytest.mark.parametrize("name", NAMES)
def test_the_support_encloses_every_centre_of_mass(name):
    task = load_task(name)
    support = support_points(task.object, task.physics.support, task.physics.support_count)
    assert support.shape == (3, 2)
    check_support(support, corners_of_range(task), name)


def test_no_push_at_mid_height_tips_the_large_triangle_over():
    task = load_task("push_triangle")
    support = support_points(task.object, task.physics.support, task.physics.support_count)
    depth = depth_inside(support, corners_of_range(task)).min()
    assert task.physics.friction[1] * task.object.height_m / 2 < depth


@pytest.mark.parametrize("name", NAMES)
def test_speeds_of_the_real_pushes_lie_in_the_range_of_actions(name):
    task = load_task(name)
    fastest = task.action_scale_m / task.control_period_s
    assert 0.1 * fastest < REAL_MPS[0] < REAL_MPS[1] < fastest


@pytest.mark.parametrize("name", NAMES)
def test_episodes_draw_both_components_over_the_whole_range(name):
    task = load_task(name)
    env = PushEnv(task)
    physics = jax.jit(jax.vmap(env.draw_physics))(jax.random.split(jax.random.key(0), 2000))
    theta = np.asarray(theta_of(physics, 2))
    np.testing.assert_allclose(theta.min(0), [t.low for t in task.theta], atol=2e-4)
    np.testing.assert_allclose(theta.max(0), [t.high for t in task.theta], atol=2e-4)
    np.testing.assert_allclose(theta.mean(0), task.theta_mean, atol=1e-3)
    np.testing.assert_allclose(theta.std(0), task.theta_std, rtol=0.05)
    assert abs(np.corrcoef(theta.T)[0, 1]) < 0.1
    np.testing.assert_allclose(physics.mass, task.object.mass_kg, rtol=1e-6)


def test_the_loop_fuses_both_components_by_their_own_variances():
    task = replace(load_task("push_triangle"), episode_length=3)
    contract = contract_of(task, "noisy", (8,), 0)
    size = len(FEATURES) + 2
    params = actor_network(contract).policy_network.init(jax.random.key(0))
    policy = Policy(params, jnp.zeros(size), jnp.ones(size), contract)
    ensemble = uninformed_ensemble(task)
    prior = Gaussian(jnp.array([-0.05, -0.02]), jnp.array([0.004, 0.020]) ** 2)
    trials = draw_trials(task, task.object.with_com((-0.04, -0.03)), 2, seed=0)
    world = TrainingWorld(task, trials)
    checkpoints = Checkpoints({"noisy": policy}, ensemble)
    bundle = make_bundle("fused", checkpoints, task, prior, world.theta)
    record = run_trials(world, bundle, task.episode_length)
    np.testing.assert_allclose(record.theta_true, [[-0.04, -0.03]] * 2, atol=1e-7)
    for i, sigma in enumerate((0.004, 0.020)):
        estimate, variance = record.estimate_mean[..., i], record.estimate_sigma[..., i] ** 2
        weight = variance / (variance + sigma**2)
        wanted = weight * float(prior.mean[i]) + (1 - weight) * estimate
        np.testing.assert_allclose(record.fused_mean[..., i], wanted, rtol=1e-4)
    np.testing.assert_array_equal(record.theta_used, record.fused_mean)


def test_a_film_marks_theta_where_it_lies_on_the_object():
    poses, asset = np.zeros((4, 3)), load_task("push_triangle").object
    told = np.array([[-0.05, -0.02], [-0.04, -0.01], [-0.03, 0.0]])
    film = Motion(poses, poses[:, :2], told, np.array([-0.025, -0.030])).resample(np.arange(4.0))
    qpos = scene_qpos(asset, film)  # free joint, true x y, told x y, pusher
    np.testing.assert_allclose(qpos[:, 7:9], [[-0.025, -0.030]] * 4)
    np.testing.assert_allclose(qpos[:, 9:11], told[[0, 1, 2, 2]])
    one = Motion(poses, poses[:, :2], None, 0.06).resample(np.arange(4.0))
    np.testing.assert_allclose(scene_qpos(asset, one)[:, 7:9], [[0.06, 0.0]] * 4)
