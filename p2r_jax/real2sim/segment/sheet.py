"""All masks on one picture, for the eye."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import resized
from p2r_jax.real2sim.segment.shapes import opencv, scaled

WIDTH_PX = 1680
TILE_PX = 140, 420  # narrowest and widest
OUTLINE, BAD = (255, 220, 0), (230, 30, 30)
BACKGROUND_SHARE = 0.45  # of its brightness
RIM = 32, 32, 32


def contact_sheet(
    frames: Sequence[Frame], masks: Sequence[Bool[np.ndarray, "h w"]], notes: Sequence[str | None]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Every frame with its mask's outline, the rest darkened; notes in red.

    Args:
      frames, masks: as many.
      notes: what is wrong with each, or None.
    """
    columns = max(1, int(np.ceil(np.sqrt(len(frames) * 1.4 * frames[0].height / frames[0].width))))
    width = int(np.clip(WIDTH_PX // columns, *TILE_PX))
    tiles = [_tile(*row, width) for row in zip(frames, masks, notes, strict=True)]
    blank = [np.full_like(tiles[0], RIM[0])] * (-len(tiles) % columns)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    rows[-1] = rows[-1] + blank
    return np.vstack([np.hstack(row) for row in rows])


def _tile(
    frame: Frame, mask: Bool[np.ndarray, "h w"], note: str | None, width: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    cv2 = opencv()
    size = width - 4, max(1, round((width - 4) * frame.height / frame.width))
    tile, small = resized(frame.load(), size), scaled(mask, size)
    tile = np.where(small[..., None], tile, BACKGROUND_SHARE * tile).astype(np.uint8)
    outline, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outline, -1, BAD if note else OUTLINE, 1, cv2.LINE_AA)
    _write(tile, frame.name, 14, (255, 255, 255))
    if note:
        _write(tile, note.split(":")[0], size[1] - 6, BAD)
    frame_colour = BAD if note else RIM
    return cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=frame_colour)


def _write(tile: UInt8[np.ndarray, "h w 3"], text: str, baseline: int, colour: tuple) -> None:
    cv2 = opencv()
    for stroke, ink in ((3, (0, 0, 0)), (1, colour)):
        cv2.putText(
            tile, text, (5, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, stroke, cv2.LINE_AA
        )
