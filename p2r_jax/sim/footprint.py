"""The shape that pushing sees: convex parts of a footprint, and distances to them.

An object is a set of upright prisms, so collision with a round pusher is plane
geometry. One formula per shape serves every dynamics, "reality" and the
benchmarks: it is written in scalars (one array per coordinate), which XLA fuses
into few loops, and takes numpy or JAX alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Box:
    """A convex part: axis-aligned box in the object frame.

    Attributes:
      center: (x, y), m.
      half: half sizes (x, y), m.
    """

    center: tuple[float, float]
    half: tuple[float, float]

    @property
    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Corners, counter-clockwise, m."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return np.array(self.center) + signs * np.array(self.half)

    def nearest(self, x, y, xp: ModuleType = jnp):
        """Outward normal at the point of the outline nearest to (x, y), and the distance.

        Args:
          x, y: coordinates in the object frame, m; any equal shapes.
          xp: ``jax.numpy`` or ``numpy``.

        Returns:
          normal x, normal y, signed distance (m; negative inside).
        """
        qx, qy = x - self.center[0], y - self.center[1]
        sx, sy = xp.where(qx < 0, -1.0, 1.0), xp.where(qy < 0, -1.0, 1.0)
        ex, ey = xp.abs(qx) - self.half[0], xp.abs(qy) - self.half[1]
        ox, oy = xp.maximum(ex, 0.0), xp.maximum(ey, 0.0)
        outside = xp.sqrt(ox * ox + oy * oy)
        inside = xp.minimum(xp.maximum(ex, ey), 0.0)
        out = outside > 0
        scale = 1.0 / xp.where(out, outside, 1.0)
        nx = sx * xp.where(out, ox * scale, 1.0 * (ex > ey))
        ny = sy * xp.where(out, oy * scale, 1.0 * (ex <= ey))
        return nx, ny, outside + inside


@dataclass(frozen=True)
class Polygon:
    """A convex part: polygon in the object frame.

    Attributes:
      vertices: (x, y) of three or more corners, counter-clockwise, m.
    """

    vertices: tuple[tuple[float, float], ...]

    def __post_init__(self):
        corners = np.array(self.vertices, float)
        if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2:
            raise ValueError("a polygon needs three or more (x, y) corners")
        edge = np.roll(corners, -1, axis=0) - corners
        after = np.roll(edge, -1, axis=0)
        turn = edge[:, 0] * after[:, 1] - edge[:, 1] * after[:, 0]
        winding = np.arctan2(turn, np.sum(edge * after, -1)).sum()
        if turn.min() <= 0 or abs(winding - 2 * np.pi) > 1e-6:
            raise ValueError(
                f"polygon {np.round(corners, 4).tolist()} is not strictly convex and "
                "counter-clockwise; split it into convex parts"
            )

    @cached_property
    def corners(self) -> Float[np.ndarray, "n 2"]:
        """Corners, counter-clockwise, m."""
        return np.array(self.vertices, float)

    def nearest(self, x, y, xp: ModuleType = jnp):
        """Outward normal at the nearest point of the outline, and signed distance.

        The same contract as ``Box.nearest``.
        """
        best = None
        inside = True
        for (ax, ay), (bx, by) in zip(self.corners, np.roll(self.corners, -1, 0), strict=True):
            length = float(np.hypot(bx - ax, by - ay))
            tx, ty = float(bx - ax) / length, float(by - ay) / length
            rx, ry = x - float(ax), y - float(ay)
            along, above = rx * tx + ry * ty, rx * ty - ry * tx
            beyond = xp.where(along < 0, along, xp.maximum(along - length, 0.0))
            inside = inside & (above <= 0)
            here = (above * above + beyond * beyond, above, beyond, tx, ty)
            if best is not None:
                closer = here[0] < best[0]
                here = tuple(xp.where(closer, a, b) for a, b in zip(here, best, strict=True))
            best = here
        squared, above, beyond, tx, ty = best
        # beside an edge the normal is the edge's own; past a corner it points from the corner
        corner = (beyond != 0) & ~inside
        away = xp.sqrt(xp.where(corner, squared, 1.0))
        across, along = xp.where(corner, above / away, 1.0), xp.where(corner, beyond / away, 0.0)
        distance = xp.where(inside, above, xp.where(corner, away, xp.abs(above)))
        return across * ty + along * tx, -across * tx + along * ty, distance


Part = Box | Polygon


def nearest(
    parts: Sequence[Part], x: Float[Array, "*n"], y: Float[Array, "*n"], xp: ModuleType = jnp
) -> tuple[Array, Array, Array]:
    """Outward unit normal (x, y) and signed distance (m) of the part nearest to each point.

    Args:
      parts: convex parts of the footprint.
      x, y: object frame, m.
      xp: ``jax.numpy`` or ``numpy``.
    """
    best = parts[0].nearest(x, y, xp)
    for part in parts[1:]:
        other = part.nearest(x, y, xp)
        closer = other[2] < best[2]
        best = tuple(xp.where(closer, a, b) for a, b in zip(other, best, strict=True))
    return best


def signed_distance(
    parts: Sequence[Part], point: Float[Array, "*n 2"], xp: ModuleType = jnp
) -> Float[Array, "*n"]:
    """Distance of points from the footprint, m; negative inside.

    Args:
      parts: convex parts of the footprint.
      point: object frame, m.
      xp: ``jax.numpy`` or ``numpy``.
    """
    distances = [part.nearest(point[..., 0], point[..., 1], xp)[2] for part in parts]
    smallest = distances[0]
    for distance in distances[1:]:
        smallest = xp.minimum(smallest, distance)
    return smallest


def inside(parts: Sequence[Part], point: Float[np.ndarray, "*n 2"], margin: float = 0.0):
    """Which points lie in the footprint, shrunk by ``margin`` (m) part by part: Bool[*n]."""
    return signed_distance(parts, point, np) <= -margin


def depth_inside(
    points: Float[np.ndarray, "p 2"], query: Float[np.ndarray, "*n 2"]
) -> Float[np.ndarray, "*n"]:
    """Depth of queries inside the convex hull of points, m; negative outside.

    Points on one line enclose nothing: minus infinity.
    """
    planes = hull_planes(points)
    return -np.max(query @ planes[:, :2].T + planes[:, 2], axis=-1)


def hull_planes(points: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, "e 3"]:
    """Edges of the convex hull as (outward normal, offset): n . x + d <= 0 inside."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return ConvexHull(points).equations
    except QhullError:  # on one line
        return np.array([[0.0, 0.0, np.inf]])


