"""Train the ensemble that is run on the real continuous pushes; ship it with --ship.

    python experiments/triangle_ensemble.py --out runs/train/triangle_101

Task ``push_triangle_101`` in simulation, experience from straight pushes
(``estimator.straight_pushes``). No real push is read here, and nothing in the settings
was chosen by what the estimator says on one.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from p2r_jax.compat import use_compilation_cache
from p2r_jax.estimator.straight_pushes import StraightPushes
from p2r_jax.estimator.train import EstimatorConfig, train_estimator
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT, ESTIMATOR
from p2r_jax.files import write_json
from p2r_jax.tasks import load_task

TASK = "push_triangle_101"


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
      out: run folder.
      members, rounds, episodes, steps: as in ``EstimatorConfig``.
      seed: of everything.
      resume: continue the run in ``out`` exactly.
      ship: copy the result to the package's checkpoints.
    """

    out: Path
    members: int = 5
    rounds: int = 20
    episodes: int = 4096
    steps: int = 500
    seed: int = 0
    resume: bool = False
    ship: bool = False


def main(config: TrainConfig) -> None:
    """Train, write the report, ship."""
    use_compilation_cache()
    train_estimator(
        EstimatorConfig(
            load_task(TASK), policy=None, out=config.out, members=config.members,
            rounds=config.rounds, episodes=config.episodes, steps=config.steps,
            pushes=StraightPushes(), seed=config.seed, resume=config.resume,
        )
    )  # fmt: skip
    if config.ship:
        ship(config.out, CHECKPOINT_ROOT / TASK / ESTIMATOR)


def ship(run: Path, target: Path) -> None:
    """Copy the ensemble of a run, its settings and its report."""
    target.mkdir(parents=True, exist_ok=True)
    for path in (*(run / ESTIMATOR).iterdir(), run / "calibration.json"):
        shutil.copy(path, target / path.name)
    record = json.loads((run / "config.json").read_text())
    write_json(target / "config.json", record | {"out": run.name})


if __name__ == "__main__":
    main(tyro.cli(TrainConfig))
