"""Closed meshes as solids that can be cut and united (manifold3d)."""

import numpy as np
import trimesh


def as_manifold(mesh: trimesh.Trimesh):
    """The mesh as a ``manifold3d.Manifold``.

    Raises:
      ValueError: if it is not closed.
    """
    import manifold3d

    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
    solid = manifold3d.Manifold(manifold3d.Mesh(vertices, faces))
    if solid.status() != manifold3d.Error.NoError or solid.is_empty():
        raise ValueError(
            f"the mesh encloses no solid ({solid.status().name}); close it with the mesh step"
        )
    return solid


def as_trimesh(solid) -> trimesh.Trimesh:
    """A ``manifold3d.Manifold`` as a mesh."""
    mesh = solid.to_mesh()
    return trimesh.Trimesh(mesh.vert_properties[:, :3], mesh.tri_verts, process=False)
