"""Does a policy care whether its object was written by hand or filmed?

    python experiments/reconstruction.py --cases tblock
    python experiments/train_on_reconstruction.py

The T-block task is trained with the same budget and seeds on the hand-written T, and on the T
that ``reconstruction.py`` made of pictures, with the same taped weight. All policies are then
judged on the hand-written T in ``reality-dev``, in the same trials. Policies of the hand-written
T are those of ``train_seeds.py``, where they are shipped.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from train_seeds import policy_is_done

from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate
from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.policy.train import default_train, train
from p2r_jax.sim.asset import load_asset, save_asset
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 2
TASK, PHASE = "push_tblock", "privileged"
WRITTEN, FILMED = "hand-written", "reconstructed"
MARK_POINTS = 5.0


@dataclass(frozen=True)
class Config:
    """What is compared.

    Attributes:
      asset: folder of the reconstructed T.
      out: JSON.
      work: trainings and trials; what is finished there is used again.
      shipped: of the hand-written T, policies by seed; what is not there is trained.
      steps: control steps of either training; by default those of the task.
      seeds: of the trainings.
      trials: per condition and seed.
      conditions: positions of the weight.
    """

    asset: Path = Path("runs/reconstruction/tblock/asset")
    out: Path = Path("experiments/results/train_on_reconstruction.json")
    work: Path = Path("runs/train_on_reconstruction")
    shipped: Path = Path("experiments/checkpoints/push_tblock")
    steps: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    conditions: tuple[str, ...] = ("top", "bottom", "bare")

    @property
    def budget(self) -> int:
        """Control steps of a training."""
        return self.steps or default_train(TASK, PHASE, self.work).ppo.total_steps


def filmed_task(config: Config) -> Task:
    """The T-block task on the reconstructed T, with the weight of the written one."""
    written, folder = load_task(TASK), config.work / "asset"
    found = load_asset(config.asset)
    shutil.rmtree(folder, ignore_errors=True)
    asset = replace(found, name="tblock", weight=written.object.weight, visual=None, texture=None)
    save_asset(asset, folder)
    return replace(written, asset=str(folder.resolve()))


def trained(task: Task, name: str, seed: int, config: Config) -> Path:
    """Folder of the checkpoints of one training; trained unless it is there."""
    run = default_train(TASK, PHASE, config.work / name / f"seed-{seed}" / PHASE)
    ppo = replace(run.ppo, total_steps=config.budget, seed=seed)
    run = replace(run, task=task, ppo=ppo, resume=(run.out / "state.msgpack").is_file())
    if not policy_is_done(run):
        train(replace(run, overwrite=not run.resume))
    checkpoints = config.work / name / f"seed-{seed}" / "checkpoints"
    shutil.copytree(run.out / "policy", checkpoints / PHASE, dirs_exist_ok=True)
    return checkpoints


def written_policy(seed: int, config: Config) -> Path:
    """Of the hand-written T: the shipped policy if it had the same budget, else a new one."""
    shipped = config.shipped / f"seed-{seed}"
    record = shipped / PHASE / "config.json"
    if record.is_file():
        ppo = json.loads(record.read_text())["ppo"]
        if (ppo["total_steps"], ppo["seed"]) == (config.budget, seed):
            return shipped
    return trained(load_task(TASK), WRITTEN, seed, config)


def judged(checkpoints: Path, out: Path, config: Config) -> dict[str, float]:
    """Success rate on the hand-written T, by condition."""
    rows = evaluate(
        EvaluateConfig(
            out=out,
            task=TASK,
            methods=(PHASE,),
            conditions=config.conditions,
            trials=config.trials,
            checkpoints=checkpoints,
            overwrite=True,
        )
    )["results"]
    return {row["condition"]: row["hardware"]["value"] for row in rows}


def main(config: Config) -> None:
    """Train, judge, write."""
    config.work.mkdir(parents=True, exist_ok=True)
    task, rates = filmed_task(config), {WRITTEN: [], FILMED: []}
    for seed in config.seeds:
        made = {
            WRITTEN: written_policy(seed, config),
            FILMED: trained(task, FILMED, seed, config),
        }
        for name, checkpoints in made.items():
            out = config.work / name / f"seed-{seed}" / "trials"
            rates[name].append(judged(checkpoints, out, config))
            print(f"seed {seed}, {name}: {rates[name][-1]}", flush=True)
    for rows in rates.values():
        for row in rows:
            row["all"] = sum(row[c] for c in config.conditions) / len(config.conditions)
    differences = {
        where: as_json(
            mean_over_seeds(
                [f[where] - w[where] for f, w in zip(rates[FILMED], rates[WRITTEN], strict=True)]
            )
        )
        for where in (*config.conditions, "all")
    }
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "train_on_reconstruction",
        "provenance": provenance(),
        "settings": as_record(config),
        "steps": config.budget,
        "success_by_seed": rates,
        "filmed_minus_written": differences,
        "mark_points": MARK_POINTS,
        "met": abs(100 * differences["all"]["value"]) <= MARK_POINTS,
    }
    write_json(config.out, record)
    for where, row in differences.items():
        print(f"{where:8} filmed - written: {100 * row['value']:+.1f} points, over seeds")


if __name__ == "__main__":
    main(tyro.cli(Config))
