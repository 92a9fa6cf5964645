"""``p2r reconstruct``: every step in order, each restartable, with a report at the end.

Presets say which tools the steps use. ``paper`` is the chain of Phys2Real (section IV):
SAM-2, a Gaussian splat, a SuGaR-like surface, mirrored, made watertight by pymeshlab. It
wants CUDA and weights. ``portable``, the default, needs neither: masks by graph cut, the JAX
rasteriser, the visual hull refined by the splat's depth.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from trimesh.sample import sample_surface
from tyro.conf import Positional

from p2r_jax.files import as_record, write_json
from p2r_jax.real2sim.asset.step import (
    AssetConfig,
    AssetResult,
    check_asset_config,
    make_asset,
    read_asset,
)
from p2r_jax.real2sim.cameras.step import CamerasConfig, CamerasResult, find_cameras, read_cameras
from p2r_jax.real2sim.depths import depth_maps
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import FramesConfig, extract_frames, read_frames
from p2r_jax.real2sim.ledger import Ledger, capture_fingerprint, fingerprint
from p2r_jax.real2sim.mesh.hull import carve
from p2r_jax.real2sim.mesh.step import MESH_FILE, MeshConfig, make_mesh, read_mirror
from p2r_jax.real2sim.report import write_report
from p2r_jax.real2sim.segment.step import MasksConfig, make_masks, read_masks
from p2r_jax.real2sim.splat.fit import CHECKPOINT, SplatConfig, fit_splat, split_views
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.gsplat_backend import load_gsplat
from p2r_jax.real2sim.splat.ply import read_ply

StepName = Literal["frames", "masks", "cameras", "splat", "mesh", "asset"]
Preset = Literal["portable", "paper"]
UPRIGHT = 0.1  # a mirror plane is upright if its normal rises less than this


@dataclass(frozen=True)
class ReconstructConfig:
    """A reconstruction.

    Attributes:
      capture: video file, or folder of photos (``masks/`` beside ``images/`` is used).
      out: folder; started again, finished steps with the same settings are skipped.
      preset: name of the preset that the settings below come from: ``preset_config``
        makes them.
      until: last step to run.
      redo: do this step and those after it again.
      frames, masks, cameras, splat, mesh, asset: settings of the steps. Views that the splat
        holds out judge the mesh as well, whatever ``mesh.held_out`` says.
    """

    capture: Positional[Path]
    out: Path
    preset: Preset = "portable"
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
    shaping, _ = split_views(views, config.splat.hold_out)
    hull = carve(shaping, config.mesh.hull).mesh()
    points, _ = sample_surface(hull, config.splat.gaussians, seed=config.splat.seed)
    return fit_splat(views, points, config.splat, config.out / "splat").splat


def _run_mesh(config: ReconstructConfig, done: dict) -> Path:
    views, splat, depths = done["cameras"].views, done["splat"], None
    if config.mesh.surface == "fused":
        depths = depth_maps(splat, views, config.splat.size, config.splat.raster)
    settings = replace(config.mesh, held_out=config.splat.hold_out)
    make_mesh(settings, views, depths, splat, config.out / "mesh")
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
    "asset": Step(_run_asset, lambda c, _: read_asset(c.out)),
}


def preset_config(preset: Preset, capture: Path, out: Path) -> ReconstructConfig:
    """The settings of a preset.

    Raises:
      ValueError: for an unknown one.
    """
    if preset not in get_args(Preset):
        raise ValueError(f"no preset {preset!r} (there are: {', '.join(get_args(Preset))})")
    config = ReconstructConfig(capture, out, preset)
    if preset == "paper":
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
    check_config(config, wanted)
    mark = capture_fingerprint(config.capture)
    config.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(config.out)
    write_json(config.out / "config.json", as_record(config))
    done: dict[StepName, Any] = {}
    again, stopped = False, None
    try:
        for name in wanted:
            mark = fingerprint(mark, *_inputs(config, name))
            again = again or name == config.redo
            done[name] = _do(config, name, mark, ledger, done, again)
    except CaptureError as error:
        stopped = f"{name}: {error}"
        kept = ", ".join(done) or "none"
        raise CaptureError(f"{name}: {error} (finished steps are kept: {kept})") from error
    except Exception as error:
        stopped = f"{name}: {error}"
        raise
    finally:
        report = write_report(config.out, stopped)
    return Reconstruction(config.out, done, report)


def check_config(config: ReconstructConfig, wanted: Sequence[StepName]) -> None:
    """Refuse what a late step would refuse, before the first one has run.

    Raises:
      ValueError, FileNotFoundError, ImportError: naming the option or what to install.
    """
    capture, out = config.capture.resolve(), config.out.resolve()
    inside = capture.is_dir() and capture in (out, *out.parents)
    if inside or any(out / step in (capture, *capture.parents) for step in STEPS):
        raise ValueError(
            f"the capture {config.capture} and --out {config.out} lie in each other: steps "
            "overwrite their folders; choose another --out"
        )
    if config.redo is not None and config.redo not in wanted:
        raise ValueError(f"--redo {config.redo} comes after --until {config.until}")
    if "asset" in wanted:
        check_asset_config(config.asset)
    weights = config.masks.sam2.checkpoint
    if config.masks.segmenter in ("sam2", "hf-sam2") and (weights is None or not weights.exists()):
        raise FileNotFoundError(
            f"segmenter {config.masks.segmenter} needs weights, and --masks.sam2.checkpoint is "
            f"{weights}; name a file, or take --masks.segmenter grabcut"
        )
    if "splat" in wanted and config.splat.backend != "jax":
        load_gsplat()
    if "mesh" in wanted and config.mesh.backend == "pymeshlab" and not find_spec("pymeshlab"):
        raise ImportError(
            "--mesh.backend pymeshlab needs its extra: pip install 'p2r_jax[pymeshlab]'"
        )


def _inputs(config: ReconstructConfig, name: StepName) -> tuple[Any, tuple[Path, ...]]:
    """Settings that a step reads, and files that they name."""
    settings = getattr(config, name)
    if name == "splat":
        return (settings, config.mesh.hull), ()  # where it starts
    files = {"masks": config.masks.sam2.checkpoint, "cameras": config.cameras.poses}
    file = files.get(name)
    return settings, (file,) if file is not None else ()


def _do(
    config: ReconstructConfig, name: StepName, mark: str, ledger: Ledger, done: dict, again: bool
) -> Any:
    """A step's result, from disk if it is there."""
    step, order = STEPS[name], list(STEPS)
    if ledger.is_done(name, mark) and not again:
        try:
            result = step.read(config, done)
        except FileNotFoundError:
            print(f"{name}: its files are gone", flush=True)
        else:
            print(f"{name}: done before", flush=True)
            return result
    print(f"{name} ...", flush=True)
    ledger.forget(order[order.index(name) :])
    if again:
        (config.out / name / CHECKPOINT).unlink(missing_ok=True)
    started = time.perf_counter()
    result = step.run(config, done)
    seconds = time.perf_counter() - started
    ledger.finished(name, mark, seconds)
    print(f"{name}: {seconds:.1f} s", flush=True)
    return result
