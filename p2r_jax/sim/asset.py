"""An object on disk and in memory: outline, mass properties, where they came from.

An asset folder holds ``object.xml`` (MJCF, made with ``mujoco.MjSpec``) and
``asset.json`` (mass, centre of mass, inertia, parts, how it was made).
Hand-written and reconstructed objects have the same form.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import mujoco
import numpy as np

ASSET_ROOT = Path(__file__).parent.parent / "assets"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Box:
    """A convex part: axis-aligned box in the object frame, full height of the object.

    Attributes:
      center: (x, y), m.
      half: half sizes (x, y), m.
    """

    center: tuple[float, float]
    half: tuple[float, float]


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
      boxes: convex parts of the footprint; they may touch, not overlap.
      height_m: thickness of the object.
      mass_kg: mass without the weight.
      com_m: centre of mass without the weight, object frame (z from mid height).
      inertia: about that centre of mass, object axes, kg m^2, 3 x 3.
      weight: the movable weight of the experiments, if the object has one.
      provenance: where the numbers come from, one line each.
    """

    name: str
    boxes: tuple[Box, ...]
    height_m: float
    mass_kg: float
    com_m: tuple[float, float, float]
    inertia: tuple[tuple[float, float, float], ...]
    weight: TapedWeight | None = None
    provenance: tuple[str, ...] = ()

    @property
    def footprint_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the footprint, object frame, m."""
        centers = np.array([b.center for b in self.boxes])
        halves = np.array([b.half for b in self.boxes])
        return (centers - halves).min(0), (centers + halves).max(0)

    @property
    def area(self) -> float:
        """Footprint area, m^2."""
        return float(sum(4 * b.half[0] * b.half[1] for b in self.boxes))

    @cached_property
    def uniform_com(self) -> np.ndarray:
        """Centroid of the footprint: the centre of mass of a uniform object, m."""
        shares = np.array([4 * b.half[0] * b.half[1] for b in self.boxes]) / self.area
        return shares @ np.array([b.center for b in self.boxes])

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


def uniform_inertia(boxes: tuple[Box, ...], height: float, mass: float) -> np.ndarray:
    """Inertia of a uniform prism about its own centre of mass, kg m^2, 3 x 3."""
    areas = np.array([4 * b.half[0] * b.half[1] for b in boxes])
    centers = np.array([[*b.center, 0.0] for b in boxes])
    com = areas @ centers / areas.sum()
    total = np.zeros((3, 3))
    for area, box, center in zip(areas, boxes, centers, strict=True):
        m = mass * area / areas.sum()
        x, y, z = 2 * box.half[0], 2 * box.half[1], height
        d = center - com
        total += m / 12 * np.diag([y * y + z * z, x * x + z * z, x * x + y * y])
        total += m * ((d @ d) * np.eye(3) - np.outer(d, d))
    return total


def object_spec(asset: Asset) -> mujoco.MjSpec:
    """The object alone as MJCF: one free body with its parts and explicit inertia."""
    spec = mujoco.MjSpec()
    spec.modelname = asset.name
    add_object(spec, asset).add_freejoint()
    return spec


def add_object(spec: mujoco.MjSpec, asset: Asset) -> mujoco.MjsBody:
    """Add body ``object`` with one geom per part; collides only by explicit pairs."""
    body = spec.worldbody.add_body(name="object", pos=[0, 0, asset.height_m / 2])
    body.explicitinertial = True
    body.mass = asset.mass_kg
    body.ipos = asset.com_m
    i = np.array(asset.inertia)
    body.fullinertia = [i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2]]
    for index, box in enumerate(asset.boxes):
        body.add_geom(
            name=f"part{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            mass=0.0,
            size=[*box.half, asset.height_m / 2],
            pos=[*box.center, 0],
            contype=0,
            conaffinity=0,
            rgba=[0.93, 0.62, 0.20, 1],
        )
    return body


def save_asset(asset: Asset, folder: Path) -> None:
    """Write ``asset.json`` and ``object.xml``; an existing folder is an error."""
    folder.mkdir(parents=True)
    record = {"schema": SCHEMA_VERSION, **asdict(asset)}
    (folder / "asset.json").write_text(json.dumps(record, indent=2) + "\n")
    spec = object_spec(asset)
    spec.compile()
    (folder / "object.xml").write_text(spec.to_xml())


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
    boxes = tuple(Box(tuple(b["center"]), tuple(b["half"])) for b in record.pop("boxes"))
    weight = record.pop("weight")
    if weight:
        weight = TapedWeight(weight["mass_kg"], tuple(weight["range_m"]))
    asset = Asset(
        boxes=boxes,
        weight=weight,
        com_m=tuple(record.pop("com_m")),
        inertia=tuple(tuple(row) for row in record.pop("inertia")),
        provenance=tuple(record.pop("provenance")),
        **record,
    )
    check_asset(asset)
    return asset


def check_asset(asset: Asset) -> None:
    """Raise ValueError naming the first property that cannot be physical."""
    if asset.mass_kg <= 0:
        raise ValueError(f"{asset.name}: mass_kg is {asset.mass_kg}; it must be positive")
    moments = np.linalg.eigvalsh(np.array(asset.inertia))
    if moments[0] <= 0 or moments[2] > moments[0] + moments[1] + 1e-12:
        raise ValueError(f"{asset.name}: inertia {moments} is not that of a rigid body")
    lower, upper = asset.footprint_bounds
    com = np.array(asset.com_m[:2])
    if np.any(com < lower) or np.any(com > upper):
        raise ValueError(f"{asset.name}: centre of mass {com} lies outside its footprint")


def tblock() -> Asset:
    """The paper's T-block: published outline and masses; our thickness (40 mm).

    Crossbar 0.0476 x 0.20 m at +x ("top"), stem 0.05 m wide, 200 g, bare CoM at
    +3.43 cm; 143.16 g weight on the x axis within +-13 cm.
    """
    length, bar, stem, height, mass = 0.20, 0.0476, 0.05, 0.04, 0.200
    boxes = (
        Box((length / 2 - bar / 2, 0.0), (bar / 2, length / 2)),
        Box((-bar / 2, 0.0), ((length - bar) / 2, stem / 2)),
    )
    inertia = uniform_inertia(boxes, height, mass)
    return Asset(
        name="tblock",
        boxes=boxes,
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
