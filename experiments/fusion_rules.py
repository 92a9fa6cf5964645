"""Which fusion rule to trust: right, wrong and absent priors against every rule.

    python experiments/fusion_rules.py --out runs/fusion-rules
    python experiments/fusion_rules.py --out runs/fusion-rules-dev --dynamics reality-dev \\
        --trials 64

In the training dynamics, where five hundred trials take seconds; ``reality-test`` is refused,
for a rule is chosen here: the one whose largest regret is smallest. Regret in a case is the
success of the same policy with the true theta minus that of the rule, mean over training
seeds. Finished cells are kept, so a killed run goes on where it was.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from cells import Cells, CellsConfig
from jaxtyping import Float
from matplotlib.axes import Axes
from published import publish

from p2r_jax.evaluation.evaluate import TRAINING, describe_world, make_world
from p2r_jax.evaluation.evaluate import run_cell as evaluate_cell
from p2r_jax.evaluation.methods import Checkpoints, condition, make_bundle
from p2r_jax.evaluation.outcomes import as_json, summarize
from p2r_jax.evaluation.seeds import each_and_mean, mean_over_seeds
from p2r_jax.evaluation.trials import World, run_trials
from p2r_jax.fusion import FusionRule
from p2r_jax.prior.prior import load_prior, prior_off_by
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import Gaussian

LOOPS = {  # method whose rule is varied; its policy told the truth, the estimate, the prior
    "fused": ("privileged-noisy", "rma-only", "vlm-only"),
    "belief": ("belief-truth", "belief-estimate", "belief-prior"),
}
DOUBTS = (0.1, 0.3, 0.5)
CANDIDATES = {
    "paper": FusionRule(),
    "evidence": FusionRule(evidence=True),
    **{f"doubt {share:g}": FusionRule(doubt=share) for share in DOUBTS},
    "remember": FusionRule(remember=True),
    **{f"remember, doubt {share:g}": FusionRule(remember=True, doubt=share) for share in DOUBTS},
}
SURE = 0.01  # m, sigma of a prior that is off
NONE, PAPER = "none", "paper"
CASES: dict[str, tuple[str, float | str]] = {  # condition; offset of the prior's mean in cm
    f"{where}, {f'{off:+d} cm' if isinstance(off, int) else off}": (where, off)
    for where, offsets in (("top", (-8, -4, -2, 0)), ("bottom", (8, 4, 2, 0)))
    for off in (*offsets, NONE, PAPER)
}


@dataclass(frozen=True)
class RulesConfig(CellsConfig):
    """How much of it; see also ``CellsConfig``.

    Attributes:
      method: whose rule is varied: ``fused``, or ``belief``, whose policy hears sigma, too.
      dynamics: ``training`` or ``reality-dev``.
      cases: by name.
      trials: per cell.
      seed: of the trials; not the published tables'.
    """

    method: Literal["fused", "belief"] = "fused"
    dynamics: str = TRAINING
    cases: tuple[str, ...] = tuple(CASES)
    trials: int = 500
    seed: int = 1

    def __post_init__(self):
        if self.dynamics not in (TRAINING, "reality-dev"):
            raise ValueError(f"a rule is chosen here: not in {self.dynamics}, which judges it")
        check_cases(self.cases)

    @property
    def without_rule(self) -> tuple[str, ...]:
        """Methods beside the rules; the first is the ceiling, the second interaction alone."""
        return (*LOOPS[self.method], "dr")


def belief(case: str, task: Task, truth: np.ndarray) -> Gaussian:
    """Vision's belief in a case: Float[K] each."""
    where, offset = CASES[case]
    if offset == PAPER:
        return load_prior(condition(where).prior, task).to_gaussian()
    if offset == NONE:
        return Gaussian(jnp.array(task.theta_mean), jnp.full(len(task.theta), jnp.inf))
    return prior_off_by(task, truth, offset / 100, SURE)


def situation(
    case: str, task: Task, dynamics: str, trials: int, seed: int
) -> tuple[World, Gaussian]:
    """The world of a case with its trials at their start, and vision's belief in it."""
    masses = condition(CASES[case][0]).mass_properties(task.object)
    world = make_world(dynamics, task, draw_trials(task, masses, trials, seed))
    return world, belief(case, task, world.theta[0])


def check_cases(names: Sequence[str]) -> None:
    """Raise ValueError, naming those that exist, for an unknown case."""
    if unknown := [name for name in names if name not in CASES]:
        raise ValueError(f"no case {unknown[0]!r} (cases: {'; '.join(CASES)})")


def judge_case(
    name: str,
    case: str,
    task: Task,
    checkpoints: Checkpoints,
    dynamics: str,
    trials: int,
    seed: int,
) -> dict:
    """Outcome of a method, with its own rule, in a case."""
    world, prior = situation(case, task, dynamics, trials, seed)
    return summarize(evaluate_cell(name, world, checkpoints, task, prior), task)


