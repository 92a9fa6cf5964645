"""Estimator trainings side by side: seeds and numeric settings on an axis of one program.

A lane is one run, and every lane gets the folder that ``train_estimator`` writes and can
resume. Lanes may differ in their seed and in ``NUMBERS``, which the program then takes as
arguments, so it is traced and compiled once for all. Numbers agree with a training alone up to
rounding (sums run in another order), not bit by bit; ``one_program`` in ``config.json`` says
with which lanes a run shared its program.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.estimator.train import (
    REPORT,
    EstimatorConfig,
    EstimatorState,
    EstimatorTraining,
    begin_run,
    load_training,
    report_of,
    save_run,
    seed_keys,
)
from p2r_jax.files import as_record, first_difference, provenance, write_json
from p2r_jax.policy.logging import MetricLog
from p2r_jax.runs.config_tree import get_path

NUMBERS = (
    "learning_rate",
    "disturbances.position_m",
    "disturbances.yaw_rad",
    "disturbances.ee_m",
    "disturbances.step_gain",
    "drive.fused_share",
    "drive.sigma",
)
Numbers = Mapping[str, Float[Array, "lane ..."]]


def train_together(configs: Sequence[EstimatorConfig]) -> None:
    """Train configs that differ in seed, folder and ``NUMBERS`` only; resumes those that say so.

    Lanes that were stopped at different rounds go on one group after the other.

    Raises:
      ValueError: if they differ in something else, or a folder holds another run.
    """
    numbers = check_lanes(configs)
    training = load_training(configs[0])
    fresh = _split(jax.jit(jax.vmap(training.init))(_keys(configs)[0]), len(configs))
    notes = {"one_program": lanes_record(configs, list(numbers))}
    groups: dict[int, list[int]] = {}
    states = [begin_run(c, start, notes) for c, start in zip(configs, fresh, strict=True)]
    for lane, state in enumerate(states):
        groups.setdefault(int(state.round), []).append(lane)
    for first, lanes in sorted(groups.items()):
        own = {path: values[np.array(lanes)] for path, values in numbers.items()}
        _train(training, own, [configs[i] for i in lanes], [states[i] for i in lanes], first)


def check_lanes(configs: Sequence[EstimatorConfig]) -> dict[str, Float[np.ndarray, "lane ..."]]:
    """The numbers in which configs differ, by dotted path.

    Raises:
      ValueError: naming something else in which they differ.
    """
    records = [as_record(config) for config in configs]
    found = {path: [get_path(record, path) for record in records] for path in NUMBERS}
    plain = [as_record(_without(config)) for config in configs]
    for other in plain[1:]:
        if difference := first_difference(plain[0], other, "config"):
            path, a, b = difference
            raise ValueError(f"lanes of one program differ in {path}: {a} and {b}")
    differ = {path: v for path, v in found.items() if any(x != v[0] for x in v)}
    return {path: np.asarray(values, np.float32) for path, values in differ.items()}


def lanes_record(configs: Sequence[EstimatorConfig], paths: Sequence[str]) -> list[dict]:
    """Of every lane its seed and the numbers that are its own, as JSON values."""
    records = [as_record(config) for config in configs]
    return [{path: get_path(r, path) for path in ("seed", *paths)} for r in records]


def with_numbers(config: EstimatorConfig, numbers: Mapping[str, Any]) -> EstimatorConfig:
    """A config with some of ``NUMBERS`` (traced ones, too) and others replaced, by dotted path."""
    for path, value in numbers.items():
        branch, _, leaf = path.rpartition(".")
        new = replace(getattr(config, branch), **{leaf: value}) if branch else value
        config = replace(config, **{branch or leaf: new})
    return config


def _without(config: EstimatorConfig) -> EstimatorConfig:
    """A config with everything that a lane may have to itself at its default."""
    lane = {path: 0 for path in NUMBERS} | {"seed": 0, "resume": False, "overwrite": False}
    return with_numbers(config, lane | {"out": None})


def _train(
    training: EstimatorTraining,
    numbers: Numbers,
    configs: Sequence[EstimatorConfig],
    states: Sequence[EstimatorState],
    first: int,
) -> None:
    """Rounds ``first`` + 1 to the last for lanes that all did ``first``."""

    def one_round(own: Numbers, state: EstimatorState):
        return _lane(training, own).round(state)

    state = jax.tree.map(lambda *x: jnp.stack(x), *states)
    step = jax.jit(jax.vmap(one_round), donate_argnums=1)
    started, rounds = time.perf_counter(), training.config.rounds
    with ExitStack() as stack:
        logs = [stack.enter_context(closing(MetricLog(c.out, after=first))) for c in configs]
        if first == rounds:  # killed while the last round was written
            _save(training, configs, state)
        for done in tqdm(range(first + 1, rounds + 1), unit="round", mininterval=1.0):
            state, nll = step(numbers, state)
            row = {"seconds": time.perf_counter() - started}
            for log, value in zip(logs, jax.device_get(nll), strict=True):
                log.write(done, {"nll": float(value)} | row)
            _save(training, configs, state)
    _report(training, numbers, configs, Ensemble(state.params, training.contract))


def _lane(training: EstimatorTraining, own: Numbers) -> EstimatorTraining:
    if not own:
        return training
    return EstimatorTraining(training.task, training.policy, with_numbers(training.config, own))


def _save(
    training: EstimatorTraining, configs: Sequence[EstimatorConfig], state: EstimatorState
) -> None:
    for config, one in zip(configs, _split(state, len(configs)), strict=True):
        save_run(config, training, one)


def _report(
    training: EstimatorTraining,
    numbers: Numbers,
    configs: Sequence[EstimatorConfig],
    ensembles: Ensemble,
) -> None:
    """Held-out calibration of every lane, as ``heldout_report``."""
    count = training.config.test_episodes

    def episodes(own: Numbers, ensemble: Ensemble, key: Array):
        return _lane(training, own).collect(ensemble, key, count, test=True)

    data = jax.device_get(jax.jit(jax.vmap(episodes))(numbers, ensembles, _keys(configs)[1]))
    origin = provenance()
    for config, one in zip(configs, _split(data, len(configs)), strict=True):
        write_json(config.out / REPORT, report_of(one, training.contract.theta) | origin)


def _keys(configs: Sequence[EstimatorConfig]) -> tuple[Array, Array]:
    """Keys of training and of held-out episodes, a lane each."""
    return jax.vmap(seed_keys)(jnp.array([config.seed for config in configs]))


def _split(tree, count: int) -> list:
    """A tree with a leading axis of lanes as one tree per lane, on the host's side."""
    tree = jax.tree.map(lambda x: x if _is_key(x) else np.asarray(x), tree)
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
