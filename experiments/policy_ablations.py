"""What policies gain from noise on theta, a second component of it, another head, memory.

    python experiments/policy_ablations.py --out runs/policy-ablations

Every variant changes one thing of ``base`` and trains what it needs from scratch: privileged
policy (shared by variants that differ only in the noise of phase 1.5), noisy policy, estimator;
those that never see theta one policy, with the steps of both. Budgets are a share of the
committed ones (the sizes are in the JSON): these numbers compare variants, they are not the
best that can be had. Finished trainings and cells are kept, half-done ones go on where they
were. A process per training seed may share one ``--out``; the last one, over all seeds,
gathers what is there.

    taskset -c 0 python experiments/policy_ablations.py --out runs/policy-ablations --seeds 0 &
    taskset -c 1 python experiments/policy_ablations.py --out runs/policy-ablations --seeds 1
    wait
    python experiments/policy_ablations.py --out runs/policy-ablations --publish
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from cells import refuse_other_settings
from policy_variants import (
    BASE,
    DEV,
    ESTIMATOR,
    FUSED,
    VARIANTS,
    AblationConfig,
    load_variant,
    methods_of,
    policy_run,
    run_folder,
    train_variant,
)
from published import publish

from p2r_jax.evaluation.evaluate import TRAINING, make_world, run_cell
from p2r_jax.evaluation.methods import condition, method
from p2r_jax.evaluation.outcomes import as_json, judge
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import TrialRecord, World
from p2r_jax.files import as_record, provenance, read_record, write_json
from p2r_jax.prior.prior import load_prior, prior_off_by
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian

NAME = "policy_ablations"
SCHEMA = 1


@dataclass(frozen=True)
class Situation:
    """What the object weighs where, and what vision believes.

    Attributes:
      where: condition by name; its prior is used unless there is an offset.
      offset_m: mean of the prior minus the truth, along x.
      sigma_m: of a prior with an offset; other components of theta get the training prior.
    """

    where: str
    offset_m: float | None = None
    sigma_m: float = 0.01

    def prior(self, task: Task, truth: np.ndarray) -> Gaussian:
        """The belief about theta, Float[K]; ``truth`` Float[K]."""
        if self.offset_m is None:
            return load_prior(condition(self.where).prior, task).to_gaussian()
        return prior_off_by(task, truth, self.offset_m, self.sigma_m)


SITUATIONS = {
    "top": Situation("top"),
    "bottom": Situation("bottom"),
    "wrong": Situation("top", offset_m=-0.08),
}
TITLES = {
    "top": "weight at the top",
    "bottom": "weight at the bottom",
    "wrong": "top, prior 8 cm off, sigma 1 cm",
}
METRICS = ("hardware", "strict", "position_error_m", "theta_error_m")


CHOICES = ("variants", "seeds", "methods", "worlds")  # may differ between calls, kept in the record


def make_situation(config: AblationConfig, dynamics: str, task: Task, where: str) -> World:
    """A world with its trials at their start.

    The training dynamics move the centre of mass off the axis as they did in training.
    """
    mass = condition(where).mass_properties(task.object)
    if dynamics == TRAINING:
        trials = draw_trials(task, mass, config.trials, config.trial_seed)
        return TrainingWorld(task, trials, task.physics.off_axis_m)
    return make_world(DEV, task, draw_trials(task, mass, config.dev_trials, config.trial_seed))


def outcome(record: TrialRecord, task: Task) -> dict:
    """Numbers of one cell: rates at the end, errors in m; theta's is the RMSE along x."""
    judged = judge(record, task)
    miss = record.theta_used[..., 0] - record.theta_true[:, None, 0]
    return {
        "n": len(record.theta_true),
        "hardware": float(judged.hardware[:, -1].mean()),
        "strict": float(judged.strict[:, -1].mean()),
        "position_error_m": float(judged.position_error[:, -1].mean()),
        "theta_error_m": float(np.sqrt(np.mean(miss**2))),
    }


