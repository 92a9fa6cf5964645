"""How fast closed-loop trials run: whole loop, by world and number of trials.

    python -m benchmarks.evaluation

Every sample is one method over the first actions of the same trials, the step compiled
before. ``reality`` steps C MuJoCo on every core; the training dynamics run in XLA.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.timing import spread
from p2r_jax.evaluation.evaluate import TRAINING, make_world
from p2r_jax.evaluation.methods import Checkpoints, condition, load_checkpoints, make_bundle
from p2r_jax.evaluation.trials import run_trials
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 1
CONDITION = "top"


@dataclass(frozen=True)
class Settings:
    """Settings of the evaluation benchmark.

    Attributes:
      out: JSON file.
      task: registered task with shipped checkpoints.
      method: closed loop to run; ``fused`` is the dearest.
      worlds: by name.
      trials: at once.
      actions: of every trial.
      repeats: samples of a cell, after a first one that compiles.
    """

    out: Path = Path("benchmarks/results/evaluation.json")
    task: str = "push_tblock"
    method: str = "fused"
    worlds: tuple[str, ...] = ("reality-dev", TRAINING)
    trials: tuple[int, ...] = (16, 200)
    actions: int = 20
    repeats: int = 3


def measure(world: str, trials: int, task: Task, checkpoints: Checkpoints, s: Settings) -> dict:
    """Seconds per trial and control steps per second of one cell."""
    where = condition(CONDITION)
    drawn = draw_trials(task, where.mass_properties(task.object), trials, seed=0)
    prior, seconds = load_prior(where.prior, task), []
    for _ in range(s.repeats + 1):
        ready = make_world(world, task, drawn)
        bundle = make_bundle(s.method, checkpoints, task, prior, ready.theta)
        start = time.perf_counter()
        run_trials(ready, bundle, s.actions)
        seconds.append(time.perf_counter() - start)
    first, warm = seconds[0], np.array(seconds[1:])
    rates = trials * s.actions / warm
    return {
        "world": world,
        "trials": trials,
        "first_s": first,
        "control_steps_per_s": spread(rates),
        "whole_trial_s": spread(warm / trials * task.episode_length / s.actions),
    }


def main(settings: Settings) -> None:
    """Measure every cell and write the JSON."""
    task = load_task(settings.task)
    checkpoints = load_checkpoints(None, task, (settings.method,))
    rows = []
    for world in settings.worlds:
        for trials in settings.trials:
            rows.append(measure(world, trials, task, checkpoints, settings))
            rate = rows[-1]["control_steps_per_s"]["median"]
            print(f"{world:12} {trials:4} trials: {rate:8.0f} control steps/s", flush=True)
    record = {"schema": SCHEMA_VERSION, "kind": "evaluation", "provenance": provenance()}
    write_json(settings.out, record | {"settings": as_record(settings), "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Settings))
