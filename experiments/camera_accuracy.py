"""Cameras against truth: synthetic captures, and a real one with poses from elsewhere.

    python experiments/camera_accuracy.py --out experiments/results/cameras.json

Synthetic: the T-block and the hammer on a textured table, structure from motion without any
pose; every way to metres is tried in the same run. Real: the Ethiopian head on its turntable,
structure from motion against the LLFF poses that came with the photos. Masks are the true or
given ones: what a segmenter costs is measured elsewhere.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from p2r_jax.files import provenance, write_json
from p2r_jax.real2sim.cameras.accuracy import rig_of_views, world_errors
from p2r_jax.real2sim.cameras.rig import compare
from p2r_jax.real2sim.cameras.scale import ScaleConfig, length_across
from p2r_jax.real2sim.cameras.sfm import SfmConfig
from p2r_jax.real2sim.cameras.step import CamerasConfig, CamerasResult, find_cameras
from p2r_jax.real2sim.frames import FramesConfig, FramesResult, extract_frames
from p2r_jax.real2sim.synthetic import SyntheticConfig, read_truth, render_capture
from p2r_jax.real2sim.views import View, read_views

SHARED = Path(__file__).parents[2] / "shared" / "data"
HAMMER = SHARED / "workshop_tools" / "Hammer" / "mesh.ply"
HEAD = SHARED / "ethiopian_head"
TAG_M = 0.05
SCHEMA_VERSION = 1
ASSUMED_HEAD_DISTANCE_M = 0.6  # the photos have no scale; only agreement is measured


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      out: JSON.
      work: for captures and cameras; what is there is used again.
      captures: of ``tblock``, ``hammer``, ``lens`` (the T-block, a bent lens), ``head``.
      views: of the synthetic captures.
      seed: of rendering and of RANSAC.
    """

    out: Path = Path("experiments/results/cameras.json")
    work: Path = Path("runs/cameras")
    captures: tuple[str, ...] = ("tblock", "hammer", "lens", "head")
    views: int = 45
    seed: int = 0


def main(config: Config) -> None:
    """Measure and write; captures that were measured before keep their entries."""
    record = {"schema": SCHEMA_VERSION, "captures": {}}
    if config.out.is_file():
        record = json.loads(config.out.read_text())
    for name in config.captures:
        start = time.perf_counter()
        measured = head(config) if name == "head" else synthetic(config, name)
        measured["seconds"] = round(time.perf_counter() - start, 1)
        record["captures"][name] = {**measured, "provenance": provenance()}
        write_json(config.out, record)
        print(json.dumps({name: measured}, indent=2))


def synthetic(config: Config, name: str) -> dict:
    """Structure from motion on a rendered capture, against its truth."""
    folder = config.work / name
    settings = SyntheticConfig(
        object=str(HAMMER) if name == "hammer" else "tblock",
        views=config.views,
        tag_size_m=TAG_M,
        distortion=-0.08 if name == "lens" else 0.0,
        seed=config.seed,
    )
    capture = folder / "capture"
    if not (capture / "truth" / "truth.json").is_file():
        render_capture(settings, capture, overwrite=True)
    truth, _ = read_views(capture / "truth" / "cameras.json")
    frames = extract_frames(FramesConfig(count=config.views), capture, folder / "frames")
    named = {Path(frame.source).stem: frame.name for frame in frames.frames}
    truth = [_renamed(view, named[view.name]) for view in truth if view.name in named]
    lengths = _true_lengths(capture, truth)
    cameras = CamerasConfig(
        scale=ScaleConfig(tag_size_m=read_truth(capture).tag_size_m, **lengths),
        sfm=SfmConfig(seed=config.seed),
    )
    masks = {view.name: view.mask for view in truth}
    found = find_cameras(cameras, frames, masks, folder / "cameras")
    return _against(found, truth)


def _renamed(view: View, name: str) -> View:
    return View(name, view.width, view.height, view.K, view.T_camera_world, view.image, view.mask)


def _true_lengths(capture: Path, truth: Sequence[View]) -> dict:
    """The lengths that a person could have measured, exact."""
    import trimesh

    known = read_truth(capture)
    vertices = np.asarray(trimesh.load(known.mesh, process=False).vertices)
    up, first, other = np.array([0.0, 0.0, 1.0]), truth[0], truth[len(truth) // 3 // 2]
    middle = (vertices.min(0) + vertices.max(0)) / 2
    distances = [np.linalg.norm(view.position - middle) for view in truth]
    between = float(np.linalg.norm(first.position - other.position))
    return {
        "object_length_m": length_across(vertices, up),
        "camera_distance_m": float(np.median(distances)),
        "baseline": (first.name, other.name, between),
    }


def _against(found: CamerasResult, truth: Sequence[View]) -> dict:
    errors = world_errors(found.views, truth)
    ways = found.record["scale"]["ways"]
    exact = ways[found.record["scale"]["source"]] / (1 + errors["scale_error_percent"] / 100)
    return {
        **{key: round(value, 4) for key, value in errors.items()},
        "scale_error_percent_by_way": {
            way: round(100 * (value / exact - 1), 4) for way, value in ways.items()
        },
        **_summary(found),
    }


def _summary(found: CamerasResult) -> dict:
    record = found.record
    keys = ("registered", "points", "reprojection_px", "track_length", "doubts", "look_at")
    return {
        "frames": record["frames"],
        **{key: record["poses"].get(key) for key in keys},
        "table": record["table"],
        "object": record["object"],
        "lens": record["lens"],
        "step_seconds": record["seconds"],
    }


def head(config: Config) -> dict:
    """Structure from motion on the real photos, against the poses that came with them."""
    folder = config.work / "head"
    frames = extract_frames(FramesConfig(), HEAD, folder / "frames")
    masks = {frame.name: frame.mask for frame in frames.frames}
    scale = ScaleConfig(camera_distance_m=ASSUMED_HEAD_DISTANCE_M)
    given = find_cameras(CamerasConfig(poses=HEAD, scale=scale), frames, masks, folder / "given")
    alone = find_cameras(
        CamerasConfig(scale=scale, sfm=SfmConfig(seed=config.seed)), frames, masks, folder / "sfm"
    )
    return {
        "against_given": {
            k: round(v, 4) for k, v in world_errors(alone.views, given.views).items()
        },
        "given": {"table": given.record["table"], "object": given.record["object"]},
        **_summary(alone),
        "without_pose": alone.record["without_pose"],
        "focal_ratio": round(float(alone.views[0].K[0, 0] / given.views[0].K[0, 0]), 4),
        "center_rms_share_of_distance": round(_share(given, alone, frames), 5),
    }


def _share(given: CamerasResult, alone: CamerasResult, frames: FramesResult) -> float:
    rms = compare(rig_of_views(alone.views), rig_of_views(given.views))["center_rms"]
    return rms / ASSUMED_HEAD_DISTANCE_M


if __name__ == "__main__":
    main(tyro.cli(Config))
