"""Visual hull: the space that all silhouettes have in common.

Every view gives each point of space a signed distance to its silhouette: the distance to the
mask's edge in pixels, times depth over focal length, in metres. The hull's field is the
largest of them over the views (or the k-th largest, if some masks may be wrong) and the
table's. It changes no faster than the point moves, so a coarse grid tells where the fine one
is worth evaluating.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.mesh.render import visible_colours
from p2r_jax.real2sim.mesh.volume import Grid, box_grid, sample, zero_surface
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

LIPSCHITZ = 1.1  # of the field, above 1 by perspective within the image
COARSE_NODES = 40  # along the longest side of the first box
CHUNK_VALUES = 4_000_000  # points x views at once
GROW_TRIES = 3
NO_OPINION = -1e3  # m; of a view on points behind its camera


@dataclass(frozen=True)
class HullConfig:
    """How silhouettes are carved.

    Attributes:
      voxel_m: grid spacing; None takes the width of a pixel at the object, but at least
        1/``resolution`` of the object's longest side.
      resolution: most nodes along the longest side.
      dissent: how many views may disagree at a point before it is outside; more than
        0 forgives that many bad masks and blunts the hull a little.
      edge_blur_px: Gaussian that smooths the stairs of a mask's edge, px.
      table: the object lies on z = 0, nothing is below.
    """

    voxel_m: float | None = None
    resolution: int = 224
    dissent: int = 0
    edge_blur_px: float = 0.7
    table: bool = True


@dataclass(frozen=True)
class Silhouette:
    """One view's mask as a field.

    Attributes:
      view: the camera.
      distance_px: signed distance to the mask's edge at the pixel centres, negative inside.
      focal: mean focal length, px.
    """

    view: View
    distance_px: Float[np.ndarray, "h w"]
    focal: float

    def signed_distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """Metric distance of points (m) to the silhouette's cone, negative inside, m.

        Outside the image the value at the image's edge holds.
        """
        P = (self.view.K @ self.view.T_camera_world[:3]).astype(np.float32)
        u, v, depth = P[:, :3] @ points.T.astype(np.float32) + P[:, 3:]
        ahead = np.maximum(depth, 1e-6)
        metric = bilinear(self.distance_px, u / ahead, v / ahead) * depth / self.focal
        return np.where(depth > 0, metric, NO_OPINION)


@dataclass(frozen=True)
class Hull:
    """The field of a visual hull.

    Attributes:
      grid: its nodes.
      field: signed distance, m, negative inside; exact to the silhouettes within three
        voxels of the surface, beyond that only the sign and the order of size.
      silhouettes: what it was carved with.
    """

    grid: Grid
    field: Float[np.ndarray, "nx ny nz"]
    silhouettes: tuple[Silhouette, ...]

    def signed_distance(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """Interpolated field at points, m."""
        return sample(self.field, self.grid, points)

    def mesh(self) -> "trimesh.Trimesh":
        """The hull's surface: closed, all its components, m."""
        return zero_surface(self.field, self.grid)