def judge_variant(
    config: AblationConfig, name: str, seed: int, done: dict[str, dict]
) -> Iterator[tuple[str, dict]]:
    """Key and outcome of the cells that are not in ``done``."""
    wanted = [
        (dynamics, situation, one)
        for dynamics in config.worlds
        for situation in SITUATIONS
        for one in methods_of(config, name)
        if cell_key(name, dynamics, situation, one) not in done
    ]
    if not wanted:
        return
    task, checkpoints = load_variant(config, name, seed)
    for dynamics, situation, one in wanted:
        world = make_situation(config, dynamics, task, SITUATIONS[situation].where)
        prior = SITUATIONS[situation].prior(task, world.theta[0])
        found = outcome(run_cell(one, world, checkpoints, task, prior), task)
        if method(one).given == "training-mean":
            found["theta_error_m"] = None  # a constant that its policy never looks at
        yield cell_key(name, dynamics, situation, one), found


def cell_key(*parts: str) -> str:
    """Name of a cell: variant, world, situation, method."""
    return "/".join(parts)


def seed_file(config: AblationConfig, seed: int) -> Path:
    """Cells of one training seed."""
    return config.out / f"cells-seed-{seed}.json"


def read_cells(config: AblationConfig, seed: int) -> dict[str, dict]:
    """Cells of one training seed so far, by ``cell_key``."""
    path = seed_file(config, seed)
    return read_record(path, SCHEMA, "")["cells"] if path.is_file() else {}


def check_settings(config: AblationConfig) -> dict:
    """The settings that all of ``out`` shares; written if there are none.

    Raises:
      ValueError: if the folder holds runs of other settings.
    """
    path = config.out / "settings.json"
    settings = {k: v for k, v in as_record(config).items() if k not in (*CHOICES, "out", "publish")}
    if not path.is_file():
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": SCHEMA} | settings)
    before = read_record(path, SCHEMA, "")
    refuse_other_settings(config.out, "runs", before, settings, fix="")
    return settings


def gather(config: AblationConfig) -> dict[str, dict]:
    """By variant, world, situation and method: each seed, mean, difference to ``base``.

    Only cells that all seeds have. What never sees theta is compared with ``base``, fused.
    """
    by_seed = [read_cells(config, seed) for seed in config.seeds]
    found: dict[str, dict] = {}
    for name in config.variants:
        for dynamics in config.worlds:
            for situation in SITUATIONS:
                for one in methods_of(config, name):
                    key = cell_key(name, dynamics, situation, one)
                    if not all(key in cells for cells in by_seed):
                        continue
                    against = one if VARIANTS[name].phase == "noisy" else FUSED
                    base = cell_key(BASE, dynamics, situation, against)
                    compared = name != BASE and all(base in cells for cells in by_seed)
                    row = {"n": by_seed[0][key]["n"]} | {
                        metric: over_seeds(
                            [cells[key][metric] for cells in by_seed],
                            [cells[base][metric] for cells in by_seed] if compared else None,
                        )
                        for metric in METRICS
                    }
                    places = found.setdefault(name, {}).setdefault(dynamics, {})
                    places.setdefault(situation, {})[one] = row
    return found


def over_seeds(values: Sequence[float | None], base: Sequence[float | None] | None) -> dict:
    """Each seed, their mean with Student's interval, the difference to ``base`` by seed."""
    row = {"per_seed": list(values), "mean": _mean(values)}
    if base is not None:
        gaps = [None if None in (a, b) else a - b for a, b in zip(values, base, strict=True)]
        row["minus_base"] = _mean(gaps)
    return row


def _mean(values: Sequence[float | None]) -> dict:
    return as_json(mean_over_seeds([x for x in values if x is not None]))


def sizes(config: AblationConfig) -> dict[str, dict]:
    """Control steps, or rounds, of every training of every variant, and what it changes."""
    found = {}
    for name in config.variants:
        variant = VARIANTS[name]
        steps = {
            phase: policy_run(config, name, config.seeds[0], phase).ppo.total_steps
            for phase in variant.phases
            if phase != ESTIMATOR
        }
        found[name] = {
            "changes": as_record(variant),
            "steps": steps,
            "shares_privileged": variant.shares_privileged and "privileged" in steps,
        }
    return found


