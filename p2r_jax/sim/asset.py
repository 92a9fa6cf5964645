"""An object on disk and in memory: outline, mass properties, where they came from.

An asset folder holds ``object.xml`` (MJCF, made with ``mujoco.MjSpec``) and
``asset.json`` (mass, centre of mass, inertia, parts, how it was made).
Hand-written and reconstructed objects have the same form.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np

from p2r_jax.sim.footprint import Box, Part, Polygon, area_moments, depth_inside

ASSET_ROOT = Path(__file__).parent.parent / "assets"
SCHEMA_VERSION = 2
MAX_CORNERS = 32  # of a part; each costs every physics step


@dataclass(frozen=True)
class TapedWeight:
    """A small metal weight that may be fixed to the object, as a point mass.

    Attributes:
      mass_kg: its mass.
      range_m: lowest and highest position along the object's +x.
    """

    mass_kg: float
    range_m: tuple[float, float]


@dataclass(frozen=True)
class Asset:
    """A rigid object that stands on a table.

    Attributes:
      name: identifier, also the folder's name.
      parts: convex parts of the footprint, each of full height; they may touch, not
        overlap.
      height_m: thickness of the object.
      mass_kg: mass without the weight.
      com_m: centre of mass without the weight, object frame (z from mid height).
      inertia: about that centre of mass, object axes, kg m^2, 3 x 3.
      weight: the movable weight of the experiments, if the object has one.
      contact: convex parts of the region that rests on the table; None: all of the
        footprint.
      visual: file of the visual mesh in the asset's folder, object frame, m.
      texture: picture for the visual mesh, if it has one.
      provenance: where the numbers come from, one line each.
    """

    name: str
    parts: tuple[Part, ...]
    height_m: float
    mass_kg: float
    com_m: tuple[float, float, float]
    inertia: tuple[tuple[float, float, float], ...]
    weight: TapedWeight | None = None
    contact: tuple[Part, ...] | None = None
    visual: str | None = None
    texture: str | None = None
    provenance: tuple[str, ...] = ()

    @property
    def footprint_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the footprint, object frame, m."""
        corners = np.concatenate([part.corners for part in self.parts])
        return corners.min(0), corners.max(0)

    @property
    def resting_parts(self) -> tuple[Part, ...]:
        """Convex parts of the region that rests on the table."""
        return self.contact or self.parts

    @property
    def area(self) -> float:
        """Footprint area, m^2."""
        return float(sum(area_moments(part)[0] for part in self.parts))

    @cached_property
    def uniform_com(self) -> np.ndarray:
        """Centroid of the footprint: the centre of mass of a uniform object, m."""
        return sum(area * center for area, center, _ in map(area_moments, self.parts)) / self.area

    def with_weight(self, position_x) -> tuple:
        """Mass, CoM and inertia with the weight at ``position_x`` on the object's x axis.

        Point-mass model of the released environment
        (``randomize_rigid_body_com_with_taped_weight``): s = m_w / (M + m_w) (r - c),
        I' = I + M (|s|^2 E - s s^T) + m_w (|r-c-s|^2 E - (r-c-s)(r-c-s)^T).

        Args:
          position_x: m, object frame; numpy or JAX scalar. ``None`` means no weight.

        Returns:
          mass (kg), com (3,) in the object frame (m), inertia (3, 3) about it (kg m^2).
        """
        com, inertia = np.array(self.com_m), np.array(self.inertia)
        if position_x is None:
            return self.mass_kg, com, inertia
        if self.weight is None:
            raise ValueError(f"asset {self.name!r} has no movable weight")
        m, w = self.mass_kg, self.weight.mass_kg
        reach = position_x * np.array([1.0, 0.0, 0.0]) - com
        shift = w / (m + w) * reach

        def point_inertia(mass, d):
            return mass * ((d @ d) * np.eye(3) - d[:, None] * d[None, :])

        moved = inertia + point_inertia(m, shift) + point_inertia(w, reach - shift)
        return m + w, com + shift, moved

    def with_com(self, com_xy, mass_scale=1.0) -> tuple:
        """Mass, CoM and inertia with the centre of mass at ``com_xy`` and the mass scaled.

        The mass distribution moves as a whole, so the inertia about the CoM stays; the
        hammer of the released environment is randomised like this.

        Args:
          com_xy: (x, y), m, object frame; numpy or JAX.
          mass_scale: factor on mass and inertia.

        Returns:
          As ``with_weight``.
        """
        com = np.array([0.0, 0.0, self.com_m[2]])
        com = com + com_xy[0] * np.array([1.0, 0, 0]) + com_xy[1] * np.array([0, 1.0, 0])
        return self.mass_kg * mass_scale, com, np.array(self.inertia) * mass_scale


