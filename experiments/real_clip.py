"""Frames, masks and tracking on a real film: hands push letter blocks about.

    python experiments/real_clip.py

``shared/data/sam2_videos/03_blocks.mp4`` has no true masks. Where two of its blocks are was read
off a few frames by hand; the weight-free segmenter is told a box in the first frame, and the
middle of its masks is compared. One block is pushed, among others of its colour and under a
hand; the other lies still. Contact sheets stay in ``runs``.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.real2sim.frames import FramesConfig, FramesResult, extract_frames
from p2r_jax.real2sim.segment.step import MasksConfig, make_masks

SCHEMA_VERSION = 1
CLIP = Path(__file__).parents[2] / "shared" / "data" / "sam2_videos" / "03_blocks.mp4"
WIDTH = 1280  # of the film, px, in which places were read off


@dataclass(frozen=True)
class Block:
    """A block of the film.

    Attributes:
      box: around it in the first frame: left, top, right, bottom, px.
      places: (second, column, row) of its middle, read off by hand to about 10 px.
      side: of its top, px.
    """

    box: tuple[int, int, int, int]
    places: tuple[tuple[float, float, float], ...]
    side: float = 70.0


BLOCKS = {
    "pushed (blue T)": Block(
        (916, 216, 1024, 316), ((0, 968, 268), (3.24, 804, 338), (6.47, 804, 338), (9.7, 804, 338))
    ),
    "still (blue X)": Block(
        (676, 546, 766, 642), ((0, 720, 594), (3.24, 720, 594), (6.47, 720, 594), (9.7, 720, 594))
    ),
}


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      clip: the film.
      out: JSON.
      work: frames, masks and contact sheets.
      frames: taken of the film.
      longest_side: of the frames, px.
    """

    clip: Path = CLIP
    out: Path = Path("experiments/results/real_clip.json")
    work: Path = Path("runs/real_clip")
    frames: int = 146
    longest_side: int = 640


def track(name: str, block: Block, frames: FramesResult, config: Config) -> dict:
    """Masks of one block; how far their middle is from where it was seen."""
    scale = frames.frames[0].width / WIDTH
    box = ",".join(f"{scale * v:.0f}" for v in block.box)
    masks = MasksConfig(segmenter="grabcut", prompts=(f"{frames.frames[0].name}:box={box}",))
    folder = config.work / name.split(" ")[0]
    found = make_masks(replace(masks, max_dropped=0.5), frames, folder)
    rows, middles = [], {row["name"]: row["centroid_px"] for row in found.record["masks"]}
    for second, u, v in block.places:
        frame = min(frames.frames, key=lambda f, s=second: abs((f.time_s or 0.0) - s))
        away = None
        if frame.name in found.masks:
            away = float(np.hypot(*(np.array(middles[frame.name]) / scale - [u, v]))) / block.side
        rows.append({"second": second, "frame": frame.name, "distance_sides": away})
    found_rows = {k: found.record[k] for k in ("kept", "dropped", "seconds")}
    return {"block": name, **found_rows, "places": rows}


def main(config: Config) -> None:
    """Track the blocks, write, print."""
    settings = FramesConfig(count=config.frames, longest_side=config.longest_side)
    frames = extract_frames(settings, config.clip, config.work / "frames")
    rows = [track(name, block, frames, config) for name, block in BLOCKS.items()]
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "real_clip",
        "settings": as_record(config) | {"clip": config.clip.name},
        "frames": len(frames.frames),
        "blocks": rows,
        "provenance": provenance(),
    }
    write_json(config.out, record)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main(tyro.cli(Config))
