"""Step 3: poses, metres, the table: from frames and masks to ``cameras.json``."""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.files import as_record
from p2r_jax.real2sim.cameras.given import given_rig
from p2r_jax.real2sim.cameras.rig import Rig, Similarity, compare
from p2r_jax.real2sim.cameras.scale import (
    Scale,
    ScaleConfig,
    check_given,
    find_scale,
    length_across,
)
from p2r_jax.real2sim.cameras.sfm import (
    Attempt,
    SfmConfig,
    attempts,
    enough,
    focal_from_exif,
    run_sfm,
    too_few,
)
from p2r_jax.real2sim.cameras.silhouettes import (
    Hull,
    Place,
    Silhouettes,
    agree,
    check_agreement,
    cut_by_the_edge,
    fine_surface,
    locate,
    read_silhouettes,
)
from p2r_jax.real2sim.cameras.table import Plane, plane_below, plane_of_points, up_of_cameras
from p2r_jax.real2sim.cameras.tags import SeenTag, find_tags, triangulate_tags
from p2r_jax.real2sim.cameras.undistort import make_views
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame, FramesResult
from p2r_jax.real2sim.views import View, read_views, write_views

CAMERAS_FILE, POINTS_FILE, SHEET_FILE = "cameras.json", "points.ply", "trouble.jpg"
LEAST_FRAMES = 5
DOUBTFUL_PX, DOUBTFUL_DEG = 0.6, 100.0  # reprojection error; angle that the views span
SAME_DEG = 2.0  # by which poses from scene and object may differ and still be the same
BETTER_FIT = 0.75  # of the scene's reprojection error, for the object's to be believed
STANDS_WITHIN = 0.5  # radii of the object that its hull's foot may be above the plane found
FOOT = "foot of the object's hull"
GIVEN_UP, LEVEL_CAMERAS = f"up as given, {FOOT}", f"assumed: cameras held level, {FOOT}"
HINTS = {
    "given": "Do the poses belong to this capture, in this order, and are they camera-to-world "
    "in the axes of their form?",
    "sfm": "If the object turned before a background that stood still (turntable), pass "
    "--cameras.sfm.look-at object; else look at the masks' contact sheet.",
}


@dataclass(frozen=True)
class CamerasConfig:
    """How cameras are found.

    Attributes:
      poses: given poses: transforms.json, COLMAP model, poses_bounds.npy, cameras.json, or a
        folder with one of them; None: structure from motion.
      scale: where metres come from.
      table: what it is found from; ``auto``: the scene's points, else a tag, else level cameras.
      up: given poses only: up in their frame, instead of ``table``.
      sfm: structure from motion.
    """

    poses: Path | None = None
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    table: Literal["auto", "points", "tag", "cameras"] = "auto"
    up: tuple[float, float, float] | None = None
    sfm: SfmConfig = field(default_factory=SfmConfig)

    def __post_init__(self):
        if self.up is not None and (self.poses is None or not np.linalg.norm(self.up) > 0):
            raise ValueError("up is a direction in the frame of given poses: give those as well")


@dataclass(frozen=True)
class CamerasResult:
    """What the step left in its folder.

    Attributes:
      folder: that holds ``cameras.json`` and perhaps ``points.ply``, ``images/``, ``masks/``.
      views: posed frames, world frame.
      record: the notes of ``cameras.json``.
    """

    folder: Path
    views: tuple[View, ...]
    record: dict


def find_cameras(
    config: CamerasConfig, frames: FramesResult, masks: Mapping[str, Path], out: Path
) -> CamerasResult:
    """Find where each frame was taken from, in the world frame of ``views``.

    x and y have their origin below the object's middle; the first camera looks along +y.

    Args:
      config: settings.
      frames: of the capture.
      masks: of the object, by frame name.
      out: folder; ``cameras.json`` is written last.

    Raises:
      CaptureError: if poses cannot be found or do not fit, or there is no way to metres.
      FileNotFoundError: if given poses do not exist.
      ImportError: without pycolmap or OpenCV where they are needed.
    """
    start = time.perf_counter()
    missing = [frame.name for frame in frames.frames if frame.name not in masks]
    if missing:
        raise CaptureError("there is no mask for some frames; run the masks step again", missing)
    rig, world_already = _rig(config, frames, masks, out)
    seen = read_silhouettes(rig, masks)
    place = locate(rig, seen)
    hint = HINTS["given" if config.poses else "sfm"]
    hull = check_agreement(rig, seen, place, hint, frames.frames, out / SHEET_FILE)
    tags, tags_seen = _tags(config, rig, frames.frames)
    plane = _plane(config, rig, seen, place, hull, tags, world_already)
    surface = fine_surface(rig, seen, hull) if config.scale.object_length_m else hull.points
    length = length_across(surface, plane.normal)
    axes = world_axes(rig, plane.normal, place.middle)
    middle = box_middle(hull.points, axes, plane.height)
    distance = float(np.median(np.linalg.norm(rig.centers - middle, axis=1)))
    scale = find_scale(config.scale, rig, distance, length, tags, tags_seen, world_already)
    move = Similarity(scale.metres, np.eye(3), np.zeros(3))
    if not world_already:
        origin = np.append(axes[:2] @ middle, plane.height)
        move = Similarity(scale.metres, axes, -scale.metres * origin)
    views = make_views(rig.moved(move), frames.frames, masks, out)
    _write_points(out / POINTS_FILE, rig.moved(move))
    record = {
        "source": "given" if config.poses else "sfm",
        "frames": len(frames.frames),
        "without_pose": [f.name for f in frames.frames if f.name not in rig.names],
        "poses": rig.notes,
        "scale": _scale_record(scale, tags),
        "table": _table_record(plane, scale, tags),
        "object": {
            "length_m": round(scale.metres * length, 4),
            "camera_distance_m": round(scale.metres * distance, 4),
            "rays_apart_mm": round(1e3 * scale.metres * place.apart, 3),
            "views_off": list(place.off),
            "cut_by_the_edge": list(cut_by_the_edge(rig, seen)),
        },
        "lens": {**as_record(rig.lenses[0]), "bend_px": round(rig.lenses[0].bend_px, 3)},
        "settings": as_record(config),
        "seconds": round(time.perf_counter() - start, 2),
    }
    write_views(out / CAMERAS_FILE, views, record)
    return read_cameras(out)


