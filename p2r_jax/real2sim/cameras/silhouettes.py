"""What masks and poses say together: where the object is, how large, whether they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.cameras.rig import Rig, distances_from_lines, names_of, nearest_point
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import read_grey, write_picture
from p2r_jax.real2sim.segment.sheet import contact_sheet
from p2r_jax.real2sim.views import MASK_LEVEL

CARVING_VIEWS = 24  # evenly chosen; more say little more about the extent
CELLS = (40, 56)  # along the longest edge of the box that is carved, of each round
FINER = 3  # times, near the surface, where the length matters
MISSED_BY = 2  # views that may leave out a point of the object, for a mask that fails
# How far the rays of the masks may pass the object's middle: of its radius, or of its reach
# if that is more (the middle of a long, bent object's mask is no point of the object).
APART, APART_OF_REACH = 0.5, 0.22
MOST_APART = 0.25  # share of the views that may be worse
LEAST_FILLED = 0.93  # of a mask's area, by the hull
SPARE = 1.4  # room around the object for the first carving
LAYERS = 48  # of the hull's height, to find its foot
TOUCHING = 0.02  # share of a mask's outline on the picture's edge
LEAST_MASK = 2e-4  # share of the picture; less is an empty mask


@dataclass(frozen=True)
class Silhouettes:
    """The object as the masks show it.

    Attributes:
      masks: one for each camera of the rig.
      pixels: middles of the masks.
      radii: half the angle under which a disc of the mask's area is seen, rad.
      reaches: angle from its middle to the furthest corner of the box around it, rad.
    """

    masks: tuple[Bool[np.ndarray, "h w"], ...]
    pixels: Float[np.ndarray, "n 2"]
    radii: Float[np.ndarray, " n"]
    reaches: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Place:
    """Where the object is, in the units of the rig.

    Attributes:
      middle: where the rays through the masks' middles pass nearest.
      distance: median of the cameras' distances from there.
      radius: of the object, from the masks' areas; median.
      reach: how far its furthest points are from the middle at most.
      apart: median distance of the rays from the middle.
      off: names of views whose ray passes further than ``APART`` allows, or behind the camera.
    """

    middle: Float[np.ndarray, " 3"]
    distance: float
    radius: float
    reach: float
    apart: float
    off: tuple[str, ...]


def read_silhouettes(rig: Rig, masks: Mapping[str, Path]) -> Silhouettes:
    """Load the masks of a rig's frames.

    Raises:
      CaptureError: if a mask is empty, or of another size than its frame.
    """
    loaded = tuple(read_grey(masks[name]) >= MASK_LEVEL for name in rig.names)
    for name, mask, lens in zip(rig.names, loaded, rig.lenses, strict=True):
        if mask.shape != (lens.height, lens.width):
            size = f"{mask.shape[1]} x {mask.shape[0]}"
            raise CaptureError(f"mask is {size} px, its frame {lens.width} x {lens.height}", [name])
    empty = [n for n, mask in zip(rig.names, loaded, strict=True) if mask.mean() < LEAST_MASK]
    if empty:
        raise CaptureError("masks are empty; mend the masks step, or leave the frames out", empty)
    pixels = np.array([_middle(mask) for mask in loaded])
    focal = np.array([lens.matrix[0, 0] for lens in rig.lenses])
    areas = np.array([mask.sum() for mask in loaded])
    reaches = np.array([_reach(*pair) for pair in zip(loaded, pixels, strict=True)])
    return Silhouettes(loaded, pixels, np.sqrt(areas / np.pi) / focal, reaches / focal)


def _middle(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, " 2"]:
    """Mean (u, v) of a mask's pixels."""
    columns, rows = mask.sum(0), mask.sum(1)
    places = [np.arange(len(sums)) @ sums / sums.sum() for sums in (columns, rows)]
    return np.array(places) + 0.5


def _reach(mask: Bool[np.ndarray, "h w"], middle: Float[np.ndarray, " 2"]) -> float:
    spans = [np.flatnonzero(mask.any(axis))[[0, -1]] + [0, 1] for axis in (0, 1)]
    return float(np.hypot(*(np.abs(span - m).max() for span, m in zip(spans, middle, strict=True))))


