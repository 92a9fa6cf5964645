"""Do five chosen pushes say more than five random ones? In simulation and on real pushes.

    python experiments/informative_pushes.py --out experiments/results/informative_pushes.json

Every trial draws a pool of pushes. The chosen five are picked one after the other: each by the
expected gain under the posterior of those before it, from its start and the tool's way alone
(``p2r_jax.estimator.informative``); what a push led to is read only after it was chosen. The
random ones are random fives of the same pool. Evidence is force. The real pools are subsets of
the 50 recorded pushes of a condition (the truth is nominal and the same in all of them); the
simulated ones have a centre of mass, feet and noise of their own, drawn from the prior.
"""

from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cmu_pushes import CONDITIONS, load_condition
from tqdm import tqdm

from p2r_jax.estimator.hypotheses import DIM
from p2r_jax.estimator.informative import GainConfig, Informative
from p2r_jax.estimator.limit_surface import at_com, friction_wrench
from p2r_jax.estimator.smc import SmcConfig
from p2r_jax.estimator.sysid import Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import Segments, body_twist, segments_of
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.asset import load_asset

RESAMPLES = 2000


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      out: JSON file.
      pushes: how many are chosen.
      pool: candidates per trial.
      trials: per real condition.
      simulated: trials in simulation.
      random: random subsets per trial.
      sysid, gain: settings.
      seed: of pools and subsets.
    """

    out: Path
    pushes: int = 5
    pool: int = 25
    trials: int = 12
    simulated: int = 40
    random: int = 10
    sysid: SysidConfig = field(
        default_factory=lambda: SysidConfig(
            evidence="force", force_sampler=SmcConfig(particles=384, moves=3, last_moves=6)
        )
    )
    gain: GainConfig = field(default_factory=GainConfig)
    seed: int = 0


def choose(sysid: Sysid, informative: Informative, pool: Segments, count: int) -> list[int]:
    """Rows of the pool, chosen one after the other."""
    z, chosen = informative.prior(), []
    for _ in range(count):
        gains = informative.gains(z, pool)
        gains = np.where(np.isin(np.arange(len(gains)), chosen), -np.inf, gains)
        chosen.append(int(np.argmax(gains)))
        z = sysid(padded(pool, chosen, count)).z
    return chosen


def padded(pool: Segments, rows: list[int], count: int) -> Segments:
    """These rows and padding: every number of pushes shares one compilation."""
    filled = rows + [rows[0]] * (count - len(rows))
    return pool.take(np.array(filled)).replace(used=np.arange(count) < len(rows))


def trial(sysid, informative, pool: Segments, truth, rng, config: Config) -> dict:
    """Error (mm) and sigma (mm) of the chosen pushes, and of random ones."""
    chosen = choose(sysid, informative, pool, config.pushes)
    rows = [chosen] + [
        rng.choice(config.pool, config.pushes, replace=False) for _ in range(config.random)
    ]
    found = sysid.many(pool, np.array(rows))
    error = 1000 * np.linalg.norm(np.asarray(found.com_mean) - truth, axis=-1)
    sigma = 1000 * np.sqrt(np.trace(np.asarray(found.com_cov), axis1=-2, axis2=-1) / 2)
    return {"chosen_mm": float(error[0]), "random_mm": error[1:].tolist(),
            "chosen_sigma_mm": float(sigma[0]), "random_sigma_mm": sigma[1:].tolist(),
            "covered": bool(found.covers(truth)[0])}  # fmt: skip


def simulated_pool(sysid: Sysid, key, rng, count: int) -> tuple[Segments, np.ndarray]:
    """Pushes of an object drawn from the prior, and its centre of mass."""
    key_z, key_noise = jax.random.split(key)
    h = sysid.belief.hypothesis(jax.random.normal(key_z, (DIM,)))
    parts, radius = sysid.asset.parts, sysid.replay.tool_radius_m
    corners, path = parts[0].corners, []
    for _ in range(count):
        side = rng.integers(len(corners))
        a, b = corners[side], corners[(side + 1) % len(corners)]
        along = (b - a) / np.linalg.norm(b - a)
        normal = np.array([along[1], -along[0]])
        angle = rng.uniform(-0.5, 0.5)
        way = -np.cos(angle) * normal + np.sin(angle) * along
        touch = a + rng.uniform(0.1, 0.9) * (b - a) + radius * normal
        path.append(touch + np.linspace(0, 0.013, 13)[:, None] * way)
    start, path = np.zeros((count, 3), np.float32), np.array(path, np.float32)
    move = jax.jit(jax.vmap(sysid.replay.final_pose, (None, 0, 0)))
    end = move(h, start, path)
    twist = body_twist(jnp.asarray(start), end, jnp)
    unit = jnp.stack([1.0, 1.0, h.radius])
    noise = h.wrench_noise * jax.random.normal(key_noise, (count, 3)) * unit
    wrench = np.array(h.limit_force * (friction_wrench(h, at_com(h, twist)) + noise))
    com = np.asarray(h.com)
    wrench[:, 2] += com[0] * wrench[:, 1] - com[1] * wrench[:, 0]
    seen = np.asarray(end) + sysid.belief.twist_noise * rng.standard_normal((count, 3))
    return Segments(start, seen.astype(np.float32), path, wrench, np.ones(count, bool)), com


def summary(trials: list[dict], rng) -> dict:
    """Medians, and the difference of mean errors with its 95 % interval over trials."""
    chosen = np.array([t["chosen_mm"] for t in trials])
    random = np.array([t["random_mm"] for t in trials])
    difference = chosen - random.mean(1)
    draws = rng.integers(len(trials), size=(RESAMPLES, len(trials)))
    interval = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    return {
        "trials": len(trials),
        "chosen_median_mm": float(np.median(chosen)),
        "random_median_mm": float(np.median(random)),
        "chosen_mean_mm": float(chosen.mean()),
        "random_mean_mm": float(random.mean()),
        "difference_of_means_mm": float(difference.mean()),
        "interval_95_mm": interval.tolist(),
        "chosen_sigma_median_mm": float(np.median([t["chosen_sigma_mm"] for t in trials])),
        "random_sigma_median_mm": float(np.median([t["random_sigma_mm"] for t in trials])),
        "chosen_coverage_95": float(np.mean([t["covered"] for t in trials])),
    }


def measure(config: Config) -> dict:
    """Tables in simulation, per real condition, and pooled."""
    asset, rng = load_asset("triangle_150"), np.random.default_rng(config.seed)
    logs = {name: load_condition(name) for name in CONDITIONS}
    sysid = Sysid(asset, next(iter(logs.values())).tool_radius_m, config.sysid)
    informative = Informative(sysid, "force", config.gain)
    tables, real = {}, []
    found = []
    keys = jax.random.split(jax.random.key(config.seed), max(config.simulated, 1))
    for key in tqdm(keys[: config.simulated], desc="simulated"):
        pool, com = simulated_pool(sysid, key, rng, config.pool)
        found.append(trial(sysid, informative, pool, com, rng, config))
    if found:
        tables["simulation"] = summary(found, rng)
    for name in CONDITIONS:
        segments, found = segments_of(logs[name], asset), []
        for _ in tqdm(range(config.trials), desc=name):
            pool = segments.take(rng.choice(len(segments.used), config.pool, replace=False))
            found.append(trial(sysid, informative, pool, np.array(asset.com_m[:2]), rng, config))
        tables[name] = summary(found, rng)
        real += found
        write_json(config.out, _record(config, tables))
    tables["real, pooled"] = summary(real, rng)
    return tables


def _record(config: Config, tables: dict) -> dict:
    note = "real: intervals over pools of the same 50 pushes per condition; truth nominal"
    return {"schema": 1, "note": note, "tables": tables, "config": as_record(config)} | provenance()


def main(config: Config) -> None:
    """Measure, print, write the JSON."""
    tables = measure(config)
    for name, row in tables.items():
        low, high = row["interval_95_mm"]
        medians = f"chosen {row['chosen_median_mm']:.2f} random {row['random_median_mm']:.2f} mm"
        difference = f"{row['difference_of_means_mm']:+.2f} [{low:+.2f}, {high:+.2f}]"
        print(f"{name:32} medians: {medians}; means differ by {difference}")
    write_json(config.out, _record(config, tables))


if __name__ == "__main__":
    main(tyro.cli(Config))
