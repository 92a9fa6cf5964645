"""Where the object is, from colours alone: what the segmenters without weights share.

Colours near the prompt (or near the middle of the pictures) are set against colours around
it (or at the borders); pixels are judged by them, the best connected piece is kept, and the
colours are learned anew from the pieces of all frames, a few times over. Learning over the
whole capture is what makes it steady: a part that looks like the table in one frame does
not in the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import resized, size_within
from p2r_jax.real2sim.segment.colours import ColourModel, colour_bins, fit_colours
from p2r_jax.real2sim.segment.markers import tags_in
from p2r_jax.real2sim.segment.protocol import Prompt
from p2r_jax.real2sim.segment.shapes import (
    central,
    contrast,
    cut_share,
    grown,
    opencv,
    scaled,
    shrunk,
    size_of,
    smooth,
    tidy,
)

SIDE_PX = 320  # of the pictures that are searched
EVEN = 0.5  # probability from which a pixel is the object
STRICT = 0.5, 0.7, 0.85, 0.95  # without a prompt, the first judgement takes the best of these
ROUNDS = 6  # of learning colours and judging pixels
MIDDLE_SIGMA = 0.15  # of the side: where the object is looked for without a prompt
BORDER = 0.08  # of the side: what is taken for surroundings without a prompt
CLICK = 0.02  # radius of a click, of the side
REACH = 0.5  # of the object's size: how far it may move between frames of a film
ASSUMED = (
    "no prompt: the object was taken to be what stands near the middle of the frames in colours "
    "that their borders do not have"
)


@dataclass(frozen=True)
class Found:
    """The object in small pictures.

    Attributes:
      masks: one per frame.
      tags: one per frame: AprilTags, which are not the object.
      colours: what they were told apart by.
      assumed: for the user.
    """

    masks: Sequence[Bool[np.ndarray, "h w"]]
    tags: Sequence[Bool[np.ndarray, "h w"]]
    colours: ColourModel
    assumed: str


@dataclass(frozen=True)
class _Hint:
    """A prompt in pixels of a small picture."""

    allowed: Bool[np.ndarray, "h w"]
    inside: Bool[np.ndarray, "h w"]
    outside: Bool[np.ndarray, "h w"]


def find(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Found:
    """Search all frames at once."""
    reading = tqdm(frames, "masks: looking", unit="frame", disable=None)
    small, tags, papers = zip(*(_small(frame) for frame in reading), strict=True)
    bins = [colour_bins(picture) for picture in small]
    hints = _hints(frames, prompts, bins[0].shape)
    order = _order(len(frames), hints if film else {})
    moves = _moves(small, order) if film and hints else {}

    colours = _first_colours(bins, papers, hints)
    levels = (EVEN,) if hints else STRICT
    tries = [_judge(colours, bins, tags, hints, order, moves, level) for level in levels]
    masks = max(tries, key=lambda masks: _object_like(masks, colours, bins))
    for _ in range(ROUNDS):
        if not any(mask.any() for mask in masks):
            break
        colours = _learn(bins, masks, papers, hints)
        masks = _judge(colours, bins, tags, hints, order, moves, EVEN)
    assumed = [] if prompts else [ASSUMED]
    if any(tag.any() for tag in tags):
        assumed.append("AprilTags were taken for surroundings")
    return Found(masks, tags, colours, "; ".join(assumed))


def _object_like(masks, colours: ColourModel, bins) -> float:
    """How much the pieces look like one object in view: distinct, central, within the frame."""
    middle = central(bins[0].shape)
    return float(
        np.mean(
            [
                contrast(mask, colours(index)) * middle[mask].mean() * (1 - cut_share(mask))
                if mask.any() else 0.0
                for mask, index in zip(masks, bins, strict=True)
            ]
        )
    )  # fmt: skip


def _small(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture to search, the tags in it and their papers; tags are looked for at full size."""
    rgb, size = frame.load(), size_within(frame.width, frame.height, SIDE_PX)
    squares, papers = tags_in(rgb)
    return resized(rgb, size), scaled(squares, size), scaled(papers, size)


def _hints(frames, prompts: Sequence[Prompt], shape: tuple[int, int]) -> dict[int, _Hint]:
    index = {frame.name: i for i, frame in enumerate(frames)}
    scale = shape[1] / frames[0].width
    return {index[p.frame]: _hint(p, scale, shape) for p in prompts}


