"""Experiments that keep what they have found, and the tables made of it."""

import json
import re

import costs
import estimator_coverage
import numpy as np
import pytest
import quality_grid
import reality_factors
import wrong_priors
from cells import Cells

from p2r_jax.evaluation.trials import TrialRecord
from p2r_jax.sim.reality import REALITY_DEV, REALITY_TEST

SETTINGS = {"task": "t", "trials": 3, "levels": (1, 2)}


def cells_in(folder, settings=SETTINGS, **options):
    return Cells(folder / "run" / "found.json", settings, ("seed", "case"), **options)


def test_a_killed_experiment_goes_on_with_the_cells_it_has(tmp_path):
    cells_in(tmp_path).add({"seed": 0, "case": "a", "rate": 0.5})
    again = cells_in(tmp_path)
    assert (0, "a") in again
    assert (1, "a") not in again
    again.add({"seed": 1, "case": "a", "rate": 0.7})
    record = again.write(table=[1])
    assert record["table"] == [1]
    assert "cells" not in record
    on_disk = json.loads(again.path.read_text())
    assert [cell["rate"] for cell in on_disk["cells"]] == [0.5, 0.7]
    assert on_disk["trials"] == 3
    assert "git" in on_disk["provenance"]


def test_files_beside_an_empty_experiment_do_not_stop_its_next_start(
    tmp_path,
):
    cells_in(tmp_path)
    (tmp_path / "run" / "an estimator").mkdir()
    assert not cells_in(tmp_path).found


def test_cells_of_other_settings_are_refused_by_name_and_not_lost(tmp_path):
    cells = cells_in(tmp_path)
    cells.add({"seed": 0, "case": "a"})
    before = cells.path.read_bytes()
    with pytest.raises(ValueError, match=r"holds cells with trials = 3, not 4; .*--overwrite"):
        cells_in(tmp_path, SETTINGS | {"trials": 4})
    assert cells.path.read_bytes() == before
    assert not cells_in(tmp_path, SETTINGS | {"trials": 4}, overwrite=True).found


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("x")
    with pytest.raises(FileExistsError):
        cells_in(tmp_path)


def tables_of(rates, seeds=(0, 1), trials=5):
    rows = [
        {"condition": "top", "method": name, "trials": trials, "hardware": {"per_seed": own}}
        for name, own in rates.items()
    ]
    return {"training_seeds": seeds, "rows": rows}


def test_a_wrong_prior_costs_what_the_same_seed_loses_against_methods_that_hear_none(tmp_path):
    config = wrong_priors.WrongConfig(
        tmp_path, seeds=(0, 1), cases=("top, -8 cm",), methods=("fused",), trials=5
    )
    tables = tables_of({"privileged": [1.0, 0.6], "rma-only": [0.8, 0.8]})
    cells = [
        {"case": "top, -8 cm", "method": "fused", "seed": seed, "hardware": {"value": rate}}
        for seed, rate in ((1, 0.4), (0, 0.6))
    ]
    (row,) = wrong_priors.table(config, tables, cells)
    assert row["per_seed"] == [0.6, 0.4]
    assert row["minus"]["privileged"]["value"] == pytest.approx(-0.3)
    assert row["minus"]["rma-only"]["value"] == pytest.approx(-0.3)


def test_wrong_priors_refuse_other_checkpoints_than_the_tables(monkeypatch):
    tables = {"training_seeds": [3], "checkpoints": [{"noisy": {"git": "a"}, "dr": {"git": "c"}}]}
    monkeypatch.setattr(wrong_priors, "describe_checkpoints", lambda made: made)
    wrong_priors.check_checkpoints({"noisy": {"git": "a"}, "belief": {"git": "b"}}, tables, 3)
    with pytest.raises(ValueError, match=r"another noisy of seed 3: run paper_tables\.py again"):
        wrong_priors.check_checkpoints({"noisy": {"git": "b"}}, tables, 3)


@pytest.mark.parametrize(
    "tables",
    [
        tables_of({"privileged": [1.0, 0.6]}),
        tables_of({"privileged": [1.0, 0.6], "rma-only": [0.8, 0.8]}, trials=4),
        tables_of({"privileged": [1.0, 0.6], "rma-only": [0.8, 0.8]}, seeds=(0, 2)),
    ],
)
def test_wrong_priors_ask_for_tables_that_have_every_reference(tmp_path, tables):
    config = wrong_priors.WrongConfig(tmp_path, seeds=(0, 1), trials=5)
    with pytest.raises(ValueError, match=r"lack (rma-only|privileged) at top with 5 trials"):
        wrong_priors.references(config, tables, "top")


