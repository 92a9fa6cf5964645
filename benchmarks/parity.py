"""Parity: how far each dynamics ends from C MuJoCo after one random 3 cm push.

The judge is C MuJoCo: a free body on the same support points, elliptic cones,
1 ms steps, an exactly driven pusher at 3 cm/s. Pushes vary in weight position
(hence CoM, mass, inertia), friction of table and pusher, yaw, contact point and
direction; every push that touches the object counts.

    python -m benchmarks.parity --out benchmarks/results/parity.json
"""

import functools
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.contact import ContactConfig, ContactDynamics, driven_scene, push_in_c
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.mjcf import SceneOptions, write_physics
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.planar_mjx import PlanarMjxConfig, PlanarMjxDynamics
from p2r_jax.sim.support import SUPPORTS, support_points
from p2r_jax.types import PhysicsParams, PlanarPose

SCHEMA_VERSION = 1
START_GAP_M = 5e-4  # the pusher starts this far from the object
JUDGE_ARMATURE_KG = 1e5  # contact forces of ~1 N change its speed by 1e-5 m/s per second
SWEEP_SUPPORT = "patch"  # the sweeps use one support
TARGETS = {  # (mm, deg), of the dynamics as trained with
    "contact": {"median": (0.5, 0.3)},
    "planar points": {"median": (1.0, 1.0), "p95": (3.0, 4.0)},
}


@dataclass(frozen=True)
class Settings:
    """Settings of the parity benchmark.

    Attributes:
      out: JSON file; the plot goes next to it.
      asset: shipped asset name or folder.
      pushes: random pushes per support.
      seed: of the pushes.
      points: support points.
      push_m, speed_mps: length and speed of the judged push.
      pusher_radius_m: radius of the pusher.
      judge_step_s: physics step of the judge.
      weight_x_m, friction, offset_m: ranges of weight position, of both friction
        coefficients, and of the lateral offset of the push from the object's origin.
      planar, planar_mjx, contact: the dynamics under test, as trained with.
      speeds_mps: speeds of the speed sweep (contact steps of ``speed_step_s``).
      substeps: substeps per push of the substep sweep.
      threads: CPU threads of the judge.
    """

    out: Path = Path("benchmarks/results/parity.json")
    asset: str = "tblock"
    pushes: int = 200
    seed: int = 0
    points: int = 12
    push_m: float = 0.03
    speed_mps: float = 0.03
    pusher_radius_m: float = 0.0125
    judge_step_s: float = 0.001
    weight_x_m: tuple[float, float] = (-0.13, 0.13)
    friction: tuple[float, float] = (0.15, 0.35)
    offset_m: tuple[float, float] = (-0.1, 0.1)
    planar: PlanarConfig = field(default_factory=PlanarConfig)
    planar_mjx: PlanarMjxConfig = field(default_factory=PlanarMjxConfig)
    contact: ContactConfig = field(default_factory=ContactConfig)
    speeds_mps: tuple[float, ...] = (0.015, 0.03, 0.075, 0.15, 0.30)
    speed_step_s: float = 0.005
    substeps: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    threads: int = 2


class Pushes(NamedTuple):
    """Random pushes, world frame with the object's origin at zero.

    Attributes:
      weight_x: position of the weight, object frame, m.
      friction: of table and pusher.
      yaw: of the object, rad.
      ee_xy: pusher centre, ``START_GAP_M`` from the object.
      direction: unit vector.
    """

    weight_x: np.ndarray
    friction: np.ndarray
    yaw: np.ndarray
    ee_xy: np.ndarray
    direction: np.ndarray


def sample_pushes(asset: Asset, settings: Settings) -> Pushes:
    """Pushers that come from all around and stop just before they touch."""
    rng = np.random.default_rng(settings.seed)
    chosen, found = [], 0
    while found < settings.pushes:
        n = settings.pushes
        yaw, angle = rng.uniform(-np.pi, np.pi, (2, n))
        offset = rng.uniform(*settings.offset_m, n)
        direction = np.stack([np.cos(angle), np.sin(angle)], -1)
        ee = np.stack([-direction[:, 1], direction[:, 0]], -1) * offset[:, None] - 0.25 * direction
        for _ in range(200):
            gap = _gap(asset, yaw, ee) - settings.pusher_radius_m
            ee = ee + direction * np.maximum(gap - START_GAP_M, 0.0)[:, None]
        hit = np.abs(gap - START_GAP_M) < 1e-5
        weight = rng.uniform(*settings.weight_x_m, n)
        friction = rng.uniform(*settings.friction, (n, 2))
        chosen.append(Pushes(*(x[hit] for x in (weight, friction, yaw, ee, direction))))
        found += int(hit.sum())
    return Pushes(*(np.concatenate(x)[: settings.pushes] for x in zip(*chosen, strict=True)))


def _gap(asset: Asset, yaw: np.ndarray, point: np.ndarray) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    local = np.stack([c * point[:, 0] + s * point[:, 1], c * point[:, 1] - s * point[:, 0]], -1)
    return signed_distance(asset.parts, local, np)


