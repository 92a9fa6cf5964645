"""Keep what training took: one small JSON per run folder, for the README and figures.

    python experiments/record_training.py runs/privileged runs/noisy runs/dr

Reads ``config.json`` and ``metrics.csv`` of each run and writes
``experiments/results/train-PHASE.json``: settings, versions, device and the
evaluation curve against control steps and seconds.
"""

import csv
import json
import sys
from pathlib import Path

from p2r_jax.files import write_json

RESULTS = Path(__file__).resolve().parent / "results"
LOCAL = ("out", "init", "resume", "overwrite", "wandb_project")  # of the machine, not the method


def record(run: Path) -> dict:
    """Settings and evaluation curve of a run folder."""
    config = json.loads((run / "config.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    total = last = 0.0  # over resumes, which start their clock anew
    for row in rows:
        total += row["seconds"] - (last if row["seconds"] >= last else 0.0)
        last, row["seconds"] = row["seconds"], total
    kept = {"step", "seconds", "steps_per_s"}
    curve = [{k: v for k, v in r.items() if k in kept or k.startswith("eval/")} for r in rows]
    return {k: v for k, v in config.items() if k not in LOCAL} | {"curve": curve}


def main(runs: list[str]) -> None:
    """Write one file per run folder."""
    RESULTS.mkdir(exist_ok=True)
    for run in map(Path, runs):
        what = record(run)
        path = RESULTS / f"train-{what['phase']}.json"
        write_json(path, what)
        print(f"{run}: {len(what['curve'])} evaluations -> {path.relative_to(RESULTS.parent)}")


if __name__ == "__main__":
    main(sys.argv[1:])
