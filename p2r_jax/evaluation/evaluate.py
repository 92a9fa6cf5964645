"""Compare methods: the same trials for all of them, JSON and a table at the end."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from p2r_jax.evaluation.methods import (
    METHODS,
    REFERENCE,
    Checkpoints,
    condition,
    load_checkpoints,
    make_bundle,
    method,
)
from p2r_jax.evaluation.outcomes import compare, summarize
from p2r_jax.evaluation.report import markdown
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import TrialRecord, World, run_trials
from p2r_jax.evaluation.true_physics import true_physics
from p2r_jax.files import as_record, provenance, start_run, write_atomic, write_json
from p2r_jax.prior.prior import Prior, load_prior
from p2r_jax.sim.reality import REALITIES, Reality, reality
from p2r_jax.sim.trials import Trials, draw_trials
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 1
TRAINING = "training"
Records = dict[tuple[str, str], TrialRecord]


@dataclass(frozen=True)
class EvaluateConfig:
    """One comparison.

    Attributes:
      out: folder for ``results.json``, ``results.md`` and ``trials.npz``.
      task: registered task.
      dynamics: a reality by name, or ``training``: the task's own dynamics, without
        noise, lag or latency.
      methods, conditions: by name.
      prior: vision's belief in every condition, instead of the condition's own: a file
        that ``p2r prior`` wrote, or a name.
      trials: per method and condition.
      seed: of the trials.
      checkpoints: folder with ``privileged``, ``noisy``, ``dr`` and ``estimator``;
        by default the shipped ones of the task.
      overwrite: allow a folder that is not empty.
    """

    out: Path
    task: str = "push_tblock"
    dynamics: str = "reality-dev"
    methods: tuple[str, ...] = tuple(METHODS)
    conditions: tuple[str, ...] = ("top", "bottom")
    prior: str | None = None
    trials: int = 200
    seed: int = 0
    checkpoints: Path | None = None
    overwrite: bool = False


def evaluate(config: EvaluateConfig) -> dict:
    """Run every method in every condition; returns what ``results.json`` holds.

    Files are rewritten after every method, so an interrupted run keeps what it has.

    Raises:
      KeyError: for an unknown task, dynamics, method or condition, before any work.
      FileNotFoundError, ValueError: for missing or unfitting checkpoints.
      FileExistsError: if ``out`` is not empty.
    """
    task = load_task(config.task)
    world_record = describe_world(config.dynamics, task)
    if config.trials < 1:
        raise ValueError(f"trials is {config.trials}; at least one is needed")
    masses = {name: condition(name).mass_properties(task.object) for name in config.conditions}
    priors = {
        name: load_prior(config.prior or condition(name).prior, task) for name in config.conditions
    }
    checkpoints = load_checkpoints(config.checkpoints, task, config.methods)
    start_run(config.out, config, config.overwrite, inputs_of(config))
    results: dict = {
        "schema": SCHEMA_VERSION, "complete": False, "task": task.name, "dynamics": world_record,
        "trials": config.trials, "seed": config.seed, "reference": REFERENCE,
        "checkpoints": describe_checkpoints(checkpoints), "conditions": {}, "results": [],
        "provenance": provenance(),
    }  # fmt: skip
    records: Records = {}
    cells = [(c, m) for c in config.conditions for m in _reference_first(config.methods)]
    with tqdm(total=len(cells) * task.episode_length, unit="step", mininterval=1.0) as bar:
        for where, name in cells:
            bar.set_description(f"{where} {name}")
            trials = draw_trials(task, masses[where], config.trials, config.seed)
            world = make_world(config.dynamics, task, trials)
            results["conditions"][where] = _describe_condition(where, priors[where], world)
            start = time.perf_counter()
            record = run_cell(name, world, checkpoints, task, priors[where], bar.update)
            records[where, name] = record
            row = {"condition": where, "method": name, **summarize(record, task)}
            row["paired_to_reference"] = _versus_reference(records, where, name, task)
            if method(name).given == "training-mean":
                row["theta_rmse_m"]["used"] = None  # a constant that its policy never looks at
            results["results"].append(row | {"wall_s": time.perf_counter() - start})
            results["complete"] = len(records) == len(cells)
            write_outputs(config.out, results, records)
    return results


def inputs_of(config: EvaluateConfig) -> list[Path]:
    """Files and folders that a comparison reads, shipped ones aside."""
    named = [config.checkpoints, Path(config.prior) if config.prior else None]
    return [path for path in named if path is not None and path.exists()]


def run_cell(
    name: str, world: World, checkpoints: Checkpoints, task: Task, prior: Prior, on_step=None
) -> TrialRecord:
    """One method in a world that was just set up."""
    physics = true_physics(world) if method(name).given == "encoding" else None
    bundle = make_bundle(name, checkpoints, task, prior, world.theta, physics)
    return run_trials(world, bundle, task.episode_length, on_step)


def make_world(dynamics: str, task: Task, trials: Trials) -> World:
    """The world of a name, with all trials at their start."""
    if dynamics == TRAINING:
        return TrainingWorld(task, trials)
    return Reality(reality(dynamics), task, trials)


def describe_world(dynamics: str, task: Task) -> dict:
    """Name, version and every setting; an unknown name raises KeyError with all names."""
    if dynamics == TRAINING:
        settings = getattr(task, task.dynamics, None)
        return {"name": TRAINING, "version": task.dynamics,
                "config": as_record(settings) if settings else {}}  # fmt: skip
    if dynamics not in REALITIES:
        raise KeyError(f"no dynamics {dynamics!r} (dynamics: {', '.join([*REALITIES, TRAINING])})")
    config = reality(dynamics)
    return {"name": config.name, "version": config.version, "config": as_record(config)}


def describe_checkpoints(checkpoints: Checkpoints) -> dict:
    """Contracts by folder; null for an estimator that was not there."""
    contracts = {k: as_record(p.contract) for k, p in checkpoints.policies.items()}
    if checkpoints.adaptor is not None:
        contracts["adaptor"] = as_record(checkpoints.adaptor.contract)
    estimator = as_record(checkpoints.ensemble.contract) if checkpoints.informed else None
    return contracts | {"estimator": estimator}


def write_outputs(folder: Path, results: dict, records: Records) -> None:
    """Write ``results.json``, ``results.md`` and ``trials.npz``."""
    write_json(folder / "results.json", results)
    write_atomic(folder / "results.md", markdown(results).encode())
    arrays = {
        f"{where}/{name}/{field}": array
        for (where, name), record in records.items()
        for field, array in record.arrays().items()
    }
    np.savez(folder / "trials.npz", **arrays)


def load_records(folder: Path) -> Records:
    """Trajectories of a finished evaluation by (condition, method)."""
    cells: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(folder / "trials.npz") as arrays:
        for key in arrays.files:
            where, name, field = key.split("/")
            cells.setdefault((where, name), {})[field] = arrays[key]
    return {cell: TrialRecord(**fields) for cell, fields in cells.items()}


def _describe_condition(name: str, prior: Prior, world: World) -> dict:
    return {
        "weight_x_m": condition(name).weight_x_m,
        "theta_true_m": np.mean(world.theta, axis=0, dtype=float).tolist(),
        "prior": as_record(prior),
    }


def _reference_first(methods: tuple[str, ...]) -> list[str]:
    return sorted(methods, key=lambda name: name != REFERENCE)


def _versus_reference(records: Records, where: str, name: str, task: Task) -> dict | None:
    reference = records.get((where, REFERENCE))
    if reference is None or name == REFERENCE:
        return None
    return compare(records[where, name], reference, task)
