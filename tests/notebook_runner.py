"""Run the code of a notebook in this process, with other parameters."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def cells_of(notebook: Path) -> list[dict]:
    """Its code cells."""
    cells = json.loads(notebook.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run_notebook(notebook: Path, parameters: dict, monkeypatch: pytest.MonkeyPatch) -> dict:
    """All cells from top to bottom; ``parameters`` replace those of the tagged cell.

    Pictures are drawn and thrown away.

    Returns:
      the names that the notebook left behind.
    """
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(notebook.parent)
    scope: dict = {"__name__": "notebook"}
    for cell in cells_of(notebook):
        exec(compile("".join(cell["source"]), str(notebook), "exec"), scope)
        if "parameters" in cell["metadata"].get("tags", ()):
            unknown = set(parameters) - set(scope)
            assert not unknown, f"{notebook.name} has no parameter {unknown}"
            scope |= parameters
    return scope
