"""Objects whose truth is known: an asset's prism, or a mesh mended into one solid."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from jaxtyping import Float

from p2r_jax.sim.asset import ASSET_ROOT, Asset, load_asset
from p2r_jax.sim.mesh_solid import SUFFIXES, MeshError, Unit, load_mesh, weigh

if TYPE_CHECKING:
    import manifold3d
    import trimesh

SLIT_M = 1e-4  # gaps this thin between bodies that were made to fit are closed
COLOR_SAMPLES = 200_000  # points of the surface that know their colour
WOOD_RGB = (0.85, 0.62, 0.38)


@dataclass(frozen=True)
class KnownObject:
    """A closed solid that lies on the table.

    Attributes:
      name: of asset or file.
      mesh: watertight surface, world frame (z up, table z = 0), m.
      colors: of the faces, RGB, 0 to 1.
      footprint: shadow straight down, world frame, m.
      notes: how the solid came about, one line each.
    """

    name: str
    mesh: "trimesh.Trimesh"
    colors: Float[np.ndarray, "faces 3"]
    footprint: shapely.Geometry
    notes: tuple[str, ...]

    @property
    def volume(self) -> float:
        """m^3."""
        return float(self.mesh.volume)

    @property
    def com(self) -> Float[np.ndarray, " 3"]:
        """Centre of mass at uniform density, world frame, m."""
        return np.array(self.mesh.center_mass)


def known_object(name_or_file: str, yaw_rad: float, unit: Unit | None = None) -> KnownObject:
    """An asset (a prism of its parts) or a mesh file (mended), lying on the table.

    Args:
      name_or_file: shipped asset, asset folder, or ``.ply``, ``.obj``, ``.stl``.
      yaw_rad: turns the object on the table.
      unit: of a mesh file; guessed if not given.

    Raises:
      FileNotFoundError: if it is none of them.
      ValueError: for a mesh that cannot be mended; says why.
    """
    path = Path(name_or_file)
    if path.suffix.lower() in SUFFIXES:
        return _placed(_from_mesh(path, unit), yaw_rad)
    shipped = path.is_dir() or (ASSET_ROOT / path).is_dir()
    if not shipped:
        raise FileNotFoundError(f"{name_or_file!r} is neither an asset nor a mesh file")
    return _placed(_from_asset(load_asset(name_or_file)), yaw_rad)


def _placed(known: KnownObject, yaw_rad: float) -> KnownObject:
    """The object turned, and put down on the table."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    T = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, -known.mesh.bounds[0, 2]], [0, 0, 0, 1]])
    footprint = shapely.transform(known.footprint, lambda xy: xy @ T[:2, :2].T)
    mesh = known.mesh.copy().apply_transform(T)
    return KnownObject(known.name, mesh, known.colors, footprint, known.notes)


def _from_asset(asset: Asset) -> KnownObject:
    import manifold3d

    footprint = shapely.union_all([shapely.Polygon(part.corners) for part in asset.parts])
    section = manifold3d.CrossSection([part.corners for part in asset.parts])
    mesh = _mesh(manifold3d.Manifold.extrude(section, asset.height_m))
    colors = np.tile(np.array(WOOD_RGB), (len(mesh.faces), 1))
    return KnownObject(asset.name, mesh, colors, footprint, ("uniform prism of the asset's parts",))


def _from_mesh(path: Path, unit: Unit | None) -> KnownObject:
    from p2r_jax.sim.mesh_asset import MeshOptions, asset_from_mesh

    raw, notes = load_mesh(path, unit)
    solid = weigh(raw)
    mesh, mended = one_solid(solid.mesh)
    colors = _colors_near(path, raw, mesh)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{path.stem}.ply"
        mesh.export(file)
        placed = asset_from_mesh(file, path.stem, 1.0, MeshOptions(unit="m"))
    mesh.apply_transform(placed.T_object_mesh)
    change = mesh.volume / solid.volume - 1
    shift = placed.T_object_mesh[:3, :3] @ solid.com + placed.T_object_mesh[:3, 3]
    moved = 1e3 * np.linalg.norm(mesh.center_mass - shift)
    told = (
        *notes,
        *solid.notes,
        *mended,
        f"mending changed the volume by {100 * change:+.3f} %, the centroid by {moved:.3f} mm",
    )
    return KnownObject(path.parent.name, mesh, colors, placed.outline, told)


def one_solid(mesh: "trimesh.Trimesh") -> tuple["trimesh.Trimesh", list[str]]:
    """A closed surface of touching or overlapping bodies as the boundary of their union.

    Slits up to 0.1 mm wide, where two bodies were meshed differently along a common
    face, and voids that are shut off from outside are filled.

    Args:
      mesh: closed (edges may be shared by four faces), m.

    Returns:
      watertight manifold mesh, and what was done.

    Raises:
      MeshError: if it is not closed.
    """
    import manifold3d

    surface = manifold3d.Mesh(
        np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
    )
    bodies = manifold3d.Manifold(surface)
    if bodies.status() != manifold3d.Error.NoError:
        raise MeshError(f"the mesh does not close ({bodies.status()}); mend it in a mesh editor")
    pieces = bodies.decompose()
    union = manifold3d.Manifold.batch_boolean(pieces, manifold3d.OpType.Add).simplify(SLIT_M)
    shells = sorted(union.decompose(), key=lambda shell: -abs(shell.volume()))
    note = (
        f"union of {len(pieces)} bodies, simplified within {1e3 * SLIT_M:g} mm (closes slits), "
        f"{len(shells) - 1} inner voids or specks dropped"
    )
    return _mesh(shells[0]), [note]


def _mesh(solid: "manifold3d.Manifold") -> "trimesh.Trimesh":
    import trimesh

    surface = solid.to_mesh()
    return trimesh.Trimesh(
        np.asarray(surface.vert_properties[:, :3], float), surface.tri_verts, process=False
    )


def _colors_near(path: Path, raw: "trimesh.Trimesh", mesh: "trimesh.Trimesh"):
    """Colours of the faces of ``raw`` (as in its file), at the nearest faces of ``mesh``."""
    import trimesh
    from scipy.spatial import cKDTree
    from trimesh.visual import ColorVisuals, TextureVisuals

    painted = trimesh.load(path, force="mesh", process=False)
    assert isinstance(painted, trimesh.Trimesh)  # as force="mesh" promises
    visual = painted.visual
    if isinstance(visual, TextureVisuals):
        visual = visual.to_color()
    assert isinstance(visual, ColorVisuals)
    colors = np.asarray(visual.face_colors)[:, :3] / 255
    if len(colors) != len(raw.faces):
        return np.tile(np.array(WOOD_RGB), (len(mesh.faces), 1))
    points, faces = trimesh.sample.sample_surface(raw, COLOR_SAMPLES, seed=0)
    _, nearest = cKDTree(points).query(mesh.triangles_center)
    return np.asarray(colors)[faces[nearest]]
