"""Centre of mass from real pushes: error and coverage per condition, with and without force.

    python experiments/com_from_real_pushes.py --out experiments/results/com_from_real_pushes.json

Settings were chosen on ``DEVELOPMENT`` alone. The truth is nominal (centroid of a uniform
triangle) and the same in every condition: only supports and surface change. Plain
limit-surface fits were looked at on all six conditions before the choice.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro
from cmu_pushes import CONDITIONS, load_condition
from tqdm import tqdm

from p2r_jax.estimator.hypotheses import BeliefConfig
from p2r_jax.estimator.sysid import Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import segments_of
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.asset import load_asset

DEVELOPMENT = ("blackboard_patch", "wood_30_63_43_30_43_63", "wood_30_90_30_30_30_90")
PRIOR_SHIFT_M = 0.03


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      out: JSON file.
      pushes: sizes of the subsets.
      subsets, motion_subsets: random subsets per condition, with and without force.
      sysid: the settings.
      seed: of the subsets.
    """

    out: Path
    pushes: tuple[int, ...] = (5, 20)
    subsets: int = 200
    motion_subsets: int = 200
    sysid: SysidConfig = field(default_factory=SysidConfig)
    seed: int = 0


def measure(config: Config) -> dict:
    """Tables per evidence and number of pushes; the shift of the prior with force."""
    asset = load_asset("triangle_150")
    truth = np.array(asset.com_m[:2])
    logs = {name: load_condition(name) for name in CONDITIONS}
    segments = {name: segments_of(log, asset) for name, log in logs.items()}
    radius = next(iter(logs.values())).tool_radius_m
    tables = {}
    for evidence, count in (("force", config.subsets), ("motion", config.motion_subsets)):
        if count == 0:
            continue
        sysid = Sysid(asset, radius, replace(config.sysid, evidence=evidence))
        for pushes in config.pushes:
            rows, errors, covered = {}, [], []
            for name in tqdm(CONDITIONS, desc=f"{evidence}, {pushes} pushes"):
                rng = np.random.default_rng(config.seed)
                total = len(segments[name].used)
                picks = np.stack([rng.choice(total, pushes, replace=False) for _ in range(count)])
                found = sysid.many(segments[name], picks)
                error = 1000 * np.linalg.norm(np.asarray(found.com_mean) - truth, axis=-1)
                inside = np.asarray(found.covers(truth))
                errors.append(error)
                covered.append(inside)
                sd = 1000 * np.sqrt(np.trace(np.asarray(found.com_cov), axis1=-2, axis2=-1) / 2)
                rows[name] = _row(error, inside) | {
                    "sigma_mm": float(np.median(sd)),
                    "friction_radius_mm": float(1000 * np.median(np.asarray(found.radius))),
                    "development": name in DEVELOPMENT,
                }
            rows["pooled"] = _row(np.concatenate(errors), np.concatenate(covered))
            tables[f"{evidence}-{pushes}"] = rows
            write_json(config.out, _record(config, tables))
            print(f"{evidence}, {pushes} pushes: {rows['pooled']}")
    return tables


def prior_shift(config: Config) -> dict:
    """How far the 20-push estimate moves when the flat prior moves by 30 mm, mm."""
    asset = load_asset("triangle_150")
    rng, moves = np.random.default_rng(config.seed), []
    logs = {name: load_condition(name) for name in CONDITIONS}
    radius = next(iter(logs.values())).tool_radius_m
    variants = [
        replace(config.sysid, belief=BeliefConfig(com_shift_m=shift), evidence="force")
        for shift in ((0.0, 0.0), (PRIOR_SHIFT_M, 0.0))
    ]
    sysids = [Sysid(asset, radius, variant) for variant in variants]
    for log in logs.values():
        segments = segments_of(log, asset)
        picks = np.stack([rng.choice(len(segments.used), 20, replace=False) for _ in range(8)])
        plain, moved = (np.asarray(s.many(segments, picks).com_mean) for s in sysids)
        moves.append(1000 * np.linalg.norm(moved - plain, axis=-1))
    moves = np.concatenate(moves)
    return {"median_mm": float(np.median(moves)), "largest_mm": float(moves.max())}


def _row(error: np.ndarray, inside: np.ndarray) -> dict:
    return {
        "subsets": int(error.size),
        "median_error_mm": float(np.median(error)),
        "p90_error_mm": float(np.quantile(error, 0.9)),
        "coverage_95": float(inside.mean()),
    }


def _record(config: Config, tables: dict) -> dict:
    return {
        "schema": 1,
        "truth": "nominal: centroid of a uniform triangle; the same in every condition",
        "tables": tables,
        "config": as_record(config),
    } | provenance()


def main(config: Config) -> None:
    """Measure, write the JSON."""
    record = _record(config, measure(config))
    if config.subsets:
        record["prior_shift"] = prior_shift(config)
    write_json(config.out, record)


if __name__ == "__main__":
    main(tyro.cli(Config))
