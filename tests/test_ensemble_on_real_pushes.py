"""The experiment with the learned ensemble: its scores, the shipped checkpoint, the real runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TASK = load_task("push_triangle_101")
TRUTH = np.array(TASK.object.com_m[:2])
SAME_MM = 0.05  # another processor sums float32 in another order


@pytest.fixture(scope="module")
def experiment():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXPERIMENTS))
        import ensemble_on_real_pushes

        yield ensemble_on_real_pushes


@pytest.fixture(scope="module")
def ensemble():
    return load_ensemble(CHECKPOINT_ROOT / TASK.name / "estimator", TASK)


@pytest.fixture(scope="module")
def synthetic(experiment, ensemble):
    """The shipped ensemble on a simulated run with the nominal centre of mass."""
    import synthetic_pushes

    return experiment.ask(synthetic_pushes.continuous_run(30.0), TASK, ensemble)


def test_scores_are_hand_worked(experiment):
    mean = np.array([[0.003, 0.004], [0.0, 0.0], [0.0, 0.005], [0.003, 0.0]])
    belief = Gaussian(mean, np.full((4, 2), 0.002**2))
    found = experiment.score(belief, np.zeros(2))
    # distances 5, 0, 5, 3 mm; squared over sigma^2: 6.25, 0, 6.25, 2.25 against 2.279, 5.991
    assert found["median_error_mm"] == pytest.approx(4.0)
    assert found["rms_error_mm"] == pytest.approx(np.sqrt(59 / 4))
    assert found["region"] == {"68": 0.5, "95": 0.5}
    # per axis |z|: x 1.5, 0, 0, 1.5; y 2, 0, 2.5, 0
    assert found["axis"] == {"68": [0.5, 0.5], "95": [1.0, 0.5]}
    assert experiment.score(Gaussian(mean[:0], mean[:0]), np.zeros(2)) == {"steps": 0}


def test_before_the_object_moves_the_shipped_ensemble_says_the_training_prior(synthetic):
    before = synthetic.phase == "before"
    assert before.sum() >= 1
    np.testing.assert_allclose(synthetic.belief.mean[before], [TASK.theta_mean] * before.sum(),
                               atol=1.5e-3)  # fmt: skip
    sigma = np.sqrt(synthetic.belief.variance[before])
    np.testing.assert_allclose(sigma, [TASK.theta_std] * before.sum(), rtol=0.1)


def test_while_pushing_it_finds_the_lever_arm_in_a_simulated_run(experiment, synthetic):
    assert (synthetic.phase == "pushing").sum() > 20
    found = experiment.by_direction([synthetic], TASK, TRUTH)["along"]
    assert found["ensemble_mm"] < 0.7 * found["training_mean_mm"]
    assert experiment.pooled([synthetic], TRUTH)["after"]["region"]["95"] > 0.8


def test_the_published_numbers_follow_from_the_real_runs(experiment, ensemble):
    from cmu_pushes import CONTINUOUS, DATA, load_continuous

    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here: the real runs cannot be asked again")
    record = json.loads((EXPERIMENTS / "results" / "ensemble_on_real_pushes.json").read_text())
    assert "uniform triangle" in record["truth"]
    for name in CONTINUOUS:
        run = experiment.ask(load_continuous(name), TASK, ensemble)
        here, there = experiment.pooled([run], TRUTH)["after"], record["runs"][name]["after"]
        assert here["steps"] == there["steps"]
        assert here["median_error_mm"] == pytest.approx(there["median_error_mm"], abs=SAME_MM)
        assert here["region"]["95"] == pytest.approx(there["region"]["95"], abs=0.03)
        # what the robot did lies within what the ensemble was trained on
        assert np.abs(run.windows.window.actions).max() < 1.0
