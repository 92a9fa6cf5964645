"""Priors say where they come from, fit their task, and survive the disk."""

import json
from dataclasses import replace

import numpy as np
import pytest

from p2r_jax.prior.prior import Prior, heuristic_prior, load_prior, prior_names, save_prior
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
A_PRIOR = Prior(("com_object_x",), (0.03,), (0.02,), "m", "live", "a test")


@pytest.mark.parametrize(
    ("name", "mean_cm", "sigma_cm"), [("paper-top", 4.0, 1.4), ("paper-bottom", 0.76, 1.55)]
)
def test_published_summaries_are_in_metres_and_labelled(name, mean_cm, sigma_cm):
    prior = load_prior(name, TASK)
    np.testing.assert_allclose(prior.mean, [mean_cm / 100])
    np.testing.assert_allclose(prior.sigma, [sigma_cm / 100])
    assert prior.kind == "paper-summary"
    assert "arXiv" in prior.source


def test_heuristic_is_the_uniform_centroid_with_a_sigma_wider_than_training():
    prior = heuristic_prior(TASK.object, TASK)
    np.testing.assert_allclose(prior.mean, [0.0317], atol=1e-4)  # papers.md 1.1: +3.17 cm
    np.testing.assert_allclose(prior.sigma, [0.20 / 12**0.5])
    assert prior.sigma[0] > TASK.theta_std[0]
    assert prior == load_prior("heuristic", TASK)


def test_gaussian_has_the_square_of_sigma():
    belief = A_PRIOR.to_gaussian()
    np.testing.assert_allclose(belief.mean, [0.03])
    np.testing.assert_allclose(belief.variance, [0.0004], rtol=1e-6)


def test_saved_prior_is_loaded_unchanged(tmp_path):
    save_prior(tmp_path / "p.json", A_PRIOR)
    assert load_prior(tmp_path / "p.json", TASK) == A_PRIOR


def test_unknown_name_lists_what_exists():
    with pytest.raises(KeyError, match=r"paper-top.*heuristic"):
        load_prior("paper-middle", TASK)
    assert {"paper-top", "paper-bottom", "heuristic"} == set(prior_names())


@pytest.mark.parametrize("sigma", [0.0, -0.01, float("nan")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma"):
        replace(A_PRIOR, sigma=(sigma,))


def test_mean_must_be_finite_and_complete():
    with pytest.raises(ValueError, match="finite"):
        replace(A_PRIOR, mean=(float("inf"),))
    with pytest.raises(ValueError, match="2 means"):
        replace(A_PRIOR, mean=(0.0, 0.1))


def test_kind_must_be_known():
    with pytest.raises(ValueError, match="paper-summary"):
        replace(A_PRIOR, kind="recorded")


def test_missing_field_wrong_unit_and_wrong_theta_are_refused(tmp_path):
    path = tmp_path / "p.json"

    def written(**changes):
        save_prior(path, A_PRIOR)
        record = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
        return path

    with pytest.raises(ValueError, match="lacks sigma"):
        load_prior(written(sigma=None), TASK)
    with pytest.raises(ValueError, match=r"'cm'.* in m; convert"):
        load_prior(written(unit="cm"), TASK)
    with pytest.raises(ValueError, match="com_object_y"):
        load_prior(written(theta=["com_object_y"]), TASK)
    with pytest.raises(ValueError, match="schema"):
        load_prior(written(schema=99), TASK)


def test_summary_of_one_task_is_refused_for_another():
    with pytest.raises(ValueError, match="push_tblock"):
        load_prior("paper-top", replace(TASK, name="push_hammer"))
