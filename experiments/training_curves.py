"""Success against training steps: privileged, its noisy continuation, belief, and dr.

    python experiments/training_curves.py --tasks push_tblock push_tblock_plus

Reads the ``metrics.csv`` that were shipped with the policies and trains nothing. Success is
strict (3 cm, 10 degrees), at the end of 512 deterministic episodes in the training dynamics,
with theta as the phase sees it in training; ``noisy`` goes on where ``privileged`` ended.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro

from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.files import provenance, write_json

HERE = Path(__file__).parent
PHASES = ("privileged", "noisy", "dr", "belief", "dr-history", "dr-recurrent")
AFTER = {"noisy": "privileged"}  # what a phase continues
Curve = tuple[np.ndarray, np.ndarray]  # control steps, success


@dataclass(frozen=True)
class CurvesConfig:
    """What to draw.

    Attributes:
      tasks: registered tasks, a panel each.
      checkpoints: holds ``TASK/seed-N/PHASE/metrics.csv``.
      out: folder for ``training_curves.json`` and ``.png``.
    """

    tasks: tuple[str, ...] = ("push_tblock", "push_tblock_plus")
    checkpoints: Path = HERE / "checkpoints"
    out: Path = HERE / "results"


def read_curve(path: Path) -> Curve:
    """Steps and strict success of one training run."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/success"]]
    columns = ((float(row["step"]), float(row["eval/success"])) for row in rows)
    steps, success = (np.array(column) for column in zip(*columns, strict=True))
    return steps, success


def curves_of(folder: Path) -> dict[str, list[Curve]]:
    """By phase, one curve per training seed; ``noisy`` begins where ``privileged`` ended."""
    found: dict[str, list[Curve]] = {}
    for seed in sorted(folder.glob("seed-*")):
        own = {p: read_curve(path) for p in PHASES if (path := seed / p / "metrics.csv").is_file()}
        for phase, (steps, success) in own.items():
            before = own[AFTER[phase]][0][-1] if phase in AFTER else 0.0
            found.setdefault(phase, []).append((before + steps, success))
    return found


def at(curve: Curve, steps: float) -> float:
    """Success of the last checkpoint up to ``steps``."""
    return float(curve[1][np.searchsorted(curve[0], steps, side="right") - 1])


def summarize(curves: dict[str, list[Curve]]) -> dict:
    """Final success of every phase, and dr minus the others at their steps, over seeds."""
    last = {phase: [float(c[1][-1]) for c in own] for phase, own in curves.items()}
    summary: dict = {
        phase: {"steps": float(own[0][0][-1]), "per_seed": last[phase],
                "mean": as_json(mean_over_seeds(last[phase]))}
        for phase, own in curves.items()
    }  # fmt: skip
    for phase in (p for p in ("privileged", "noisy") if p in curves and "dr" in curves):
        pairs = zip(curves.get("dr", []), curves.get(phase, []), strict=False)
        gaps = [at(dr, other[0][-1]) - float(other[1][-1]) for dr, other in pairs]
        summary[phase]["dr_at_its_steps_minus_it"] = as_json(mean_over_seeds(gaps))
    return summary


def draw(curves: dict[str, dict[str, list[Curve]]], path: Path) -> None:
    """A panel per task; thin lines are seeds, thick ones their mean."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.6 * len(curves), 3.3), squeeze=False, sharey=True
    )
    for axis, (task, own) in zip(axes[0], curves.items(), strict=True):
        for index, phase in enumerate(PHASES):
            for steps, success in own.get(phase, []):
                axis.plot(steps / 1e6, 100 * success, color=f"C{index}", lw=0.6, alpha=0.6)
            if phase in own:
                rows = min(success.size for _, success in own[phase])
                mean = np.mean([success[:rows] for _, success in own[phase]], axis=0)
                axis.plot(own[phase][0][0][:rows] / 1e6, 100 * mean, color=f"C{index}", lw=2,
                          label=phase)  # fmt: skip
        axis.set(title=task, xlabel="control steps, millions", ylim=(0, 101))
        axis.grid(color="0.9", lw=0.6)
    axes[0, 0].set_ylabel("strict success in training dynamics, %")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(config: CurvesConfig) -> None:
    """Read, summarise, draw."""
    curves = {task: curves_of(config.checkpoints / task) for task in config.tasks}
    record = {
        "schema": 1,
        "tasks": {task: summarize(own) for task, own in curves.items()},
        "provenance": provenance(),
    }
    write_json(config.out / "training_curves.json", record)
    draw(curves, config.out / "training_curves.png")
    for task, phases in record["tasks"].items():
        for phase, own in phases.items():
            rates = " ".join(f"{100 * rate:.1f}" for rate in own["per_seed"])
            print(f"{task:17} {phase:12} {own['steps'] / 1e6:5.1f} M steps  [{rates}] %")


if __name__ == "__main__":
    main(tyro.cli(CurvesConfig))
