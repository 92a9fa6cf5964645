"""Centre of mass from real pushes: error and coverage per condition, with or without force.

    cd experiments
    python com_from_real_pushes.py force --out results/com_from_real_pushes.json
    python com_from_real_pushes.py motion --out results/com_from_real_pushes_motion.json

Settings were chosen on ``DEVELOPMENT`` alone (those of ``motion`` by
``choose_motion_noise.py``); "held out" pools the other three. The truth is
nominal (centroid of a uniform triangle) and the same in every condition: only supports and
surface change. Plain limit-surface fits were looked at on all six conditions before the choice,
so the held-out ones are not quite unseen. A picture is written beside the JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cmu_pushes import CONDITIONS, load_condition
from tqdm import tqdm

from p2r_jax.estimator.online import OnlineSysid
from p2r_jax.estimator.push_motion import ReplayConfig
from p2r_jax.estimator.sysid import Evidence, Posterior, Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import Segments, segments_of
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.types import Measurement, PlanarPose

DEVELOPMENT = ("blackboard_patch", "wood_30_63_43_30_43_63", "wood_30_90_30_30_30_90")
HELD_OUT = tuple(name for name in CONDITIONS if name not in DEVELOPMENT)
PRIOR_SHIFT_M = 0.03
MARKS_MM = {"force": {5: 4.5, 20: 3.5}, "motion": {}}
REPEATS = 20  # of a timing


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      evidence: ``force``, or ``motion`` as if force had not been measured.
      out: JSON file; the picture takes its name.
      pushes: sizes of the subsets.
      subsets: random subsets per condition and size.
      table_particles: of the sampler in the tables of ``force``, fewer than one posterior
        has: each estimate carries about half a millimetre of its noise.
      planar_subsets: of ``motion`` with 20 pushes, replayed by the planar dynamics as well.
      shift_subsets: 20-push subsets per condition for the shift of the prior.
      sysid: the settings.
      seed: of the subsets.
    """

    evidence: tyro.conf.Positional[Evidence]
    out: Path
    pushes: tuple[int, ...] = (5, 20)
    subsets: int = 200
    table_particles: int = 1024
    planar_subsets: int = 10
    shift_subsets: int = 10
    sysid: SysidConfig = field(default_factory=SysidConfig)
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """The recorded pushes of all conditions, and the object.

    Attributes:
      asset: the triangle.
      truth: its nominal centre of mass, m.
      radius_m: of the tool.
      segments: by condition.
    """

    asset: Asset
    truth: np.ndarray
    radius_m: float | None
    segments: dict[str, Segments]

    @classmethod
    def load(cls) -> "Data":
        """All conditions."""
        asset = load_asset("triangle_150")
        logs = {name: load_condition(name) for name in CONDITIONS}
        segments = {name: segments_of(log, asset) for name, log in logs.items()}
        radius = next(iter(logs.values())).tool_radius_m
        return cls(asset, np.array(asset.com_m[:2]), radius, segments)

    def sysid(self, config: SysidConfig, evidence: str) -> Sysid:
        """Identification from one kind of evidence."""
        return Sysid(self.asset, self.radius_m, replace(config, evidence=evidence))

    def picks(self, name: str, pushes: int, count: int, seed: int) -> np.ndarray:
        """Random subsets: Int[count, pushes]."""
        rng, total = np.random.default_rng(seed), len(self.segments[name].used)
        return np.stack([rng.choice(total, pushes, replace=False) for _ in range(count)])


def accuracy(data: Data, config: Config) -> dict:
    """Tables by number of pushes: a row per condition, and pooled."""
    sampler = replace(config.sysid.force_sampler, particles=config.table_particles)
    sysid = data.sysid(replace(config.sysid, force_sampler=sampler), config.evidence)
    tables = {}
    for pushes in config.pushes:
        errors, inside, rows = {}, {}, {}
        for name in tqdm(CONDITIONS, desc=f"{config.evidence}, {pushes} pushes"):
            picks = data.picks(name, pushes, config.subsets, config.seed)
            found = sysid.many(data.segments[name], picks)
            errors[name] = _error_mm(found, data.truth)
            inside[name] = np.asarray(found.covers(data.truth))
            rows[name] = _row(errors[name], inside[name]) | _also(found, data.truth)
            rows[name]["development"] = name in DEVELOPMENT
        for group, names in (("pooled", CONDITIONS), ("held out", HELD_OUT)):
            pooled = (np.concatenate([x[n] for n in names]) for x in (errors, inside))
            rows[group] = _row(*pooled)
        tables[str(pushes)] = rows
        print(f"{config.evidence}, {pushes} pushes: {rows['pooled']}")
    return tables


