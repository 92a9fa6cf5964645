"""One row per filmed object: photo, mask, splat and photo of a held-out view, mesh.

python experiments/reconstruction.py --cases tblock hammer
python experiments/reconstruction_picture.py
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

HEIGHT = 240  # of a tile, px
SHARE = 0.65  # through the turntable
YELLOW = (255, 200, 0)
CAPTIONS = ("photo", "mask", "splat beside a photo it has not seen", "mesh")


@dataclass(frozen=True)
class Config:
    """What is shown.

    Attributes:
      work: folder of the reconstructions.
      cases: synthetic ones only; the head's licence would bind this repository.
      out: PNG.
    """

    work: Path = Path("runs/reconstruction")
    cases: tuple[str, ...] = ("tblock", "hammer")
    out: Path = Path("experiments/results/reconstruction.png")


def row(folder: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The tiles of one reconstruction."""
    names = sorted(path.stem for path in (folder / "splat" / "heldout").glob("*.png"))
    name = names[len(names) // 2]
    photo = np.asarray(Image.open(folder / "frames" / "images" / f"{name}.png").convert("RGB"))
    mask = np.asarray(Image.open(folder / "masks" / "masks" / f"{name}.png").convert("L"))
    outlined = (0.45 * photo).astype(np.uint8)
    outlined[mask > 127] = photo[mask > 127]
    edges, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(outlined, edges, -1, YELLOW, 2, cv2.LINE_AA)
    pair = np.asarray(Image.open(folder / "splat" / "heldout" / f"{name}.png").convert("RGB"))
    turning = Image.open(folder / "mesh" / "turntable.webp")
    turning.seek(round(SHARE * turning.n_frames))
    white = Image.new("RGBA", turning.size, "white")
    mesh = np.asarray(Image.alpha_composite(white, turning.convert("RGBA")).convert("RGB"))
    return np.hstack([_tile(x) for x in (photo, outlined, pair, mesh)])


def _tile(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "tile w 3"]:
    width = round(picture.shape[1] * HEIGHT / picture.shape[0])
    return cv2.resize(picture, (width, HEIGHT), interpolation=cv2.INTER_AREA)


def main(config: Config) -> None:
    """Write the picture."""
    rows = [row(config.work / case) for case in config.cases]
    width = min(r.shape[1] for r in rows)
    Image.fromarray(np.vstack([r[:, :width] for r in rows])).save(config.out, optimize=True)
    print(f"written: {config.out} ({', '.join(CAPTIONS)})")


if __name__ == "__main__":
    main(tyro.cli(Config))
