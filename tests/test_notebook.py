"""The notebook runs from top to bottom, also where the CMU data is not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from p2r_jax.pushlog import check_log
from p2r_jax.sim.asset import load_asset

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "com_from_real_pushes.ipynb"


@pytest.fixture
def experiments(monkeypatch):
    """The scripts' folder on the path, as the notebook puts it there; and no data."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path])
    import cmu_pushes

    monkeypatch.setattr(cmu_pushes, "DATA", ROOT / "no such folder")


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_defines_nothing_and_says_what_the_truth_is():
    text = NOTEBOOK.read_text()
    assert not [line for cell in code_cells() for line in cell.splitlines()
                if line.startswith(("def ", "class "))]  # fmt: skip
    assert "nominal, the centroid of a uniform triangle" in text.replace("\\n", " ")


def test_synthetic_logs_pass_the_checks_and_look_like_the_real_ones(experiments):
    import synthetic_pushes

    log = synthetic_pushes.separate_pushes(6)
    assert check_log(log, load_asset(log.asset)) == []
    assert log.observed.sum() == 12
    moved = log.poses_after() - log.poses_before()
    assert 0.005 < np.median(np.linalg.norm(moved[:, :2], axis=1)) < 0.02
    run = synthetic_pushes.continuous_run(20.0)
    assert check_log(run, load_asset(run.asset)) == []
    assert run.observed.all()
    assert np.linalg.norm(run.object_pose[-1, :2]) > 0.03


@pytest.mark.slow
def test_the_notebook_runs_without_the_data(experiments, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the notebook draws: pip install 'p2r_jax[viz]'")
    display = pytest.importorskip("IPython.display", reason="the notebook shows pictures")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    monkeypatch.chdir(NOTEBOOK.parent)
    scope = {"__name__": "notebook"}
    for cell in code_cells():
        exec(compile(cell, str(NOTEBOOK), "exec"), scope)
    printed = capsys.readouterr().out
    assert "The CMU pushes are not on this machine: small synthetic logs stand in" in printed
    assert "synthetic_run" in printed
    assert len(shown) == 3
    # the dynamics that made these logs explains them
    assert 1000 * np.linalg.norm(scope["mean"] - scope["truth"]) < 8
