"""What the policy ablations train, share, refuse and make of their cells."""

import json
from dataclasses import replace

import numpy as np
import policy_ablations
import policy_variants
import pytest
from policy_ablations import (
    SITUATIONS,
    cell_key,
    check_settings,
    gather,
    main,
    over_seeds,
    seed_file,
)
from policy_variants import (
    BASE,
    VARIANTS,
    AblationConfig,
    estimator_run,
    methods_of,
    policy_run,
    run_folder,
)
from readme_policy_ablations import policy_ablations as to_markdown

from p2r_jax.evaluation.methods import method
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.files import write_json
from p2r_jax.policy.train import default_ppo
from p2r_jax.tasks import load_task

NOISY = [name for name, variant in VARIANTS.items() if variant.phase == "noisy"]


@pytest.fixture
def config(tmp_path):
    """The ablation as committed, in an empty folder."""
    return AblationConfig(tmp_path / "out")


def test_a_variant_differs_from_base_in_what_it_names_alone(config):
    base = policy_run(config, BASE, 0, "noisy")
    assert base.task == load_task("push_tblock_plus")
    assert base.task.theta_noise_m == 0.015
    assert base.ppo.total_steps == default_ppo("noisy").total_steps // 2
    noise = {name: policy_run(config, name, 0, "noisy") for name in NOISY if "noise" in name}
    assert [run.task.theta_noise_m for run in noise.values()] == [0.0, 0.005, 0.01, 0.03]
    for run in noise.values():
        assert replace(run.task, theta_noise_m=0.015) == base.task
        assert run.ppo == base.ppo
    head = policy_run(config, "categorical", 0, "noisy")
    assert head.task == base.task
    assert replace(head.ppo, action_head="gaussian") == base.ppo
    assert policy_run(config, "2-D CoM", 0, "noisy").task == load_task("push_tblock_xy")
    for phase in ("dr", "dr-history", "dr-recurrent"):
        steps = [default_ppo(x).total_steps for x in ("privileged", "noisy")]
        assert policy_run(config, phase, 0, phase).ppo.total_steps == sum(steps) // 2


def test_noise_variants_share_the_privileged_policy_of_their_seed_and_nothing_else(config):
    def folders(phase):
        return {run_folder(config, name, seed, phase) for name in NOISY for seed in (0, 1)}

    assert len(folders("privileged")) == 2 * 3  # base, 2-D CoM, categorical
    assert len(folders("noisy")) == len(folders("estimator")) == 2 * len(NOISY)
    for name in NOISY:
        noisy = policy_run(config, name, 1, "noisy")
        assert noisy.init == policy_run(config, name, 1, "privileged").out
        assert noisy.ppo.seed == 1
        assert estimator_run(config, name, 1).policy == noisy.out / "policy"
    assert policy_run(config, "noise 3 cm", 0, "noisy").init == run_folder(
        config, BASE, 0, "privileged"
    )


def test_runs_that_are_there_are_resumed(config):
    folder = run_folder(config, BASE, 0, "noisy")
    assert not policy_run(config, BASE, 0, "noisy").resume
    folder.mkdir(parents=True)
    (folder / "state.msgpack").touch()
    assert policy_run(config, BASE, 0, "noisy").resume
    assert policy_run(config, BASE, 0, "noisy").out == folder


