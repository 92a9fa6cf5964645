"""The noise that identification without force assumes, chosen on the development conditions alone.

    cd experiments
    python choose_motion_noise.py --out results/motion_noise.json

For a grid of ``motion_noise`` (misfit of a push) and ``motion_model`` (what the pushes of a set-up
share): how often the 95 % region holds the nominal truth, and the score, the mean negative log
density of the truth under the mean and covariance that are reported (lower is better; too narrow
and too wide both cost). Chosen is the pair whose worst development condition scores best over
both sizes of subsets: a condition that nobody has seen should be expected to be like the worst of
three, not like their average.

Without force a hypothesis has four parameters beside the noise, so the posteriors here come from
weighting one large set of hypotheses for all subsets: far cheaper than sampling each of them
(``least_effective`` says how many of them the worst subset rests on; few where noise is small).
Subsets are drawn with another seed than the published tables'. The truth is the same in every
condition, the centroid of a uniform triangle; only supports and surface change.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from com_from_real_pushes import DEVELOPMENT, Data
from jaxtyping import Array, Float
from scipy.stats import multivariate_normal, norm, qmc
from tqdm import tqdm

from p2r_jax.estimator.hypotheses import MOTION_DIM
from p2r_jax.estimator.sysid import CHI2_95, SharedError, Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import Segments
from p2r_jax.files import as_record, provenance, write_json

NOISE_AT = MOTION_DIM - 1  # the component of a hypothesis that scales the noise
CHUNK = 1024  # hypotheses replayed at once
WIDER = 2.0  # second draw against the posteriors, variance


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
      out: JSON file.
      noise: medians of the relative misfit of a push.
      model: relative errors that all pushes share.
      pushes: sizes of the subsets.
      subsets: random subsets per condition and size.
      hypotheses: that are weighted, a power of two.
      nodes: of the quadrature over the noise.
      seed: of the subsets.
    """

    out: Path
    noise: tuple[float, ...] = (0.07, 0.1, 0.14, 0.2, 0.28, 0.4)
    model: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    pushes: tuple[int, ...] = (5, 20)
    subsets: int = 200
    hypotheses: int = 2**15
    nodes: int = 5
    seed: int = 1


@dataclass(frozen=True)
class Weighted:
    """Posteriors of many subsets, without the shared error; mm.

    Attributes:
      off: mean minus truth.
      cov: covariance.
      effective: effective number of hypotheses.
    """

    off: Float[np.ndarray, "subsets 2"]
    cov: Float[np.ndarray, "subsets 2 2"]
    effective: Float[np.ndarray, " subsets"]


@dataclass(frozen=True)
class Hypotheses:
    """Weighted hypotheses about one condition, and where each push ends under them.

    Attributes:
      z: vectors, the noise at its median.
      log_weight: of the prior relative to how they were drawn.
      final: poses after every push.
    """

    z: Float[Array, "n dim"]
    log_weight: Float[Array, " n"]
    final: Float[Array, "n pushes 3"]


def even_normal(count: int) -> Float[np.ndarray, "count 4"]:
    """Standard normal vectors, evenly spread."""
    return norm.ppf(qmc.Sobol(NOISE_AT, seed=0).random(count).clip(1e-6, 1 - 1e-6))


def replayed(sysid: Sysid, v: np.ndarray, log_weight: np.ndarray, segments: Segments) -> Hypotheses:
    """Replay every push under vectors that lack the noise."""
    z = jnp.asarray(np.column_stack([v, np.zeros(len(v))]), jnp.float32)
    move = jax.vmap(sysid.replay.final_pose, (None, 0, 0))

    def one(v):
        return move(sysid.belief.hypothesis(v), segments.start, segments.path)

    final = jax.jit(lambda z: jax.lax.map(one, z, batch_size=CHUNK))(z)
    return Hypotheses(z, jnp.asarray(log_weight, jnp.float32), final)


def hypotheses(sysid: Sysid, segments: Segments, picks: np.ndarray, config: Config) -> Hypotheses:
    """Half drawn from the prior, half from where the posteriors of these subsets lie."""
    v = even_normal(config.hypotheses)
    half = len(v) // 2
    first = replayed(sysid, v[:half], np.zeros(half), segments)
    w = weights(sysid, first, segments, picks, config.nodes).mean(1)
    middle = w @ v[:half]
    apart = v[:half] - middle
    near = multivariate_normal(middle, WIDER * (w[:, None] * apart).T @ apart)
    v = np.concatenate([v[:half], middle + v[half:] @ np.linalg.cholesky(near.cov).T])
    prior = norm.logpdf(v).sum(1)
    return replayed(sysid, v, prior - np.logaddexp(prior, near.logpdf(v)), segments)


