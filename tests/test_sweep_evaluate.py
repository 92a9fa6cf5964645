"""Evaluations in a sweep: seeds share what was compiled, and each is the evaluation it would be."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from p2r_jax import tasks
from p2r_jax.evaluation import evaluate as evaluation
from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.runs.folder import find_runs
from p2r_jax.sweep.plan import config_of, jobs, run_folder, variants
from p2r_jax.sweep.spec import read_sweep
from p2r_jax.sweep.worker import Worker, save_sweep

pytest.importorskip("yaml", reason="needs PyYAML: pip install 'p2r_jax[sweep]'")

SWEEP = """
command: evaluate
base: {dynamics: WORLD, methods: [fused], conditions: [bare], trials: 2}
seeds: [0, 3]
"""
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiles():
    """Programs that were compiled, one entry each."""
    found = []

    def heard(event, seconds, **kwargs):
        if event == COMPILED:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield found
    jax.monitoring.unregister_event_duration_listener(heard)


@pytest.mark.parametrize("world", ["reality-dev", pytest.param("training", marks=pytest.mark.slow)])
def test_seeds_of_an_evaluation_share_its_programs_and_are_bitwise_those_run_alone(
    world, tmp_path, monkeypatch, compiles
):
    task = tasks.load_task("push_tblock")
    short = replace(task, episode_length=3, planar=replace(task.planar, substeps=2))
    monkeypatch.setitem(tasks._REGISTRY, "push_tblock", lambda: short)
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SWEEP.replace("WORLD", world))
    sweep = read_sweep(Path("s.yaml"))
    (variant,), (job,) = variants(sweep), jobs(sweep)
    assert job.seeds == (0, 3)
    save_sweep(sweep)
    jax.clear_caches()  # of the tests before this one
    before, describe = [], evaluation.describe_world

    def starts(*args):
        before.append(len(compiles))
        return describe(*args)

    monkeypatch.setattr(evaluation, "describe_world", starts)
    assert Worker(str(sweep.out))() == 1
    assert before[0] < before[1] == len(compiles)
    assert [run.seed for run in find_runs(sweep.out)] == [0, 3]
    for seed in sweep.seeds:
        jax.clear_caches()
        alone = config_of(sweep, {}, tmp_path / f"alone-{seed}", seed)
        assert isinstance(alone, EvaluateConfig)
        evaluate(alone)
        (ours,), (own,) = (
            load_records(folder).values()
            for folder in (run_folder(sweep, variant, seed), alone.out)
        )
        for name, values in own.arrays().items():
            np.testing.assert_array_equal(getattr(ours, name), values, err_msg=name)
