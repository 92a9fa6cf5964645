"""Priors say where they come from, fit their task, and survive the disk."""

import json
from dataclasses import replace

import numpy as np
import pytest

from p2r_jax.deploy.loop import Memory, loop_step
from p2r_jax.evaluation import methods
from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.evaluation.methods import Condition, load_checkpoints, make_bundle
from p2r_jax.prior.heuristic import load_fit
from p2r_jax.prior.prior import (
    Prior,
    check_prior,
    gaussian_for,
    heuristic_prior,
    load_prior,
    prior_names,
    save_prior,
)
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.shape import shape_of_asset
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian, Measurement, PlanarPose

TASK = load_task("push_tblock")
EDGES = ((-0.1, 0.1),)
A_PRIOR = Prior(("com_object_x",), (0.03,), (0.02,), ("m",), "live", "a test", "tblock", EDGES)
NO_TRUTH = np.zeros((1, 1))


@pytest.mark.parametrize(
    ("name", "mean_cm", "sigma_cm"), [("paper-top", 4.0, 1.4), ("paper-bottom", 0.76, 1.55)]
)
def test_published_summaries_are_in_metres_and_labelled(name, mean_cm, sigma_cm):
    prior = load_prior(name, TASK)
    np.testing.assert_allclose(prior.mean, [mean_cm / 100])
    np.testing.assert_allclose(prior.sigma, [sigma_cm / 100])
    assert prior.kind == "paper-summary"
    assert "arXiv" in prior.source


def test_heuristic_lies_between_box_centre_and_uniform_centroid_with_the_fitted_sigma():
    prior = heuristic_prior(TASK.object, TASK)
    fit = load_fit("mesh")
    centroid = shape_of_asset(TASK.object).centroids[fit.centroid][0]
    np.testing.assert_allclose(prior.mean, [fit.weight * centroid], atol=1e-9)
    np.testing.assert_allclose(prior.sigma, [fit.sigma * 0.20], rtol=1e-6)
    assert 0.0 < prior.mean[0] < 0.0343  # the block's own centre of mass
    assert abs(prior.mean[0] - 0.0343) < 2 * prior.sigma[0]
    assert prior == load_prior("heuristic", TASK)


def test_heuristic_knows_the_second_axis_but_no_mass():
    across = replace(TASK.theta[0], name="com_object_y")
    both = heuristic_prior(TASK.object, replace(TASK, theta=(*TASK.theta, across)))
    assert both.theta == ("com_object_x", "com_object_y")
    np.testing.assert_allclose(both.mean[1], 0.0, atol=1e-9)
    np.testing.assert_allclose(both.sigma[1], both.sigma[0])  # the block is as wide as it is long
    with pytest.raises(ValueError, match=r"no heuristic for theta \['mass'\]"):
        heuristic_prior(TASK.object, replace(TASK, theta=(replace(across, name="mass"),)))


def test_gaussian_has_the_square_of_sigma():
    belief = A_PRIOR.to_gaussian()
    np.testing.assert_allclose(belief.mean, [0.03])
    np.testing.assert_allclose(belief.variance, [0.0004], rtol=1e-6)


def test_saved_prior_is_loaded_unchanged(tmp_path):
    save_prior(tmp_path / "p.json", A_PRIOR, {"how": "a test"})
    assert load_prior(tmp_path / "p.json", TASK) == A_PRIOR
    assert json.loads((tmp_path / "p.json").read_text())["made"] == {"how": "a test"}


def test_unknown_name_lists_what_exists():
    with pytest.raises(KeyError, match=r"paper-top.*heuristic"):
        load_prior("paper-middle", TASK)
    assert {"paper-top", "paper-bottom", "paper-iv--2-8", "heuristic"} <= set(prior_names())


@pytest.mark.parametrize("sigma", [0.0, -0.01, float("nan")])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma"):
        replace(A_PRIOR, sigma=(sigma,))


def test_mean_must_be_finite_and_complete():
    with pytest.raises(ValueError, match="finite"):
        replace(A_PRIOR, mean=(float("inf"),))
    with pytest.raises(ValueError, match="2 mean, 1 sigma"):
        replace(A_PRIOR, mean=(0.0, 0.1))


def test_kind_must_be_known():
    with pytest.raises(ValueError, match=r"paper-summary.*synthetic"):
        replace(A_PRIOR, kind="recorded")


def test_missing_field_and_old_schema_are_refused(tmp_path):
    path = tmp_path / "p.json"

    def written(**changes):
        save_prior(path, A_PRIOR)
        record = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
        return path

    with pytest.raises(ValueError, match="lacks sigma"):
        load_prior(written(sigma=None), TASK)
    with pytest.raises(ValueError, match="lacks object"):
        load_prior(written(object=None), TASK)
    with pytest.raises(ValueError, match="schema 1, this version reads 2"):
        load_prior(written(schema=1), TASK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", r"p\.json is no JSON file"),
        ("[1, 2]", r"p\.json holds a JSON list"),
        ({"mean": 0.03}, r"p\.json: .*not iterable"),
        ({"sigma": ["wide"]}, r"p\.json: could not convert string to float: 'wide'"),
        ({"ends": [[0.1]]}, r"p\.json: not enough values"),
    ],
)
def test_a_file_edited_by_hand_into_nonsense_is_refused(tmp_path, text, message):
    path = tmp_path / "p.json"
    save_prior(path, A_PRIOR)
    if isinstance(text, dict):
        text = json.dumps(json.loads(path.read_text()) | text)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_prior(path, TASK)


