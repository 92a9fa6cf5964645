"""Any mesh as a pushable asset: laid on the table, outlined, weighed.

Our objects are upright prisms of a footprint. The footprint of a mesh is its shadow
straight down: a vertical rod whose tip passes just above the table touches whatever
sticks out furthest at any height (``touch_below_m`` lowers the rod's reach). The
mesh's own surface says where the object rests on the table, and its volume where the
mass is.

Object frame: centre of the outline's bounding box, z from mid height; x along the
long side of the smallest rectangle around the outline (the mesh's own axes, if theirs
is within 2 %), pointing to the heavier end at uniform density.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
import trimesh
from jaxtyping import Float
from scipy.spatial import ConvexHull

from p2r_jax.sim.asset import Asset, check_asset, uniform_inertia
from p2r_jax.sim.footprint import depth_inside
from p2r_jax.sim.mesh_outline import decompose, filled, reachable, shadow
from p2r_jax.sim.mesh_solid import MeshError, Unit, load_mesh, weigh

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]
VISUAL_FILE = "visual.stl"
VISUAL_FACES = 20_000
CONTACT_BANDS_M = 1e-3, 2e-3, 3e-3  # what is this close to the table rests on it
MAX_CONTACT_PARTS = 64  # they only place support points, no step pays for them
CONTACT_MARGIN_M = 1e-3  # the centre of mass lies this deep inside, or contact is not trusted


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh becomes an asset.

    Attributes:
      unit: of the file; guessed (m or mm) from its size if not given.
      up: mesh axis that points up on the table; None takes the stable pose with the
        lowest centre of mass.
      along: mesh direction that becomes the object's x axis, laid on the table; None takes
        the long side of the smallest rectangle around the outline.
      com: (x, y) of the centre of mass in the object frame, m; None is uniform density.
      mass_from: ``volume`` of the mesh, or a uniform prism of the ``footprint`` (for
        meshes that do not close).
      pusher_radius_m: notches and holes too narrow for this radius may be filled.
      tolerance_m: how far the outline may move when it is simplified.
      touch_below_m: height up to which the pusher reaches; None is all of the object.
    """

    unit: Unit | None = None
    up: Axis | None = None
    along: tuple[float, float, float] | None = None
    com: tuple[float, float] | None = None
    mass_from: Literal["volume", "footprint"] = "volume"
    pusher_radius_m: float = 0.0125
    tolerance_m: float = 1e-3
    touch_below_m: float | None = None


@dataclass(frozen=True)
class OutlineReport:
    """How well the parts stand for the mesh.

    Attributes:
      parts, corners: how many.
      tolerance_m: by which the outline was simplified at last.
      area_error: area of the parts against the shadow without holes, relative.
      pusher_error: area on which the two differ for the pusher, relative: both closed
        by its radius.
      pusher_error_m: largest distance between those two outlines.
      holes: number of holes filled.
      hole_area: their share of the filled shadow.
      solid_share: volume over that of the prism; 1 is an upright prism.
    """

    parts: int
    corners: int
    tolerance_m: float
    area_error: float
    pusher_error: float
    pusher_error_m: float
    holes: int
    hole_area: float
    solid_share: float | None


@dataclass(frozen=True)
class MeshAsset:
    """An asset made from a mesh, and what is known about the making.

    Attributes:
      asset: the object.
      T_object_mesh: maps mesh coordinates (m) into the object frame.
      outline: shadow of the mesh with its holes, object frame.
      visual: light surface mesh, object frame, m.
      report: quality of the parts.
    """

    asset: Asset
    T_object_mesh: Float[np.ndarray, "4 4"]
    outline: shapely.Geometry
    visual: trimesh.Trimesh
    report: OutlineReport

    @property
    def files(self) -> dict[str, bytes]:
        """Content of the asset's visual mesh file, by name."""
        return {VISUAL_FILE: self.visual.export(file_type="stl")}


def asset_from_mesh(path: Path, name: str, mass_kg: float, options: MeshOptions) -> MeshAsset:
    """Make an asset of a mesh file.

    Args:
      path: ``.obj``, ``.stl`` or ``.ply``.
      name: of the asset.
      mass_kg: of the object.
      options: see there.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for a mesh, mass or centre of mass that cannot be; names the way out.
    """
    if not mass_kg > 0:
        raise MeshError(f"{name}: the mass is {mass_kg} kg; give a positive one with --mass")
    mesh, notes = load_mesh(path, options.unit)
    solid = weigh(mesh) if options.mass_from == "volume" else None
    mesh, com = (solid.mesh, solid.com) if solid else (mesh, mesh.convex_hull.center_mass)
    notes = [f"mesh {Path(path).name}", *notes, *(solid.notes if solid else ())]
    rotation, how = _laid_down(mesh, com, options.up)
    T, outline = _object_frame(mesh, rotation, com, options, closed=solid is not None)
    placed = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).apply_transform(T)
    height = float(placed.extents[2])
    closed = reachable(outline, options.pusher_radius_m)
    cut = decompose(filled(outline), closed, options.tolerance_m)
    prism = filled(outline).area * height
    report = _report(outline, closed, cut, options, solid.volume / prism if solid else None)
    asset = Asset(
        name=name,
        parts=cut.parts,
        height_m=height,
        mass_kg=float(mass_kg),
        com_m=(0.0, 0.0, 0.0),
        inertia=((0.0,) * 3,) * 3,
        visual=VISUAL_FILE,
    )
    asset, weighed = _with_mass_properties(asset, solid, T, options)
    check_asset(asset)
    contact, rests = _contact(placed, outline, np.array(asset.com_m[:2]), solid is not None)
    asset = replace(
        asset, contact=contact, provenance=(*notes, how, *_describe(report), weighed, rests)
    )
    return MeshAsset(asset, T, outline, light_mesh(placed), report)


