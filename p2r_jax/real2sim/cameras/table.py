"""Which way is up, and where the table is."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.cameras.rig import Rig
from p2r_jax.real2sim.cameras.silhouettes import (
    Hull,
    Place,
    Silhouettes,
    sections,
    share_on_object,
)

NEARBY = 4.0  # radii of the object, within which points may be the table
BESIDE = 0.6  # share of the masks that contain a point of the table at most
LEAST_POINTS = 40
TRIALS = 500
THICKNESS = 0.03  # of the object's radius: points this near belong to a plane
LEAST_SHARE = 0.35  # of the points beside the object that must lie on the table
AHEAD, STOPS_WIDENING = 3, 0.3  # layers; how much less than below the sections widen
TIP = 0.2  # of the widest section
LEVEL = 0.35  # smallest singular value over the middle one, for the cameras to be held level


@dataclass(frozen=True)
class Plane:
    """The table: points with ``normal @ x == height``.

    Attributes:
      normal: unit vector, up.
      height: along it.
      source: what it was found from.
      support: share of the points beside the object that lie on it, if found from points.
      rms: of those points' distances from it, units of the rig.
    """

    normal: Float[np.ndarray, " 3"]
    height: float
    source: str
    support: float | None = None
    rms: float | None = None


def plane_of_points(rig: Rig, seen: Silhouettes, place: Place, seed: int = 0) -> Plane | None:
    """The plane under the object, from the scene's points around it; None if there is none.

    RANSAC over points near the object but not on it; a plane counts only if all
    cameras and the object are on one side of it.
    """
    near = np.linalg.norm(rig.points - place.middle, axis=1) < NEARBY * place.radius
    points = rig.points[near]
    if len(points) < LEAST_POINTS:
        return None
    points = points[share_on_object(rig, seen, points) < BESIDE]
    if len(points) < LEAST_POINTS:
        return None
    thickness = THICKNESS * place.radius
    best = _ransac(points, rig.centers, place, thickness, np.random.default_rng(seed))
    if best is None:
        return None
    normal, height = best
    for _ in range(4):
        off = np.abs(points @ normal - height)
        on = points[off < thickness]
        normal, height = _least_squares(on, normal)
        thickness = max(3 * float(np.sqrt(np.mean((on @ normal - height) ** 2))), 1e-9)
    support = len(on) / len(points)
    if support < LEAST_SHARE:
        return None
    rms = float(np.sqrt(np.mean((on @ normal - height) ** 2)))
    return Plane(normal, height, "points beside the object", support, rms)


def _ransac(points, centers, place: Place, thickness: float, rng):
    best, most = None, 0
    for _ in range(TRIALS):
        a, b, c = points[rng.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-12:
            continue
        normal /= length
        normal *= np.sign((centers.mean(0) - a) @ normal) or 1.0
        height = float(normal @ a)
        if np.mean(centers @ normal > height) < 0.95 or place.middle @ normal < height:
            continue
        on = int(np.sum(np.abs(points @ normal - height) < thickness))
        if on > most:
            best, most = (normal, height), on
    return best


def _least_squares(points: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, float]:
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    normal *= np.sign(normal @ up) or 1.0
    return normal, float(normal @ middle)


def plane_below(
    rig: Rig, seen: Silhouettes, hull: Hull, normal: Float[np.ndarray, " 3"], source: str
) -> Plane:
    """The plane that the object stands on if ``normal`` is up, from its hull alone.

    Seen from above only, a hull hangs below the table: its sections widen upward from a tip
    and stop doing so at the table.

    Args:
      rig: cameras.
      seen: masks.
      hull: of the object.
      normal: up.
      source: where ``normal`` comes from.
    """
    normal = normal / np.linalg.norm(normal)
    edges, areas = sections(rig, seen, hull, normal)
    filled = np.flatnonzero(areas)
    widths = np.sqrt(areas[filled[0] : filled[-1] + 1])
    return Plane(normal, float(edges[filled[0] + _first_full(widths)]), source)


def _first_full(widths: Float[np.ndarray, " n"]) -> int:
    """The first of the layers from which on sections widen far less than below."""
    tip = int(np.argmax(widths > TIP * widths.max()))  # below, single cells come and go
    for layer in range(tip, len(widths) - AHEAD):
        before = widths[layer] / (layer + 1)
        after = (widths[layer + AHEAD] - widths[layer]) / AHEAD
        if after < STOPS_WIDENING * before:
            return layer
    return tip


def up_of_cameras(rig: Rig) -> Float[np.ndarray, " 3"] | None:
    """Up, if the pictures were taken level: most at right angles to their rows.

    None if the rows do not say, as from cameras that all look the same way.
    """
    rows, columns = rig.poses[:, 0, :3], rig.poses[:, 1, :3]
    _, spread, axes = np.linalg.svd(rows, full_matrices=False)
    if len(rows) < 3 or spread[2] > LEVEL * spread[1] or spread[1] < 0.05 * spread[0]:
        return None
    up = axes[2]
    return up * (np.sign(-columns.mean(0) @ up) or 1.0)
