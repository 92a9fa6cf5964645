"""Structure from motion: camera poses out of the pictures alone, with pycolmap."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from p2r_jax.real2sim.cameras.rig import Lens, Rig, import_pycolmap
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import read_grey, write_picture
from p2r_jax.real2sim.segment.sheet import contact_sheet
from p2r_jax.real2sim.views import MASK_LEVEL

EXHAUSTIVE_UP_TO, NEIGHBOURS = 80, 20  # of more frames of a film only so many are compared
THREADS = 2
LEAST_TRACK = 3  # a point that fewer frames see says little
EXIF_IFD, FOCAL_35MM, FILM_DIAGONAL_MM = 0x8769, 0xA405, 43.27


Place = Literal["scene", "object"]


@dataclass(frozen=True)
class SfmConfig:
    """How poses are found from pictures.

    Attributes:
      lens: COLMAP's camera model that all frames share.
      focal_px: of the frames; None takes it from the photos' EXIF or guesses; refined.
      max_features: per frame.
      max_side: features are sought in pictures shrunk to this, px.
      look_at: ``scene`` finds features everywhere; ``object`` only on the object, for a
        turntable before a background that stays; ``auto`` tries scene, then object.
      min_registered: share of the frames that must get a pose.
      seed: of RANSAC.
    """

    lens: Literal["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"] = "SIMPLE_RADIAL"
    focal_px: float | None = None
    max_features: int = 2500
    max_side: int = 1000
    look_at: Literal["auto", "scene", "object"] = "auto"
    min_registered: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Attempt:
    """One way to run it.

    Attributes:
      look_at: where features are sought.
      loose: more and weaker features, and weaker evidence accepted.
    """

    look_at: Place
    loose: bool


def attempts(config: SfmConfig) -> tuple[Attempt, ...]:
    """What is tried, in order, until enough frames have a pose that the masks agree with."""
    places: tuple[Place, ...] = ("scene", "object")
    if config.look_at != "auto":
        places = (config.look_at,)
    return tuple(Attempt(place, loose) for loose in (False, True) for place in places)


def run_sfm(
    config: SfmConfig,
    attempt: Attempt,
    frames: Sequence[Frame],
    masks: Mapping[str, Path],
    work: Path,
) -> Rig | None:
    """Poses of the frames in a frame and scale of their own, or None if nothing was found.

    Args:
      config: settings.
      attempt: how.
      frames: pictures of one size, in one folder.
      masks: of the object by frame name, for ``look_at`` object.
      work: empty folder for the database.
    """
    pycolmap = import_pycolmap()
    pycolmap.set_random_seed(config.seed)
    start = time.perf_counter()
    database, folder = work / "database.db", frames[0].image.parent
    with tqdm(total=2 + len(frames), desc=f"sfm ({_title(attempt)})") as bar:
        bar.set_postfix_str("features")
        _extract(pycolmap, config, attempt, frames, masks, work, database)
        bar.update()
        bar.set_postfix_str("matches")
        _match(pycolmap, config, attempt, frames, database)
        bar.update()
        bar.set_postfix_str("poses")
        options = _mapping(pycolmap, config, attempt)
        models = interruptible(
            pycolmap.incremental_mapping, database, folder, work, options=options,
            next_image_callback=bar.update,
        )  # fmt: skip
    if not models:
        return None
    sizes = sorted((model.num_reg_images() for model in models.values()), reverse=True)
    best = max(models.values(), key=lambda model: model.num_reg_images())
    rig = rig_of_model(best, {frame.image.name: frame.name for frame in frames})
    rig.notes.update(
        frames=len(frames),
        look_at=attempt.look_at,
        loose=attempt.loose,
        models=sizes,
        seconds=round(time.perf_counter() - start, 2),
    )
    return rig


def interruptible(call: Callable, *args, **options):
    """Call pycolmap in a thread, so that Ctrl-C is heard and ends it."""
    token = import_pycolmap().CancellationToken()
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(call, *args, **options, cancellation_token=token).result()
        except KeyboardInterrupt:
            token.cancel()
            raise


def focal_from_exif(photo: Path, width: int, height: int) -> float | None:
    """Focal length, px, of a picture of this size, if the photo's EXIF states it for 35 mm film."""
    from PIL import Image

    if not photo.is_file():
        return None
    with Image.open(photo) as picture:
        millimetres = picture.getexif().get_ifd(EXIF_IFD).get(FOCAL_35MM)
    return float(millimetres) * np.hypot(width, height) / FILM_DIAGONAL_MM if millimetres else None


def _title(attempt: Attempt) -> str:
    return attempt.look_at + (", looser" if attempt.loose else "")


def _extract(pycolmap, config, attempt, frames, masks, work, database) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads, options.use_gpu = THREADS, False
    options.max_image_size = config.max_side
    weak = attempt.loose or attempt.look_at == "object"  # fewer features, so weaker ones too
    options.sift.max_num_features = config.max_features * (3 if weak else 1)
    if weak:
        options.sift.peak_threshold /= 3
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = config.lens
    if config.focal_px is not None:
        reader.camera_params = _first_params(pycolmap, config, frames[0])
    if attempt.look_at == "object":
        reader.mask_path = _write_masks(frames, masks, work / "masks")
    interruptible(
        pycolmap.extract_features,
        database,
        frames[0].image.parent,
        image_names=[frame.image.name for frame in frames],
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=options,
        device=pycolmap.Device.cpu,
    )


