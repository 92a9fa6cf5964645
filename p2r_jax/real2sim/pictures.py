"""Pictures out of films and folders of photos, upright, and how blurred they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.real2sim.errors import CaptureError

FILMS = frozenset(
    (
        ".mp4",
        ".mov",
        ".m4v",
        ".avi",
        ".mkv",
        ".webm",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".3gp",
        ".wmv",
    )
)
PHOTOS = frozenset((".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".ppm"))
UNREAD = frozenset((".heic", ".heif", ".avif", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf"))
LOOK_SIDE_PX = 640  # blur is measured at this longest side
LOOK_SIGMAS_PX = 1.5, 3.0  # wide enough to average a sensor's noise away
MOST_BLUR_PX = 20.0  # beyond this the measure says no more
FAINT = 0.02  # mean squared slope, grey levels per px: below it nothing is to be seen


@dataclass(frozen=True)
class Picture:
    """One decoded picture.

    Attributes:
      source: file name of the photo or film.
      index: of the frame in its film, or of the photo in its folder.
      time_s: of a film's frame since the film's first.
      rgb: pixels, upright.
      alpha: opacity as a photo carried it, where some of it is transparent.
    """

    source: str
    index: int
    time_s: float | None
    rgb: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None = None


def missing_package(package: str) -> ImportError:
    """The error for a package that is not installed."""
    extra = "real2sim" if package in ("torch", "transformers") else "reconstruct"
    return ImportError(f"{package} is not installed: pip install 'p2r_jax[{extra}]'")


def natural_key(path: Path) -> list:
    """Sorts ``photo2`` before ``photo10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name.lower())]


def read_film(path: Path) -> Iterator[Picture]:
    """Every frame of a film's first video stream, in order of presentation.

    Frames are turned as the film's display matrix says, and stretched where its pixels are
    not square. Time stamps are the film's own, so the frame rate may vary.

    Raises:
      CaptureError: if it is no film, or breaks off.
      ImportError: without PyAV; names the extra to install.
    """
    try:
        import av
    except ImportError:
        raise missing_package("av (PyAV)") from None
    index = 0
    try:
        with av.open(str(path)) as film:
            if not film.streams.video:
                raise CaptureError(f"{path} holds no pictures; give a film or a folder of photos")
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            first = None
            for frame in film.decode(stream):
                time_s = float(frame.time) if frame.time is not None else index / _rate(stream)
                first = time_s if first is None else first
                rgb = _upright(frame, stream.sample_aspect_ratio)
                yield Picture(path.name, index, time_s - first, rgb)
                index += 1
    except av.error.FFmpegError as error:
        reached = f"breaks off after {index} frames" if index else "cannot be read as a film"
        raise CaptureError(
            f"{path} {reached} ({error.strerror or error}); copy it anew from the camera, or "
            "convert it to mp4"
        ) from error


def count_frames(path: Path) -> int | None:
    """How many frames a film says it has; None if it does not say."""
    import av

    try:
        with av.open(str(path)) as film:
            return film.streams.video[0].frames or None
    except (av.error.FFmpegError, IndexError):
        return None


def _rate(stream) -> float:
    return float(stream.average_rate or 30)


def _upright(frame, aspect) -> UInt8[np.ndarray, "h w 3"]:
    rgb = frame.to_ndarray(format="rgb24")
    if aspect and aspect != 1:
        height, width = rgb.shape[:2]
        wide = max(1.0, float(aspect))
        size = round(width * wide), round(height * wide / float(aspect))
        rgb = resized(rgb, size)
    return np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))


def photo_files(folder: Path) -> list[Path]:
    """Photos of a capture folder, or of its ``images/``, in natural order.

    Raises:
      CaptureError: if there is none.
    """
    folder = folder / "images" if (folder / "images").is_dir() else folder
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    photos = sorted((f for f in files if f.suffix.lower() in PHOTOS), key=natural_key)
    if photos:
        return photos
    raw = [f.name for f in files if f.suffix.lower() in UNREAD]
    hint = f" ({raw[0]}: convert to JPEG first)" if raw else ""
    raise CaptureError(f"{folder} holds no photos{hint}; photos are {', '.join(sorted(PHOTOS))}")


