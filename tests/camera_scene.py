"""A box on a table seen by a ring of cameras: frames, masks and poses without a renderer."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from p2r_jax.real2sim.frames import Frame, FramesResult
from p2r_jax.real2sim.synthetic import look_at
from p2r_jax.real2sim.views import View

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
BOX = np.array([0.12, 0.06, 0.04])
TAG_M, TAG_CENTER = 0.06, np.array([0.11, 0.02, 0.0])
SHIFT_BITS = 4  # of OpenCV's polygon corners


@dataclass(frozen=True)
class Scene:
    """A capture, and the truth about it."""

    frames: FramesResult
    masks: dict[str, Path]
    views: tuple[View, ...]
    points: np.ndarray


def box_scene(folder: Path, views: int = 16, tag: bool = False) -> Scene:
    """Write pictures (grey, with a tag if wanted) and masks of the box into a folder."""
    rng = np.random.default_rng(0)
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    made, masks, frames = [], {}, []
    for index in range(views):
        angle, height = 2 * np.pi * index / views + 0.2, (0.16, 0.34)[index % 2]
        eye = np.array([0.42 * np.cos(angle), 0.42 * np.sin(angle), height])
        T = look_at(eye, np.array([0.02, 0.0, 0.02]))
        name, source = f"{index:04d}", f"photo{index:02d}.png"
        view = View(name, WIDTH, HEIGHT, K, T, folder / "images" / source)
        picture = np.full((HEIGHT, WIDTH, 3), 130, np.uint8)
        if tag:
            picture = _with_tag(picture, view)
        cv2.imwrite(str(view.image), picture)
        masks[name] = folder / "masks" / f"{name}.png"
        cv2.imwrite(str(masks[name]), _box_mask(view))
        frames.append(Frame(name, view.image, WIDTH, HEIGHT, source))
        made.append(view)
    record = {"frames": [{"source": frame.source, "name": frame.name} for frame in frames]}
    table = np.append(rng.uniform(-0.3, 0.3, (400, 2)), rng.normal(0, 2e-4, (400, 1)), 1)
    beside = np.any(np.abs(table[:, :2]) > 0.6 * BOX[:2], axis=1)
    on_box = rng.uniform(-0.5, 0.5, (200, 3)) * BOX
    on_box[:, 2] = BOX[2]
    stray = rng.uniform([-0.3, -0.3, 0.0], [0.3, 0.3, 0.6], (60, 3))
    points = np.concatenate([table[beside], on_box, stray])
    return Scene(FramesResult(folder, "photos", tuple(frames), record), masks, tuple(made), points)


def _box_mask(view: View) -> np.ndarray:
    corners = (np.indices((2, 2, 2)).reshape(3, -1).T - [0.5, 0.5, 0]) * BOX
    pixels = view.project(corners)[:, :2] - 0.5
    outline = cv2.convexHull((pixels * 2**SHIFT_BITS).round().astype(np.int32))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillConvexPoly(mask, outline, 255, shift=SHIFT_BITS)
    return mask


def tag_corners() -> np.ndarray:
    """Of the tag on the table, as detectors list them, m."""
    half = TAG_M / 2
    return TAG_CENTER + np.array(
        [[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]]
    )


def _with_tag(picture: np.ndarray, view: View) -> np.ndarray:
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    tag = np.pad(cv2.aruco.generateImageMarker(family, 5, 320), 60, constant_values=255)
    low, high = 60 - 0.5, 380 - 0.5
    corners = np.array([[low, low], [high, low], [high, high], [low, high]], np.float32)
    seen = view.project(tag_corners())[:, :2].astype(np.float32)
    fine = 4  # drawn larger and averaged, or the edges are jagged
    H = cv2.getPerspectiveTransform(corners, fine * seen - 0.5)
    size = (fine * WIDTH, fine * HEIGHT)
    drawn = cv2.warpPerspective(tag, H, size, flags=cv2.INTER_AREA).astype(np.float32)
    there = cv2.warpPerspective(np.full_like(tag, 255), H, size).astype(np.float32) / 255
    drawn, there = (
        cv2.resize(x, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for x in (drawn, there)
    )
    grey = drawn + (1 - there) * picture[..., 0]
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