def uniform_inertia(parts: tuple[Part, ...], height: float, mass: float) -> np.ndarray:
    """Inertia of a uniform prism about its own centre of mass, kg m^2, 3 x 3."""
    moments = [area_moments(part) for part in parts]
    area = sum(m[0] for m in moments)
    com = sum(m[0] * m[1] for m in moments) / area
    second = sum(m[2] + m[0] * np.outer(m[1] - com, m[1] - com) for m in moments)
    spread = np.zeros((3, 3))  # mean of r r^T over the volume
    spread[:2, :2], spread[2, 2] = second / area, height**2 / 12
    return mass * (np.trace(spread) * np.eye(3) - spread)


def object_spec(asset: Asset, files: Mapping[str, bytes] | None = None) -> mujoco.MjSpec:
    """The object alone as MJCF: one free body with its parts and explicit inertia.

    Args:
      asset: the object.
      files: content of ``asset.visual`` and ``asset.texture`` by name; the visual mesh is
        shown (group 2) instead of the parts (group 3).
    """
    spec = mujoco.MjSpec()
    spec.modelname = asset.name
    body = add_object(spec, asset)
    body.add_freejoint()
    if files:
        for geom in body.geoms:
            geom.group = 3
        add_visual(spec, body, asset, files)
    return spec


def add_visual(
    spec: mujoco.MjSpec, body: mujoco.MjsBody, asset: Asset, files: Mapping[str, bytes]
) -> None:
    """Give a body the asset's visual mesh, with its texture if it has one (group 2)."""
    spec.assets = {**spec.assets, **files}
    spec.add_mesh(
        name="visual", file=asset.visual, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    )
    geom = body.add_geom(
        name="visual",
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname="visual",
        mass=0.0,
        contype=0,
        conaffinity=0,
        group=2,
        rgba=[0.62, 0.64, 0.68, 1],
    )
    if asset.texture is not None:
        spec.add_texture(name="visual", type=mujoco.mjtTexture.mjTEXTURE_2D, file=asset.texture)
        material = spec.add_material(name="visual", specular=0.1, shininess=0.1)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "visual"
        geom.material, geom.rgba = "visual", [1, 1, 1, 1]


def add_object(spec: mujoco.MjSpec, asset: Asset) -> mujoco.MjsBody:
    """Add body ``object`` with one geom per part; collides only by explicit pairs."""
    body = add_body(spec, asset)
    for index, part in enumerate(asset.parts):
        shape = prism(spec, part, f"{asset.name}_part{index}", asset.height_m)
        body.add_geom(
            name=f"part{index}",
            mass=0.0,
            contype=0,
            conaffinity=0,
            rgba=[0.93, 0.62, 0.20, 1],
            **shape,
        )
    return body


def add_body(spec: mujoco.MjSpec, asset: Asset) -> mujoco.MjsBody:
    """Add body ``object`` at rest on the table, with its inertia and no geoms."""
    body = spec.worldbody.add_body(name="object", pos=[0, 0, asset.height_m / 2])
    body.explicitinertial = True
    body.mass, body.ipos = asset.mass_kg, asset.com_m
    i = np.array(asset.inertia)
    body.fullinertia = [i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2]]
    return body


def prism(spec: mujoco.MjSpec, part: Part, name: str, height: float) -> dict:
    """Geom arguments of an upright prism centred on the body's plane z = 0.

    A polygon adds the mesh ``name`` to the spec.
    """
    if isinstance(part, Box):
        size, pos = [*part.half, height / 2], [*part.center, 0]
        return {"type": mujoco.mjtGeom.mjGEOM_BOX, "size": size, "pos": pos}
    corners = [[x, y, z] for z in (-height / 2, height / 2) for x, y in part.vertices]
    spec.add_mesh(name=name, uservert=np.ravel(corners))
    return {"type": mujoco.mjtGeom.mjGEOM_MESH, "meshname": name}


def save_asset(asset: Asset, folder: Path, files: Mapping[str, bytes] | None = None) -> None:
    """Write ``asset.json``, ``object.xml`` and the visual files; an existing folder is an error.

    Args:
      asset: the object; one that cannot be physical raises ValueError.
      folder: to be made.
      files: content of ``asset.visual`` and ``asset.texture`` by name, if they are set.
    """
    check_asset(asset)
    spec = object_spec(asset, files)
    spec.compile()
    folder.mkdir(parents=True)
    record = {"schema": SCHEMA_VERSION, **asdict(asset)}
    (folder / "asset.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "object.xml").write_text(spec.to_xml())
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)


