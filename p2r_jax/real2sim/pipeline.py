"""``p2r reconstruct``: every step in order, each restartable, with a report at the end.

Presets say which tools the steps use. ``paper`` is the chain of Phys2Real (section IV):
SAM-2, a Gaussian splat, a SuGaR-like surface, mirrored, made watertight by pymeshlab. It
wants CUDA and weights. ``portable`` needs neither: masks by graph cut, the JAX rasteriser,
the visual hull refined by the splat's depth.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tyro.conf import Positional

from p2r_jax.files import as_record, write_json
from p2r_jax.real2sim.asset.step import AssetConfig, AssetResult, check_asset_config, make_asset
from p2r_jax.real2sim.cameras.step import CamerasConfig, CamerasResult, find_cameras, read_cameras
from p2r_jax.real2sim.depths import depth_maps
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import FramesConfig, extract_frames, read_frames
from p2r_jax.real2sim.ledger import Ledger, capture_fingerprint, fingerprint
from p2r_jax.real2sim.mesh.hull import carve, surface_points
from p2r_jax.real2sim.mesh.step import MESH_FILE, MeshConfig, make_mesh, read_mirror
from p2r_jax.real2sim.report import write_report
from p2r_jax.real2sim.segment.step import MasksConfig, make_masks, read_masks
from p2r_jax.real2sim.splat.fit import SplatConfig, fit_splat
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.ply import read_ply

StepName = Literal["frames", "masks", "cameras", "splat", "mesh", "asset"]
Preset = Literal["auto", "portable", "paper"]
UPRIGHT = 0.1  # a mirror plane is upright if its normal rises less than this


@dataclass(frozen=True)
class ReconstructConfig:
    """A reconstruction.

    Attributes:
      capture: video file, or folder of photos (``masks/`` beside ``images/`` is used).
      out: folder; started again, finished steps with the same settings are skipped.
      preset: see the module; ``auto`` is ``paper`` where CUDA and SAM-2 weights are, else
        ``portable``. It sets the defaults of what follows.
      until: last step to run.
      redo: do this step and those after it again.
      frames, masks, cameras, splat, mesh, asset: settings of the steps.
    """

    capture: Positional[Path]
    out: Path
    preset: Preset = "auto"
    until: StepName = "asset"
    redo: StepName | None = None
    frames: FramesConfig = field(default_factory=FramesConfig)
    masks: MasksConfig = field(default_factory=MasksConfig)
    cameras: CamerasConfig = field(default_factory=CamerasConfig)
    splat: SplatConfig = field(default_factory=SplatConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    asset: AssetConfig = field(default_factory=AssetConfig)


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruction made.

    Attributes:
      out: its folder.
      results: of the steps that have run or were there, by name.
      report: HTML file.
    """

    out: Path
    results: dict[StepName, Any]
    report: Path

    @property
    def asset(self) -> AssetResult:
        """The object; KeyError if the run ended before it."""
        return self.results["asset"]


class Step(NamedTuple):
    """How a step is done, and how it is read when it is done already."""

    run: Callable[[ReconstructConfig, dict], Any]
    read: Callable[[ReconstructConfig, dict], Any]


def _run_cameras(config: ReconstructConfig, done: dict) -> CamerasResult:
    masks = done["masks"].masks
    kept = tuple(frame for frame in done["frames"].frames if frame.name in masks)
    frames = replace(done["frames"], frames=kept)
    return find_cameras(config.cameras, frames, masks, config.out / "cameras")


def _run_splat(config: ReconstructConfig, done: dict) -> Splat:
    views = done["cameras"].views
    points, _, _ = surface_points(carve(views, config.mesh.hull), views, config.splat.gaussians)
    return fit_splat(views, points, config.splat, config.out / "splat").splat


def _run_mesh(config: ReconstructConfig, done: dict) -> Path:
    views, splat, depths = done["cameras"].views, done["splat"], None
    if config.mesh.surface == "fused":
        depths = depth_maps(splat, views, config.splat.size, config.splat.raster)
    make_mesh(config.mesh, views, depths, splat, config.out / "mesh")
    return config.out / "mesh"


