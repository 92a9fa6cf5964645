"""How far a reconstructed mesh is from the true one. Both in the same frame, metres."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

SAMPLES = 20_000  # of each surface
SOWN = 3  # times as many points lead to the nearest triangles


@dataclass(frozen=True)
class MeshErrors:
    """A mesh against the truth.

    Attributes:
      chamfer_m: mean of the two mean distances, from points on either surface to the other
        surface. (Some authors add the two means: twice this number.)
      chamfer_mesh_to_truth_m, chamfer_truth_to_mesh_m: the two means.
      worst_m: 99th percentile of the distances, the larger of both directions.
      volume: relative error.
      com_plane_m: distance of the uniform-density centres of mass seen from above (x, y).
      com_height_m: difference of their z.
      footprint_iou: intersection over union of the two shadows on the table.
      watertight: whether every edge of the mesh has exactly two faces.
    """

    chamfer_m: float
    chamfer_mesh_to_truth_m: float
    chamfer_truth_to_mesh_m: float
    worst_m: float
    volume: float
    com_plane_m: float
    com_height_m: float
    footprint_iou: float
    watertight: bool


def mesh_errors(
    mesh: "trimesh.Trimesh", truth: "trimesh.Trimesh", seed: int = 0, samples: int = SAMPLES
) -> MeshErrors:
    """Compare a closed mesh with the true one.

    Distances are from ``samples`` points spread evenly over one surface to the nearest
    point of the other's triangles (not to its samples), so that equal meshes score 0.

    Args:
      mesh: reconstructed, m.
      truth: closed, in the same frame, m.
      seed: of the samples.
      samples: points on each surface.
    """
    there = surface_distances(mesh, truth, samples, seed)
    back = surface_distances(truth, mesh, samples, seed + 1)
    offset = np.array(mesh.center_mass) - truth.center_mass
    return MeshErrors(
        chamfer_m=float((there.mean() + back.mean()) / 2),
        chamfer_mesh_to_truth_m=float(there.mean()),
        chamfer_truth_to_mesh_m=float(back.mean()),
        worst_m=float(max(np.quantile(there, 0.99), np.quantile(back, 0.99))),
        volume=float(mesh.volume / truth.volume - 1),
        com_plane_m=float(np.hypot(*offset[:2])),
        com_height_m=float(offset[2]),
        footprint_iou=footprint_iou(mesh, truth),
        watertight=bool(mesh.is_watertight),
    )


def surface_distances(
    start: "trimesh.Trimesh", target: "trimesh.Trimesh", count: int, seed: int
) -> np.ndarray:
    """Distances from ``count`` points on ``start`` to the surface of ``target``, (count,), m."""
    import trimesh

    points, _ = trimesh.sample.sample_surface(start, count, seed=seed)
    return distances_to(target, np.asarray(points), SOWN * count)


def distances_to(
    target: "trimesh.Trimesh", points: np.ndarray, sown: int = SOWN * SAMPLES, near: int = 8
) -> np.ndarray:
    """Distances (n,) of points (n, 3) to a mesh, m.

    The triangles asked are the owners of the ``near`` nearest of ``sown`` points spread over
    the surface, so the error is far below their spacing.
    """
    import trimesh
    from scipy.spatial import cKDTree

    spread, owner = trimesh.sample.sample_surface(target, sown, seed=0)
    found = cKDTree(spread).query(points, near)[1]
    best = np.full(len(points), np.inf)
    for column in np.asarray(owner)[found].T:
        nearest = trimesh.triangles.closest_point(target.triangles[column], points)
        best = np.minimum(best, np.linalg.norm(nearest - points, axis=1))
    return best


def footprint_iou(mesh: "trimesh.Trimesh", truth: "trimesh.Trimesh") -> float:
    """Intersection over union of the shadows that two closed meshes cast straight down."""
    from p2r_jax.sim.mesh_outline import shadow

    a, b = (shadow(np.asarray(m.triangles[:, :, :2]), both_sides=True) for m in (mesh, truth))
    return float(a.intersection(b).area / a.union(b).area)
