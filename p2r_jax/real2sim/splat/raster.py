"""A tiled, differentiable rasteriser of Gaussians in plain JAX: CPU, GPU and TPU.

Alpha blending from front to back (3DGS eq. 3): C = sum_i c_i a_i prod_{j<i} (1 - a_j). Tiles
are walked in groups of similar length, and their lists in chunks, so that empty tiles and
short lists cost nothing although every shape is static. The gradient is written by hand: it
walks the lists once more and recomputes alpha, so nothing of the size pixels x Gaussians is
ever stored. ``dense`` is the slow twin.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.projection import Camera, Projected, project
from p2r_jax.real2sim.splat.tiles import (
    ALPHA_MIN,
    DEFAULT,
    RasterSettings,
    TileLists,
    drawn_opacities,
    tile_grid,
    tile_lists,
)

ALPHA_MAX = 0.99
CPU_GROUP = 16
GEOMETRY = 6  # columns of a table row before its features: mean 2, conic 3, opacity 1
COVERED = 1e-6  # alpha below which a pixel has no depth


@struct.dataclass
class Rendered:
    """A picture of a splat, premultiplied: ``rgb + (1 - alpha) * background`` completes it.

    Attributes:
      rgb: light of the Gaussians alone.
      depth: expected depth (z) of what is seen, m; 0 where nothing is.
      alpha: opacity.
      dropped: (Gaussian, tile) pairs that did not fit the budget.
      extra: what else was asked for, blended like the colours.
    """

    rgb: Float[Array, "h w 3"]
    depth: Float[Array, "h w"]
    alpha: Float[Array, "h w"]
    dropped: Int[Array, ""]
    extra: Float[Array, "h w c"] | None = None


def render(
    splat: Splat,
    camera: Camera,
    T_world_object: Float[Array, "4 4"] | None = None,
    settings: RasterSettings = DEFAULT,
    extra: Float[Array, "n c"] | None = None,
) -> Rendered:
    """Render a splat; reverse-mode differentiable in every array that comes in.

    Args:
      splat: in the world, or in an object's frame.
      camera: in the world.
      T_world_object: pose of the object, e.g. from an MJX state's ``xpos`` and ``xmat``.
      settings: static.
      extra: other features of the Gaussians, to be blended too.
    """
    if T_world_object is not None:
        camera = camera.seeing(T_world_object)
    projected = project(splat, camera)
    colours = splat.colours(camera.position)
    features = [colours, projected.depths[:, None]] + ([] if extra is None else [extra])
    opacities = drawn_opacities(splat, projected, settings)
    blended, alpha, dropped = rasterise(
        projected, opacities, jnp.concatenate(features, -1), camera.width, camera.height, settings
    )
    depth = jnp.where(alpha > COVERED, blended[..., 3] / jnp.maximum(alpha, COVERED), 0.0)
    blended_extra = None if extra is None else blended[..., 4:]
    return Rendered(blended[..., :3], depth, alpha, dropped, blended_extra)


def rasterise(
    projected: Projected,
    opacities: Float[Array, " n"],
    features: Float[Array, "n c"],
    width: int,
    height: int,
    settings: RasterSettings = DEFAULT,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"], Int[Array, ""]]:
    """Blend any features: their weighted sum, alpha, and the number of dropped pairs."""
    lists = tile_lists(projected, opacities, width, height, settings)
    table = jnp.concatenate(
        [projected.means, projected.conics, opacities[:, None], features], axis=-1
    )
    grid = Grid(width, height, settings.tile, settings.chunk, settings.group)
    blended, clear = _blend(grid, table, lists)
    return grid.picture(blended), 1.0 - grid.picture(clear[..., None])[..., 0], lists.dropped


class Grid(NamedTuple):
    """The static side of a blend: picture, tiles, and how they are walked."""

    width: int
    height: int
    tile: int
    chunk: int
    group: int | None

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles in x and y."""
        return tile_grid(self.width, self.height, self.tile)

    @property
    def group_size(self) -> int:
        """Tiles per group."""
        tiles = self.shape[0] * self.shape[1]
        default = CPU_GROUP if jax.default_backend() == "cpu" else tiles
        return min(self.group or default, tiles)

    def pixels(self, tiles: Int[Array, " g"]) -> Float[Array, "g p 2"]:
        """Pixel centres of tiles."""
        corner = jnp.stack([tiles % self.shape[0], tiles // self.shape[0]], -1) * self.tile
        inner = np.stack(np.meshgrid(*2 * [np.arange(self.tile) + 0.5]), -1).reshape(-1, 2)
        return corner[:, None, :] + jnp.asarray(inner, jnp.float32)

    def picture(self, tiles: Float[Array, "t p c"]) -> Float[Array, "h w c"]:
        """Tiles side by side, cut to the picture."""
        nx, ny = self.shape
        x = tiles.reshape(ny, nx, self.tile, self.tile, -1).swapaxes(1, 2)
        return x.reshape(ny * self.tile, nx * self.tile, -1)[: self.height, : self.width]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blend(
    grid: Grid, table: Float[Array, "n f"], lists: TileLists
) -> tuple[Float[Array, "t p c"], Float[Array, "t p"]]:
    """Blend every tile's list: weighted features, and what stays clear (transmittance)."""
    tiles, pixels, channels = lists.counts.shape[0], grid.tile**2, table.shape[1] - GEOMETRY

    def begin(_):
        return jnp.zeros((grid.group_size, pixels, channels)), jnp.zeros((grid.group_size, pixels))

    def step(out, carry, chunk):
        blended, log_clear = carry
        alpha = alphas(chunk).alpha
        log_pass = jnp.log1p(-alpha)
        weights = alpha * jnp.exp(log_clear[..., None] + prefix_sums(log_pass))
        blended += weights @ chunk.rows[..., GEOMETRY:]
        return out, (blended, log_clear + log_pass.sum(-1))

    def finish(out, group, carry):
        blended, log_clear = carry
        clear = jnp.exp(log_clear)
        return out[0].at[group].set(blended, mode="drop"), out[1].at[group].set(clear, mode="drop")

    out = jnp.zeros((tiles, pixels, channels)), jnp.ones((tiles, pixels))
    return walk(grid, table, lists, begin, step, finish, out)


def _blend_forward(grid, table, lists):
    out = _blend(grid, table, lists)
    return out, (table, lists, out)


def _blend_backward(grid: Grid, saved, cotangents):
    """Gradient of the table.

    With w_i = a_i T_i, T_i = prod_{j<i} (1 - a_j) and g the cotangent of the features,
    dL/da_i = T_i (g . f_i) - [sum_{j>i} w_j (g . f_j) + gT T_end] / (1 - a_i): what is in
    front takes light from all that is behind it. The sum behind is the total (which the
    forward pass knows) less the sum up to i.
    """
    table, lists, (blended, clear) = saved
    g_blended, g_clear = cotangents
    total = jnp.sum(blended * g_blended, -1) + clear * g_clear

    def begin(group):
        shape = (grid.group_size, grid.tile**2)
        fixed = g_blended.at[group].get(mode="clip"), total.at[group].get(mode="clip")
        return (*fixed, jnp.zeros(shape), jnp.zeros(shape))

    def step(gradient, carry, chunk):
        g, rest, log_clear, passed = carry
        found = alphas(chunk)
        log_pass = jnp.log1p(-found.alpha)
        reach = jnp.exp(log_clear[..., None] + prefix_sums(log_pass))
        value = g @ jnp.swapaxes(chunk.rows[..., GEOMETRY:], -1, -2)
        weights = found.alpha * reach
        light = weights * value
        behind = (rest - passed)[..., None] - prefix_sums(light) - light
        d_alpha = reach * value - behind / (1 - found.alpha)
        d_rows = _row_gradients(found, chunk, jnp.where(found.live, d_alpha, 0.0), weights, g)
        gradient = gradient.at[chunk.gaussians].add(d_rows, mode="drop")
        return gradient, (g, rest, log_clear + log_pass.sum(-1), passed + light.sum(-1))

    def finish(gradient, group, carry):
        return gradient

    return walk(grid, table, lists, begin, step, finish, jnp.zeros_like(table)), None


def _row_gradients(found, chunk, d_alpha, weights, g):
    """Gradients of a chunk's rows, summed over the pixels of every tile."""
    d_distance = -d_alpha * found.alpha  # alpha = opacity exp(-distance)
    a, b, c = (chunk.rows[..., i] for i in (2, 3, 4))
    dx, dy = found.dx, found.dy
    sx, sy = (d_distance * dx).sum(1), (d_distance * dy).sum(1)
    d_rows = (
        -(a * sx + b * sy),
        -(b * sx + c * sy),
        0.5 * (d_distance * dx * dx).sum(1),
        (d_distance * dx * dy).sum(1),
        0.5 * (d_distance * dy * dy).sum(1),
        (d_alpha * found.falloff).sum(1),
    )
    return jnp.concatenate([jnp.stack(d_rows, -1), jnp.swapaxes(weights, -1, -2) @ g], axis=-1)


_blend.defvjp(_blend_forward, _blend_backward)


class Chunk(NamedTuple):
    """The next few Gaussians of every tile of a group.

    Attributes:
      pixels: centres, px.
      rows: of the table; opacity 0 beyond a list's end.
      gaussians: their indices; the number of Gaussians beyond a list's end.
    """

    pixels: Float[Array, "g p 2"]
    rows: Float[Array, "g k f"]
    gaussians: Int[Array, "g k"]


class Alphas(NamedTuple):
    """Every Gaussian of a chunk at every pixel of its tile, each (g, p, k).

    Attributes:
      alpha: opacity there, 0 if below ``ALPHA_MIN``, at most ``ALPHA_MAX``.
      falloff: alpha before both, without the Gaussian's own opacity.
      live: where alpha depends on the parameters.
      dx, dy: pixel minus mean.
    """

    alpha: Array
    falloff: Array
    live: Array
    dx: Array
    dy: Array


def alphas(chunk: Chunk) -> Alphas:
    """Opacity of a chunk's Gaussians at the pixels."""
    x, y, a, b, c, opacity = (chunk.rows[..., None, :, i] for i in range(GEOMETRY))
    dx, dy = chunk.pixels[..., 0:1] - x, chunk.pixels[..., 1:2] - y
    falloff = jnp.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
    raw = opacity * falloff
    seen = raw >= ALPHA_MIN
    alpha = jnp.where(seen, jnp.minimum(raw, ALPHA_MAX), 0.0)
    return Alphas(alpha, falloff, seen & (raw < ALPHA_MAX), dx, dy)


def prefix_sums(x: Float[Array, "g p k"]) -> Float[Array, "g p k"]:
    """Sum of what comes earlier in a chunk, as a product with a triangular matrix."""
    return x @ jnp.triu(jnp.ones(2 * x.shape[-1:], x.dtype), 1)


def walk(grid: Grid, table, lists: TileLists, begin, step, finish, out):
    """Fold over every tile's list from front to back.

    Tiles are sorted by the length of their lists, so that the tiles of a group end
    together; groups of empty tiles are never begun.

    Args:
      grid: static settings.
      table: what a Gaussian's row is taken from.
      lists: the Gaussians of every tile.
      begin: (tile indices of a group) -> carry.
      step: (out, carry, Chunk) -> out, carry.
      finish: (out, tile indices, carry) -> out; an index past the last tile is padding.
      out: result for no Gaussians at all.
    """
    tiles, size = lists.counts.shape[0], grid.group_size
    padding = (0, -tiles % size)
    order = jnp.pad(jnp.argsort(-lists.counts), padding, constant_values=tiles)
    counts = jnp.pad(lists.counts, (0, 1))

    def one_group(i, out):
        group = jax.lax.dynamic_slice(order, (i * size,), (size,))
        first, length = lists.starts.at[group].get(mode="clip"), counts[group]
        pixels = grid.pixels(group)

        def one_chunk(state):
            out, carry, done = state
            nth = done + jnp.arange(grid.chunk)
            listed = nth < length[:, None]
            gaussians = lists.gaussians.at[first[:, None] + nth].get(mode="clip")
            rows = table[gaussians]
            rows = rows.at[..., GEOMETRY - 1].multiply(listed)
            chunk = Chunk(pixels, rows, jnp.where(listed, gaussians, table.shape[0]))
            return (*step(out, carry, chunk), done + grid.chunk)

        state = out, begin(group), 0
        out, carry, _ = jax.lax.while_loop(lambda s: s[2] < length.max(), one_chunk, state)
        return finish(out, group, carry)

    groups = -(-jnp.sum(lists.counts > 0) // size)
    return jax.lax.fori_loop(0, groups, one_group, out)
