"""The README tells the truth: tables from committed files, code that runs, targets that exist."""

import re
from pathlib import Path

import make_readme_tables as tables
import pytest

from p2r_jax.evaluation.methods import CHECKPOINT_ROOT, METHODS

ROOT = Path(__file__).parent.parent
PAGES = {name: (ROOT / name).read_text() for name in tables.PAGES}
README = PAGES["README.md"]
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_tables_are_those_of_the_committed_results(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_is_shown_once():
    shown = [m[2] for text in PAGES.values() for m in tables.BLOCK.finditer(text)]
    assert sorted(shown) == sorted(tables.TABLES)


def test_a_missing_file_says_how_to_measure(tmp_path):
    text, stale = tables.fill("<!-- table:headline -->\n<!-- /table:headline -->\n", tmp_path)
    assert "Not measured yet: `benchmarks/results/throughput.json` comes from `python" in text
    assert stale == ["headline"]
    assert tables.fill(text, tmp_path) == (text, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table:nothing -->\n<!-- /table:nothing -->\n", "no table 'nothing'"),
        ("<!-- table:headline -->\n", "no partner"),
        ("<!-- table:headline -->\n<!-- /table:results -->\n", "no partner"),
    ],
)
def test_bad_markers_are_errors(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        tables.fill(text, tmp_path)


def test_every_method_is_explained():
    assert all(f"| `{name}` |" in README for name in METHODS)


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page):
    files = re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page])
    assert [name for name in files if not (ROOT / page).parent.joinpath(name).exists()] == []


def test_pictures_are_linked_from_where_the_page_lies():
    text, _ = tables.fill(
        "<!-- table:replay-picture -->\n<!-- /table:replay-picture -->\n",
        ROOT,
        "experiments/README.md",
    )
    assert "(results/real_push_replay.png)" in text


@pytest.mark.parametrize("code", CODE, ids=range(len(CODE)))
def test_code_runs(code, capsys):
    if "load_checkpoints" in code and not any(CHECKPOINT_ROOT.rglob("policy.json")):
        pytest.skip("no checkpoints are shipped yet, so the README's control loop cannot run")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out
