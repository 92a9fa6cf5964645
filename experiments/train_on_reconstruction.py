"""Does a policy care whether its object was written by hand or filmed?

    python experiments/reconstruction.py --cases tblock
    python experiments/train_on_reconstruction.py

The T-block task is trained twice for the same short budget: on the hand-written T, and on the
T that ``reconstruction.py`` made of pictures, with the same taped weight. Both policies are
then judged on the hand-written T in ``reality-dev``, in the same trials.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.evaluation.outcomes import as_json, held, judge
from p2r_jax.evaluation.statistics import paired_difference
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.policy.train import default_train, train
from p2r_jax.sim.asset import load_asset, save_asset
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 1
TASK, PHASE = "push_tblock", "privileged"
WRITTEN, FILMED = "hand-written", "reconstructed"
MARK_POINTS = 5.0


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
      asset: folder of the reconstructed T.
      out: JSON.
      work: trainings and trials.
      steps: control steps of either training.
      trials: per condition.
      conditions: positions of the weight.
      seed: of training and trials.
    """

    asset: Path = Path("runs/reconstruction/tblock/asset")
    out: Path = Path("experiments/results/train_on_reconstruction.json")
    work: Path = Path("runs/train_on_reconstruction")
    steps: int = 6_000_000
    trials: int = 100
    conditions: tuple[str, ...] = ("top", "bottom", "bare")
    seed: int = 0


def filmed_task(config: Config) -> Task:
    """The T-block task on the reconstructed T, with the weight of the written one."""
    written, folder = load_task(TASK), config.work / "asset"
    found = load_asset(config.asset)
    shutil.rmtree(folder, ignore_errors=True)
    asset = replace(found, name="tblock", weight=written.object.weight, visual=None, texture=None)
    save_asset(asset, folder)
    return replace(written, asset=str(folder.resolve()))


def trained(task: Task, name: str, config: Config) -> Path:
    """Folder of the checkpoints of one training."""
    folder = config.work / name
    if not (folder / "done").is_file():
        run = default_train(TASK, PHASE, folder / "run")
        ppo = replace(run.ppo, total_steps=config.steps, seed=config.seed)
        train(replace(run, task=task, ppo=ppo, evaluations=10, overwrite=True))
        shutil.copytree(folder / "run" / "policy", folder / "checkpoints" / PHASE)
        (folder / "done").touch()
    return folder / "checkpoints"


def main(config: Config) -> None:
    """Train, judge, write."""
    config.work.mkdir(parents=True, exist_ok=True)
    tasks = {WRITTEN: load_task(TASK), FILMED: filmed_task(config)}
    results, successes = {}, {}
    for name, task in tasks.items():
        checkpoints = trained(task, name, config)
        out = config.work / name / "trials"
        results[name] = evaluate(
            EvaluateConfig(
                out=out,
                task=TASK,
                methods=(PHASE,),
                conditions=config.conditions,
                trials=config.trials,
                seed=config.seed,
                checkpoints=checkpoints,
                overwrite=True,
            )
        )["results"]
        written = tasks[WRITTEN]
        successes[name] = {
            where: held(judge(record, written), "hardware", written)[:, -1]
            for (where, _), record in load_records(out).items()
        }
    differences = {
        where: as_json(paired_difference(successes[FILMED][where], successes[WRITTEN][where]))
        for where in config.conditions
    }
    pooled = [np.concatenate(list(successes[name].values())) for name in (FILMED, WRITTEN)]
    differences["all"] = as_json(paired_difference(*pooled))
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "train_on_reconstruction",
        "provenance": provenance(),
        "settings": as_record(config),
        "results": results,
        "filmed_minus_written": differences,
        "mark_points": MARK_POINTS,
        "met": abs(100 * differences["all"]["value"]) <= MARK_POINTS,
    }
    write_json(config.out, record)
    for where, row in differences.items():
        low, high = 100 * row["low"], 100 * row["high"]
        print(f"{where:8} filmed - written: {100 * row['value']:+.1f} [{low:+.1f}, {high:+.1f}] %")


if __name__ == "__main__":
    main(tyro.cli(Config))
