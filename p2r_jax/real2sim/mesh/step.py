"""The mesh step: views, depth and splat become one closed mesh that says how good it is."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.files import as_record, write_atomic, write_json
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.mesh.clean import CleanConfig, clean_mesh, coloured, one_solid
from p2r_jax.real2sim.mesh.hull import Hull, HullConfig, Silhouette, carve
from p2r_jax.real2sim.mesh.level_set import Gaussians, LevelSetConfig, level_set_field
from p2r_jax.real2sim.mesh.levels import unshrunk
from p2r_jax.real2sim.mesh.render import silhouette_iou
from p2r_jax.real2sim.mesh.symmetry import (
    MirrorPlane,
    SymmetryConfig,
    find_mirror_plane,
    mirrored_field,
)
from p2r_jax.real2sim.mesh.symmetry_picture import draw_asymmetry
from p2r_jax.real2sim.mesh.tsdf import DepthMap, TsdfConfig, fuse
from p2r_jax.real2sim.mesh.underside import carve_underside
from p2r_jax.real2sim.mesh.volume import Grid, zero_surface
from p2r_jax.real2sim.views import View, split_views

if TYPE_CHECKING:
    import trimesh

SCHEMA_VERSION = 1
MESH_FILE, RECORD_FILE, PICTURE_FILE = "mesh.ply", "mesh.json", "asymmetry.png"
COLOUR_SLACK_VOXELS = 2.0


@dataclass(frozen=True)
class MeshConfig:
    """How the surface is made.

    Attributes:
      surface: ``fused`` is the visual hull carved by the splat's depth (by nothing, if there
        is none); ``level_set`` is SuGaR's level set of the splat's density.
      backend: ``default`` marches the field and tidies with trimesh and manifold3d;
        ``pymeshlab`` makes a screened Poisson surface through its oriented points (GPL-3,
        extra ``pymeshlab``).
      held_out: every so many-th view is not used and judges the mesh; 0 uses all. Give the
        splat's ``hold_out``, so that both leave out the same.
      unshrink: grow the hull, place by place, until its silhouettes end where most masks do.
      hull, tsdf, level_set, symmetry, clean: of the parts.
    """

    surface: Literal["fused", "level_set"] = "fused"
    backend: Literal["default", "pymeshlab"] = "default"
    held_out: int = 8
    unshrink: bool = True
    hull: HullConfig = field(default_factory=HullConfig)
    tsdf: TsdfConfig = field(default_factory=TsdfConfig)
    level_set: LevelSetConfig = field(default_factory=LevelSetConfig)
    symmetry: SymmetryConfig = field(default_factory=SymmetryConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)


@dataclass(frozen=True)
class MeshResult:
    """What the step made.

    Attributes:
      mesh: closed, m, the views' world frame, with vertex colours.
      mirror: the best mirror plane.
      mirrored: whether the mesh was made symmetric.
      iou: of the mesh's silhouette and the mask, by view.
      held_out: names of the views that shaped nothing.
      record: content of ``mesh.json``.
      folder: where ``mesh.ply`` and ``mesh.json`` are.
    """

    mesh: "trimesh.Trimesh"
    mirror: MirrorPlane
    mirrored: bool
    iou: dict[str, float]
    held_out: tuple[str, ...]
    record: dict
    folder: Path


@dataclass(frozen=True)
class _Surface:
    """A field on its grid, how well its nodes were seen, what was measured, and what carved it."""

    field: Float[np.ndarray, "nx ny nz"]
    grid: Grid
    seen: Float[np.ndarray, "nx ny nz"] | None
    measured: dict
    silhouettes: tuple[Silhouette, ...] = ()


def make_mesh(
    config: MeshConfig,
    views: Sequence[View],
    depths: Sequence[DepthMap] | None,
    gaussians: Gaussians | None,
    out: Path,
) -> MeshResult:
    """Write ``mesh.ply`` and, last, ``mesh.json`` into ``out``.

    Args:
      config: see there.
      views: with masks (and images, for colours); may be empty for a level set.
      depths: rendered from the splat; those of held-out views are left out by name.
      gaussians: the splat; needed for the level set only.
      out: folder; made if absent, an earlier mesh there is replaced.

    Raises:
      CaptureError: for silhouettes without common volume, an open surface, or a surface
        that is to be mirrored and is not symmetric.
      ValueError: if what the chosen surface is made of is missing.
    """
    from trimesh.exchange.ply import export_ply

    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    for file in (RECORD_FILE, PICTURE_FILE):
        (out / file).unlink(missing_ok=True)
    shaping, judging = split_views(views, config.held_out)
    surface = _surface(config, shaping, depths, gaussians)
    surface = _underside(config, surface)
    mirror, mirrored, notes = _symmetry(config.symmetry, surface, out)
    if mirrored:
        surface = replace(
            surface, field=mirrored_field(surface.field, surface.grid, mirror, surface.seen)
        )
    mesh = _mesh(config, surface)
    mesh, seen_share = coloured(mesh, shaping, COLOUR_SLACK_VOXELS * surface.grid.voxel)
    iou = {view.name: silhouette_iou(mesh, view, view.load_mask()) for view in views}
    record = {
        "schema": SCHEMA_VERSION,
        "mesh": MESH_FILE,
        **_geometry(mesh),
        "voxel_m": surface.grid.voxel,
        **surface.measured,
        "symmetry": _symmetry_record(config.symmetry, mirror, mirrored),
        "coloured_share": seen_share,
        "silhouette_iou": _iou_record(iou, judging),
        "notes": notes,
        "settings": as_record(config),
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_atomic(out / MESH_FILE, export_ply(mesh))
    write_json(out / RECORD_FILE, record)
    held_out = tuple(view.name for view in judging)
    return MeshResult(mesh, mirror, mirrored, iou, held_out, record, out)


def read_mirror(folder: Path) -> MirrorPlane | None:
    """The mirror plane of a finished step, if the object counts as symmetric."""
    symmetry = json.loads((folder / RECORD_FILE).read_text())["symmetry"]
    if not symmetry["symmetric"]:
        return None
    return MirrorPlane(
        np.array(symmetry["normal"]), symmetry["offset_m"], symmetry["score"], symmetry["mean"]
    )


def _surface(config: MeshConfig, views, depths, gaussians) -> _Surface:
    if config.surface == "level_set":
        if gaussians is None:
            raise ValueError("a level set is that of a splat; fit one first, or use surface fused")
        table = config.hull.table
        level, grid = level_set_field(gaussians, config.level_set, table)
        return _Surface(one_solid(level), grid, None, {"gaussians": len(gaussians.means)})
    hull = carve(views, config.hull)
    measured = {"hull_volume_m3": float(hull.mesh().volume)}
    if config.unshrink:
        hull, measured["hull_grown_m"] = unshrunk(hull, config.hull.table)
    if not depths:
        measured["depth_maps"] = 0
        return _Surface(one_solid(hull.field), hull.grid, None, measured, hull.silhouettes)
    return _carved(config, hull, depths, {view.name for view in views}, measured)


def _carved(config: MeshConfig, hull: Hull, depths, names, measured: dict) -> _Surface:
    used = [depth for depth in depths if depth.view.name in names]
    if not used:
        raise ValueError("none of the depth maps belongs to a view that shapes the mesh")
    fused = fuse(hull, used, config.tsdf)
    measured |= {
        "depth_maps": len(used),
        "depth_bias_m": fused.bias_m,
        "carved_by_depth_m3": fused.carved_m3,
    }
    return _Surface(one_solid(fused.field), hull.grid, fused.seen, measured, hull.silhouettes)


def _underside(config: MeshConfig, surface: _Surface) -> _Surface:
    """Carved below as above, if it is the same; a surface without silhouettes stays."""
    wanted = config.symmetry.underside and config.symmetry.mirror != "no"
    if not wanted or not surface.silhouettes:
        return surface
    hull = Hull(surface.grid, surface.field, surface.silhouettes)
    found = carve_underside(hull, config.symmetry.threshold, config.hull.table)
    measured = surface.measured | {"underside": found.record}
    return replace(surface, field=one_solid(found.hull.field), measured=measured)


def _symmetry(config: SymmetryConfig, surface: _Surface, out: Path):
    """The mirror plane, whether to mirror, and notes.

    Raises:
      CaptureError: if it must be mirrored and is not symmetric.
    """
    raw = zero_surface(surface.field, surface.grid)
    mirror = find_mirror_plane(raw, config.plane)
    symmetric = mirror.score <= config.threshold
    if config.mirror == "no" or symmetric:
        return mirror, symmetric and config.mirror != "no", []
    size = 1e3 * np.linalg.norm(raw.extents)
    seen = (
        f"the object is not symmetric: 2 % of its surface is further than "
        f"{mirror.score * size:.1f} mm from its best mirror image, a score of {mirror.score:.3f} "
        f"where up to {config.threshold:g} (--mesh.symmetry.threshold) counts as symmetric"
    )
    if config.mirror == "auto":
        return mirror, False, [seen + "; not mirrored"]
    picture = draw_asymmetry(raw, mirror, out / PICTURE_FILE)
    raise CaptureError(
        seen + "; take --mesh.symmetry.mirror no (or auto), or mend the side that was badly seen",
        picture=picture,
    )


def _mesh(config: MeshConfig, surface: _Surface) -> "trimesh.Trimesh":
    raw = zero_surface(one_solid(surface.field), surface.grid)
    if config.backend == "pymeshlab":
        from p2r_jax.real2sim.mesh.pymeshlab_backend import poisson_surface

        raw = poisson_surface(raw, surface.grid.voxel)
    mesh = clean_mesh(raw, config.clean, surface.grid.voxel)
    if config.hull.table:  # smoothing rounds the rim of the underside
        mesh.vertices[:, 2] = np.maximum(mesh.vertices[:, 2], 0.0)
    return mesh


def _geometry(mesh: "trimesh.Trimesh") -> dict:
    return {
        "watertight": bool(mesh.is_watertight),
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "volume_m3": float(mesh.volume),
        "surface_m2": float(mesh.area),
        "uniform_com_m": np.round(mesh.center_mass, 6).tolist(),
        "bounds_m": np.round(mesh.bounds, 6).tolist(),
    }


def _symmetry_record(config: SymmetryConfig, mirror: MirrorPlane, mirrored: bool) -> dict:
    return {
        "normal": mirror.normal.tolist(),
        "offset_m": mirror.offset,
        "score": mirror.score,
        "mean": mirror.mean,
        "threshold": config.threshold,
        "symmetric": bool(mirror.score <= config.threshold),
        "mirrored": mirrored,
    }


def _iou_record(iou: dict[str, float], judging: Sequence[View]) -> dict:
    held_out = {view.name for view in judging}
    groups = {
        "shaping": [value for name, value in iou.items() if name not in held_out],
        "held_out": [value for name, value in iou.items() if name in held_out],
    }
    means = {
        name: {"mean": float(np.mean(values)), "min": float(np.min(values))}
        for name, values in groups.items()
        if values
    }
    return {**means, "by_view": {name: round(value, 4) for name, value in iou.items()}}
