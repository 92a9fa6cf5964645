"""The worlds that the robustness figure is drawn from."""

import jax.numpy as jnp
import numpy as np
from robustness import LOST_EVERY, SWEEPS, LostTracking, belief, over_seeds

from p2r_jax.tasks import load_task
from p2r_jax.types import Measurement, PlanarPose

TASK = load_task("push_tblock")


class Counting:
    """A world of many trials in which the object is at x = number of the step."""

    theta, act, truth = np.zeros((400, 1)), None, None

    def __init__(self):
        self.step = -1

    def measure(self):
        self.step += 1
        xy = jnp.full((400, 2), float(self.step))
        return Measurement(PlanarPose(xy, xy[:, 0]), xy)


def test_lost_tracking_repeats_the_last_pose_for_its_steps_and_only_the_objects():
    world = LostTracking(Counting(), steps=3, seed=0)
    seen = [world.measure() for _ in range(120)]
    age = np.arange(120)[:, None] - np.stack([m.object_pose.xy[:, 0] for m in seen])
    assert set(np.unique(age)) >= {0.0, 1.0, 2.0, 3.0}
    lost = age > 0
    starts = lost[1:] & (age[1:] == 1)
    assert lost.mean() > 0.5 * 3 / LOST_EVERY
    for step, trial in zip(*np.nonzero(starts[:-3]), strict=True):
        np.testing.assert_array_equal(age[step + 1 : step + 4, trial], [1, 2, 3])
    np.testing.assert_array_equal(seen[50].ee_xy, 50.0)
    np.testing.assert_array_equal(seen[0].object_pose.yaw, 0.0)


def test_every_level_is_a_case_and_wrong_priors_are_wrong_by_as_much_as_they_say():
    truth = np.array([0.06], np.float32)
    for sweep in SWEEPS.values():
        for level in sweep.levels:
            prior = belief(sweep.case(level), TASK, truth)
            assert np.isfinite(prior.mean).all()
    wrong = belief(SWEEPS["prior off, sigma 1 cm"].case(-8), TASK, truth)
    np.testing.assert_allclose([wrong.mean[0], wrong.variance[0]], [-0.02, 1e-4], rtol=1e-5)


def test_robustness_is_a_mean_over_training_seeds_with_every_seed_beside_it():
    cells = [
        {"seed": seed, "sweep": "mass", "level": "2", "method": "dr", "hardware": {"value": rate}}
        for seed, rate in ((1, 0.5), (0, 0.9), (2, 0.7))
    ]
    cell = over_seeds(cells)["mass"]["2"]["dr"]
    assert cell["per_seed"] == [0.9, 0.5, 0.7]
    np.testing.assert_allclose(cell["mean"]["value"], 0.7)
    assert cell["mean"]["low"] < 0.5


def test_what_a_prior_says_is_tried_in_the_training_dynamics_and_sensing_in_reality_dev():
    worlds = {name: sweep.case(sweep.levels[0]).world for name, sweep in SWEEPS.items()}
    assert worlds["prior off, sigma 1 cm"] is None
    assert worlds["weight"] is None
    assert all(
        worlds[name].name == "reality-dev"
        for name in ("friction", "mass", "latency", "tracking lost", "pose noise")
    )