def _laid_down(mesh: trimesh.Trimesh, com, up: Axis | None):
    """Rotation from mesh axes to table axes (z up), and what was done."""
    if up is not None:
        rotation = np.roll(np.eye(3), 1 + "xyz".index(up[-1]) - 3, axis=1)
        if up.startswith("-"):
            rotation = np.diag([1.0, -1.0, -1.0]) @ rotation
        return rotation, f"lies with its {up} axis up, as given"
    planes = ConvexHull(mesh.vertices).equations
    height = -(planes[:, :3] @ com + planes[:, 3])
    low = height <= height.min() + 1e-3 * mesh.extents.max()
    normal = planes[low][np.argmin(planes[low][:, 2]), :3]  # of equals, the one that is down
    rotation = trimesh.geometry.align_vectors(normal, [0, 0, -1])[:3, :3]
    x, y, z = -normal
    return rotation, (
        f"lies in its stable pose with the lowest centre of mass: mesh direction "
        f"({x:.3f}, {y:.3f}, {z:.3f}) up"
    )


def _object_frame(mesh, rotation, com, options: MeshOptions, closed: bool):
    """T_object_mesh and the outline in the object frame."""
    vertices = mesh.vertices @ rotation.T
    bottom, top = vertices[:, 2].min(), vertices[:, 2].max()
    laid = trimesh.Trimesh(vertices, mesh.faces, process=False)
    if options.touch_below_m is not None:
        laid = _below(laid, bottom + options.touch_below_m)
    outline = shadow(laid.triangles[:, :, :2], both_sides=not closed)
    yaw = _long_axis(outline) if options.along is None else _yaw(rotation @ options.along)
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) @ rotation
    outline = shapely.transform(outline, lambda xy: xy @ np.array([[c, -s], [s, c]]))
    low_x, low_y, high_x, high_y = outline.bounds
    middle = np.array([(low_x + high_x) / 2, (low_y + high_y) / 2, (bottom + top) / 2])
    ahead = (turn @ com - middle)[0]
    if abs(ahead) < 0.01 * (high_x - low_x):  # no heavier end: along the mesh's own axis
        ahead = turn[0, np.argmax(np.abs(turn[0]))]
    if ahead < 0 and options.along is None:
        half_turn = np.diag([-1.0, -1.0, 1.0])
        turn, middle = half_turn @ turn, half_turn @ middle
        outline = shapely.transform(outline, np.negative)
    outline = shapely.transform(outline, lambda xy: xy - middle[:2])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn, -middle
    return T, _one_piece(outline)


def _long_axis(outline: shapely.Geometry) -> float:
    """Direction of the long side of the smallest rectangle around the outline, rad."""
    low_x, low_y, high_x, high_y = outline.bounds
    smallest = shapely.minimum_rotated_rectangle(outline)
    if (high_x - low_x) * (high_y - low_y) <= 1.02 * smallest.area:
        return 0.0 if high_x - low_x >= high_y - low_y else np.pi / 2
    sides = np.diff(np.array(smallest.exterior.coords)[:3], axis=0)
    x, y = sides[np.argmax(np.linalg.norm(sides, axis=1))]
    return float(np.arctan2(y, x))


def _yaw(direction: Float[np.ndarray, " 3"]) -> float:
    """Angle of a direction seen from above, rad."""
    if np.linalg.norm(direction[:2]) < 0.1 * np.linalg.norm(direction):
        raise MeshError("the x axis given with --along stands upright on the table; give another")
    return float(np.arctan2(direction[1], direction[0]))


def _one_piece(outline: shapely.Geometry) -> shapely.Polygon:
    pieces = sorted(shapely.get_parts(outline), key=lambda piece: -piece.area)
    if sum(piece.area for piece in pieces[1:]) > 0.01 * outline.area:
        raise MeshError(
            f"the mesh falls into {len(pieces)} separate pieces seen from above; give one rigid "
            "object, the others deleted"
        )
    return pieces[0]