def load_asset(name_or_folder: str | Path) -> Asset:
    """Load an asset by shipped name (``tblock``) or from a folder.

    Raises:
      FileNotFoundError: names what was looked for and the shipped assets.
      ValueError: for a mass, inertia or centre of mass that cannot be.
    """
    folder = Path(name_or_folder)
    if not (folder / "asset.json").is_file():
        folder = ASSET_ROOT / str(name_or_folder)
    if not (folder / "asset.json").is_file():
        shipped = sorted(p.parent.name for p in ASSET_ROOT.glob("*/asset.json"))
        raise FileNotFoundError(
            f"no asset.json in {name_or_folder!s}; shipped assets: {', '.join(shipped)}"
        )
    record = json.loads((folder / "asset.json").read_text())
    if record.pop("schema") != SCHEMA_VERSION:
        raise ValueError(f"{folder}/asset.json: unknown schema, expected {SCHEMA_VERSION}")
    parts = tuple(_part(p) for p in record.pop("parts"))
    contact = record.pop("contact", None)
    weight = record.pop("weight")
    if weight:
        weight = TapedWeight(weight["mass_kg"], tuple(weight["range_m"]))
    asset = Asset(
        parts=parts,
        contact=tuple(_part(p) for p in contact) if contact else None,
        weight=weight,
        com_m=tuple(record.pop("com_m")),
        inertia=tuple(tuple(row) for row in record.pop("inertia")),
        provenance=tuple(record.pop("provenance")),
        **record,
    )
    check_asset(asset)
    return asset


def _part(record: dict) -> Part:
    if "vertices" in record:
        return Polygon(tuple((float(x), float(y)) for x, y in record["vertices"]))
    return Box(tuple(record["center"]), tuple(record["half"]))


def check_asset(asset: Asset) -> None:
    """Raise ValueError naming the first property that cannot be physical, or be simulated."""
    for index, part in enumerate(asset.parts):
        if len(part.corners) > MAX_CORNERS:
            raise ValueError(
                f"{asset.name}: part {index} has {len(part.corners)} corners, {MAX_CORNERS} are "
                "allowed; leave out some or split it (`p2r task new --mesh` simplifies an outline)"
            )
    if asset.mass_kg <= 0:
        raise ValueError(f"{asset.name}: mass_kg is {asset.mass_kg}; it must be positive")
    moments = np.linalg.eigvalsh(np.array(asset.inertia))
    if moments[0] <= 0 or moments[2] > moments[0] + moments[1] + 1e-12:
        raise ValueError(f"{asset.name}: inertia {moments} is not that of a rigid body")
    outline = np.concatenate([part.corners for part in asset.parts])
    if depth_inside(outline, np.array(asset.com_m[:2])) < 0:
        raise ValueError(
            f"{asset.name}: centre of mass {asset.com_m[:2]} lies outside its footprint; com_m is "
            "in metres from the centre of the footprint's bounding box"
        )


def tblock() -> Asset:
    """The paper's T-block: published outline and masses; our thickness (40 mm).

    Crossbar 0.0476 x 0.20 m at +x ("top"), stem 0.05 m wide, 200 g, bare CoM at
    +3.43 cm; 143.16 g weight on the x axis within +-13 cm.
    """
    length, bar, stem, height, mass = 0.20, 0.0476, 0.05, 0.04, 0.200
    parts = (
        Box((length / 2 - bar / 2, 0.0), (bar / 2, length / 2)),
        Box((-bar / 2, 0.0), ((length - bar) / 2, stem / 2)),
    )
    inertia = uniform_inertia(parts, height, mass)
    return Asset(
        name="tblock",
        parts=parts,
        height_m=height,
        mass_kg=mass,
        com_m=(0.0343, 0.0, 0.0),
        inertia=tuple(tuple(float(v) for v in row) for row in inertia),
        weight=TapedWeight(mass_kg=0.14316, range_m=(-0.13, 0.13)),
        provenance=(
            "outline, masses, bare centre of mass: Phys2Real (arXiv 2510.11689), code and text",
            "height 40 mm: ours, not published",
            "inertia: uniform prism of the outline about its own centre of mass",
        ),
    )


def hammer() -> Asset:
    """A mallet-type hammer of the paper's mass, 620 g, lying on its side.

    The paper reconstructs its hammer and publishes neither outline nor length; the
    proportions are ours: 32 cm long (its CoM range of +-13 cm must fit), head 9.5 x
    4.5 cm at +x, tapered handle 3.0 to 2.4 cm wide, 2.4 cm thick (thicker, and a push at
    mid height tips it over at the highest friction).
    """
    half, head, width, height, mass = 0.16, 0.045, 0.095, 0.024, 0.620
    neck = half - head
    parts = (
        Box((half - head / 2, 0.0), (head / 2, width / 2)),
        Polygon(((-half, -0.012), (neck, -0.015), (neck, 0.015), (-half, 0.012))),
    )
    uniform = Asset("hammer", parts, height, mass, (0.0, 0.0, 0.0), ((0.0,) * 3,) * 3)
    inertia = uniform_inertia(parts, height, mass)
    return replace(
        uniform,
        com_m=(float(uniform.uniform_com[0]), 0.0, 0.0),
        inertia=tuple(tuple(float(v) for v in row) for row in inertia),
        provenance=(
            "mass 620 g: Phys2Real (arXiv 2510.11689)",
            "outline and thickness: ours, proportions of a wooden mallet; not published",
            "centre of mass and inertia: uniform prism of the outline",
        ),
    )