def weights(
    sysid: Sysid, found: Hypotheses, segments: Segments, picks: np.ndarray, nodes: int
) -> Float[np.ndarray, "n subsets"]:
    """Posterior weights of the hypotheses, subset by subset (rows of ``picks``)."""
    start, end = jnp.asarray(segments.start), jnp.asarray(segments.end)
    member = np.zeros((len(segments.used), len(picks)), np.float32)
    member[picks.T, np.arange(len(picks))] = 1.0

    @jax.jit
    def log_likelihood(at, z, final):
        def one(v, predicted):
            h = sysid.belief.hypothesis(v.at[NOISE_AT].set(at))
            return sysid.replay.misfit_log_likelihood(h, predicted, start, end)

        return jax.vmap(one)(z, final) @ member

    total = jnp.full((len(found.z), len(picks)), -jnp.inf)
    for at, share in zip(*np.polynomial.hermite_e.hermegauss(nodes), strict=True):
        total = jnp.logaddexp(total, log_likelihood(at, found.z, found.final) + np.log(share))
    return np.asarray(jax.nn.softmax(total + found.log_weight[:, None], axis=0), float)


def weighted(
    data: Data, sysid: Sysid, found: Hypotheses, segments: Segments, picks: np.ndarray, nodes: int
) -> Weighted:
    """Posteriors of subsets."""
    w = weights(sysid, found, segments, picks, nodes)
    com = 1e3 * np.asarray(sysid.belief.com(found.z[:, :2]), float)
    mean = w.T @ com
    second = (w.T @ (com[:, :, None] * com[:, None, :]).reshape(-1, 4)).reshape(-1, 2, 2)
    cov = second - mean[:, :, None] * mean[:, None, :]
    return Weighted(mean - 1e3 * data.truth, cov, 1 / np.sum(w * w, 0))


def cell(found: Weighted, model: float, side_m: float) -> dict[str, float]:
    """Error, coverage and score with a shared error."""
    shared = 1e6 * (SharedError().frame_m ** 2 + (model * side_m) ** 2)
    cov = found.cov + shared * np.eye(2)
    squared = np.einsum("ni,nij,nj->n", found.off, np.linalg.inv(cov), found.off)
    return {
        "median_error_mm": float(np.median(np.linalg.norm(found.off, axis=-1))),
        "coverage_95": float(np.mean(squared <= CHI2_95)),
        "score": float(np.mean(0.5 * (squared + np.linalg.slogdet(2 * np.pi * cov)[1]))),
        "least_effective": float(found.effective.min()),
    }


def row(found: dict[tuple[str, int], Weighted], noise: float, model: float, side_m: float) -> dict:
    """One pair of settings: a cell per condition and size, and what they come to."""
    cells: dict[str, dict[str, dict]] = {name: {} for name in DEVELOPMENT}
    for (name, pushes), one in found.items():
        cells[name][str(pushes)] = cell(one, model, side_m)
    scores = [np.mean([c["score"] for c in sizes.values()]) for sizes in cells.values()]
    return {"motion_noise": noise, "motion_model": model, "worst_score": float(max(scores)),
            "mean_score": float(np.mean(scores)), "conditions": cells}  # fmt: skip


def text(r: dict) -> str:
    """One line of the printed table: coverage in % at each size, condition by condition."""
    covered = [
        "/".join(f"{100 * c['coverage_95']:3.0f}" for c in sizes.values())
        for sizes in r["conditions"].values()
    ]
    scores = f"{r['worst_score']:11.3f} {r['mean_score']:10.3f}"
    return f"{r['motion_noise']:6g} {r['motion_model']:6g} {scores}   {'  '.join(covered)}"


def compare(data: Data, config: Config) -> list[dict]:
    """All rows of the table."""
    rows, default = [], SysidConfig().belief
    for noise in tqdm(config.noise, desc="noise"):
        settings = SysidConfig(belief=replace(default, motion_noise=noise))
        sysid, found = data.sysid(settings, "motion"), {}
        for name in DEVELOPMENT:
            segments = data.segments[name]
            for pushes in config.pushes:
                picks = data.picks(name, pushes, config.subsets, config.seed)
                drawn = hypotheses(sysid, segments, picks, config)
                found[name, pushes] = weighted(data, sysid, drawn, segments, picks, config.nodes)
        rows += [row(found, noise, model, sysid.belief.side) for model in config.model]
    return rows


def main(config: Config) -> None:
    """Measure, print the table, write the JSON."""
    rows = compare(Data.load(), config)
    chosen = min(rows, key=lambda r: r["worst_score"])
    record = {"schema": 1, "development": DEVELOPMENT, "chosen": chosen, "rows": rows}
    write_json(config.out, record | {"config": as_record(config)} | provenance())
    sizes = ", ".join(map(str, config.pushes))
    print(f"coverage in % with {sizes} pushes of {', '.join(DEVELOPMENT)}")
    print(" noise  model worst score mean score   coverage")
    print("\n".join(map(text, rows)))
    print(f"chosen:\n{text(chosen)}\nwritten to {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