def test_an_unknown_case_is_named_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=re.escape("no case 'top, 9 cm' (cases: top, -8 cm;")):
        wrong_priors.WrongConfig(tmp_path, cases=("top, 9 cm",))


def test_coverage_in_trials_counts_from_the_action_after_the_first_contact():
    n, t = 2, 6
    series = np.zeros((n, t, 1))
    fields = dict.fromkeys(TrialRecord.__dataclass_fields__, series)
    contact = np.zeros((n, t), bool)
    contact[:, 2] = True  # during action 2: the estimate of action 3 is the first to know
    record = TrialRecord(**fields | {
        "contact": contact, "theta_true": np.zeros((n, 1)),
        "estimate_mean": np.broadcast_to([9, 9, 9, 0.01, 0.03, 0.01], (n, t))[..., None],
        "estimate_sigma": np.full((n, t, 1), 0.01),
    })  # fmt: skip
    said = estimator_coverage.said_in(record)
    found = estimator_coverage.after_contact(estimator_coverage.calibration_report(said))
    assert found["windows"] == 2 * 3
    assert found["coverage_95"] == pytest.approx(2 / 3)
    assert found["rmse_cm"] == pytest.approx(np.sqrt((1 + 9 + 1) / 3))


def test_the_quality_grid_keeps_estimators_apart_and_says_how_good_they_were(tmp_path):
    config = quality_grid.GridConfig(
        tmp_path, seeds=(0, 1), rounds=(2,), methods=("belief",), cases=("top, none",)
    )
    assert config.levels == ("2", "shipped")
    cells = [
        {"seed": seed, "level": level, "case": "top, none", "method": "belief", "hardware": rate,
         "estimator_rmse_cm": error}
        for level, seed, rate, error in (("2", 1, 0.4, 3.0), ("2", 0, 0.6, 2.0),
                                         ("shipped", 0, 1.0, 1.0), ("shipped", 1, 0.9, 1.2),
                                         ("shipped", 9, 0.0, 9.0))
    ]  # fmt: skip
    worse, better = quality_grid.summary(config, cells)
    assert worse["per_seed"] == [0.6, 0.4]
    assert worse["estimator_rmse_cm"]["value"] == pytest.approx(2.5)
    assert better["hardware"]["value"] == pytest.approx(0.95)
    quality_grid.draw(config, [worse, better], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 5_000


def test_factors_change_one_thing_of_reality_dev_each_and_are_summed_up_over_seeds(tmp_path):
    fields = [field for group in reality_factors.FACTORS.values() for field in group]
    assert len(fields) == len(set(fields))
    for field in fields:
        assert getattr(REALITY_DEV, field) != getattr(REALITY_TEST, field)
    config = reality_factors.FactorConfig(tmp_path, seeds=(0, 1), methods=("dr",))
    cells = [
        {"factor": factor, "method": "dr", "seed": seed, "hardware": {"value": seed / 2}}
        for factor in reality_factors.FACTORS
        for seed in (1, 0, 7)
    ]
    rows = reality_factors.summary(config, cells)
    assert [row["factor"] for row in rows] == list(reality_factors.FACTORS)
    assert rows[0]["per_seed"] == [0.0, 0.5]
    assert rows[0]["hardware"]["value"] == pytest.approx(0.25)


def test_costs_add_up_over_resumes_and_leave_out_what_has_no_clock(tmp_path):
    for seed, clock in enumerate(((60, 120, 30), (60, 240), ())):
        folder = tmp_path / "t" / f"seed-{seed}" / "dr"
        folder.mkdir(parents=True)
        lines = ["step,seconds" if clock else "step", *(f"1,{x}" if clock else "1" for x in clock)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (row,) = costs.trainings(tmp_path)
    assert (row["task"], row["phase"], row["seeds"]) == ("t", "dr", 2)
    assert (row["minutes_min"], row["minutes_max"]) == (2.5, 4.0)
    for where, walls in (("top", (60, 90)), ("bottom", (30, 60))):
        folder = tmp_path / "tables" / "seed-0" / where
        folder.mkdir(parents=True)
        found = {"task": "t", "trials": 7, "results": [{"wall_s": wall} for wall in walls]}
        (folder / "results.json").write_text(json.dumps(found))
    (table,) = costs.cells((tmp_path / "tables", tmp_path / "not there"))
    assert (table["cells"], table["seconds_min"], table["total_minutes"]) == (4, 30.0, 4.0)
