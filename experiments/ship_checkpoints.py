"""Copy what runs need from training folders into the package, with its provenance.

Usage: python experiments/ship_checkpoints.py --runs runs/train
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.files import write_json

PARTS = {"privileged": "policy", "noisy": "policy", "dr": "policy", "estimator": "estimator"}
RECORDS = ("config.json", "metrics.csv", "calibration.json")
FOLDERS = ("out", "init", "policy")  # settings that name folders of one machine


@dataclass(frozen=True)
class ShipConfig:
    """Where from and to.

    Attributes:
      runs: folder with a run folder for each of ``PARTS``.
      task: registered task.
    """

    runs: Path
    task: str = "push_tblock"


def main(config: ShipConfig) -> None:
    """Copy every part that exists; parts that were not trained stay as they are."""
    for name, folder in PARTS.items():
        source = config.runs / name
        if not (source / folder).is_dir():
            print(f"{name}: no {source / folder}, kept what is shipped")
            continue
        target = CHECKPOINT_ROOT / config.task / name
        target.mkdir(parents=True, exist_ok=True)
        files = [*(source / folder).iterdir(), *(source / r for r in RECORDS)]
        for path in files:
            if path.is_file():
                shutil.copy(path, target / path.name)
        record = json.loads((target / "config.json").read_text())
        record |= {k: Path(record[k]).name for k in FOLDERS if record.get(k)}
        write_json(target / "config.json", record)
        size = sum(p.stat().st_size for p in target.iterdir())
        print(f"{name}: {size / 1e3:.0f} kB in {target}")


if __name__ == "__main__":
    main(tyro.cli(ShipConfig))
