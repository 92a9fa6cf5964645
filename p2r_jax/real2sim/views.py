"""Calibrated views: what cameras, splat and mesh agree on.

Camera frame as in OpenCV and COLMAP: x right, y down, z forward. Pixel coordinates have
their origin in the upper left corner of the image, so the middle of the first pixel is
(0.5, 0.5): u = fx x / z + cx. Images are free of lens distortion. World frame after the
cameras step: metres, z up, the table at z = 0, the object near the origin.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.files import read_record, write_json

SCHEMA_VERSION = 1
MASK_LEVEL = 128  # grey values from here on are the object


@dataclass(frozen=True)
class View:
    """One picture with its camera.

    Attributes:
      name: of the frame, unique in a capture, e.g. ``0042``.
      width, height: of image and mask, px.
      K: intrinsics, px.
      T_camera_world: maps world coordinates (m) into the camera's frame.
      image: RGB file, or None.
      mask: grey file, bright on the object, or None.
    """

    name: str
    width: int
    height: int
    K: Float[np.ndarray, "3 3"]
    T_camera_world: Float[np.ndarray, "4 4"]
    image: Path | None = None
    mask: Path | None = None

    @property
    def position(self) -> Float[np.ndarray, " 3"]:
        """Camera centre in the world, m."""
        R, t = self.T_camera_world[:3, :3], self.T_camera_world[:3, 3]
        return -R.T @ t

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Pixel coordinates and depth (u, v in px, z in m) of world points."""
        q = points @ self.T_camera_world[:3, :3].T + self.T_camera_world[:3, 3]
        uvw = q @ self.K.T
        return np.concatenate([uvw[..., :2] / uvw[..., 2:], q[..., 2:]], axis=-1)

    def warped(self, scale: float, left: float, top: float, width: int, height: int) -> "View":
        """The camera of a cut-out: pixels from (left, top), enlarged by ``scale``."""
        A = np.array([[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1.0]])
        return replace(self, K=A @ self.K, width=width, height=height)

    def load_image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture, RGB."""
        return _load(self.image, self, "RGB")

    def load_mask(self) -> np.ndarray:
        """Where the object is, bool (h, w)."""
        return _load(self.mask, self, "L") >= MASK_LEVEL


def _load(path: Path | None, view: View, mode: str) -> np.ndarray:
    from PIL import Image

    if path is None:
        raise ValueError(f"view {view.name} has no {'image' if mode == 'RGB' else 'mask'}")
    pixels = np.asarray(Image.open(path).convert(mode))
    if pixels.shape[:2] != (view.height, view.width):
        raise ValueError(
            f"{path} is {pixels.shape[1]} x {pixels.shape[0]} px, its camera "
            f"{view.width} x {view.height}"
        )
    return pixels


def split_views(views: Sequence[View], held_out: int) -> tuple[list[View], list[View]]:
    """Views that shape something, and every ``held_out``-th, which judges it; 0 holds none.

    The same rule for splat and mesh, so that what judges the mesh does not shape it by way
    of the splat's depth either.
    """
    judge = [held_out > 0 and i % held_out == held_out // 2 for i in range(len(views))]
    shaping = [view for view, held in zip(views, judge, strict=True) if not held]
    return shaping, [view for view, held in zip(views, judge, strict=True) if held]


def write_views(path: Path, views: Sequence[View], notes: dict) -> None:
    """Write ``cameras.json``; files are named relative to its folder.

    Args:
      path: the JSON file.
      views: any number.
      notes: how they came about (source of poses and scale, errors); plain JSON values.
    """
    rows = [
        {
            "name": view.name,
            "width": view.width,
            "height": view.height,
            "K": view.K.tolist(),
            "T_camera_world": view.T_camera_world.tolist(),
            "image": _relative(view.image, path.parent),
            "mask": _relative(view.mask, path.parent),
        }
        for view in views
    ]
    write_json(path, {"schema": SCHEMA_VERSION, **notes, "views": rows})


def read_views(path: Path) -> tuple[tuple[View, ...], dict]:
    """Read ``cameras.json``: the views and the notes.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no JSON of this schema, or a view is malformed.
    """
    record = read_record(path, SCHEMA_VERSION, "make one with the cameras step")
    views = tuple(_view(row, path) for row in record["views"])
    return views, {k: v for k, v in record.items() if k not in ("schema", "views")}


def _view(row: dict, path: Path) -> View:
    try:
        K, T = np.array(row["K"], float), np.array(row["T_camera_world"], float)
        if K.shape != (3, 3) or T.shape != (4, 4):
            raise ValueError(f"K has shape {K.shape}, T_camera_world {T.shape}")
        files = [path.parent / row[k] if row[k] else None for k in ("image", "mask")]
        return View(row["name"], int(row["width"]), int(row["height"]), K, T, *files)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: view {json.dumps(row)[:60]}... is malformed: {error}") from error


def _relative(path: Path | None, folder: Path) -> str | None:
    import os

    return None if path is None else os.path.relpath(path, folder)
