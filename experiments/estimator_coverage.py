"""Does the estimator's interval hold where it was never trained: error and coverage.

    python experiments/estimator_coverage.py

Reads what others ran: held-out episodes of every training seed (``calibration.json`` beside
its checkpoint) and the trajectories of ``paper_tables.py``. All windows since an episode's
first contact; a training seed is the unit.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float

from p2r_jax.estimator.calibration import after_contact, calibration_report
from p2r_jax.evaluation.evaluate import load_records
from p2r_jax.evaluation.seeds import each_and_mean
from p2r_jax.evaluation.trials import TrialRecord
from p2r_jax.files import provenance, read_json, write_json
from p2r_jax.types import Gaussian

HERE = Path(__file__).parent
METRICS = ("rmse_cm", "sigma_cm", "coverage_95")
HELD_OUT = "held-out episodes"


@dataclass(frozen=True)
class CoverageConfig:
    """What is read.

    Attributes:
      runs: by task, the folder that ``paper_tables.py`` wrote.
      seeds: training seeds.
      methods: whose trials are read: they differ in what drove the pusher.
      checkpoints: holds ``TASK/seed-N``.
      out: the file.
    """

    runs: dict[str, Path] = field(
        default_factory=lambda: {
            "push_tblock": Path("runs/tables"),
            "push_tblock_plus": Path("runs/tables-plus"),
            "push_hammer": Path("runs/tables-hammer"),
        }
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ("rma-only", "fused")
    checkpoints: Path = HERE / "checkpoints"
    out: Path = HERE / "results" / "estimator_coverage.json"


@dataclass(frozen=True)
class Said:
    """Trials as ``calibration_report`` reads them; see ``calibration.Estimated``."""

    theta: Float[np.ndarray, "n k"]
    estimate: Gaussian
    contact: Float[np.ndarray, "n t"]


def said_in(record: TrialRecord) -> Said:
    """What the estimator said when each action was computed, and the contact before it."""
    before = np.zeros_like(record.contact[:, :1])
    contact = np.concatenate([before, record.contact[:, :-1]], 1).astype(float)
    estimate = Gaussian(record.estimate_mean, record.estimate_sigma**2)
    return Said(record.theta_true, estimate, contact)


def in_trials(root: Path, seeds: tuple[int, ...], where: str, name: str) -> list[dict]:
    """A row per training seed, from the trials of a method in a condition."""
    records = [load_records(root / f"seed-{seed}" / where)[where, name] for seed in seeds]
    return [after_contact(calibration_report(said_in(record))) for record in records]


def finished(root: Path, seeds: tuple[int, ...]) -> dict[str, dict]:
    """Results of the first seed, by condition that all seeds have finished."""
    found = {}
    for path in sorted((root / f"seed-{seeds[0]}").glob("*/results.json")):
        where = path.parent.name
        every = [root / f"seed-{seed}" / where / path.name for seed in seeds]
        results = [json.loads(one.read_text()) for one in every if one.is_file()]
        if len(results) == len(seeds) and all(one["complete"] for one in results):
            found[where] = results[0]
    return found


def over_seeds(rows: list[dict]) -> dict:
    """Mean and interval of every metric."""
    return {name: each_and_mean([row[name] for row in rows]) for name in METRICS}


def of_task(config: CoverageConfig, task: str, root: Path) -> list[dict]:
    """Held-out episodes first, then every condition that all seeds have finished."""
    reports = [
        read_json(
            config.checkpoints / task / f"seed-{seed}" / "estimator" / "calibration.json",
            "ship_checkpoints.py puts it there",
        )
        for seed in config.seeds
    ]
    held_out = over_seeds([after_contact(report) for report in reports])
    rows = [{"task": task, "where": HELD_OUT, "method": "rma-only", **held_out}]
    for where, results in finished(root, config.seeds).items():
        for name in config.methods:
            found = over_seeds(in_trials(root, config.seeds, where, name))
            rows.append({"task": task, "where": where, "method": name,
                         "dynamics": results["dynamics"]["name"], "trials": results["trials"],
                         **found})  # fmt: skip
    return rows


def main(config: CoverageConfig) -> None:
    """Read, gather, write."""
    rows = [row for task, root in config.runs.items() for row in of_task(config, task, root)]
    write_json(
        config.out, {"schema": 1, "seeds": config.seeds, "rows": rows, "provenance": provenance()}
    )
    for row in rows:
        rmse, sigma, inside = (row[name]["mean"]["value"] for name in METRICS)
        print(f"{row['task']:17} {row['where']:18} {row['method']:9} RMSE {rmse:.2f} cm, "
              f"sigma {sigma:.2f} cm, {100 * inside:.1f} % in the 95 % interval")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(CoverageConfig))
