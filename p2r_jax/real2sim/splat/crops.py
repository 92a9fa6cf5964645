"""Views cut out around the object and brought to one size: what a splat is fitted to."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.splat.projection import Camera
from p2r_jax.real2sim.views import View

MARGIN = 0.08  # around the mask's bounding box, relative to its longer side
HALF = 0.5  # coverage from which a pixel counts as the object
LEAST_INSIDE = 0.05  # share of the points that a mask must hold


@struct.dataclass
class Crops:
    """Square pictures of the object with their cameras; v may be absent (one crop).

    Attributes:
      rgb: the photo where the mask is, black elsewhere (premultiplied), in [0, 1].
      mask: coverage by the object, in [0, 1].
      T_camera_world, K: of every crop.
    """

    rgb: Float[Array, "*v s s 3"]
    mask: Float[Array, "*v s s"]
    T_camera_world: Float[Array, "*v 4 4"]
    K: Float[Array, "*v 3 3"]

    @property
    def camera(self) -> Camera:
        """The camera, of a single crop."""
        size = self.mask.shape[-1]
        return Camera(self.T_camera_world, self.K, size, size)

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, which) -> "Crops":
        return jax.tree.map(lambda x: x[which], self)


class Box(NamedTuple):
    """A square of a view, px."""

    left: float
    top: float
    side: float

    def camera(self, view: View, size: int) -> View:
        """The view's camera, cut to the square and brought to ``size`` px."""
        return view.warped(size / self.side, self.left, self.top, size, size)


def crop_views(views: Sequence[View], size: int, margin: float = MARGIN) -> Crops:
    """Cut every view to its mask; enlarged or reduced with antialiasing.

    Background is removed before resampling, so that no colour of the table bleeds into the
    object's edge. What lies outside the picture counts as background.

    Args:
      views: with images and masks.
      size: of the crops, px.
      margin: around the mask's bounding box, relative to its longer side.

    Raises:
      CaptureError: naming the views whose mask is empty.
    """
    masks = [view.load_mask() for view in views]
    empty = [view.name for view, mask in zip(views, masks, strict=True) if not mask.any()]
    if empty:
        raise CaptureError("the mask is empty; remove these views or mask them again", empty)
    rows = [_crop(*pair, size, margin) for pair in zip(views, masks, strict=True)]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def _crop(view: View, mask: np.ndarray, size: int, margin: float) -> Crops:
    box = box_around(mask, margin)
    cut = box.camera(view, size)
    photo = np.where(mask[..., None], view.load_image(), 0).astype(np.uint8)
    rgb, coverage = (_resampled(x, box, size) for x in (photo, 255 * mask.astype(np.uint8)))
    leaves = (rgb / 255, coverage / 255, cut.T_camera_world, cut.K)
    return Crops(*(jnp.asarray(x, jnp.float32) for x in leaves))


def box_around(mask: Bool[np.ndarray, "h w"], margin: float = MARGIN) -> Box:
    """The square around a mask; it may reach beyond the picture."""
    ys, xs = np.nonzero(mask)
    low = np.array([xs.min(), ys.min()])
    high = np.array([xs.max(), ys.max()]) + 1
    side = (1 + 2 * margin) * float((high - low).max())
    left, top = (low + high) / 2 - side / 2
    return Box(float(left), float(top), side)


def _resampled(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """A square of a picture at another size; black where it leaves the picture."""
    from PIL import Image

    pad = int(np.ceil(box.side)) + 1
    borders = ((pad, pad), (pad, pad), (0, 0))[: pixels.ndim]
    left, top = box.left + pad, box.top + pad
    square = (left, top, left + box.side, top + box.side)
    image = Image.fromarray(np.pad(pixels, borders))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=square), np.float32)


def check_points(points: Float[np.ndarray, "n 3"], views: Sequence[View]) -> None:
    """Refuse points that are not where the masks are.

    Raises:
      ValueError: if a coordinate is not finite.
      CaptureError: naming the views in whose mask hardly any point lies.
    """
    if not np.isfinite(points).all():
        raise ValueError("the points of the surface are not all finite")
    missed = [view.name for view in views if _inside(points, view).mean() < LEAST_INSIDE]
    if missed:
        raise CaptureError(
            f"in {len(missed)} of {len(views)} views the object's points lie outside its mask: "
            "their poses or their masks are wrong; leave them out, or make both anew",
            missed,
        )


def point_colours(
    points: Float[np.ndarray, "n 3"], views: Sequence[View]
) -> Float[np.ndarray, "n 3"]:
    """Mean colour of points over the views whose mask they fall into; grey if there is none.

    Occlusion is ignored: a first guess.
    """
    total, seen = np.full((len(points), 3), 0.5 * 1e-3), np.full((len(points), 1), 1e-3)
    for view in views:
        weight = _inside(points, view)[:, None]
        total += weight * view.load_image()[_pixels(points, view)] / 255
        seen += weight
    return total / seen


def _inside(points: np.ndarray, view: View) -> np.ndarray:
    """Which points are seen within the mask, if nothing hides them."""
    u, v, depth = view.project(points).T
    within = (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height) & (depth > 0)
    return within & view.load_mask()[_pixels(points, view)]


def _pixels(points: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that points are seen in, or of the nearest ones."""
    u, v, _ = view.project(points).T
    return np.clip(v, 0, view.height - 1).astype(int), np.clip(u, 0, view.width - 1).astype(int)
