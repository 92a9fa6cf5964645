"""Convex polygons in plain floats: where a point is, and the nearest point inside."""

import math

Point = tuple[float, float]


def nearest_inside(polygon: tuple[Point, ...], point: Point) -> Point:
    """The point of a convex polygon that is nearest to ``point``."""
    if outside_m(polygon, point) <= 0:
        return point
    edges = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return min((_on_segment(a, b, point) for a, b in edges), key=lambda p: math.dist(p, point))


def outside_m(polygon: tuple[Point, ...], point: Point) -> float:
    """How far ``point`` is beyond the worst edge of a convex polygon, m; <= 0 inside.

    Infinite where a coordinate is not finite or too large to compute with.
    """
    edges = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    beyond = [-cross(a, b, point) / math.dist(a, b) for a, b in edges]
    return max(beyond) if all(map(math.isfinite, beyond)) else math.inf


def _on_segment(a: Point, b: Point, point: Point) -> Point:
    """Nearest point of the segment a-b; exact along axis-parallel edges."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    share = ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / (dx * dx + dy * dy)
    share = min(max(share, 0.0), 1.0)
    return (
        a[0] if dx == 0 else b[0] if share == 1.0 else a[0] + share * dx,
        a[1] if dy == 0 else b[1] if share == 1.0 else a[1] + share * dy,
    )


def cross(a: Point, b: Point, c: Point) -> float:
    """Twice the signed area of a-b-c; positive if c lies left of a-b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def is_convex(corners: tuple[Point, ...]) -> bool:
    """Whether the corners of a polygon run once around it, counter-clockwise, strictly convex."""
    n = len(corners)
    if n < 3 or len(set(corners)) < n:
        return False
    corner = [(corners[i], corners[(i + 1) % n], corners[(i + 2) % n]) for i in range(n)]
    return all(cross(*abc) > 0 for abc in corner) and _winding(corners) == 1


def _winding(corners: tuple[Point, ...]) -> int:
    """How often the polygon's edges turn around."""
    angles = [
        math.atan2(b[1] - a[1], b[0] - a[0])
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    turns = [(b - a) % (2 * math.pi) for a, b in zip(angles, angles[1:] + angles[:1], strict=True)]
    return round(sum(turns) / (2 * math.pi))
