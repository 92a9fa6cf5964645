"""One model of the object's and the surroundings' colours for a whole capture."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import gaussian_filter

from p2r_jax.real2sim.segment.shapes import opencv

BINS = 16, 128, 128  # of lightness, a and b; coarse chroma takes grey tools for grey tables
SPREAD, WIDE_SPREAD = 0.7, 3.0  # bins: neighbouring colours count too, far ones less
WIDE_SHARE = 0.2  # of the evidence: decides where there are few examples
RARE = 1e-6  # probability of a colour never seen: then neither side is preferred
GRAIN_PX = 0.8  # blur before colours are read


@dataclass(frozen=True)
class ColourModel:
    """How likely a pixel of each colour belongs to the object.

    Attributes:
      posterior: by bin of colour, object and surroundings equally likely beforehand.
    """

    posterior: Float[np.ndarray, " bins"]

    def __call__(self, bins: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Probability of the object, by pixel."""
        return self.posterior[bins]


def colour_bins(rgb: UInt8[np.ndarray, "h w 3"], grain: float = GRAIN_PX) -> Int[np.ndarray, "h w"]:
    """The bin of every pixel's colour in CIE Lab."""
    cv2 = opencv()
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), grain), cv2.COLOR_RGB2LAB).astype(np.int32)
    low, a, b = ((lab[..., i] * n) >> 8 for i, n in enumerate(BINS))
    return (low * BINS[1] + a) * BINS[2] + b


def fit_colours(
    bins: Sequence[Int[np.ndarray, "h w"]],
    inside: Sequence[Float[np.ndarray, "h w"]],
    outside: Sequence[Float[np.ndarray, "h w"]],
) -> ColourModel:
    """Bayes' rule on two histograms over all pictures.

    Args:
      bins: of every picture.
      inside, outside: weight of each pixel as an example of either.
    """
    ours, theirs = _histogram(bins, inside), _histogram(bins, outside)
    return ColourModel((ours + RARE) / (ours + theirs + 2 * RARE))


def _histogram(bins, weights) -> Float[np.ndarray, " bins"]:
    counts = np.zeros(int(np.prod(BINS)))
    for index, weight in zip(bins, weights, strict=True):
        counts += np.bincount(index.ravel(), weight.ravel(), minlength=len(counts))
    near, far = (gaussian_filter(counts.reshape(BINS), s) for s in (SPREAD, WIDE_SPREAD))
    smooth = ((1 - WIDE_SHARE) * near + WIDE_SHARE * far).ravel()
    return smooth / max(smooth.sum(), 1e-12)
