"""Which pictures of a capture are taken: sharp ones, spread evenly, none twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import UInt8

from p2r_jax.real2sim.pictures import blur_px

SAME_GREY_LEVELS = 6  # noise and compression move a thumbnail's pixel by 1 to 3
ROUNDS = 6  # of making windows shorter until enough frames differ


@dataclass(frozen=True)
class Seen:
    """What is remembered of a decoded picture; its pixels are not.

    Attributes:
      source: file name of the photo or film.
      index: in its film or folder.
      time_s: in the film; None of a photo.
      size: width and height, px.
      sharpness: see ``pictures.sharpness``.
      small: thumbnail, grey.
      why_not: it is left out; None if it is taken.
    """

    source: str
    index: int
    time_s: float | None
    size: tuple[int, int]
    sharpness: float
    small: UInt8[np.ndarray, "h w"] = field(repr=False)
    why_not: str | None = None

    @property
    def place(self) -> float:
        """On the axis along which pictures shall be spread evenly."""
        return self.index if self.time_s is None else self.time_s

    @property
    def called(self) -> str:
        """What the user knows it by."""
        return self.source if self.time_s is None else f"{self.time_s:.2f} s"


def judge(seen: Sequence[Seen], wanted: int, most_blur_px: float) -> list[Seen]:
    """Every picture with why it is not taken, or None.

    Time is cut into windows, and of each the sharpest is taken; then those that show the same
    as the one before are left out, and windows are made shorter until enough are left.

    Args:
      seen: in order.
      wanted: at most so many are taken.
      most_blur_px: wider edges make a picture blurred.
    """
    judged = [_blurred(look, most_blur_px) for look in seen]
    sharp = [look for look in judged if look.why_not is None]
    if not sharp:
        return judged
    windows = wanted
    for _ in range(ROUNDS):
        picked = _sharpest(sharp, windows) if windows < len(sharp) else sharp
        kept, same = _without_repeats(picked)
        if len(kept) >= wanted or windows >= len(sharp):
            break
        windows = min(len(sharp), int(np.ceil(windows * wanted / len(kept))))
    if len(kept) > wanted:
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, wanted).round().astype(int)]
    taken, near = {look.index for look in kept}, np.array([look.place for look in kept])
    return [
        look
        if look.why_not or look.index in taken
        else replace(look, why_not=same.get(look.index) or _passed_over(look, kept, near))
        for look in judged
    ]


def _blurred(look: Seen, most: float) -> Seen:
    blur = blur_px(look.sharpness)
    if blur <= most:
        return look
    return replace(look, why_not=f"blurred: edges are {blur:.1f} px wide, at most {most:g}")


def _sharpest(looks: Sequence[Seen], windows: int) -> list[Seen]:
    """The sharpest of each of equal windows of time; windows without any stay empty."""
    places = np.array([look.place for look in looks])
    edges = np.linspace(places[0], places[-1], windows + 1)[1:-1]
    window = np.searchsorted(edges, places, side="right")
    groups = [[looks[i] for i in np.nonzero(window == k)[0]] for k in range(windows)]
    return [max(group, key=lambda look: look.sharpness) for group in groups if group]


def _without_repeats(looks: Sequence[Seen]) -> tuple[list[Seen], dict[int, str]]:
    """Those that differ from the one kept before; and for the others, what they repeat."""
    kept, same = [looks[0]], {}
    for look in looks[1:]:
        if np.abs(look.small.astype(int) - kept[-1].small).max() < SAME_GREY_LEVELS:
            same[look.index] = f"repeated: shows the same as {kept[-1].called}"
        else:
            kept.append(look)
    return kept, same


def _passed_over(look: Seen, kept: Sequence[Seen], places: np.ndarray) -> str:
    nearest = kept[int(np.argmin(np.abs(places - look.place)))]
    return f"not needed: {nearest.called} stands for it"
