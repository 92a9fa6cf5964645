"""The asset step: mesh, weight and task become a folder that ``p2r train`` accepts."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from jaxtyping import Float

from p2r_jax.files import as_record, git_revision, read_record, write_json
from p2r_jax.mesh_task import ASSET_FOLDER, task_for_asset
from p2r_jax.real2sim.asset.convex import ConvexConfig, boxes_around, convex_parts, overlap_error
from p2r_jax.real2sim.asset.densities import Slab, slab_mass_properties
from p2r_jax.real2sim.asset.texture import textured_files
from p2r_jax.real2sim.asset.variants import write_variants
from p2r_jax.sim.asset import Asset, check_asset, load_asset, save_asset
from p2r_jax.sim.mesh_asset import MeshAsset, MeshOptions, asset_from_mesh
from p2r_jax.task_files import read_task, write_task
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 1
VISUAL, RECORD = "visual", "reconstruction.json"
GREY = (158, 163, 173)


@dataclass(frozen=True)
class AssetConfig:
    """What the camera cannot see, and how the object is simulated.

    Attributes:
      name: of the object and its task; the output folder's name if not given.
      mass: of the object, kg: put it on a scale.
      density: kg/m^3, if it cannot be weighed.
      slabs: stretches along the object's x axis with densities of their own, beside
        ``density`` elsewhere; with ``mass`` given too, they count in proportion.
      base: registered task whose control, reward and friction are taken over.
      theta: centre of mass along the object's x axis (``1d``) or along both (``2d``).
      axis: x axis of the object: along the mirror plane that the mesh step found, or the
        ``long`` side; ``auto`` takes the plane if there is one.
      pusher_radius_m: of the robot's tool.
      convex: collision shapes.
    """

    name: str | None = None
    mass: float | None = None
    density: float | None = None
    slabs: tuple[Slab, ...] = ()
    base: str = "push_tblock"
    theta: Literal["1d", "2d"] = "1d"
    axis: Literal["auto", "mirror", "long"] = "auto"
    pusher_radius_m: float = 0.0125
    convex: ConvexConfig = field(default_factory=ConvexConfig)


@dataclass(frozen=True)
class AssetResult:
    """What the step made.

    Attributes:
      asset: the object; its folder is ``folder``.
      task: the task, as ``p2r train OUT`` reads it.
      T_object_world: maps the capture's world (the mesh's frame) into the object's.
      folder: asset folder.
    """

    asset: Asset
    task: Task
    T_object_world: Float[np.ndarray, "4 4"]
    folder: Path


def check_asset_config(config: AssetConfig) -> None:
    """Refuse what the last step would refuse, before the first one has run.

    Raises:
      ValueError: naming the option.
    """
    if config.mass is None and config.density is None:
        raise ValueError(
            "pictures do not weigh: give the object's mass in kg with --asset.mass, or its density "
            "in kg/m^3 with --asset.density"
        )
    if config.mass is not None and config.density is not None and not config.slabs:
        raise ValueError("give either --asset.mass or --asset.density, not both")
    if config.slabs and config.density is None:
        raise ValueError(
            "asset.slabs need --asset.density as well: what the object weighs elsewhere (in "
            "proportion to the slabs, if the mass is given)"
        )
    for name in ("mass", "density"):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"--asset.{name} is {value}; it must be positive")
    load_task(config.base)


def make_asset(
    config: AssetConfig,
    mesh_file: Path,
    mirror_normal: Sequence[float] | None,
    out: Path,
) -> AssetResult:
    """Write ``out/asset/`` and ``out/task.json``; an earlier asset there is replaced.

    Args:
      config: what pictures do not tell.
      mesh_file: watertight mesh, m, z up, standing on the table as in the capture.
      mirror_normal: of the object's upright mirror plane in the mesh's frame, if it has one.
      out: the reconstruction's folder.

    Raises:
      ValueError: for a mesh or mass that cannot be; names the way out.
    """
    started = time.perf_counter()
    check_asset_config(config)
    name = config.name or out.resolve().name
    mesh = trimesh.load(mesh_file, force="mesh", process=False)
    options = MeshOptions(
        unit="m",
        up="z",
        along=_axis(config, mesh, mirror_normal),
        pusher_radius_m=config.pusher_radius_m,
    )
    mass = config.mass if config.mass is not None else config.density * mesh.volume
    made = asset_from_mesh(mesh_file, name, float(mass), options)
    placed = mesh.copy().apply_transform(made.T_object_mesh)
    asset, files = _weighed(config, made, placed), _visual(made, placed)
    asset = replace(asset, visual=f"{VISUAL}.obj", texture=f"{VISUAL}.png")
    hulls = convex_parts(placed, config.convex)
    task, notes = task_for_asset(
        asset, load_task(config.base), config.theta, config.pusher_radius_m
    )
    folder = out / ASSET_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    save_asset(asset, folder, files)
    boxes = boxes_around(hulls)
    write_variants(asset, hulls, boxes, files, folder)
    record = {
        "schema": SCHEMA_VERSION,
        "command": as_record(config),
        "git": git_revision(),
        "report": asdict(made.report),
        "T_object_mesh": made.T_object_mesh.tolist(),
        "mass_kg": asset.mass_kg,
        "density_kg_m3": asset.mass_kg / float(mesh.volume),
        "volume_m3": float(mesh.volume),
        "hulls": len(hulls),
        "hull_corners": [len(hull.vertices) for hull in hulls],
        "hull_volume_error": overlap_error(hulls, mesh),
        "theta": [asdict(spec) for spec in task.theta],
        "notes": [*asset.provenance, *notes],
        "seconds": time.perf_counter() - started,
    }
    task = replace(task, asset=str(folder.resolve()))
    write_task(task, out, record)
    write_json(folder / RECORD, record)
    return AssetResult(asset, task, made.T_object_mesh, folder)


def read_asset(out: Path) -> AssetResult:
    """What an earlier run of the step wrote.

    Raises:
      FileNotFoundError: if the asset or its task is not there.
    """
    folder = out / ASSET_FOLDER
    record = read_record(folder / RECORD, SCHEMA_VERSION, "make one with the asset step")
    return AssetResult(
        load_asset(folder), read_task(out), np.array(record["T_object_mesh"]), folder
    )


def _axis(
    config: AssetConfig, mesh: trimesh.Trimesh, mirror_normal: Sequence[float] | None
) -> tuple[float, float, float] | None:
    """The object's x axis in the mesh's frame: in the mirror plane, to the heavy end."""
    if config.axis == "long" or (config.axis == "auto" and mirror_normal is None):
        return None
    if mirror_normal is None:
        raise ValueError("--asset.axis mirror, but the mesh step found no mirror plane; use long")
    along = np.cross([0.0, 0.0, 1.0], mirror_normal)
    along /= np.linalg.norm(along)
    reach = mesh.vertices @ along
    heavy = mesh.center_mass @ along - (reach.min() + reach.max()) / 2
    x, y, z = along if heavy >= 0 else -along
    return float(x), float(y), float(z)


def _weighed(config: AssetConfig, made: MeshAsset, placed: trimesh.Trimesh) -> Asset:
    """The asset with the mass properties of its slabs, if there are any."""
    if not config.slabs:
        return made.asset
    rest = config.density
    weighed = slab_mass_properties(placed, rest, config.slabs)
    mass = config.mass if config.mass is not None else weighed.mass_kg
    inertia = weighed.inertia * mass / weighed.mass_kg
    asset = replace(
        made.asset,
        mass_kg=float(mass),
        com_m=tuple(float(v) for v in np.round(weighed.com, 6)),
        inertia=tuple(tuple(float(v) for v in row) for row in (inertia + inertia.T) / 2),
        provenance=(
            *made.asset.provenance,
            f"densities along x: {len(config.slabs)} slabs, {rest:g} elsewhere",
        ),
    )
    check_asset(asset)
    return asset


def _visual(made: MeshAsset, placed: trimesh.Trimesh) -> dict[str, bytes]:
    """Mesh and texture files: every vertex of the light mesh takes the nearest one's colour."""
    from scipy.spatial import cKDTree

    colors = np.asarray(placed.visual.vertex_colors)[:, :3] if _colored(placed) else None
    if colors is None:
        shades = np.tile(np.array(GREY, np.uint8), (len(made.visual.vertices), 1))
    else:
        shades = colors[cKDTree(placed.vertices).query(made.visual.vertices)[1]]
    return textured_files(made.visual, shades.astype(np.uint8), VISUAL)


def _colored(mesh: trimesh.Trimesh) -> bool:
    return mesh.visual.kind == "vertex"
