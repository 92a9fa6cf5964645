"""The README tells the truth: tables from committed files, code that runs, targets that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

from p2r_jax.evaluation.methods import CHECKPOINT_ROOT, METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def tables():
    """The generator, loaded from its file."""
    spec = importlib.util.spec_from_file_location(
        "make_readme_tables", ROOT / "experiments" / "make_readme_tables.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_committed_results(tables, capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_is_shown_once(tables):
    assert sorted(m[2] for m in tables.BLOCK.finditer(README)) == sorted(tables.TABLES)


def test_a_missing_file_says_how_to_measure(tables, tmp_path):
    text, stale = tables.fill("<!-- table:parity -->\n<!-- /table:parity -->\n", tmp_path)
    assert "Not measured yet: `benchmarks/results/parity.json` comes from `python" in text
    assert stale == ["parity"]
    assert tables.fill(text, tmp_path) == (text, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:nothing -->\n<!-- /table:nothing -->\n", "no table 'nothing'"),
        ("<!-- table:parity -->\n", "no partner"),
        ("<!-- table:parity -->\n<!-- /table:results -->\n", "no partner"),
    ],
)
def test_bad_markers_are_errors(tables, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        tables.fill(text, tmp_path)


def test_every_method_is_explained():
    assert all(f"| `{name}` |" in README for name in METHODS)


def test_linked_files_exist():
    files = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_code_runs(code, capsys):
    if "load_checkpoints" in code and not any(CHECKPOINT_ROOT.rglob("policy.json")):
        pytest.skip("no checkpoints are shipped yet, so the README's control loop cannot run")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out