def locate(rig: Rig, seen: Silhouettes) -> Place:
    """Where the object is.

    Views whose ray passes far off are left out and the rest is asked again.
    """
    rays = np.array([rig.rays(i, pixel)[0] for i, pixel in enumerate(seen.pixels)])
    used = np.ones(len(rays), bool)
    for _ in range(4):
        middle = nearest_point(rig.centers[used], rays[used])
        away = np.linalg.norm(rig.centers - middle, axis=1)
        apart = distances_from_lines(middle, rig.centers, rays)
        radius = float(np.median(away[used] * seen.radii[used]))
        reach = float(np.median(away[used] * seen.reaches[used]))
        limit = max(APART * radius, APART_OF_REACH * reach)
        used = apart <= max(limit, np.median(apart))
    ahead = np.einsum("ni,ni->n", rays, middle - rig.centers) > 0
    off = np.flatnonzero((apart > limit) | ~ahead)
    return Place(
        middle=middle,
        distance=float(np.median(away)),
        radius=radius,
        reach=float((away * seen.reaches)[used].max()),
        apart=float(np.median(apart)),
        off=names_of(rig, off),
    )


def agree(rig: Rig, place: Place) -> bool:
    """Whether masks and poses may belong together: most rays meet before the cameras."""
    return len(place.off) <= MOST_APART * len(rig.names)


@dataclass(frozen=True)
class Hull:
    """A coarse visual hull: cells that all but ``MISSED_BY`` masks contain.

    Attributes:
      points: middles of the cells, on a regular grid.
      step: of the grid, units of the rig.
    """

    points: Float[np.ndarray, "p 3"]
    step: float


def carved(rig: Rig, seen: Silhouettes, place: Place) -> Hull:
    """Carve the object in rounds, each in the box around what the last one left.

    Raises:
      CaptureError: if nothing is left.
    """
    half = SPARE * place.reach
    low, high = place.middle - half, place.middle + half
    chosen = _carving_views(rig)
    for cells in CELLS:
        step = float((high - low).max() / cells)
        points = _kept(rig, seen, _grid(low, high, step), chosen, MISSED_BY)
        if not len(points):
            raise CaptureError(
                "no place in space is inside the masks of all views: poses and masks disagree, or "
                "the object moved while it was filmed",
                names_of(rig, chosen),
            )
        low, high = points.min(0) - 1.5 * step, points.max(0) + 1.5 * step
    return Hull(points, step)


def fine_surface(rig: Rig, seen: Silhouettes, hull: Hull) -> Float[np.ndarray, "p 3"]:
    """Points of the hull near its surface, from cells a third as large and all masks."""
    from scipy.ndimage import binary_dilation, binary_erosion

    origin = hull.points.min(0)
    cell = np.round((hull.points - origin) / hull.step).astype(int) + 2
    full = np.zeros(cell.max(0) + 3, bool)
    full[tuple(cell.T)] = True
    band = binary_dilation(full) & ~binary_erosion(full)
    middles = origin + hull.step * (np.argwhere(band) - 2)
    inside_cell = (np.indices((FINER,) * 3).reshape(3, -1).T + 0.5) / FINER - 0.5
    points = (middles[:, None] + hull.step * inside_cell).reshape(-1, 3)
    return _kept(rig, seen, points, np.arange(len(rig.names)), 0)


def sections(rig: Rig, seen: Silhouettes, hull: Hull, up: np.ndarray):
    """Areas of the hull's horizontal sections, carved anew in thin layers.

    Returns:
      edges of the layers along ``up`` (units of the rig), and areas (in cells).
    """
    axes = np.linalg.svd(np.outer(up, up))[0]
    axes = np.stack([axes[:, 1], axes[:, 2], up])
    box = hull.points @ axes.T
    low, high = box.min(0) - hull.step, box.max(0) + hull.step
    edges = np.linspace(low[2], high[2], LAYERS + 1)
    sides = [np.arange(a, b, 1.5 * hull.step) for a, b in zip(low[:2], high[:2], strict=True)]
    grid = np.meshgrid(*sides, (edges[1:] + edges[:-1]) / 2, indexing="ij")
    points = np.stack(grid, -1).reshape(-1, 3) @ axes
    kept = _kept(rig, seen, points, _carving_views(rig), MISSED_BY)
    return edges, np.histogram(kept @ up, edges)[0]


