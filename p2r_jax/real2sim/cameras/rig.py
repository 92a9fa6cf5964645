"""Cameras in any frame and scale, with lenses as they are, before they become views."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.real2sim.pictures import missing_package

PINHOLE = "PINHOLE"
STRAIGHT_PX = 0.3  # a lens that bends less than this counts as perfect


@dataclass(frozen=True)
class Lens:
    """Intrinsics in COLMAP's naming; pixel coordinates as in ``views``.

    Attributes:
      model: camera model, e.g. ``PINHOLE``, ``SIMPLE_RADIAL``, ``OPENCV``.
      width, height: px.
      params: of the model.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @classmethod
    def pinhole(cls, width: int, height: int, K: Float[np.ndarray, "3 3"]) -> "Lens":
        """A perfect lens with these intrinsics."""
        return cls(PINHOLE, width, height, (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))

    @property
    def matrix(self) -> Float[np.ndarray, "3 3"]:
        """Intrinsics without the distortion, px."""
        if self.model == PINHOLE:
            fx, fy, cx, cy = self.params
            return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        return np.array(self.colmap().calibration_matrix())

    def colmap(self):
        """The same as a ``pycolmap.Camera``."""
        pycolmap = import_pycolmap()
        return pycolmap.Camera(
            model=self.model, width=self.width, height=self.height, params=list(self.params)
        )

    def scaled(self, width: int, height: int) -> "Lens":
        """The lens of the same picture at another size."""
        if (width, height) == (self.width, self.height):
            return self
        camera = self.colmap()
        camera.rescale(width, height)
        return Lens(self.model, width, height, tuple(float(p) for p in camera.params))

    def straightened(self, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Normalised image coordinates (x/z, y/z) of pixels, free of distortion."""
        pixels = np.asarray(pixels, float).reshape(-1, 2)
        if self.model == PINHOLE:
            return (pixels - self.matrix[:2, 2]) / self.matrix.diagonal()[:2]
        return np.array(self.colmap().cam_from_img(pixels)).reshape(-1, 2)

    def pixels(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Where points in the camera's frame are seen, px; NaN behind the camera."""
        if self.is_straight:
            depth = np.where(points[:, 2:] > 0, points[:, 2:], np.nan)
            return (points @ self.matrix.T)[:, :2] / depth
        return np.array(self.colmap().img_from_cam(points)).reshape(-1, 2)

    @property
    def bend_px(self) -> float:
        """How far the lens moves pixels at most, along the picture's rim and diagonals."""
        if self.model in (PINHOLE, "SIMPLE_PINHOLE"):
            return 0.0
        t = np.linspace(0, 1, 33)
        rim = np.concatenate(
            [np.stack(p, -1) for p in ((t, t), (t, 0 * t), (0 * t, t), (t, 1 - t))]
        )
        pixels = rim * [self.width, self.height]
        straight = self.straightened(pixels)
        K = self.matrix
        moved = straight * K.diagonal()[:2] + K[:2, 2] - pixels
        return float(np.linalg.norm(moved, axis=1).max())

    @cached_property
    def is_straight(self) -> bool:
        """Whether pictures may be used as they are."""
        return self.bend_px <= STRAIGHT_PX


@dataclass(frozen=True)
class Similarity:
    """x -> scale R x + t."""

    scale: float
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]

    def __call__(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Mapped points."""
        return self.scale * points @ self.R.T + self.t


@dataclass(frozen=True)
class Rig:
    """Posed cameras, and points of the scene if any are known.

    Attributes:
      names: of the frames, one for each camera.
      lenses: one for each camera.
      poses: T_camera_world, OpenCV axes.
      points: of the scene, same frame.
      colors: of the points.
      notes: what is known about the making; plain JSON values.
    """

    names: tuple[str, ...]
    lenses: tuple[Lens, ...]
    poses: Float[np.ndarray, "n 4 4"]
    points: Float[np.ndarray, "p 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    colors: UInt8[np.ndarray, "p 3"] = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    notes: dict = field(default_factory=dict)

    @property
    def centers(self) -> Float[np.ndarray, "n 3"]:
        """Camera centres."""
        return -np.einsum("nji,nj->ni", self.poses[:, :3, :3], self.poses[:, :3, 3])

    def moved(self, move: Similarity) -> "Rig":
        """The rig in another frame."""
        poses = np.tile(np.eye(4), (len(self.poses), 1, 1))
        poses[:, :3, :3] = self.poses[:, :3, :3] @ move.R.T
        poses[:, :3, 3] = -np.einsum("nij,nj->ni", poses[:, :3, :3], move(self.centers))
        return replace(self, poses=poses, points=move(self.points))

    def rays(self, index: int, pixels: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """Unit directions, world axes, in which camera ``index`` sees these pixels."""
        flat = self.lenses[index].straightened(pixels)
        rays = np.concatenate([flat, np.ones((len(flat), 1))], 1) @ self.poses[index, :3, :3]
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def align(source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]) -> Similarity:
    """The similarity that maps ``source`` nearest to ``target`` in least squares.

    Umeyama (1991), "Least-squares estimation of transformation parameters between two
    point patterns", eqs. 40-42.

    Raises:
      ValueError: for fewer than three points, or points on a line.
    """
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = source - mean_s, target - mean_t
    U, D, Vt = np.linalg.svd(t.T @ s)
    if len(source) < 3 or D[1] < 1e-9 * D[0]:
        raise ValueError(f"{len(source)} points, or all on a line: they fix no similarity")
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = U @ np.diag(signs) @ Vt
    scale = float((D * signs).sum() / (s**2).sum())
    return Similarity(scale, R, mean_t - scale * R @ mean_s)


def nearest_point(
    origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, " 3"]:
    """The point with the least summed squared distance from lines (unit directions)."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    return np.linalg.lstsq(across.sum(0), np.einsum("nij,nj->i", across, origins), rcond=None)[0]


def distances_from_lines(
    point: Float[np.ndarray, " 3"],
    origins: Float[np.ndarray, "n 3"],
    directions: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, " n"]:
    """How far a point is from each line (unit directions)."""
    return np.linalg.norm(np.cross(point - origins, directions), axis=1)


def compare(rig: Rig, truth: Rig) -> dict[str, float]:
    """How far two rigs disagree after a similarity that fits the camera centres.

    Returns:
      rms and largest distance of centres (in the units of ``truth``), largest and mean
      angle between orientations (degrees), and the scale from rig to truth.
    """
    common = [name for name in rig.names if name in truth.names]
    a = [rig.names.index(name) for name in common]
    b = [truth.names.index(name) for name in common]
    move = align(rig.centers[a], truth.centers[b])
    moved = rig.moved(move)
    off = np.linalg.norm(moved.centers[a] - truth.centers[b], axis=1)
    turn = np.einsum("nij,nkj->nik", moved.poses[a][:, :3, :3], truth.poses[b][:, :3, :3])
    angle = np.rad2deg(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    return {
        "cameras": len(common),
        "center_rms": float(np.sqrt(np.mean(off**2))),
        "center_max": float(off.max()),
        "rotation_mean_deg": float(angle.mean()),
        "rotation_max_deg": float(angle.max()),
        "scale": move.scale,
    }


def import_pycolmap():
    """pycolmap, quiet; an error that names the extra if it is not installed."""
    try:
        import pycolmap
    except ImportError:
        raise missing_package("pycolmap") from None
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    return pycolmap


def names_of(rig: Rig, chosen: Iterable[int]) -> tuple[str, ...]:
    """Names of some of a rig's cameras."""
    return tuple(rig.names[i] for i in chosen)