def _run_asset(config: ReconstructConfig, done: dict) -> AssetResult:
    mirror = read_mirror(done["mesh"])
    normal = mirror.normal if mirror is not None and abs(mirror.normal[2]) < UPRIGHT else None
    return make_asset(config.asset, done["mesh"] / MESH_FILE, normal, config.out)


STEPS: dict[StepName, Step] = {
    "frames": Step(
        lambda c, _: extract_frames(c.frames, c.capture, c.out / "frames"),
        lambda c, _: read_frames(c.out / "frames"),
    ),
    "masks": Step(
        lambda c, done: make_masks(c.masks, done["frames"], c.out / "masks"),
        lambda c, _: read_masks(c.out / "masks"),
    ),
    "cameras": Step(_run_cameras, lambda c, _: read_cameras(c.out / "cameras")),
    "splat": Step(_run_splat, lambda c, _: read_ply(c.out / "splat" / "splat.ply")),
    "mesh": Step(_run_mesh, lambda c, _: c.out / "mesh"),
    "asset": Step(_run_asset, _run_asset),  # takes seconds
}


def preset_config(preset: Preset, capture: Path, out: Path) -> ReconstructConfig:
    """The defaults of a preset.

    Raises:
      ValueError: for an unknown one.
    """
    if preset not in get_args(Preset):
        raise ValueError(f"no preset {preset!r} (there are: {', '.join(get_args(Preset))})")
    config = ReconstructConfig(capture, out, preset)
    if preset == "auto":
        config = replace(config, preset="paper" if _has_cuda() else "portable")
    if config.preset == "paper":
        config = replace(
            config,
            masks=replace(config.masks, segmenter="sam2"),
            splat=replace(config.splat, backend="gsplat"),
            mesh=replace(
                config.mesh,
                surface="level_set",
                backend="pymeshlab",
                symmetry=replace(config.mesh.symmetry, mirror="yes"),
            ),
        )
    return config


def reconstruct(config: ReconstructConfig) -> Reconstruction:
    """Run every step that is not done yet; writes ``out/report.html`` whatever happens.

    Raises:
      CaptureError: naming what is wrong with the capture; finished steps are kept.
      ValueError: for settings that cannot be, before anything has run.
      FileNotFoundError: if there is no capture.
    """
    wanted = list(STEPS)[: list(STEPS).index(config.until) + 1]
    if "asset" in wanted:
        check_asset_config(config.asset)
    mark = capture_fingerprint(config.capture)
    config.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(config.out)
    write_json(config.out / "config.json", as_record(config))
    done: dict[StepName, Any] = {}
    again, stopped = False, None
    try:
        for name in wanted:
            mark = fingerprint(mark, getattr(config, name))
            again = again or name == config.redo
            done[name] = _do(config, name, mark, ledger, done, again)
    except CaptureError as error:
        stopped = f"{name}: {error}"
        kept = ", ".join(done) or "none"
        raise CaptureError(f"{name}: {error} (finished steps are kept: {kept})") from error
    finally:
        report = write_report(config.out, stopped)
    return Reconstruction(config.out, done, report)


def _do(
    config: ReconstructConfig, name: StepName, mark: str, ledger: Ledger, done: dict, again: bool
) -> Any:
    """A step's result, from disk if it is there."""
    step = STEPS[name]
    if ledger.is_done(name, mark) and not again:
        print(f"{name}: done before", flush=True)
        return step.read(config, done)
    print(f"{name} ...", flush=True)
    ledger.forget(name)
    started = time.perf_counter()
    result = step.run(config, done)
    seconds = time.perf_counter() - started
    ledger.finished(name, mark, seconds)
    print(f"{name}: {seconds:.1f} s", flush=True)
    return result


def _has_cuda() -> bool:
    """Whether the paper's tools could run here."""
    import importlib.util

    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("sam2") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
