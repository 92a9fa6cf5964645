"""Surfaces by pymeshlab: screened Poisson, closing, remeshing.

pymeshlab is GPL-3 and so an extra of its own; it is imported only when it is asked for. Its
Poisson runs on one thread: on a busy machine more threads wait for each other.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.errors import CaptureError

if TYPE_CHECKING:
    import trimesh

POINTS = 40_000  # on the surface that Poisson is to pass through
HOLE_EDGES = 300  # longest opening that is closed
BASE_DEPTHS = (6, 9)  # of the octree


def poisson_surface(mesh: "trimesh.Trimesh", voxel: float, seed: int = 0) -> "trimesh.Trimesh":
    """A screened Poisson surface through points on a mesh; its cells about a voxel wide.

    Args:
      mesh: its normals point outwards.
      voxel: m.
      seed: of the points.
    """
    import trimesh

    points, faces = trimesh.sample.sample_surface(mesh, POINTS, seed=seed)
    depth = int(np.clip(np.ceil(np.log2(1.1 * mesh.extents.max() / voxel)), *BASE_DEPTHS))
    return screened_poisson(np.asarray(points), np.asarray(mesh.face_normals[faces]), depth)


def screened_poisson(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], depth: int = 7
) -> "trimesh.Trimesh":
    """Screened Poisson reconstruction (Kazhdan and Hoppe 2013) of oriented points.

    Args:
      points: m.
      normals: outwards, of any length.
      depth: of the octree: cells are 1.1 times the points' extent over 2^depth.

    Raises:
      CaptureError: if no surface comes out.
    """
    lab = _pymeshlab()
    meshes = lab.MeshSet(verbose=False)
    meshes.add_mesh(lab.Mesh(vertex_matrix=points, v_normals_matrix=normals))
    meshes.generate_surface_reconstruction_screened_poisson(depth=depth, preclean=True, threads=1)
    return _mended(meshes)


def close_holes(mesh: "trimesh.Trimesh", edges: int = HOLE_EDGES) -> "trimesh.Trimesh":
    """The mesh with openings of up to ``edges`` edges closed."""
    lab = _pymeshlab()
    meshes = lab.MeshSet(verbose=False)
    meshes.add_mesh(lab.Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    return _mended(meshes, edges)


def mirror(mesh: "trimesh.Trimesh", axis: str) -> "trimesh.Trimesh":
    """The mesh flipped along ``x``, ``y`` or ``z``, its faces still outwards."""
    lab = _pymeshlab()
    meshes = lab.MeshSet(verbose=False)
    meshes.add_mesh(lab.Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    meshes.apply_matrix_flip_or_swap_axis(**{f"flip{axis}": True})
    return _current(meshes)


def remeshed(mesh: "trimesh.Trimesh", edge_m: float) -> "trimesh.Trimesh":
    """The mesh with edges of about one length."""
    lab = _pymeshlab()
    meshes = lab.MeshSet(verbose=False)
    meshes.add_mesh(lab.Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    meshes.meshing_isotropic_explicit_remeshing(targetlen=lab.PureValue(edge_m))
    return _current(meshes)


def _mended(meshes, edges: int = HOLE_EDGES) -> "trimesh.Trimesh":
    if not meshes.current_mesh().face_number():
        raise CaptureError("pymeshlab found no surface; use --mesh.backend default")
    meshes.meshing_remove_duplicate_vertices()
    meshes.meshing_repair_non_manifold_edges()
    meshes.meshing_close_holes(maxholesize=edges)
    return _current(meshes)


def _current(meshes) -> "trimesh.Trimesh":
    import trimesh

    current = meshes.current_mesh()
    mesh = trimesh.Trimesh(current.vertex_matrix(), current.face_matrix(), process=True)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def _pymeshlab():
    try:
        import pymeshlab
    except ImportError as error:
        raise ImportError(
            "this backend needs pymeshlab (GPL-3): pip install 'p2r_jax[pymeshlab]'"
        ) from error
    return pymeshlab
