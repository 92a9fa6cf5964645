"""Masks that cannot be right."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from p2r_jax.real2sim.segment.shapes import cut_share, opencv, size_of

EMPTY = 5e-4  # share of the picture
WHOLE = 0.85
CUT = 0.01  # share of the outline
LARGEST_PIECE = 0.9  # share of the mask's area
AREA_JUMP = {"film": 1.7, "photos": 2.5}  # ratio to the frame it follows
PLACE_JUMP = 0.8  # of the object's size, in films
ANOTHER_ROUND = 3  # so many photos that agree are another distance, not mistakes
REMEDY = {
    "empty": "show where the object is with --masks.prompts FRAME:box=LEFT,TOP,RIGHT,BOTTOM",
    "whole picture": "show where the object is with --masks.prompts, or another --masks.segmenter",
    "cut by the picture's edge": "keep the whole object in view with some room around it; if the "
    "mask runs into the background, add --masks.prompts FRAME:-X,Y there",
    "in pieces": "add --masks.prompts FRAME:+X,Y on the missing part, or another --masks.segmenter",
    "jumps": "add --masks.prompts in one of these frames, or leave them out with --masks.drop",
}


def problem(mask: Bool[np.ndarray, "h w"]) -> str | None:
    """What is wrong with one mask on its own: a key of ``REMEDY``, a colon, and how much."""
    share = float(mask.mean())
    if share < EMPTY:
        return f"empty: {100 * share:.2f}% of the picture"
    if share > WHOLE:
        return f"whole picture: {100 * share:.0f}% of it"
    if (cut := cut_share(mask)) > CUT:
        return f"cut by the picture's edge: {100 * cut:.0f}% of the outline"
    count, _, stats, _ = opencv().connectedComponentsWithStats(mask.astype(np.uint8))
    areas = np.sort(stats[1:, opencv().CC_STAT_AREA])[::-1]
    if areas[0] < LARGEST_PIECE * areas.sum():
        return f"in pieces: {count - 1}, the largest {100 * areas[0] / areas.sum():.0f}% of all"
    return None


def find_problems(masks: Sequence[Bool[np.ndarray, "h w"]], film: bool) -> list[str | None]:
    """What is wrong with each mask, also against the other frames; None where nothing is."""
    found = [problem(mask) for mask in masks]
    good = [i for i, what in enumerate(found) if what is None]
    for i, what in _jumps([masks[i] for i in good], film):
        found[good[i]] = what
    return found


def _jumps(masks: Sequence[Bool[np.ndarray, "h w"]], film: bool) -> list[tuple[int, str]]:
    """Masks that do not go on from the others.

    Each mask joins the row whose last member it resembles most in area (and, in a film, in
    place), or begins a new row. The longest row is the object; a mask of another row jumps
    unless it resembles its neighbour in the longest. Among photos, three that agree with each
    other are a round at another distance.
    """
    size, place = [size_of(mask) for mask in masks], [_centroid(mask) for mask in masks]

    def step(i, j):
        ratio = (max(size[i], size[j]) / min(size[i], size[j])) ** 2
        far = np.linalg.norm(place[i] - place[j]) / max(size[i], size[j])
        too_far = film and far > PLACE_JUMP
        return np.inf if too_far or ratio > AREA_JUMP["film" if film else "photos"] else ratio

    rows = _rows(len(masks), step)
    longest = max(rows, key=len, default=[])
    short = [row for row in rows if row is not longest and (film or len(row) < ANOTHER_ROUND)]
    usual = np.median([size[i] for i in longest]) if longest else 1.0
    return [
        (i, f"jumps: {(size[i] / usual) ** 2:.1f} times the usual area, unlike its neighbours")
        for row in short for i in row
        if step(i, min(longest, key=lambda j: abs(i - j))) == np.inf
    ]  # fmt: skip


def _rows(count: int, step: Callable[[int, int], float]) -> list[list[int]]:
    rows: list[list[int]] = []
    for i in range(count):
        steps = [step(i, row[-1]) for row in rows]
        if steps and min(steps) < np.inf:
            rows[int(np.argmin(steps))].append(i)
        else:
            rows.append([i])
    return rows


def _centroid(mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    return np.array([axis.mean() for axis in np.nonzero(mask)])


def kind(what: str) -> str:
    """Key of ``REMEDY`` of a problem."""
    return what.split(":")[0]
