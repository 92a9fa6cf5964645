"""From a raw surface to one closed, light, manifold mesh with vertex colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.mesh.render import visible_colours
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

TAUBIN = (0.5, 0.52)  # shrink by the first, grow by the second
CAP_SHARE = 0.05  # of the surface; larger openings mean that a side was not seen
COARSER = 1.5  # factor on tolerance or edge length while there are too many faces
SHADE = 160  # grey of a mesh without pictures


@dataclass(frozen=True)
class CleanConfig:
    """How a surface is tidied up.

    Attributes:
      smoothing: rounds of Taubin's filter.
      tolerance_m: how far simplification may move the surface; None: an eighth of a voxel.
      faces: most of the mesh; the tolerance grows until they suffice.
      colour_edge_m: edges are split until they are this short, so that vertex colours show
        the pictures, as far as ``faces`` allows; None: no splitting.
    """

    smoothing: int = 6
    tolerance_m: float | None = None
    faces: int = 20_000
    colour_edge_m: float | None = 0.002


def solid_nodes(inside: Bool[np.ndarray, "nx ny nz"]) -> Bool[np.ndarray, "nx ny nz"]:
    """The largest connected set of nodes, cavities filled."""
    from scipy.ndimage import binary_fill_holes, label

    numbers, count = label(inside)
    if count > 1:
        inside = numbers == 1 + np.bincount(numbers.ravel())[1:].argmax()
    return binary_fill_holes(inside)


def one_solid(field: Float[np.ndarray, "nx ny nz"]) -> Float[np.ndarray, "nx ny nz"]:
    """A signed distance (m) whose inside is one piece without cavities."""
    inside = field < 0
    kept = solid_nodes(inside)
    return np.where(inside != kept, np.where(kept, -np.abs(field), np.abs(field)), field)


def clean_mesh(mesh: "trimesh.Trimesh", config: CleanConfig, voxel: float) -> "trimesh.Trimesh":
    """Largest component, closed, smoothed, simplified.

    Args:
      mesh: raw surface, m.
      config: see there.
      voxel: of the grid it comes from, m.

    Raises:
      CaptureError: if the surface stays open; says how large the opening is and where.
    """
    import trimesh

    mesh = largest_component(mesh)
    mesh = closed(mesh)
    if config.smoothing:
        trimesh.smoothing.filter_taubin(mesh, *TAUBIN, iterations=2 * config.smoothing)
    tolerance = config.tolerance_m if config.tolerance_m is not None else voxel / 8
    return simplified(mesh, tolerance, config.faces, config.colour_edge_m)


def largest_component(mesh: "trimesh.Trimesh") -> "trimesh.Trimesh":
    """The connected piece with the largest surface."""
    pieces = mesh.split(only_watertight=False)
    return max(pieces, key=lambda piece: piece.area) if len(pieces) > 1 else mesh.copy()


def closed(mesh: "trimesh.Trimesh") -> "trimesh.Trimesh":
    """The mesh with small openings capped, wound outwards.

    Raises:
      CaptureError: for openings larger than ``CAP_SHARE`` of the surface, or of a kind that
        cannot be capped.
    """
    import trimesh

    if not mesh.is_watertight:
        loops = open_loops(mesh)
        area = sum(_spanned(mesh.vertices[loop]) for loop in loops)
        if loops and area <= CAP_SHARE * mesh.area:
            mesh = _capped(mesh, loops)
            trimesh.repair.fix_normals(mesh)
        if not mesh.is_watertight:
            raise CaptureError(_open_message(mesh, loops, area))
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def open_loops(mesh: "trimesh.Trimesh") -> list[np.ndarray]:
    """Vertex numbers along every opening; edges that have more than two faces belong to none."""
    import networkx

    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    rim = networkx.Graph(unique[count == 1].tolist())
    loops = [list(ring) for ring in networkx.connected_components(rim)]
    whole = all(degree == 2 for _, degree in rim.degree)
    return [np.array(_in_order(rim, ring)) for ring in loops] if whole else []


def _in_order(rim, ring: list[int]) -> list[int]:
    import networkx

    return [a for a, _ in networkx.find_cycle(rim, ring[0])]


def _spanned(corners: Float[np.ndarray, "n 3"]) -> float:
    """Area that a loop spans, m^2."""
    around = corners - corners.mean(0)
    return float(np.linalg.norm(np.cross(around, np.roll(around, -1, axis=0)).sum(0)) / 2)


def _capped(mesh: "trimesh.Trimesh", loops: list[np.ndarray]) -> "trimesh.Trimesh":
    """A fan from the middle of every opening."""
    import trimesh

    vertices, faces = [np.asarray(mesh.vertices)], [np.asarray(mesh.faces)]
    for i, loop in enumerate(loops):
        vertices.append(vertices[0][loop].mean(0, keepdims=True))
        middle = np.full(len(loop), len(mesh.vertices) + i)
        faces.append(np.stack([loop, np.roll(loop, -1), middle], 1))
    return trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), process=False)


def _open_message(mesh, loops, area: float) -> str:
    if not loops:
        return (
            "the surface is open or meets itself at edges with more than two faces; use the "
            "fused surface (--mesh.surface fused), or a larger voxel"
        )
    x, y, z = 1e3 * mesh.vertices[max(loops, key=len)].mean(0)
    return (
        f"the surface is open: {len(loops)} openings, {100 * area / mesh.area:.0f} % of it, the "
        f"largest around ({x:.0f}, {y:.0f}, {z:.0f}) mm; film that side too (views from low down "
        "and all around), or use the hull (--mesh.surface fused), which is always closed"
    )


def simplified(
    mesh: "trimesh.Trimesh", tolerance: float, faces: int, edge: float | None
) -> "trimesh.Trimesh":
    """Fewer triangles within a tolerance (m), then edges no longer than ``edge`` (m); manifold.

    Both grow until the mesh has no more than ``faces``.

    Raises:
      CaptureError: if the mesh is no manifold.
    """
    from p2r_jax.real2sim.asset.manifold import as_manifold, as_trimesh

    try:
        solid = as_manifold(mesh)
    except ValueError as error:
        raise CaptureError(f"the surface is no closed manifold: {error}") from error
    light = solid.simplify(tolerance)
    while light.num_tri() > faces:
        tolerance *= COARSER
        light = solid.simplify(tolerance)
    if edge is not None:
        edge = max(edge, np.sqrt(4 * mesh.area / (np.sqrt(3) * faces)))
        dense = light.refine_to_length(edge)
        while dense.num_tri() > faces and edge < mesh.scale:
            edge *= COARSER
            dense = light.refine_to_length(edge)
        light = dense if dense.num_tri() <= faces else light
    return as_trimesh(light)


def coloured(
    mesh: "trimesh.Trimesh", views: Sequence[View], slack_m: float
) -> tuple["trimesh.Trimesh", float]:
    """The mesh with vertex colours from the pictures; grey without any.

    Returns:
      the mesh, and the share of vertices that at least one picture sees.
    """
    import trimesh

    pictured = [view for view in views if view.image is not None]
    if pictured:
        colours, seen = visible_colours(
            mesh, np.asarray(mesh.vertices), np.asarray(mesh.vertex_normals), pictured, slack_m
        )
    else:
        colours, seen = np.full((len(mesh.vertices), 3), SHADE / 255), np.zeros(len(mesh.vertices))
    rgba = np.concatenate([colours, np.ones((len(colours), 1))], 1)
    painted = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=np.uint8(np.round(255 * rgba)), process=False
    )
    return painted, float((seen > 0).mean())
