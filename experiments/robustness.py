"""What the paper did not test: wrong priors, unfamiliar objects, bad sensing.

    python experiments/robustness.py --out runs/robustness --seeds 0 1 2

One thing at a time is made worse, weight at the top. What a prior says and where the weight
lies are tried in the training dynamics, where hundreds of trials take seconds; friction, mass
and sensing in ``reality-dev``, which has them. One figure with a panel per thing; finished
cells are kept, so a killed run goes on where it was.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro
from cells import Cells, CellsConfig
from published import publish

from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import condition
from p2r_jax.evaluation.outcomes import summarize
from p2r_jax.evaluation.seeds import each_and_mean
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import World
from p2r_jax.prior.prior import load_prior, prior_off_by
from p2r_jax.sim.reality import REALITY_DEV, Reality, RealityConfig
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import Gaussian, Measurement, PlanarPose, tree_where

LOST_EVERY = 15  # steps


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
      world: where it happens; None is the training dynamics.
      weight_x_m: of the object.
      friction: range of the coefficient; None is the task's.
      mass_scale: factor on mass and inertia.
      prior_offset_m: prior's mean minus the truth; None is the paper's prior.
      prior_sigma_m: of a prior with an offset.
      lost_steps: the tracker loses the object now and then, for so many steps.
    """

    world: RealityConfig | None = REALITY_DEV
    weight_x_m: float = field(default_factory=lambda: condition("top").weight_x_m)
    friction: tuple[float, float] | None = None
    mass_scale: float = 1.0
    prior_offset_m: float | None = None
    prior_sigma_m: float = 0.01
    lost_steps: int = 0


@dataclass(frozen=True)
class Sweep:
    """One thing that gets worse: its unit, its levels, and what a level means."""

    unit: str
    levels: tuple[float, ...]
    case: Callable[[float], Case]


def _told(offset_m: float, sigma_m: float = 0.01) -> Case:
    return Case(None, prior_offset_m=offset_m, prior_sigma_m=sigma_m)


def _world(**changes) -> Case:
    return Case(replace(REALITY_DEV, **changes))


SWEEPS = {
    "prior off, sigma 1 cm": Sweep("cm", (-8, -6, -4, -2, 0, 2), lambda x: _told(x / 100)),
    "prior at the truth, sigma": Sweep("cm", (0.5, 2, 8, np.inf), lambda x: _told(0.0, x / 100)),
    "weight": Sweep("cm", (-19, -16, -13, 13, 15, 16), lambda x: Case(None, weight_x_m=x / 100)),
    "friction": Sweep("", (0.08, 0.25, 0.8), lambda x: Case(friction=(x, x))),
    "mass": Sweep("x", (0.5, 1, 4), lambda x: Case(mass_scale=x)),
    "latency": Sweep("ms", (0, 100, 200, 300), lambda x: _world(latency_s=x / 1000, settle_s=0.5)),
    "tracking lost": Sweep("steps", (0, 1, 3, 5), lambda x: Case(lost_steps=int(x))),
    "pose noise": Sweep("mm", (0, 2, 5, 10), lambda x: _world(position_noise_m=x / 1000)),
}


@dataclass(frozen=True)
class RobustnessConfig(CellsConfig):
    """How much of it; see also ``CellsConfig``.

    Attributes:
      methods: by name.
      sweeps: by name.
      trials: per cell in ``reality-dev``.
      training_trials: per cell in the training dynamics.
      seed: of the trials; not the published tables'.
    """

    methods: tuple[str, ...] = (
        "privileged", "fused", "belief", "rma-only", "dr"
    )  # fmt: skip
    sweeps: tuple[str, ...] = tuple(SWEEPS)
    trials: int = 16
    training_trials: int = 300
    seed: int = 1


class LostTracking:
    """A world whose tracker repeats an old pose while it has lost the object.

    It loses it with a chance of 1 in ``LOST_EVERY`` at a step that sees it, in each trial on
    its own, and finds it again after ``steps``.
    """

    def __init__(self, world: Reality, steps: int, seed: int):
        """Put the loss between ``world`` and whoever measures."""
        self.world, self.steps, self.theta = world, steps, world.theta
        self.act, self.truth = world.act, world.truth
        self._rng = np.random.default_rng([seed, steps])
        self._left = np.zeros(len(world.theta), int)
        self._pose: PlanarPose | None = None

    def measure(self) -> Measurement:
        """As the world's, with the pose of the last step at which the object was seen."""
        seen = self.world.measure()
        starts = (self._left == 0) & (self._rng.random(self._left.size) < 1 / LOST_EVERY)
        if self._pose is not None:
            self._left[starts] = self.steps
            pose = tree_where(self._left > 0, self._pose, seen.object_pose)
            seen = seen._replace(object_pose=pose)
        self._left = np.maximum(self._left - 1, 0)
        self._pose = seen.object_pose
        return seen