def bilinear(
    image: Float[np.ndarray, "h w"], u: Float[np.ndarray, " n"], v: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Image values at pixel coordinates (middle of the first pixel: 0.5), clamped at the edges."""
    h, w = image.shape
    x, y = np.clip(u - 0.5, 0, w - 1.001), np.clip(v - 0.5, 0, h - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x, y = (x - column).astype(image.dtype), (y - row).astype(image.dtype)
    first, flat = row * w + column, image.ravel()
    top, bottom = flat.take(first), flat.take(first + w)
    top += x * (flat.take(first + 1) - top)
    bottom += x * (flat.take(first + w + 1) - bottom)
    return top + y * (bottom - top)


def silhouette(view: View, edge_blur_px: float = 0.7) -> Silhouette:
    """Signed distance to the edge of a view's mask.

    Raises:
      CaptureError: if the mask is empty, a few pixels, or the whole image.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    mask = view.load_mask()
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    distance = np.where(mask, 0.5 - inside, outside - 0.5).astype(np.float32)
    distance = gaussian_filter(distance, edge_blur_px, mode="nearest")
    if mask.all() or not (distance < 0).any():
        seen = "the whole image" if mask.all() else f"{mask.sum()} pixels"
        raise CaptureError(
            f"the mask covers {seen}; mend the masks or leave the view out", [view.name]
        )
    return Silhouette(view, distance, float((view.K[0, 0] + view.K[1, 1]) / 2))


def carve(views: Sequence[View], config: HullConfig = HullConfig()) -> Hull:
    """The visual hull of views with masks.

    Args:
      views: at least two, with masks; world frame in metres, z up.
      config: see there.

    Raises:
      CaptureError: for fewer than two views, a useless mask, or silhouettes without a
        common volume (names the views that disagree with the rest).
    """
    if len(views) < 2 + config.dissent:
        raise CaptureError(
            f"{len(views)} views cannot be carved; give at least {2 + config.dissent} with masks"
        )
    silhouettes = tuple(silhouette(view, config.edge_blur_px) for view in views)
    low, high = _bounds(silhouettes, config)
    voxel = config.voxel_m or _pixel_width(silhouettes, (low + high) / 2)
    voxel = max(voxel, (high - low).max() / config.resolution)
    grid = box_grid(low - 3 * voxel, high + 3 * voxel, voxel)
    field = _fine_field(grid, silhouettes, config)
    if not (field < 0).any():
        coarse = box_grid(low, high, (high - low).max() / COARSE_NODES)
        raise _no_common_volume(coarse, silhouettes)
    return Hull(grid, field, silhouettes)


def hull_field(
    points: Float[np.ndarray, "n 3"], silhouettes: Sequence[Silhouette], config: HullConfig
) -> Float[np.ndarray, " n"]:
    """Signed distance of points to the hull: the (1 + dissent)-th largest over views, m."""
    field = np.empty(len(points), np.float32)
    step = max(1, CHUNK_VALUES // len(silhouettes))
    rank = len(silhouettes) - 1 - config.dissent
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        values = np.stack([s.signed_distance(points[part]) for s in silhouettes])
        field[part] = values.max(0) if not config.dissent else np.partition(values, rank, 0)[rank]
    return np.maximum(field, -points[:, 2]) if config.table else field


def surface_points(
    hull: Hull, views: Sequence[View], count: int, seed: int = 0
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points spread evenly over the hull's surface, for example to start a splat from.

    Args:
      hull: what to sample.
      views: with images and masks, for the colours.
      count: number of points.
      seed: of the draw.

    Returns:
      points (m), outward unit normals, RGB in [0, 1].
    """
    import trimesh

    mesh = hull.mesh()
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)
    points, normals = np.array(points), np.array(mesh.face_normals[faces])
    blocker = zero_surface(hull.field[::2, ::2, ::2], hull.grid.coarser())
    colours, _ = visible_colours(blocker, points, normals, views, 4 * hull.grid.voxel)
    return points, normals, colours


def _fine_field(grid: Grid, silhouettes, config: HullConfig) -> Float[np.ndarray, "nx ny nz"]:
    """The field on a grid: on its coarser one first, then where the surface may be near."""
    if max(grid.shape) <= COARSE_NODES:
        return hull_field(grid.nodes(), silhouettes, config).reshape(grid.shape)
    coarse = _fine_field(grid.coarser(), silhouettes, config)
    field = coarse[grid.nearest_of_coarser()]
    # A node beside the surface is within a voxel of it, and sqrt(3) voxels of its coarse node.
    near = np.abs(field) <= LIPSCHITZ * (1 + np.sqrt(3)) * grid.voxel
    field[near] = hull_field(grid.nodes(near), silhouettes, config)
    return field


def _bounds(silhouettes, config: HullConfig) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a box around the hull, m."""
    centre, radius = _ball(silhouettes)
    for _ in range(GROW_TRIES):
        grid = _box_around(centre, radius, config)
        field = hull_field(grid.nodes(), silhouettes, config).reshape(grid.shape)
        near = field <= LIPSCHITZ * np.sqrt(3) / 2 * grid.voxel
        if not near.any():
            break
        if not _touches_border(field < 0, config.table):
            hit = np.argwhere(near)
            low, high = hit.min(0) - 1, hit.max(0) + 1
            low, high = (grid.origin + grid.voxel * corner for corner in (low, high))
            return (np.maximum(low, [-np.inf, -np.inf, 0.0]) if config.table else low), high
        radius *= 1.7
    raise _no_common_volume(grid, silhouettes)


def _box_around(centre, radius: float, config: HullConfig) -> Grid:
    low, high = centre - radius, centre + radius
    if config.table:
        low[2], high[2] = 0.0, max(high[2], radius)
    return box_grid(low, high, (high - low).max() / COARSE_NODES)


def _touches_border(inside: Bool[np.ndarray, "nx ny nz"], table: bool) -> bool:
    core = inside[1:-1, 1:-1, 0 if table else 1 : -1]
    return int(core.sum()) < int(inside.sum())


def _ball(silhouettes) -> tuple[Float[np.ndarray, " 3"], float]:
    """Where the object is: the point nearest to the rays through the masks' middles, its size.

    Rays that miss count less and less (weights 1 / distance, a few rounds), so that a few
    bad masks do not matter.
    """
    starts = np.array([s.view.position for s in silhouettes])
    rays, sizes = np.array([_middle_ray(s) for s in silhouettes]), []
    weights = np.ones(len(rays))
    for _ in range(10):
        across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
        A = (weights[:, None, None] * across).sum(0)
        b = (weights[:, None, None] * across @ starts[:, :, None]).sum(0)[:, 0]
        centre = np.linalg.lstsq(A, b, rcond=None)[0]
        miss = np.linalg.norm((across @ (centre - starts)[:, :, None])[:, :, 0], axis=1)
        weights = 1 / np.maximum(miss, 0.1 * np.median(miss) + 1e-9)
    for s in silhouettes:
        depth = s.view.project(centre[None])[0, 2]
        v, u = np.nonzero(s.distance_px < 0)
        reach = np.hypot(u - u.mean(), v - v.mean()).max(initial=1.0)
        sizes.append(reach * max(depth, 0.0) / s.focal)
    return centre, 1.3 * float(np.quantile(sizes, 0.8))


def _middle_ray(s: Silhouette) -> Float[np.ndarray, " 3"]:
    """Unit direction in the world of the ray through the mask's centroid."""
    v, u = np.nonzero(s.distance_px < 0)
    pixel = np.array([u.mean() + 0.5, v.mean() + 0.5, 1.0])
    ray = s.view.T_camera_world[:3, :3].T @ np.linalg.solve(s.view.K, pixel)
    return ray / np.linalg.norm(ray)


def _pixel_width(silhouettes, centre) -> float:
    """Width of a pixel at the object, median over views, m."""
    return float(np.median([s.view.project(centre[None])[0, 2] / s.focal for s in silhouettes]))


def _no_common_volume(grid: Grid, silhouettes) -> CaptureError:
    """The error that names the views which exclude what most others see."""
    nodes = grid.nodes()
    outside = np.stack([s.signed_distance(nodes) > grid.voxel for s in silhouettes])
    best = outside[:, outside.sum(0).argmin()]
    odd = [s.view.name for s, out in zip(silhouettes, best, strict=True) if out]
    many = (
        "the poses or the world frame (metres, z up, table at z = 0) are probably wrong"
        if len(odd) > len(silhouettes) // 3 or not odd
        else f"look at their masks and poses, leave them out, or set dissent to {len(odd)}"
    )
    return CaptureError(
        f"the {len(silhouettes)} silhouettes have no volume in common; even where most agree, "
        f"{len(odd)} views see no object: {many}",
        odd,
    )
