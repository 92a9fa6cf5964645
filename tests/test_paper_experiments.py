"""The scripts behind the paper's tables: what they count, choose and print."""

import json

import numpy as np
import paper_tables
import prior_quality
import pytest
import readme_paper
import training_curves
from fusion_rules import CANDIDATES, CASES, RulesConfig, belief, choose, over_seeds

from p2r_jax.evaluation.methods import condition, condition_title, method
from p2r_jax.evaluation.outcomes import CRITERIA
from p2r_jax.prior.prior import load_prior
from p2r_jax.tasks import load_task


def row(method, rate, seeds=2, where="top"):
    mean = {"value": rate, "low": rate - 0.1, "high": rate + 0.1}
    cell = {"per_seed": [rate] * seeds, "mean": mean, "minus": {"privileged": mean}}
    none = {"value": None, "low": None, "high": None}
    return {"condition": where, "method": method, "seeds": seeds, "trials": 9, "hardware": cell,
            "strict": cell, "position_error_m": mean, "first_success_s": none}  # fmt: skip


def test_the_papers_tables_stand_beside_ours_with_intervals():
    prior = {"mean": [0.04], "sigma": [0.014], "kind": "paper-summary"}
    record = {
        "task": "push_tblock", "dynamics": {"name": "reality-test", "version": "2"},
        "conditions": {"top": {"theta_true_m": [0.0596], "prior": prior}},
        "paper": {"top": {"fused": (57.14, 2.6, 39.58)}},
        "rows": [row("privileged", 0.9), row("fused", 0.5)],
    }  # fmt: skip
    text = readme_paper.paper_tables(record)
    assert "2 training seeds, 9 trials each" in text
    assert "top: CoM 5.96 cm, prior 4.00 ± 1.40 cm (paper-summary)" in text
    fused = next(line for line in text.splitlines() if line.startswith("| fused"))
    assert "50 [40, 60]" in fused
    assert "57" in fused
    assert "2.6" in fused


def test_the_ratio_of_times_is_paired_by_seed_and_leaves_out_what_never_succeeds():
    def seed(fused, dr):
        rows = [{"condition": "hammer", "method": name, "first_success_s": {"value": time}}
                for name, time in (("fused", fused), ("dr", dr))]  # fmt: skip
        return {"conditions": {"hammer": {}}, "results": rows}

    (row,) = paper_tables.time_ratios([seed(4.0, 8.0), seed(6.0, 8.0), seed(5.0, None)])
    assert row["per_seed"] == [0.5, 0.75]
    assert row["mean"]["value"] == pytest.approx(0.625)
    assert row["paper"] == pytest.approx(77.79 / 90.65)
    assert readme_paper._ratio(row).startswith("Median time")
    assert "fused / dr: 0.62 [" in readme_paper._ratio(row)
    assert "paper: 0.86" in readme_paper._ratio(row)


def test_a_rule_is_chosen_by_its_largest_regret_against_the_same_policy_told_the_truth():
    rates = {  # by rule: success in two cases; the ceiling has 100 and 90 %
        "truth": (1.0, 0.9), "alone": (0.8, 0.8), "paper": (1.0, 0.2), "doubt 0.1": (0.9, 0.7),
    }  # fmt: skip
    cells = [
        {"seed": seed, "case": case, "name": name, "hardware": found[index]}
        for name, found in rates.items()
        for seed in (0, 1)
        for index, case in enumerate(("a", "b"))
    ]
    regret = choose(over_seeds(cells, "truth", "alone"))
    assert list(regret) == ["doubt 0.1", "paper"]
    np.testing.assert_allclose(
        [regret["doubt 0.1"]["largest"], regret["doubt 0.1"]["mean"]], [0.2, 0.15]
    )
    np.testing.assert_allclose(regret["paper"]["largest"], 0.7)


def test_no_rule_is_chosen_where_it_will_be_judged(tmp_path):
    with pytest.raises(ValueError, match="not in reality-test"):
        RulesConfig(tmp_path, dynamics="reality-test")


def test_wrong_priors_are_off_by_what_the_case_says_and_none_says_nothing():
    task, truth = load_task("push_tblock_plus"), np.array([0.0596], np.float32)
    assert float(belief("top, -8 cm", task, truth).mean[0]) == pytest.approx(-0.0204, abs=1e-6)
    assert np.isinf(belief("bottom, none", task, truth).variance)
    assert len(CASES) == 12
    assert CANDIDATES["remember, doubt 0.5"].doubt == 0.5


def test_table_iv_pairs_fusion_and_prior_alone_by_seed():
    def seed(fused, alone):
        def cell(where, name, hits):
            rate = {"value": hits / 10, "successes": hits}
            return {"condition": where, "method": name, "n": 10, **dict.fromkeys(CRITERIA, rate),
                    "position_error_m": {"mean": {"value": 0.01}},
                    "yaw_error_rad": {"mean": {"value": 0.1}},
                    "first_success_s": {"value": 30.0}, "theta_rmse_m": {"used": 0.01}}  # fmt: skip

        rows = [
            cell(f"top-prior-{name}", m, hits)
            for name in prior_quality.PUBLISHED
            for m, hits in zip(prior_quality.METHODS, (fused, alone), strict=True)
        ]
        return {"task": "t", "dynamics": "d", "trials": 10, "seed": 0, "results": rows}

    rows = prior_quality.table([seed(9, 5), seed(7, 5)])
    assert [r["prior_cm"][0] for r in rows] == [6, 4, 2, 0, -2]
    assert rows[0]["difference"]["value"] == pytest.approx(0.3)
    assert rows[0]["fused"]["per_seed"] == [0.9, 0.7]


def test_the_hammers_condition_puts_its_mass_where_it_says_and_knows_the_papers_prior():
    task = load_task("push_hammer")
    where = condition("hammer")
    _, com, _ = where.mass_properties(task.object)
    assert com[0] == pytest.approx(0.077)
    assert [condition_title(name) for name in ("hammer", "top")] == ["hammer", "weight at top"]
    assert load_prior(where.prior, task).mean == (0.089,)
    with pytest.raises(ValueError, match="'tblock'"):
        where.mass_properties(load_task("push_tblock").object)


def test_the_method_fused_follows_the_tasks_own_rule_and_fused_paper_never_does():
    assert method("fused").rule is None
    assert method("fused-paper").rule == "paper"


def test_a_noisy_curve_begins_where_the_privileged_one_ended(tmp_path):
    for phase, rows in {"privileged": ((1, 0.5), (2, 0.8)), "noisy": ((1, 0.9),),
                        "dr": ((1, 0.1), (2, 0.7), (3, 0.95))}.items():  # fmt: skip
        path = tmp_path / "seed-0" / phase / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("step,eval/success\n" + "".join(f"{a},{b}\n" for a, b in rows))
    curves = training_curves.curves_of(tmp_path)
    np.testing.assert_array_equal(curves["noisy"][0][0], [3])
    found = training_curves.summarize(curves)
    assert found["privileged"]["dr_at_its_steps_minus_it"]["value"] == pytest.approx(-0.1)
    assert found["noisy"]["dr_at_its_steps_minus_it"]["value"] == pytest.approx(0.05)
    json.dumps(found)