def run_case(case: Case, task: Task, name: str, checkpoints, config: RobustnessConfig) -> dict:
    """Outcome of one method in one situation."""
    mass, com, inertia = task.object.with_weight(case.weight_x_m)
    masses = (case.mass_scale * mass, com, case.mass_scale * inertia)
    if case.friction is not None:
        task = replace(task, trial_friction=case.friction)
    count = config.training_trials if case.world is None else config.trials
    trials = draw_trials(task, masses, count, config.seed)
    world: World = (
        TrainingWorld(task, trials) if case.world is None else Reality(case.world, task, trials)
    )
    if case.lost_steps:
        world = LostTracking(world, case.lost_steps, config.seed)
    record = run_cell(name, world, checkpoints, task, belief(case, task, world.theta[0]))
    return summarize(record, task)


def belief(case: Case, task: Task, truth: np.ndarray) -> Gaussian:
    """Vision's belief in this situation."""
    if case.prior_offset_m is None:
        return load_prior(condition("top").prior, task).to_gaussian()
    return prior_off_by(task, truth, case.prior_offset_m, case.prior_sigma_m)


def over_seeds(cells: list[dict]) -> dict[str, dict[str, dict[str, dict]]]:
    """Success by sweep, level and method: of every seed, and its mean with an interval."""
    rates: dict[tuple[str, str, str], list[float]] = {}
    for cell in sorted(cells, key=lambda c: c["seed"]):
        at = cell["sweep"], cell["level"], cell["method"]
        rates.setdefault(at, []).append(cell["hardware"]["value"])
    table: dict[str, dict[str, dict[str, dict]]] = {}
    for (sweep, level, method), own in rates.items():
        row = table.setdefault(sweep, {}).setdefault(level, {})
        row[method] = each_and_mean(own)
    return table


def draw(table: dict, methods: tuple[str, ...], path: Path) -> None:
    """One panel per sweep: mean success over seeds against the level, every seed as a dot."""
    names = [name for name in SWEEPS if name in table]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, sweep in zip(axes.flat, names, strict=False):
        levels = SWEEPS[sweep].levels
        for index, method in enumerate(methods):
            own = {i: table[sweep][str(level)][method]["per_seed"]
                   for i, level in enumerate(levels)
                   if method in table[sweep].get(str(level), {})}  # fmt: skip
            at = np.array(list(own)) + 0.06 * (index - (len(methods) - 1) / 2)
            axis.plot(at, [100 * np.mean(x) for x in own.values()], color=f"C{index}", lw=1.3,
                      marker="o", ms=3.5, label=method)  # fmt: skip
            for x, rates in zip(at, own.values(), strict=True):
                axis.plot([x] * len(rates), [100 * r for r in rates], ".", ms=3, alpha=0.5,
                          color=f"C{index}")  # fmt: skip
        where = (
            "training dynamics" if SWEEPS[sweep].case(levels[0]).world is None else "reality-dev"
        )
        unit = f", {SWEEPS[sweep].unit}" if SWEEPS[sweep].unit else ""
        axis.set(title=f"{sweep}{unit}", xlabel=f"({where})", ylim=(-3, 103),
                 xticks=range(len(levels)), xticklabels=[f"{x:g}" for x in levels])  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("success at the end, %")
    axes.flat[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(config: RobustnessConfig) -> None:
    """Run what is missing, one cell after the other; draw at the end."""
    task = load_task(config.task)
    settings = {
        "schema": 3, "task": config.task, "trials": config.trials,
        "training_trials": config.training_trials, "trial_seed": config.seed,
        "world": REALITY_DEV.name, "version": REALITY_DEV.version,
    }  # fmt: skip
    keys = ("seed", "sweep", "level", "method")
    cells = Cells(config.out / "robustness.json", settings, keys, config.overwrite)
    loaded = {seed: config.load(seed, task, config.methods) for seed in config.seeds}
    for sweep in config.sweeps:
        for level, seed, name in itertools.product(
            SWEEPS[sweep].levels, config.seeds, config.methods
        ):
            if (seed, sweep, str(level), name) in cells:
                continue
            found = run_case(SWEEPS[sweep].case(level), task, name, loaded[seed], config)
            cells.add({"seed": seed, "sweep": sweep, "level": str(level), "method": name} | found)
            rate = 100 * found["hardware"]["value"]
            print(f"seed {seed} | {sweep:26} {level:6g} | {name:12} {rate:4.0f} %", flush=True)
    chosen = [
        cell for cell in cells.found
        if cell["seed"] in config.seeds and cell["method"] in config.methods
    ]  # fmt: skip
    table = over_seeds(chosen)
    record = cells.write(seeds=config.seeds, methods=config.methods, table=table)
    draw(table, config.methods, config.out / "robustness.png")
    if config.publish:
        publish(record, f"robustness_{config.task}.json")
        publish(config.out / "robustness.png", f"robustness_{config.task}.png")


if __name__ == "__main__":
    main(tyro.cli(RobustnessConfig))