MISFITS = [
    ({"theta": ("com_object_y",)}, r"com_object_y.*'push_tblock' has \('com_object_x',\)"),
    ({"unit": ("cm",)}, "in cm, theta of 'push_tblock' in m; convert"),
    ({"object": "hammer"}, "about object 'hammer', 'push_tblock' pushes 'tblock'"),
    ({"ends": ((0.1, -0.1),)}, "axis of com_object_x from 0.1 to -0.1"),  # other direction
    ({"ends": ((0.0, 0.2),)}, "another axis, size or origin"),  # origin at the bottom edge
    ({"ends": ((-0.11, 0.11),)}, "another axis, size or origin"),  # a larger block
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_prior_of_another_axis_unit_or_object_is_refused_from_disk_and_by_the_bundle(
    tmp_path, change, message
):
    wrong = replace(A_PRIOR, **change)
    save_prior(tmp_path / "p.json", wrong)
    with pytest.raises(ValueError, match=message):
        load_prior(tmp_path / "p.json", TASK)
    with pytest.raises(ValueError, match=message):
        make_bundle("fused", None, TASK, wrong, NO_TRUTH)


def test_edges_measured_a_millimetre_apart_are_the_same_axis():
    check_prior(replace(A_PRIOR, ends=((-0.101, 0.1005),)), TASK)
    with pytest.raises(ValueError, match="this prior has the axis"):
        check_prior(replace(A_PRIOR, ends=((-0.105, 0.1),)), TASK)


def test_bundle_takes_a_belief_that_says_nothing_of_its_origin_as_it_is():
    belief = Gaussian(np.array([0.5]), np.array([1.0]))
    assert gaussian_for(belief, TASK) is belief


def test_summary_of_one_object_serves_its_tasks_and_is_refused_for_another_object():
    assert load_prior("paper-top", load_task("push_tblock_plus")) == load_prior("paper-top", TASK)
    with pytest.raises(ValueError, match="about object 'tblock', 'push_hammer' pushes 'hammer'"):
        load_prior("paper-top", load_task("push_hammer"))


def test_prior_from_disk_reaches_the_first_action(tmp_path):
    save_prior(tmp_path / "p.json", A_PRIOR)
    prior = load_prior(tmp_path / "p.json", TASK)
    checkpoints = load_checkpoints(None, TASK, ["fused"])
    bundle = make_bundle("fused", checkpoints, TASK, prior, NO_TRUTH)
    bundle = bundle.replace(prior=prior.to_gaussian())
    pose = PlanarPose(np.array([0.30, 0.20]), np.array(1.0))
    memory = Memory.empty(TASK.history)
    action, _, known = loop_step(bundle, memory, Measurement(pose, np.array([0.30, 0.0])))
    assert np.all(np.isfinite(action))
    np.testing.assert_allclose(known.prior.mean, [0.03])
    assert known.fused.variance[0] < 0.02**2


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """A comparison whose condition names a prior file."""
    monkeypatch.setitem(methods.CONDITIONS, "mine", Condition(0.095, str(tmp_path / "p.json")))
    return EvaluateConfig(
        out=tmp_path / "out", methods=("vlm-only",), conditions=("mine",), trials=1
    )


def test_evaluation_acts_on_a_prior_file_from_the_first_step(tmp_path, evaluation):
    save_prior(tmp_path / "p.json", A_PRIOR)
    results = evaluate(evaluation)
    assert results["conditions"]["mine"]["prior"]["kind"] == "live"
    record = load_records(evaluation.out)["mine", "vlm-only"]
    np.testing.assert_allclose(record.theta_used[0, :, 0], 0.03)
    np.testing.assert_allclose(record.prior_sigma[0, 0], [0.02], rtol=1e-6)


def test_a_prior_file_takes_the_place_of_the_conditions_own(tmp_path, evaluation):
    save_prior(tmp_path / "given.json", A_PRIOR)
    given = str(tmp_path / "given.json")
    results = evaluate(replace(evaluation, conditions=("top",), prior=given))
    assert results["conditions"]["top"]["prior"]["mean"] == [0.03]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_evaluation_refuses_a_misfit_before_any_work(tmp_path, evaluation, change, message):
    save_prior(tmp_path / "p.json", replace(A_PRIOR, **change))
    with pytest.raises(ValueError, match=message):
        evaluate(evaluation)
    assert not evaluation.out.exists()


def test_quantities_have_units_and_ranges_from_the_asset():
    names = ["com_object_x", "com_object_y", "mass", "friction"]
    x, _, mass, friction = quantities_for(names, shape_of_asset(TASK.object))
    assert (x.low, x.high, x.unit) == (-0.1, 0.1, "m")
    assert x.to_unit(0.5, 0.1) == pytest.approx((0.05, 0.01))
    assert x.from_unit(0.05) == pytest.approx(0.5)
    volume = (0.20 * 0.0476 + 0.1524 * 0.05) * 0.04
    assert (mass.low, mass.high, mass.unit) == pytest.approx((20 * volume, 12_000 * volume, "kg"))
    assert friction.unit == "1"
    assert mass.to_unit(0.3, 0.1) == (0.3, 0.1)


@pytest.mark.parametrize("names", [["com_x"], ["mass", "mass"], []])
def test_unknown_repeated_or_no_quantities_are_refused(names):
    with pytest.raises(ValueError, match=r"com_object_x.*friction at most once"):
        quantities_for(names, shape_of_asset(TASK.object))
