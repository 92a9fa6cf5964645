"""What the trained seeds and the tables took, from the records that the runs left.

    python experiments/costs.py

Wall time of runs that mostly had one core to themselves, and sometimes less: the shortest and
the longest over training seeds are both given. The clock of a policy's record starts after
compilation, that of an estimator's before. A seed without times in a record is left out.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from readme_tables import training_seconds

from p2r_jax.files import provenance, write_json

HERE = Path(__file__).parent
RUNS = ("runs/tables", "runs/tables-plus", "runs/tables-hammer")


@dataclass(frozen=True)
class CostsConfig:
    """What is read.

    Attributes:
      checkpoints: holds ``TASK/seed-N/PHASE/metrics.csv``.
      tables: folders that ``paper_tables.py`` wrote.
      out: the file.
    """

    checkpoints: Path = HERE / "checkpoints"
    tables: tuple[Path, ...] = field(default_factory=lambda: tuple(map(Path, RUNS)))
    out: Path = HERE / "results" / "costs.json"


def clock_of(metrics: Path) -> list[float]:
    """Seconds since the start, or the last resume, of every row of a ``metrics.csv``."""
    with metrics.open(newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file) if row.get("seconds")]


def trainings(root: Path) -> list[dict]:
    """A row per task and phase: minutes of the quickest and the slowest seed."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for metrics in sorted(root.glob("*/seed-*/*/metrics.csv")):
        task, seed, phase = metrics.parts[-4:-1]
        if clock := clock_of(metrics):
            found.setdefault((task, phase), {})[seed] = training_seconds(clock) / 60
    return [
        {"task": task, "phase": phase, "seeds": len(minutes), **_range("minutes", minutes.values())}
        for (task, phase), minutes in found.items()
    ]


def cells(tables: tuple[Path, ...]) -> list[dict]:
    """A row per folder of tables: how many cells, trials in each, seconds of one."""
    rows = []
    for folder in tables:
        results = [json.loads(x.read_text()) for x in sorted(folder.glob("seed-*/*/results.json"))]
        walls = [row["wall_s"] for one in results for row in one["results"]]
        if walls:
            rows.append({
                "task": results[0]["task"], "cells": len(walls), "trials": results[0]["trials"],
                "total_minutes": sum(walls) / 60, **_range("seconds", walls),
            })  # fmt: skip
    return rows


def _range(name: str, values) -> dict[str, float]:
    values = np.array(list(values))
    return {f"{name}_{how}": float(f(values)) for how, f in
            (("min", np.min), ("median", np.median), ("max", np.max))}  # fmt: skip


def main(config: CostsConfig) -> None:
    """Read, write, print."""
    record = {"schema": 1, "trainings": trainings(config.checkpoints),
              "tables": cells(config.tables), "provenance": provenance()}  # fmt: skip
    write_json(config.out, record)
    for row in record["trainings"]:
        print(f"{row['task']:17} {row['phase']:11} {row['minutes_min']:5.1f} to "
              f"{row['minutes_max']:5.1f} min, {row['seeds']} seeds")  # fmt: skip
    for row in record["tables"]:
        print(f"{row['task']:17} {row['cells']} cells of {row['trials']} trials, "
              f"{row['seconds_min']:.0f} to {row['seconds_max']:.0f} s each")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(CostsConfig))
