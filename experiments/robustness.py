"""What the paper did not test: wrong priors, unfamiliar objects, bad sensing.

    python experiments/robustness.py --out runs/robustness

``reality-dev`` with one thing at a time made worse, weight at the top. One figure with a
panel per thing; finished cells are kept, so a killed run goes on where it was.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro

from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import condition, load_checkpoints
from p2r_jax.evaluation.outcomes import summarize
from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.reality import REALITY_DEV, Reality, RealityConfig
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import Gaussian, Measurement, PlanarPose, tree_where

RESULTS = Path(__file__).parent / "results"
LOST_EVERY = 15  # steps


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
      world: where it happens.
      weight_x_m: of the object.
      friction: range of the coefficient; None is the task's.
      mass_scale: factor on mass and inertia.
      prior_offset_m: prior's mean minus the truth; None is the paper's prior.
      prior_sigma_m: of a prior with an offset.
      lost_steps: the tracker loses the object now and then, for so many steps.
    """

    world: RealityConfig = REALITY_DEV
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


def _world(**changes) -> Case:
    return Case(world=replace(REALITY_DEV, **changes))


SWEEPS = {
    "prior off, sigma 1 cm": Sweep(
        "cm", (-8, -6, -4, -2, 0, 2), lambda x: Case(prior_offset_m=x / 100)
    ),
    "prior at the truth, sigma": Sweep(
        "cm", (0.5, 2, 8, np.inf), lambda x: Case(prior_offset_m=0.0, prior_sigma_m=x / 100)
    ),
    "friction": Sweep("", (0.08, 0.25, 0.5, 0.8), lambda x: Case(friction=(x, x))),
    "mass": Sweep("x", (0.5, 1, 2, 4), lambda x: Case(mass_scale=x)),
    "weight": Sweep("cm", (-19, -16, -13, 13, 15, 16), lambda x: Case(weight_x_m=x / 100)),
    "latency": Sweep(
        "ms", (0, 50, 100, 200, 300), lambda x: _world(latency_s=x / 1000, settle_s=0.5)
    ),
    "tracking lost": Sweep("steps", (0, 1, 2, 3, 5), lambda x: Case(lost_steps=int(x))),
    "pose noise": Sweep("mm", (0, 1, 2, 5, 10), lambda x: _world(position_noise_m=x / 1000)),
}


@dataclass(frozen=True)
class RobustnessConfig:
    """How much of it.

    Attributes:
      out: folder for ``robustness.json`` and the figure.
      task: registered task.
      checkpoints: folder of a training seed; by default the shipped ones.
      methods: by name.
      sweeps: by name.
      trials: per cell.
      seed: of the trials; not the published tables'.
      publish: copy JSON and figure to ``experiments/results``.
      overwrite: forget the cells that are there.
    """

    out: Path
    task: str = "push_tblock"
    checkpoints: Path | None = None
    methods: tuple[str, ...] = ("privileged", "fused", "vlm-only", "rma-only", "dr")
    sweeps: tuple[str, ...] = tuple(SWEEPS)
    trials: int = 64
    seed: int = 1
    publish: bool = False
    overwrite: bool = False


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
        task = replace(task, physics=replace(task.physics, friction=case.friction))
    world = Reality(case.world, task, draw_trials(task, masses, config.trials, config.seed))
    if case.lost_steps:
        world = LostTracking(world, case.lost_steps, config.seed)
    record = run_cell(name, world, checkpoints, task, belief(case, task, world.theta[0]))
    return summarize(record, task)


def belief(case: Case, task: Task, truth: np.ndarray) -> Gaussian:
    """Vision's belief in this situation."""
    if case.prior_offset_m is None:
        return load_prior(condition("top").prior, task).to_gaussian()
    mean = jnp.asarray(truth + case.prior_offset_m, jnp.float32)
    return Gaussian(mean, jnp.full_like(mean, case.prior_sigma_m**2))


def draw(cells: list[dict], config: RobustnessConfig, path: Path) -> None:
    """One panel per sweep: success at the end against the level, with Wilson's intervals."""
    names = [name for name in config.sweeps if any(c["sweep"] == name for c in cells)]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 3 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, sweep in zip(axes.flat, names, strict=False):
        levels = SWEEPS[sweep].levels
        for index, method in enumerate(config.methods):
            own = {c["level"]: c["hardware"] for c in cells
                   if (c["sweep"], c["method"]) == (sweep, method)}  # fmt: skip
            at = [i for i, level in enumerate(levels) if str(level) in own]
            rates = [own[str(levels[i])] for i in at]
            value, low, high = (100 * np.array([r[k] for r in rates]) for k in
                                ("value", "low", "high"))  # fmt: skip
            shift = 0.04 * (index - 2)
            axis.errorbar(np.array(at) + shift, value, (value - low, high - value), label=method,
                          marker="o", ms=3, lw=1.2, elinewidth=0.6)  # fmt: skip
        axis.set(title=f"{sweep}, {SWEEPS[sweep].unit}" if SWEEPS[sweep].unit else sweep,
                 ylim=(-3, 103), xticks=range(len(levels)),
                 xticklabels=[f"{x:g}" for x in levels])  # fmt: skip
    for axis in axes[:, 0]:
        axis.set_ylabel("success at the end, %")
    axes.flat[0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(config: RobustnessConfig) -> None:
    """Run what is missing, one cell after the other; draw at the end."""
    path = config.out / "robustness.json"
    cells = [] if config.overwrite or not path.is_file() else json.loads(path.read_text())["cells"]
    new_folder(config.out, overwrite=bool(cells) or config.overwrite)
    task = load_task(config.task)
    checkpoints = load_checkpoints(config.checkpoints, task, config.methods)
    settings = {"task": config.task, "trials": config.trials, "seed": config.seed,
                "world": REALITY_DEV.name, "version": REALITY_DEV.version}  # fmt: skip
    done = {(c["sweep"], c["level"], c["method"]) for c in cells}
    for sweep in config.sweeps:
        for level in SWEEPS[sweep].levels:
            for name in config.methods:
                if (sweep, str(level), name) in done:
                    continue
                found = run_case(SWEEPS[sweep].case(level), task, name, checkpoints, config)
                cells.append({"sweep": sweep, "level": str(level), "method": name, **found})
                write_json(path, {"schema": 1, **settings, "cells": cells,
                                  "provenance": provenance()})  # fmt: skip
                value, low, high = (100 * found["hardware"][k] for k in ("value", "low", "high"))
                rate = f"{value:4.0f} % [{low:.0f}, {high:.0f}]"
                print(f"{sweep:26} {level:6g} {name:12} {rate}", flush=True)
    draw(cells, config, config.out / "robustness.png")
    if config.publish:
        for suffix in ("json", "png"):
            source = config.out / f"robustness.{suffix}"
            (RESULTS / f"robustness_{config.task}.{suffix}").write_bytes(source.read_bytes())


if __name__ == "__main__":
    main(tyro.cli(RobustnessConfig))
