"""A rough mask's outline, moved to where the picture changes."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from p2r_jax.real2sim.segment.shapes import grown, opencv, shrunk, smooth, tidy

REACH = 3  # widths of the doubtful rim: how far off examples of both sides are taken
GRAIN_PX = 0.6
LEAST_VARIANCE = 4.0  # grey levels squared
MOST_EVIDENCE = 20.0  # of one pixel, so that no highlight outvotes its neighbours


def snapped(
    rgb: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], rim: float
) -> Bool[np.ndarray, "h w"]:
    """Decide the pixels within ``rim`` px of the outline again, by the colours beside them.

    Each is compared with the object's colours just inside and the surroundings' just outside
    (Gaussians of local mean and variance in Lab), so the decision holds where the object and
    its background change along the outline.
    """
    cv2 = opencv()
    lab = cv2.cvtColor(cv2.GaussianBlur(rgb, (0, 0), GRAIN_PX), cv2.COLOR_RGB2LAB)
    inside, outside = shrunk(mask, rim), ~grown(mask, rim)
    reach = round(REACH * rim)
    ours, our_count = _unlikely(lab.astype(np.float32), inside, reach)
    theirs, their_count = _unlikely(lab.astype(np.float32), outside, reach)
    evidence = np.clip(theirs - ours, -MOST_EVIDENCE, MOST_EVIDENCE)
    doubtful = ~(inside | outside) & (our_count > 0.5) & (their_count > 0.5)
    decided = np.where(doubtful, smooth(evidence, max(0.7, 0.35 * rim)) > 0, mask)
    return tidy(decided, decided + 1e-6)


def _unlikely(
    lab: Float[np.ndarray, "h w 3"], among: Bool[np.ndarray, "h w"], reach: int
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Minus twice the log-likelihood of each colour among those near it, and how many those are."""
    share = among.astype(np.float32)
    count = _box_sum(share, reach)
    per_pixel = 1 / np.maximum(count, 1)[..., None]
    mean = _box_sum(lab * share[..., None], reach) * per_pixel
    square = _box_sum(lab**2 * share[..., None], reach) * per_pixel
    variance = np.maximum(square - mean**2, LEAST_VARIANCE)
    return ((lab - mean) ** 2 / variance + np.log(variance)).sum(-1), count


def _box_sum(values: np.ndarray, reach: int) -> np.ndarray:
    cv2 = opencv()
    window = 2 * reach + 1, 2 * reach + 1
    return cv2.boxFilter(values, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
