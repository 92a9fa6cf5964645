"""Pictures of the object with the axis drawn on them, as a model is shown them."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from p2r_jax.prior.protocol import Photo
from p2r_jax.prior.providers import missing_package

if TYPE_CHECKING:
    from PIL.Image import Image

TICKS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
COLORS = {"com_object_x": (214, 39, 40), "com_object_y": (31, 119, 180)}
INK, PAPER = (20, 20, 20), (255, 255, 255)
MAX_SIDE_PX = 1024  # larger photos cost tokens and show no more
OVERLAY_VERSION = 1  # part of a photo's digest: change it with the drawing


@dataclass(frozen=True)
class View:
    """A picture before anything is drawn on it.

    Attributes:
      name: of the file or the view.
      image: RGB.
      mask: pixels of the object; None if it was not needed.
      axes: by coordinate (``com_object_x``), pixels (column, row) of the scale's marks
        at ``TICKS``; not evenly spaced where perspective is known.
      source: SHA-256 of the file, or of the rendered pixels.
    """

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"] | None
    axes: Mapping[str, Float[np.ndarray, "5 2"]]
    source: str


def load_view(
    path: Path, coordinates: Sequence[str], ends: Float[np.ndarray, "2 2"] | None = None
) -> View:
    """A photo from a file, at most ``MAX_SIDE_PX`` large.

    Args:
      path: PNG, JPEG or whatever Pillow reads; an alpha channel is the object's mask.
      coordinates: which axes are needed.
      ends: pixel (column, row) of the x axis' bottom (-1) and top (+1) end in the photo at
        full size, upright as a viewer shows it; without it the axis is the photo's
        vertical, between the object's edges.

    Raises:
      FileNotFoundError, ValueError: if it is no picture, or no object can be made out in it.
    """
    image, source = _open(path)
    scale = min(1.0, MAX_SIDE_PX / max(image.size))
    image = image.resize([max(1, round(scale * side)) for side in image.size])
    rgba = np.asarray(image.convert("RGBA"))
    pixels = np.ascontiguousarray(rgba[..., :3])
    mask = None
    if ends is None or "com_object_y" in coordinates:
        mask = _mask(rgba, path)
    if ends is not None:
        ends = scale * np.asarray(ends, float)
        _check_inside(ends, image.size, path)
    axes = axes_between(mask, ends)
    return View(path.name, pixels, mask, {name: axes[name] for name in coordinates}, source)


def _mask(rgba: UInt8[np.ndarray, "h w 4"], path: Path) -> Bool[np.ndarray, "h w"]:
    """The alpha channel where it says something, else what stands out."""
    opaque = rgba[..., 3] > 127
    if opaque.all():
        return foreground_mask(np.ascontiguousarray(rgba[..., :3]), path)
    rows, columns = opaque.any(1).sum(), opaque.any(0).sum()
    if min(rows, columns) < 3:
        raise ValueError(
            f"{path}: its alpha, the object's mask, leaves {columns} x {rows} pixels; "
            "save the photo without alpha, or with the object opaque"
        )
    return opaque


def foreground_mask(
    image: UInt8[np.ndarray, "h w 3"], where: str | Path = "photo"
) -> Bool[np.ndarray, "h w"]:
    """The largest thing that differs in colour from the border of the picture.

    Good enough for one object on a plain table; the overlay shows what came of it.

    Raises:
      ValueError: if what is found cannot be one object within the picture.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float)
    distance = np.linalg.norm(image - np.median(border, 0), axis=-1)
    quiet = 1.5 * np.percentile(np.linalg.norm(border - np.median(border, 0), axis=-1), 99) + 10
    mask = ndimage.binary_opening(distance > min(quiet, _otsu(distance)), iterations=1)
    labels, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1)) if count else np.zeros(1)
    alone = sizes.max() > 0.5 * sizes.sum()
    mask = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
    share = mask.mean()
    edges = sum(bool(side.any()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    if not alone or not 0.003 < share < 0.9 or edges > 1:
        raise ValueError(
            f"{where}: no single object stands out from the background ({100 * share:.1f}% of the "
            "picture found); give the axis' ends with --axis-px, or a PNG whose alpha is the mask"
        )
    return mask


def axes_between(
    mask: Bool[np.ndarray, "h w"] | None, ends: Float[np.ndarray, "2 2"] | None
) -> dict[str, Float[np.ndarray, "5 2"]]:
    """Marks of both axes, in pixels: x between ``ends``, y across it.

    +y is to the left of +x, as seen from above. Without ends, x is the picture's vertical,
    upwards. Axes need the mask, except x with ends.
    """
    across = None
    if ends is None:
        assert mask is not None
        along, aside = _extent(mask, np.array([0.0, -1.0])), _extent(mask, np.array([-1.0, 0.0]))
        ends, across = along + aside.mean(0), aside + along.mean(0)
    elif mask is not None:
        direction = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
        left = np.array([direction[1], -direction[0]])
        centre = ends.mean(0)
        across = _extent(mask, left) + (centre @ direction) * direction
    axes = {"com_object_x": _marks(ends)}
    return axes if across is None else axes | {"com_object_y": _marks(across)}


def _extent(mask: Bool[np.ndarray, "h w"], unit: Float[np.ndarray, " 2"]) -> np.ndarray:
    """First and last point of the mask along a unit vector, as points on the line through 0."""
    rows, columns = np.nonzero(mask)
    along = np.stack([columns, rows], -1) @ unit
    return np.stack([along.min() * unit, along.max() * unit])


def _marks(ends: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "5 2"]:
    share = (TICKS[:, None] + 1) / 2
    return (1 - share) * ends[0] + share * ends[1]


def to_photo(view: View) -> Photo:
    """The view with its axes drawn on it, as PNG."""
    drawn = hashlib.sha256(f"{OVERLAY_VERSION} {view.source}".encode())
    for name, marks in view.axes.items():
        drawn.update(f" {name} {np.round(marks, 1).tolist()}".encode())
    return Photo(view.name, to_png(draw_axes(view)), drawn.hexdigest())


def draw_axes(view: View) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a scale from -1 to +1 along every axis."""
    Image, ImageDraw, ImageFont = _pillow()
    image = Image.fromarray(view.image)
    draw = ImageDraw.Draw(image)
    width = max(2, round(max(image.size) / 250))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 32)))
    for name, marks in view.axes.items():
        ends = [tuple(map(float, marks[i])) for i in (0, -1)]
        across = marks[-1] - marks[0]
        across = np.array([-across[1], across[0]]) / max(np.linalg.norm(across), 1e-9)
        draw.line(ends, PAPER, width + 2)
        draw.line(ends, COLORS[name], width)
        for tick, mark in zip(TICKS, marks, strict=True):
            reach = (5 if abs(tick) == 1 else 3) * width * across
            stroke = [tuple(mark - reach), tuple(mark + reach)]
            draw.line(stroke, PAPER, width + 2)
            draw.line(stroke, COLORS[name], width)
        for end, (inner, label) in zip(
            (marks[0], marks[-1]), ((marks[1], "-1"), (marks[-2], "+1")), strict=True
        ):
            outwards = (end - inner) / max(np.linalg.norm(end - inner), 1e-9)
            place = _kept_inside(end + 1.1 * font.size * outwards, image.size, font.size)
            draw.text(
                place, label, COLORS[name], font, anchor="mm", stroke_width=width, stroke_fill=PAPER
            )
    return np.asarray(image)


def to_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode RGB pixels."""
    Image, _, _ = _pillow()
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _kept_inside(place: np.ndarray, size: tuple[int, int], margin: float) -> tuple[float, float]:
    x, y = (float(np.clip(p, margin, side - margin)) for p, side in zip(place, size, strict=True))
    return x, y


def _check_inside(ends: np.ndarray, size: tuple[int, int], path: Path) -> None:
    if not np.all((ends >= 0) & (ends <= size)) or np.allclose(ends[0], ends[1]):
        raise ValueError(
            f"{path}: the axis' ends {ends.round().tolist()} are not two points within {size}"
        )


def _open(path: Path) -> tuple["Image", str]:
    """The picture, upright and with 8 bits per channel, and the SHA-256 of its file."""
    Image, _, _ = _pillow()
    from PIL import ImageOps, UnidentifiedImageError

    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; name the photos in it, e.g. {path}/*.jpg")
    if not path.is_file():
        raise FileNotFoundError(f"there is no photo {path}")
    data = path.read_bytes()
    try:
        image = _eight_bits(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is not a picture that Pillow reads; convert it to PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}; make it smaller") from error
    except Exception as error:  # decoders raise what they like on a damaged file
        raise ValueError(f"{path} is damaged or cut off: {error}; copy or save it anew") from error
    return image, hashlib.sha256(data).hexdigest()


def _eight_bits(image: "Image") -> "Image":
    """Pictures of 16 or 32 bits (depth cameras, TIFF) stretched from black to white."""
    Image, _, _ = _pillow()
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image, float)
    low, high = values.min(), values.max()
    return Image.fromarray((255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8))


def _otsu(values: Float[np.ndarray, "*n"]) -> float:
    """The threshold that best separates the values into two groups (Otsu, 1979)."""
    counts, edges = np.histogram(values, 256)
    centers = (edges[1:] + edges[:-1]) / 2
    low = np.cumsum(counts)
    high = low[-1] - low
    sums = np.cumsum(counts * centers)
    mean_low = sums / np.maximum(low, 1)
    mean_high = (sums[-1] - sums) / np.maximum(high, 1)
    return float(centers[np.argmax(low * high * (mean_low - mean_high) ** 2)])


def _pillow():
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise missing_package("Pillow", "vlm") from error
    return Image, ImageDraw, ImageFont
