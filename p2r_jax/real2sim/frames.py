"""Step 1: the pictures that the other steps work with, out of a film or photos."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from p2r_jax.files import as_record, read_record, write_json
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frame_choice import Seen, judge
from p2r_jax.real2sim.pictures import (
    FILMS,
    PHOTOS,
    Picture,
    blur_px,
    count_frames,
    natural_key,
    photo_files,
    read_film,
    read_grey,
    read_photo,
    read_png,
    resized,
    sharpness,
    size_within,
    thumbnail,
    write_picture,
)
from p2r_jax.real2sim.views import MASK_LEVEL

SCHEMA_VERSION = 1
FILM_FRAMES = 60


@dataclass(frozen=True)
class FramesConfig:
    """Which pictures are taken.

    Attributes:
      count: at most so many, evenly spread; by default 60 of a film and every photo.
      at_least: fewer usable pictures than this are refused.
      longest_side: pictures are shrunk to this, px.
      max_blur_px: wider edges make a picture blurred; sigma in px, of the picture shrunk to a
        longest side of 640 px.
    """

    count: int | None = None
    at_least: int = 12
    longest_side: int | None = 1600
    max_blur_px: float = 3.0

    def __post_init__(self):
        if self.count is not None and self.count < self.at_least:
            raise ValueError(f"count is {self.count}, but at_least asks for {self.at_least}")
        if self.longest_side is not None and self.longest_side < 64:
            raise ValueError(f"longest_side is {self.longest_side} px; it must be 64 or more")


@dataclass(frozen=True)
class Frame:
    """A chosen picture on disk.

    Attributes:
      name: unique, in order: ``0000``, ``0001``, ...
      image: RGB file.
      width, height: px.
      source: file it came from.
      time_s: in the film; None of a photo.
      mask: that came with the photo, at the same size; or None.
    """

    name: str
    image: Path
    width: int
    height: int
    source: str
    time_s: float | None = None
    mask: Path | None = None

    def load(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels, RGB."""
        return read_png(self.image)


@dataclass(frozen=True)
class FramesResult:
    """What the step left in its folder.

    Attributes:
      folder: that holds ``frames.json`` and ``images/``.
      kind: of capture; frames of a film follow each other closely in time.
      frames: in order.
      record: all of ``frames.json``.
    """

    folder: Path
    kind: Literal["film", "photos"]
    frames: tuple[Frame, ...]
    record: dict


def extract_frames(config: FramesConfig, capture: Path, out: Path) -> FramesResult:
    """Choose sharp pictures that cover the capture evenly, and write them as PNG.

    A film is decoded twice: once to measure every frame, once to write the chosen ones.
    Time is cut into as many windows as frames are wanted, and of each window the sharpest is
    taken; a frame that shows the same as the one before is left out. Of photos every sharp
    one is taken unless ``count`` is given.

    Args:
      config: which are taken.
      capture: film, or folder of photos (or with ``images/`` in it, and perhaps ``masks/``
        with files of the same names).
      out: folder; ``frames.json`` is written last.

    Raises:
      CaptureError: if nothing can be read, sizes are mixed, or too few pictures are sharp.
      FileNotFoundError: if there is no such capture.
    """
    start = time.perf_counter()
    film, photos = _sources(Path(capture))
    seen = [_look(picture) for picture in _decode(film, photos, "looking")]
    if not seen:
        raise CaptureError(f"{film} holds no frames; film the object again")
    _check_sizes(seen)
    judged = judge(seen, _wanted(config, film, seen), config.max_blur_px)
    chosen = [look for look in judged if look.why_not is None]
    _check_enough(judged, chosen, config)

    masks = {} if film else _given_masks(photos)
    names = {look.index: f"{i:04d}" for i, look in enumerate(chosen)}
    size = size_within(*seen[0].size, config.longest_side)
    _empty(out)
    pictures = _decode(film, photos, "writing", max(names), len(names), set(names))
    masked = [
        names[picture.index] for picture in pictures
        if _write(picture, names[picture.index], size, masks, out)
    ]  # fmt: skip
    record = {
        "schema": SCHEMA_VERSION,
        "capture": str(Path(capture).resolve()),
        "kind": "film" if film else "photos",
        "settings": as_record(config),
        "width": size[0],
        "height": size[1],
        "source_width": seen[0].size[0],
        "source_height": seen[0].size[1],
        "seen": len(seen),
        "chosen": len(chosen),
        "left_out": dict(Counter(look.why_not.split(":")[0] for look in judged if look.why_not)),
        "median_blur_px": round(float(np.median([blur_px(c.sharpness) for c in chosen])), 3),
        "masks": masked,
        "seconds": round(time.perf_counter() - start, 3),
        "frames": [_row(look, names.get(look.index)) for look in judged],
    }
    write_json(out / "frames.json", record)
    return read_frames(out)


