"""Parity: how far each dynamics ends from C MuJoCo after one random push.

The judge is C MuJoCo: a free body on the same support points, elliptic cones, 1 ms
steps, an exactly driven pusher; every push that touches the object counts
(``benchmarks.pushes``). Four questions: which support (first task), which object
(each task at its own pushing speed, and all at 3 cm/s, where the cost of the limit
surface shows), how fast, and with how many substeps.

    python -m benchmarks.parity --out benchmarks/results/parity.json
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.parity_report import plot, table
from benchmarks.pushes import Judge, Pushes, errors, push_in, push_in_judge, sample_pushes
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.contact import ContactDynamics
from p2r_jax.sim.planar import PlanarDynamics
from p2r_jax.sim.planar_mjx import PlanarMjxDynamics
from p2r_jax.sim.support import SUPPORTS, support_points
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import PlanarPose

SCHEMA_VERSION = 2
QUASI_STATIC = (0.03, 0.03)  # m, m/s
STIFFER = Judge(table_time_s=0.005, pusher_time_s=0.004)  # contacts twice to four times as quick
TARGETS = {  # (mm, deg), of the dynamics as trained with
    "contact": {"median": (0.5, 0.3)},
    "planar points": {"median": (1.0, 1.0), "p95": (3.0, 4.0)},
}


@dataclass(frozen=True)
class Settings:
    """Settings of the parity benchmark.

    Attributes:
      out: JSON file; the plot goes next to it.
      tasks: objects; supports, speeds and substeps are swept on the first.
      pushes: random pushes per cell.
      seed: of the pushes.
      judge: C MuJoCo.
      speeds_mps: of the speed sweep.
      substeps: per push, of the substep sweep.
    """

    out: Path = Path("benchmarks/results/parity.json")
    tasks: tuple[str, ...] = ("push_tblock", "push_triangle", "push_hammer")
    pushes: int = 200
    seed: int = 0
    judge: Judge = field(default_factory=Judge)
    speeds_mps: tuple[float, ...] = (0.015, 0.03, 0.075, 0.15, 0.30, 0.50)
    substeps: tuple[int, ...] = (5, 10, 20, 50, 100, 200)


class Bench:
    """One task's pushes in all dynamics and in the judge."""

    def __init__(self, task: Task, settings: Settings, bar: tqdm):
        """Draw the pushes."""
        self.task, self.settings, self.bar = task, settings, bar
        self.pushes: Pushes = sample_pushes(task, settings.pushes, settings.seed)
        self.still = PlanarPose(np.zeros_like(self.pushes.ee_xy), self.pushes.yaw)
        self.push_m = task.action_scale_m
        self.speed_mps = task.action_scale_m / task.control_period_s
        points = replace(task.planar, table_friction="points")
        ellipsoid = replace(task.planar, table_friction="ellipsoid")
        contact = replace(task.contact, support_count=task.physics.support_count)
        self.candidates = {
            "planar points": (PlanarDynamics, points),
            "planar ellipsoid": (PlanarDynamics, ellipsoid),
            "planar_mjx": (PlanarMjxDynamics, task.planar_mjx),
            "contact": (ContactDynamics, contact),
        }

    def support(self, kind: str) -> np.ndarray:
        """Support points of a kind, as many as the task has."""
        return support_points(self.task.object, kind, self.task.physics.support_count)

    @functools.cache  # noqa: B019 -- a benchmark's objects live as long as the process
    def truth(self, kind: str, push_m: float, speed_mps: float, judge: Judge) -> PlanarPose:
        """The judge's poses after the pushes."""
        self.bar.update()
        args = (self.pushes, self.support(kind), push_m, speed_mps, judge)
        return push_in_judge(self.task, *args)

    @functools.cache  # noqa: B019
    def _dynamics(self, name: str, duration_s: float, substeps: int):
        make, config = self.candidates[name]
        config = replace(config, substeps=substeps)
        return make(self.task.object, self.task.pusher_radius_m, duration_s, config)

    def pose(self, name: str, kind: str, push_m: float, speed_mps: float, substeps=None):
        """Poses after the pushes in one of our dynamics."""
        self.bar.update()
        substeps = substeps or self.candidates[name][1].substeps
        dynamics = self._dynamics(name, push_m / speed_mps, substeps)
        return push_in(dynamics, self.pushes, self.support(kind), push_m)

    def rows(self, kind: str, push_m: float, speed_mps: float) -> dict:
        """Errors of every dynamics, beside the motion itself and the judge's own doubts."""
        push, judge = (kind, push_m, speed_mps), self.settings.judge
        truth = self.truth(*push, judge)
        finer = self.truth(*push, replace(judge, timestep_s=judge.timestep_s / 2))
        stiffer = self.truth(*push, replace(STIFFER, timestep_s=judge.timestep_s / 2))
        poses = {name: self.pose(name, *push) for name in self.candidates}
        return {
            "motion": errors(self.still, truth),
            "judge, half its step": errors(finer, truth),
            "judge, stiffer contacts": errors(stiffer, truth),
            **{name: errors(pose, truth) for name, pose in poses.items()},
            "planar points against the stiffer judge": errors(poses["planar points"], stiffer),
        }

    def by_speed(self) -> dict:
        """At each speed: dynamics against C at that speed, and C against C at 3 cm/s."""
        kind, push_m = self.task.physics.support, self.push_m
        slow = self.truth(kind, push_m, QUASI_STATIC[1], self.settings.judge)
        rows = {"C at this speed against C at 3 cm/s": [], "planar points": [], "contact": []}
        for speed in self.settings.speeds_mps:
            here = self.truth(kind, push_m, speed, self.settings.judge)
            rows["C at this speed against C at 3 cm/s"].append(
                {"speed_mps": speed, **errors(here, slow)}
            )
            for name in ("planar points", "contact"):
                pose = self.pose(name, kind, push_m, speed)
                rows[name].append({"speed_mps": speed, **errors(pose, here)})
        return rows

    def by_substeps(self) -> dict:
        """Error against the judge by the number of substeps."""
        push = (self.task.physics.support, self.push_m, self.speed_mps)
        truth = self.truth(*push, self.settings.judge)
        return {
            name: [
                {"substeps": n, **errors(self.pose(name, *push, substeps=n), truth)}
                for n in self.settings.substeps
            ]
            for name in ("planar points", "planar ellipsoid", "contact")
        }


