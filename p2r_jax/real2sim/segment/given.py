"""Masks that came with the photos."""

from collections.abc import Sequence

import numpy as np

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import read_grey
from p2r_jax.real2sim.segment.protocol import Prompt, Segmentation
from p2r_jax.real2sim.views import MASK_LEVEL


def given(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Segmentation:
    """Take each photo's own mask; a photo without one gets an empty mask.

    Raises:
      ValueError: if there are prompts, or no photo came with a mask.
    """
    if prompts:
        raise ValueError("masks that are given take no prompts; choose another --masks.segmenter")
    if not any(frame.mask for frame in frames):
        raise ValueError(
            "no masks came with the capture; put them into masks/ beside the photos' images/, "
            "under the photos' names, or choose another --masks.segmenter"
        )
    masks = [
        read_grey(frame.mask) >= MASK_LEVEL
        if frame.mask
        else np.zeros((frame.height, frame.width), bool)
        for frame in frames
    ]
    return Segmentation(masks, [1.0 if f.mask else 0.0 for f in frames], "")
