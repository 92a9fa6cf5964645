"""Scalar fields on a regular grid: sampling, and the surface where they are zero.

Signed distances are negative inside the object.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    import trimesh

SNAP = 1e-3  # voxels; a surface this close to a node would make triangles without area


@dataclass(frozen=True)
class Grid:
    """Nodes of a regular grid.

    Attributes:
      origin: node (0, 0, 0) in the world, m.
      voxel: distance between neighbouring nodes, m.
      shape: number of nodes along x, y, z.
    """

    origin: Float[np.ndarray, " 3"]
    voxel: float
    shape: tuple[int, int, int]

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of the nodes along x, y and z, m."""
        return tuple(
            o + self.voxel * np.arange(n) for o, n in zip(self.origin, self.shape, strict=True)
        )

    @property
    def far_corner(self) -> Float[np.ndarray, " 3"]:
        """The last node, m."""
        return self.origin + self.voxel * (np.array(self.shape) - 1)

    def nodes(self, where: np.ndarray | None = None) -> Float[np.ndarray, "n 3"]:
        """Coordinates of all nodes (C order), or of those that a bool grid marks, m."""
        if where is None:
            where = np.ones(self.shape, bool)
        return self.origin + self.voxel * np.argwhere(where)

    def coarser(self) -> "Grid":
        """Every second node; the last one is kept where a count is odd."""
        x, y, z = ((n + 1) // 2 for n in self.shape)
        return Grid(self.origin, 2 * self.voxel, (x, y, z))

    def nearest_of_coarser(self) -> tuple[Int[np.ndarray, "..."], ...]:
        """Index grid: for every node the nearest node of ``coarser()``."""
        half = self.coarser().shape
        return np.ix_(
            *[
                np.minimum((np.arange(n) + 1) // 2, m - 1)
                for n, m in zip(self.shape, half, strict=True)
            ]
        )


def box_grid(low: Float[np.ndarray, " 3"], high: Float[np.ndarray, " 3"], voxel: float) -> Grid:
    """The grid that covers a box (m), a node on its low corner; odd node counts."""
    cells = np.maximum(np.ceil((high - low) / voxel - 1e-9).astype(int), 1)
    x, y, z = (int(n + n % 2 + 1) for n in cells)
    return Grid(np.asarray(low, float), voxel, (x, y, z))


def sample(
    field: Float[np.ndarray, "nx ny nz"], grid: Grid, points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, " n"]:
    """The field at points (m), trilinear; points outside take the value at the border."""
    from scipy.ndimage import map_coordinates

    cells = (points - grid.origin).T / grid.voxel
    return map_coordinates(field, cells, order=1, mode="nearest")


def zero_surface(field: Float[np.ndarray, "nx ny nz"], grid: Grid) -> "trimesh.Trimesh":
    """Marching cubes at zero: a closed surface around the negative nodes, normals outwards.

    Raises:
      ValueError: if no node is negative.
    """
    import trimesh
    from skimage.measure import marching_cubes

    if not (field < 0).any():
        raise ValueError("the field is nowhere negative: there is no surface")
    cells = field / grid.voxel
    cells = np.where(np.abs(cells) < SNAP, np.copysign(SNAP, cells), cells)
    vertices, faces, _, _ = marching_cubes(np.pad(cells, 1, constant_values=1.0), 0.0)
    vertices = grid.origin + grid.voxel * (vertices - 1)
    mesh = trimesh.Trimesh(vertices, faces, process=True)
    if mesh.volume < 0:
        mesh.invert()
    return mesh
