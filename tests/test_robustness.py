"""The worlds that the robustness figure is drawn from."""

import jax.numpy as jnp
import numpy as np
from robustness import LOST_EVERY, SWEEPS, LostTracking, belief

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
