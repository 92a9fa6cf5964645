"""Pictures whose masks are known: an object drawn on a speckled table."""

from pathlib import Path

import cv2
import numpy as np

from p2r_jax.real2sim.frames import Frame, FramesResult
from p2r_jax.real2sim.pictures import write_picture

T_SHAPE = np.array(
    [(-60, -45), (60, -45), (60, -15), (15, -15), (15, 75), (-15, 75), (-15, -15), (-60, -15)]
)  # px, about its middle
WIDTH, HEIGHT = 240, 180


def turned(degrees: float, scale: float, at: tuple[float, float]) -> np.ndarray:
    """Corners of the T in the picture, px."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return T_SHAPE @ np.array([[c, s], [-s, c]]) * scale + at


def picture(rng, degrees=0.0, scale=0.8, at=(120.0, 85.0), colour=(190, 120, 60)):
    """RGB and mask. The object is two-coloured, the table speckled, the camera noisy."""
    table = rng.integers(40, 110, (HEIGHT // 6, WIDTH // 6, 3)).astype(np.uint8)
    rgb = cv2.resize(table, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(float)
    corners = np.round(turned(degrees, scale, at) * 16).astype(np.int32)
    cover = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.fillPoly(cover, [corners], 1.0, cv2.LINE_AA, 4)
    shade = np.where(np.arange(WIDTH)[None, :, None] < at[0], 1.0, 0.8) * np.array(colour)
    rgb = rgb * (1 - cover[..., None]) + shade * cover[..., None]
    rgb += rng.normal(0, 4, rgb.shape)
    return np.clip(rgb, 0, 255).astype(np.uint8), cover >= 0.5


def film_of_the_t(count=6, **kw):
    """The object turns, comes nearer and is off the middle; pictures and masks."""
    rng = np.random.default_rng(1)
    made = [picture(rng, 6.0 * i, 0.6 + 0.03 * i, (105 + 4 * i, 80), **kw) for i in range(count)]
    return [rgb for rgb, _ in made], [mask for _, mask in made]


def write_frames(folder: Path, pictures, kind="film", masks=()) -> FramesResult:
    """A finished frames step made of these pictures."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    frames = []
    for i, rgb in enumerate(pictures):
        image, mask = folder / "images" / f"{i:04d}.png", None
        write_picture(image, rgb)
        if len(masks):
            mask = folder / "masks" / f"{i:04d}.png"
            write_picture(mask, np.where(masks[i], 255, 0).astype(np.uint8))
        height, width = rgb.shape[:2]
        frames.append(Frame(f"{i:04d}", image, width, height, "clip.mp4", i / 10, mask))
    return FramesResult(folder, kind, tuple(frames), {})


def iou(a, b) -> float:
    return float((a & b).sum() / (a | b).sum())
