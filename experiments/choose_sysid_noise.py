"""The noise that system identification assumes, chosen on the development conditions alone.

    cd experiments
    python choose_sysid_noise.py motion --out results/sysid_noise_motion.json

For a grid of the misfit of a push (``motion_noise``, or ``wrench_noise`` with force) and of what
the pushes of a set-up share (``motion_model``, ``force_model``): how well the 95 % region covers
the nominal truth, and the score, the mean negative log density of the truth under the mean and
covariance that are reported (lower is better; too narrow and too wide both cost). Chosen is the
pair whose worst development condition scores best over all sizes of subsets: conditions that
nobody has seen should be expected to be like the worst of three, not like their average.
Subsets are drawn with another seed than the published tables'. The truth is the same in every
condition, the centroid of a uniform triangle; only supports and surface change.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from com_from_real_pushes import DEVELOPMENT, Data
from jaxtyping import Float
from tqdm import tqdm

from p2r_jax.estimator.smc import SmcConfig
from p2r_jax.estimator.sysid import CHI2_95, Evidence, SharedError, SysidConfig
from p2r_jax.files import as_record, provenance, write_json

SIZES = (5, 20)
Found = tuple[Float[np.ndarray, "subsets 2"], Float[np.ndarray, "subsets 2 2"]]


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      evidence: ``force`` or ``motion``.
      out: JSON file.
      noise: medians of the relative misfit of a push.
      model: relative errors that all pushes share.
      subsets: random subsets per condition and size.
      particles: of the sampler.
      seed: of the subsets.
    """

    evidence: tyro.conf.Positional[Evidence]
    out: Path
    noise: tuple[float, ...] = (0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
    model: tuple[float, ...] = (0.01, 0.013, 0.02, 0.03, 0.04, 0.05)
    subsets: int = 200
    particles: int = 512
    seed: int = 1


def estimates(data: Data, config: Config, noise: float) -> dict[tuple[str, int], Found]:
    """Mean minus truth and covariance, mm, without the shared error, by condition and size."""
    base = SysidConfig(shared=SharedError(frame_m=0.0, force_model=0.0, motion_model=0.0))
    name = {"force": "wrench_noise", "motion": "motion_noise"}[config.evidence]
    sampler = f"{config.evidence}_sampler"
    care: SmcConfig = replace(getattr(base, sampler), particles=config.particles)
    belief = replace(base.belief, **{name: noise})
    sysid = data.sysid(replace(base, belief=belief, **{sampler: care}), config.evidence)
    found = {}
    for condition in DEVELOPMENT:
        for pushes in SIZES:
            picks = data.picks(condition, pushes, config.subsets, config.seed)
            posterior = sysid.many(data.segments[condition], picks)
            off = 1e3 * (np.asarray(posterior.com_mean) - data.truth)
            found[condition, pushes] = off, 1e6 * np.asarray(posterior.com_cov, float)
    return found


def row(found: dict[tuple[str, int], Found], noise: float, model: float, side_m: float) -> dict:
    """Error, coverage and score of one pair of settings, by condition and size."""
    variance = 1e6 * (SharedError().frame_m ** 2 + (model * side_m) ** 2)
    cells = {}
    for (condition, pushes), (off, cov) in found.items():
        cov = cov + variance * np.eye(2)
        squared = np.einsum("ni,nij,nj->n", off, np.linalg.inv(cov), off)
        score = 0.5 * (squared + np.linalg.slogdet(2 * np.pi * cov)[1])
        cells.setdefault(condition, {})[str(pushes)] = {
            "median_error_mm": float(np.median(np.linalg.norm(off, axis=-1))),
            "coverage_95": float(np.mean(squared <= CHI2_95)),
            "score": float(np.mean(score)),
        }
    per_condition = [np.mean([c["score"] for c in sizes.values()]) for sizes in cells.values()]
    return {"noise": noise, "model": model, "worst_score": float(max(per_condition)),
            "mean_score": float(np.mean(per_condition)), "conditions": cells}  # fmt: skip


def text(r: dict) -> str:
    """One line of the printed table: coverage in % at each size, condition by condition."""
    covered = [
        "/".join(f"{100 * sizes[str(k)]['coverage_95']:3.0f}" for k in SIZES)
        for sizes in r["conditions"].values()
    ]
    scores = f"{r['worst_score']:11.3f} {r['mean_score']:10.3f}"
    return f"{r['noise']:6g} {r['model']:6g} {scores}   {'  '.join(covered)}"


def main(config: Config) -> None:
    """Measure, print the table, write the JSON."""
    data = Data.load()
    side_m = float(np.ptp(data.asset.footprint_bounds, axis=0).max())
    rows = []
    for noise in tqdm(config.noise, desc=f"noise, {config.evidence}"):
        found = estimates(data, config, noise)
        rows += [row(found, noise, model, side_m) for model in config.model]
        chosen = min(rows, key=lambda r: r["worst_score"])
        record = {"schema": 1, "development": DEVELOPMENT, "chosen": chosen, "rows": rows}
        write_json(config.out, record | {"config": as_record(config)} | provenance())
    sizes = ", ".join(map(str, SIZES))
    print(f"coverage in % with {sizes} pushes of {', '.join(DEVELOPMENT)}")
    print(" noise  model worst score mean score   coverage")
    print("\n".join(map(text, rows)))
    print(f"chosen:\n{text(chosen)}\nwritten to {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
