"""A splat: anisotropic Gaussians with colours, as a pytree, and its first guess.

Parameters are stored before activation, as in 3D Gaussian Splatting (Kerbl et al. 2023):
covariance R S S' R' with S = exp(log_scales), opacity = sigmoid(opacity_logits), colour by
spherical harmonics of the direction from which a Gaussian is seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

SH_C0, SH_C1 = 0.28209479177387814, 0.4886025119029199  # real harmonics of degree 0 and 1
COEFFICIENTS = {0: 1, 1: 4}  # per colour, by degree
WIDTH = 0.6  # first standard deviation relative to the distance of neighbours
FLATNESS = 0.2  # thickness of a first Gaussian relative to its width
JITTER = 0.5  # of points that are used twice, in the surface, relative to their spacing
NEIGHBOURS = 6  # that a first normal and width come from


@struct.dataclass
class Splat:
    """Gaussians in some frame, m.

    Attributes:
      means: centres, m.
      quats: orientation, wxyz, of any length but zero.
      log_scales: logarithm of the standard deviations along the own axes, m.
      opacity_logits: opacity before the sigmoid.
      sh: coefficients of the colours, k = 1 (degree 0) or 4 (degree 1).
    """

    means: Float[Array, "n 3"]
    quats: Float[Array, "n 4"]
    log_scales: Float[Array, "n 3"]
    opacity_logits: Float[Array, " n"]
    sh: Float[Array, "n k 3"]

    @property
    def scales(self) -> Float[Array, "n 3"]:
        """Standard deviations, m."""
        return jnp.exp(self.log_scales)

    @property
    def opacities(self) -> Float[Array, " n"]:
        """In (0, 1)."""
        return jax.nn.sigmoid(self.opacity_logits)

    def colours(self, eye: Float[Array, " 3"]) -> Float[Array, "n 3"]:
        """RGB, at least 0, as seen from ``eye`` (m, in the splat's frame)."""
        rgb = 0.5 + SH_C0 * self.sh[:, 0]
        if self.sh.shape[1] > 1:
            away = self.means - eye
            away = away / jnp.linalg.norm(away, axis=-1, keepdims=True)
            x, y, z = (away[:, i : i + 1] for i in range(3))
            rgb = rgb + SH_C1 * (-y * self.sh[:, 1] + z * self.sh[:, 2] - x * self.sh[:, 3])
        return jnp.maximum(rgb, 0.0)


def rotation_matrices(quats: Float[Array, "*n 4"]) -> Float[Array, "*n 3 3"]:
    """Rotations of quaternions wxyz of any length but zero."""
    w, x, y, z = jnp.moveaxis(quats / jnp.linalg.norm(quats, axis=-1, keepdims=True), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def shortest_axes(splat: Splat) -> Float[Array, "n 3"]:
    """The axis of least extent of every Gaussian: its normal, of either sign."""
    axes = jnp.argmin(splat.log_scales, axis=-1)
    R = rotation_matrices(splat.quats)
    return jnp.take_along_axis(R, axes[:, None, None], axis=-1)[..., 0]


def initial_splat(
    points: Float[np.ndarray, "m 3"],
    colours: Float[np.ndarray, "m 3"],
    count: int,
    degree: int = 0,
    opacity: float = 0.9,
    seed: int = 0,
) -> Splat:
    """Discs on a surface given by points: as wide as the points are apart, flat along its normal.

    Args:
      points: on the surface, m; more than ``count`` are thinned out, fewer are repeated
        beside each other.
      colours: of the points, RGB in [0, 1].
      count: Gaussians.
      degree: of the spherical harmonics, 0 or 1.
      opacity: of every Gaussian.
      seed: of the choice of points.

    Raises:
      ValueError: if there are too few points to span a surface.
    """
    from scipy.spatial import cKDTree

    if len(points) <= NEIGHBOURS:
        raise ValueError(f"{len(points)} points are too few to start a splat from")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.resize(rng.permutation(len(points)), count))
    means, near = points[chosen], cKDTree(points)
    normals = _normals(points[near.query(means, NEIGHBOURS)[1]])
    if count > len(points):
        aside = near.query(means, 2)[0][:, 1:] * rng.normal(0, JITTER, means.shape)
        means = means + aside - np.sum(aside * normals, -1, keepdims=True) * normals
    apart = cKDTree(means).query(means, 4)[0][:, 1:].mean(-1)
    width = WIDTH * np.clip(apart, 1e-5, 3 * np.median(apart))
    sh = np.zeros((count, COEFFICIENTS[degree], 3))
    sh[:, 0] = (colours[chosen] - 0.5) / SH_C0
    leaves = (
        means,
        _quats_to(normals),
        np.log(width[:, None] * np.array([1.0, 1.0, FLATNESS])),
        np.full(count, np.log(opacity / (1 - opacity))),
        sh,
    )
    return Splat(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def _normals(patches: Float[np.ndarray, "n m 3"]) -> Float[np.ndarray, "n 3"]:
    """Direction of least variance of every patch of points."""
    centred = patches - patches.mean(1, keepdims=True)
    return np.linalg.eigh(np.swapaxes(centred, 1, 2) @ centred)[1][:, :, 0]


def _quats_to(normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4"]:
    """Rotations that take the z axis to the given unit vectors (or their opposite)."""
    n = np.where(normals[:, 2:] < 0, -normals, normals)
    return np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(len(n))], -1)
