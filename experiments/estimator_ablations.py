"""What an estimator gains from members, history, recurrence, contact and its experience.

    python experiments/estimator_ablations.py --out runs/estimator-ablations

Every variant changes one thing of ``base`` and is trained with the same frozen policy and
the same seeds, all seeds in one program. Held-out episodes are of three kinds: driven by
the estimate as in training (``home``), driven by an estimate fused with a prior
(``fused``), and in a world whose support, off-axis mass and friction nothing was trained on
(``shifted``). Finished variants are kept, so a killed run goes on where it was.

The training is smaller than a shipped estimator's (its size is in the JSON): these numbers
compare variants, they are not the best that can be had.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import tyro
from cells import refuse_other_settings
from published import publish
from tqdm import tqdm

from p2r_jax.estimator.calibration import after_contact, calibration_report
from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.estimator.rollouts import Drive, collect
from p2r_jax.estimator.train import EstimatorConfig, load_training, seed_keys, train_seeds
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT
from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.files import as_record, git_revision, new_folder, provenance, write_json
from p2r_jax.sim.push import PushEnv
from p2r_jax.tasks import Task, load_task

BASE = "base"
VARIANTS: dict[str, dict] = {  # what differs from ``EstimatorConfig``'s defaults
    BASE: {},
    "members 1": {"members": 1},
    "members 3": {"members": 3},
    "members 5": {"members": 5},
    "members 20": {"members": 20},
    "history 5": {"history": 5},
    "history 20": {"history": 20},
    "history 50": {"history": 50},
    "gru": {"network": "gru", "layers": (64, 128)},  # about as many parameters as the MLP
    "contact": {"contact": True},
    "fused-driven": {"drive": Drive(fused_share=0.5)},
}
SIZE = ("rounds", "episodes", "steps", "batch")  # of a training; smaller here than by default
WORLDS = ("home", "fused", "shifted")
METRICS = {
    "rmse_cm": "RMSE, cm",
    "sigma_cm": "mean sigma, cm",
    "nll": "NLL, nats",
    "coverage_95": "in the 95 % interval",
}
AFTER, FULL = "after first contact", "10 of the last ten"


@dataclass(frozen=True)
class AblationConfig:
    """How much of it.

    Attributes:
      out: folder for ``estimator_ablations.json`` and the figure.
      task: registered task.
      shifted: registered task whose physics the held-out world ``shifted`` has.
      policy: folder of the frozen noisy policy; None is the shipped one.
      variants: by name.
      seeds: of everything in a training and of its held-out episodes.
      rounds, episodes, steps, batch: of every training, as in ``EstimatorConfig``.
      test_episodes: held-out episodes per seed and world.
      speed: also time ``base`` in one program against a process per seed.
      publish: copy JSON and figure to ``experiments/results``.
      overwrite: forget the variants that are there.
    """

    out: Path
    task: str = "push_tblock"
    shifted: str = "push_tblock_plus"
    policy: Path | None = None
    variants: tuple[str, ...] = field(default_factory=lambda: tuple(VARIANTS))
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rounds: int = 8
    episodes: int = 512
    steps: int = 200
    batch: int = 256
    test_episodes: int = 256
    speed: bool = True
    publish: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"no variant {unknown[0]!r} (variants: {', '.join(VARIANTS)})")


def training_config(config: AblationConfig, name: str) -> EstimatorConfig:
    """The training of one variant; nothing of it is written."""
    policy = config.policy or CHECKPOINT_ROOT / config.task / "noisy"
    size = {key: getattr(config, key) for key in SIZE}
    return EstimatorConfig(load_task(config.task), policy, config.out, **size, **VARIANTS[name])


def train_variant(config: AblationConfig, name: str, seeds: Sequence[int]) -> Ensemble:
    """All seeds of a variant in one program; the ensembles have a leading axis of seeds."""
    training = load_training(training_config(config, name))
    with tqdm(total=config.rounds, desc=f"{name}, {len(seeds)} seeds", unit="round") as bar:

        def show(nll):
            bar.set_postfix(NLL=f"{float(jnp.mean(nll)):+.3f}")
            bar.update()

        return train_seeds(training, seeds, show)


def world_of(task: Task, shifted: str) -> Task:
    """``task`` with the physics of another task of the same object.

    Raises:
      ValueError: if the other task pushes something else.
    """
    other = load_task(shifted)
    if other.asset != task.asset:
        raise ValueError(f"{shifted} pushes {other.asset!r}, {task.name} {task.asset!r}")
    return replace(task, physics=other.physics, planar=other.planar)


def held_out(config: AblationConfig, name: str, ensembles: Ensemble) -> dict[str, list[dict]]:
    """Rows of every seed by world, on episodes that depend on the seed, not on the variant."""
    training = load_training(training_config(config, name))
    task = training.task
    _, keys = jax.vmap(seed_keys)(jnp.array(config.seeds))

    def episodes(world: Task):
        env, noise = PushEnv(world, training=False), training.config.disturbances

        def one(ensemble, key, share):
            drive = Drive(fused_share=share)  # traced: one program for both drives
            return collect(env, training.policy, ensemble, noise, drive, key, config.test_episodes)

        return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))

    home, shifted = episodes(task), episodes(world_of(task, config.shifted))
    found = {}
    for world, run, share in zip(WORLDS, (home, home, shifted), (0.0, 1.0, 0.0), strict=True):
        data = jax.device_get(run(ensembles, keys, share))
        seeds = range(len(config.seeds))
        found[world] = [rows_of(jax.tree.map(lambda x, i=i: x[i], data)) for i in seeds]
    return found


def rows_of(data) -> dict[str, dict]:
    """Calibration before and after an episode's first contact, and by recent contact steps.

    The last ten steps are the same windows for every variant, whatever its own history.
    """
    report = calibration_report(data)
    since, recent = report["since_contact"], report["contact_steps_in_window"]
    after = after_contact(report) or {"windows": 0}
    short = {"0-0": "0", "10-10": "10"}
    named = {f"{short.get(k, k)} of the last ten": row for k, row in recent.items()}
    return {"before contact": since["0-0"], AFTER: after, **named}


def summarize(seeds: Sequence[dict], base: Sequence[dict] | None) -> dict:
    """By row and metric: each seed, mean with its interval, difference to ``base`` by seed."""
    summary: dict = {}
    for row in seeds[0]:
        summary[row] = {"windows": [one[row]["windows"] for one in seeds]}
        for metric in METRICS:
            values = [one[row].get(metric) for one in seeds]
            cell = {"per_seed": values, "mean": _over_seeds(values)}
            if base is not None:
                against = [one[row].get(metric) for one in base]
                gaps = [
                    a - b if a is not None and b is not None else None
                    for a, b in zip(values, against, strict=True)
                ]
                cell["minus_base"] = _over_seeds(gaps)
            summary[row][metric] = cell
    return summary


def _over_seeds(values: Sequence[float | None]) -> dict:
    return as_json(mean_over_seeds([value for value in values if value is not None]))


def time_speed(config: AblationConfig) -> dict:
    """Seconds to train ``base`` for all seeds: in one program, and with a process per seed.

    Fresh processes both, start and compilation included; those of single seeds run as many
    at once as there are cores.
    """
    cores = len(os.sched_getaffinity(0))

    def seconds(groups: list[tuple[int, ...]]) -> float:
        context = multiprocessing.get_context("spawn")
        started = time.perf_counter()
        with ProcessPoolExecutor(cores, context, max_tasks_per_child=1) as pool:
            for job in [pool.submit(_train_only, config, seeds) for seeds in groups]:
                job.result()
        return time.perf_counter() - started

    together, apart = seconds([config.seeds]), seconds([(seed,) for seed in config.seeds])
    return {
        "variant": BASE,
        "seeds": len(config.seeds),
        "one_program_s": together,
        "process_per_seed_s": apart,
        "processes_at_once": min(cores, len(config.seeds)),
        "one_program_is_faster_by": apart / together,
    }


def _train_only(config: AblationConfig, seeds: tuple[int, ...]) -> None:
    jax.block_until_ready(train_variant(config, BASE, seeds).params)


def draw(variants: dict[str, dict], path: Path) -> None:
    """Mean and interval over seeds by variant: a column per metric, a colour per world."""
    names = list(variants)
    size = (3.4 * len(METRICS), 2 * (1.2 + 0.32 * len(names)))
    figure, axes = plt.subplots(2, len(METRICS), figsize=size, sharey=True)
    for (row, title), line in zip(
        ((AFTER, "after first contact"), (FULL, "ten of the last ten steps in contact")),
        axes, strict=True,
    ):  # fmt: skip
        for (metric, label), axis in zip(METRICS.items(), line, strict=True):
            for index, world in enumerate(WORLDS):
                cells = [variants[n]["worlds"][world][row][metric]["mean"] for n in names]
                value, low, high = (
                    np.array([c[k] for c in cells], float) for k in ("value", "low", "high")
                )
                at = np.arange(len(names)) + 0.22 * (index - 1)
                axis.errorbar(value, at, xerr=(value - low, high - value), fmt="o", ms=3.5,
                              lw=1.2, color=f"C{index}", label=world)  # fmt: skip
            if metric == "coverage_95":
                axis.axvline(0.95, color="0.5", lw=0.8, ls="--")
            axis.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
            axis.grid(axis="x", color="0.9", lw=0.6)
            axis.set_axisbelow(True)
        line[0].set_title(title, loc="left", fontsize=10)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / size[1]))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=3,
                  frameon=False, title="held-out episodes, intervals over seeds")  # fmt: skip
    figure.savefig(path, dpi=150)
    plt.close(figure)


def print_table(variants: dict[str, dict]) -> None:
    """Error and coverage after first contact, by variant and world."""
    print(f"{AFTER:20}" + "".join(f"{world:>24}" for world in WORLDS))
    for name, one in variants.items():
        cells = []
        for world in WORLDS:
            row = one["worlds"][world][AFTER]
            rmse, covered = (row[k]["mean"]["value"] for k in ("rmse_cm", "coverage_95"))
            known = rmse is not None
            cells.append(f"{rmse:.2f} cm, {100 * covered:.0f} % in 95 %" if known else "no contact")
        print(f"{name:20}" + "".join(f"{cell:>24}" for cell in cells))


def started(config: AblationConfig) -> dict:
    """The record so far, a new one if there is none.

    Raises:
      ValueError: if the folder holds variants of other settings.
    """
    path = config.out / "estimator_ablations.json"
    ignored = ("out", "variants", "speed", "publish", "overwrite")
    settings = {k: v for k, v in as_record(config).items() if k not in ignored}
    settings["policy"] = str(config.policy or f"shipped {config.task}/noisy")
    if path.is_file() and not config.overwrite:
        record = json.loads(path.read_text())
        refuse_other_settings(config.out, "variants", record["settings"], settings)
        return record
    new_folder(config.out, config.overwrite)
    full = {key: getattr(EstimatorConfig, key) for key in SIZE}
    return {"schema": 1, "settings": settings, "full_size": full, "speed": None, "variants": {}}


def run(config: AblationConfig, name: str) -> dict:
    """Train and test one variant."""
    clock = time.perf_counter()
    ensembles = jax.block_until_ready(train_variant(config, name, config.seeds))
    trained = time.perf_counter()
    found = held_out(config, name, ensembles)
    size = sum(x[0, 0].size for x in jax.tree.leaves(ensembles.params))
    return {
        "git": git_revision(),
        "changes": json.loads(json.dumps(VARIANTS[name], default=as_record)),
        "parameters_per_member": size,
        "training_s": trained - clock,
        "test_s": time.perf_counter() - trained,
        "per_seed": found,
    }


def publishable(record: dict) -> dict:
    """The record with intervals over seeds in place of raw rows."""
    base = record["variants"].get(BASE)
    variants = {}
    for name, one in record["variants"].items():
        against = base["per_seed"] if base and name != BASE else None
        worlds = {
            world: summarize(seeds, against and against[world])
            for world, seeds in one["per_seed"].items()
        }
        variants[name] = {k: v for k, v in one.items() if k != "per_seed"} | {"worlds": worlds}
    return record | {"variants": variants}


def main(config: AblationConfig) -> None:
    """Run what is missing, one variant after the other; draw at the end."""
    record = started(config)
    path = config.out / "estimator_ablations.json"

    def keep():
        write_json(path, record | {"provenance": provenance()})

    if config.speed and record["speed"] is None:
        record["speed"] = time_speed(config)
        keep()
    for name in config.variants:
        if name not in record["variants"]:
            record["variants"][name] = run(config, name)
            keep()
    result = publishable(json.loads(path.read_text()))
    draw(result["variants"], config.out / "estimator_ablations.png")
    print_table(result["variants"])
    if config.publish:
        publish(result, "estimator_ablations.json")
        publish(config.out / "estimator_ablations.png")


if __name__ == "__main__":
    main(tyro.cli(AblationConfig))
