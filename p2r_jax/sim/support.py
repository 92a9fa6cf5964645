"""Support points: where the object rests on the table, and what friction follows.

Every dynamics (planar, contact, "reality") rests on the same explicit points,
so that friction torque means the same everywhere. Two boxes on eight corners
have a mean friction radius of 10 cm where a uniform patch of the same outline
has 6.5 cm: parity without shared points compares two different objects.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from p2r_jax.sim.asset import Asset
from p2r_jax.sim.footprint import Part, area_moments, depth_inside, inside

SUPPORTS = ("patch", "rim", "corners", "feet")


def support_points(asset: Asset, kind: str, count: int = 16) -> np.ndarray:
    """Support points of a footprint, object frame, m: Float[count, 2].

    Args:
      asset: the object.
      kind: ``patch`` (area of the footprint, farthest-point sampled), ``rim``
        (evenly along the outline of the parts), ``corners`` (corners of the convex hull,
        then points of the outline far from those; keeps the width of a thin handle, which
        the means of ``patch`` and ``rim`` do not) or ``feet`` (three feet, the remaining
        rows repeat them so that every kind has the same shape).
      count: number of rows.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind == "patch":
        return _spread(_area_grid(asset, count), count)
    if kind == "rim":
        return _spread(_outline(asset), count)
    if kind == "corners":
        outline = _outline(asset)
        return _farthest(outline, count, _hull_corners(outline, count))
    if kind == "feet":
        grid = _area_grid(asset, count)
        lower, upper = _bounds(asset)
        wanted = np.array([[1, -1], [1, 1], [-1, 0]]) * (upper - lower) / 2 + (upper + lower) / 2
        feet = np.stack([grid[np.sum((grid - w) ** 2, -1).argmin()] for w in wanted])
        return np.resize(feet, (count, 2))
    raise ValueError(f"support {kind!r} is not one of {', '.join(SUPPORTS)}")


def _bounds(asset: Asset) -> tuple[np.ndarray, np.ndarray]:
    corners = np.concatenate([part.corners for part in asset.resting_parts])
    return corners.min(0), corners.max(0)


