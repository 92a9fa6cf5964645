"""Does a prior's uncertainty mean something? Scores on objects whose truth is known.

Everything is in shares of the object's length along the asked axis, from the centre of
its bounding box, so that a ruler and a hacksaw count alike.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
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


def leave_one_out(
    centroids: Mapping[str, Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " n"],
    names: Sequence[str],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[HeuristicFit]]:
    """The heuristic about each object, with everything in it fitted on the others.

    Also which centroid is used is chosen without the object, so that the choice between
    candidates costs what it costs.

    Returns:
      mean and sigma per object, and the fits.
    """
    fits = []
    for held_out in range(len(truth)):
        others = np.arange(len(truth)) != held_out
        fits.append(
            fit_heuristic(
                {kind: values[others] for kind, values in centroids.items()},
                truth[others],
                [name for name, other in zip(names, others, strict=True) if other],
            )
        )
    mean = np.array([fit.weight * centroids[fit.centroid][i] for i, fit in enumerate(fits)])
    return mean, np.array([fit.sigma for fit in fits]), fits


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


def as_row(result: Score) -> dict:
    """The score as JSON values."""
    return asdict(result)
