"""Step 2: masks of the object in all frames, checked."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from p2r_jax.files import as_record, read_record, write_json
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame, FramesResult
from p2r_jax.real2sim.pictures import read_grey, write_picture
from p2r_jax.real2sim.segment.checks import REMEDY, find_problems, kind
from p2r_jax.real2sim.segment.given import given
from p2r_jax.real2sim.segment.protocol import Segmentation, Segmenter, parse_prompts
from p2r_jax.real2sim.segment.sheet import contact_sheet
from p2r_jax.real2sim.segment.weightless import chroma, grabcut
from p2r_jax.real2sim.views import MASK_LEVEL

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sam2Config:
    """Which SAM-2 is used (segmenters ``sam2`` and ``hf-sam2``).

    Attributes:
      checkpoint: file of weights (``sam2``: ``sam2.1_hiera_tiny.pt`` as Meta publishes it) or
        folder of a model (``hf-sam2``: ``config.json`` and ``model.safetensors``). Nothing is
        downloaded.
      config: name of the model's configuration within the ``sam2`` package; it must fit the
        weights.
      image_size: side of the square that ``sam2``'s network sees, px; a multiple of 32. The
        folder of ``hf-sam2`` says its own.
      device: ``cuda``, ``cpu``, or by default the first that is there.
    """

    checkpoint: Path | None = None
    config: str = "configs/sam2.1/sam2.1_hiera_t.yaml"
    image_size: int = 1024
    device: str | None = None

    def __post_init__(self):
        if self.image_size < 64 or self.image_size % 32:
            raise ValueError(f"image_size is {self.image_size} px; it must be a multiple of 32")


@dataclass(frozen=True)
class MasksConfig:
    """How masks are made.

    Attributes:
      segmenter: by default masks that came with the photos, and without them ``grabcut``.
      prompts: where the object is, in px: ``FRAME:box=LEFT,TOP,RIGHT,BOTTOM``, ``FRAME:+X,Y``
        (on it), ``FRAME:-X,Y`` (beside it). Without prompts the object is taken to be what
        stands out near the middle.
      drop: names of frames that are left out whatever their masks are like.
      max_dropped: share of the frames that may be left out because their masks are bad.
      sam2: weights and size of SAM-2.
    """

    segmenter: Literal["auto", "given", "chroma", "grabcut", "sam2", "hf-sam2"] = "auto"
    prompts: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    max_dropped: float = 0.2
    sam2: Sam2Config = field(default_factory=Sam2Config)

    def __post_init__(self):
        if not 0 <= self.max_dropped < 1:
            raise ValueError(f"max_dropped is {self.max_dropped}; it must be a share, 0 to below 1")


@dataclass(frozen=True)
class MasksResult:
    """What the step left in its folder.

    Attributes:
      folder: that holds ``masks.json``, ``masks/`` and ``contact_sheet.jpg``.
      masks: files by frame name, in order, without the frames that were left out.
      dropped: why, by frame name.
      record: all of ``masks.json``.
    """

    folder: Path
    masks: dict[str, Path]
    dropped: dict[str, str]
    record: dict


def _sam2(config: MasksConfig) -> Segmenter:
    from p2r_jax.real2sim.segment.sam2 import load_sam2

    return load_sam2(config.sam2)


def _hf_sam2(config: MasksConfig) -> Segmenter:
    from p2r_jax.real2sim.segment.hf_sam2 import load_hf_sam2

    return load_hf_sam2(config.sam2)


SEGMENTERS: dict[str, Callable[[MasksConfig], Segmenter]] = {
    "given": lambda _: given,
    "chroma": lambda _: chroma,
    "grabcut": lambda _: grabcut,
    "sam2": _sam2,
    "hf-sam2": _hf_sam2,
}


def make_masks(config: MasksConfig, frames: FramesResult, out: Path) -> MasksResult:
    """Segment all frames, look for masks that cannot be right, and write them.

    Args:
      config: how.
      frames: of the frames step.
      out: folder; ``masks.json`` is written last.

    Raises:
      CaptureError: if more masks than ``max_dropped`` are bad; it names the frames and shows
        them in the contact sheet.
      ValueError: if a prompt or a name in ``drop`` cannot be understood, or the segmenter
        cannot work with what it is given.
      ImportError: naming what to install.
      FileNotFoundError: if the segmenter's weights are not there.
    """
    start = time.perf_counter()
    _check_names(config.drop, frames.frames)
    prompts = parse_prompts(config.prompts, frames.frames)
    name = _chosen(config, frames.frames)
    film = frames.kind == "film"
    found = SEGMENTERS[name](config)(frames.frames, prompts, film)
    bad = find_problems(found.masks, film)
    notes = [
        "dropped: by --masks.drop" if frame.name in config.drop else what
        for frame, what in zip(frames.frames, bad, strict=True)
    ]
    _write(frames.frames, found, notes, out)
    _check_share(config, frames.frames, notes, out / "contact_sheet.jpg")
    record = {
        "schema": SCHEMA_VERSION,
        "segmenter": name,
        "assumed": found.assumed,
        "settings": as_record(config),
        "prompts": [asdict(prompt) for prompt in prompts],
        "kept": sum(note is None for note in notes),
        "dropped": {f.name: n for f, n in zip(frames.frames, notes, strict=True) if n},
        "agreement_with_given": _agreement(frames.frames, found.masks) if name != "given" else None,
        "seconds": round(time.perf_counter() - start, 3),
        "masks": [_row(*row) for row in zip(frames.frames, found.masks, found.scores, strict=True)],
    }
    write_json(out / "masks.json", record)
    return read_masks(out)


def read_masks(folder: Path) -> MasksResult:
    """What an earlier run of the step wrote.

    Raises:
      FileNotFoundError: if the step was not finished there.
      ValueError: if ``masks.json`` is of another schema.
    """
    record = read_record(folder / "masks.json", SCHEMA_VERSION, "run the masks step first")
    dropped = record["dropped"]
    names = [row["name"] for row in record["masks"] if row["name"] not in dropped]
    return MasksResult(folder, {n: folder / "masks" / f"{n}.png" for n in names}, dropped, record)


def _chosen(config: MasksConfig, frames: Sequence[Frame]) -> str:
    if config.segmenter != "auto":
        return config.segmenter
    came = sum(frame.mask is not None for frame in frames)
    enough = came >= (1 - config.max_dropped) * len(frames)
    return "given" if enough and not config.prompts else "grabcut"


def _check_names(names: Sequence[str], frames: Sequence[Frame]) -> None:
    unknown = set(names) - {frame.name for frame in frames}
    if unknown:
        raise ValueError(
            f"--masks.drop names {', '.join(sorted(unknown))}; frames are {frames[0].name} to "
            f"{frames[-1].name}"
        )


def _write(
    frames: Sequence[Frame], found: Segmentation, notes: Sequence[str | None], out: Path
) -> None:
    (out / "masks.json").unlink(missing_ok=True)
    folder = out / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.png"):
        file.unlink()
    for frame, mask in zip(frames, found.masks, strict=True):
        write_picture(folder / f"{frame.name}.png", np.where(mask, 255, 0).astype(np.uint8))
    write_picture(out / "contact_sheet.jpg", contact_sheet(frames, found.masks, notes))


def _check_share(
    config: MasksConfig, frames: Sequence[Frame], notes: Sequence[str | None], sheet: Path
) -> None:
    bad = {f.name: n for f, n in zip(frames, notes, strict=True) if n and kind(n) in REMEDY}
    if len(bad) <= config.max_dropped * len(frames):
        return
    kinds = Counter(kind(note) for note in bad.values())
    seen = ", ".join(f"{what} {count}" for what, count in kinds.most_common())
    remedies = "; ".join(f"{what}: {REMEDY[what]}" for what, _ in kinds.most_common())
    first = next(iter(bad))
    raise CaptureError(
        f"{len(bad)} of {len(frames)} masks cannot be right, at most "
        f"{100 * config.max_dropped:.0f}% may be left out ({seen}; frame {first} is {bad[first]}). "
        f"What to do: {remedies}",
        list(bad),
        sheet,
    )


def _agreement(frames: Sequence[Frame], masks: Sequence[Bool[np.ndarray, "h w"]]) -> dict | None:
    """Intersection over union with the masks that came with the photos."""
    pairs = [
        (mask, read_grey(frame.mask) >= MASK_LEVEL)
        for frame, mask in zip(frames, masks, strict=True) if frame.mask
    ]  # fmt: skip
    if not pairs:
        return None
    iou = [float((a & b).sum() / max((a | b).sum(), 1)) for a, b in pairs]
    return {
        "frames": len(iou),
        "mean_iou": round(float(np.mean(iou)), 4),
        "least_iou": round(min(iou), 4),
    }


def _row(frame: Frame, mask: Bool[np.ndarray, "h w"], score: float) -> dict:
    rows, columns = np.nonzero(mask)
    there = len(rows) > 0
    return {
        "name": frame.name,
        "score": round(float(score), 4),
        "area_px": len(rows),
        "centroid_px": [round(float(v.mean()) + 0.5, 2) for v in (columns, rows)]
        if there
        else None,
        "box_px": [int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
        if there
        else None,
    }
