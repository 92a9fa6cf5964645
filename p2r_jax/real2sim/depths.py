"""Depth of a fitted splat in every view, for the mesh step."""

from collections.abc import Sequence

import jax
from tqdm import tqdm

from p2r_jax.real2sim.mesh.tsdf import DepthMap
from p2r_jax.real2sim.splat.crops import box_around
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.projection import Camera, camera_of
from p2r_jax.real2sim.splat.raster import render
from p2r_jax.real2sim.splat.surface import median_depth
from p2r_jax.real2sim.splat.tiles import RasterSettings
from p2r_jax.real2sim.views import View


def depth_maps(
    splat: Splat, views: Sequence[View], size: int, settings: RasterSettings
) -> list[DepthMap]:
    """Median depth and opacity in a square crop of every view.

    Args:
      splat: in the views' world, m.
      views: with masks.
      size: of the crops, px.
      settings: of the rasteriser.
    """

    @jax.jit
    def look(splat: Splat, camera: Camera):
        return median_depth(splat, camera, settings), render(splat, camera, None, settings).alpha

    maps = []
    for view in tqdm(views, desc="depth", unit="view"):
        crop = box_around(view.load_mask()).camera(view, size)
        depth, alpha = jax.device_get(look(splat, camera_of(crop)))
        maps.append(DepthMap(crop, depth, alpha))
    return maps
