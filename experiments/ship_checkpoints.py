"""Copy what runs need from training folders into the package, with its provenance.

    python experiments/ship_checkpoints.py --runs runs/train
    python experiments/ship_checkpoints.py --runs runs/seeds/push_tblock/seed-1 \\
        --target experiments/checkpoints/push_tblock/seed-1
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.files import write_json
from p2r_jax.policy.policy import Phase

PARTS = dict.fromkeys(get_args(Phase), "policy") | {
    "estimator": "estimator",
    "adaptor": "estimator",
}
RECORDS = ("config.json", "metrics.csv", "calibration.json")
FOLDERS = ("out", "init", "policy")  # settings that name folders of one machine


@dataclass(frozen=True)
class ShipConfig:
    """Where from and to.

    Attributes:
      runs: folder with a run folder for each of ``PARTS``.
      task: registered task.
      target: where to; by default the task's folder in the package.
    """

    runs: Path
    task: str = "push_tblock"
    target: Path | None = None


def main(config: ShipConfig) -> None:
    """Copy every part that exists; parts that were not trained stay as they are."""
    for name, folder in PARTS.items():
        source = config.runs / name
        if not (source / folder).is_dir():
            print(f"{name}: no {source / folder}, kept what is shipped")
            continue
        target = (config.target or CHECKPOINT_ROOT / config.task) / name
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
