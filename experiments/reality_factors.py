"""Which difference between training and reality costs a policy its success?

    python experiments/reality_factors.py --out runs/factors --publish
    python experiments/reality_factors.py --out runs/factors-hammer --task push_hammer \\
        --where hammer --trials 60 --publish

``reality-dev`` with one factor at a time as hard as such things are in ``reality-test``:
support, off-axis centre of mass, pusher friction, lag, noise. Nothing is chosen from the
outcome; it explains the published tables. Finished cells are kept, so a killed run goes on
where it was.
"""

import itertools
from dataclasses import dataclass, replace

import tyro
from cells import Cells, CellsConfig
from published import publish

from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import Checkpoints, condition
from p2r_jax.evaluation.outcomes import as_json, summarize
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.reality import REALITY_DEV, REALITY_TEST, Reality
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task

FACTORS = {
    "none": (),
    "support": ("support",),
    "off-axis CoM": ("off_axis_com_m",),
    "pusher friction": ("pusher_friction",),
    "lag": ("servo",),
    "noise": ("position_noise_m", "yaw_noise_rad", "ee_noise_m"),
}


@dataclass(frozen=True)
class FactorConfig(CellsConfig):
    """How much of it; see also ``CellsConfig``.

    Attributes:
      where: condition by name.
      methods: by name.
      trials: per cell.
      seed: of the trials; not the published tables'.
    """

    task: str = "push_tblock"
    where: str = "top"
    methods: tuple[str, ...] = ("privileged", "fused", "rma-only", "dr")
    trials: int = 16
    seed: int = 1


def run_factor(
    config: FactorConfig, task: Task, checkpoints: Checkpoints, factor: str, name: str
) -> dict:
    """Outcome of a method in ``reality-dev`` with one factor as in ``reality-test``."""
    harder = {field: getattr(REALITY_TEST, field) for field in FACTORS[factor]}
    world = replace(REALITY_DEV, name=f"reality-dev with {factor}", **harder)
    place = condition(config.where)
    trials = draw_trials(task, place.mass_properties(task.object), config.trials, config.seed)
    prior = load_prior(place.prior, task)
    return summarize(run_cell(name, Reality(world, task, trials), checkpoints, task, prior), task)


def summary(config: FactorConfig, cells: list[dict]) -> list[dict]:
    """A row per factor and method: success of every seed, its mean with an interval."""
    found = {(c["factor"], c["method"], c["seed"]): c["hardware"]["value"] for c in cells}
    rows = []
    for factor, name in itertools.product(FACTORS, config.methods):
        own = [found[factor, name, seed] for seed in config.seeds]
        rows.append({"factor": factor, "method": name, "per_seed": own,
                     "hardware": as_json(mean_over_seeds(own))})  # fmt: skip
    return rows


def main(config: FactorConfig) -> None:
    """Run every method under every factor."""
    task = load_task(config.task)
    settings = {"schema": 2, "task": config.task, "where": config.where, "trials": config.trials,
                "trial_seed": config.seed,
                "versions": [REALITY_DEV.version, REALITY_TEST.version]}  # fmt: skip
    keys = ("seed", "factor", "method")
    cells = Cells(config.out / "factors.json", settings, keys, config.overwrite)
    for seed in config.seeds:
        checkpoints = config.load(seed, task, config.methods)
        for factor, name in itertools.product(FACTORS, config.methods):
            if (seed, factor, name) in cells:
                continue
            found = run_factor(config, task, checkpoints, factor, name)
            cells.add({"seed": seed, "factor": factor, "method": name} | found)
            rate, rmse = 100 * found["hardware"]["value"], found["theta_rmse_m"]["estimate"]
            told = "" if rmse is None else f"  estimate RMSE {100 * rmse:.2f} cm"
            print(f"seed {seed} | {factor:16} {name:11} {rate:4.0f} %{told}", flush=True)
    record = cells.write(seeds=config.seeds, rows=summary(config, cells.found))
    if config.publish:
        publish(record, f"factors_{config.task}.json")


if __name__ == "__main__":
    main(tyro.cli(FactorConfig))
