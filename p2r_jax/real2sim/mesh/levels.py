"""The level of a field at which its surface casts silhouettes of the right size.

Silhouettes tell the size of an object without bias. Fields do not: the maximum over many views
carves with every view's error (masks' stairs, poses), so a hull is a little too small; depth
rendered from a splat lies a little inside. Both are offsets that areas reveal.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.mesh.hull import Hull
from p2r_jax.real2sim.mesh.render import depth_of
from p2r_jax.real2sim.mesh.volume import Grid, zero_surface
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

VIEWS, STEPS = 12, 6  # looked at
PRECISION = 5e-4  # of the area
SHRINKAGE_VOXELS = 1.5  # most that a hull is grown


def unshrunk(hull: Hull, table: bool) -> tuple[Hull, float]:
    """The hull with silhouettes as large as its masks, and by how much it grew (m).

    Args:
      hull: carved.
      table: keep it above z = 0.
    """
    views = spread_views([s.view for s in hull.silhouettes])
    goal = sum(int(view.load_mask().sum()) for view in views)
    floor = -hull.grid.axes[2] if table else np.full(hull.grid.shape[2], -np.inf)

    def grown(level: float) -> Float[np.ndarray, "nx ny nz"]:
        return np.maximum(hull.field - level, floor).astype(np.float32)

    def area(level: float) -> int:
        return shadow_area(zero_surface(grown(level), hull.grid), views)

    level = matching_level(area, goal, 0.0, SHRINKAGE_VOXELS * hull.grid.voxel) or 0.0
    return replace(hull, field=grown(level)), level


def matching_level(
    area: Callable[[float], int], goal: int, low: float, high: float
) -> float | None:
    """Where ``area``, which grows with the level, reaches a goal (Illinois method).

    Returns:
      the level, or None if the goal does not lie between the areas at ``low`` and ``high``.
    """
    short, long = (area(level) - goal for level in (low, high))
    if not short < 0 < long:
        return None
    for _ in range(STEPS):
        level = low - short * (high - low) / (long - short)
        found = area(level) - goal
        if abs(found) <= PRECISION * goal:
            break
        if found < 0:
            low, short, long = level, found, long / 2
        else:
            high, long, short = level, found, short / 2
    return float(level)


def spread_views(views: Sequence[View]) -> list[View]:
    """At most ``VIEWS`` of them, evenly spread."""
    return list(views[:: -(-len(views) // VIEWS)])


def shadow_area(mesh: "trimesh.Trimesh", views: Sequence[View]) -> int:
    """Pixels that a mesh covers in all views together."""
    return sum(int(np.isfinite(depth_of(mesh, view)).sum()) for view in views)


def rough_surface(field: Float[np.ndarray, "nx ny nz"], grid: Grid) -> "trimesh.Trimesh":
    """The zero surface from every second node: an eighth of the work."""
    return zero_surface(field[::2, ::2, ::2], grid.coarser())
