"""Throughput: physics steps and control steps per second, by dynamics and batch size.

Every environment is in a random push against the object (``parity.sample_pushes``),
so contact is active, and goes back and forth between two targets. The ceiling is
C MuJoCo stepping the ``contact`` scene on all cores through ``mujoco.rollout``.
Control steps are those of the dynamics alone: no observation, reward or reset.

    python -m benchmarks.throughput --out benchmarks/results/throughput.json
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import tyro
from mujoco import rollout

from benchmarks.parity import Settings as ParitySettings
from benchmarks.parity import provenance, sample_pushes
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.contact import ContactConfig, ContactDynamics, driven_scene
from p2r_jax.sim.mjcf import write_physics
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.planar_mjx import PlanarMjxConfig, PlanarMjxDynamics
from p2r_jax.sim.support import support_points
from p2r_jax.types import PhysicsParams, PlanarPose

SCHEMA_VERSION = 1
FRICTION = 0.25


@dataclass(frozen=True)
class Settings:
    """Settings of the throughput benchmark.

    Attributes:
      out: JSON file.
      asset: shipped asset name or folder.
      support, points: kind and number of support points.
      batches: environments in parallel.
      actions: actions per timed call.
      repeats: timed calls; the median counts.
      action_m, dt_s: length and duration of an action.
      pusher_radius_m: radius of the pusher.
      planar, planar_mjx, contact: the dynamics as trained with.
      threads: CPU threads of C MuJoCo; 0 takes every core.
    """

    out: Path = Path("benchmarks/results/throughput.json")
    asset: str = "tblock"
    support: str = "patch"
    points: int = 12
    batches: tuple[int, ...] = (1024, 4096)
    actions: int = 4
    repeats: int = 5
    action_m: float = 0.03
    dt_s: float = 1.0
    pusher_radius_m: float = 0.0125
    planar: PlanarConfig = field(default_factory=PlanarConfig)
    planar_mjx: PlanarMjxConfig = field(default_factory=PlanarMjxConfig)
    contact: ContactConfig = field(default_factory=ContactConfig)
    threads: int = 0


def pushes_for(asset: Asset, batch: int, settings: Settings):
    """Random pushes of a batch; float32."""
    pushes = sample_pushes(
        asset, ParitySettings(pushes=batch, pusher_radius_m=settings.pusher_radius_m)
    )
    return jax.tree.map(jnp.float32, pushes)


def median_rate(call: Callable[[], object], steps: int, repeats: int) -> dict:
    """Steps per second of a blocking call: median and extremes of the repeats."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        rates.append(steps / (time.perf_counter() - start))
    return {"median": float(np.median(rates)), "min": min(rates), "max": max(rates)}


def measure_jax(name: str, dynamics, asset: Asset, batch: int, settings: Settings) -> dict:
    """Compile seconds and rates of one dynamics at one batch size."""
    pushes = pushes_for(asset, batch, settings)
    support = jnp.float32(support_points(asset, settings.support, settings.points))

    def physics_of(weight):
        mass_properties = (jnp.float32(v) for v in asset.with_weight(weight))
        return PhysicsParams(*mass_properties, FRICTION, FRICTION, support)

    physics = jax.vmap(physics_of)(pushes.weight_x)
    cache = jax.jit(jax.vmap(dynamics.derive))(physics)
    poses = PlanarPose(jnp.zeros_like(pushes.ee_xy), pushes.yaw)
    state = jax.vmap(dynamics.init)(poses, pushes.ee_xy)
    ahead = pushes.ee_xy + settings.action_m * pushes.direction

    @jax.jit
    def act(physics, cache, state):
        def one(state, index):
            target = jnp.where(index % 2 == 0, ahead, pushes.ee_xy)
            return jax.vmap(dynamics.advance)(physics, cache, state, target), None

        return jax.lax.scan(one, state, jnp.arange(settings.actions))[0]

    start = time.perf_counter()
    compiled = act.lower(physics, cache, state).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(physics, cache, state))
    control = median_rate(
        lambda: jax.block_until_ready(compiled(physics, cache, state)),
        batch * settings.actions, settings.repeats,
    )  # fmt: skip
    substeps = dynamics.config.substeps
    return {
        "dynamics": name,
        "batch": batch,
        "substeps": substeps,
        "compile_s": compile_s,
        "control_steps_per_s": control,
        "physics_steps_per_s": {k: v * substeps for k, v in control.items()},
    }


def measure_c(asset: Asset, batch: int, settings: Settings) -> dict:
    """Rates of C MuJoCo on the contact scene, same step size, the first action."""
    config, pushes = settings.contact, pushes_for(asset, batch, settings)
    threads = settings.threads or len(os.sched_getaffinity(0))
    support = support_points(asset, settings.support, settings.points)
    model = driven_scene(
        asset, support, settings.pusher_radius_m, config.scene(settings.dt_s),
        config.pusher_armature,
    )  # fmt: skip
    write_physics(model, *asset.with_weight(0.0), FRICTION, FRICTION)
    workers = [mujoco.MjData(model) for _ in range(threads)]
    start = np.zeros((batch, 1 + model.nq + model.nv))
    half = np.asarray(pushes.yaw) / 2
    start[:, 3], start[:, 4], start[:, 7] = asset.height_m / 2, np.cos(half), np.sin(half)
    start[:, 8:10] = pushes.ee_xy
    start[:, 16:18] = pushes.direction * settings.action_m / settings.dt_s
    with rollout.Rollout(nthread=threads) as pool:

        def act():
            pool.rollout(model, workers, start, nstep=config.substeps)

        act()
        physics = median_rate(act, batch * config.substeps, settings.repeats)
    return {
        "dynamics": "C MuJoCo (contact scene)",
        "batch": batch,
        "substeps": config.substeps,
        "threads": threads,
        "compile_s": 0.0,
        "control_steps_per_s": {k: v / config.substeps for k, v in physics.items()},
        "physics_steps_per_s": physics,
    }


def table(rows: list[dict]) -> str:
    """Markdown table of the medians."""
    lines = [
        "| dynamics | batch | substeps | compile s | physics steps/s | control steps/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        physics, control = (row[f"{k}_steps_per_s"]["median"] for k in ("physics", "control"))
        lines.append(
            f"| {row['dynamics']} | {row['batch']} | {row['substeps']} "
            f"| {row['compile_s']:.1f} | {physics:,.0f} | {control:,.0f} |"
        )
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Measure, print the table, write JSON."""
    record = {"schema": SCHEMA_VERSION, "kind": "throughput", "provenance": provenance()}
    asset = load_asset(settings.asset)
    arguments = (asset, settings.pusher_radius_m, settings.dt_s)
    dynamics = {
        "planar": PlanarDynamics(*arguments, settings.planar),
        "planar_mjx": PlanarMjxDynamics(*arguments, settings.planar_mjx),
        "contact": ContactDynamics(
            *arguments, replace(settings.contact, support_count=settings.points)
        ),
    }
    rows = []
    for batch in settings.batches:
        for name, scene in dynamics.items():
            rows.append(measure_jax(name, scene, asset, batch, settings))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        rows.append(measure_c(asset, batch, settings))
    print(table(rows))
    chosen = {**asdict(settings), "out": settings.out.name}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(
        json.dumps({**record, "settings": chosen, "rows": rows}, indent=1) + "\n"
    )
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
