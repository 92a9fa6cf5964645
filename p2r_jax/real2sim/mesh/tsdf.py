"""Rendered depth fused into a truncated signed distance inside the visual hull.

Fusion after Curless and Levoy (1996): every depth map tells nodes near its surface how far in
front of it they are, and their mean over views is the field. Two things are added because the
depth of a splat lies a little inside the object. Its bias is measured: silhouettes tell the size
of the object exactly, so the level of the fused depth is the right one whose silhouettes are
as large as the hull's. And depth only carves: outside the hull there is nothing, and hollows
shallower than the depth's own noise stay filled, for there the hull is the better surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.mesh.hull import Hull
from p2r_jax.real2sim.mesh.levels import (
    matching_level,
    rough_surface,
    shadow_area,
    spread_views,
)
from p2r_jax.real2sim.mesh.volume import Grid
from p2r_jax.real2sim.views import View

FACING_MIN = 0.2  # cosine; depth seen at a flatter angle says little


@dataclass(frozen=True)
class DepthMap:
    """Depth rendered from a splat.

    Attributes:
      view: the camera (of a crop, if it is one).
      depth: along the optical axis, m; not positive or not finite where there is none.
      alpha: how opaque the splat is, in [0, 1].
    """

    view: View
    depth: Float[np.ndarray, "h w"]
    alpha: Float[np.ndarray, "h w"]


@dataclass(frozen=True)
class TsdfConfig:
    """How depth is fused.

    Attributes:
      truncation_voxels: distances beyond this many voxels say only inside or outside.
      alpha: pixels less opaque have no depth.
      views: sum of weights (1 is a view from straight ahead) from which depth counts.
      hollow_voxels: depth that lies less than this inside the hull carves nothing; from twice
        as deep, all of it.
      unbias: measure the depth's bias by the silhouettes and take it off.
    """

    truncation_voxels: float = 5.0
    alpha: float = 0.6
    views: float = 1.5
    hollow_voxels: float = 0.5
    unbias: bool = True


@dataclass(frozen=True)
class Fusion:
    """Hull and depth in one field.

    Attributes:
      field: signed distance, m, negative inside.
      seen: sum of the views' weights at every node near their depth.
      bias_m: by how much the depth lay inside the silhouettes.
      carved_m3: volume that depth took off the hull.
    """

    field: Float[np.ndarray, "nx ny nz"]
    seen: Float[np.ndarray, "nx ny nz"]
    bias_m: float
    carved_m3: float


def fuse(hull: Hull, depths: Sequence[DepthMap], config: TsdfConfig = TsdfConfig()) -> Fusion:
    """The hull, carved by depth maps.

    Args:
      hull: upper bound of the object.
      depths: of any number of views.
      config: see there.
    """
    tsdf, seen = integrate(hull, depths, config)
    bias = depth_bias(hull, tsdf, seen, config) if config.unbias else 0.0
    hollow = np.where(seen >= config.views, tsdf - bias - hull.field, 0.0)
    field = (hull.field + _told(hollow, config.hollow_voxels * hull.grid.voxel)).astype(np.float32)
    carved = float(((field > 0) & (hull.field < 0)).sum() * hull.grid.voxel**3)
    return Fusion(field, seen, bias, carved)


def _told(hollow: Float[np.ndarray, "..."], least: float) -> Float[np.ndarray, "..."]:
    """Depths of hollows (m): nothing below ``least``, unchanged from twice that."""
    if least <= 0:
        return np.maximum(hollow, 0.0)
    share = np.clip(hollow / least - 1, 0, 1)
    return hollow * share**2 * (3 - 2 * share)


def integrate(
    hull: Hull, depths: Sequence[DepthMap], config: TsdfConfig
) -> tuple[Float[np.ndarray, "nx ny nz"], Float[np.ndarray, "nx ny nz"]]:
    """Weighted mean of the views' distances at the hull's nodes, and the sum of weights.

    Distances are positive in front of a surface, across it (along the ray times the cosine
    of the incidence), truncated. The further behind a surface a node is, the less that view
    says about it, for another one may see it free; beyond the truncation, and where its
    depth jumps, it says nothing.
    """
    grid, limit = hull.grid, config.truncation_voxels * hull.grid.voxel
    coarse = grid.coarser()
    rough, roughly_seen = _mean_distance(
        depths, coarse, hull.field[::2, ::2, ::2] < limit, limit, config
    )
    tsdf, seen = (x[grid.nearest_of_coarser()] for x in (rough, roughly_seen))
    near = (hull.field < limit) & (np.maximum(tsdf, hull.field) > -0.9 * limit)
    finely = _mean_distance(depths, grid, near, limit, config)
    return np.where(near, finely[0], tsdf), np.where(near, finely[1], seen)


def _mean_distance(depths, grid: Grid, where, limit: float, config: TsdfConfig):
    """Weighted mean over views of the distances at some nodes of a grid, and the weights."""
    nodes = grid.nodes(where).astype(np.float32)
    total, weights = np.zeros(len(nodes), np.float32), np.zeros(len(nodes), np.float32)
    for depth in depths:
        distance, weight = view_distance(depth, nodes, limit, config.alpha)
        total += weight * distance
        weights += weight
    tsdf, seen = np.full(grid.shape, -limit, np.float32), np.zeros(grid.shape, np.float32)
    seen[where] = weights
    tsdf[where] = np.where(weights > 0, total / np.maximum(weights, 1e-6), -limit)
    return tsdf, seen


def view_distance(
    depth: DepthMap, points: Float[np.ndarray, "n 3"], limit: float, alpha: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What one depth map says about points: distance in front of its surface (m), weight.

    Args:
      depth: the map.
      points: in the world, m.
      limit: truncation, m.
      alpha: pixels less opaque have no depth.

    Returns:
      distances, and weights: the cosine of the incidence, falling to 0 from the surface to
      ``limit`` behind it.
    """
    slope, facing = _facing(depth, alpha, limit)
    P = (depth.view.K @ depth.view.T_camera_world[:3]).astype(np.float32)
    u, v, z = P[:, :3] @ points.T.astype(np.float32) + P[:, 3:]
    ahead = np.maximum(z, 1e-6)
    u, v = u / ahead, v / ahead
    h, w = depth.depth.shape
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h) & (z > 0)
    column, row = (np.where(inside, x, 0).astype(np.int32) for x in (u, v))
    pixel = row * w + column
    cosine = np.where(inside, facing.take(pixel), 0)
    surface = np.where(facing > 0, depth.depth, 0).astype(np.float32).take(pixel)
    surface += slope[0].take(pixel) * (u - column - 0.5) + slope[1].take(pixel) * (v - row - 0.5)
    across = np.where(cosine > 0, (surface - z) * cosine, 0)
    known = np.clip(1 + across / limit, 0, 1)
    return np.minimum(across, limit), cosine * known


