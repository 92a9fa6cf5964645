"""A triangle mesh as a solid body: loaded in metres, mended, weighed.

Volume, centre of mass and inertia are integrals over the surface. They are exact
for any closed surface, but count space twice that overlapping bodies enclose
twice. So the winding number along vertical lines has the last word: space is
solid where it is not zero, however often it is enclosed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

Unit = Literal["m", "cm", "mm"]
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
SUFFIXES = (".obj", ".stl", ".ply")
SIZE_RANGE = (0.01, 1.0)  # m; the longest side of what a table-top arm pushes
GUESS_FROM_M = 0.03  # smaller numbers may as well be centimetres
THINNEST_M = 1e-4
MERGE_DIGITS = 7  # vertices closer than 0.1 um are one
CAP_SHARE = 0.02  # of the surface; larger openings are not ours to close
COLUMN_OFFSET = np.array([0.5137, 0.4891])  # cells; lines through vertices would count twice
COLUMN_CHUNK = 4_000_000  # grid cells looked at at once
OVERLAP_SHARE = 1e-3  # of the volume; below it the surface integrals stand


class MeshError(ValueError):
    """A mesh that cannot become an object; the message names the fault and the way out."""


@dataclass(frozen=True)
class Solid:
    """A closed mesh and its mass properties at uniform density.

    Attributes:
      mesh: surface, m.
      volume: m^3; space enclosed more than once counts once.
      com: centre of mass, mesh frame, m.
      inertia: about the centre of mass, mesh axes, per kg, m^2.
      notes: what was assumed and mended, one line each.
    """

    mesh: trimesh.Trimesh
    volume: float
    com: Float[np.ndarray, " 3"]
    inertia: Float[np.ndarray, "3 3"]
    notes: tuple[str, ...]


def load_mesh(path: Path, unit: Unit | None = None) -> tuple[trimesh.Trimesh, list[str]]:
    """Read a mesh file in metres.

    Args:
      path: ``.obj``, ``.stl`` or ``.ply``.
      unit: of the file; None guesses metres or millimetres from the size.

    Returns:
      the mesh with identical vertices merged, and what was assumed.

    Raises:
      FileNotFoundError: if there is no such file.
      MeshError: for another format, a file without triangles, a flat or an absurdly sized one.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise MeshError(f"{path}: give a mesh as {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no mesh {path}")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # each of trimesh's readers raises its own kind
        raise MeshError(f"{path} cannot be read as a mesh: {error}") from error
    if not len(mesh.faces):
        raise MeshError(f"{path} holds no triangles; is it a point cloud?")
    if not np.isfinite(mesh.vertices).all():
        raise MeshError(f"{path} holds vertices that are not finite numbers")
    longest = float(np.ptp(mesh.vertices[np.unique(mesh.faces)], axis=0).max())
    unit, note = _unit(path, longest, unit)
    mesh = trimesh.Trimesh(METRES[unit] * mesh.vertices, mesh.faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True, digits_vertex=MERGE_DIGITS)
    centered = mesh.vertices - mesh.vertices.mean(0)
    thickness = np.ptp(centered @ np.linalg.eigh(centered.T @ centered)[1][:, 0])
    if thickness < THINNEST_M:
        raise MeshError(f"{path} is a flat sheet ({1e3 * thickness:.2g} mm); give it a thickness")
    return mesh, [note]


def _unit(path: Path, longest: float, unit: Unit | None) -> tuple[Unit, str]:
    if unit is None:
        for guess in ("m", "mm"):
            if GUESS_FROM_M <= longest * METRES[guess] <= SIZE_RANGE[1]:
                return guess, f"unit {guess}, guessed from the longest side of {longest:.4g}"
        raise MeshError(
            f"{path}: its longest side is {longest:.4g}, in a unit that cannot be guessed; "
            "pass --unit m, cm or mm"
        )
    if SIZE_RANGE[0] <= longest * METRES[unit] <= SIZE_RANGE[1]:
        return unit, f"unit {unit}, as given"
    raise MeshError(
        f"{path}: its longest side would be {longest * METRES[unit]:.4g} m with --unit {unit}; "
        f"an object on a table has {SIZE_RANGE[0]:g} to {SIZE_RANGE[1]:g} m"
    )


