"""What every segmenter is given and gives back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from p2r_jax.real2sim.frames import Frame

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Where the object is in one frame, px of that frame.

    Attributes:
      frame: its name.
      box: left, top, right, bottom; or None.
      inside: points (column, row) on the object.
      outside: points that are not the object.
    """

    frame: str
    box: Box | None = None
    inside: tuple[tuple[float, float], ...] = ()
    outside: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Segmentation:
    """Masks of a sequence.

    Attributes:
      masks: one per frame, at the frame's size.
      scores: one per frame, 0 to 1: how clearly the segmenter tells object from background.
        Comparable within one segmenter only.
      assumed: what the segmenter took for granted, for the user to read.
    """

    masks: Sequence[Bool[np.ndarray, "h w"]]
    scores: Sequence[float]
    assumed: str


class Segmenter(Protocol):
    """Finds one object in every frame of a capture."""

    def __call__(
        self, frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool
    ) -> Segmentation:
        """Segment.

        Args:
          frames: in order.
          prompts: of some frames, one per frame; perhaps none.
          film: whether frames follow each other closely, so that motion is small.
        """


def parse_prompts(texts: Sequence[str], frames: Sequence[Frame]) -> tuple[Prompt, ...]:
    """Prompts as they are typed: ``[FRAME:]box=L,T,R,B``, ``[FRAME:]+X,Y``, ``[FRAME:]-X,Y``.

    Without a frame's name the first frame is meant. Several for one frame are merged.

    Raises:
      ValueError: naming the prompt that cannot be read, its frame, or its place.
    """
    merged: dict[str, Prompt] = {}
    by_name = {frame.name: frame for frame in frames}
    for text in texts:
        name, _, what = text.rpartition(":")
        name = name or frames[0].name
        if name not in by_name:
            raise ValueError(
                f"prompt {text!r} is about frame {name}; there are {frames[0].name} to "
                f"{frames[-1].name}"
            )
        before = merged.get(name, Prompt(name))
        merged[name] = _with(before, what, text, by_name[name])
    return tuple(merged[frame.name] for frame in frames if frame.name in merged)


def _with(prompt: Prompt, what: str, text: str, frame: Frame) -> Prompt:
    number = r"\s*(-?\d+(?:\.\d+)?)\s*"
    if found := re.fullmatch("box=" + ",".join([number] * 4), what):
        left, top, right, bottom = (float(v) for v in found.groups())
        _check_within(frame, text, [(left, top), (right, bottom)])
        if right - left < 2 or bottom - top < 2:
            raise ValueError(f"prompt {text!r}: a box is left,top,right,bottom, not empty")
        return Prompt(prompt.frame, (left, top, right, bottom), prompt.inside, prompt.outside)
    if found := re.fullmatch(rf"([+-]){number},{number}", what):
        point = float(found[2]), float(found[3])
        _check_within(frame, text, [point])
        if found[1] == "+":
            return Prompt(prompt.frame, prompt.box, (*prompt.inside, point), prompt.outside)
        return Prompt(prompt.frame, prompt.box, prompt.inside, (*prompt.outside, point))
    raise ValueError(
        f"prompt {text!r} cannot be read; write FRAME:box=LEFT,TOP,RIGHT,BOTTOM, FRAME:+X,Y for a "
        "point on the object, or FRAME:-X,Y for one beside it"
    )


def _check_within(frame: Frame, text: str, points: Sequence[tuple[float, float]]) -> None:
    for x, y in points:
        if not (0 <= x <= frame.width and 0 <= y <= frame.height):
            raise ValueError(
                f"prompt {text!r}: ({x:g}, {y:g}) lies outside the frame of "
                f"{frame.width} x {frame.height} px"
            )
