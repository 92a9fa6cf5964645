"""Which difference between training and reality costs a policy its success?

    python experiments/reality_factors.py --out runs/factors

``reality-dev`` with one factor at a time as hard as such things are in
``reality-test``: support, off-axis centre of mass, pusher friction, lag and noise.
Nothing is chosen from the outcome; it explains the published table.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from p2r_jax.evaluation.evaluate import run_cell
from p2r_jax.evaluation.methods import condition, load_checkpoints
from p2r_jax.evaluation.outcomes import summarize
from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.reality import REALITY_DEV, REALITY_TEST, Reality
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task

FACTORS = {
    "none": (),
    "support": ("support",),
    "off-axis CoM": ("off_axis_com_m",),
    "pusher friction": ("pusher_friction",),
    "lag and noise": ("servo", "position_noise_m", "yaw_noise_rad", "ee_noise_m"),
}


@dataclass(frozen=True)
class FactorConfig:
    """How much of it.

    Attributes:
      out: folder for ``factors.json``.
      methods: by name.
      where: weight position.
      trials: per method and factor.
      seed: of the trials; not the published table's.
    """

    out: Path
    methods: tuple[str, ...] = ("privileged", "fused", "rma-only", "dr")
    where: str = "top"
    trials: int = 24
    seed: int = 1


def main(config: FactorConfig) -> None:
    """Run every method under every factor and print success at the end."""
    new_folder(config.out)
    task = load_task("push_tblock")
    checkpoints = load_checkpoints(None, task, config.methods)
    place = condition(config.where)
    prior = load_prior(place.prior, task)
    rows = []
    for factor, fields in FACTORS.items():
        harder = {name: getattr(REALITY_TEST, name) for name in fields}
        world = replace(REALITY_DEV, name=f"reality-dev with {factor}", **harder)
        for name in config.methods:
            masses = place.mass_properties(task.object)
            trials = draw_trials(task, masses, config.trials, config.seed)
            record = run_cell(name, Reality(world, task, trials), checkpoints, task, prior)
            summary = summarize(record, task)
            rows.append({"factor": factor, "method": name, **summary})
            hardware, rmse = summary["hardware"], summary["theta_rmse_m"]
            print(
                f"{factor:16} {name:17} success {100 * hardware['value']:4.0f} % "
                f"[{100 * hardware['low']:.0f}, {100 * hardware['high']:.0f}]  "
                f"estimate RMSE {100 * rmse['estimate']:.2f} cm",
                flush=True,
            )
            settings = {"where": config.where, "trials": config.trials, "seed": config.seed}
            so_far = {"schema": 1, **settings, "rows": rows, "provenance": provenance()}
            write_json(config.out / "factors.json", so_far)


if __name__ == "__main__":
    main(tyro.cli(FactorConfig))
