"""Seconds of every step of a reconstruction, from pictures to an object that trains.

    python -m benchmarks.reconstruction

MuJoCo films a T-block; the portable preset reconstructs it with few, small pictures and few
iterations, and with given poses (pictures this small have too little to match). The capture
is reconstructed into a new folder every time. The first time compiles, and is stated apart.
Quality is not the subject: `experiments/` measures it with full settings.
"""

import contextlib
import io
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tqdm import tqdm

from benchmarks.timing import spread
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.real2sim.cameras.scale import ScaleConfig
from p2r_jax.real2sim.ledger import Ledger
from p2r_jax.real2sim.pipeline import STEPS, ReconstructConfig, preset_config, reconstruct
from p2r_jax.real2sim.synthetic import SyntheticConfig, render_capture

SCHEMA_VERSION = 1
MASS_KG = 0.2  # pictures do not weigh; it is no part of what is timed


@dataclass(frozen=True)
class Settings:
    """Settings of the reconstruction's benchmark.

    Attributes:
      out: JSON file.
      object: shipped asset, asset folder or mesh file.
      views: pictures.
      size: sides of the pictures, and of the splat's crops, px.
      gaussians: of the splat.
      iterations: of its fit.
      repeats: samples, after a first one that compiles.
      seed: of the pictures and of the fit.
    """

    out: Path = Path("benchmarks/results/reconstruction.json")
    object: str = "tblock"
    views: int = 24
    size: int = 128
    gaussians: int = 2000
    iterations: int = 100
    repeats: int = 3
    seed: int = 0


def settings_of(settings: Settings, capture: Path, out: Path) -> ReconstructConfig:
    """The portable preset, made small."""
    base = preset_config("portable", capture, out)
    return replace(
        base,
        cameras=replace(
            base.cameras,
            poses=capture / "truth" / "cameras.json",
            scale=ScaleConfig(metric=True),
        ),
        splat=replace(
            base.splat,
            size=settings.size,
            gaussians=settings.gaussians,
            iterations=settings.iterations,
            seed=settings.seed,
        ),
        asset=replace(base.asset, mass=MASS_KG),
    )


def seconds_by_step(config: ReconstructConfig) -> dict[str, float]:
    """Reconstruct once; seconds of every step, and of the whole with its report."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        reconstruct(config)
    whole = time.perf_counter() - started
    entries = Ledger(config.out).entries
    return {name: entries[name].seconds for name in STEPS} | {"whole": whole}


def measure(settings: Settings, folder: Path) -> list[dict]:
    """One row per step, and one of the whole."""
    capture = folder / "capture"
    size, seed = settings.size, settings.seed
    film = SyntheticConfig(
        settings.object, views=settings.views, width=size, height=size, seed=seed
    )
    render_capture(film, capture)
    samples = [
        seconds_by_step(settings_of(settings, capture, folder / f"made-{i}"))
        for i in tqdm(range(settings.repeats + 1), unit="reconstruction")
    ]
    return [row_of(name, [sample[name] for sample in samples]) for name in samples[0]]


def row_of(step: str, seconds: list[float]) -> dict:
    """First sample and spread of the others."""
    first, *warm = seconds
    return {"step": step, "first_s": first, "seconds": spread(warm)}


def main(settings: Settings) -> None:
    """Measure, print a line per step, write JSON."""
    if settings.repeats < 1:
        raise ValueError(f"repeats is {settings.repeats}; at least one is needed")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(settings, Path(folder))
    for row in rows:
        print(f"{row['step']:8} {row['seconds']['median']:7.2f} s (first: {row['first_s']:.2f} s)")
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "reconstruction",
        "provenance": provenance(),
        "settings": as_record(settings) | {"out": settings.out.name},
        "rows": rows,
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