def judge(
    asset: Asset,
    pushes: Pushes,
    support: np.ndarray,
    settings: Settings,
    step_s: float | None = None,
    speed_mps: float | None = None,
) -> PlanarPose:
    """Poses after the pushes in C MuJoCo."""
    speed = speed_mps or settings.speed_mps
    # 10 line-search steps leave some pushes unconverged, millimetres off; 20 are enough
    options = SceneOptions(
        timestep_s=step_s or settings.judge_step_s, iterations=100, ls_iterations=50
    )
    models = []
    for weight, friction in zip(pushes.weight_x, pushes.friction, strict=True):
        model = driven_scene(asset, support, settings.pusher_radius_m, options, JUDGE_ARMATURE_KG)
        model.opt.tolerance, model.stat.meaninertia = 1e-10, asset.mass_kg
        write_physics(model, *asset.with_weight(weight), *friction)
        models.append(model)
    start = PlanarPose(np.zeros_like(pushes.ee_xy), pushes.yaw)
    velocity, duration = pushes.direction * speed, settings.push_m / speed
    return push_in_c(models, start, pushes.ee_xy, velocity, duration, settings.threads)


@functools.partial(jax.jit, static_argnames=("dynamics", "asset", "push_m"))
def simulate(dynamics, asset: Asset, pushes: Pushes, support: np.ndarray, push_m: float):
    """Poses after the pushes in one of our dynamics, one action per push."""

    def one(weight, friction, yaw, ee, direction):
        mass_properties = (jnp.asarray(v, jnp.float32) for v in asset.with_weight(weight))
        physics = PhysicsParams(*mass_properties, *friction, support)
        state = dynamics.init(PlanarPose(jnp.zeros(2), yaw), ee)
        state = dynamics.advance(physics, dynamics.derive(physics), state, ee + push_m * direction)
        return state.pose

    return jax.vmap(one)(*pushes)


def errors(pose: PlanarPose, truth: PlanarPose) -> dict:
    """Median and 95th percentile of the distance in position (mm) and yaw (deg)."""
    position = np.linalg.norm(pose.xy - truth.xy, axis=-1) * 1e3
    yaw = np.degrees(np.abs((pose.yaw - truth.yaw + np.pi) % (2 * np.pi) - np.pi))

    def summary(x):
        return {"median": float(np.median(x)), "p95": float(np.quantile(x, 0.95))}

    return {"position_mm": summary(position), "yaw_deg": summary(yaw)}


def measure(settings: Settings) -> dict:
    """All errors: by support and dynamics, by speed, by substeps."""
    asset = load_asset(settings.asset)
    pushes = sample_pushes(asset, settings)
    radius, push_m = settings.pusher_radius_m, settings.push_m
    duration = push_m / settings.speed_mps
    ellipsoid = replace(settings.planar, table_friction="ellipsoid")
    candidates = {
        "planar points": (PlanarDynamics, replace(settings.planar, table_friction="points")),
        "planar ellipsoid": (PlanarDynamics, ellipsoid),
        "planar_mjx": (PlanarMjxDynamics, settings.planar_mjx),
        "contact": (ContactDynamics, replace(settings.contact, support_count=settings.points)),
    }

    @functools.cache
    def dynamics(name, duration_s, substeps):
        make, config = candidates[name]
        return make(asset, radius, duration_s, replace(config, substeps=substeps))

    def run(name, support, duration_s=duration, substeps=None):
        scene = dynamics(name, duration_s, substeps or candidates[name][1].substeps)
        moved = simulate(scene, asset, *jax.tree.map(jnp.float32, (pushes, support)), push_m)
        return jax.device_get(moved)

    still = PlanarPose(np.zeros_like(pushes.ee_xy), pushes.yaw)
    work = len(SUPPORTS) * (2 + len(candidates)) + 2 * len(settings.speeds_mps)
    bar = tqdm(total=work + 3 * len(settings.substeps), desc="parity")
    by_support, truths = {}, {}
    for kind in SUPPORTS:
        support = support_points(asset, kind, settings.points)
        truth = truths[kind] = judge(asset, pushes, support, settings)
        finer = judge(asset, pushes, support, settings, step_s=settings.judge_step_s / 2)
        rows = {"motion": errors(still, truth), "judge noise": errors(finer, truth)}
        bar.update(2)
        for name in candidates:
            rows[name] = errors(run(name, support), truth)
            bar.update()
        by_support[kind] = rows

    support = support_points(asset, SWEEP_SUPPORT, settings.points)
    truth = truths[SWEEP_SUPPORT]
    by_speed = {"C": [], "contact": []}
    for speed in settings.speeds_mps:
        fast = judge(asset, pushes, support, settings, speed_mps=speed)
        by_speed["C"].append({"speed_mps": speed, **errors(fast, truth)})
        substeps = round(push_m / speed / settings.speed_step_s)
        ours = run("contact", support, push_m / speed, substeps=substeps)
        by_speed["contact"].append(
            {"speed_mps": speed, "substeps": substeps, **errors(ours, truth)}
        )
        bar.update(2)

    by_substeps = {}
    for name in ("planar points", "planar ellipsoid", "contact"):
        by_substeps[name] = []
        for n in settings.substeps:
            row = {"substeps": n, **errors(run(name, support, substeps=n), truth)}
            by_substeps[name].append(row)
            bar.update()
    bar.close()
    return {"by_support": by_support, "by_speed": by_speed, "by_substeps": by_substeps}


