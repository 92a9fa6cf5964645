"""Who renders and optimises a splat: JAX anywhere, or gsplat on a CUDA machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np

from p2r_jax.files import load_pytree, save_pytree
from p2r_jax.real2sim.splat.crops import Crops
from p2r_jax.real2sim.splat.gaussians import Splat
from p2r_jax.real2sim.splat.optimise import Optimiser, OptimiserConfig
from p2r_jax.real2sim.splat.projection import Camera
from p2r_jax.real2sim.splat.raster import Rendered, render
from p2r_jax.real2sim.splat.tiles import RasterSettings

BackendName = Literal["jax", "gsplat", "gsplat-2dgs"]


@dataclass(frozen=True)
class Progress:
    """What some steps saw.

    Attributes:
      squared_error: of the colours over the crops, mean.
      dropped: most (Gaussian, tile) pairs that a step left out.
    """

    squared_error: float
    dropped: int


class SplatBackend(Protocol):
    """A fit in progress; its state is opaque to the caller."""

    def start(self, splat: Splat) -> Any:
        """State before the first step."""

    def advance(self, state: Any, crops: Crops, steps: int) -> tuple[Any, Progress]:
        """Some steps of the optimiser."""

    def steps_done(self, state: Any) -> int:
        """Steps so far."""

    def splat(self, state: Any) -> Splat:
        """The splat so far."""

    def render(self, splat: Splat, camera: Camera) -> Rendered:
        """A picture, as this backend sees the splat."""

    def save(self, path: Path, state: Any) -> None:
        """Write a state from which the fit goes on exactly."""

    def load(self, path: Path, splat: Splat) -> Any:
        """Read what ``save`` wrote; ``splat`` is what the fit was started from."""


class JaxBackend:
    """The rasteriser of this package."""

    def __init__(self, optimiser: Optimiser):
        self._optimiser = optimiser
        self._render = jax.jit(
            lambda splat, camera: render(splat, camera, settings=optimiser.raster)
        )

    def start(self, splat: Splat) -> Any:
        """State before the first step."""
        return self._optimiser.init(splat)

    def advance(self, state: Any, crops: Crops, steps: int) -> tuple[Any, Progress]:
        """Some steps in one jitted program."""
        state, record = self._optimiser.advance(state, crops, steps)
        squared = float(np.mean(record.squared_error))
        return state, Progress(squared, int(np.max(record.dropped)))

    def steps_done(self, state: Any) -> int:
        """Steps so far."""
        return int(state.step)

    def splat(self, state: Any) -> Splat:
        """The splat so far."""
        return state.splat

    def render(self, splat: Splat, camera: Camera) -> Rendered:
        """A picture."""
        return self._render(splat, camera)

    def save(self, path: Path, state: Any) -> None:
        """Write parameters, moments and step."""
        save_pytree(path, state)

    def load(self, path: Path, splat: Splat) -> Any:
        """Read them."""
        return load_pytree(path, self._optimiser.init(splat))


def make_backend(
    name: BackendName,
    config: OptimiserConfig,
    radius_m: float,
    iterations: int,
    seed: int,
    raster: RasterSettings,
) -> SplatBackend:
    """The backend of a name.

    Raises:
      ImportError, RuntimeError: if gsplat or CUDA is missing; says what to do.
    """
    if name == "jax":
        return JaxBackend(Optimiser(config, radius_m, iterations, seed, raster))
    from p2r_jax.real2sim.splat.gsplat_backend import GsplatBackend

    flat = name == "gsplat-2dgs"
    return GsplatBackend(config, radius_m, iterations, seed, flat, raster.antialiased)