def read_cameras(folder: Path) -> CamerasResult:
    """What an earlier run of the step wrote.

    Raises:
      FileNotFoundError: if the step was not finished there.
      ValueError: if ``cameras.json`` is of another schema.
    """
    views, record = read_views(folder / CAMERAS_FILE)
    return CamerasResult(folder, views, record)


def _empty(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in (CAMERAS_FILE, POINTS_FILE, SHEET_FILE):
        (out / file).unlink(missing_ok=True)
    for folder in ("images", "masks"):
        shutil.rmtree(out / folder, ignore_errors=True)


def _rig(
    config: CamerasConfig, frames: FramesResult, masks: Mapping[str, Path], out: Path
) -> tuple[Rig, bool]:
    """Posed frames, and whether they are in the world frame already."""
    if config.poses is not None:
        sources = [row["source"] for row in frames.record["frames"]]
        rig, ours = given_rig(config.poses, frames.frames, sources)
        check_given(config.scale, metric=ours)
        _empty(out)  # only now: the poses may be an earlier result in there
        return rig, ours
    if config.scale.metric:
        raise CaptureError("poses from structure from motion are never in metres; give a length")
    check_given(config.scale, metric=False)
    _empty(out)
    return _rig_by_sfm(_with_focal(config.sfm, frames), frames.frames, masks, out), False


def _rig_by_sfm(
    config: SfmConfig, frames: Sequence[Frame], masks: Mapping[str, Path], out: Path
) -> Rig:
    """Poses by the first attempt that places enough frames and that the masks agree with.

    If poses from the whole scene are doubtful (a turntable before a background that stands
    still gives such), the object alone is asked as well, and the better fit is taken.

    Raises:
      CaptureError: if none is good enough.
    """
    if len(frames) < LEAST_FRAMES:
        raise CaptureError(
            f"{len(frames)} frames are too few to find poses from; film the object from all around"
        )
    few: list[Rig] = []
    contradicted = None
    for attempt in attempts(config):
        rig = _attempted(config, attempt, frames, masks)
        if rig is None:
            continue
        if not enough(config, rig, frames):
            few.append(rig)
            continue
        place = locate(rig, read_silhouettes(rig, masks))
        if not agree(rig, place):
            contradicted = rig
        elif (
            config.look_at == "auto" and attempt.look_at == "scene" and (why := doubts(rig, place))
        ):
            alone = _attempted(config, replace(attempt, look_at="object"), frames, masks)
            return _better(replace(rig, notes={**rig.notes, "doubts": why}), alone, config, frames)
        else:
            return rig
    if contradicted is None:
        best = max(few, key=lambda rig: len(rig.names), default=None)
        raise too_few(config, best, frames, masks, out / SHEET_FILE)
    return contradicted


def _attempted(config: SfmConfig, attempt: Attempt, frames: Sequence[Frame], masks) -> Rig | None:
    with tempfile.TemporaryDirectory() as work:
        return run_sfm(config, attempt, frames, masks, Path(work))


def doubts(rig: Rig, place: Place) -> list[str]:
    """What makes poses from the whole scene suspicious."""
    why = []
    if rig.notes["reprojection_px"] > DOUBTFUL_PX:
        why.append(f"reprojection error {rig.notes['reprojection_px']:.2f} px")
    rays = rig.centers - place.middle
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    widest = np.rad2deg(np.arccos(np.clip((rays @ rays.T).min(), -1, 1)))
    if widest < DOUBTFUL_DEG:
        why.append(f"all views within {widest:.0f} degrees")
    return why


def _better(scene: Rig, alone: Rig | None, config: SfmConfig, frames: Sequence[Frame]) -> Rig:
    """Poses from the object alone if there are enough, they differ, and they fit much better."""
    if alone is None or not enough(config, alone, frames):
        return scene
    common = set(alone.names) & set(scene.names)
    same = len(common) >= 3 and compare(alone, scene)["rotation_mean_deg"] < SAME_DEG
    fits = alone.notes["reprojection_px"] < BETTER_FIT * scene.notes["reprojection_px"]
    return alone if fits and not same else scene


def _with_focal(config: SfmConfig, frames: FramesResult) -> SfmConfig:
    """The settings with the focal length that the photos state, if it is not given."""
    if config.focal_px is not None or frames.kind == "film":
        return config
    first, capture = frames.frames[0], Path(frames.record.get("capture", ""))
    for photo in (capture / first.source, capture / "images" / first.source):
        focal = focal_from_exif(photo, first.width, first.height)
        if focal:
            return replace(config, focal_px=focal)
    return config


def _tags(config: CamerasConfig, rig: Rig, frames: Sequence[Frame]) -> tuple[list[SeenTag], dict]:
    if not config.scale.tag_size_m and config.table != "tag":
        return [], {}
    seen = find_tags([f for f in frames if f.name in rig.names], config.scale.tag_family)
    return triangulate_tags(rig, seen, config.scale.tag_ids), seen


def _plane(
    config: CamerasConfig,
    rig: Rig,
    seen: Silhouettes,
    place: Place,
    hull: Hull,
    tags: Sequence[SeenTag],
    world_already: bool,
) -> Plane:
    """The table.

    Raises:
      CaptureError: if nothing says where it is.
    """
    if config.up is not None:
        return plane_below(rig, seen, hull, np.array(config.up), GIVEN_UP)
    if world_already and config.table == "auto":
        return Plane(np.array([0.0, 0.0, 1.0]), 0.0, "poses as given")
    ways = {
        "points": lambda: plane_of_points(rig, seen, place),
        "tag": lambda: _plane_of_tags(tags),
        "cameras": lambda: _plane_of_cameras(rig, seen, hull),
    }
    for way in ways if config.table == "auto" else [config.table]:
        plane = ways[way]()
        if plane is not None:
            return _under_the_object(plane, rig, seen, hull, place)
    raise CaptureError(
        f"which way is up is not known from {config.table}; film with the camera held level and "
        "the table in view, lay an AprilTag on it (--cameras.table tag), or pass --cameras.up"
    )


def _plane_of_tags(tags: Sequence[SeenTag]) -> Plane | None:
    if not tags:
        return None
    normal = np.mean([tag.normal for tag in tags], axis=0)
    normal /= np.linalg.norm(normal)
    corners = np.concatenate([tag.corners for tag in tags])
    return Plane(normal, float(np.median(corners @ normal)), "AprilTag")


def _plane_of_cameras(rig: Rig, seen: Silhouettes, hull: Hull) -> Plane | None:
    up = up_of_cameras(rig)
    if up is None:
        return None
    return plane_below(rig, seen, hull, up, LEVEL_CAMERAS)


def _under_the_object(plane: Plane, rig: Rig, seen: Silhouettes, hull: Hull, place: Place) -> Plane:
    """The plane, or one above and parallel to it if the object stands on something else."""
    foot = plane_below(rig, seen, hull, plane.normal, f"parallel to: {plane.source}; {FOOT}")
    if foot.height - plane.height <= STANDS_WITHIN * place.radius:
        return plane
    return replace(foot, support=plane.support, rms=plane.rms)


def world_axes(
    rig: Rig, up: Float[np.ndarray, " 3"], middle: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "3 3"]:
    """World axes as rows: y is where the first camera looks along the table, z is up."""
    toward = middle - rig.centers[0]
    ahead = toward - (toward @ up) * up
    if np.linalg.norm(ahead) < 1e-6 * np.linalg.norm(toward):  # straight down: its rows are x
        ahead = np.cross(up, rig.poses[0, 0, :3])
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])


