"""From a rig to views on disk: pictures and masks straightened where the lens bends them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from p2r_jax.real2sim.cameras.rig import Lens, Rig, import_pycolmap
from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import read_grey, write_picture
from p2r_jax.real2sim.views import View


def make_views(
    rig: Rig, frames: Sequence[Frame], masks: Mapping[str, Path], folder: Path
) -> tuple[View, ...]:
    """Views of a rig; pictures are copied into ``folder`` only if they must be straightened.

    Args:
      rig: in the world frame.
      frames: at least those of the rig.
      masks: by frame name.
      folder: gets ``images/`` and ``masks/`` if needed.
    """
    by_name = {frame.name: frame for frame in frames}
    if all(lens.is_straight for lens in rig.lenses):
        return tuple(
            View(name, lens.width, lens.height, lens.matrix, pose, by_name[name].image, masks[name])
            for name, lens, pose in zip(rig.names, rig.lenses, rig.poses, strict=True)
        )
    straight = {lens: straight_lens(lens) for lens in set(rig.lenses)}
    maps = {lens: pixel_map(lens, straight[lens]) for lens in straight}
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    views = []
    rows = zip(rig.names, rig.lenses, rig.poses, strict=True)
    for name, lens, pose in tqdm(rows, "straightening", len(rig.names)):
        image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
        write_picture(image, resampled(by_name[name].load(), maps[lens]))
        write_picture(mask, resampled(read_grey(masks[name]), maps[lens]))
        new = straight[lens]
        views.append(View(name, new.width, new.height, new.matrix, pose, image, mask))
    return tuple(views)


def straight_lens(lens: Lens) -> Lens:
    """The perfect lens whose picture shows nothing that the bent one did not see."""
    pycolmap = import_pycolmap()
    new = pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), lens.colmap())
    return Lens.pinhole(new.width, new.height, np.array(new.calibration_matrix()))


def pixel_map(bent: Lens, straight: Lens) -> Float[np.ndarray, "h w 2"]:
    """Where in the bent picture each pixel of the straight one is found, px."""
    rows, columns = np.mgrid[: straight.height, : straight.width] + 0.5
    flat = straight.straightened(np.stack([columns.ravel(), rows.ravel()], -1))
    rays = np.concatenate([flat, np.ones((len(flat), 1))], 1)
    pixels = np.array(bent.colmap().img_from_cam(rays))
    return pixels.reshape(straight.height, straight.width, 2)


def resampled(picture: np.ndarray, where: Float[np.ndarray, "h w 2"]) -> np.ndarray:
    """The picture at these places, linear between pixels."""
    import cv2

    x, y = np.moveaxis(where - 0.5, 2, 0).astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR)
