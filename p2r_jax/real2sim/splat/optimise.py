"""Fit a splat to crops with the JAX rasteriser: loss, Adam, one jitted run of many steps."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from p2r_jax.real2sim.splat.crops import Crops
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.raster import render
from p2r_jax.real2sim.splat.surface import bend, facing_normals
from p2r_jax.real2sim.splat.tiles import DEFAULT, RasterSettings


@dataclass(frozen=True)
class OptimiserConfig:
    """Learning rates and weights; lengths relative to the object's radius.

    Attributes:
      means, final_means: learning rate of the centres, falling exponentially.
      quats, scales, opacities, colours: learning rates.
      fall: all rates end at this fraction.
      squared: weight of squared colour errors beside absolute ones.
      mask: weight of squared errors of alpha.
      bend: weight of normals that are off those of the depth (2DGS).
      flat: weight of the Gaussians' thickness (SuGaR: Gaussians lie in the surface).
      binary: weight of opacities away from 0 and 1 (SuGaR: a surface is opaque).
    """

    means: float = 4e-3
    final_means: float = 1e-4
    quats: float = 5e-3
    scales: float = 1e-2
    opacities: float = 3e-2
    colours: float = 5e-2
    fall: float = 0.1
    squared: float = 0.0
    mask: float = 0.3
    bend: float = 0.01
    flat: float = 1.0
    binary: float = 0.01


@struct.dataclass
class FitState:
    """Everything a fit is; saving and loading it resumes exactly."""

    splat: Splat
    optimizer: optax.OptState
    step: Int[Array, ""]


class StepRecord(NamedTuple):
    """Of one step: mean squared colour error on the crop, pairs that were dropped."""

    squared_error: Float[Array, ""]
    dropped: Int[Array, ""]


@dataclass(frozen=True)
class Optimiser:
    """Adam with a rate per kind of parameter; hashable, so that jit knows it."""

    config: OptimiserConfig
    radius_m: float
    iterations: int
    seed: int = 0
    raster: RasterSettings = DEFAULT

    def init(self, splat: Splat) -> FitState:
        """State before the first step."""
        return FitState(splat, self._adam().init(splat), jnp.zeros((), jnp.int32))

    @partial(jax.jit, static_argnums=(0, 3))
    def advance(self, state: FitState, crops: Crops, steps: int) -> tuple[FitState, StepRecord]:
        """Some steps, each on one crop; every crop comes once per epoch, in random order."""

        def step(state, _):
            key_order, key_background = jax.random.split(jax.random.key(self.seed))
            epoch, nth = jnp.divmod(state.step, len(crops))
            order = jax.random.permutation(jax.random.fold_in(key_order, epoch), len(crops))
            background = jax.random.uniform(jax.random.fold_in(key_background, state.step), (3,))
            loss = partial(self.loss, crop=crops[order[nth]], background=background)
            gradient, record = jax.grad(loss, has_aux=True)(state.splat)
            updates, optimizer = self._adam().update(gradient, state.optimizer, state.splat)
            splat = optax.apply_updates(state.splat, updates)
            return FitState(splat, optimizer, state.step + 1), record

        return jax.lax.scan(step, state, length=steps)

    def loss(
        self, splat: Splat, crop: Crops, background: Float[Array, " 3"]
    ) -> tuple[Float[Array, ""], StepRecord]:
        """Colour and mask errors over a background, and the pull towards a surface."""
        c = self.config
        camera = crop.camera
        normals = facing_normals(splat, camera)
        seen = render(splat, camera, settings=self.raster, extra=normals)
        assert seen.extra is not None
        found = seen.rgb + (1 - seen.alpha[..., None]) * background
        error = found - crop.rgb - (1 - crop.mask[..., None]) * background
        squared = jnp.mean(error**2)
        opacity = splat.opacities
        loss = (
            jnp.mean(jnp.abs(error))
            + c.squared * squared
            + c.mask * jnp.mean((seen.alpha - crop.mask) ** 2)
            + c.bend * bend(seen.extra, seen.depth, seen.alpha, camera)
            + c.flat * jnp.mean(jnp.min(splat.scales, -1)) / self.radius_m
            + c.binary * jnp.mean(opacity * (1 - opacity))
        )
        return loss, StepRecord(squared, seen.dropped)

    def _adam(self) -> optax.GradientTransformation:
        c = self.config

        def falling(rate, final):
            return optax.adam(optax.exponential_decay(rate, self.iterations, final), eps=1e-15)

        rates = {
            "means": falling(c.means * self.radius_m, c.final_means / c.means),
            "quats": falling(c.quats, c.fall),
            "log_scales": falling(c.scales, c.fall),
            "opacity_logits": falling(c.opacities, c.fall),
            "sh": falling(c.colours, c.fall),
        }
        labels: Any = dict(zip(rates, rates, strict=True))
        return optax.multi_transform(rates, Splat(**labels))