def _error_mm(found: Posterior, truth: np.ndarray) -> np.ndarray:
    return 1000 * np.linalg.norm(np.asarray(found.com_mean) - truth, axis=-1)


def _row(error: np.ndarray, inside: np.ndarray) -> dict:
    return {
        "subsets": int(error.size),
        "median_error_mm": float(np.median(error)),
        "p10_error_mm": float(np.quantile(error, 0.1)),
        "p90_error_mm": float(np.quantile(error, 0.9)),
        "coverage_95": float(inside.mean()),
    }


def _also(found: Posterior, truth: np.ndarray) -> dict:
    """What the errors of a condition share, what is claimed, and the friction radius."""
    bias = 1000 * (np.median(np.asarray(found.com_mean), 0) - truth)
    variance = np.trace(np.asarray(found.com_cov), axis1=-2, axis2=-1) / 2
    return {
        "median_offset_mm": bias.tolist(),
        "sigma_mm": float(1000 * np.median(np.sqrt(variance))),
        "friction_radius_mm": float(1000 * np.median(np.asarray(found.radius))),
    }


def planar_engine(data: Data, config: Config) -> dict:
    """Without force: the planar dynamics against the closed form, on the same 20-push subsets."""
    planar = replace(config.sysid, replay=ReplayConfig(engine="planar"))
    engines = [data.sysid(c, "motion") for c in (planar, config.sysid)]
    rows = {}
    for name in tqdm(CONDITIONS, desc="planar engine"):
        picks = data.picks(name, 20, config.planar_subsets, config.seed)
        slow, fast = (engine.many(data.segments[name], picks) for engine in engines)
        apart = np.asarray(slow.com_mean) - np.asarray(fast.com_mean)
        rows[name] = {
            "subsets": len(picks),
            "planar_median_error_mm": float(np.median(_error_mm(slow, data.truth))),
            "quasistatic_median_error_mm": float(np.median(_error_mm(fast, data.truth))),
            "median_distance_mm": float(1000 * np.median(np.linalg.norm(apart, axis=-1))),
        }
    return rows


def prior_shift(data: Data, config: Config) -> dict:
    """How far the 20-push estimate moves when the flat prior moves by 30 mm, mm.

    The sampler alone moves it too: "same prior, another seed" says how far.
    """
    variants = [replace(config.sysid, seed=config.sysid.seed + i) for i in (0, 1)]
    for shift in ((PRIOR_SHIFT_M, 0.0), (0.0, PRIOR_SHIFT_M)):
        belief = replace(config.sysid.belief, com_shift_m=shift)
        variants.append(replace(config.sysid, belief=belief))
    sysids = [data.sysid(variant, config.evidence) for variant in variants]
    rows, everything, noise = {}, [], []
    for name in tqdm(CONDITIONS, desc="prior shift"):
        picks = data.picks(name, 20, config.shift_subsets, config.seed)
        found = (s.many(data.segments[name], picks).com_mean for s in sysids)
        plain, again, *others = map(np.asarray, found)
        noise.append(1000 * np.linalg.norm(again - plain, axis=-1))
        distance = 1000 * np.linalg.norm(np.stack(others) - plain, axis=-1).ravel()
        rows[name] = _distances(distance)
        everything.append(distance)
    rows["pooled"] = _distances(np.concatenate(everything))
    rows["same prior, another seed"] = _distances(np.concatenate(noise))
    return rows


def _distances(distance: np.ndarray) -> dict:
    return {"median_mm": float(np.median(distance)), "p95_mm": float(np.quantile(distance, 0.95)),
            "largest_mm": float(distance.max())}  # fmt: skip