def _hint(prompt: Prompt, scale: float, shape: tuple[int, int]) -> _Hint:
    allowed = np.ones(shape, bool)
    if prompt.box:
        left, top, right, bottom = (scale * v for v in prompt.box)
        allowed[:] = False
        allowed[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    inside, outside = (_dots(points, scale, shape) for points in (prompt.inside, prompt.outside))
    return _Hint(allowed & ~outside, inside, outside)


def _dots(points, scale: float, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    radius = max(1.5, CLICK * max(shape))
    near = [np.hypot(x - scale * u, y - scale * v) <= radius for u, v in points]
    return np.any(near, axis=0) if near else np.zeros(shape, bool)


def _first_colours(
    bins: Sequence[Int[np.ndarray, "h w"]],
    papers: Sequence[Bool[np.ndarray, "h w"]],
    hints: dict[int, _Hint],
) -> ColourModel:
    shape = bins[0].shape
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    border = ((np.abs(y)[:, None] > 0.5 - BORDER) | (np.abs(x)[None] > 0.5 - BORDER)).astype(float)
    if not hints:
        middle = central(shape, MIDDLE_SIGMA)
        ours = [middle * ~paper for paper in papers]
        theirs = [np.maximum(border, paper) for paper in papers]
        return fit_colours(bins, ours, theirs)
    at = sorted(hints)
    ours, theirs = zip(*(_examples(hints[i], border) for i in at), strict=True)
    return fit_colours([bins[i] for i in at], ours, theirs)


def _examples(hint: _Hint, border: Float[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
    """Examples of object and surroundings in a frame with a prompt."""
    boxed = not (hint.allowed | hint.outside).all()
    beside = (~hint.allowed).astype(float) if boxed else border
    if hint.inside.any():
        return hint.inside.astype(float), beside + hint.outside * hint.inside.size
    rows, columns = np.nonzero(hint.allowed)
    y, x = np.mgrid[: hint.allowed.shape[0], : hint.allowed.shape[1]]
    spread = 0.25 * np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])
    middle = np.exp(
        -(((y - rows.mean()) / spread[0]) ** 2 + ((x - columns.mean()) / spread[1]) ** 2) / 2
    )
    return middle * hint.allowed, beside


def _order(count: int, hints: dict[int, _Hint]) -> list[tuple[int, int | None]]:
    """Frames, each with the one it is followed from: outwards from the prompts."""
    if not hints:
        return [(i, None) for i in range(count)]
    nearest = [min(hints, key=lambda k: abs(k - i)) for i in range(count)]
    ahead = [(i, i - 1) for i in range(count) if i > nearest[i]]
    back = [(i, i + 1) for i in reversed(range(count)) if i < nearest[i]]
    return [(i, None) for i in sorted(hints)] + ahead + back


def _moves(small, order) -> dict[int, Float[np.ndarray, "h w 2"]]:
    """For each followed frame, where its pixels were in the frame it is followed from."""
    cv2 = opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in small]
    return {i: flow.calc(grey[i], grey[j], None) for i, j in order if j is not None}


def _moved(
    mask: Bool[np.ndarray, "h w"], move: Float[np.ndarray, "h w 2"]
) -> Bool[np.ndarray, "h w"]:
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
    source = mask.astype(np.float32)
    cv2 = opencv()
    return cv2.remap(source, x + move[..., 0], y + move[..., 1], cv2.INTER_LINEAR) >= 0.5


def _judge(
    colours: ColourModel, bins, tags, hints, order, moves, level: float
) -> list[Bool[np.ndarray, "h w"]]:
    masks: list = [None] * len(bins)
    anywhere = central(bins[0].shape)
    for i, source in order:
        likely = (smooth(colours(bins[i])) > level) & ~tags[i]
        weight = anywhere
        if i in hints:
            likely &= hints[i].allowed
            likely |= hints[i].inside
            weight = anywhere + hints[i].inside * hints[i].inside.size
        if i in moves and masks[source].any():
            before = _moved(masks[source], moves[i])
            likely &= grown(before, REACH * size_of(masks[source]))
            weight = before + 1e-3
        masks[i] = tidy(likely, weight)
    return masks


def _learn(bins, masks, papers, hints) -> ColourModel:
    """Colours of what was found, and of what lies off it in the frames where it was found."""
    seen = [i for i, mask in enumerate(masks) if mask.any()]
    ours = [shrunk(masks[i], 2).astype(float) for i in seen]
    theirs = [(~grown(masks[i], 4) | (papers[i] & ~masks[i])).astype(float) for i in seen]
    for k, i in enumerate(seen):
        if i in hints:
            theirs[k] += hints[i].outside * 10.0
    return fit_colours([bins[i] for i in seen], ours, theirs)


def enlarged(mask: Bool[np.ndarray, "h w"], frame: Frame) -> Bool[np.ndarray, "h2 w2"]:
    """A small mask at its frame's size."""
    return scaled(mask, (frame.width, frame.height))