def _facing(depth: DepthMap, alpha: float, limit: float):
    """Slope of the depth (m per px, along u and v) and cosine of the incidence; 0: no depth."""
    known = (depth.alpha >= alpha) & (depth.depth > 0) & np.isfinite(depth.depth)
    z = np.where(known, depth.depth, np.nan)
    slope = np.stack([_slope(z, 1, limit), _slope(z, 0, limit)])
    focal = np.array([depth.view.K[0, 0], depth.view.K[1, 1]])
    tilt = slope * focal[:, None, None] / z
    facing = 1 / np.sqrt(1 + (tilt**2).sum(0))
    usable = facing > FACING_MIN  # not where it is nan
    return tuple(np.where(usable, x, 0).astype(np.float32) for x in (slope, facing))


def _slope(z: Float[np.ndarray, "h w"], axis: int, limit: float) -> Float[np.ndarray, "h w"]:
    """Central difference per pixel; nan beside a jump, missing depth or the image's edge."""
    step = np.diff(z, axis=axis)
    step = np.where(np.abs(step) < limit, step, np.nan)
    none = np.full_like(z.take([0], axis), np.nan)
    return (np.concatenate((none, step), axis) + np.concatenate((step, none), axis)) / 2


def depth_bias(hull: Hull, tsdf, seen, config: TsdfConfig) -> float:
    """How far inside the silhouettes the fused depth lies, m.

    The level of the fused depth whose silhouettes are as large as the hull's; 0 if there is
    none within the truncation.
    """
    limit = 0.8 * config.truncation_voxels * hull.grid.voxel
    known = seen >= config.views
    views = spread_views([s.view for s in hull.silhouettes])

    def area(level: float) -> int:
        field = np.where(known, tsdf - level, hull.field)
        return shadow_area(rough_surface(field, hull.grid), views)

    goal = shadow_area(rough_surface(hull.field, hull.grid), views)
    return matching_level(area, goal, -limit, limit) or 0.0