def run_cell(
    config: RulesConfig, task: Task, checkpoints: Checkpoints, case: str, name: str
) -> dict:
    """Outcome of a rule, or of a method without one, in a case."""
    world, prior = situation(case, task, config.dynamics, config.trials, config.seed)
    method = config.method if name in CANDIDATES else name
    bundle = make_bundle(method, checkpoints, task, prior, world.theta)
    if name in CANDIDATES:
        bundle = bundle.replace(rule=CANDIDATES[name])
    found = summarize(run_trials(world, bundle, task.episode_length), task)
    return {
        "hardware": found["hardware"]["value"],
        "strict": found["strict"]["value"],
        "theta_rmse_m": found["theta_rmse_m"]["used"],
    }


def over_seeds(cells: list[dict], ceiling: str, alone: str) -> dict[str, dict[str, dict]]:
    """By case and name: success of every seed, its mean, differences paired by seed.

    Args:
      cells: of all cases, names and seeds.
      ceiling: the policy told the truth.
      alone: the policy told the estimate from interaction.
    """
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for cell in cells:
        rates.setdefault((cell["case"], cell["name"]), {})[cell["seed"]] = cell["hardware"]

    def minus(a: dict[int, float], b: dict[int, float] | None) -> dict | None:
        shared = sorted(set(a) & set(b or {}))
        return as_json(mean_over_seeds([a[s] - b[s] for s in shared])) if shared else None

    table: dict[str, dict[str, dict]] = {}
    for (case, name), own in rates.items():
        table.setdefault(case, {})[name] = each_and_mean([own[s] for s in sorted(own)]) | {
            "minus_truth": minus(own, rates.get((case, ceiling))),
            "minus_interaction_alone": minus(own, rates.get((case, alone))),
        }
    return table


def choose(table: dict[str, dict[str, dict]]) -> dict[str, dict[str, float]]:
    """Largest and mean regret of every rule that met all cases, the best first."""
    found = {}
    for name in CANDIDATES:
        if all(name in row and row[name]["minus_truth"] for row in table.values()):
            regret = [-row[name]["minus_truth"]["value"] for row in table.values()]
            found[name] = {"largest": max(regret), "mean": float(np.mean(regret))}
    return dict(sorted(found.items(), key=lambda item: (item[1]["largest"], item[1]["mean"])))


def colour(axis: Axes, rates: Float[np.ndarray, "r c"], fontsize: int) -> None:
    """Rates in percent as a table in colour."""
    axis.imshow(rates, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    for (row, column), rate in np.ndenumerate(rates):
        axis.text(column, row, f"{rate:.0f}", ha="center", va="center", fontsize=fontsize)


def draw(table: dict[str, dict[str, dict]], path: Path) -> None:
    """Success by case (columns) and rule or method (rows), as a table in colour."""
    cases = list(table)
    names = list(table[cases[0]])
    others = len([name for name in names if name not in CANDIDATES])
    rates = np.array([[100 * table[c][n]["mean"]["value"] for c in cases] for n in names])
    figure, axis = plt.subplots(figsize=(2 + 0.72 * len(cases), 1.6 + 0.3 * len(names)))
    colour(axis, rates, fontsize=8)
    axis.axhline(others - 0.5, color="k", lw=1)
    axis.set(xticks=range(len(cases)), yticks=range(len(names)), yticklabels=names)
    axis.set_xticklabels(cases, rotation=35, ha="right", fontsize=8)
    axis.set_title("success at the end, %; by weight and error of the prior", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(config: RulesConfig) -> None:
    """Run what is missing, choose, draw."""
    path = config.out / "fusion_rules.json"
    task = load_task(config.task)
    settings = {"schema": 2, "task": task.name, "method": config.method, "trials": config.trials,
                "trial_seed": config.seed, "sigma_m": SURE,
                "dynamics": describe_world(config.dynamics, task)}  # fmt: skip
    cells = Cells(path, settings, ("seed", "case", "name"), config.overwrite)
    for seed in config.seeds:
        checkpoints = config.load(seed, task, (*config.without_rule, config.method))
        for case, name in itertools.product(config.cases, (*config.without_rule, *CANDIDATES)):
            if (seed, case, name) in cells:
                continue
            found = run_cell(config, task, checkpoints, case, name)
            cells.add({"seed": seed, "case": case, "name": name, **found})
            print(
                f"seed {seed} | {case:14} | {name:22} {100 * found['hardware']:5.1f} %", flush=True
            )
    ceiling, alone, *_ = config.without_rule
    chosen = [c for c in cells.found if c["seed"] in config.seeds and c["case"] in config.cases]
    table = over_seeds(chosen, ceiling, alone)
    record = cells.write(seeds=config.seeds, table=table, regret=choose(table))
    draw(table, config.out / "fusion_rules.png")
    for name, regret in record["regret"].items():
        print(f"{name:22} regret: largest {100 * regret['largest']:5.1f} points, "
              f"mean {100 * regret['mean']:4.1f}")  # fmt: skip
    if config.publish:
        kind = f"_{config.method}" + ("" if config.dynamics == TRAINING else "_dev")
        for suffix in ("json", "png"):
            publish(config.out / f"fusion_rules.{suffix}", f"fusion_rules{kind}.{suffix}")


if __name__ == "__main__":
    main(tyro.cli(RulesConfig))
