"""Gaussians in space to Gaussians in a picture: EWA splatting (Zwicker et al. 2001).

Conventions and constants are gsplat's, whose reference implementation is a test's twin.
"""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.real2sim.splat.gaussians import Splat, rotation_matrices
from p2r_jax.real2sim.views import View

BLUR_PX2 = 0.1  # added to both variances: a pixel is not a point (Mip-Splatting, Yu et al. 2024)
NEAR_M = 0.01
MARGIN = 0.3  # of the picture's size; further out, the projection is linearised at its edge
DETERMINANT_FLOOR = 1e-10


@struct.dataclass
class Camera:
    """A pinhole camera, differentiable in its pose and intrinsics.

    Attributes:
      T_camera_world: maps world coordinates (m) into the camera's frame.
      K: intrinsics, px.
      width, height: of the picture, px (static).
    """

    T_camera_world: Float[Array, "4 4"]
    K: Float[Array, "3 3"]
    width: int = struct.field(pytree_node=False)
    height: int = struct.field(pytree_node=False)

    @property
    def position(self) -> Float[Array, " 3"]:
        """Camera centre in the world, m."""
        R, t = self.T_camera_world[:3, :3], self.T_camera_world[:3, 3]
        return -R.T @ t

    def seeing(self, T_world_object: Float[Array, "4 4"]) -> "Camera":
        """The same camera, relative to an object: renders a splat in the object's frame."""
        return replace(self, T_camera_world=self.T_camera_world @ T_world_object)


def camera_of(view: View) -> Camera:
    """The camera of a view, in single precision."""
    T, K = (jnp.asarray(x, jnp.float32) for x in (view.T_camera_world, view.K))
    return Camera(T, K, view.width, view.height)


class Projected(NamedTuple):
    """Gaussians in a picture.

    Attributes:
      means: px.
      conics: inverse covariance as (xx, xy, yy), 1/px^2.
      depths: z in the camera's frame, m; at most ``NEAR_M`` means not visible.
      spreads: standard deviations along x and y, px.
      shares: of its light that a Gaussian keeps where the blur makes it larger, in (0, 1].
    """

    means: Float[Array, "n 2"]
    conics: Float[Array, "n 3"]
    depths: Float[Array, " n"]
    spreads: Float[Array, "n 2"]
    shares: Float[Array, " n"]


def project(splat: Splat, camera: Camera) -> Projected:
    """Project centres exactly and covariances to first order: J R Sigma R' J' + blur."""
    R, t = camera.T_camera_world[:3, :3], camera.T_camera_world[:3, 3]
    centres = splat.means @ R.T + t
    axes = R @ (rotation_matrices(splat.quats) * splat.scales[:, None, :])
    z = jnp.maximum(centres[:, 2], NEAR_M)
    slopes = centres[:, :2] / z[:, None]
    M = _jacobians(slopes, z, camera) @ axes
    covariances = M @ jnp.swapaxes(M, -1, -2)
    xx, xy, yy = covariances[:, 0, 0], covariances[:, 0, 1], covariances[:, 1, 1]
    sharp = jnp.maximum(xx * yy - xy * xy, DETERMINANT_FLOOR)
    xx, yy = xx + BLUR_PX2, yy + BLUR_PX2
    determinant = jnp.maximum(xx * yy - xy * xy, DETERMINANT_FLOOR)
    conics = jnp.stack([yy, -xy, xx], -1) / determinant[:, None]
    means = slopes @ camera.K[:2, :2].T + camera.K[:2, 2]
    spreads, shares = jnp.sqrt(jnp.stack([xx, yy], -1)), jnp.sqrt(sharp / determinant)
    return Projected(means, conics, centres[:, 2], spreads, shares)


def _jacobians(
    slopes: Float[Array, "n 2"], z: Float[Array, " n"], camera: Camera
) -> Float[Array, "n 2 3"]:
    """Derivative of pixel coordinates by camera coordinates, at slopes within the margin."""
    focal = jnp.stack([camera.K[0, 0], camera.K[1, 1]])
    middle = jnp.stack([camera.K[0, 2], camera.K[1, 2]])
    size = jnp.array([camera.width, camera.height], jnp.float32)
    margin = MARGIN * 0.5 * size / focal
    slopes = jnp.clip(slopes, -middle / focal - margin, (size - middle) / focal + margin)
    scale = focal / z[:, None]
    zero = jnp.zeros_like(z)
    rows = (
        jnp.stack([scale[:, 0], zero, -scale[:, 0] * slopes[:, 0]], -1),
        jnp.stack([zero, scale[:, 1], -scale[:, 1] * slopes[:, 1]], -1),
    )
    return jnp.stack(rows, -2)
