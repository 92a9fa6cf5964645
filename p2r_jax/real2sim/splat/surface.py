"""Where a splat's surface is: median depth, for fusion into a distance field.

The expected depth averages over all that shines through and lies too deep; the depth at which
half of the light is gone does not. A Gaussian is taken as the plane through its centre across
its shortest axis (2D Gaussian Splatting, Huang et al. 2024), not as a point.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.real2sim.splat.gaussians import Splat, rotation_matrices, shortest_axes
from p2r_jax.real2sim.splat.projection import Camera, Projected, project
from p2r_jax.real2sim.splat.raster import GEOMETRY, Grid, alphas, prefix_sums, walk
from p2r_jax.real2sim.splat.tiles import DEFAULT, RasterSettings, drawn_opacities, tile_lists

HALF = 0.5
REACH = 3.0  # standard deviations that a plane may stretch along the line of sight
INVERSE_DEPTH_FLOOR = 1e-6
SOLID = 0.9  # alpha from which a pixel has a normal
TINY = 1e-20


def median_depth(
    splat: Splat, camera: Camera, settings: RasterSettings = DEFAULT
) -> Float[Array, "h w"]:
    """Depth (z, m) at which half of the light is gone; 0 where more than half passes."""
    projected = project(splat, camera)
    opacities = drawn_opacities(splat, projected, settings)
    lists = tile_lists(projected, opacities, camera.width, camera.height, settings)
    table = jnp.concatenate(
        [projected.means, projected.conics, opacities[:, None], _planes(splat, camera, projected)],
        axis=-1,
    )
    grid = Grid(camera.width, camera.height, settings.tile, settings.chunk, settings.group)

    def begin(_):
        shape = (grid.group_size, grid.tile**2)
        return jnp.zeros(shape), jnp.zeros(shape)

    def step(out, carry, chunk):
        depth, log_clear = carry
        log_pass = jnp.log1p(-alphas(chunk).alpha)
        log_before = log_clear[..., None] + prefix_sums(log_pass)
        log_half = jnp.log(HALF)
        crossed = (log_before > log_half) & (log_before + log_pass <= log_half)
        depth += jnp.sum(jnp.where(crossed, _plane_depths(chunk), 0.0), -1)
        return out, (depth, log_clear + log_pass.sum(-1))

    def finish(out, group, carry):
        return out.at[group].set(carry[0], mode="drop")

    empty = jnp.zeros((lists.counts.shape[0], grid.tile**2))
    depth = walk(grid, table, lists, begin, step, finish, empty)
    return grid.picture(depth[..., None])[..., 0]


def _planes(splat: Splat, camera: Camera, projected: Projected) -> Float[Array, "n 5"]:
    """Inverse depth of every Gaussian's plane, affine in the pixel (3), and its bounds (2).

    On the plane n.(X - m) = 0 lies X = z K^-1 (u, v, 1), so 1/z = n.K^-1 (u, v, 1) / n.m.
    """
    R, t = camera.T_camera_world[:3, :3], camera.T_camera_world[:3, 3]
    normals = shortest_axes(splat) @ R.T
    offset = jnp.sum(normals * (splat.means @ R.T + t), -1)
    offset = jnp.where(jnp.abs(offset) < INVERSE_DEPTH_FLOOR, INVERSE_DEPTH_FLOOR, offset)
    slopes = normals @ jnp.linalg.inv(camera.K) / offset[:, None]
    thickness = REACH * jnp.linalg.norm(
        (R @ (rotation_matrices(splat.quats) * splat.scales[:, None, :]))[:, 2], axis=-1
    )
    z = projected.depths
    return jnp.concatenate([slopes, (z - thickness)[:, None], (z + thickness)[:, None]], -1)


def _plane_depths(chunk) -> Float[Array, "g p k"]:
    """Depth of every Gaussian's plane at every pixel, within the Gaussian's extent."""
    su, sv, s1, nearest, farthest = (chunk.rows[..., None, :, GEOMETRY + i] for i in range(5))
    inverse = su * chunk.pixels[..., 0:1] + sv * chunk.pixels[..., 1:2] + s1
    depth = 1 / jnp.maximum(inverse, INVERSE_DEPTH_FLOOR)
    return jnp.clip(depth, nearest, farthest)


def facing_normals(splat: Splat, camera: Camera) -> Float[Array, "n 3"]:
    """Normals in the camera's frame, turned towards the camera."""
    R, t = camera.T_camera_world[:3, :3], camera.T_camera_world[:3, 3]
    normals = shortest_axes(splat) @ R.T
    away = jnp.sum(normals * (splat.means @ R.T + t), -1, keepdims=True) > 0
    return jnp.where(away, -normals, normals)


def bend(
    normals: Float[Array, "h w 3"],
    depth: Float[Array, "h w"],
    alpha: Float[Array, "h w"],
    camera: Camera,
) -> Float[Array, ""]:
    """How far blended normals are off those of the depth (2DGS eq. 14), mean over the picture.

    Only where the surface covers a pixel and its neighbours.
    """
    y, x = jnp.mgrid[: camera.height, : camera.width] + 0.5
    rays = jnp.stack([x, y, jnp.ones_like(x)], -1) @ jnp.linalg.inv(camera.K).T
    points = rays * depth[..., None]
    along_x = points[1:-1, 2:] - points[1:-1, :-2]
    along_y = points[2:, 1:-1] - points[:-2, 1:-1]
    across = jnp.cross(along_y, along_x)
    across /= jnp.sqrt(jnp.sum(across**2, -1, keepdims=True) + TINY)
    solid = alpha > SOLID
    whole = solid[1:-1, 2:] & solid[1:-1, :-2] & solid[2:, 1:-1] & solid[:-2, 1:-1]
    agreement = jnp.sum(across * normals[1:-1, 1:-1], -1) / jnp.maximum(alpha[1:-1, 1:-1], SOLID)
    return jnp.mean(jnp.where(whole, 1 - agreement, 0.0))
