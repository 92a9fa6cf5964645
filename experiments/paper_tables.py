"""Tables I and II of the paper, and the weight in the middle, over training seeds.

Also its Fig. 5 (share of trials by final error) and Fig. 6 (an episode, and theta through it).

    python experiments/paper_tables.py --out runs/tables --seeds 0 1 2 3 4
    python experiments/paper_tables.py --out runs/tables-plus --task push_tblock_plus \\
        --methods privileged fused belief rma-only dr

Every method of a seed meets the same trials in ``reality-test``. Finished conditions of a
seed are kept, so a killed run goes on where it was. The checkpoints are those
that ``train_seeds.py`` made and ``ship_checkpoints.py`` put into ``experiments/checkpoints``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from published import publish

from p2r_jax.evaluation.demo import DemoConfig, draw_figures
from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.evaluation.methods import condition_title
from p2r_jax.evaluation.outcomes import judge
from p2r_jax.evaluation.seeds import SCHEMA_VERSION, each_and_mean, merge
from p2r_jax.files import provenance, write_json
from p2r_jax.tasks import load_task

HERE = Path(__file__).parent
JUDGE = "reality-test"
PAPER = {  # success in percent, mean final position error in cm, seconds; Tables I and II
    "top": {
        "fused": (57.14, 2.60, 39.58),
        "vlm-only": (4.76, 10.10, 40.80),
        "privileged": (90.48, 1.90, 43.43),
        "rma-only": (14.29, 7.60, 37.23),
        "dr": (23.81, 6.00, 37.00),
    },
    "bottom": {
        "fused": (100.0, 1.76, 44.28),
        "vlm-only": (91.67, 1.90, 38.27),
        "privileged": (95.83, 1.92, 37.80),
        "rma-only": (79.17, 2.23, 45.22),
        "dr": (79.17, 7.14, 37.50),
    },
    "hammer": {"fused": (100.0, 1.74, 77.79), "dr": (100.0, 1.55, 90.65)},  # Table III
}


@dataclass(frozen=True)
class TablesConfig:
    """How much of it.

    Attributes:
      out: folder of the run; a folder per training seed and condition.
      task: registered task.
      seeds: training seeds.
      conditions, methods: by name.
      trials: per cell.
      full: a thousand trials per cell.
      dynamics: a reality by name, or ``training``.
      checkpoints: holds ``TASK/seed-N``.
      publish: copy the JSON and the plot to ``experiments/results``.
    """

    out: Path
    task: str = "push_tblock"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    conditions: tuple[str, ...] = ("top", "bottom", "middle")
    methods: tuple[str, ...] = ("privileged", "fused", "vlm-only", "rma-only", "dr")
    trials: int = 200
    full: bool = False
    dynamics: str = JUDGE
    checkpoints: Path = HERE / "checkpoints"
    publish: bool = True


def of_seed(config: TablesConfig, seed: int) -> dict:
    """What ``evaluate`` found for one training seed in all conditions."""
    found = [of_condition(config, seed, name) for name in config.conditions]
    return found[0] | {
        "conditions": {k: v for one in found for k, v in one["conditions"].items()},
        "results": [row for one in found for row in one["results"]],
    }


def of_condition(config: TablesConfig, seed: int, name: str) -> dict:
    """What ``evaluate`` found for one training seed in one condition; run unless it is there."""
    out = folder(config, seed, name)
    path = out / "results.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found["complete"]:
            return found
    print(f"== training seed {seed}, {name}", flush=True)
    return evaluate(
        EvaluateConfig(
            out=out,
            task=config.task,
            dynamics=config.dynamics,
            methods=config.methods,
            conditions=(name,),
            trials=1000 if config.full else config.trials,
            checkpoints=config.checkpoints / config.task / f"seed-{seed}",
            overwrite=True,
        )
    )


def folder(config: TablesConfig, seed: int, name: str) -> Path:
    """Where the evaluation of a training seed in a condition lies."""
    return config.out / f"seed-{seed}" / name


def time_ratios(results: list[dict]) -> list[dict]:
    """Median time to first success of fused over dr, by condition: each seed, mean, interval.

    As in the paper's Table III; a seed in which one of them never succeeds has no ratio.
    """
    rows = []
    for where in results[0]["conditions"]:
        ratios = []
        for one in results:
            times = {
                row["method"]: row["first_success_s"]["value"]
                for row in one["results"]
                if row["condition"] == where
            }
            if times.get("fused") and times.get("dr"):
                ratios.append(times["fused"] / times["dr"])
        published = PAPER.get(where, {})
        paper = published["fused"][2] / published["dr"][2] if published else None
        rows.append({"condition": where, "paper": paper} | each_and_mean(ratios))
    return rows


def cdf_plot(config: TablesConfig, path: Path) -> None:
    """Share of trials that ended within a distance of the goal, as in the paper's Fig. 5."""
    task = load_task(config.task)
    figure, axes = plt.subplots(
        1, len(config.conditions), figsize=(4 * len(config.conditions), 3.2), squeeze=False
    )
    for axis, condition in zip(axes[0], config.conditions, strict=True):
        records = [load_records(folder(config, seed, condition)) for seed in config.seeds]
        for method in config.methods:
            errors = [judge(r[condition, method], task).position_error[:, -1] for r in records]
            errors = 100 * np.sort(np.concatenate(errors))
            axis.step(errors, np.arange(1, errors.size + 1) / errors.size, label=method)
        axis.axvline(100 * task.success.position_m, color="0.7", lw=1)
        axis.set(xlim=(0, 8), ylim=(0, 1.02), title=condition_title(condition),
                 xlabel="final position error, cm", ylabel="share of trials")  # fmt: skip
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def one_episode(config: TablesConfig) -> Path:
    """Folder of ``episode.png`` and ``theta_CONDITION.png``: trial 0 of the first seed, fused."""
    seed, out = config.seeds[0], config.out / "pictures"
    records = {}
    for name in config.conditions:
        records |= load_records(folder(config, seed, name))
    shown = DemoConfig(
        out=out,
        task=config.task,
        dynamics=config.dynamics,
        conditions=config.conditions,
        trials=config.trials,
        video_condition=config.conditions[0],
    )
    out.mkdir(exist_ok=True)
    draw_figures(shown, load_task(config.task), records)
    return out


