"""Does a prior's uncertainty mean something? Scores on objects whose truth is known.

Everything is in shares of the object's length along the asked axis, from the centre of
its bounding box, so that a ruler and a hacksaw count alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from p2r_jax.prior.heuristic import HeuristicFit, fit_heuristic
from p2r_jax.prior.shape import ObjectShape, load_mesh, shape_of_mesh

if TYPE_CHECKING:
    import trimesh

LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class KnownObject:
    """An object with its true centre of mass.

    Attributes:
      name: for a person, and for a model.
      mesh: metres, object frame; x is the longest axis.
      shape: what geometry says.
      truth: centre of mass along x, share of the length from the bounding box's centre.
    """

    name: str
    mesh: "trimesh.Trimesh"
    shape: ObjectShape
    truth: float

    @property
    def length(self) -> float:
        """Along x, m."""
        return self.shape.upper[0] - self.shape.lower[0]

    def centroid(self, kind: str) -> float:
        """A uniform-density centroid along x, share of the length."""
        return self.shape.centroids[kind][0] / self.length


def load_workshop_tool(folder: Path) -> KnownObject:
    """A tool of the Workshop Tools data set (CAD geometry times catalogue density).

    Raises:
      FileNotFoundError, ValueError: if mesh or inertial parameters are missing.
    """
    text = (folder / "Inertia.yaml").read_text()
    found = re.search(r"COM_WRT_MESH:\s*\[([^\]]+)\]", text)
    if not found:
        raise ValueError(f"{folder}/Inertia.yaml has no COM_WRT_MESH")
    com = [float(value) for value in found.group(1).split(",")]
    mesh, T_object_file = load_mesh(folder / "mesh.ply", unit_m=1e-3)
    com_x = float((T_object_file @ [*com, 1.0])[0])
    name = folder.name.replace("_", " ")
    shape = shape_of_mesh(name, mesh)
    return KnownObject(name, mesh, shape, com_x / (shape.upper[0] - shape.lower[0]))


@dataclass(frozen=True)
class Source:
    """What somebody says about every object: mean and sigma, shares of the length.

    Attributes:
      name: for tables.
      kind: ``reference`` knows the truth of these very objects.
      mean, sigma: NaN for an object about which too few answers could be used.
      note: how they came about.
      spread: of the answers about each object.
      counts: of the answers, and their tokens.
    """

    name: str
    kind: Literal["heuristic", "reference", "synthetic", "live"]
    mean: Float[np.ndarray, " n"]
    sigma: Float[np.ndarray, " n"]
    note: str
    spread: Float[np.ndarray, " n"] | None = None
    counts: dict | None = None

    @property
    def scored(self) -> Int[np.ndarray, " m"]:
        """Indices of the objects about which it says something."""
        return np.flatnonzero(np.isfinite(self.mean))


@dataclass(frozen=True)
class Score:
    """How good and how honest beliefs about several objects are.

    Attributes:
      count: objects.
      mae, rmse: of the means.
      mean_sigma: of the beliefs.
      nll: mean negative log density of the truth, nats.
      z_rms: root mean square of error / sigma; 1 is calibrated.
      sigma_scale: what to multiply sigma by (maximum likelihood, equals ``z_rms``).
      sigma_scale_interval: 95%, from chi-squared: few objects leave it wide.
      coverage: by nominal level, share of truths within the central interval.
    """

    count: int
    mae: float
    rmse: float
    mean_sigma: float
    nll: float
    z_rms: float
    sigma_scale: float
    sigma_scale_interval: tuple[float, float]
    coverage: dict[str, float]


def score(
    mean: Float[np.ndarray, " n"], sigma: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]
) -> Score:
    """Score Gaussian beliefs against the truth; all in shares of the length."""
    error = np.asarray(mean) - truth
    z = error / sigma
    scale, low, high = fit_sigma_scale(z)
    return Score(
        count=len(truth),
        mae=float(np.abs(error).mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        mean_sigma=float(np.mean(sigma)),
        nll=float(np.mean(nll(error, sigma))),
        z_rms=scale,
        sigma_scale=scale,
        sigma_scale_interval=(low, high),
        coverage={
            f"{level:g}": float(np.mean(np.abs(z) <= stats.norm.ppf((1 + level) / 2)))
            for level in LEVELS
        },
    )


def nll(error: Float[np.ndarray, " n"], sigma: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Negative log density of a Gaussian at a distance ``error`` from its mean, nats."""
    return np.log(sigma) + 0.5 * (error / sigma) ** 2 + 0.5 * np.log(2 * np.pi)


