"""``p2r runs``: the run folders below a folder, as a table, as JSON, or for MLflow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2r_jax.runs.folder import KEY_METRIC, UNITS, Run, find_runs

COLUMNS = ("run", "kind", "task", "phase", "seed", "done", "key metric", "date", "git", "state")


@dataclass(frozen=True)
class RunsConfig:
    """What to list.

    Attributes:
      folder: runs in and below it.
      json: print JSON instead of a table.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    json: bool = False


def list_runs(config: RunsConfig) -> list[Run]:
    """Print the runs below a folder; returns them.

    Raises:
      FileNotFoundError: if there is no such folder.
    """
    runs = find_runs(config.folder)
    if config.json:
        print(json.dumps([as_row(run, config.folder) for run in runs], indent=2))
    elif not runs:
        print(f"no runs in {config.folder}")
    else:
        print(table([as_row(run, config.folder) for run in runs]))
    return runs


def as_row(run: Run, root: Path) -> dict:
    """One run as the list shows it."""
    name = run.folder.relative_to(root).as_posix() if run.folder != root else run.folder.name
    return {
        "run": name,
        "kind": run.kind,
        "task": run.task,
        "phase": run.config.get("phase"),
        "seed": run.seed,
        "done": run.done,
        "total": run.total,
        "unit": UNITS[run.kind],
        "metric": KEY_METRIC[run.kind],
        "value": run.key_metric,
        "date": run.origin.get("date"),
        "git": run.origin.get("git"),
        "state": state_of(run),
    }


def state_of(run: Run) -> str:
    """``finished``, ``resumable`` (a checkpoint is there) or ``cut short``."""
    return "finished" if run.finished else "resumable" if run.resumable else "cut short"


def table(rows: Sequence[dict]) -> str:
    """Aligned text, a line per run."""
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    padded = ("  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)) for x in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cells(row: dict) -> tuple[str, ...]:
    value = row["value"]
    metric = "-" if value is None else f"{row['metric']} {value:.3f}"
    done = "?" if row["done"] is None else _count(row["done"])
    progress = f"{done} of {_count(row['total'])} {row['unit']}"
    middle = (row["task"], row["phase"], row["seed"])
    end = (row["date"], row["git"], row["state"])
    cells = (row["run"], row["kind"], *middle, progress, metric, *end)
    return tuple("-" if cell is None else str(cell) for cell in cells)


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else str(number)
