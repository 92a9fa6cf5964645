"""Contact dynamics: parity error against speed, over substeps, Newton steps and impedance.

Each setting makes the same random pushes as C MuJoCo (the judge, 1 ms steps, solved to the
end), from an object that has settled as the judge's has; then it is timed on other pushes.
C MuJoCo on all cores, at the step that most settings share, is the ceiling of the same run.

    python -m benchmarks.contact_tradeoff --out benchmarks/results/contact_tradeoff.json
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.ceiling import rate_in_c
from benchmarks.pushes import errors, push_in, push_in_judge, sample_pushes
from benchmarks.timing import rate, repeated
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.contact import ContactConfig, ContactDynamics
from p2r_jax.sim.support import support_points
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import PlanarPose

SCHEMA_VERSION = 1
CURVE = (0.001, 0.5, 2.0)  # width (m), midpoint and power of every impedance
MUJOCO, STIFF, STIFFER = (0.9, 0.95), (0.95, 0.95), (0.98, 0.98)


@dataclass(frozen=True)
class Point:
    """One setting of the curve.

    Attributes:
      substeps: per action.
      iterations, ls_iterations: Newton steps, line-search steps in each.
      impedance: of the pusher's contact, at no depth and at ``CURVE``'s width.
      solver: see ``ContactConfig``.
    """

    substeps: int
    iterations: int
    ls_iterations: int
    impedance: tuple[float, float] = STIFF
    solver: Literal["fused", "mjx"] = "fused"

    def config(self, base: ContactConfig) -> ContactConfig:
        """The task's settings with these."""
        return replace(
            base,
            substeps=self.substeps,
            iterations=self.iterations,
            ls_iterations=self.ls_iterations,
            pusher_solimp=(*self.impedance, *CURVE),
            solver=self.solver,
        )

    @property
    def label(self) -> str:
        """Substeps, Newton and line-search steps, impedance."""
        return f"{self.substeps} x {self.iterations}/{self.ls_iterations}, {self.impedance[0]:g}"


POINTS = (
    *(Point(n, *steps) for n in (30, 50, 100) for steps in ((3, 2), (4, 4))),
    Point(20, 4, 4),
    Point(50, 6, 6),
    Point(200, 4, 4),
    *(Point(n, 4, 4, kind) for n in (50, 100) for kind in (MUJOCO, STIFFER)),
    Point(50, 4, 4, solver="mjx"),
    Point(100, 4, 4, solver="mjx"),
)


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark.

    Attributes:
      out: JSON file; the plot goes next to it.
      tasks: objects, each at its own pushing speed.
      pushes: random pushes per setting.
      seed: of these pushes; 0 is what ``benchmarks.parity`` reports on, so not here.
      batch: environments of the timing.
      repeats: timed samples; the median counts.
    """

    out: Path = Path("benchmarks/results/contact_tradeoff.json")
    tasks: tuple[str, ...] = ("push_tblock", "push_hammer")
    pushes: int = 200
    seed: int = 7
    batch: int = 1024
    repeats: int = 3


def speed(
    dynamics: ContactDynamics, task: Task, support: np.ndarray, settings: Settings
) -> tuple[dict, float]:
    """Control steps per second of a batch, and seconds to compile."""
    pushes = sample_pushes(task, settings.batch, settings.seed + 1)
    physics, ee = pushes.physics(support), jnp.float32(pushes.ee_xy)
    start = PlanarPose(jnp.zeros_like(ee), jnp.float32(pushes.yaw))
    target = jnp.float32(pushes.ee_xy + task.action_scale_m * pushes.direction)
    state = jax.jit(jax.vmap(dynamics.init))(start, ee)
    cache = jax.jit(jax.vmap(dynamics.derive))(physics)
    program = repeated(jax.vmap(dynamics.advance), physics, cache, state, target)
    return rate(program.call, settings.batch, settings.repeats), program.compile_s


def measure(point: Point, task: Task, truth: PlanarPose, settings: Settings) -> dict:
    """One row: errors, rates, compile seconds."""
    support, base = _scene(task)
    args = (task.object, task.pusher_radius_m, task.control_period_s)
    dynamics = ContactDynamics(*args, point.config(base))
    pushes = sample_pushes(task, settings.pushes, settings.seed)
    pose = push_in(dynamics, pushes, support, task.action_scale_m)
    control, compile_s = speed(dynamics, task, support, settings)
    return {
        **asdict(point),
        "label": point.label,
        "default": point.config(base) == base,
        **errors(pose, truth),
        "control_steps_per_s": control,
        "physics_steps_per_s": point.substeps * control["median"],
        "compile_s": compile_s,
    }


def _scene(task: Task) -> tuple[np.ndarray, ContactConfig]:
    count = task.physics.support_count
    support = support_points(task.object, task.physics.support, count)
    return support, replace(task.contact, support_count=count)


def measure_c(task: Task, settings: Settings) -> dict:
    """C MuJoCo with the task's settings on all cores: the same pushes, batch and step."""
    pushes = sample_pushes(task, settings.batch, settings.seed + 1)
    physics = (*(x[0] for x in pushes[:3]), *pushes.friction[0])
    found = rate_in_c(task, pushes, physics, settings.repeats)
    physics_rate = found["substeps"] * found["control_steps_per_s"]["median"]
    return found | {"physics_steps_per_s": physics_rate}


