"""What both ways to SAM-2 (Ravi et al., 2024) share: prompts, device, the sweep over frames."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import missing_package
from p2r_jax.real2sim.segment.protocol import Prompt, Segmentation
from p2r_jax.real2sim.segment.search import ASSUMED, enlarged, find
from p2r_jax.real2sim.segment.shapes import one_piece

ROOM = 0.04  # of the object's extent around the box that is found without a prompt
Logits = Float[np.ndarray, "h w"]
Sweep = Callable[[int, bool], Iterable[tuple[int, Logits]]]


@dataclass
class Tracked:
    """Logits turned into masks as they come.

    Attributes:
      masks, scores: by frame index.
    """

    masks: dict[int, Bool[np.ndarray, "h w"]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def put(self, index: int, logits: Logits) -> None:
        """Keep a frame's largest piece, and how sure the network is of its pixels."""
        mask = logits > 0
        sure = 1 / (1 + np.exp(-np.abs(logits)))
        self.masks[index] = one_piece(mask, np.ones(mask.shape))
        self.scores[index] = float(2 * sure[mask].mean() - 1) if mask.any() else 0.0


def track(count: int, first: int, sweep: Sweep, assumed: str) -> Segmentation:
    """Propagate from the first prompted frame to the end, then back to the beginning.

    Args:
      count: of frames.
      first: index of the first frame with a prompt.
      sweep: (start, reverse) -> frames and their logits, as the network tracks them.
      assumed: goes into the result.
    """
    tracked = Tracked()
    with tqdm(total=count, desc="masks: tracking", unit="frame", disable=None) as bar:
        for reverse in (False, True):
            for index, logits in sweep(first, reverse) if not reverse or first > 0 else ():
                if index not in tracked.masks:
                    bar.update()
                    tracked.put(index, logits)
    order = range(count)
    return Segmentation(
        [tracked.masks[i] for i in order], [tracked.scores[i] for i in order], assumed
    )


def prompts_or_found(
    frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool
) -> tuple[Sequence[Prompt], str]:
    """The prompts; or a box around what ``grabcut`` would start from, and what that assumes.

    Raises:
      ValueError: if there is no prompt and nothing is found without.
    """
    if prompts:
        return prompts, ""
    masks = find(frames, (), film).masks
    best = int(np.argmax([mask.sum() for mask in masks]))
    rows, columns = np.nonzero(enlarged(masks[best], frames[best]))
    if not len(rows):
        raise ValueError(
            "nothing stands out in the middle of the frames; show where the object is with "
            "--masks.prompts FRAME:box=LEFT,TOP,RIGHT,BOTTOM"
        )
    frame = frames[best]
    pad = ROOM * max(np.ptp(rows), np.ptp(columns))
    box = (
        float(max(0, columns.min() - pad)), float(max(0, rows.min() - pad)),
        float(min(frame.width, columns.max() + 1 + pad)),
        float(min(frame.height, rows.max() + 1 + pad)),
    )  # fmt: skip
    shown = ",".join(f"{v:.0f}" for v in box)
    return (Prompt(frame.name, box),), f"{ASSUMED}; SAM-2 was given {frame.name}:box={shown}"


def points_of(prompt: Prompt) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Clicks as SAM-2 takes them: places, and 1 on the object, 0 beside it."""
    places = np.array([*prompt.inside, *prompt.outside], np.float32).reshape(-1, 2)
    labels = np.array([1] * len(prompt.inside) + [0] * len(prompt.outside), np.int32)
    return places, labels


def pick_device(wanted: str | None) -> str:
    """``wanted``, or CUDA where it is, else the CPU.

    Raises:
      ImportError: without torch.
    """
    try:
        import torch
    except ImportError:
        raise missing_package("torch") from None
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")