def _first_params(pycolmap, config: SfmConfig, frame: Frame) -> str:
    camera = pycolmap.Camera.create_from_model_name(
        0, config.lens, config.focal_px, frame.width, frame.height
    )
    return camera.params_to_string()


def _write_masks(frames: Sequence[Frame], masks: Mapping[str, Path], folder: Path) -> Path:
    """Masks under the names that COLMAP wants; no rim, or what stands still gets in."""
    folder.mkdir()
    for frame in frames:
        mask = read_grey(masks[frame.name])
        inside = (255 * (mask >= MASK_LEVEL)).astype(np.uint8)
        write_picture(folder / f"{frame.image.name}.png", inside)
    return folder


def _match(pycolmap, config, attempt, frames, database) -> None:
    options = pycolmap.FeatureMatchingOptions()
    options.num_threads, options.use_gpu = THREADS, False
    options.guided_matching = attempt.loose
    verification = pycolmap.TwoViewGeometryOptions()
    verification.filter_stationary_matches = True  # of the background behind a turntable
    verification.ransac.random_seed = config.seed
    shared = {
        "matching_options": options,
        "verification_options": verification,
        "device": pycolmap.Device.cpu,
    }
    in_order = frames[0].time_s is not None
    if in_order and len(frames) > EXHAUSTIVE_UP_TO:
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap = NEIGHBOURS
        interruptible(pycolmap.match_sequential, database, pairing_options=pairing, **shared)
    else:
        interruptible(pycolmap.match_exhaustive, database, **shared)


def _mapping(pycolmap, config: SfmConfig, attempt: Attempt):
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = THREADS
    options.random_seed = config.seed
    options.multiple_models = True
    options.max_num_models = 4
    options.min_model_size = 3
    if attempt.loose:
        options.min_num_matches = 10
        options.mapper.init_min_num_inliers = 40
        options.mapper.init_min_tri_angle = 6.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.mapper.abs_pose_min_inlier_ratio = 0.15
    return options


def rig_of_model(model, names: Mapping[str, str]) -> Rig:
    """A ``pycolmap.Reconstruction`` as a rig.

    Args:
      model: with registered images.
      names: frame name by the image's name; images that are not in it are left out.
    """
    images = sorted(
        (i for i in model.images.values() if i.has_pose and i.name in names), key=lambda i: i.name
    )
    lenses = {
        number: Lens(c.model_name, c.width, c.height, tuple(float(p) for p in c.params))
        for number, c in model.cameras.items()
    }
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    for pose, image in zip(poses, images, strict=True):
        pose[:3] = image.cam_from_world().matrix()
    points = [p for p in model.points3D.values() if p.track.length() >= LEAST_TRACK]
    return Rig(
        names=tuple(names[image.name] for image in images),
        lenses=tuple(lenses[image.camera_id] for image in images),
        poses=poses,
        points=np.array([p.xyz for p in points]).reshape(-1, 3),
        colors=np.array([p.color for p in points], np.uint8).reshape(-1, 3),
        notes={
            "registered": len(images),
            "points": len(points),
            "reprojection_px": round(float(model.compute_mean_reprojection_error()), 4),
            "track_length": round(float(model.compute_mean_track_length()), 2),
        },
    )


def enough(config: SfmConfig, rig: Rig | None, frames: Sequence[Frame]) -> bool:
    """Whether as many frames have a pose as are asked for."""
    return rig is not None and len(rig.names) >= max(3, config.min_registered * len(frames))


def too_few(
    config: SfmConfig,
    rig: Rig | None,
    frames: Sequence[Frame],
    masks: Mapping[str, Path],
    picture: Path,
) -> CaptureError:
    """The error that says which frames have no pose, and what to do.

    Args:
      config: settings.
      rig: what was found, if anything.
      frames: all.
      masks: by frame name.
      picture: where to draw a sheet of the frames, those without a pose marked.
    """
    found = rig.names if rig else ()
    missing = [frame.name for frame in frames if frame.name not in found]
    outlines = [read_grey(masks[frame.name]) >= MASK_LEVEL for frame in frames]
    notes = ["no pose" if frame.name in missing else None for frame in frames]
    write_picture(picture, contact_sheet(frames, outlines, notes))
    groups = rig.notes.get("models", ()) if rig else ()
    apart = f" They fall into groups of {groups} that share no view." if len(groups) > 1 else ""
    return CaptureError(
        f"structure from motion placed {len(found)} of {len(frames)} frames, also with looser "
        f"settings; {100 * config.min_registered:.0f} % are needed.{apart} Film again with more "
        "overlap (neighbouring pictures at most 20 degrees apart), sharp, the object on something "
        "with texture (newspaper, a printed cloth), nothing moving but the camera; or give poses. "
        "Frames without a pose",
        missing,
        picture,
    )
