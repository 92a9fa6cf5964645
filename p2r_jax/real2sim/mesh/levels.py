"""The level of a field at which its surface casts silhouettes of the right size.

Silhouettes tell the size of an object without bias. Fields do not: the maximum over many views
carves with every view's error (masks' stairs, poses, parts that a mask misses), so a hull is
too small, here more and there less; depth rendered from a splat lies a little inside. Both
are offsets that silhouettes reveal.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.mesh.hull import Hull, Silhouette
from p2r_jax.real2sim.mesh.render import silhouette_of
from p2r_jax.real2sim.mesh.volume import Grid, sample, zero_surface
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

VIEWS, STEPS = 12, 6  # looked at
RIM_PX = 0.75  # from a mask's edge: the pixels beside it
RAYS_PER_VIEW = 300
PRECISION = 5e-4  # of the area
ROUNDS = 2  # of growing
CLOSE, LEAST_VOTES = 3.0, 3  # voxels from a node to a grazing point; views that have one
MOST_VOXELS = 4.0  # that a hull is off in a round; rays further off graze nothing


def unshrunk(hull: Hull, table: bool, everywhere: bool = True) -> tuple[Hull, float]:
    """The hull whose silhouettes end where most masks do, place by place, and its growth (m).

    A ray through the edge of a mask grazes the object: the least field along it is the level
    at which that ray is right, at the point where it is taken. Every node's field is lowered
    by the median over the views of the levels next to it, so a part that few masks miss comes
    back where the others see it end.

    Args:
      hull: carved.
      table: keep it above z = 0.
      everywhere: faces that no ray grazes grow by the median of all; right for a hull, wrong
        for hollows that were carved by something else than silhouettes.

    Returns:
      the hull, and the median over its surface of how far it grew, m.
    """
    grown = hull
    for _ in range(ROUNDS):
        field = grown.field - _levels_nearby(grown, everywhere)
        if table:
            field = np.maximum(field, -hull.grid.axes[2])
        grown = replace(grown, field=field.astype(np.float32))
    surface = np.abs(grown.field) < hull.grid.voxel
    return grown, float(np.median((hull.field - grown.field)[surface]))


def _levels_nearby(hull: Hull, everywhere: bool) -> Float[np.ndarray, "nx ny nz"]:
    """By how much the hull is off at its nodes, m; 0 far from its surface.

    One vote a view, that of its grazing point next to the node, if it has one close by.
    """
    from scipy.spatial import cKDTree

    voxel, coarse = hull.grid.voxel, hull.grid.coarser()
    near = np.abs(hull.field[::2, ::2, ::2]) < (MOST_VOXELS + 2) * voxel
    nodes, votes, every = coarse.nodes(near), [], []
    for s in hull.silhouettes:
        points, levels = grazing_points(hull, s)
        graze = np.abs(levels) < MOST_VOXELS * voxel
        _, nearest = cKDTree(points[graze]).query(nodes, distance_upper_bound=CLOSE * voxel)
        votes.append(np.append(levels[graze], np.nan)[nearest])
        every.append(levels)
    votes = np.array(votes)
    told = (~np.isnan(votes)).sum(0) >= LEAST_VOTES
    levels = np.full(len(nodes), np.median(np.concatenate(every)) if everywhere else 0.0)
    levels[told] = np.nanmedian(votes[:, told], axis=0)
    rough = np.zeros(coarse.shape)
    rough[near] = levels
    return sample(rough, coarse, hull.grid.nodes()).reshape(hull.grid.shape)


def grazing_points(
    hull: Hull, s: Silhouette
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Where rays through a mask's edge come nearest to the hull (m), and the field there (m)."""
    v, u = np.nonzero(np.abs(s.distance_px) < RIM_PX)
    chosen = np.linspace(0, len(u) - 1, min(len(u), RAYS_PER_VIEW)).astype(int)
    v, u = v[chosen], u[chosen]
    slope = np.stack([g[v, u] for g in np.gradient(s.distance_px)[::-1]])
    to_edge = s.distance_px[v, u] * slope / np.maximum((slope**2).sum(0), 0.25)
    pixels = np.stack([u + 0.5 - to_edge[0], v + 0.5 - to_edge[1], np.ones(len(u))])
    rays = (s.view.T_camera_world[:3, :3].T @ np.linalg.solve(s.view.K, pixels)).T
    grid = hull.grid
    corners = np.array(np.meshgrid(*zip(grid.origin, grid.far_corner, strict=True)))
    depths = s.view.project(corners.reshape(3, -1).T)[:, 2]
    along = np.arange(max(depths.min(), grid.voxel), depths.max(), grid.voxel / 2)
    points = s.view.position + rays[:, None] * along[:, None]
    field = sample(hull.field, grid, points.reshape(-1, 3)).reshape(points.shape[:2])
    each, least = np.arange(len(points)), field.argmin(1)
    return points[each, least], field[each, least]


def matching_level(
    area: Callable[[float], int], goal: int, low: float, high: float
) -> float | None:
    """Where ``area``, which grows with the level, reaches a goal (Illinois method).

    Returns:
      the level, or None if the goal does not lie between the areas at ``low`` and ``high``.
    """
    short, long = (float(area(level) - goal) for level in (low, high))
    if not short < 0 < long:
        return None
    for _ in range(STEPS):
        level = low - short * (high - low) / (long - short)
        found = float(area(level) - goal)
        if abs(found) <= PRECISION * goal:
            break
        if found < 0:
            low, short, long = level, found, long / 2
        else:
            high, long, short = level, found, short / 2
    return level


def spread_views(views: Sequence[View]) -> list[View]:
    """At most ``VIEWS`` of them, evenly spread."""
    return list(views[:: -(-len(views) // VIEWS)])


def shadow_area(mesh: "trimesh.Trimesh", views: Sequence[View]) -> int:
    """Pixels that a mesh covers in all views together."""
    return sum(int(silhouette_of(mesh, view).sum()) for view in views)


def rough_surface(field: Float[np.ndarray, "nx ny nz"], grid: Grid) -> "trimesh.Trimesh":
    """The zero surface from every second node: an eighth of the work."""
    return zero_surface(field[::2, ::2, ::2], grid.coarser())