def weigh(mesh: trimesh.Trimesh) -> Solid:
    """Mend a mesh and integrate it at uniform density.

    Mended: faces without area, faces wound against their neighbours, a surface that
    is inside out, openings of up to 2 % of the surface (capped by a fan), overlapping
    or self-intersecting bodies (their common space counts once).

    Raises:
      MeshError: for a larger opening (with size and place), or no volume.
    """
    mesh, notes = _mend(mesh)
    volume, com, inertia, enclosed = _by_columns(mesh)
    if volume <= 1e-6 * np.prod(np.maximum(mesh.extents, 1e-4)):
        raise MeshError(
            "the mesh encloses no volume; close its surface, or pass --mass-from footprint"
        )
    twice, inverted = enclosed
    if max(twice, inverted) <= OVERLAP_SHARE:
        volume, com = float(mesh.volume), np.array(mesh.center_mass)
        inertia = np.array(mesh.moment_inertia) / volume
        return Solid(mesh, volume, com, inertia, tuple(notes))
    if twice > OVERLAP_SHARE:
        notes.append(
            f"the surface intersects itself: {100 * twice:.1f} % of the volume is enclosed more "
            "than once; counted once"
        )
    if inverted > OVERLAP_SHARE:
        notes.append(f"{100 * inverted:.1f} % of the volume is inside out; counted as solid")
    return Solid(mesh, volume, com, inertia, tuple(notes))


def _mend(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, list[str]]:
    faces, notes = np.array(mesh.faces), []
    collapsed = np.any(faces == np.roll(faces, 1, axis=1), axis=1)
    if collapsed.any():
        notes.append(f"dropped {collapsed.sum()} faces that use a vertex twice")
    faces = faces[~collapsed]
    open_edges = _boundary(faces)
    if len(open_edges):
        faces, turned = _oriented(mesh.vertices, faces)
        if turned:
            notes.append(f"turned {turned} faces that were wound against their neighbours")
        open_edges = _boundary(faces)
    vertices = np.array(mesh.vertices)
    if len(open_edges):
        vertices, faces, note = _capped(vertices, faces, open_edges)
        notes.append(note)
    if len(shared := _crowded_edges(faces)):
        notes.append(
            f"{len(shared)} edges are shared by more than two faces; the surface is closed"
        )
    mended = trimesh.Trimesh(vertices, faces, process=False)
    if mended.volume < 0:
        mended.invert()
        notes.append("the surface was inside out; turned")
    return mended, notes


def _directed_edges(faces: Int[np.ndarray, "f 3"]):
    """Undirected edges (sorted pairs), each use's edge number and direction (+1 or -1)."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    unique, number = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    return unique, number.ravel(), forward


def _crowded_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    unique, number, _ = _directed_edges(faces)
    return unique[np.bincount(number) > 2]


def _boundary(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Directed edges that no neighbour runs back along; none for a closed surface.

    Counting uses in both directions, an edge shared by four faces (two bodies that
    touch) is closed as well.
    """
    unique, number, forward = _directed_edges(faces)
    net = np.bincount(number, weights=forward).astype(int)
    edges = np.where(net[:, None] > 0, unique, unique[:, ::-1])
    return np.repeat(edges, np.abs(net), axis=0)


def _oriented(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Int[np.ndarray, "f 3"], int]:
    """Faces wound like their neighbours, each mixed-up component outwards; how many turned."""
    _, number, forward = _directed_edges(faces)
    order = np.argsort(number, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(number[order]) > 0])
    pairs = start[np.diff(np.r_[start, len(order)]) == 2]
    first, second = order[pairs], order[pairs + 1]
    count = len(faces)
    a, b = first % count, second % count
    against = forward[first] == forward[second]
    graph = coo_array((1.0 + against, (a, b)), shape=(count, count)).tocsr()
    graph = graph.maximum(graph.T)
    _, label = connected_components(graph, directed=False)
    flip = np.zeros(count, bool)
    for piece in np.unique(label[a[against]]):
        members = np.flatnonzero(label == piece)
        walk, parent = breadth_first_order(graph, members[0], directed=False)
        differs = np.asarray(graph[parent[walk[1:]], walk[1:]]).ravel() == 2.0
        for face, other in zip(walk[1:], differs, strict=True):
            flip[face] = flip[parent[face]] ^ other
        turned = np.where(flip[members, None], faces[members, ::-1], faces[members])
        if _signed_volume(vertices[turned]) < 0:
            flip[members] ^= True
    return np.where(flip[:, None], faces[:, ::-1], faces), int(flip.sum())


