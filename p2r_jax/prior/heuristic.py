"""A prior without a model: the centroid of a uniform object, with a measured sigma.

The guess is ``weight`` times a uniform-density centroid (0 is the centre of the bounding
box), and sigma a constant share of the object's length. Which centroid, ``weight`` and
sigma are fitted on objects whose centre of mass is known; with few of them, sigma is the
standard deviation of the predictive Student t distribution, not of the residuals.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

DATA = Path(__file__).parent / "data" / "heuristic.json"
FITTED_BY = "python experiments/prior_calibration.py --ship"
CANDIDATES = ("solid", "hull")


@dataclass(frozen=True)
class HeuristicFit:
    """How far a uniform-density centroid is to be trusted.

    Attributes:
      centroid: ``solid`` (of the object itself) or ``hull`` (of its convex hull).
      weight: how far to go from the centre of the bounding box to that centroid, 0 to 1.
      sigma: standard deviation, share of the object's length.
      objects: what it was fitted on.
    """

    centroid: str
    weight: float
    sigma: float
    objects: tuple[str, ...]


def fit_heuristic(
    centroids: Mapping[str, Float[np.ndarray, " n"]],
    truth: Float[np.ndarray, " n"],
    objects: Sequence[str],
    weight: float | None = None,
) -> HeuristicFit:
    """The candidate centroid with the smallest residuals, its weight and predictive sigma.

    Least squares without an intercept, as turning an object around must turn the guess
    around. Predictive variance of one more object: s^2 (1 + 1/n) nu / (nu - 2), with
    s^2 = SSE / nu and nu = n - 1; with a given weight, s^2 nu / (nu - 2) and nu = n.

    Args:
      centroids: by candidate, from the centre of the bounding box, shares of the length.
      truth: true centre of mass, likewise.
      objects: names.
      weight: given instead of fitted.

    Raises:
      ValueError: with fewer than four objects, which leave no variance to state.
    """
    n, fitted = len(truth), int(weight is None)
    nu = n - fitted
    if n < 4:
        raise ValueError(f"{n} objects are too few to state a sigma; four are needed")
    fits = []
    for name, centroid in centroids.items():
        best = float(np.clip(centroid @ truth / max(centroid @ centroid, 1e-12), 0, 1))
        share = best if weight is None else weight
        squares = float(np.sum((truth - share * centroid) ** 2))
        variance = squares / nu * (1 + fitted / n) * nu / (nu - 2)
        fits.append((squares, HeuristicFit(name, share, variance**0.5, tuple(objects))))
    return min(fits, key=lambda fit: fit[0])[1]


def load_fit(source: str) -> HeuristicFit:
    """The shipped fit for a ``mesh`` (or an asset's outline) or for a ``mask``."""
    record = json.loads(DATA.read_text())["fits"][source]
    return HeuristicFit(**{**record, "objects": tuple(record["objects"])})


def fits_record(fits: Mapping[str, HeuristicFit]) -> dict:
    """What ``load_fit`` reads, as JSON values."""
    return {
        "schema": 1,
        "note": "Uniform-density centroids against CAD truth; made by: " + FITTED_BY,
        "fits": {source: asdict(fit) for source, fit in fits.items()},
    }
