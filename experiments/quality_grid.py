"""How good must the prior be, and how good the estimator: success over both.

    python experiments/quality_grid.py --out runs/quality-grid --publish

Estimators of several qualities are cut from the same cloth: the frozen noisy policy of a training
seed, and ever fewer windows; the best is the shipped one. In the training dynamics, weight at
the top. Finished estimators and cells are kept, so a killed run goes on where it was.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from cells import Cells, CellsConfig
from fusion_rules import SURE, check_cases, colour, judge_case
from published import publish

from p2r_jax.estimator.calibration import after_contact
from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.estimator.train import REPORT, EstimatorConfig, train_estimator
from p2r_jax.evaluation.evaluate import TRAINING, describe_world
from p2r_jax.evaluation.methods import ESTIMATOR, Checkpoints
from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.files import read_json
from p2r_jax.tasks import Task, load_task

SHIPPED = "shipped"


@dataclass(frozen=True)
class GridConfig(CellsConfig):
    """How much of it; see also ``CellsConfig``.

    Attributes:
      methods: by name; all hear a fused belief.
      cases: of ``fusion_rules``, by name: how wrong the prior is.
      rounds: of the lesser estimators; a round is ``episodes`` and ``steps``.
      episodes, steps, batch: as in ``EstimatorConfig``.
      trials: per cell.
      seed: of the trials; not the published tables'.
    """

    methods: tuple[str, ...] = ("fused-paper", "fused", "belief")
    cases: tuple[str, ...] = (
        "top, +0 cm", "top, -2 cm", "top, -4 cm", "top, -8 cm", "top, none"
    )  # fmt: skip
    rounds: tuple[int, ...] = (1, 2, 4)
    episodes: int = 512
    steps: int = 100
    batch: int = 256
    trials: int = 300
    seed: int = 1

    def __post_init__(self):
        check_cases(self.cases)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the estimators, the worst first."""
        return (*(str(rounds) for rounds in self.rounds), SHIPPED)


def estimator_folder(config: GridConfig, task: Task, seed: int, level: str) -> Path:
    """Run folder of an estimator, by its size; trained unless it is there or shipped."""
    if level == SHIPPED:
        return config.of_seed(seed) / ESTIMATOR
    size = f"{level}x{config.episodes}x{config.steps}x{config.batch}"
    out = config.out / f"seed-{seed}" / size
    if not (out / REPORT).is_file():
        train_estimator(EstimatorConfig(
            task, config.of_seed(seed) / "noisy", out, rounds=int(level),
            episodes=config.episodes, steps=config.steps, batch=config.batch, seed=seed,
            overwrite=True,
        ))  # fmt: skip
    return out


def with_estimator(checkpoints: Checkpoints, folder: Path, task: Task) -> Checkpoints:
    """The same policies with the estimator of a run folder, or of a shipped one."""
    path = folder / ESTIMATOR if (folder / ESTIMATOR).is_dir() else folder
    return replace(checkpoints, ensemble=load_ensemble(path, task))


def error_of(folder: Path) -> float:
    """RMSE in cm on held-out episodes, after their first contact."""
    report = read_json(folder / REPORT, "ship_checkpoints.py or a training writes it")
    return after_contact(report)["rmse_cm"]


def summary(config: GridConfig, cells: list[dict]) -> list[dict]:
    """A row per estimator, case and method: success and the estimator's error over seeds."""
    rows = []
    for level, case, name in itertools.product(config.levels, config.cases, config.methods):
        own = [c for c in cells if (c["level"], c["case"], c["method"]) == (level, case, name)]
        own = sorted((c for c in own if c["seed"] in config.seeds), key=lambda c: c["seed"])
        rates = [c["hardware"] for c in own]
        rows.append({
            "level": level, "case": case, "method": name, "per_seed": rates,
            "hardware": as_json(mean_over_seeds(rates)),
            "estimator_rmse_cm": as_json(mean_over_seeds([c["estimator_rmse_cm"] for c in own])),
        })  # fmt: skip
    return rows


def draw(config: GridConfig, rows: list[dict], path: Path) -> None:
    """A grid per method: error of the prior across, error of the estimator down."""
    found = {(r["level"], r["case"], r["method"]): r for r in rows}
    first = config.methods[0]
    errors = [found[x, config.cases[0], first]["estimator_rmse_cm"]["value"] for x in config.levels]
    priors = [case.split(", ")[1] for case in config.cases]
    figure, axes = plt.subplots(
        1, len(config.methods), figsize=(3.4 * len(config.methods), 3), sharey=True, squeeze=False
    )
    for axis, name in zip(axes[0], config.methods, strict=True):
        rates = np.array([
            [100 * found[level, case, name]["hardware"]["value"] for case in config.cases]
            for level in config.levels
        ])  # fmt: skip
        colour(axis, rates, fontsize=9)
        axis.set(title=name, xlabel=f"prior off by, σ {100 * SURE:g} cm", xticks=range(len(priors)),
                 xticklabels=priors, yticks=range(len(errors)))  # fmt: skip
        axis.set_yticklabels([f"{error:.1f} cm" for error in errors])
    axes[0, 0].set_ylabel("estimator's RMSE")
    figure.suptitle("success at the end, %, weight at the top", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(config: GridConfig) -> None:
    """Train and run what is missing, draw."""
    task = load_task(config.task)
    size = {name: getattr(config, name) for name in ("episodes", "steps", "batch")}
    settings = {"schema": 1, "task": task.name, "trials": config.trials, "trial_seed": config.seed,
                "sigma_m": SURE, "round": size,
                "dynamics": describe_world(TRAINING, task)}  # fmt: skip
    keys = ("seed", "level", "case", "method")
    cells = Cells(config.out / "quality_grid.json", settings, keys, config.overwrite)
    for seed in config.seeds:
        shipped = config.load(seed, task, config.methods)
        for level in config.levels:
            folder = estimator_folder(config, task, seed, level)
            checkpoints, error = with_estimator(shipped, folder, task), error_of(folder)
            for case, name in itertools.product(config.cases, config.methods):
                if (seed, level, case, name) in cells:
                    continue
                found = judge_case(
                    name, case, task, checkpoints, TRAINING, config.trials, config.seed
                )
                rate = found["hardware"]["value"]
                cells.add({"seed": seed, "level": level, "case": case, "method": name,
                           "hardware": rate, "estimator_rmse_cm": error})  # fmt: skip
                print(f"seed {seed} | RMSE {error:.2f} cm | {case:10} | {name:11} "
                      f"{100 * rate:5.1f} %", flush=True)  # fmt: skip
    rows = summary(config, cells.found)
    record = cells.write(seeds=config.seeds, levels=config.levels, rows=rows)
    draw(config, rows, config.out / "quality_grid.png")
    if config.publish:
        publish(record, "quality_grid.json")
        publish(config.out / "quality_grid.png")


if __name__ == "__main__":
    main(tyro.cli(GridConfig))
