"""What the policy ablations vary, and the trainings that each variant needs.

Trainings that two variants would do alike are done once; all are skipped when they are there
and go on where they were when they were cut short.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from train_seeds import ESTIMATOR, SeedsConfig, policy_config, policy_is_done

from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.estimator.train import EstimatorConfig, train_estimator
from p2r_jax.evaluation.evaluate import TRAINING
from p2r_jax.evaluation.methods import Checkpoints, method, uninformed_ensemble
from p2r_jax.policy.policy import Phase, load_policy
from p2r_jax.policy.train import TrainConfig, train
from p2r_jax.tasks import Task

BASE, FUSED = "base", "fused"
DEV = "reality-dev"
SIZE = ("rounds", "episodes", "steps", "batch")


@dataclass(frozen=True)
class Variant:
    """What differs from ``base``.

    Attributes:
      task: another registered task than the configured one.
      noise_m: of phase 1.5; None is the task's.
      ppo: fields of ``PPOConfig``, for every policy of the variant.
      phase: ``noisy``, with all that comes before and after it, or a policy without theta.
    """

    task: str | None = None
    noise_m: float | None = None
    ppo: dict = field(default_factory=dict)
    phase: Phase = "noisy"

    @property
    def phases(self) -> tuple[str, ...]:
        """What is trained, in this order."""
        return ("privileged", "noisy", ESTIMATOR) if self.phase == "noisy" else (self.phase,)

    @property
    def shares_privileged(self) -> bool:
        """Whether its privileged policy is the one of ``base``."""
        return self.task is None and not self.ppo


VARIANTS = {
    BASE: Variant(),
    "noise 0 cm": Variant(noise_m=0.0),
    "noise 0.5 cm": Variant(noise_m=0.005),
    "noise 1 cm": Variant(noise_m=0.01),
    "noise 3 cm": Variant(noise_m=0.03),
    "2-D CoM": Variant(task="push_tblock_xy"),
    "categorical": Variant(ppo={"action_head": "categorical"}),
    "dr": Variant(phase="dr"),
    "dr-history": Variant(phase="dr-history"),
    "dr-recurrent": Variant(phase="dr-recurrent"),
}


@dataclass(frozen=True)
class AblationConfig:
    """How much of it.

    Attributes:
      out: folder for runs, ``policy_ablations.json`` and the figure.
      task: registered task.
      variants: by name.
      seeds: of everything in a training.
      scale: share of the committed control steps of every policy.
      rounds, episodes, steps, batch: of every estimator, as in ``EstimatorConfig``.
      methods: what the variants that see theta are judged by.
      worlds: ``training`` (the task's own dynamics) and ``reality-dev``.
      trials, dev_trials: per cell, in ``training`` and in ``reality-dev``.
      trial_seed: of the trials; not the published tables'.
      publish: copy JSON and figure to ``experiments/results``.
    """

    out: Path
    task: str = "push_tblock_plus"
    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: tuple[int, ...] = (0, 1)
    scale: float = 0.5
    rounds: int = 8
    episodes: int = 512
    steps: int = 200
    batch: int = 256
    methods: tuple[str, ...] = ("privileged-noisy", FUSED, "fused-explore", "vlm-only", "rma-only")
    worlds: tuple[str, ...] = (TRAINING,)
    trials: int = 1000
    dev_trials: int = 64
    trial_seed: int = 2
    publish: bool = False

    def __post_init__(self):
        for kind, given, known in (
            ("variant", self.variants, VARIANTS),
            ("world", self.worlds, (TRAINING, DEV)),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"no {kind} {unknown[0]!r} ({kind}s: {', '.join(known)})")
        if wrong := [name for name in self.methods if method(name).policy != "noisy"]:
            raise ValueError(f"{wrong[0]!r} is no method of the noisy policy")


def run_folder(config: AblationConfig, name: str, seed: int, phase: str) -> Path:
    """Where a training is, or will be; shared ones are at ``base``."""
    variant = VARIANTS[name]
    owner = BASE if phase == "privileged" and variant.shares_privileged else name
    runs = config.out / owner.replace(" ", "-")
    return runs / (variant.task or config.task) / f"seed-{seed}" / phase


def policy_run(config: AblationConfig, name: str, seed: int, phase: str) -> TrainConfig:
    """The run of one policy."""
    variant, folder = VARIANTS[name], run_folder(config, name, seed, phase)
    runs = SeedsConfig(scale=config.scale, out=folder.parents[2])
    wanted = policy_config(runs, folder.parents[1].name, seed, phase)
    task = wanted.task
    if variant.noise_m is not None and phase == "noisy":
        task = replace(task, theta_noise_m=variant.noise_m)
    init = run_folder(config, name, seed, "privileged") if phase == "noisy" else None
    return replace(wanted, task=task, ppo=replace(wanted.ppo, **variant.ppo), init=init)


def estimator_run(config: AblationConfig, name: str, seed: int) -> EstimatorConfig:
    """The run of the estimator of a variant's noisy policy."""
    task = policy_run(config, name, seed, "noisy").task
    policy = run_folder(config, name, seed, "noisy") / "policy"
    out = run_folder(config, name, seed, ESTIMATOR)
    size = {key: getattr(config, key) for key in SIZE}
    resume = (out / "state.msgpack").is_file()
    return EstimatorConfig(
        task, policy, out, **size, test_episodes=256, seed=seed, resume=resume, overwrite=not resume
    )


def train_variant(config: AblationConfig, name: str, seed: int) -> None:
    """Train what a variant needs and has not."""
    for phase in VARIANTS[name].phases:
        if phase == ESTIMATOR:
            wanted = estimator_run(config, name, seed)
            if (wanted.out / "calibration.json").is_file():
                continue
        else:
            wanted = policy_run(config, name, seed, phase)
            if policy_is_done(wanted):
                continue
            wanted = replace(wanted, overwrite=not wanted.resume)
        print(f"== {name}, seed {seed}: {phase}", flush=True)
        train_estimator(wanted) if phase == ESTIMATOR else train(wanted)


def load_variant(config: AblationConfig, name: str, seed: int) -> tuple[Task, Checkpoints]:
    """What was trained, and the task it is judged in."""
    phase = VARIANTS[name].phase
    task = policy_run(config, name, seed, phase).task
    folder = run_folder(config, name, seed, phase)
    policies = {phase: load_policy(folder / "policy", task)}
    if phase != "noisy":
        return task, Checkpoints(policies, uninformed_ensemble(task), informed=False)
    trained = run_folder(config, name, seed, ESTIMATOR) / "estimator"
    return task, Checkpoints(policies, load_ensemble(trained, task))


def methods_of(config: AblationConfig, name: str) -> tuple[str, ...]:
    """By what a variant is judged: of a policy that never sees theta, by itself."""
    phase = VARIANTS[name].phase
    return config.methods if phase == "noisy" else (phase,)