def read_frames(folder: Path) -> FramesResult:
    """What an earlier run of the step wrote.

    Raises:
      FileNotFoundError: if the step was not finished there.
      ValueError: if ``frames.json`` is of another schema.
    """
    record = read_record(folder / "frames.json", SCHEMA_VERSION, "run the frames step first")
    masked = set(record["masks"])
    frames = tuple(
        Frame(
            row["name"], folder / "images" / f"{row['name']}.png", record["width"],
            record["height"], row["source"], row["time_s"],
            folder / "masks" / f"{row['name']}.png" if row["name"] in masked else None,
        )
        for row in record["frames"] if row["name"]
    )  # fmt: skip
    return FramesResult(folder, record["kind"], frames, record)


def _sources(capture: Path) -> tuple[Path | None, list[Path]]:
    """The film, or the photos."""
    if capture.is_file():
        if capture.suffix.lower() in PHOTOS:
            raise CaptureError(
                f"{capture} is one photo; give a film, or the folder with all photos of the object"
            )
        return capture, []
    if not capture.is_dir():
        raise FileNotFoundError(f"there is no capture {capture}")
    films = sorted(
        (f for f in capture.iterdir() if f.suffix.lower() in FILMS and f.name[0] != "."),
        key=natural_key,
    )
    try:
        return None, photo_files(capture)
    except CaptureError:
        if not films:
            raise
    if len(films) > 1:
        listed = ", ".join(f.name for f in films[:6])
        raise CaptureError(f"{capture} holds {len(films)} films ({listed}); name one of them")
    return films[0], []


def _decode(
    film: Path | None, photos: Sequence[Path], doing: str, last: int | None = None,
    total: int | None = None, only: set[int] | None = None,
) -> Iterable[Picture]:  # fmt: skip
    """Pictures in order, with progress; a film is left after ``last``."""
    if film:
        pictures = read_film(film)
        total = total or count_frames(film)
    else:
        wanted = [(i, path) for i, path in enumerate(photos) if only is None or i in only]
        pictures, total = (read_photo(path, i) for i, path in wanted), len(wanted)
    with tqdm(total=total, desc=f"frames: {doing}", unit="frame", disable=None) as bar:
        for picture in pictures:
            if only is None or picture.index in only:
                bar.update()
                yield picture
            if picture.index == last:
                return


def _look(picture: Picture) -> Seen:
    height, width = picture.rgb.shape[:2]
    return Seen(
        picture.source, picture.index, picture.time_s, (width, height), sharpness(picture.rgb),
        thumbnail(picture.rgb),
    )  # fmt: skip


def _wanted(config: FramesConfig, film: Path | None, seen: Sequence[Seen]) -> int:
    return config.count or (FILM_FRAMES if film else len(seen))


