"""First pushes that inform: what the loop tells the policy with the source ``explore``."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.deploy.export import ExportConfig, export
from p2r_jax.deploy.loop import EXPLORE_ABOVE, SWAY, SWAYS_PER_TURN, explore, told
from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import condition, load_checkpoints, make_bundle, method
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

TASK = load_task("push_tblock")
TRAINING = Gaussian(jnp.array([0.02, 0.0]), jnp.array([0.03, 0.006]) ** 2)


def belief(mean, sigma):
    return Gaussian(jnp.array(mean), jnp.array(sigma) ** 2)


def test_each_component_is_displaced_until_the_belief_about_it_is_sure():
    limit = EXPLORE_ABOVE * np.sqrt(np.asarray(TRAINING.variance))

    def displaced(*factors):
        fused = belief([0.04, 0.002], limit * np.array(factors))
        heard = explore(fused, TRAINING, jnp.pi / 4)
        np.testing.assert_array_equal(heard.variance, fused.variance)
        return np.abs(heard.mean - fused.mean) > 1e-5

    np.testing.assert_array_equal(displaced(1.01, 1.01), [True, True])
    np.testing.assert_array_equal(displaced(0.99, 1.01), [False, True])
    np.testing.assert_array_equal(displaced(0.99, 0.99), [False, False])


def test_the_displacement_sweeps_the_belief_to_both_sides_as_the_object_turns():
    yaw = jnp.linspace(-jnp.pi, jnp.pi, 721)
    fused = belief([0.04, 0.002], [0.02, 0.004])
    heard = jax.jit(jax.vmap(explore, (None, None, 0)))(fused, TRAINING, yaw)
    z = np.asarray((heard.mean - fused.mean) / jnp.sqrt(fused.variance))
    np.testing.assert_allclose(z.min(0), -SWAY, rtol=1e-3)
    np.testing.assert_allclose(z.max(0), SWAY, rtol=1e-3)
    np.testing.assert_allclose(z[:-1].mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.hypot(*z.T), SWAY, rtol=1e-3)  # the components are out of step
    np.testing.assert_allclose(z[0], z[-1], atol=1e-4)  # no jump at half a turn


def test_a_prior_that_says_nothing_displaces_no_further_than_the_training_distribution():
    flat = Gaussian(jnp.array([0.02, 0.0]), jnp.full(2, 1e12))
    heard = jax.vmap(explore, (None, None, 0))(flat, TRAINING, jnp.linspace(0, 6, 50))
    assert np.all(np.abs(heard.mean - flat.mean) <= 1.001 * SWAY * jnp.sqrt(TRAINING.variance))


def test_the_other_sources_tell_what_they_name():
    checkpoints = load_checkpoints(None, TASK, ("fused",))
    estimate, fused = belief([0.05], [0.02]), belief([0.04], [0.02])
    bundle = make_bundle("fused", checkpoints, TASK, belief([0.03], [0.01]), np.zeros((1, 1)))
    bundle = bundle.replace(prior=belief([0.03], [0.01]))
    heard = {s: float(told(bundle.replace(source=s), estimate, fused, jnp.pi / 6).mean[0])
             for s in ("given", "estimate", "fused", "explore")}  # fmt: skip
    expected = {"given": 0.03, "estimate": 0.05, "fused": 0.04, "explore": 0.04 + SWAY * 0.02}
    assert heard == pytest.approx(expected)


def test_in_a_trial_it_is_displaced_at_first_and_the_fused_mean_once_that_is_sure():
    task = replace(TASK, episode_length=40, fusion_rule="remember")
    trials = draw_trials(task, condition("top").mass_properties(task.object), 4, 0)
    checkpoints = load_checkpoints(None, task, ("fused-explore",))
    prior = load_prior("paper-top", task)
    record = run_cell("fused-explore", TrainingWorld(task, trials), checkpoints, task, prior)
    unsure = record.fused_sigma > EXPLORE_ABOVE * task.theta_std
    sway = SWAY * record.fused_sigma * np.sin(SWAYS_PER_TURN * record.measured_pose[..., 2:])
    expected = record.fused_mean + np.where(unsure, sway, 0.0)
    np.testing.assert_allclose(record.theta_used, expected, atol=1e-6)
    assert unsure[:, 0].all()
    assert not unsure[:, -1].any()  # a rule that remembers stays sure
    assert (np.diff(unsure[..., 0].astype(int), axis=1) <= 0).all()


def test_the_method_fuses_as_its_task_does():
    chosen = method("fused-explore")
    assert (chosen.source, chosen.rule) == ("explore", None)
    checkpoints, truth = load_checkpoints(None, TASK, ("fused-explore",)), np.zeros((1, 1))
    prior = belief([0.03], [0.01])
    for task in (TASK, replace(TASK, fusion_rule="doubt")):
        bundles = [
            make_bundle(m, checkpoints, task, prior, truth) for m in ("fused", "fused-explore")
        ]
        assert bundles[0].rule == bundles[1].rule


def test_the_onnx_graph_explores_as_the_loop_does(tmp_path):
    pytest.importorskip("onnx", reason="needs onnx: pip install 'p2r_jax[onnx]'")
    bundle = export(ExportConfig(tmp_path / "b", source="explore", onnx=True))
    assert bundle.spec.source == "explore"
    assert bundle.parity["onnx"] < 1e-4