def read_photo(path: Path, index: int = 0) -> Picture:
    """One photo, turned as its EXIF orientation says, composed on white where transparent.

    Raises:
      CaptureError: if the file is damaged or no picture.
      ImportError: without Pillow; names the extra to install.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise missing_package("pillow") from None
    try:
        with Image.open(path) as file:
            photo = ImageOps.exif_transpose(file)
            see_through = photo.has_transparency_data
            rgba = np.asarray(photo.convert("RGBA")) if see_through else None
            rgb = np.asarray(photo.convert("RGB"))
    except Exception as error:  # decoders raise what they like on a damaged file
        raise CaptureError(
            f"{path} cannot be read ({error}); copy it anew from the camera, or take it out"
        ) from error
    alpha = None
    if rgba is not None and (rgba[..., 3] < 255).any():
        alpha = rgba[..., 3]
        share = alpha[..., None] / 255
        rgb = np.round(rgba[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return Picture(path.name, index, None, rgb, alpha)


def read_png(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a picture that we wrote, faster than ``read_photo``.

    Raises:
      CaptureError: if the file is gone or damaged.
    """
    try:
        import cv2
    except ImportError:
        raise missing_package("opencv-python-headless") from None
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if bgr is None:
        raise CaptureError(f"{path} is gone or damaged; run the frames step again")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_grey(path: Path) -> UInt8[np.ndarray, "h w"]:
    """A mask file as grey values; the alpha channel where it has one that says something.

    Raises:
      CaptureError: if the file is damaged or no picture.
    """
    picture = read_photo(path)
    return picture.rgb.max(-1) if picture.alpha is None else picture.alpha


def write_picture(path: Path, pixels: np.ndarray, quality: int = 90) -> None:
    """Write RGB or grey pixels as PNG or JPEG, by the name's ending."""
    from PIL import Image

    options = {"quality": quality} if path.suffix in (".jpg", ".jpeg") else {"compress_level": 1}
    Image.fromarray(pixels).save(path, **options)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels at another size (width, height), averaged where it is smaller."""
    try:
        import cv2
    except ImportError:
        raise missing_package("opencv-python-headless") from None
    if pixels.shape[1::-1] == tuple(size):
        return pixels
    smaller = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def size_within(width: int, height: int, longest: int | None) -> tuple[int, int]:
    """Width and height shrunk to a longest side, never enlarged."""
    scale = min(1.0, longest / max(width, height)) if longest else 1.0
    return max(1, round(scale * width)), max(1, round(scale * height))


def sharpness(rgb: UInt8[np.ndarray, "h w 3"]) -> float:
    """How much slopes lose when a picture is blurred further: 1 (blurred) to about 10 (noise).

    The ratio of the mean squared slopes after a blur of 1.5 px and after one of 3 px, of the
    picture shrunk to a longest side of 640 px; the picture's contrast does not matter. Measured
    along rows and along columns, as motion blurs in one direction; the smaller counts.
    """
    import cv2

    height, width = rgb.shape[:2]
    grey = cv2.cvtColor(resized(rgb, size_within(width, height, LOOK_SIDE_PX)), cv2.COLOR_RGB2GRAY)
    fine, coarse = (
        cv2.GaussianBlur(grey.astype(np.float32), (0, 0), sigma) for sigma in LOOK_SIGMAS_PX
    )
    return min(_slope_ratio(np.diff(fine, axis=k), np.diff(coarse, axis=k)) for k in (0, 1))


def _slope_ratio(fine: Float[np.ndarray, "h w"], coarse: Float[np.ndarray, "h w"]) -> float:
    sharp, soft = float(np.mean(fine**2)), float(np.mean(coarse**2))
    return 1.0 if sharp < FAINT else sharp / max(soft, 1e-9)


def blur_px(sharpness: float) -> float:
    """Sigma of the blur that edges of this sharpness have, px of the picture as it was measured.

    The squared slope of an edge of width s, summed across it, is proportional to 1 / s; two
    more blurs a < b make it sqrt(s^2 + a^2) and sqrt(s^2 + b^2), which leaves s as the only
    unknown in their ratio. Texture finer than single edges makes it smaller, down to 0.
    """
    a, b = LOOK_SIGMAS_PX
    squared = sharpness**2
    if squared <= 1:
        return MOST_BLUR_PX
    return float(min(np.sqrt(max(b**2 - squared * a**2, 0) / (squared - 1)), MOST_BLUR_PX))


def thumbnail(rgb: UInt8[np.ndarray, "h w 3"], longest: int = 64) -> UInt8[np.ndarray, "h w"]:
    """Small and grey, to tell whether two pictures show the same."""
    import cv2

    height, width = rgb.shape[:2]
    small = resized(rgb, size_within(width, height, longest))
    return cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 0.7)
