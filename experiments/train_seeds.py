"""Train what the tables need: every policy and the estimator of a task, seed by seed.

    python experiments/train_seeds.py --tasks push_tblock push_tblock_plus --seeds 0 1 2 3 4

A queue that may be killed at any time: finished runs are skipped, a run cut short is
resumed from its last checkpoint. ``noisy`` gets half of the steps of ``privileged``,
``dr`` the steps of both. Ship the result with ``ship_checkpoints.py``.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from p2r_jax.contracts import read_contract
from p2r_jax.estimator.adaptor import default_adaptor, train_adaptor
from p2r_jax.estimator.train import EstimatorConfig, train_estimator
from p2r_jax.policy.policy import PolicyContract
from p2r_jax.policy.train import TrainConfig, default_train, train
from p2r_jax.tasks import load_task

ESTIMATOR, ADAPTOR = "estimator", "adaptor"
STANDARD = ("privileged", "noisy", "belief", "dr", ESTIMATOR)  # what the tables need


@dataclass(frozen=True)
class SeedsConfig:
    """What to train.

    Attributes:
      tasks: registered tasks.
      seeds: of everything in a run.
      phases: in this order; ``noisy`` needs ``privileged``, ``estimator`` needs ``noisy``,
        ``adaptor`` needs ``latent``.
      scale: factor on the committed number of control steps of every policy.
      out: runs go to ``out/TASK/seed-N/PHASE``.
    """

    tasks: tuple[str, ...] = ("push_tblock", "push_tblock_plus")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    phases: tuple[str, ...] = STANDARD
    scale: float = 1.0
    out: Path = Path("runs/seeds")


def policy_config(config: SeedsConfig, task: str, seed: int, phase: str) -> TrainConfig:
    """The run of one policy."""
    root = config.out / task / f"seed-{seed}"
    default = default_train(task, phase, root / phase)
    ppo = replace(default.ppo, seed=seed, total_steps=round(config.scale * default.ppo.total_steps))
    init = root / "privileged" if phase == "noisy" else None
    return replace(default, ppo=ppo, init=init, resume=(root / phase / "state.msgpack").is_file())


def policy_is_done(config: TrainConfig) -> bool:
    """Whether the policy in ``config.out`` has all its steps."""
    path = config.out / "policy" / "policy.json"
    if not path.is_file():
        return False
    steps = read_contract(path, PolicyContract, None).steps
    return steps >= config.ppo.num_updates * config.ppo.steps_per_update


def run(config: SeedsConfig, task: str, seed: int, phase: str) -> None:
    """Train one thing unless it is there."""
    out = config.out / task / f"seed-{seed}" / phase
    if phase == ADAPTOR:
        begun = (out / "state.msgpack").is_file()
        wanted = default_adaptor(load_task(task), out.parent / "latent" / "policy", out)
        if not (out / "calibration.json").is_file():
            train_adaptor(replace(wanted, seed=seed, resume=begun, overwrite=not begun))
        return
    if phase == ESTIMATOR:
        policy = out.parent / "noisy" / "policy"
        begun = (out / "state.msgpack").is_file()
        wanted = EstimatorConfig(
            load_task(task), policy, out, seed=seed, resume=begun, overwrite=not begun
        )
        if not (out / "calibration.json").is_file():
            train_estimator(wanted)
        return
    wanted = policy_config(config, task, seed, phase)
    if not policy_is_done(wanted):
        train(replace(wanted, overwrite=not wanted.resume))


def main(config: SeedsConfig) -> None:
    """Work through the queue, one complete seed after the other."""
    for seed in config.seeds:
        for task in config.tasks:
            for phase in config.phases:
                print(f"== {task} seed {seed} {phase}", flush=True)
                run(config, task, seed, phase)


if __name__ == "__main__":
    main(tyro.cli(SeedsConfig))
