"""The mirror plane of a surface, how good it is, and mirroring what is good enough.

A reflection keeps distances, so the mean distance from a surface's mirror image to the surface
is also that from the surface to its mirror image: one direction is both.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.mesh.volume import Grid, sample

if TYPE_CHECKING:
    import trimesh

POINTS = 6000  # on the surface whose mirror images are matched
DENSE = 4  # times as many to match them with
AGREEING = 0.98  # share of the surface that has to agree
TRIMMED = 0.95  # share of the matches that a plane is fitted to
YAWS, DIRECTIONS = 60, 400  # first guesses: upright planes, free planes
REFINED = 3  # of them, the best
STEPS = 30  # of the refinement
EPSILON = 1e-9
Plane = Literal["upright", "free", "level"]


@dataclass(frozen=True)
class SymmetryConfig:
    """What counts as symmetric, and what is done about it.

    Attributes:
      mirror: ``auto`` mirrors what is symmetric within ``threshold``, ``yes`` also stops at
        what is not, ``no`` only measures.
      plane: ``upright`` contains the z axis' direction, ``free`` does not have to.
      underside: what is the same above and below is carved below, where nobody filmed it, as
        above (unless ``mirror`` is ``no``).
      threshold: largest score that counts as symmetric.
    """

    mirror: Literal["auto", "yes", "no"] = "auto"
    plane: Literal["upright", "free"] = "upright"
    underside: bool = True
    threshold: float = 0.02


@dataclass(frozen=True)
class MirrorPlane:
    """A plane, and how well a surface agrees with its mirror image.

    Attributes:
      normal: unit vector; points x with normal . x = offset are on the plane.
      offset: m.
      score: distance within which 98 % of the surface lies from its mirror image, over the
        diagonal of the bounding box; 0 is perfect.
      mean: mean of those distances, over the same diagonal.
    """

    normal: Float[np.ndarray, " 3"]
    offset: float
    score: float
    mean: float

    def reflect(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Mirror images of points, m."""
        return points - 2 * (points @ self.normal - self.offset)[..., None] * self.normal

    @property
    def yaw_rad(self) -> float:
        """Direction of the normal seen from above, in [0, pi)."""
        return float(np.arctan2(self.normal[1], self.normal[0]) % np.pi)


def find_mirror_plane(
    mesh: "trimesh.Trimesh", plane: Plane = "upright", seed: int = 0
) -> MirrorPlane:
    """The plane in which a surface is most like its mirror image.

    First guesses through the centroid in many directions; the best are refined by matching
    mirrored points to the planes of their nearest neighbours (Gauss-Newton, the worst 5 % of
    the matches left out).

    Args:
      mesh: any surface, m.
      plane: upright planes only, any, or the one that starts out level.
      seed: of the points sampled on the surface.
    """
    surface = _Surface(mesh, seed)
    guesses = [(n, n @ surface.centroid) for n in _directions(plane)]
    rough = [surface.distances(n, o, every=20).mean() for n, o in guesses]
    best = [guesses[i] for i in np.argsort(rough)[:REFINED]]
    refined = [_refined(surface, n, o, plane == "upright") for n, o in best]
    normal, offset = min(refined, key=lambda p: _trimmed_mean(surface.distances(*p)))
    distances = surface.distances(normal, offset)
    score, mean = np.quantile(distances, AGREEING), distances.mean()
    return MirrorPlane(
        normal, float(offset), float(score / surface.size), float(mean / surface.size)
    )