def _signed_volume(triangles: Float[np.ndarray, "f 3 3"]) -> float:
    a, b, c = np.moveaxis(triangles - triangles.mean((0, 1)), 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _capped(vertices, faces, boundary):
    """The mesh with every opening closed by a fan around its middle, and a note.

    Raises:
      MeshError: if the openings are too large a share of the surface.
    """
    surface = trimesh.triangles.area(vertices[faces]).sum()
    crowded = len(_crowded_edges(faces))
    caps, middles, sizes = [], [], []
    for loop in _loops(boundary):
        middle = len(vertices) + len(middles)
        caps += [[b, a, middle] for a, b in zip(loop, np.roll(loop, -1), strict=True)]
        middles.append(vertices[loop].mean(0))
        sizes.append(np.ptp(vertices[loop], axis=0))
    closed = np.concatenate([vertices, middles])
    share = trimesh.triangles.area(closed[np.array(caps)]).sum() / surface
    largest = int(np.argmax(np.max(sizes, axis=1)))
    size = " x ".join(f"{1e3 * v:.1f}" for v in sizes[largest])
    if share > CAP_SHARE:
        place = ", ".join(f"{1e3 * v:.1f}" for v in middles[largest])
        also = f", and {crowded} edges are shared by more than two faces" if crowded else ""
        raise MeshError(
            f"the mesh is open: {len(sizes)} openings, {100 * share:.1f} % of its surface; the "
            f"largest, {size} mm, at ({place}) mm{also}. Make it a closed manifold in a mesh "
            "editor, or pass --mass-from footprint: mass properties of a uniform prism of the "
            "outline"
        )
    note = f"closed {len(sizes)} openings, {100 * share:.2g} % of the surface, up to {size} mm"
    return closed, np.concatenate([faces, caps]), note


def _loops(boundary: Int[np.ndarray, "e 2"]) -> list[list[int]]:
    """Closed walks that use every directed edge once (in- and out-degree are equal)."""
    following: dict[int, list[int]] = {}
    for a, b in boundary.tolist():
        following.setdefault(a, []).append(b)
    loops = []
    for start in following:
        while following[start]:
            loop, here = [start], following[start].pop()
            while here != start:
                loop.append(here)
                here = following[here].pop()
            loops.append(loop)
    return loops


def _by_columns(mesh: trimesh.Trimesh, across: int = 400):
    """Mass properties from the winding number along a grid of parallel lines.

    The lines run along the shortest side, so that thin things keep their thickness.

    Returns:
      volume, centre of mass, inertia per kg, and (share of the volume enclosed more than
      once, share enclosed inside out).
    """
    turn = np.roll(np.eye(3), 2 - int(np.argmin(mesh.extents)), axis=0)
    step = float(mesh.extents.max()) / across
    column, z, entering = _crossings(mesh.triangles @ turn.T, step)
    order = np.lexsort((z, column[:, 1], column[:, 0]))
    column, z, winding = column[order], z[order], np.cumsum(entering[order])
    solid = np.all(column[1:] == column[:-1], axis=1) & (winding[:-1] != 0)
    low, high, winding = z[:-1][solid], z[1:][solid], winding[:-1][solid]
    x, y = ((column[:-1][solid] + COLUMN_OFFSET) * step).T
    length = high - low
    total = max(length.sum(), 1e-12)
    mean = np.array([length @ x, length @ y, np.sum(length * (high + low) / 2)]) / total
    x, y, low, high = x - mean[0], y - mean[1], low - mean[2], high - mean[2]
    first = (high**2 - low**2) / 2
    xy, xz, yz = (length * x) @ y, first @ x, first @ y
    squares = length @ (x * x), length @ (y * y), np.sum(high**3 - low**3) / 3
    spread = np.array([[0, xy, xz], [xy, 0, yz], [xz, yz, 0]]) + np.diag(squares)
    inertia = (np.trace(spread) * np.eye(3) - spread) / total
    shares = length[np.abs(winding) > 1].sum() / total, length[winding < 0].sum() / total
    return total * step**2, turn.T @ mean, turn.T @ inertia @ turn, shares


def _crossings(triangles: Float[np.ndarray, "f 3 3"], step: float):
    """Where vertical lines through a grid cross the surface.

    Returns:
      column (Int[n, 2]), height (m) and +1 where a line enters going up, -1 where it leaves.
    """
    xy = triangles[:, :, :2] / step - COLUMN_OFFSET
    low = np.ceil(xy.min(1)).astype(int)
    shape = np.maximum(np.floor(xy.max(1)).astype(int) - low + 1, 0)
    cells = shape.prod(1)
    found = []
    limit = np.cumsum(cells) // COLUMN_CHUNK
    for chunk in np.split(np.arange(len(cells)), np.flatnonzero(np.diff(limit)) + 1):
        face = np.repeat(chunk, cells[chunk])
        number = np.arange(len(face)) - np.repeat(
            np.cumsum(cells[chunk]) - cells[chunk], cells[chunk]
        )
        at = low[face] + np.stack([number // shape[face, 1], number % shape[face, 1]], -1)
        a, b, c = (xy[face, i] - at for i in range(3))
        weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], -1)
        hit = np.all(weights > 0, axis=1) | np.all(weights < 0, axis=1)
        weights, face = weights[hit], face[hit]
        twice_area = weights.sum(1)
        height = np.einsum("ij,ij->i", weights, triangles[face, :, 2]) / twice_area
        found.append((at[hit], height, np.where(twice_area < 0, 1, -1)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _cross(a: Float[np.ndarray, "n 2"], b: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
