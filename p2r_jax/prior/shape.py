"""The geometry that a prior may look at: extent, volume and uniform-density centroids.

Everything is in the object frame: the centre of the bounding box, +x along the axis
whose centre of mass is unknown. What an object is made of is not in here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError

from p2r_jax.sim.asset import Asset

if TYPE_CHECKING:
    import trimesh

AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class ObjectShape:
    """What geometry alone says about an object.

    Attributes:
      name: of the object.
      lower, upper: corners of the bounding box, m.
      volume: m^3.
      centroids: candidate centres of mass of a uniform object, by name, m: of the
        ``solid`` itself and of its convex ``hull``, which does not need a closed
        surface and does not see how hollow a part is.
    """

    name: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    volume: float
    centroids: dict[str, tuple[float, float, float]]


def shape_of_asset(asset: Asset) -> ObjectShape:
    """The upright prism over an asset's footprint."""
    lower, upper = asset.footprint_bounds
    corners = np.concatenate([part.corners for part in asset.parts])
    half = asset.height_m / 2
    return ObjectShape(
        name=asset.name,
        lower=(float(lower[0]), float(lower[1]), -half),
        upper=(float(upper[0]), float(upper[1]), half),
        volume=asset.area * asset.height_m,
        centroids={
            "solid": (float(asset.uniform_com[0]), float(asset.uniform_com[1]), 0.0),
            "hull": (*_floats(hull_centroid(corners)), 0.0),
        },
    )


def load_mesh(
    path: Path, unit_m: float, axis: str = "longest"
) -> tuple["trimesh.Trimesh", Float[np.ndarray, "4 4"]]:
    """A mesh in metres and in the object frame, and T_object_file (metres on both sides).

    Args:
      path: PLY, OBJ or STL.
      unit_m: how long the file's unit is, m.
      axis: ``x``, ``y``, ``z`` or ``longest``: which of the file's axes becomes +x; the
        longer of the two others becomes +y or -y, so that the frame stays right-handed.

    Raises:
      FileNotFoundError, ValueError: if there is no mesh.
    """
    import trimesh

    mesh = trimesh.load(path, force="mesh")
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0:
        raise ValueError(f"{path} holds no triangles")
    mesh.apply_scale(unit_m)
    T_object_file = object_frame(mesh.bounds, axis)
    mesh.apply_transform(T_object_file)
    return mesh, T_object_file


def object_frame(bounds: Float[np.ndarray, "2 3"], axis: str = "longest") -> np.ndarray:
    """T_object_file: the rigid transform into the object frame, 4 x 4.

    Args:
      bounds: lower and upper corner in the file's frame, m.
      axis: see ``load_mesh``.
    """
    extent = bounds[1] - bounds[0]
    first = int(np.argmax(extent)) if axis == "longest" else AXES[axis]
    second, third = sorted((i for i in range(3) if i != first), key=lambda i: -extent[i])
    rotation = np.eye(3)[[first, second, third]]
    rotation[1] *= np.linalg.det(rotation)
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = -rotation @ bounds.mean(0)
    return transform


def shape_of_mesh(name: str, mesh: "trimesh.Trimesh") -> ObjectShape:
    """The shape of a mesh in metres and in the object frame (``load_mesh``).

    ``solid`` integrates over the enclosed volume, which is only approximate where the
    surface is not closed.
    """
    hull = mesh.convex_hull
    return ObjectShape(
        name=name,
        lower=_floats(mesh.bounds[0]),
        upper=_floats(mesh.bounds[1]),
        volume=float(abs(mesh.volume)),
        centroids={"solid": _floats(mesh.center_mass), "hull": _floats(hull.center_mass)},
    )


def mask_centroids(
    mask: Bool[np.ndarray, "h w"],
    bottom: Float[np.ndarray, " 2"],
    top: Float[np.ndarray, " 2"],
) -> dict[str, float]:
    """Where a silhouette's centroids lie between two points of the picture.

    Args:
      mask: pixels of the object.
      bottom, top: pixel (column, row) of the axis' ends.

    Returns:
      Position on the scale -1 (bottom) to +1 (top) of the centroid of the ``solid``
      silhouette and of its convex ``hull``.
    """
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows], -1).astype(float)
    middle, half = (bottom + top) / 2, (top - bottom) / 2
    centroids = {"solid": pixels.mean(0), "hull": hull_centroid(pixels)}
    return {k: float((c - middle) @ half / (half @ half)) for k, c in centroids.items()}


def hull_centroid(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " 2"]:
    """Centroid of the area of the convex hull of points in the plane.

    Raises:
      ValueError: if the points lie on one line.
    """
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError as error:
        raise ValueError("an outline without area has no centroid") from error
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]
    return (cross[:, None] * (corners + following)).sum(0) / (3 * cross.sum())


def _floats(values: Sequence[float] | np.ndarray) -> Any:
    return tuple(float(v) for v in values)