def surface_distances_to_mirror(
    mesh: "trimesh.Trimesh", plane: MirrorPlane, seed: int = 0
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Points on a surface, and how far their mirror images are from it, m."""
    surface = _Surface(mesh, seed)
    return surface.points, surface.distances(plane.normal, plane.offset)


def mirror_image(
    field: Float[np.ndarray, "nx ny nz"], grid: Grid, plane: MirrorPlane
) -> Float[np.ndarray, "nx ny nz"]:
    """The field behind the mirror, at the same nodes."""
    return sample(field, grid, plane.reflect(grid.nodes())).reshape(grid.shape)


def mirrored_field(
    field: Float[np.ndarray, "nx ny nz"],
    grid: Grid,
    plane: MirrorPlane,
    seen: Float[np.ndarray, "nx ny nz"] | None = None,
) -> Float[np.ndarray, "nx ny nz"]:
    """A signed distance made symmetric: the mean of itself and its mirror image.

    Args:
      field: m, negative inside.
      grid: its nodes; has to reach around the object by a voxel on the mirrored side too.
      plane: of symmetry.
      seen: how well every node was seen; the better-seen side counts more.
    """
    other = mirror_image(field, grid, plane)
    if seen is None:
        return ((field + other) / 2).astype(np.float32)
    here, there = seen + EPSILON, mirror_image(seen, grid, plane) + EPSILON
    return ((here * field + there * other) / (here + there)).astype(np.float32)


class _Surface:
    """Points on a surface with normals, ready to be asked for nearest neighbours."""

    def __init__(self, mesh: "trimesh.Trimesh", seed: int):
        import trimesh
        from scipy.spatial import cKDTree

        dense, faces = trimesh.sample.sample_surface(mesh, DENSE * POINTS, seed=seed)
        self.dense, self.normals = np.asarray(dense), np.asarray(mesh.face_normals[faces])
        self.points = np.asarray(trimesh.sample.sample_surface(mesh, POINTS, seed=seed + 1)[0])
        self.tree = cKDTree(self.dense)
        self.size = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
        self.centroid = self.dense.mean(0)

    def matched(self, normal, offset, every: int = 1):
        """Mirror images of the points, their nearest neighbours and those's normals."""
        points = self.points[::every]
        images = points - 2 * (points @ normal - offset)[:, None] * normal
        nearest = self.tree.query(images)[1]
        return points, images, self.dense[nearest], self.normals[nearest]

    def distances(self, normal, offset, every: int = 1) -> Float[np.ndarray, " n"]:
        """From the mirror images to the surface (its tangent at the nearest sample), m."""
        _, images, nearest, normals = self.matched(normal, offset, every)
        across = np.abs(((images - nearest) * normals).sum(1))
        apart = np.linalg.norm(images - nearest, axis=1)
        # The samples are a grain apart; only beyond that is the nearest one truly away.
        grain = 2 * np.sqrt(self.size**2 / len(self.dense))
        return np.where(apart < grain, across, apart)


def _refined(surface: _Surface, normal, offset, upright: bool):
    """Gauss-Newton on point-to-plane distances of the mirror images."""
    for _ in range(STEPS):
        points, images, nearest, tangent = surface.matched(normal, offset, every=2)
        error = ((images - nearest) * tangent).sum(1)
        apart = np.linalg.norm(images - nearest, axis=1)
        kept = apart <= np.quantile(apart, TRIMMED)
        turns = _turns(normal, upright)
        height = points @ normal - offset
        # image = p - 2 (n.p - o) n, with n + dn: -2 ((dn.p - do) n + (n.p - o) dn)
        facing = tangent @ normal
        columns = [-2 * (points @ d * facing + height * (tangent @ d)) for d in turns]
        J = np.stack([*columns, 2 * facing], 1)[kept]
        step = np.linalg.lstsq(J, -error[kept], rcond=1e-6)[0]
        normal = normal + sum(s * d for s, d in zip(step, turns, strict=False))
        length = np.linalg.norm(normal)
        normal, offset = normal / length, (offset + step[-1]) / length
        if np.abs(step[:-1]).max() < 1e-5 and abs(step[-1]) < 1e-6 * surface.size:
            break
    return normal, offset


def _turns(normal, upright: bool) -> list[np.ndarray]:
    """Directions in which the normal may move."""
    if upright:
        return [np.array([-normal[1], normal[0], 0.0])]
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    return [first, np.cross(normal, first)]


def _directions(plane: Plane) -> Float[np.ndarray, "n 3"]:
    """Normals around half a circle, over half a sphere (Fibonacci), or one straight up."""
    if plane == "level":
        return np.array([[0.0, 0.0, 1.0]])
    if plane == "upright":
        yaw = np.pi * np.arange(YAWS) / YAWS
        return np.stack([np.cos(yaw), np.sin(yaw), np.zeros(YAWS)], 1)
    i = np.arange(DIRECTIONS) + 0.5
    z, turn = i / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * i
    across = np.sqrt(1 - z * z)
    return np.stack([across * np.cos(turn), across * np.sin(turn), z], 1)


def _trimmed_mean(distances: Float[np.ndarray, " n"]) -> float:
    return float(np.sort(distances)[: int(TRIMMED * len(distances))].mean())
