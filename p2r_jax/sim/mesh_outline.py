"""From a shadow on the table to few convex parts that a round pusher cannot tell apart.

A pusher of radius r sees an outline only up to its closing by r: notches and holes
that are too narrow for it may as well be filled. So an outline is simplified inside
a corridor: it keeps covering the shadow drawn in by the tolerance, and stays inside
the closing grown by the tolerance. What is left is cut into convex parts
(constrained Delaunay triangles, merged greedily as Hertel and Mehlhorn do).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.sim.footprint import Box, Part, Polygon
from p2r_jax.sim.mesh_solid import MeshError

try:
    import shapely
except ImportError as error:
    raise ImportError("outlines of meshes need shapely: pip install 'p2r_jax[mesh]'") from error

MAX_PARTS = 12
MAX_VERTICES = 8  # of a part
CRACK_M = 5e-5  # gaps between projected triangles are numerical up to here
MERGE_ORDERS = 100


@dataclass(frozen=True)
class Decomposition:
    """Convex parts of a region.

    Attributes:
      parts: convex, at most ``MAX_VERTICES`` vertices each.
      region: what they add up to.
      tolerance_m: width of the corridor at last.
    """

    parts: tuple[Part, ...]
    region: shapely.Geometry
    tolerance_m: float


def shadow(triangles: Float[np.ndarray, "f 3 2"], both_sides: bool) -> shapely.Geometry:
    """Union of projected triangles; may be in several pieces.

    Args:
      triangles: of the surface, seen from above, m.
      both_sides: use all of them; a closed surface needs only those that face down.
    """
    a, b, c = np.moveaxis(triangles, 1, 0)
    twice_area = np.linalg.det(np.stack([b - a, c - a], -1))
    used = (np.abs(twice_area) if both_sides else -twice_area) > 1e-12
    union = shapely.union_all(shapely.polygons(triangles[used]))
    return union.buffer(CRACK_M, join_style="mitre").buffer(-CRACK_M, join_style="mitre")


def filled(region: shapely.Geometry) -> shapely.Geometry:
    """The region without its holes."""
    return shapely.union_all([shapely.Polygon(p.exterior) for p in shapely.get_parts(region)])


def reachable(region: shapely.Geometry, pusher_radius: float) -> shapely.Geometry:
    """The region as a round pusher outside finds it: holes and narrow notches filled."""
    closed = filled(region).buffer(pusher_radius, quad_segs=32)
    return filled(closed.buffer(-pusher_radius, quad_segs=32))


def decompose(
    region: shapely.Geometry,
    closed: shapely.Geometry,
    tolerance_m: float,
    max_parts: int = MAX_PARTS,
) -> Decomposition:
    """Simplify a region and cut it into convex parts; the tolerance grows until they are few.

    Args:
      region: what must be covered, m.
      closed: what may be covered without cost; contains ``region``.
      tolerance_m: how far the outline may move.
      max_parts: how few are few.

    Raises:
      MeshError: if even a tolerance of a twentieth of the region's size leaves too many.
    """
    limit = max(tolerance_m, 0.05 * max(np.ptp(np.reshape(region.bounds, (2, 2)), axis=0)))
    tolerance = tolerance_m
    while tolerance <= limit:
        simple = _simplified(region, closed, tolerance)
        parts = [part for piece in shapely.get_parts(simple) for part in convex_parts(piece)]
        if len(parts) <= max_parts:
            return Decomposition(tuple(parts), simple, tolerance)
        tolerance *= 1.4
    raise MeshError(
        f"the outline needs {len(parts)} convex parts even when {1e3 * limit:.1f} mm of detail is "
        f"ignored, {max_parts} are allowed; simplify the mesh"
    )


def _simplified(region, closed, tolerance: float) -> shapely.Geometry:
    corridor = _Corridor(region, closed, tolerance)
    pieces = [shapely.Polygon(corridor.walk(piece)) for piece in _without_holes(region)]
    return shapely.union_all(pieces)


def _without_holes(region) -> list[shapely.Polygon]:
    """The pieces of a region, those with holes cut in two through a hole."""
    whole = []
    for piece in shapely.get_parts(region):
        if not len(piece.interiors):
            whole.append(piece)
            continue
        x = shapely.Polygon(piece.interiors[0]).representative_point().x
        left, low, right, high = piece.bounds
        for half in (shapely.box(left, low, x, high), shapely.box(x, low, right, high)):
            whole += _without_holes(shapely.intersection(piece, half))
    return [piece for piece in whole if piece.area > 0]


class _Corridor:
    """Where a simplified outline may run, and the greedy walk that shortens it."""

    def __init__(self, region, closed, tolerance: float):
        self.closed, self.tolerance = closed, tolerance
        self.needed, self.allowed = region.buffer(-tolerance), closed.buffer(tolerance)
        for shape in (self.closed, self.needed, self.allowed):
            shapely.prepare(shape)

    def walk(self, piece: shapely.Polygon) -> Float[np.ndarray, "n 2"]:
        """Corners of a piece, the cheapest removed first, while it stays in the corridor."""
        coarse = shapely.orient_polygons(piece.simplify(self.tolerance / 5))
        loop = np.array(coarse.exterior.coords)[:-1]
        cost = self._cost(loop, np.arange(len(loop)))
        while len(loop) > 3 and np.isfinite(cost.min()):
            index = int(cost.argmin())
            shorter = np.delete(loop, index, axis=0)
            if not self._stands_for(shorter, piece):
                cost[index] = np.inf
                continue
            loop, cost = shorter, np.delete(cost, index)
            beside = np.array([index - 1, index % len(loop)])
            cost[beside] = self._cost(loop, beside)
        return np.round(loop, 6)

    def _cost(self, loop, index) -> Float[np.ndarray, " n"]:
        """Area that removing a corner costs; infinite where it leaves the corridor.

        Cutting a convex corner costs its area; filling a reflex one costs what sticks out
        of ``closed``.
        """
        before, here, after = loop[index - 1], loop[index], loop[(index + 1) % len(loop)]
        ear = shapely.polygons(np.stack([before, here, after], 1))
        turn = np.linalg.det(np.stack([here - before, after - here], -1))
        filling = shapely.area(shapely.difference(ear, self.closed))
        fits = np.where(
            turn < 0, shapely.covers(self.allowed, ear), ~shapely.intersects(self.needed, ear)
        )
        return np.where(fits, np.where(turn < 0, filling, turn / 2), np.inf)

    def _stands_for(self, loop, piece) -> bool:
        """A simple ring that still comes close to every point of the piece, thin ones too."""
        shape = shapely.Polygon(loop)
        return shape.is_valid and shape.buffer(self.tolerance).covers(piece)


def convex_parts(piece: shapely.Polygon) -> list[Part]:
    """A polygon cut into convex parts that touch and do not overlap.

    Triangles merge while they stay convex; the best of several orders is kept.
    """
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(piece))
    number: dict[tuple[float, float], int] = {}
    cells = []
    for triangle in shapely.orient_polygons(triangles):
        corners = list(triangle.exterior.coords)[:-1]
        cells.append([number.setdefault(xy, len(number)) for xy in corners])
    points = np.array(list(number))
    edges = {edge for cell in cells for edge in zip(cell, np.roll(cell, -1).tolist(), strict=True)}
    diagonals = np.array([(a, b) for a, b in sorted(edges) if a < b and (b, a) in edges], int)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(diagonals) for _ in range(MERGE_ORDERS)]
    tries = [_merged(points, cells, order) for order in orders]
    best = min(tries, key=lambda cells: (len(cells), sum(map(len, cells))))
    return [as_part(points[_corners(points, cell)]) for cell in best]


def _merged(points, cells, diagonals) -> list[list[int]]:
    """Drop diagonals in the given order wherever the two cells beside them stay convex."""
    cells = dict(enumerate(cells))
    owner = {edge: i for i, cell in cells.items() for edge in _edges(cell)}
    for a, b in diagonals.reshape(-1, 2).tolist():
        left, right = owner[a, b], owner[b, a]
        if left == right:
            continue
        first, second = cells[left], cells[right]
        i, j = first.index(b), second.index(a)
        joined = (first[i:] + first[:i])[:-1] + (second[j:] + second[:j])[:-1]
        corners = _corners(points, joined)
        if corners is None or len(corners) > MAX_VERTICES:
            continue
        cells[left] = joined
        del cells[right]
        owner.update(dict.fromkeys(_edges(joined), left))
    return list(cells.values())


def _edges(cell: list[int]) -> list[tuple[int, int]]:
    return list(zip(cell, cell[1:] + cell[:1], strict=True))


def _corners(points, cell: list[int], flat: float = 1e-6) -> list[int] | None:
    """Vertices where the cell turns (by ``flat`` metres and more); None if it is not convex."""
    corners = points[cell]
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    turn = np.linalg.det(np.stack([corners - before, after - corners], -1))
    height = turn / np.maximum(np.linalg.norm(after - before, axis=-1), 1e-12)
    if height.min() < -flat:
        return None
    return [v for v, h in zip(cell, height, strict=True) if h > flat]


def as_part(corners: Float[np.ndarray, "n 2"]) -> Part:
    """Convex corners as a polygon, or as a box where they are one along the axes."""
    low, high = corners.min(0), corners.max(0)
    if len(corners) == 4 and np.all(np.isclose(corners, low) | np.isclose(corners, high)):
        center, half = (low + high) / 2, (high - low) / 2
        return Box(tuple(center.tolist()), tuple(half.tolist()))
    return Polygon(tuple(map(tuple, corners.tolist())))
