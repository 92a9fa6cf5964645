"""AprilTags (36h11) on an object and a table: where a camera sees them, where they are.

The tags on the object lie flat at a known height, so the rays of their corners are cut
with that plane and the pose is a fit in two dimensions, better conditioned than a pose
in space. The camera's place comes from tags at known places on the table, or a file.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import DeviceError
from p2r_jax.deploy.trackers.planar import (
    fit_planar,
    planar_transform,
    read_json,
    read_transform,
)
from p2r_jax.files import write_json

SCHEMA = 1
MAX_FIT_ERROR_M = 3e-3  # corners that fit worse are not those of the object's tags
MAX_CALIBRATION_ERROR_PX = 1.0
FIRST_PIXEL = 0.5  # the fine detector's name for the centre of the first pixel, elsewhere 0
CUT_OUT_RIM = 0.4  # around a tag, in widths


@dataclass(frozen=True)
class Tag:
    """A tag that lies flat, facing up.

    Attributes:
      id: in the family 36h11.
      size_m: edge of its black square.
      x, y, yaw: of its centre, m and rad: in the world for a tag on the table, in the
        object frame for one on the object. Its x points to the right when it is read
        upright, its y upwards.
    """

    id: int
    size_m: float
    x: float
    y: float
    yaw: float

    @property
    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Corners as detectors list them: top left, top right, bottom right, bottom left."""
        half = self.size_m / 2
        square = np.array([[-half, half], [half, half], [half, -half], [-half, -half]])
        T = planar_transform(self.x, self.y, self.yaw)
        return square @ T[:2, :2].T + T[:2, 2]


