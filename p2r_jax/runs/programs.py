"""What can be run, and again: the trainings and the evaluation, each with its config tree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2r_jax.files import as_record
from p2r_jax.runs.folder import STATE_FILE, Kind

NOWHERE = Path()  # stands for ``out`` until a run has its folder


@dataclass(frozen=True)
class Program:
    """One command.

    Attributes:
      config: dataclass of its settings.
      phases: what may be given as ``phase``; empty for a command without.
      together: whether runs ride on an axis of one program: seeds, and variants that differ
        in ``numbers`` only.
      numbers: dotted paths of these.
      in_turn: whether seeds of a variant run one after the other in one process, because
        what the first of them compiles serves the others.
      base: settings of a task and phase, as plain values; those without default are missing.
      inputs: files that a config reads and that must be there.
      check: raises ValueError for what the types alone do not tell.
      run: runs configs that differ in seed, folder and numbers; goes on from what the
        folders hold.
    """

    config: type
    phases: tuple[str, ...]
    together: bool
    numbers: tuple[str, ...]
    in_turn: bool
    base: Callable[[str, Any], dict]
    inputs: Callable[[Any], list[Path]]
    check: Callable[[Any], object]
    run: Callable[[Sequence[Any]], None]


def program(command: Kind) -> Program:
    """The program of a command."""
    return {"train": _train, "train-estimator": _train_estimator, "evaluate": _evaluate}[command]()


def _train() -> Program:
    from p2r_jax.policy.train import LEARNER, PHASES, TrainConfig, default_train, train
    from p2r_jax.runs.videos import episode_videos

    def check(config: TrainConfig) -> None:
        if config.phase == "noisy" and config.init is None:
            raise ValueError("phase noisy continues a privileged policy: give its folder as init")

    def run(configs: Sequence[TrainConfig]) -> None:
        for config in configs:
            config = continued(config)
            train(config, episode_videos(config))

    return Program(
        config=TrainConfig,
        phases=PHASES,
        together=False,
        numbers=(),
        in_turn=False,
        base=lambda task, phase: as_record(default_train(task, phase, NOWHERE)),
        inputs=lambda config: [config.init / LEARNER] if config.init else [],
        check=check,
        run=run,
    )


def _train_estimator() -> Program:
    from p2r_jax.estimator.train import EstimatorConfig, contract_of
    from p2r_jax.runs.estimator_lanes import NUMBERS, train_together
    from p2r_jax.tasks import load_task

    def base(task: str, phase: str) -> dict:
        record = as_record(EstimatorConfig(load_task(task), NOWHERE, NOWHERE))
        del record["policy"]  # has no default
        return record

    return Program(
        config=EstimatorConfig,
        phases=(),
        together=True,
        numbers=NUMBERS,
        in_turn=False,
        base=base,
        inputs=lambda c: [*([c.policy / "policy.json"] if c.policy else []), *c.logged],
        check=lambda config: contract_of(config.task, config),
        run=lambda configs: train_together([continued(config) for config in configs]),
    )


def _evaluate() -> Program:
    from p2r_jax.evaluation.evaluate import EvaluateConfig, describe_world, evaluate, inputs_of
    from p2r_jax.evaluation.methods import condition, method
    from p2r_jax.tasks import load_task

    def check(config: EvaluateConfig) -> None:
        describe_world(config.dynamics, load_task(config.task))
        for name in config.methods:
            method(name)
        for name in config.conditions:
            condition(name)

    def run(configs: Sequence[EvaluateConfig]) -> None:
        for config in configs:
            evaluate(replace(config, overwrite=True))

    return Program(
        config=EvaluateConfig,
        phases=(),
        together=False,
        numbers=(),
        in_turn=True,
        base=lambda task, phase: as_record(EvaluateConfig(NOWHERE, task)),
        inputs=inputs_of,
        check=check,
        run=run,
    )


def continued(config: Any) -> Any:
    """The config that goes on from the checkpoint in its folder; without one it starts anew."""
    resume = (config.out / STATE_FILE).is_file()
    return replace(config, resume=resume, overwrite=not resume)