def measure_task(name: str, settings: Settings, bar: tqdm) -> dict:
    """All settings on one task, and the ratio of each to C MuJoCo."""
    task = load_task(name)
    support, base = _scene(task)
    pushes = sample_pushes(task, settings.pushes, settings.seed)
    push_m, speed_mps = task.action_scale_m, task.action_scale_m / task.control_period_s
    truth = push_in_judge(task, pushes, support, push_m, speed_mps)
    ceiling, rows, known = measure_c(task, settings), [], list(POINTS)
    if not any(p.config(base) == base for p in known):
        impedance = (base.pusher_solimp[0], base.pusher_solimp[1])
        known.append(Point(base.substeps, base.iterations, base.ls_iterations, impedance))
    for point in known:
        bar.set_postfix_str(f"{name}: {point.label}")
        row = measure(point, task, truth, settings)
        ratio = row["physics_steps_per_s"] / ceiling["physics_steps_per_s"]
        rows.append(row | {"physics_ratio": ratio})
        bar.update()
    return {"speed_mps": speed_mps, "c_mujoco": ceiling, "rows": rows}


def plot(record: dict, path: Path) -> None:
    """Median and 95th percentile of the error against control steps per second."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = record["tasks"]
    figure, axes = plt.subplots(1, len(tasks), figsize=(7 * len(tasks), 5), squeeze=False)
    for axis, (name, cell) in zip(axes[0], tasks.items(), strict=True):
        for solver, color in (("fused", "C0"), ("mjx", "C1")):
            rows = [r for r in cell["rows"] if r["solver"] == solver]
            x = [r["control_steps_per_s"]["median"] for r in rows]
            median = [r["position_mm"]["median"] for r in rows]
            p95 = [r["position_mm"]["p95"] for r in rows]
            axis.vlines(x, median, p95, color=color, alpha=0.25)
            axis.scatter(x, median, color=color, label=f"{solver}: median, line to p95")
            for row, at, height in zip(rows, x, median, strict=True):
                axis.annotate(
                    row["label"], (at, height), xytext=(4, 2), textcoords="offset points",
                    fontsize=7,
                )  # fmt: skip
                if row["default"]:
                    axis.scatter(
                        at, height, s=180, facecolors="none", edgecolors="k", label="default"
                    )
        ceiling = cell["c_mujoco"]
        axis.axvline(
            ceiling["control_steps_per_s"]["median"], color="0.5", linestyle=":",
            label=f"C MuJoCo, {ceiling['substeps']} substeps, {ceiling['threads']} threads",
        )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="control steps / s", ylabel="error, mm")
        axis.set_title(f"{name} at {100 * cell['speed_mps']:g} cm/s")
        axis.margins(x=0.18, y=0.12)
        axis.legend(fontsize=8, loc="upper left")
    figure.suptitle("labels: substeps x Newton/line-search steps, impedance at the pusher")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def table(cell: dict) -> str:
    """Markdown table of one task."""
    head = "solver", "setting", "median mm", "p95 mm", "median deg", "p95 deg"
    head += "physics steps/s", "control steps/s", "physics / C"
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in cell["rows"]:
        mm, deg = r["position_mm"], r["yaw_deg"]
        lines.append(
            f"| {r['solver']} | {r['label']}{' (default)' * r['default']} | {mm['median']:.3f} "
            f"| {mm['p95']:.2f} | {deg['median']:.3f} | {deg['p95']:.2f} "
            f"| {r['physics_steps_per_s']:,.0f} | {r['control_steps_per_s']['median']:,.0f} "
            f"| {r['physics_ratio']:.2f} |"
        )
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Measure, print the tables, write JSON and plot."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile seconds are of compiling
    record = {"schema": SCHEMA_VERSION, "kind": "contact_tradeoff", "provenance": provenance()}
    record["settings"] = as_record(replace(settings, out=Path(settings.out.name)))
    with tqdm(total=len(settings.tasks) * len(POINTS), desc="contact tradeoff") as bar:
        record["tasks"] = {name: measure_task(name, settings, bar) for name in settings.tasks}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    plot(record, settings.out.with_suffix(".png"))
    for name, cell in record["tasks"].items():
        print(f"\n{name}\n{table(cell)}")
    print(f"written: {settings.out} and {settings.out.with_suffix('.png').name}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
