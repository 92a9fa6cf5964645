"""What a triangle mesh looks like from calibrated views: depth, silhouettes, visible colours.

A z-buffer in numpy: triangles are cut into rows of pixels, all at once. A pixel is covered if
its centre is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

CHUNK = 200_000  # rows of pixels at once
FLAT = 1e-9  # px^2; triangles seen edge-on have no depth of their own
NEAREST_M = 1e-3  # triangles closer to the camera are not drawn


class Spans(NamedTuple):
    """Runs of pixels in a row that a triangle covers.

    Attributes:
      triangle: its number.
      row, start, stop: pixels ``start`` to ``stop`` - 1 of the row.
    """

    triangle: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]


def depth_of(mesh: "trimesh.Trimesh", view: View) -> Float[np.ndarray, "h w"]:
    """Depth along the optical axis of the nearest surface at every pixel centre, m; inf beside."""
    corners = _in_front(mesh, view)
    spans = _spans(corners[:, :, :2], view.width, view.height)
    # The inverse of the depth is affine in the pixel.
    system = np.concatenate([corners[:, :, :2], np.ones((*corners.shape[:2], 1))], -1)
    flat = np.abs(np.linalg.det(system)) < FLAT
    system[flat] = np.eye(3)
    affine = np.linalg.solve(system, 1 / corners[:, :, 2:])[:, :, 0]
    nearest = np.full((view.height, view.width), np.inf)
    for start in range(0, len(spans.row), CHUNK):
        part = Spans(*(x[start : start + CHUNK] for x in spans))
        part = Spans(*(x[~flat[part.triangle]] for x in part))
        length = part.stop - part.start
        which = np.repeat(np.arange(len(length)), length)
        column = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
        column += part.start[which]
        a, b, c = affine[part.triangle[which]].T
        inverse = a * (column + 0.5) + b * (part.row[which] + 0.5) + c
        np.minimum.at(nearest, (part.row[which], column), 1 / np.maximum(inverse, 1e-9))
    return nearest


def silhouette_of(mesh: "trimesh.Trimesh", view: View) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centre the mesh covers."""
    spans = _spans(_in_front(mesh, view)[:, :, :2], view.width, view.height)
    change = np.zeros((view.height, view.width + 1), int)
    np.add.at(change, (spans.row, spans.start), 1)
    np.add.at(change, (spans.row, spans.stop), -1)
    return np.cumsum(change, axis=1)[:, :-1] > 0


def _in_front(mesh, view: View) -> Float[np.ndarray, "f 3 3"]:
    """Corners (u, v, depth) of the triangles in front of the camera."""
    corners = view.project(np.asarray(mesh.vertices))[np.asarray(mesh.faces)]
    return corners[(corners[:, :, 2] > NEAREST_M).all(1)]


def _spans(corners: Float[np.ndarray, "f 3 2"], width: int, height: int) -> Spans:
    """Pixel centres inside triangles, row by row; a centre on a shared edge belongs to one."""
    v = corners[:, :, 1]
    top = np.clip(np.ceil(v.min(1) - 0.5), 0, height).astype(int)
    rows = np.clip(np.ceil(v.max(1) - 0.5), 0, height).astype(int) - top
    triangle = np.repeat(np.arange(len(v)), rows)
    row = np.arange(len(triangle)) - np.repeat(np.cumsum(rows) - rows, rows) + top[triangle]
    y = row + 0.5
    left, right = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        (u0, v0), (u1, v1) = corners[triangle, i].T, corners[triangle, j].T
        crosses = (v0 <= y) != (v1 <= y)
        x = u0 + (y - v0) * (u1 - u0) / np.where(crosses, v1 - v0, 1.0)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    start = np.clip(np.ceil(left - 0.5), 0, width)
    stop = np.clip(np.ceil(right - 0.5), 0, width)
    some = stop > start
    return Spans(triangle[some], row[some], start[some].astype(int), stop[some].astype(int))


def silhouette_iou(mesh: "trimesh.Trimesh", view: View, mask: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union of the mesh's silhouette and a mask; 0 where both are empty."""
    drawn = silhouette_of(mesh, view)
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
