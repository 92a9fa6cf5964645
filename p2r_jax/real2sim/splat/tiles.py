"""Which Gaussians touch which tile of a picture: static shapes, one sort.

As in 3DGS, every Gaussian is copied into the tiles its ellipse reaches, and the copies are
sorted by tile and depth. The number of copies is a static budget; what does not fit is
counted, not lost silently.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.projection import NEAR_M, Projected

ALPHA_MIN = 1 / 255  # fainter than a grey level: does not count, and bounds every ellipse
PAIRS_PER_GAUSSIAN, PAIRS_AT_LEAST = 12, 2**15
SLACK = 1e-3  # on the squared Mahalanobis distance, so that rounding drops no pair


@dataclass(frozen=True)
class RasterSettings:
    """Static settings of the rasteriser.

    Attributes:
      tile: side of a tile, px.
      chunk: Gaussians blended at once.
      group: tiles worked on at once; None for 16 on a CPU (its cache) and all elsewhere.
      antialiased: whether a Gaussian that the pixel's blur enlarges gets fainter (Mip-Splatting,
        Yu et al. 2024); without it thin things look thick, and surfaces are fitted too deep.
      pairs: budget of (Gaussian, tile) pairs; None for ``PAIRS_PER_GAUSSIAN`` each, at
        least ``PAIRS_AT_LEAST``.
    """

    tile: int = 8
    chunk: int = 32
    group: int | None = None
    antialiased: bool = True
    pairs: int | None = None

    def budget(self, gaussians: int, tiles: int) -> int:
        """Pairs that are kept; never more than there can be."""
        default = max(PAIRS_PER_GAUSSIAN * gaussians, PAIRS_AT_LEAST)
        return min(self.pairs or default, gaussians * tiles)


DEFAULT = RasterSettings()


def drawn_opacities(
    splat: Splat, projected: Projected, settings: RasterSettings
) -> Float[Array, " n"]:
    """Opacity of every Gaussian in a picture."""
    return splat.opacities * (projected.shares if settings.antialiased else 1.0)


class TileLists(NamedTuple):
    """Pairs, sorted by tile and, within a tile, from front to back.

    Attributes:
      gaussians: index of every pair's Gaussian.
      starts, counts: of every tile's pairs, tiles in rows.
      dropped: pairs beyond the budget, the farthest ones; counted by bounding boxes.
    """

    gaussians: Int[Array, " pairs"]
    starts: Int[Array, " tiles"]
    counts: Int[Array, " tiles"]
    dropped: Int[Array, ""]


def tile_grid(width: int, height: int, tile: int) -> tuple[int, int]:
    """Tiles in x and y that cover a picture."""
    return -(-width // tile), -(-height // tile)


def tile_lists(
    projected: Projected,
    opacities: Float[Array, " n"],
    width: int,
    height: int,
    settings: RasterSettings,
) -> TileLists:
    """List every tile's Gaussians; not differentiated (lists are piecewise constant)."""
    projected, opacities = jax.lax.stop_gradient((projected, opacities))
    grid = tile_grid(width, height, settings.tile)
    tiles = grid[0] * grid[1]
    order = jnp.argsort(projected.depths)
    projected = Projected(*(x[order] for x in projected))
    # alpha >= ALPHA_MIN inside the ellipse of this squared Mahalanobis distance
    reach = 2 * jnp.log(jnp.maximum(opacities[order] / ALPHA_MIN, 1.0)) + SLACK
    low, high = _boxes(projected, reach, grid, settings.tile)
    budget = settings.budget(len(order), tiles)
    rank, corner, wanted = _unrolled(low, high, budget)
    touched = _touches(projected, reach, rank, corner, settings.tile)
    touched &= jnp.arange(budget) < wanted
    index = jnp.where(touched, corner[:, 1] * grid[0] + corner[:, 0], tiles)
    index, rank = jax.lax.sort((index, rank), num_keys=2)
    bounds = jnp.searchsorted(index, jnp.arange(tiles + 1))
    dropped = jnp.maximum(wanted - budget, 0)
    return TileLists(order[rank], bounds[:-1], jnp.diff(bounds), dropped)


def _unrolled(
    low: Int[Array, "n 2"], high: Int[Array, "n 2"], budget: int
) -> tuple[Int[Array, " pairs"], Int[Array, "pairs 2"], Int[Array, ""]]:
    """Every tile of every box: the box's number, the tile, and how many there should be."""
    sizes = jnp.prod(high - low, axis=-1)
    ends = jnp.cumsum(sizes)
    rank = jnp.searchsorted(ends, jnp.arange(budget), side="right").clip(0, len(sizes) - 1)
    nth = jnp.arange(budget) - (ends - sizes)[rank]
    columns = jnp.maximum((high - low)[rank, 0], 1)
    return rank, low[rank] + jnp.stack([nth % columns, nth // columns], -1), ends[-1]


def _boxes(
    projected: Projected, reach: Float[Array, " n"], grid: tuple[int, int], tile: int
) -> tuple[Int[Array, "n 2"], Int[Array, "n 2"]]:
    """First tile and tile after the last one, in x and y, of every ellipse's bounding box."""
    half = jnp.sqrt(reach)[:, None] * projected.spreads
    size = jnp.array(grid)
    low = jnp.clip(jnp.floor((projected.means - half) / tile), 0, size)
    high = jnp.clip(jnp.floor((projected.means + half) / tile) + 1, 0, size)
    visible = (projected.depths > NEAR_M) & (reach > SLACK)
    high = jnp.where(visible[:, None], jnp.maximum(high, low), low)
    return low.astype(jnp.int32), high.astype(jnp.int32)


def _touches(
    projected: Projected,
    reach: Float[Array, " n"],
    rank: Int[Array, " pairs"],
    corner: Int[Array, "pairs 2"],
    tile: int,
) -> Bool[Array, " pairs"]:
    """Whether an ellipse reaches the rectangle of a tile's pixel centres.

    The least squared distance over the rectangle lies in it, or on one of the two sides that
    face the mean: there it is a parabola.
    """
    a, b, c = jnp.moveaxis(projected.conics[rank], -1, 0)
    low = corner * tile + 0.5 - projected.means[rank]
    high = low + (tile - 1)
    x, y = jnp.moveaxis(jnp.clip(0.0, low, high), -1, 0)
    along_y = jnp.clip(-b * x / c, low[:, 1], high[:, 1])
    along_x = jnp.clip(-b * y / a, low[:, 0], high[:, 0])

    def distance(x, y):
        return a * x * x + 2 * b * x * y + c * y * y

    return jnp.minimum(distance(x, along_y), distance(along_x, y)) <= reach[rank]