def fit_sigma_scale(z: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """The factor on sigma that maximises likelihood, with its 95% interval.

    Sum z^2 / scale^2 is chi-squared with n degrees of freedom if errors are Gaussian.
    """
    total, n = float(np.sum(np.square(z))), len(z)
    low, high = (np.sqrt(total / q) for q in stats.chi2.ppf([0.975, 0.025], n))
    return float(np.sqrt(total / n)), float(low), float(high)


def constant_box(truth: Float[np.ndarray, " n"]) -> Score:
    """The centre of the bounding box with the sigma that suits these very objects best."""
    sigma = np.full(len(truth), np.sqrt(np.mean(truth**2)))
    return score(np.zeros(len(truth)), sigma, truth)


@dataclass(frozen=True)
class Form:
    """One way to build the heuristic.

    Attributes:
      candidates: centroids among which the fit chooses.
      weight: given, or None to fit it.
    """

    candidates: tuple[str, ...]
    weight: float | None = None

    def __str__(self):
        weight = "fitted" if self.weight is None else f"{self.weight:g}"
        return f"{' or '.join(self.candidates)}, weight {weight}"


def leave_one_out(
    centroids: Mapping[str, Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " n"],
    names: Sequence[str],
    weight: float | None = None,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[HeuristicFit]]:
    """The heuristic about each object, with everything in it fitted on the others.

    Also which of the given centroids is used is chosen without the object. What is given
    is not: ``nested_leave_one_out`` chooses that too. ``weight`` as in ``fit_heuristic``.

    Returns:
      mean and sigma per object, and the fits.
    """
    fits = []
    for held_out in range(len(truth)):
        others = _all_but(held_out, len(truth))
        kept = {kind: values[others] for kind, values in centroids.items()}
        fits.append(fit_heuristic(kept, truth[others], [names[i] for i in others], weight))
    mean = np.array([fit.weight * centroids[fit.centroid][i] for i, fit in enumerate(fits)])
    return mean, np.array([fit.sigma for fit in fits]), fits


def nested_leave_one_out(
    centroids: Mapping[str, Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " n"],
    names: Sequence[str],
    forms: Sequence[Form],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[Form]]:
    """As ``leave_one_out``, with the form of the heuristic chosen without the object, too.

    Of the forms, the one with the best mean NLL of the other objects, each left out in its
    turn, speaks about the object.

    Returns:
      mean and sigma per object, and the forms chosen.
    """
    mean, sigma, chosen = np.zeros(len(truth)), np.zeros(len(truth)), []
    for held_out in range(len(truth)):
        others = _all_but(held_out, len(truth))
        kept = {kind: values[others] for kind, values in centroids.items()}
        left = [names[i] for i in others]
        losses = []
        for form in forms:
            subset = {kind: kept[kind] for kind in form.candidates}
            m, s, _ = leave_one_out(subset, truth[others], left, form.weight)
            losses.append(np.mean(nll(m - truth[others], s)))
        form = forms[int(np.argmin(losses))]
        subset = {kind: kept[kind] for kind in form.candidates}
        fit = fit_heuristic(subset, truth[others], left, form.weight)
        mean[held_out] = fit.weight * centroids[fit.centroid][held_out]
        sigma[held_out] = fit.sigma
        chosen.append(form)
    return mean, sigma, chosen


def _all_but(index: int, count: int) -> list[int]:
    return [i for i in range(count) if i != index]


def per_object(
    names: Sequence[str],
    mean: Float[np.ndarray, " n"],
    sigma: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
) -> list[dict]:
    """One row per object, for a table."""
    return [
        {"object": name, "mean": float(m), "sigma": float(s), "truth": float(t),
         "error": float(m - t), "z": float((m - t) / s), "nll": float(nll(m - t, s))}
        for name, m, s, t in zip(names, mean, sigma, truth, strict=True)
    ]  # fmt: skip


def as_row(source: Source, truth: Float[np.ndarray, " n"], names: Sequence[str]) -> dict:
    """What a source said and its score, as JSON values."""
    kept = source.scored
    mean, sigma = source.mean[kept], source.sigma[kept]
    return {
        "source": source.name,
        "kind": source.kind,
        "note": source.note,
        **asdict(score(mean, sigma, truth[kept])),
        "left_out": [name for i, name in enumerate(names) if i not in kept],
        "mean_spread": None if source.spread is None else float(source.spread[kept].mean()),
        "counts": source.counts,
        "objects": per_object([names[i] for i in kept], mean, sigma, truth[kept]),
    }