def test_the_reality_of_the_published_tables_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no world 'reality-test' \(worlds: training, reality-"):
        AblationConfig(tmp_path, worlds=("reality-test",))
    with pytest.raises(ValueError, match="no variant 'noise 2 cm'"):
        AblationConfig(tmp_path, variants=("noise 2 cm",))
    with pytest.raises(ValueError, match="'dr' is no method of the noisy policy"):
        AblationConfig(tmp_path, methods=("fused", "dr"))


def test_a_folder_of_other_settings_is_refused_and_other_seeds_or_variants_are_not(config):
    check_settings(config)
    others = {"seeds": (7,), "variants": (BASE,), "worlds": ("reality-dev",), "methods": ("fused",)}
    check_settings(replace(config, **others))
    with pytest.raises(ValueError, match=r"holds runs with scale = 0\.5, not 1\.0"):
        check_settings(replace(config, scale=1.0))


@pytest.mark.parametrize("name", ["push_tblock_plus", "push_tblock_xy"])
def test_the_wrong_prior_is_wrong_along_x_and_as_in_training_across(name):
    task = load_task(name)
    truth = np.array([0.06, 0.004])[: len(task.theta)]
    wrong = SITUATIONS["wrong"].prior(task, truth)
    sigma = np.sqrt(wrong.variance)
    np.testing.assert_allclose([wrong.mean[0], sigma[0]], [-0.02, 0.01], rtol=1e-5)
    np.testing.assert_allclose(wrong.mean[1:], task.theta_mean[1:])
    np.testing.assert_allclose(sigma[1:], task.theta_std[1:], rtol=1e-5)
    told = SITUATIONS["top"].prior(task, truth)
    assert told.mean[0] == pytest.approx(0.04)


def write_cells(config, rates):
    """Cells of every seed, success as ``rates(variant, method, seed)`` says."""
    config.out.mkdir(parents=True, exist_ok=True)
    for seed in config.seeds:
        cells = {}
        for name in config.variants:
            for one in methods_of(config, name):
                sees = method(one).given != "training-mean"
                found = {"n": 8, "hardware": rates(name, one, seed), "strict": 0.5}
                found |= {"position_error_m": 0.01, "theta_error_m": 0.02 if sees else None}
                cells |= {cell_key(name, "training", where, one): found for where in SITUATIONS}
        write_json(seed_file(config, seed), {"schema": 1, "cells": cells})


def rates_by_hand(name, one, seed):
    """Base 0.9 and 0.8, other variants 0.1 and 0.3 less by seed."""
    return 0.9 - 0.1 * seed - (0.0 if name == BASE else 0.1 + 0.2 * seed)


def test_differences_to_base_are_paired_by_seed_and_dr_is_compared_with_fused(config):
    config = replace(config, variants=(BASE, "noise 0 cm", "dr"))
    write_cells(config, rates_by_hand)
    found = gather(config)
    noise = found["noise 0 cm"]["training"]["top"]["rma-only"]["hardware"]
    np.testing.assert_allclose(noise["per_seed"], [0.8, 0.5])
    expected = mean_over_seeds([-0.1, -0.3])
    np.testing.assert_allclose([noise["minus_base"][k] for k in ("value", "low", "high")], expected)
    assert "minus_base" not in found[BASE]["training"]["top"]["fused"]["hardware"]
    dr = found["dr"]["training"]["wrong"]["dr"]
    assert dr["hardware"]["minus_base"]["value"] == pytest.approx(-0.2)
    assert dr["theta_error_m"]["mean"]["value"] is None


def test_a_cell_that_a_seed_lacks_is_left_out(config):
    config = replace(config, variants=(BASE,))
    write_cells(config, rates_by_hand)
    path = seed_file(config, 1)
    record = json.loads(path.read_text())
    del record["cells"][cell_key(BASE, "training", "top", "fused")]
    write_json(path, record)
    assert "fused" not in gather(config)[BASE]["training"]["top"]
    assert "rma-only" in gather(config)[BASE]["training"]["top"]


def test_one_seed_has_a_mean_and_no_interval():
    row = over_seeds([0.5], [0.25])
    assert row["minus_base"] == {"value": 0.25, "low": None, "high": None}


def test_a_killed_run_goes_on_and_its_record_becomes_a_table(config, monkeypatch):
    config = replace(config, variants=(BASE, "noise 0 cm", "dr"))
    check_settings(config)
    write_cells(config, rates_by_hand)
    trained = []
    monkeypatch.setattr(policy_ablations, "train_variant", lambda c, n, s: trained.append((n, s)))
    main(config)  # every cell is there: nothing is loaded
    assert trained == [(n, s) for n in config.variants for s in (0, 1)]
    record = json.loads((config.out / "policy_ablations.json").read_text())
    assert record["sizes"]["dr"]["steps"] == {"dr": 9_000_000}
    assert record["sizes"]["noise 0 cm"]["shares_privileged"]
    assert (config.out / "policy_ablations.png").stat().st_size > 10_000
    table = to_markdown(record)
    assert "| base | 85.0 (90.0, 80.0) |" in table
    low, high = (f"{100 * x:+.1f}" for x in mean_over_seeds([-0.1, -0.3])[1:])
    dr = next(line for line in table.splitlines() if line.startswith("| dr |"))
    assert dr == f"| dr | – | 65.0 (80.0, 50.0) | – | – | – | -20.0 [{low}, {high}] | – |"
    assert "noisy 3 M, policies without theta 9 M" in table


@pytest.mark.slow
def test_toy_trainings_are_judged_and_not_trained_again(config, monkeypatch, capsys):
    stock = policy_variants.policy_config

    def tiny(*args):
        run = stock(*args)
        ppo = replace(run.ppo, num_envs=16, total_steps=400, policy_layers=(8,), value_layers=(8,))
        task = replace(run.task, planar=replace(run.task.planar, substeps=2))
        return replace(run, task=task, ppo=ppo, evaluations=1)

    monkeypatch.setattr(policy_variants, "policy_config", tiny)
    size = {"rounds": 1, "episodes": 8, "steps": 2, "batch": 8, "trials": 4}
    names = (BASE, "noise 0 cm", "2-D CoM", "dr-recurrent")
    config = replace(config, seeds=(0,), variants=names, methods=("fused", "rma-only"), **size)
    main(config)
    assert capsys.readouterr().out.count("==") == 3 + 2 + 3 + 1
    record = json.loads((config.out / "policy_ablations.json").read_text())
    assert set(record["variants"]) == set(names)
    main(config)
    assert "==" not in capsys.readouterr().out