def area_moments(part: Part) -> tuple[float, np.ndarray, np.ndarray]:
    """Area (m^2), centroid (m) and second moments of area about the centroid (2 x 2, m^4)."""
    corners = part.corners
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]
    area = cross.sum() / 2
    centroid = (cross[:, None] * (corners + following)).sum(0) / (6 * area)
    a, b = corners - centroid, following - centroid
    cross = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    sums = a[:, :, None] * a[:, None] + b[:, :, None] * b[:, None]
    mixed = a[:, :, None] * b[:, None] + b[:, :, None] * a[:, None]
    second = (cross[:, None, None] * (2 * sums + mixed)).sum(0) / 24
    return float(area), centroid, second


def grown(part: Part, margin: float) -> Part:
    """The part with every edge moved outwards by ``margin``, m."""
    if isinstance(part, Box):
        return Box(part.center, (part.half[0] + margin, part.half[1] + margin))
    corners = part.corners
    edge = np.roll(corners, -1, axis=0) - corners
    normal = np.stack([edge[:, 1], -edge[:, 0]], -1) / np.linalg.norm(edge, axis=-1, keepdims=True)
    before = np.roll(normal, 1, axis=0)
    shift = (normal + before) / (1 + np.sum(normal * before, -1, keepdims=True))
    return Polygon(tuple((float(x), float(y)) for x, y in corners + margin * shift))
