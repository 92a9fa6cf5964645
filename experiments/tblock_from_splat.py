"""The T of Embodied Gaussians from its splat alone: level set, mirror plane, watertight mesh.

    python experiments/tblock_from_splat.py    # seconds

Input: 498 Gaussians of ``../shared/data/embodied_gaussians_pusht`` (no pictures). The outline
of the mesh is held against the splat's own outline seen from above, against the particles of
the same file, and against the T fitted to silhouettes of the videos (SOURCE.md there).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import shapely
import tyro
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation
from skimage.measure import find_contours

from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.real2sim.mesh.clean import CleanConfig
from p2r_jax.real2sim.mesh.level_set import LevelSetConfig
from p2r_jax.real2sim.mesh.step import MeshConfig, make_mesh
from p2r_jax.sim.mesh_outline import shadow

SILHOUETTE_FIT_M = {"bar_length": 0.188, "bar_width": 0.045, "stem_length": 0.149, "height": 0.051}
OPAQUE = 0.5  # seen from above, the splat's outline is where it is this opaque
PIXEL_M = 1e-3
PARTICLE_RADIUS_M = 0.006


@dataclass(frozen=True)
class SplatConfig:
    """What to read and where to write.

    Attributes:
      data: the data set.
      out: JSON file; the picture goes next to it.
      mesh: folder of the mesh.
    """

    data: Path = Path("../shared/data/embodied_gaussians_pusht")
    out: Path = Path(__file__).parent / "results" / "tblock_from_splat.json"
    mesh: Path = Path("runs/tblock_from_splat")


@dataclass(frozen=True)
class TShape:
    """A T on the table; lengths in m. The stem is measured from the bar's lower edge.

    Attributes:
      x, y: middle of the bar.
      yaw: of the bar's direction, rad; the stem points to yaw - 90 deg.
      bar_length, bar_width, stem_length, stem_width: of the two rectangles.
    """

    x: float
    y: float
    yaw: float
    bar_length: float
    bar_width: float
    stem_length: float
    stem_width: float

    @property
    def polygon(self) -> shapely.Polygon:
        """The outline."""
        a, b, s = self.bar_length / 2, self.bar_width / 2, self.stem_width / 2
        end = -b - self.stem_length
        loop = [(-a, b), (-a, -b), (-s, -b), (-s, end), (s, end), (s, -b), (a, -b), (a, b)]
        turned = shapely.affinity.rotate(
            shapely.Polygon(loop), self.yaw, origin=(0, 0), use_radians=True
        )
        return shapely.affinity.translate(turned, self.x, self.y)


def read_splat(data: Path) -> tuple[SimpleNamespace, Float[np.ndarray, "n 3"]]:
    """The T's Gaussians and particles, table at z = 0, m.

    Raises:
      FileNotFoundError: if the data set is not there.
    """
    file = data / "objects" / "tblock.json"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}; this needs the Embodied Gaussians push-T data")
    record = json.loads(file.read_text())
    plane = np.array(json.loads((data / "environment" / "ground_plane.json").read_text())["plane"])
    plane = plane / np.linalg.norm(plane[:3])
    level, _ = Rotation.align_vectors([[0, 0, 1.0]], [plane[:3]])
    X_WB = np.array(record["X_WB"])
    turn = level * Rotation.from_matrix(X_WB[:3, :3])

    def placed(points):
        world = np.array(points) @ X_WB[:3, :3].T + X_WB[:3, 3]
        return level.apply(world) + np.array([0, 0, plane[3]])

    g = record["gaussians"]
    own = Rotation.from_quat(np.array(g["quats"]), scalar_first=True)
    splat = SimpleNamespace(
        means=placed(g["means"]),
        quats=(turn * own).as_quat(scalar_first=True),
        scales=np.array(g["scales"]),
        opacities=np.array(g["opacities"]),
    )
    return splat, placed(record["particles"]["means"])


def outline_from_above(splat: SimpleNamespace) -> shapely.Geometry:
    """Where the splat, seen straight from above, lets less than half of the light through."""
    R = Rotation.from_quat(splat.quats, scalar_first=True).as_matrix() * splat.scales[:, None, :]
    precision = np.linalg.inv((R @ np.swapaxes(R, 1, 2))[:, :2, :2])
    low, high = splat.means[:, :2].min(0) - 0.04, splat.means[:, :2].max(0) + 0.04
    xs, ys = (np.arange(a, b, PIXEL_M) for a, b in zip(low, high, strict=True))
    passed = np.zeros((len(xs), len(ys)))
    for mean, A, opacity in zip(splat.means, precision, splat.opacities, strict=True):
        x, y = xs[:, None] - mean[0], ys - mean[1]
        q = A[0, 0] * x * x + 2 * A[0, 1] * x * y + A[1, 1] * y * y
        passed += np.log1p(-np.minimum(opacity, 0.999) * np.exp(-q / 2))
    loops = find_contours(1 - np.exp(passed), OPAQUE)
    return max((shapely.Polygon(low + PIXEL_M * loop) for loop in loops), key=lambda p: p.area)


def fit_t(outline: shapely.Geometry) -> tuple[TShape, float]:
    """The T that overlaps an outline best, and the intersection over union."""

    def loss(values) -> float:
        polygon = TShape(*values[:2], values[2], *np.abs(values[3:])).polygon
        return -polygon.intersection(outline).area / polygon.union(outline).area

    size = (0.19, 0.05, 0.15, 0.05)
    middle = np.array(outline.centroid.coords[0])
    starts = []
    for yaw in np.arange(-np.pi, np.pi, np.pi / 12):
        centroid = np.array(TShape(0.0, 0.0, yaw, *size).polygon.centroid.coords[0])
        starts.append([*(middle - centroid), yaw, *size])
    best = min(starts, key=loss)
    steps = np.array([0.02, 0.02, 0.2, 0.02, 0.01, 0.02, 0.01])
    for _ in range(3):
        simplex = np.array([best, *(np.array(best) + np.diag(steps))])
        found = minimize(
            loss, best, method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxiter": 1500, "xatol": 1e-5, "fatol": 1e-6},
        )  # fmt: skip
        best, steps = found.x, steps / 3
    return TShape(*best[:3], *np.abs(best[3:])), -float(found.fun)


def iou(a: shapely.Geometry, b: shapely.Geometry) -> float:
    """Intersection over union."""
    return float(a.intersection(b).area / a.union(b).area)


def draw(path: Path, outlines: dict[str, shapely.Geometry], means) -> None:
    """The outlines over the Gaussians' centres."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(aspect="equal", xlabel="x, cm", ylabel="y, cm")
    axes.plot(*(100 * means[:, :2].T), ".", color="0.75", markersize=3, label="Gaussians' centres")
    for (label, outline), colour in zip(outlines.items(), ("C0", "C1", "C3"), strict=True):
        for i, piece in enumerate(shapely.get_parts(outline)):
            loop = 100 * np.array(piece.exterior.coords)
            axes.plot(*loop.T, color=colour, label=label if i == 0 else None)
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main(config: SplatConfig) -> None:
    """Make the mesh, compare the outlines, write JSON and picture."""
    splat, particles = read_splat(config.data)
    settings = MeshConfig(
        surface="level_set",
        level_set=LevelSetConfig(voxel_m=0.002),
        clean=CleanConfig(colour_edge_m=None),
    )
    result = make_mesh(settings, [], None, splat, config.mesh)
    outline = shadow(np.asarray(result.mesh.triangles[:, :, :2]), both_sides=True)
    own = outline_from_above(splat)
    shape, overlap = fit_t(outline)
    fit = {**SILHOUETTE_FIT_M, "stem_width": SILHOUETTE_FIT_M["bar_width"]}
    found = asdict(shape) | {"height": float(result.mesh.extents[2])}
    silhouettes = TShape(shape.x, shape.y, shape.yaw, **{k: fit[k] for k in fit if k != "height"})
    differences = {f"{name}_mm": round(1e3 * (found[name] - fit[name]), 1) for name in fit}
    reach = np.ptp(own.exterior.coords, axis=0)
    spheres = shapely.union_all(shapely.buffer(shapely.points(particles[:, :2]), PARTICLE_RADIUS_M))
    record = {
        "schema": 1,
        **provenance(),
        "settings": as_record(config) | {"out": config.out.name},
        "frames": "Gaussians placed by X_WB, then turned and lifted so that ground_plane.json "
        "is z = 0; particles alike; metres",
        "gaussians": len(splat.means),
        "mesh": {k: result.record[k] for k in ("watertight", "faces", "volume_m3", "surface_m2",
                 "uniform_com_m", "bounds_m", "symmetry")},
        "outline_of_mesh_against_splats": {
            "iou": iou(outline, own),
            "largest_distance_mm": 1e3 * shapely.hausdorff_distance(outline, own, densify=0.02),
            "extent_of_splat_mm": np.round(1e3 * reach, 1).tolist(),
            "extent_of_mesh_mm": np.round(1e3 * result.mesh.extents[:2], 1).tolist(),
        },
        "outline_of_mesh_against_particles_iou": iou(outline, spheres),
        "t_fitted_to_mesh_outline": {k: round(v, 5) for k, v in found.items()} | {"iou": overlap},
        "t_of_the_silhouettes": fit,
        "mesh_minus_silhouettes": differences,
    }  # fmt: skip
    config.out.parent.mkdir(parents=True, exist_ok=True)
    outlines = {
        "mesh from the splat": outline,
        "splat seen from above": own,
        "T of the silhouette fit, best laid over": silhouettes.polygon,
    }
    draw(config.out.with_suffix(".png"), outlines, splat.means)
    write_json(config.out, record)
    print(json.dumps({k: v for k, v in record.items() if "outline" in k or "minus" in k}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(SplatConfig))