def verdicts(by_support: dict) -> dict:
    """Whether each target is met on every support: {dynamics: {statistic: bool}}."""

    def met(row, statistic, mm, deg):
        return row["position_mm"][statistic] <= mm and row["yaw_deg"][statistic] <= deg

    return {
        name: {
            statistic: all(met(rows[name], statistic, *limit) for rows in by_support.values())
            for statistic, limit in wanted.items()
        }
        for name, wanted in TARGETS.items()
    }


def provenance() -> dict:
    """Device, versions and commit of a measurement; to be called before it."""

    def git(*arguments):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("jax", "jaxlib", "mujoco", "mujoco-mjx", "numpy")},
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("diff", "HEAD", "--name-only", "*.py")),
    }


def table(by_support: dict) -> str:
    """Markdown table of the errors by support and dynamics."""
    lines = [
        "| support | | median mm | p95 mm | median deg | p95 deg |",
        "|---|---|---|---|---|---|",
    ]
    for kind, rows in by_support.items():
        for name, row in rows.items():
            mm, deg = row["position_mm"], row["yaw_deg"]
            cells = (mm["median"], mm["p95"], deg["median"], deg["p95"])
            lines.append(f"| {kind} | {name} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    return "\n".join(lines)


def plot(results: dict, settings: Settings, file: Path) -> None:
    """Errors by support, by speed and by substeps; position above, yaw below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_support, colors = results["by_support"], plt.get_cmap("tab10").colors
    names = ["judge noise", *(n for n in by_support["patch"] if n not in ("motion", "judge noise"))]
    color = dict(zip([*names, "C"], colors, strict=False))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for row, (key, label) in enumerate((("position_mm", "position, mm"), ("yaw_deg", "yaw, deg"))):
        bars, speed, steps = axes[row]
        for i, name in enumerate(names):
            cells = [by_support[kind][name][key] for kind in SUPPORTS]
            x = np.arange(len(SUPPORTS)) + (i - len(names) / 2 + 0.5) * 0.16
            bars.bar(x, [c["median"] for c in cells], 0.15, color=color[name], label=name)
            bars.plot(x, [c["p95"] for c in cells], "_", color=color[name], ms=11, mew=2)
        bars.set_xticks(range(len(SUPPORTS)), SUPPORTS)
        for name, rows in results["by_speed"].items():
            x = [100 * r["speed_mps"] for r in rows]
            speed.plot(x, [r[key]["median"] for r in rows], "o-", color=color[name], label=name)
            speed.plot(x, [r[key]["p95"] for r in rows], ":", color=color[name])
        speed.axvline(100 * settings.speed_mps, color="0.6", lw=1, zorder=0)
        speed.set_xscale("log")
        speed.set_xticks([100 * v for v in settings.speeds_mps], minor=False)
        speed.set_xticks([], minor=True)
        speed.set_xticklabels([f"{100 * v:g}" for v in settings.speeds_mps])
        for name, rows in results["by_substeps"].items():
            x = [r["substeps"] for r in rows]
            steps.plot(x, [r[key]["median"] for r in rows], "o-", color=color[name], label=name)
            steps.plot(x, [r[key]["p95"] for r in rows], ":", color=color[name])
        steps.set_xscale("log")
        steps.set_yscale("log")
        bars.set_ylabel(f"error in {label}")
    axes[0, 0].set_title("by support (bar: median, dash: p95)")
    axes[0, 1].set_title(f"by pushing speed, {SWEEP_SUPPORT} (dotted: p95)")
    axes[0, 2].set_title(f"by substeps per push, {SWEEP_SUPPORT}")
    axes[1, 1].set_xlabel("cm/s (line: the speed trained at)")
    axes[1, 2].set_xlabel("physics steps per 3 cm push")
    for axis in axes[0]:
        axis.legend(fontsize=8)
    figure.suptitle(
        f"One {100 * settings.push_m:g} cm push against C MuJoCo at "
        f"{100 * settings.speed_mps:g} cm/s, {settings.pushes} random pushes of {settings.asset}"
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Measure, print the table, write JSON and plot."""
    record = {"schema": SCHEMA_VERSION, "kind": "parity", "provenance": provenance()}
    results = measure(settings)
    results["targets"] = {"wanted": TARGETS, "met": verdicts(results["by_support"])}
    chosen = {**asdict(settings), "out": settings.out.name}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps({**record, "settings": chosen, **results}, indent=1) + "\n")
    plot(results, settings, settings.out.with_suffix(".png"))
    print(table(results["by_support"]))
    print("targets met on every support:", results["targets"]["met"])
    print(f"written: {settings.out} and {settings.out.with_suffix('.png').name}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