@dataclass(frozen=True)
class TagSetup:
    """A camera and the tags it may see.

    Attributes:
      matrix: 3 x 3 of the pinhole camera, pixels.
      distortion: OpenCV's coefficients.
      size_px: width and height of the pictures that these are for.
      object_tags, table_tags: tags on the object, and on the table (at z = 0).
      object_height_m: height of the object's tags over the table.
      T_world_camera: 4 x 4, m; None: found from the table's tags when connecting.
    """

    matrix: Float[np.ndarray, "3 3"]
    distortion: Float[np.ndarray, " d"]
    size_px: tuple[int, int]
    object_tags: tuple[Tag, ...]
    table_tags: tuple[Tag, ...]
    object_height_m: float
    T_world_camera: Float[np.ndarray, "4 4"] | None = None

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Of the tags on the object."""
        return tuple(tag.id for tag in self.object_tags)

    @property
    def table_ids(self) -> tuple[int, ...]:
        """Of the tags on the table."""
        return tuple(tag.id for tag in self.table_tags)


Corners = dict[int, Float[np.ndarray, "4 2"]]  # by tag, pixels


class Detector:
    """OpenCV's detector of the family 36h11, twice: to find tags, and to find them well.

    Only the refinement that fits lines to the edges is good to a tenth of a pixel, and it
    is slow: it sees a cut-out around each tag that the plain detector found.
    """

    def __init__(self):
        cv2 = opencv()
        family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
        coarse, fine = cv2.aruco.DetectorParameters(), cv2.aruco.DetectorParameters()
        fine.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
        self._coarse = cv2.aruco.ArucoDetector(family, coarse)
        self._fine = cv2.aruco.ArucoDetector(family, fine)

    def __call__(self, image: np.ndarray, wanted: Collection[int]) -> Corners:
        """Corners of the wanted tags; a tag that is found twice counts as not found."""
        found = _detect(self._coarse, image, wanted)
        refined = {tag: self._refine(image, tag, corners) for tag, corners in found.items()}
        return {tag: corners for tag, corners in refined.items() if corners is not None}

    def _refine(self, image: np.ndarray, tag: int, corners: np.ndarray) -> np.ndarray | None:
        lower, upper = corners.min(0), corners.max(0)
        rim = CUT_OUT_RIM * (upper - lower).max()
        left, top = np.maximum(np.floor(lower - rim), 0).astype(int)
        right, bottom = np.ceil(upper + rim).astype(int)
        cut_out = _detect(self._fine, image[top:bottom, left:right], [tag])
        return cut_out[tag] + [left, top] - FIRST_PIXEL if tag in cut_out else None


def _detect(detector, image: np.ndarray, wanted: Collection[int]) -> Corners:
    corners, ids, _ = detector.detectMarkers(image)
    ids = [] if ids is None else np.ravel(ids).tolist()
    found = zip(ids, corners, strict=True)
    return {
        tag: np.reshape(c, (4, 2)).astype(float)
        for tag, c in found
        if tag in wanted and ids.count(tag) == 1
    }


def rays_on_plane(
    setup: TagSetup, pixels: Float[np.ndarray, "n 2"], height_m: float
) -> Float[np.ndarray, "n 2"]:
    """World (x, y) at which the rays of these pixels meet the plane z = ``height_m``, m."""
    flat = opencv().undistortPoints(pixels[:, None], setup.matrix, setup.distortion)[:, 0]
    T = setup.T_world_camera
    directions = np.concatenate([flat, np.ones((len(flat), 1))], 1) @ T[:3, :3].T
    reach = (height_m - T[2, 3]) / directions[:, 2]
    return T[:2, 3] + reach[:, None] * directions[:, :2]


def object_pose(setup: TagSetup, corners: Corners) -> tuple[float, float, float] | None:
    """Object (x, y, yaw in [-pi, pi]); None if no tag was seen or the corners do not fit."""
    seen = [tag for tag in setup.object_tags if tag.id in corners]
    if not seen:
        return None
    pixels = np.concatenate([corners[tag.id] for tag in seen])
    points = np.concatenate([tag.corners for tag in seen])
    pose, error = fit_planar(points, rays_on_plane(setup, pixels, setup.object_height_m))
    return pose if error <= MAX_FIT_ERROR_M else None


def calibrate(setup: TagSetup, frames: list[Corners]) -> TagSetup:
    """The setup with the camera's place, from the mean corners of the table's tags.

    Raises:
      DeviceError: if no tag of the table was seen, or they fit badly.
    """
    cv2 = opencv()
    seen = {t: [f[t.id] for f in frames if t.id in f] for t in setup.table_tags}
    seen = {tag: np.mean(corners, axis=0) for tag, corners in seen.items() if corners}
    if not seen:
        raise DeviceError(
            f"apriltag: none of the table's tags {list(setup.table_ids)} was seen; "
            "show them to the camera, or save T_world_camera in the setup"
        )
    pixels = np.concatenate(list(seen.values()))
    world = np.concatenate([np.pad(tag.corners, ((0, 0), (0, 1))) for tag in seen])
    _, turn, shift = cv2.solvePnP(world, pixels, setup.matrix, setup.distortion)
    projected, _ = cv2.projectPoints(world, turn, shift, setup.matrix, setup.distortion)
    error = float(np.sqrt(np.mean(np.sum((projected[:, 0] - pixels) ** 2, axis=1))))
    if error > MAX_CALIBRATION_ERROR_PX:
        raise DeviceError(
            f"apriltag: the table's tags {[t.id for t in seen]} fit to {error:.1f} px only; are "
            "their places and sizes right, in metres, and the camera's matrix?"
        )
    T_camera_world = np.eye(4)
    T_camera_world[:3, :3], T_camera_world[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    return replace(setup, T_world_camera=np.linalg.inv(T_camera_world))


def load_setup(path: Path) -> TagSetup:
    """A setup from its JSON.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: naming what is missing or wrong.
    """
    record = read_json(path, "apriltag setup", SCHEMA)
    try:
        camera, place = record["camera"], record.get("T_world_camera")
        setup = TagSetup(
            matrix=np.array(camera["matrix"], float),
            distortion=np.array(camera.get("distortion", [0.0] * 5), float),
            size_px=(int(camera["width"]), int(camera["height"])),
            object_tags=tuple(Tag(**tag) for tag in record["object_tags"]),
            table_tags=tuple(Tag(**tag) for tag in record.get("table_tags", ())),
            object_height_m=float(record["object_height_m"]),
            T_world_camera=None if place is None else read_transform(place, "T_world_camera"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: missing or unknown entry: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_setup(setup, path)
    return setup


def save_setup(path: Path, setup: TagSetup) -> None:
    """Write a setup, with the camera's place if it is known."""
    place = setup.T_world_camera
    write_json(
        path,
        {
            "schema": SCHEMA,
            "camera": {
                "matrix": setup.matrix.tolist(),
                "distortion": setup.distortion.tolist(),
                "width": setup.size_px[0],
                "height": setup.size_px[1],
            },
            "object_tags": [vars(tag) for tag in setup.object_tags],
            "table_tags": [vars(tag) for tag in setup.table_tags],
            "object_height_m": setup.object_height_m,
            "T_world_camera": None if place is None else place.tolist(),
        },
    )


def _check_setup(setup: TagSetup, path: Path) -> None:
    ids = [*setup.object_ids, *setup.table_ids]
    if not setup.object_tags:
        raise ValueError(f"{path}: no tag on the object")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path}: a tag is named twice among {ids}")
    if setup.matrix.shape != (3, 3):
        raise ValueError(f"{path}: the camera's matrix must be 3 x 3")
    if setup.T_world_camera is None and not setup.table_tags:
        raise ValueError(
            f"{path}: give table_tags or T_world_camera; the camera's place is unknown"
        )
    for tag in (*setup.object_tags, *setup.table_tags):
        if not 0.005 <= tag.size_m <= 0.5:
            raise ValueError(f"{path}: tag {tag.id} is {tag.size_m} m wide; sizes are in metres")


def opencv():
    """The module ``cv2``; ImportError names the extra."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "the apriltag tracker needs OpenCV: pip install 'p2r_jax[hardware]'"
        ) from error
    return cv2
