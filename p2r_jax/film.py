"""Frames into an mp4 that any player and any dataset reader can seek in."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

RATE_LIMIT = 10**6  # largest denominator of a frame rate


def write_mp4(
    path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, crf: int = 21,
    keyframes: int | None = None,
) -> None:  # fmt: skip
    """Write H.264; a film that breaks off leaves nothing behind.

    Args:
      path: mp4 to write; replaced only once it is complete.
      frames: pictures of one size, both sides even.
      fps: frames per second.
      crf: quality, smaller is better.
      keyframes: one in so many frames stands alone, which makes seeking exact and quick.

    Raises:
      ImportError: without PyAV; names the extra to install.
    """
    try:
        import av
    except ImportError:
        raise ImportError("videos need PyAV: pip install 'p2r_jax[viz]'") from None
    options = {"crf": str(crf)} | ({"g": str(keyframes)} if keyframes else {})
    partial = path.with_name(path.name + ".partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as film:
            stream = film.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(RATE_LIMIT), options=options
            )
            stream.pix_fmt = "yuv420p"
            for index, frame in enumerate(frames):
                if index == 0:
                    stream.height, stream.width = frame.shape[:2]
                film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            film.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
