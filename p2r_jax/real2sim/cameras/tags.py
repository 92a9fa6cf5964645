"""AprilTags of known size in the pictures: metric scale, and a plane that is the table.

A tag's corners are points that many views see, so they are triangulated with the poses
that are already known, and the edge of the square gives the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.real2sim.cameras.rig import Rig, align, distances_from_lines, nearest_point
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import missing_package

Family = Literal["36h11", "25h9", "16h5"]
CUT_OUT_RIM = 0.4  # around a tag, in widths
LEAST_VIEWS = 3
LEAST_PARALLAX_DEG = 3.0
OUTLIER = 3.0  # times the median distance of a ray from the corner
BAD_FIT = 0.03  # of the tag's edge; a square that fits worse is none


@dataclass(frozen=True)
class SeenTag:
    """A tag in the frame and scale of the poses.

    Attributes:
      id: its number.
      corners: top left, top right, bottom right, bottom left, as read upright.
      edge: of the fitted square.
      misfit: rms distance of the corners from a square, in edges.
      views: names of the frames that saw it.
    """

    id: int
    corners: Float[np.ndarray, "4 3"]
    edge: float
    misfit: float
    views: tuple[str, ...]

    @property
    def normal(self) -> Float[np.ndarray, " 3"]:
        """Unit vector out of the printed side."""
        across, down = self.corners[1] - self.corners[0], self.corners[3] - self.corners[0]
        normal = np.cross(down, across)
        return normal / np.linalg.norm(normal)


def find_tags(frames: Sequence[Frame], family: Family) -> dict[str, dict[int, np.ndarray]]:
    """Corners (4, 2), px, by frame and tag.

    Raises:
      ImportError: without OpenCV; names the extra to install.
    """
    try:
        import cv2
    except ImportError:
        raise missing_package("opencv-python-headless") from None
    codes = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_APRILTAG_{family}"))
    fine = cv2.aruco.DetectorParameters()
    fine.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
    detectors = cv2.aruco.ArucoDetector(codes), cv2.aruco.ArucoDetector(codes, fine)
    return {frame.name: _in_picture(frame.load(), *detectors) for frame in frames}


def _in_picture(image: UInt8[np.ndarray, "h w 3"], coarse, fine) -> dict[int, np.ndarray]:
    """Tags found once; their corners refined on a cut-out, as the good refinement is slow."""
    found = {}
    for number, corners in _detect(coarse, image).items():
        low, high = corners.min(0), corners.max(0)
        rim = CUT_OUT_RIM * (high - low).max()
        left, top = np.maximum(np.floor(low - rim), 0).astype(int)
        right, bottom = np.ceil(high + rim).astype(int)
        again = _detect(fine, np.ascontiguousarray(image[top:bottom, left:right]))
        if number in again:  # this refinement counts from the picture's corner, as we do
            found[number] = again[number] + [left, top]
    return found


def _detect(detector, image: np.ndarray) -> dict[int, Float[np.ndarray, "4 2"]]:
    corners, ids, _ = detector.detectMarkers(image)
    ids = [] if ids is None else np.ravel(ids).tolist()
    return {
        number: np.reshape(c, (4, 2)).astype(float)
        for number, c in zip(ids, corners, strict=True)
        if ids.count(number) == 1
    }


def triangulate_tags(
    rig: Rig, seen: dict[str, dict[int, np.ndarray]], wanted: Sequence[int] = ()
) -> list[SeenTag]:
    """Tags in space, those that enough views see from sides that differ enough.

    Args:
      rig: cameras.
      seen: what ``find_tags`` saw.
      wanted: only these numbers; all if empty.
    """
    numbers = sorted({number for tags in seen.values() for number in tags})
    tags = [_triangulate(rig, seen, n) for n in numbers if not wanted or n in wanted]
    return [tag for tag in tags if tag is not None]


def _triangulate(rig: Rig, seen: dict, number: int) -> SeenTag | None:
    views = [i for i, name in enumerate(rig.names) if number in seen.get(name, {})]
    if len(views) < LEAST_VIEWS:
        return None
    rays = np.array([rig.rays(i, seen[rig.names[i]][number]) for i in views])
    if _parallax(rays[:, 0]) < np.deg2rad(LEAST_PARALLAX_DEG):
        return None
    corners = np.array([_meet(rig.centers[views], rays[:, corner]) for corner in range(4)])
    square = np.array([[-0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0]])
    fit = align(square, corners)
    off = np.linalg.norm(fit(square) - corners, axis=1)
    misfit = float(np.sqrt(np.mean(off**2))) / fit.scale
    return SeenTag(number, corners, fit.scale, misfit, tuple(rig.names[i] for i in views))


def _parallax(rays: Float[np.ndarray, "n 3"]) -> float:
    """Largest angle between two of the rays."""
    return max(float(np.arccos(np.clip(a @ b, -1, 1))) for a, b in combinations(rays, 2))


def _meet(origins: np.ndarray, rays: np.ndarray) -> Float[np.ndarray, " 3"]:
    """Where rays meet, leaving out those that miss by far more than the others."""
    point = nearest_point(origins, rays)
    for _ in range(3):
        off = distances_from_lines(point, origins, rays)
        good = off <= max(OUTLIER * np.median(off), 1e-12)
        point = nearest_point(origins[good], rays[good])
    return point


def scale_from_tags(tags: Sequence[SeenTag], size_m: float, seen: dict) -> float:
    """Metres per unit of the poses, the mean over the tags.

    Raises:
      CaptureError: if no tag was seen well, or they are not squares.
    """
    if not tags:
        where = [name for name, found in seen.items() if found]
        raise CaptureError(
            f"no AprilTag could be placed: it must be seen in {LEAST_VIEWS} frames from different "
            f"sides, and was seen in {len(where)} of {len(seen)}. Check --cameras.scale.tag-family "
            "and -ids; print the tag larger, with a white rim, or give the scale as a length",
            where,
        )
    bad = [tag for tag in tags if tag.misfit > BAD_FIT]
    if bad:
        tag = bad[0]
        raise CaptureError(
            f"AprilTag {tag.id} is no square in space: its corners are {100 * tag.misfit:.1f} % of "
            "its edge off. Was it moved, or is it bent, or are there two with this number? Leave "
            "it out with --cameras.scale.tag-ids",
            tag.views,
        )
    return float(np.mean([size_m / tag.edge for tag in tags]))