def timing(data: Data, config: Config) -> dict:
    """Seconds after compilation: one posterior from 20 pushes, one update in the loop."""
    segments = data.segments[DEVELOPMENT[0]].take(np.arange(20))
    found = {"posterior": _seconds(_posterior(data, config.sysid, config, segments), 5)}
    if config.evidence == "motion":
        planar = replace(config.sysid, replay=ReplayConfig(engine="planar"))
        call = _posterior(data, planar, config, segments)
        found["posterior, planar engine"] = _seconds(call, 5)
    online = OnlineSysid(data.asset, data.radius_m or 0.0)
    belief, update, key = online.start(), jax.jit(online.update), jax.random.key(0)
    seen = [
        Measurement(PlanarPose(jnp.asarray(pose[:2]), jnp.asarray(pose[2])), jnp.asarray(tool))
        for pose, tool in (
            (segments.start[0], segments.path[0, 0]),
            (segments.end[0], segments.path[0, -1]),
        )
    ]
    found["online update"] = _seconds(lambda: update(belief, *seen, key), REPEATS)
    return found


def _posterior(data: Data, settings: SysidConfig, config: Config, segments) -> Callable:
    sysid = data.sysid(settings, config.evidence)
    return lambda: sysid(segments).com


def _seconds(call: Callable, repeats: int) -> dict:
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = perf_counter()
        jax.block_until_ready(call())
        times.append(perf_counter() - start)
    return {"median_s": float(np.median(times)), "largest_s": float(np.max(times))}


def picture(path: Path, tables: dict, config: Config) -> None:
    """Median error and its 10 to 90 % range per condition."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes, names = figure.subplots(), [*CONDITIONS, "pooled"]
    for i, (count, color) in enumerate(zip(config.pushes, ("tab:orange", "tab:blue"), strict=True)):
        rows = [tables[str(count)][name] for name in names]
        low, middle, high = (
            np.array([row[f"{k}_error_mm"] for row in rows]) for k in ("p10", "median", "p90")
        )
        at = np.arange(len(names)) + 0.24 * (i - 0.5)
        axes.errorbar(at, middle, [middle - low, high - middle], fmt="o", color=color, ms=5,
                      lw=1.4, label=f"{count} pushes")  # fmt: skip
        if count in MARKS_MM[config.evidence]:
            axes.axhline(MARKS_MM[config.evidence][count], color=color, ls=":", lw=1)
    labels = [n.replace("_", " ", 1).replace("_", "-") for n in names]
    labels = [f"{n} *" if c in DEVELOPMENT else n for n, c in zip(labels, names, strict=True)]
    axes.set_xticks(np.arange(len(names)), labels, rotation=35, ha="right", fontsize=8)
    title = "with force" if config.evidence == "force" else "without force"
    axes.set_title(f"{title} (the truth is nominal, the same in every condition)", fontsize=10)
    axes.set(
        ylim=(0, 1.3 * axes.get_ylim()[1]),
        ylabel="error of the centre of mass, mm\n(median, 10-90 % of subsets)",
    )
    axes.grid(axis="y", lw=0.4)
    title = "*: settings chosen here" + ("\ndotted: aimed at" if MARKS_MM[config.evidence] else "")
    axes.legend(title=title, loc="upper right", ncols=2, fontsize=8, title_fontsize=8)
    figure.savefig(path, dpi=140)


def main(config: Config) -> None:
    """Measure, write the JSON (after every part) and the picture."""
    data = Data.load()
    record = {
        "schema": 2,
        "truth": "nominal: centroid of a uniform triangle; the same in every condition",
        "development": DEVELOPMENT,
        "config": as_record(config),
    } | provenance()
    parts = {"tables": accuracy, "prior_shift": prior_shift, "timing": timing}
    if config.evidence == "motion":
        parts["planar_engine"] = planar_engine
    for name, part in parts.items():
        record[name] = part(data, config)
        write_json(config.out, record)
        print(f"{name} written to {config.out}")
    picture(config.out.with_suffix(".png"), record["tables"], config)


if __name__ == "__main__":
    main(tyro.cli(Config))
