"""Collision shapes of an object: convex parts found by CoACD, and boxes around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Float

from p2r_jax.real2sim.asset.manifold import as_manifold
from p2r_jax.real2sim.errors import CaptureError


@dataclass(frozen=True)
class ConvexConfig:
    """How the collision shapes are found.

    Attributes:
      threshold: concavity that may stay (CoACD), relative to the object.
      parts: at most.
      corners: of a hull, at most; every corner costs simulation time.
      iterations: of CoACD's tree search per cut.
      seed: of that search.
    """

    threshold: float = 0.1
    parts: int = 8
    corners: int = 32
    iterations: int = 60
    seed: int = 0


@dataclass(frozen=True)
class OrientedBox:
    """Attributes: T_object_box (frame of the box) and half, its half sizes, m."""

    T_object_box: Float[np.ndarray, "4 4"]
    half: Float[np.ndarray, " 3"]

    @property
    def volume(self) -> float:
        """In m^3."""
        return float(8 * np.prod(self.half))


def convex_parts(mesh: trimesh.Trimesh, config: ConvexConfig) -> list[trimesh.Trimesh]:
    """Convex hulls that together stand for a closed mesh.

    The cuts are made along the mesh's axes: give it in its object frame.

    Raises:
      ImportError: without CoACD; names the extra.
      CaptureError: if it finds none.
    """
    try:
        import coacd
    except ImportError as error:
        raise ImportError("convex parts need coacd: pip install 'p2r_jax[reconstruct]'") from error
    coacd.set_log_level("error")
    found = coacd.run_coacd(
        coacd.Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)),
        threshold=config.threshold,
        max_convex_hull=config.parts,
        preprocess_mode="off",
        mcts_iterations=config.iterations,
        decimate=True,
        max_ch_vertex=config.corners,
        seed=config.seed,
    )
    parts = [trimesh.Trimesh(v, f).convex_hull for v, f in found]
    parts = [part for part in parts if part.volume > 1e-4 * abs(mesh.volume)]
    if not parts:
        raise CaptureError("no convex part was found in the mesh; is it closed?")
    return parts


def boxes_around(parts: Sequence[trimesh.Trimesh]) -> list[OrientedBox]:
    """The smallest box around each part that stands upright on the table.

    Reconstructed objects lie flat: a box that is tilted by noise would rock.
    """
    return [_upright_box(part) for part in parts]


def _upright_box(part: trimesh.Trimesh) -> OrientedBox:
    import shapely

    low, high = part.bounds[:, 2]
    outline = shapely.MultiPoint(part.vertices[:, :2]).minimum_rotated_rectangle
    corners = np.array(outline.exterior.coords)[:3]
    along, across = np.diff(corners, axis=0)
    x = along / np.linalg.norm(along)
    T = np.eye(4)
    T[:2, 0], T[:2, 1] = x, (-x[1], x[0])
    T[:3, 3] = [*(corners[0] + corners[2]) / 2, (low + high) / 2]
    half = np.array([np.linalg.norm(along), np.linalg.norm(across), high - low]) / 2
    return OrientedBox(T, half)


def overlap_error(parts: Sequence[trimesh.Trimesh], mesh: trimesh.Trimesh) -> float:
    """How far the union of the parts differs in volume from the mesh, relative."""
    import manifold3d

    union = manifold3d.Manifold.batch_boolean(
        [as_manifold(part) for part in parts], manifold3d.OpType.Add
    )
    return float(union.volume() / mesh.volume - 1)