def _check_sizes(seen: Sequence[Seen]) -> None:
    sizes = Counter(look.size for look in seen)
    if len(sizes) == 1:
        return
    common = sizes.most_common(1)[0][0]
    others = [look for look in seen if look.size != common]
    first = others[0]
    turned = " (turned by 90 degrees?)" if first.size == common[::-1] else ""
    raise CaptureError(
        f"pictures differ in size: most are {common[0]} x {common[1]} px, but {len(others)} are "
        f"not, the first {first.size[0]} x {first.size[1]} px{turned}; all must come from one "
        "camera at one setting, so take the others out or convert them",
        [look.called for look in others],
    )


def _check_enough(judged: Sequence[Seen], chosen: Sequence[Seen], config: FramesConfig) -> None:
    if len(chosen) >= config.at_least:
        return
    blurred = [look for look in judged if look.why_not and look.why_not.startswith("blurred")]
    widths = [blur_px(look.sharpness) for look in blurred]
    counts = f"{len(chosen)} usable pictures of {len(judged)}, {config.at_least} are needed"
    if blurred:
        what = "all pictures are" if len(blurred) == len(judged) else f"{len(blurred)} pictures are"
        raise CaptureError(
            f"{counts}: {what} blurred, their edges {min(widths):.1f} to {max(widths):.1f} px "
            f"wide, at most {config.max_blur_px:g}; film slower and in more light, focus on "
            "the object, or allow more with --frames.max-blur-px",
            [look.called for look in blurred],
        )
    repeated = sum(bool(look.why_not and look.why_not.startswith("repeated")) for look in judged)
    moving = " (the camera hardly moves: most frames repeat each other)" if repeated else ""
    raise CaptureError(
        f"{counts}{moving}; walk once around the object and show it from all sides, or lower "
        "--frames.at-least"
    )


def _given_masks(photos: Sequence[Path]) -> dict[str, Path]:
    """Mask files beside the photos, by the photo's file name."""
    folder = photos[0].parent
    beside = [f / "masks" for f in (folder, folder.parent) if (f / "masks").is_dir()]
    if not beside or (beside[0].parent != folder and folder.name != "images"):
        return {}
    files = {f.stem: f for f in beside[0].iterdir() if f.suffix.lower() in PHOTOS}
    found = {photo.name: files.get(photo.stem) or files.get(photo.name) for photo in photos}
    if files and not any(found.values()):
        raise CaptureError(
            f"{beside[0]} holds masks such as {next(iter(files.values())).name}, but none for a "
            f"photo such as {photos[0].name}; give masks their photos' names, or move the folder"
        )
    return {name: path for name, path in found.items() if path}


def _write(
    picture: Picture, name: str, size: tuple[int, int], masks: dict[str, Path], out: Path
) -> bool:
    """Write one frame, and its mask if it came with one; whether it did."""
    write_picture(out / "images" / f"{name}.png", resized(picture.rgb, size))
    mask = picture.alpha
    if picture.source in masks:
        mask = read_grey(masks[picture.source])
        if mask.shape != picture.rgb.shape[:2]:
            raise CaptureError(
                f"{masks[picture.source]} is {mask.shape[1]} x {mask.shape[0]} px, its photo "
                f"{picture.rgb.shape[1]} x {picture.rgb.shape[0]} px; export masks at "
                "the photos' size",
                [picture.source],
            )
    if mask is None:
        return False
    solid = np.where(resized(mask, size) >= MASK_LEVEL, 255, 0).astype(np.uint8)
    write_picture(out / "masks" / f"{name}.png", solid)
    return True


def _empty(out: Path) -> None:
    """Make the folders, without what an earlier run left in them."""
    (out / "frames.json").unlink(missing_ok=True)
    for folder in (out / "images", out / "masks"):
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.png"):
            file.unlink()


def _row(look: Seen, name: str | None) -> dict:
    return {
        "name": name,
        "source": look.source,
        "index": look.index,
        "time_s": None if look.time_s is None else round(look.time_s, 6),
        "sharpness": round(look.sharpness, 4),
        "blur_px": round(blur_px(look.sharpness), 3),
        "chosen": name is not None,
        "why_not": look.why_not,
    }
