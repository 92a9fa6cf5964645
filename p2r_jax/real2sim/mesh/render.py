"""What a triangle mesh looks like from calibrated views: depth, silhouettes, visible colours.

A z-buffer in numpy: the triangles of a mesh this step makes are a few pixels large, so they
are drawn in groups of like size, all pixels of their bounding boxes at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

CHUNK = 2_000_000  # pixel tests at once
NEAREST_M = 1e-3  # triangles closer to the camera are not drawn


def depth_of(mesh: "trimesh.Trimesh", view: View) -> Float[np.ndarray, "h w"]:
    """Depth along the optical axis of the nearest surface at every pixel centre, m; inf beside."""
    seen = view.project(np.asarray(mesh.vertices))[np.asarray(mesh.faces)]
    seen = seen[(seen[:, :, 2] > NEAREST_M).all(1)]
    size = np.array([view.width, view.height])
    low = np.clip(np.ceil(seen[:, :, :2].min(1) - 0.5), 0, size).astype(int)
    high = np.clip(np.floor(seen[:, :, :2].max(1) - 0.5) + 1, 0, size).astype(int)
    extent = (high - low).max(1)
    nearest = np.full(view.width * view.height, np.inf)
    for side in 2 ** np.arange(int(np.ceil(np.log2(max(view.width, view.height)))) + 1):
        group = np.flatnonzero((extent > side // 2) & (extent <= side) & ((high - low).min(1) > 0))
        step = max(1, CHUNK // int(side) ** 2)
        for start in range(0, len(group), step):
            part = group[start : start + step]
            _draw(seen[part], low[part], int(side), view.width, size, nearest)
    return nearest.reshape(view.height, view.width)


def _draw(triangles, low, side: int, width: int, size, nearest) -> None:
    """Lower ``nearest`` (flat) to the triangles' (u, v, z) depth in square boxes from ``low``."""
    v, u = np.divmod(np.arange(side * side), side)
    pixel = low[:, None, :] + np.stack([u, v], -1)
    centre = pixel + 0.5
    a, b, c = np.moveaxis(triangles[:, None, :, :2], 2, 0)
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = _cross(c - b, centre - b) / area, _cross(a - c, centre - c) / area
        weights = np.stack([first, second, 1 - first - second], -1)
        inverse = (weights / triangles[:, None, :, 2]).sum(-1)
    hit = (weights.min(-1) >= 0) & (pixel < size).all(-1) & (inverse > 0)
    index = pixel[..., 1] * width + pixel[..., 0]
    np.minimum.at(nearest, index[hit], 1 / inverse[hit])


def _cross(p, q):
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def silhouette_iou(mesh: "trimesh.Trimesh", view: View, mask: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union of the mesh's silhouette and a mask; 0 where both are empty."""
    drawn = np.isfinite(depth_of(mesh, view))
    union = (drawn | mask).sum()
    return float((drawn & mask).sum() / union) if union else 0.0


def visible_colours(
    mesh: "trimesh.Trimesh",
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    views: Sequence[View],
    slack_m: float,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Colours of surface points from the pictures that see them.

    Weighted mean over the views in which a point faces the camera, no other surface lies in
    front of it (by ``slack_m``) and the mask covers it; the weight is the squared cosine
    between normal and line of sight. Points that no view sees take the colour of the
    nearest point that one does.

    Args:
      mesh: what may hide a point.
      points, normals: on its surface; m, unit length.
      views: with image and mask.
      slack_m: depth tolerance, about two voxels.

    Returns:
      RGB in [0, 1] and the sum of weights (0: seen by no view).
    """
    from scipy.spatial import cKDTree

    colours, total = np.zeros((len(points), 3)), np.zeros(len(points))
    for view in views:
        weight, pixels = _weights(depth_of(mesh, view), points, normals, view, slack_m)
        weight = weight * view.load_mask()[pixels]
        colours += weight[:, None] * view.load_image()[pixels] / 255.0
        total += weight
    seen = total > 0
    colours[seen] /= total[seen, None]
    if seen.any() and not seen.all():
        colours[~seen] = colours[seen][cKDTree(points[seen]).query(points[~seen])[1]]
    return colours, total


def _weights(depth, points, normals, view: View, slack_m: float):
    """Squared cosine of the incidence where a view sees a point, else 0; and its pixel (v, u)."""
    uvz = view.project(points)
    inside = (uvz[:, 2] > NEAREST_M) & (uvz[:, :2] >= 0).all(1)
    inside &= (uvz[:, 0] < view.width) & (uvz[:, 1] < view.height)
    u, v = np.where(inside, uvz[:, :2].T, 0).astype(int)
    towards = view.position - points
    cosine = (normals * towards).sum(1) / np.linalg.norm(towards, axis=1)
    seen = inside & (cosine > 0) & (uvz[:, 2] <= depth[v, u] + slack_m)
    return np.where(seen, cosine**2, 0.0), (v, u)