def measure(settings: Settings) -> dict:
    """All errors: by support, by task, by speed, by substeps."""
    with tqdm(desc="parity", unit=" cells") as bar:
        benches = [Bench(load_task(name), settings, bar) for name in settings.tasks]
        first = benches[0]
        own = {b.task.name: (b.task.physics.support, b.push_m, b.speed_mps) for b in benches}
        return {
            "by_support": {
                kind: first.rows(kind, first.push_m, first.speed_mps) for kind in SUPPORTS
            },
            "by_task": {b.task.name: b.rows(*own[b.task.name]) for b in benches},
            "by_task_quasi_static": {
                b.task.name: b.rows(b.task.physics.support, *QUASI_STATIC) for b in benches
            },
            "pushes": {name: list(push) for name, push in own.items()},
            "by_speed": first.by_speed(),
            "by_substeps": first.by_substeps(),
        }


def verdicts(cells: dict) -> dict:
    """Whether each target is met in every cell: {dynamics: {statistic: bool}}."""

    def met(row, statistic, mm, deg):
        return row["position_mm"][statistic] <= mm and row["yaw_deg"][statistic] <= deg

    return {
        name: {
            statistic: all(met(rows[name], statistic, *limit) for rows in cells.values())
            for statistic, limit in wanted.items()
        }
        for name, wanted in TARGETS.items()
    }


def main(settings: Settings) -> None:
    """Measure, print the tables, write JSON and plot."""
    record = {"schema": SCHEMA_VERSION, "kind": "parity", "provenance": provenance()}
    record["settings"] = as_record(replace(settings, out=Path(settings.out.name)))
    record |= measure(settings)
    groups = ("by_support", "by_task", "by_task_quasi_static")
    record["targets"] = {"wanted": TARGETS, "met": {g: verdicts(record[g]) for g in groups}}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    plot(record, settings.out.with_suffix(".png"))
    for group in groups:
        print(f"\n{group}\n{table(record[group])}")
        print("targets met in every cell:", record["targets"]["met"][group])
    print(f"written: {settings.out} and {settings.out.with_suffix('.png').name}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
