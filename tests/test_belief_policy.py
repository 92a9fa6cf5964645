"""The policy that is told how sure theta is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.policy.policy import load_policy
from p2r_jax.policy.ppo import PPOConfig
from p2r_jax.policy.train import TrainConfig, phase_task, train
from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

TASK = load_task("push_tblock")
PPO = PPOConfig(total_steps=64, num_envs=8, unroll_length=4, num_minibatches=2, num_epochs=1)


@pytest.fixture(scope="module")
def beliefs():
    """Truth, mean and sigma of many beliefs, in units of the training distribution."""
    env = PushEnv(phase_task(TASK, "belief"))

    def draw(key):
        key_physics, key_belief = jax.random.split(key)
        physics = env.draw_physics(key_physics)
        told = env.scale_theta(env.draw_theta_input(key_belief, physics))
        return env.scale_theta(theta_of(physics, 1))[0], told[0], told[1]

    return tuple(np.asarray(x) for x in jax.jit(jax.vmap(draw))(
        jax.random.split(jax.random.key(0), 20_000)
    ))  # fmt: skip


def test_beliefs_are_honest_at_every_degree_of_certainty(beliefs):
    truth, mean, sigma = beliefs
    assert 0 <= sigma.min() < 0.01
    assert 0.99 < sigma.max() <= 1
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        own = (sigma >= low) & (sigma < high)
        error = (mean - truth)[own]
        assert abs(error.mean()) < 0.03
        # the training distribution is uniform, the belief takes it as Gaussian of that spread
        assert np.sqrt(np.mean(error**2)) == pytest.approx(
            np.sqrt(np.mean(sigma[own] ** 2)), rel=0.03
        )


def test_a_belief_that_knows_nothing_is_the_training_prior_and_a_certain_one_the_truth(beliefs):
    truth, mean, sigma = beliefs
    assert np.abs(mean[sigma > 0.999]).max() < 0.15
    assert np.abs((mean - truth)[sigma < 0.005]).max() < 0.02


def test_it_trains_reloads_and_hears_the_sigma_of_a_belief(tmp_path):
    trained = train(TrainConfig(TASK, "belief", PPO, tmp_path / "run", evaluations=1))
    policy = load_policy(tmp_path / "run" / "policy", TASK)
    assert policy.contract.sees_sigma
    belief = Gaussian(jnp.array([0.04]), jnp.array([0.0004]))
    np.testing.assert_allclose(policy.hears(belief), [0.04, 0.02], rtol=1e-6)
    features = jnp.linspace(-1, 1, len(policy.contract.features))
    sure, unsure = (
        policy(features, policy.hears(belief.replace(variance=belief.variance * x)))
        for x in (0.0, 2.0)
    )
    assert np.abs(sure - unsure).max() > 1e-5
    np.testing.assert_array_equal(
        policy(features, policy.hears(belief)), trained(features, trained.hears(belief))
    )


def test_the_other_policies_hear_the_mean_alone():
    from p2r_jax.evaluation.methods import CHECKPOINT_ROOT

    policy = load_policy(CHECKPOINT_ROOT / "push_tblock" / "noisy", TASK)
    belief = Gaussian(jnp.array([0.04]), jnp.array([0.0004]))
    np.testing.assert_array_equal(policy.hears(belief), belief.mean)


def test_a_belief_wider_than_the_training_prior_is_heard_as_the_training_prior(tmp_path):
    policy = train(TrainConfig(TASK, "belief", PPO, tmp_path / "run", evaluations=1))
    nothing = Gaussian(jnp.array([-0.5]), jnp.array([jnp.inf]))
    np.testing.assert_allclose(
        policy.hears(nothing), [TASK.theta_mean[0], TASK.theta_std[0]], rtol=1e-4
    )
    certain = Gaussian(jnp.array([0.05]), jnp.zeros(1))
    np.testing.assert_allclose(policy.hears(certain), [0.05, 0.0], atol=2e-6)
