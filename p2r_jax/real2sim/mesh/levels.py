"""The level of a field at which its surface casts silhouettes of the right size.

Silhouettes tell the size of an object without bias. Fields do not: the maximum over many views
carves with every view's error (masks' stairs, poses), so a hull is a little too small; depth
rendered from a splat lies a little inside. Both are offsets that silhouettes reveal.
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
RAYS_PER_VIEW = 100
PRECISION = 5e-4  # of the area
SHRINKAGE_VOXELS = 1.5  # most that a hull is grown


def unshrunk(hull: Hull, table: bool) -> tuple[Hull, float]:
    """The hull whose silhouettes end where its masks do, and by how much it grew (m).

    A ray through the edge of a mask grazes the object: the least field along it is the level
    at which that ray is right. The median over rays of all views is taken; masks that
    contradict each other in places do not move it.

    Args:
      hull: carved.
      table: keep it above z = 0.
    """
    least = np.concatenate([least_along_rims(hull, s) for s in hull.silhouettes])
    level = float(np.clip(np.median(least), 0.0, SHRINKAGE_VOXELS * hull.grid.voxel))
    field = hull.field - level
    if table:
        field = np.maximum(field, -hull.grid.axes[2])
    return replace(hull, field=field.astype(np.float32)), level


def least_along_rims(hull: Hull, s: Silhouette) -> Float[np.ndarray, " n"]:
    """Least field of the hull along rays through points of a mask's edge, m."""
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
    return sample(hull.field, grid, points.reshape(-1, 3)).reshape(points.shape[:2]).min(1)


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