def main(config: TablesConfig) -> None:
    """Evaluate what is missing, merge, plot, publish."""
    results = [of_seed(config, seed) for seed in config.seeds]
    record = {
        "schema": SCHEMA_VERSION, "task": config.task, "dynamics": results[0]["dynamics"],
        "training_seeds": config.seeds, "trial_seed": results[0]["seed"],
        "conditions": results[0]["conditions"], "reference": results[0]["reference"],
        "checkpoints": [r["checkpoints"] for r in results], "paper": PAPER,
        "rows": merge(results), "time_fused_over_dr": time_ratios(results),
        "provenance": provenance(),
    }  # fmt: skip
    name = f"tables_{config.task}" + ("" if config.dynamics == JUDGE else f"_{config.dynamics}")
    write_json(config.out / f"{name}.json", record)
    cdf_plot(config, config.out / f"{name}.png")
    for row in record["rows"]:
        mean = row["hardware"]["mean"]
        rates = " ".join(f"{100 * rate:.0f}" for rate in row["hardware"]["per_seed"])
        print(f"{row['condition']:8} {row['method']:17} {100 * mean['value']:5.1f} %  [{rates}]")
    pictures = one_episode(config)
    if config.publish:
        shown = {f"{name}.{suffix}": config.out / f"{name}.{suffix}" for suffix in ("json", "png")}
        if config.dynamics == JUDGE:
            for picture in ("episode", f"theta_{config.conditions[0]}"):
                shown[f"{picture}_{config.task}.png"] = pictures / f"{picture}.png"
        for name, source in shown.items():
            publish(source, name)


if __name__ == "__main__":
    main(tyro.cli(TablesConfig))
