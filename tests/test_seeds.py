"""Statistics over training seeds: hand-worked, and refusals."""

import numpy as np
import pytest

from p2r_jax.evaluation.outcomes import CRITERIA
from p2r_jax.evaluation.seeds import mean_over_seeds, merge

TRIALS = 20


def rate(successes):
    return {"value": successes / TRIALS, "successes": successes}


def result(successes: dict, **changes):
    """Results of one training seed: successes by method, in one condition."""
    error = {"mean": {"value": 0.01}}
    rows = [
        {"condition": "top", "method": method, "n": TRIALS, "position_error_m": error,
         "yaw_error_rad": error, "first_success_s": {"value": 30.0},
         "theta_rmse_m": {"used": None if method == "dr" else 0.02},
         **{name: rate(count) for name in CRITERIA}}
        for method, count in successes.items()
    ]  # fmt: skip
    base = {"task": "t", "dynamics": "d", "trials": TRIALS, "seed": 0, "reference": "privileged"}
    return base | {"results": rows} | changes


def test_mean_over_seeds_is_students():
    # three values 1, 2, 3: s.d. 1, t(0.975, 2) = 4.302653
    found, half = mean_over_seeds([1.0, 2.0, 3.0]), 4.302653 / 3**0.5
    np.testing.assert_allclose(found, (2.0, 2 - half, 2 + half), rtol=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    value, low, high = mean_over_seeds([0.4])
    assert value == 0.4
    assert np.isnan([low, high]).all()


def test_differences_are_paired_by_seed():
    seeds = [result({"privileged": a, "dr": a - 4}) for a in (10, 14, 18)]
    rows = {row["method"]: row for row in merge(seeds)}
    difference = rows["dr"]["hardware"]["minus"]["privileged"]
    np.testing.assert_allclose([difference[k] for k in ("value", "low", "high")], -0.2)
    assert rows["dr"]["hardware"]["per_seed"] == [0.3, 0.5, 0.7]
    assert rows["dr"]["hardware"]["pooled"]["value"] == pytest.approx(30 / 60)
    assert rows["dr"]["theta_rmse_m"] is None
    assert list(rows["privileged"]["hardware"]["minus"]) == ["dr"]


def test_seeds_that_met_other_trials_or_lack_a_cell_are_refused():
    whole = result({"privileged": 10, "dr": 9})
    with pytest.raises(ValueError, match="seed is 7 and 0"):
        merge([whole, result({"privileged": 10, "dr": 9}, seed=7)])
    with pytest.raises(ValueError, match=r"training seed 1 lacks \('top', 'dr'\)"):
        merge([whole, result({"privileged": 10})])
