"""Small things done with masks."""

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.pictures import missing_package, resized

THIN = 0.03  # of the object's size (square root of its area): strings, seams and leaks
RIM = 0.1  # of the object's size: where contrast compares inside with outside
SMOOTH_PX = 2.0
CENTRE_SIGMA = 0.25  # of the picture's side


def opencv():
    """OpenCV, without which no mask is made.

    Raises:
      ImportError: naming the extra to install.
    """
    try:
        import cv2
    except ImportError:
        raise missing_package("opencv-python-headless") from None
    return cv2


def grown(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """The mask and everything within ``radius`` px of it."""
    if not mask.any():
        return mask
    return _distance(~mask) <= max(radius, 1)


def shrunk(mask: Bool[np.ndarray, "h w"], radius: float) -> Bool[np.ndarray, "h w"]:
    """The part of the mask further than ``radius`` px inside; it may go on beyond the picture."""
    if mask.all():
        return mask
    return _distance(mask) > max(radius, 1)


def _distance(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Of every pixel of the mask to the nearest outside it."""
    cv2 = opencv()
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)


def size_of(mask: Bool[np.ndarray, "h w"]) -> float:
    """Square root of the area, px."""
    return float(np.sqrt(np.count_nonzero(mask)))


def scaled(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "h2 w2"]:
    """The mask at another size (width, height), its outline interpolated."""
    return resized(mask.astype(np.float32), size) >= 0.5


def central(shape: tuple[int, int], sigma: float = CENTRE_SIGMA) -> Float[np.ndarray, "h w"]:
    """1 in the middle of a picture, falling off towards its edges."""
    y, x = (np.exp(-(((np.arange(n) + 0.5) / n - 0.5) ** 2) / (2 * sigma**2)) for n in shape)
    return y[:, None] * x[None, :]


def one_piece(
    mask: Bool[np.ndarray, "h w"], weight: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The connected piece that gathers the most weight; nothing if the mask is empty."""
    count, labels = opencv().connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return mask
    gathered = np.bincount(labels.ravel(), weight.ravel(), minlength=count)
    return labels == 1 + int(np.argmax(gathered[1:]))


def filled(mask: Bool[np.ndarray, "h w"], largest: float) -> Bool[np.ndarray, "h w"]:
    """The mask without holes of up to ``largest`` px area; larger ones are seen through."""
    count, labels, stats, _ = opencv().connectedComponentsWithStats((~mask).astype(np.uint8))
    small = np.zeros(count, bool)
    small[1:] = stats[1:, opencv().CC_STAT_AREA] <= largest
    return mask | small[labels]


def tidy(
    mask: Bool[np.ndarray, "h w"], weight: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """One piece, without what hangs on it by a thread, without small holes.

    Opened by a disc of 3% of the object's size, so that strings, seams of the table and
    leaks of colour come off; of what was cut away, only what is as near comes back.
    """
    radius = THIN * size_of(mask)
    if radius < 0.5:
        return one_piece(mask, weight)
    core = one_piece(grown(shrunk(mask, radius), radius), weight)
    piece = one_piece(mask & grown(core, radius), weight) if core.any() else core
    return filled(piece, 0.02 * np.count_nonzero(piece))


def smooth(values: Float[np.ndarray, "h w"], sigma: float = SMOOTH_PX) -> Float[np.ndarray, "h w"]:
    """Values averaged with their neighbours'."""
    return opencv().GaussianBlur(values.astype(np.float32), (0, 0), sigma)


def contrast(mask: Bool[np.ndarray, "h w"], likely: Float[np.ndarray, "h w"]) -> float:
    """How much likelier, by colour, a pixel just inside the outline is than one just outside."""
    width = RIM * size_of(mask)
    inner, outer = mask & ~shrunk(mask, width), grown(mask, width) & ~mask
    if not inner.any() or not outer.any():
        return 0.0
    return float(np.clip(likely[inner].mean() - likely[outer].mean(), 0, 1))


def cut_share(mask: Bool[np.ndarray, "h w"]) -> float:
    """How much of the outline is not the object's own but the edge of the picture."""
    edge = sum(np.count_nonzero(side) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    own = np.count_nonzero(mask & ~shrunk(mask, 1))  # beyond the picture nothing is eroded
    return edge / max(edge + own, 1)