def revisions(config: AblationConfig) -> dict[str, str]:
    """Git revision that trained each policy, by variant and seed, as far as it is there."""
    found = {}
    for name in config.variants:
        for seed in config.seeds:
            path = run_folder(config, name, seed, VARIANTS[name].phase) / "policy" / "policy.json"
            if path.is_file():
                found[f"{name}/seed-{seed}"] = json.loads(path.read_text())["git"]
    return found


def draw(variants: dict[str, dict], dynamics: str, path: Path) -> None:
    """Success by variant: a column per situation, a colour per method, a dot per seed."""
    names = [name for name in variants if dynamics in variants[name]]
    shown = list(dict.fromkeys(m for n in names for m in variants[n][dynamics]["top"]))
    colour = {one: f"C{index}" for index, one in enumerate(shown)}
    height = 1.3 + 0.42 * len(names)
    figure, axes = plt.subplots(1, len(SITUATIONS), figsize=(12, height), sharey=True)
    for axis, situation in zip(axes, SITUATIONS, strict=True):
        for row, name in enumerate(names):
            cells = variants[name][dynamics][situation]
            for index, (one, cell) in enumerate(cells.items()):
                at = row + 0.14 * (index - (len(cells) - 1) / 2)
                rates = 100 * np.array(cell["hardware"]["per_seed"])
                axis.plot(rates, np.full(len(rates), at), "o-", ms=3, lw=1, color=colour[one])
                axis.plot(rates.mean(), at, "|", ms=8, mew=2, color=colour[one])
        axis.set(title=TITLES[situation], xlabel="success at the end, %", xlim=(-3, 103),
                 yticks=range(len(names)), yticklabels=names)  # fmt: skip
        axis.grid(axis="x", color="0.9", lw=0.6)
        axis.set_axisbelow(True)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / height))
    marks = [plt.Line2D([], [], color=colour[one], marker="o", ms=3, label=one) for one in shown]
    figure.legend(handles=marks, loc="upper center", ncols=len(shown), frameon=False, fontsize=8,
                  title=f"{dynamics} dynamics; dots: training seeds, bars: their mean")  # fmt: skip
    figure.savefig(path, dpi=150)
    plt.close(figure)


def print_table(variants: dict[str, dict]) -> None:
    """Mean success over seeds by variant, world, situation and method."""
    for name, worlds in variants.items():
        for dynamics, situations in worlds.items():
            for situation, cells in situations.items():
                rates = "  ".join(
                    f"{one} {100 * cell['hardware']['mean']['value']:.1f}"
                    for one, cell in cells.items()
                )
                print(f"{name:14} {dynamics:12} {situation:8} {rates}")


def main(config: AblationConfig) -> None:
    """Train and judge what is missing; gather, draw and print what all seeds have."""
    settings = check_settings(config)
    for name in config.variants:
        for seed in config.seeds:
            train_variant(config, name, seed)
            cells = read_cells(config, seed)
            for key, found in judge_variant(config, name, seed, cells):
                cells[key] = found
                write_json(seed_file(config, seed), {"schema": SCHEMA, "cells": cells})
                print(f"seed {seed} {key}: {100 * found['hardware']:.1f} %", flush=True)
    variants = gather(config)
    record = {
        "schema": SCHEMA, "settings": settings | {k: getattr(config, k) for k in CHOICES},
        "sizes": sizes(config), "revisions": revisions(config), "variants": variants,
        "provenance": provenance(),
    }  # fmt: skip
    write_json(config.out / f"{NAME}.json", record)
    pictures = {d: f"{NAME}{'' if d == TRAINING else f'_{d}'}.png" for d in config.worlds}
    for dynamics, picture in pictures.items():
        draw(variants, dynamics, config.out / picture)
    print_table(variants)
    if config.publish:
        for name in (f"{NAME}.json", *pictures.values()):
            publish(config.out / name)


if __name__ == "__main__":
    main(tyro.cli(AblationConfig))