def _area_grid(asset: Asset, count: int, spacing: float = 0.005) -> np.ndarray:
    """Cell centres of a regular grid that fall inside what rests on the table.

    Cells shrink for a small or narrow region, so that a few share each support point.
    """
    area = sum(area_moments(part)[0] for part in asset.resting_parts)
    spacing = min(spacing, (area / (4 * count)) ** 0.5)
    lower, upper = _bounds(asset)
    axes = [np.arange(a + spacing / 2, b, spacing) for a, b in zip(lower, upper, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return grid[inside(asset.resting_parts, grid)]


def _outline(asset: Asset, spacing: float = 0.0025, inset: float = 1e-3) -> np.ndarray:
    """Points along the outer edge, drawn in by a millimetre."""
    points = np.concatenate([_edge_points(part, spacing, inset) for part in asset.resting_parts])
    margin = 3e-3  # a point whose neighbourhood is all inside lies on a seam between parts
    ring = np.stack([np.cos(a := np.arange(8) * np.pi / 4), np.sin(a)], -1) * margin
    enclosed = np.all([inside(asset.resting_parts, points + step) for step in ring], axis=0)
    return points[~enclosed]


def _edge_points(part: Part, spacing: float, inset: float) -> np.ndarray:
    """Points along the edges of a part, moved inwards by ``inset``, m."""
    corners = part.corners
    points = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        length = np.linalg.norm(b - a)
        along = (b - a) / length
        inwards = inset * np.array([-along[1], along[0]])
        if tuple(along) < (0.0, 0.0):  # count from the same end whichever way round
            a, along = b, -along
        at = inset + np.arange(0.0, length - 2 * inset, spacing)
        points.append(a + at[:, None] * along + inwards)
    return np.concatenate(points)


def _spread(candidates: np.ndarray, count: int) -> np.ndarray:
    """``count`` cluster means of the candidates (Lloyd), so each stands for equal area."""
    centers = _farthest(candidates, count)
    for _ in range(50):
        label = np.argmin(((candidates[:, None] - centers[None]) ** 2).sum(-1), axis=1)
        centers = np.stack([candidates[label == i].mean(0) for i in range(count)])
    return centers


def _farthest(candidates: np.ndarray, count: int, first: np.ndarray | None = None) -> np.ndarray:
    """``count`` candidates, each as far as possible from those before it."""
    chosen = [candidates[0]] if first is None else list(first)
    while len(chosen) < count:
        gap = np.min([np.sum((candidates - c) ** 2, -1) for c in chosen], axis=0)
        chosen.append(candidates[gap.argmax()])
    return np.array(chosen)


def matching(
    a: Float[np.ndarray, "points 2"], b: Float[np.ndarray, "points 2"]
) -> Int[np.ndarray, " points"]:
    """For every point of ``a`` one of ``b`` of its own, so that the squared way is shortest."""
    from scipy.optimize import linear_sum_assignment  # a quarter of a second to import

    cost = ((a[:, None] - b[None]) ** 2).sum(-1)
    return linear_sum_assignment(cost)[1]


def _hull_corners(candidates: np.ndarray, count: int, tolerance: float = 1e-3) -> np.ndarray:
    """At most ``count`` candidates whose hull leaves none further out than ``tolerance``, m."""
    chosen = _farthest(candidates, 3, candidates[candidates.argmin(0)[:1]])
    while len(chosen) < count:
        depth = depth_inside(chosen, candidates)
        if depth.min() > -tolerance:
            break
        chosen = np.append(chosen, candidates[[depth.argmin()]], axis=0)
    return chosen


def check_support(
    support: Float[np.ndarray, "points 2"], com_xy: Float[np.ndarray, "n 2"], name: str
) -> None:
    """The support must enclose every centre of mass, else the object tips over.

    Args:
      support: support points, object frame, m.
      com_xy: corners of the range of the centre of mass, object frame, m.
      name: of the object, for the message.

    Raises:
      ValueError: naming the centre of mass that sticks out furthest.
    """
    depth = depth_inside(support, com_xy)
    worst = int(np.argmin(depth))
    if depth[worst] <= 0:
        x, y = 100 * com_xy[worst]
        (low_x, low_y), (high_x, high_y) = 100 * support.min(0), 100 * support.max(0)
        raise ValueError(
            f"{name}: with its centre of mass at ({x:.2f}, {y:.2f}) cm the object would tip over: "
            f"its support points span x {low_x:.2f} to {high_x:.2f}, y {low_y:.2f} to "
            f"{high_y:.2f} cm and do not enclose it; narrow the range of the centre of mass or "
            "choose another support"
        )


def support_load(
    support: Float[Array, "points 2"], com: Float[Array, " 2"]
) -> tuple[Float[Array, " points"], Float[Array, "points 2"]]:
    """Share of the weight on each support point, and how it shifts.

    A rigid body on equally stiff points: the load is linear over the points
    with its centroid at the centre of pressure, and no point pulls (those that
    would are dropped, twice).

    Returns:
      load: sums to one, for a centre of pressure at ``com``.
      gradient: change of the load per metre that the centre of pressure moves.
    """
    ones = jnp.ones(support.shape[0])
    basis = jnp.concatenate([ones[:, None], support - com], -1)

    def balance(active):
        gram = (basis * active[:, None]).T @ basis + 1e-9 * jnp.eye(3)
        return active[:, None] * (basis @ jnp.linalg.inv(gram))

    response = balance(ones)
    for _ in range(2):
        response = balance((response[:, 0] > 0).astype(response.dtype))
    load = jnp.maximum(response[:, 0], 0.0)
    return load / load.sum(), response[:, 1:]


def friction_radius(support: Float[Array, "points 2"], com: Float[Array, " 2"]) -> Float[Array, ""]:
    """Mean distance of the load from the centre of mass, m: tau_max = mu m g radius."""
    return jnp.sum(support_load(support, com)[0] * jnp.linalg.norm(support - com, axis=-1))