def _below(mesh: trimesh.Trimesh, height: float) -> trimesh.Trimesh:
    """The part of a mesh below a height, left open at the cut."""
    return trimesh.intersections.slice_mesh_plane(mesh, [0, 0, -1], [0, 0, height])


def _with_mass_properties(asset: Asset, solid, T, options: MeshOptions) -> tuple[Asset, str]:
    """The asset with centre of mass and inertia, and where they come from."""
    if solid is None:
        com = np.append(asset.uniform_com, 0.0)
        inertia = uniform_inertia(asset.parts, asset.height_m, asset.mass_kg)
        how = "centre of mass and inertia: uniform prism of the parts"
    else:
        com = T[:3, :3] @ solid.com + T[:3, 3]
        inertia = asset.mass_kg * T[:3, :3] @ solid.inertia @ T[:3, :3].T
        how = "centre of mass and inertia: the mesh's volume at uniform density"
    if options.com is not None:
        how += f"; centre of mass moved from ({com[0]:.4f}, {com[1]:.4f}) as given"
        com = np.array([*options.com, com[2]])
    inertia = (inertia + inertia.T) / 2
    return replace(
        asset,
        com_m=tuple(float(v) for v in np.round(com, 6)),
        inertia=tuple(tuple(float(v) for v in row) for row in inertia),
    ), how


def _contact(placed: trimesh.Trimesh, outline: shapely.Polygon, com_xy, closed: bool):
    """Convex parts of what rests on the table, or None for all of the footprint; and why."""
    for band in CONTACT_BANDS_M:
        region, pieces = _resting(placed, outline, band, closed)
        corners = shapely.get_coordinates(region)
        depth = float(depth_inside(corners, com_xy)) if len(corners) else -np.inf
        if depth >= CONTACT_MARGIN_M:
            parts = decompose(region, region, CONTACT_BANDS_M[0], max_parts=MAX_CONTACT_PARTS).parts
            share = 100 * region.area / outline.area
            return parts, (
                f"rests on what is within {1e3 * band:.0f} mm of the table: {pieces} patches, "
                f"{share:.0f} % of the shadow"
            )
    return None, (
        "rests on all of its footprint (assumed: what is within "
        f"{1e3 * CONTACT_BANDS_M[-1]:.0f} mm of the table does not enclose the centre of mass)"
    )


def _resting(placed: trimesh.Trimesh, outline: shapely.Polygon, band: float, closed: bool):
    """Shadow of what is within ``band`` (m) of the table, without specks; its patches."""
    faces = _below(placed, placed.bounds[0, 2] + band).triangles[:, :, :2]
    grain = CONTACT_BANDS_M[0]
    region = shadow(faces, both_sides=not closed).buffer(grain / 2)
    region = region.buffer(2 * grain).buffer(-2 * grain)
    region = shapely.intersection(region, outline)
    pieces = [p for p in shapely.get_parts(region) if p.area > 0.01 * region.area]
    return shapely.union_all(pieces), len(pieces)


def _report(outline, closed, cut, options: MeshOptions, solid_share) -> OutlineReport:
    whole = filled(outline)
    union = shapely.union_all([shapely.Polygon(part.corners) for part in cut.parts])
    seen = reachable(union, options.pusher_radius_m)
    return OutlineReport(
        parts=len(cut.parts),
        corners=sum(len(part.corners) for part in cut.parts),
        tolerance_m=cut.tolerance_m,
        area_error=union.area / whole.area - 1,
        pusher_error=seen.symmetric_difference(closed).area / closed.area,
        pusher_error_m=shapely.hausdorff_distance(seen.exterior, closed.exterior, densify=0.02),
        holes=len(outline.interiors),
        hole_area=1 - outline.area / whole.area,
        solid_share=solid_share,
    )


def _describe(report: OutlineReport) -> list[str]:
    area = 100 * report.area_error
    lines = [
        f"footprint: shadow of the mesh as {report.parts} convex parts with {report.corners} "
        f"corners, tolerance {1e3 * report.tolerance_m:.1f} mm; area {area:+.1f} %, for the "
        f"pusher within {1e3 * report.pusher_error_m:.1f} mm"
    ]
    if report.holes:
        lines.append(
            f"{report.holes} holes of the shadow filled ({100 * report.hole_area:.1f} % of it): "
            "no pusher outside gets in"
        )
    return lines


def light_mesh(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with at most ``VISUAL_FACES`` faces: the vertices in a cell of a grid become one."""
    step = float(mesh.extents.max()) / 2000
    vertices, faces = np.array(mesh.vertices), np.array(mesh.faces)
    while len(faces) > VISUAL_FACES:
        cells = np.round(mesh.vertices / step)
        _, label, size = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        vertices = np.zeros((len(size), 3))
        np.add.at(vertices, label.ravel(), mesh.vertices / size[label.ravel(), None])
        faces = label.ravel()[mesh.faces]
        faces = faces[~np.any(faces == np.roll(faces, 1, axis=1), axis=1)]
        step *= 1.3
    return trimesh.Trimesh(vertices, faces, process=False)
