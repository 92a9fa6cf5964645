"""Segmenters without learned weights: ``chroma`` and ``grabcut``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import resized
from p2r_jax.real2sim.segment.colours import colour_bins
from p2r_jax.real2sim.segment.outline import snapped
from p2r_jax.real2sim.segment.protocol import Prompt, Segmentation
from p2r_jax.real2sim.segment.search import Found, enlarged, find
from p2r_jax.real2sim.segment.shapes import (
    contrast,
    grown,
    opencv,
    scaled,
    shrunk,
    size_of,
    smooth,
    tidy,
)

SURE_INSIDE, SURE_OUTSIDE = 0.08, 0.12  # of the object's size: beyond, nothing is asked
MARGIN = 0.35  # of the object's extent: surroundings that grabCut sees
CUT_SIDE_PX = 320  # grabCut's cost grows faster than its picture
SURE, SURE_SIGMA_PX = 0.9, 1.5  # colours that the whole capture tells apart: nothing is asked
CUT_ROUNDS = 3
SNAP = 2.5  # of grabCut's pixels: how far its outline may be off
SNAP_MOST = 0.04  # of the object's size


def chroma(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Segmentation:
    """By colour: pixels whose colour the object has and its surroundings do not.

    Quick, and good where the object's colours are its own.
    """
    found = find(frames, prompts, film)
    masks, scores = [], []
    for frame, small, tags in _with_progress(frames, found):
        likely = found.colours(colour_bins(frame.load()))
        masks.append(_at_full_size(small, likely, frame) & ~enlarged(tags, frame))
        scores.append(contrast(masks[-1], likely))
    return Segmentation(masks, scores, found.assumed)


def grabcut(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Segmentation:
    """By colour, then each frame cut out along its edges (Rother et al., GrabCut, 2004)."""
    found = find(frames, prompts, film)
    masks, scores = [], []
    for frame, small, tags in _with_progress(frames, found):
        rgb = frame.load()
        likely = found.colours(colour_bins(rgb))
        masks.append(cut_out(rgb, enlarged(small, frame), likely, enlarged(tags, frame)))
        scores.append(contrast(masks[-1], likely))
    return Segmentation(masks, scores, found.assumed)


def _with_progress(frames: Sequence[Frame], found: Found) -> tqdm:
    rows = zip(frames, found.masks, found.tags, strict=True)
    return tqdm(rows, "masks: cutting out", len(frames), unit="frame", disable=None)


def _at_full_size(
    small: Bool[np.ndarray, "h w"], likely: Float[np.ndarray, "h2 w2"], frame: Frame
) -> Bool[np.ndarray, "h2 w2"]:
    """The outline drawn again in full-size pixels, near where it was found in small ones."""
    rough = enlarged(small, frame)
    if not rough.any():
        return rough
    step = frame.width / small.shape[1]
    near, inner = grown(rough, 2 * step), shrunk(rough, 2 * step)
    return tidy((near & (smooth(likely, max(1.0, 0.7 * step)) > 0.5)) | inner, rough + 1e-6)


def cut_out(
    rgb: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    likely: Float[np.ndarray, "h w"],
    never: Bool[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Move a rough mask's outline onto the edges of the picture; empty stays empty.

    Args:
      rgb: the picture.
      mask: of the object, roughly.
      likely: how much each pixel's colour is the object's.
      never: what is not the object for certain.
    """
    if not mask.any():
        return mask
    rows, columns = _surroundings(mask)
    part, rough = rgb[rows, columns], mask[rows, columns]
    scale = min(1.0, CUT_SIDE_PX / max(rough.shape))
    size = round(scale * rough.shape[1]), round(scale * rough.shape[0])
    small = (resized(part, size), scaled(rough, size))
    colour = smooth(resized(likely[rows, columns].astype(np.float32), size), SURE_SIGMA_PX)
    cut = _grab_cut(*small, colour, scaled(never[rows, columns], size))
    whole = np.zeros_like(mask)
    back = smooth(resized(cut.astype(np.float32), rough.shape[::-1]), 0.5 / scale) >= 0.5
    whole[rows, columns] = cut if scale == 1 else snapped(part, back, _doubt(scale, rough))
    return whole & ~never


def _doubt(scale: float, rough: Bool[np.ndarray, "h w"]) -> float:
    """How far an outline found in a smaller picture may be off, px."""
    return max(1.0, min(SNAP / scale, SNAP_MOST * size_of(rough)))


def _surroundings(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    spans = [np.nonzero(mask.any(axis))[0] for axis in (1, 0)]
    pad = round(MARGIN * max(np.ptp(span) + 1 for span in spans))
    return tuple(
        slice(max(0, span[0] - pad), min(n, span[-1] + pad + 1))
        for span, n in zip(spans, mask.shape, strict=True)
    )


def _grab_cut(
    rgb: UInt8[np.ndarray, "h w 3"],
    rough: Bool[np.ndarray, "h w"],
    likely: Float[np.ndarray, "h w"],
    never: Bool[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    cv2 = opencv()
    size = size_of(rough)
    inside = shrunk(rough, SURE_INSIDE * size) | (rough & (likely > SURE))
    near = grown(rough, SURE_OUTSIDE * size) & (rough | (likely > 1 - SURE))
    labels = np.select(
        [never, inside, rough, near],
        [cv2.GC_BGD, cv2.GC_FGD, cv2.GC_PR_FGD, cv2.GC_PR_BGD],
        cv2.GC_BGD,
    ).astype(np.uint8)
    if not inside.any() or near.all():
        return rough
    cv2.setRNGSeed(0)  # its mixtures start from random centres
    cv2.grabCut(
        np.ascontiguousarray(rgb[..., ::-1]), labels, None, np.zeros((1, 65)), np.zeros((1, 65)),
        CUT_ROUNDS, cv2.GC_INIT_WITH_MASK,
    )  # fmt: skip
    return tidy((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), rough + 1e-6)
