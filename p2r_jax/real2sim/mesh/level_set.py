"""A closed surface from a splat alone: the level set of its density.

After SuGaR (Guédon and Lepetit 2023), reimplemented from the paper: the Gaussians' opacities
add up to a density d(p) = sum_g alpha_g exp(-q_g(p) / 2), q the squared Mahalanobis distance;
the surface is where d = ``level``. Near a flat Gaussian of thickness s, s sqrt(-2 log d) is the
distance to its plane, so that function of the density is what is marched: it is nearly linear.
A splat is a shell. What it encloses is made solid: nodes that the outside does not reach, with
the table as a floor where nothing saw the underside.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.real2sim.mesh.volume import Grid, box_grid

REACH = 3.0  # standard deviations
LEAST_DENSITY = 1e-4


class Gaussians(Protocol):
    """What is read of a splat (``p2r_jax.real2sim.splat.Splat`` has it)."""

    @property
    def means(self) -> Float[np.ndarray, "n 3"]:
        """Centres, m."""
        ...

    @property
    def quats(self) -> Float[np.ndarray, "n 4"]:
        """Orientations wxyz, of any length but zero."""
        ...

    @property
    def scales(self) -> Float[np.ndarray, "n 3"]:
        """Standard deviations along the own axes, m."""
        ...

    @property
    def opacities(self) -> Float[np.ndarray, " n"]:
        """In [0, 1]."""
        ...


@dataclass(frozen=True)
class LevelSetConfig:
    """Which level of the density, on which grid.

    Attributes:
      level: density of the surface; SuGaR uses 0.3.
      voxel_m: grid spacing; None takes 1/``resolution`` of the splat's longest side.
      resolution: nodes along the longest side.
      least_opacity: fainter Gaussians are left out.
      seal_voxels: gaps of the shell up to twice this wide are bridged before it is filled.
    """

    level: float = 0.3
    voxel_m: float | None = None
    resolution: int = 160
    least_opacity: float = 0.05
    seal_voxels: int = 3


def level_set_field(
    gaussians: Gaussians, config: LevelSetConfig = LevelSetConfig(), table: bool = True
) -> tuple[Float[np.ndarray, "nx ny nz"], Grid]:
    """A field that is negative inside the splat's outer surface, near it a distance in m.

    Args:
      gaussians: the splat, z up.
      config: see there.
      table: nothing is below z = 0, and what stands on it is closed there.

    Raises:
      ValueError: if no Gaussian is opaque enough.
    """
    means, precision, scales, opacities = _arrays(gaussians, config.least_opacity)
    reach = REACH * scales.max(1, keepdims=True)
    low, high = (means - reach).min(0), (means + reach).max(0)
    if table:
        low[2] = min(low[2], 0.0)
    voxel = config.voxel_m or float((high - low).max()) / config.resolution
    grid = box_grid(low - 2 * voxel, high + 2 * voxel, voxel)
    density = splat_density(means, precision, opacities, reach[:, 0], grid)
    density = np.clip(density, LEAST_DENSITY, 1.0)
    thickness = float(np.median(scales.min(1)))
    steep = np.sqrt(-2 * np.log(density)) - np.sqrt(-2 * np.log(config.level))
    field = thickness * steep
    inside = filled_shell(field < 0, config.seal_voxels, grid.axes[2] < 0 if table else None)
    field = np.where(inside, -np.abs(field), field)
    if table:
        field = np.maximum(field, -grid.axes[2])
    return field.astype(np.float32), grid


def splat_density(
    means: Float[np.ndarray, "n 3"],
    precision: Float[np.ndarray, "n 3 3"],
    opacities: Float[np.ndarray, " n"],
    reach: Float[np.ndarray, " n"],
    grid: Grid,
) -> Float[np.ndarray, "nx ny nz"]:
    """Sum of opacity times Gaussian at every node; each ends at a box of half side ``reach``."""
    density = np.zeros(grid.shape, np.float32)
    last = np.array(grid.shape)
    lows = np.clip(np.ceil((means - reach[:, None] - grid.origin) / grid.voxel), 0, last)
    highs = np.clip(np.floor((means + reach[:, None] - grid.origin) / grid.voxel) + 1, 0, last)
    for mean, A, alpha, low, high in zip(
        means, precision, opacities, lows.astype(int), highs.astype(int), strict=True
    ):
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = [axis[part] - m for axis, part, m in zip(grid.axes, box, mean, strict=True)]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        q = A[0, 0] * x * x + A[1, 1] * y * y + A[2, 2] * z * z
        q = q + 2 * (A[0, 1] * x * y + A[0, 2] * x * z + A[1, 2] * y * z)
        density[box] += alpha * np.exp(-q / 2)
    return density


def filled_shell(
    shell: Bool[np.ndarray, "nx ny nz"], seal: int, floor: Bool[np.ndarray, " nz"] | None
) -> Bool[np.ndarray, "nx ny nz"]:
    """The shell and what a ball that rolls around it cannot reach.

    Args:
      shell: nodes of the surface.
      seal: radius of the ball in nodes: gaps up to twice as wide do not open the shell (and
        corners outside are rounded by as much).
      floor: layers that are below the table, which closes the shell from underneath.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

    margin = seal + 2
    wall = np.pad(shell, margin)
    if floor is not None:
        shadow = binary_fill_holes(wall.any(2))
        wall[:, :, margin : margin + int(floor.sum())] |= shadow[:, :, None]
    free, _ = label(distance_transform_edt(~wall) > seal)
    outside = distance_transform_edt(free != free[0, 0, 0]) <= seal
    inner = tuple(slice(margin, -margin) for _ in range(3))
    return (wall | ~outside)[inner]


def _arrays(gaussians: Gaussians, least_opacity: float):
    """Means, precision matrices, scales and opacities of the Gaussians that can be seen."""
    means, quats, scales, opacities = (
        np.asarray(x, float)
        for x in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities)
    )
    used = (opacities >= least_opacity) & np.isfinite(means).all(1)
    if not used.any():
        raise ValueError(
            f"none of the splat's {len(means)} Gaussians is as opaque as {least_opacity}; fit it "
            "longer, or lower least_opacity"
        )
    means, quats, scales, opacities = (x[used] for x in (means, quats, scales, opacities))
    from scipy.spatial.transform import Rotation

    R = Rotation.from_quat(quats, scalar_first=True).as_matrix()
    precision = (R / scales[:, None, :] ** 2) @ np.swapaxes(R, 1, 2)
    return means, precision, scales, opacities
