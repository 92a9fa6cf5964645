"""The rasteriser's slow twin: every pixel meets every Gaussian, gradients by autodiff."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.projection import NEAR_M, Camera, project
from p2r_jax.real2sim.splat.raster import ALPHA_MAX, COVERED, Rendered
from p2r_jax.real2sim.splat.tiles import ALPHA_MIN, DEFAULT, RasterSettings, drawn_opacities


def render_dense(
    splat: Splat,
    camera: Camera,
    T_world_object: Float[Array, "4 4"] | None = None,
    settings: RasterSettings = DEFAULT,
) -> Rendered:
    """What ``raster.render`` computes, by the formula."""
    if T_world_object is not None:
        camera = camera.seeing(T_world_object)
    p = project(splat, camera)
    order = jnp.argsort(jax.lax.stop_gradient(p.depths))
    opacity = jnp.where(p.depths > NEAR_M, drawn_opacities(splat, p, settings), 0.0)
    features = jnp.concatenate([splat.colours(camera.position), p.depths[:, None]], -1)
    means, conics, opacity, features = (x[order] for x in (p.means, p.conics, opacity, features))

    @jax.checkpoint
    def row(y):
        dx = jnp.arange(camera.width)[:, None] + 0.5 - means[:, 0]
        dy = y + 0.5 - means[:, 1]
        a, b, c = conics.T
        raw = opacity * jnp.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
        alpha = jnp.where(raw >= ALPHA_MIN, jnp.minimum(raw, ALPHA_MAX), 0.0)
        clear = jnp.cumprod(1 - alpha, axis=-1)
        before = jnp.concatenate([jnp.ones((camera.width, 1)), clear[:, :-1]], -1)
        return (alpha * before) @ features, 1 - clear[:, -1]

    blended, alpha = jax.lax.map(row, jnp.arange(camera.height))
    depth = jnp.where(alpha > COVERED, blended[..., 3] / jnp.maximum(alpha, COVERED), 0.0)
    return Rendered(blended[..., :3], depth, alpha, jnp.zeros((), jnp.int32))
