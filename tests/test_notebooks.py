"""The four notebooks: they run, say what they should, and were committed with outputs."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from notebook_runner import ROOT, cells_of, run_notebook

FOLDER = ROOT / "notebooks"
NOTEBOOKS = (
    "1_a_task_and_its_physics",
    "2_train_and_watch",
    "3_estimate_and_fuse",
    "4_an_ablation",
)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a notebook; gives its names and what it printed."""
    pytest.importorskip("matplotlib", reason="notebooks draw: pip install 'p2r_jax[viz]'")
    pytest.importorskip(
        "IPython.display", reason="notebooks show: pip install 'p2r_jax[notebooks]'"
    )

    def run(name, **parameters):
        scope = run_notebook(FOLDER / f"{name}.ipynb", parameters, monkeypatch)
        return scope, capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_was_committed_after_a_real_run_without_errors(name):
    cells = cells_of(FOLDER / f"{name}.ipynb")
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = [output["output_type"] for output in outputs]
    assert "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_defines_little_and_uses_only_public_names(name):
    tree = ast.parse("\n".join("".join(c["source"]) for c in cells_of(FOLDER / f"{name}.ipynb")))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("p2r_jax")
        for alias in node.names
    ]
    assert imported
    assert not [private for private in imported if private.startswith("_")]


def test_the_outputs_are_small_enough_to_commit():
    sizes = {path.name: path.stat().st_size for path in FOLDER.glob("*.ipynb")}
    assert max(sizes.values()) < 2_000_000, sizes


def test_a_task_and_its_physics(run):
    scope, said = run("1_a_task_and_its_physics", TRIALS=4, ENVIRONMENTS=16, FILM=False)
    assert "com_object_x" in said
    ends = {where: poses[:, -1, :2] for where, poses in scope["paths"].items()}
    again = scope["record"].object_pose[:, -1, :2]
    np.testing.assert_allclose(ends["middle"], again, atol=1e-4)  # the same actions, the same end
    assert np.linalg.norm(ends["top"] - ends["middle"], axis=-1).max() > 0.01


@pytest.mark.slow
def test_train_and_watch(run):
    scope, said = run("2_train_and_watch", STEPS=3_000, ENVIRONMENTS=64, FILM=False)
    assert "third of theta" in said
    assert len(scope["rows"]) >= 2
    assert (scope["folder"] / "policy" / "policy.json").is_file()


def test_estimate_and_fuse(run):
    scope, said = run("3_estimate_and_fuse", TRIALS=2, ACTIONS=15)
    assert float(scope["told"].mean[0]) == pytest.approx(scope["by_hand"], abs=1e-6)
    assert scope["by_hand"] == pytest.approx(
        scope["record"].fused_mean[0, scope["step"], 0], abs=2e-4
    )
    assert "RMSE" in said


@pytest.mark.slow
def test_an_ablation(run):
    scope, said = run("4_an_ablation", TRIALS=2, CONDITIONS=("top-prior--2-8",))
    results = json.loads((scope["folder"] / "results.json").read_text())
    assert results["complete"]
    assert {row["method"] for row in results["results"]} == set(scope["METHODS"])
    assert all(method in said for method in scope["METHODS"])


def test_the_readme_names_every_notebook():
    text = Path(ROOT / "README.md").read_text()
    assert [name for name in NOTEBOOKS if f"notebooks/{name}.ipynb" not in text] == []