def box_middle(
    hull: Float[np.ndarray, "p 3"], axes: Float[np.ndarray, "3 3"], table: float
) -> Float[np.ndarray, " 3"]:
    """Middle of the box around the hull's part above the table."""
    box = hull @ axes.T
    low, high = box.min(0), box.max(0)
    low[2] = max(low[2], table)
    return axes.T @ ((low + high) / 2)


def _write_points(path: Path, rig: Rig) -> None:
    if len(rig.points):
        import trimesh

        trimesh.PointCloud(rig.points, colors=rig.colors).export(path)


def _scale_record(scale: Scale, tags: Sequence[SeenTag]) -> dict:
    return {
        "source": scale.source,
        "metres_per_unit": scale.metres,
        "ways": scale.ways,
        "tags": [
            {"id": tag.id, "views": len(tag.views), "misfit": round(tag.misfit, 5)} for tag in tags
        ],
    }


def _table_record(plane: Plane, scale: Scale, tags: Sequence[SeenTag]) -> dict:
    lean = [float(np.rad2deg(np.arccos(np.clip(tag.normal @ plane.normal, -1, 1)))) for tag in tags]
    return {
        "source": plane.source,
        "normal_before": plane.normal.tolist(),
        "support": plane.support,
        "rms_mm": None if plane.rms is None else round(1e3 * scale.metres * plane.rms, 4),
        "tags_lean_deg": [round(angle, 3) for angle in lean],
    }