def _kept(rig: Rig, seen: Silhouettes, points: np.ndarray, chosen, allowed: int) -> np.ndarray:
    """Points that at most ``allowed`` of the chosen masks leave out."""
    allowed = allowed if len(chosen) > 8 else 0
    missed = np.zeros(len(points), int)
    for index in chosen:
        missed += ~_inside(rig, seen, index, points)
        points, missed = points[missed <= allowed], missed[missed <= allowed]
    return points


def _carving_views(rig: Rig) -> np.ndarray:
    return np.unique(np.linspace(0, len(rig.names) - 1, CARVING_VIEWS).round().astype(int))


def _grid(low: np.ndarray, high: np.ndarray, step: float) -> Float[np.ndarray, "p 3"]:
    axes = [np.arange(a + step / 2, b, step) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _inside(rig: Rig, seen: Silhouettes, index: int, points: np.ndarray) -> Bool[np.ndarray, " p"]:
    """Whether points are seen in the mask."""
    pixels = rig.lenses[index].pixels(points @ rig.poses[index, :3, :3].T + rig.poses[index, :3, 3])
    mask = seen.masks[index]
    within = np.all((pixels >= 0) & (pixels < mask.shape[::-1]), axis=1)
    column, row = pixels[within].astype(int).T
    within[within] = mask[row, column]
    return within


def share_on_object(rig: Rig, seen: Silhouettes, points: np.ndarray) -> Float[np.ndarray, " p"]:
    """Share of the views, of those chosen for carving, whose mask contains each point."""
    return np.mean([_inside(rig, seen, i, points) for i in _carving_views(rig)], axis=0)


def cut_by_the_edge(rig: Rig, seen: Silhouettes) -> tuple[str, ...]:
    """Names of the views in which the object reaches the edge of the picture."""
    cut = []
    for name, mask in zip(rig.names, seen.masks, strict=True):
        rim = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
        if rim > TOUCHING * 4 * np.sqrt(mask.sum()):
            cut.append(name)
    return tuple(cut)


def filled(rig: Rig, seen: Silhouettes, hull: Hull) -> Float[np.ndarray, " n"]:
    """Share of each mask's area that the hull, seen from there, fills."""
    shares = []
    for lens, pose, mask in zip(rig.lenses, rig.poses, seen.masks, strict=True):
        points = hull.points @ pose[:3, :3].T + pose[:3, 3]
        nearest = max(float(points[:, 2].min()), 1e-9)
        tile = int(np.ceil(1.5 * hull.step * lens.matrix[0, 0] / nearest))
        rows, columns = mask.shape[0] // tile, mask.shape[1] // tile
        cut = mask[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile)
        wanted = cut.all((1, 3))
        column, row = np.nan_to_num(lens.pixels(points) // tile, nan=-1).astype(int).T
        within = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        hit = np.zeros_like(wanted)
        hit[row[within], column[within]] = True
        shares.append((hit & wanted).sum() / wanted.sum() if wanted.any() else 1.0)
    return np.array(shares)


def check_agreement(
    rig: Rig,
    seen: Silhouettes,
    place: Place,
    hint: str,
    frames: Sequence[Frame],
    picture: Path | None = None,
) -> Hull:
    """The hull of the object; CaptureError if masks and poses contradict each other.

    Args:
      rig: cameras.
      seen: masks.
      place: of the object.
      hint: what may be wrong.
      frames: for the picture.
      picture: where to draw a sheet of the frames, the worst views marked.
    """
    if agree(rig, place):
        hull = carved(rig, seen, place)
        share = filled(rig, seen, hull)
        off = names_of(rig, np.flatnonzero(share < LEAST_FILLED))
        if len(off) <= MOST_APART * len(rig.names):
            return hull
        what = f"what all have in common fills {100 * np.median(share):.0f} % of the masks (median)"
    else:
        off, percent = place.off, 100 / place.distance
        what = (
            f"the rays through the masks' middles pass {percent * place.apart:.1f} % of the camera "
            f"distance from their nearest point (the object's radius: {percent * place.radius:.1f}"
            f" %; medians), or leave the cameras backward"
        )
    if picture is not None:
        by_name = {frame.name: frame for frame in frames}
        notes = ["disagrees" if name in off else None for name in rig.names]
        sheet = contact_sheet([by_name[name] for name in rig.names], seen.masks, notes)
        write_picture(picture, sheet)
    raise CaptureError(f"poses and masks disagree: {what}. {hint} Worst views", off, picture)
