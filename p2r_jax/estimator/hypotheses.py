"""What system identification is unsure about, and what it believed before any push.

A hypothesis is a vector z, standard normal beforehand; ``Belief`` turns it into
parameters. The prior on the centre of mass is flat over a square (never over the
outline: the mean of the triangle is its centroid, the answer), or a given Gaussian.

Friction under the object is three loaded feet around the centre of mass, each blurred by
a core of radius s: with the core as wide as the whole it is the ellipsoidal limit surface,
with a narrow one three points, in between most patches. Feet are placed relative to the
centre of mass, so they say nothing about it beforehand.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from p2r_jax.sim.asset import Asset
from p2r_jax.sim.planar import GRAVITY

MOTION_DIM = 5  # leading components, all that pushes without force depend on
DIM = 19


@dataclass(frozen=True)
class BeliefConfig:
    """Prior medians and spreads (natural logarithm unless a unit says otherwise).

    Lengths are relative to the longest side of the bounding box.

    Attributes:
      com_shift_m: moves the flat prior of the centre of mass.
      com_mean_m, com_std_m: Gaussian prior instead of the flat one, object frame.
      radius, radius_spread: friction radius.
      friction_pusher, friction_pusher_spread: tool and object.
      friction_table, friction_table_spread: table and object.
      mass_spread: about the asset's mass.
      load_spread: of the feet's loads about equal ones.
      anisotropy: relative difference of friction between directions, standard deviation.
      wrench_noise, motion_noise: misfit of a push relative to the limit wrench and to the
        object's motion; medians. ``experiments/choose_motion_noise.py`` chose the latter.
      noise_spread: of both.
      pose_noise_m: error of a measured motion, standard deviation per axis; of its turn
        by a third of the side.
    """

    com_shift_m: tuple[float, float] = (0.0, 0.0)
    com_mean_m: tuple[float, float] | None = None
    com_std_m: float = 0.04
    radius: float = 0.3
    radius_spread: float = 0.5
    friction_pusher: float = 0.25
    friction_pusher_spread: float = 0.5
    friction_table: float = 0.3
    friction_table_spread: float = 0.4
    mass_spread: float = 0.2
    load_spread: float = 0.25
    anisotropy: float = 0.1
    wrench_noise: float = 0.08
    motion_noise: float = 0.28
    noise_spread: float = 0.3
    pose_noise_m: float = 8e-4


@struct.dataclass
class Hypothesis:
    """One set of parameters; object axes, SI units.

    Attributes:
      com: centre of mass, object frame.
      radius: friction radius: root mean square distance of the load from ``com``.
      friction_pusher: coefficient.
      motion_noise, wrench_noise: relative misfit of a push.
      limit_force: friction of pure sliding, mu m g, N.
      feet: three feet relative to ``com``.
      load: their shares of the weight.
      core: radius that blurs each foot.
      anisotropy: (a, b) of the factor [[1 + a, b], [b, 1 - a]] on friction.
    """

    com: Float[Array, " 2"]
    radius: Float[Array, ""]
    friction_pusher: Float[Array, ""]
    motion_noise: Float[Array, ""]
    wrench_noise: Float[Array, ""]
    limit_force: Float[Array, ""]
    feet: Float[Array, "3 2"]
    load: Float[Array, " 3"]
    core: Float[Array, ""]
    anisotropy: Float[Array, " 2"]


class Belief:
    """The prior of one asset, and what a vector means under it."""

    def __init__(self, asset: Asset, config: BeliefConfig | None = None):
        """Fix scales by the asset's size and mass."""
        self.asset, self.config = asset, config or BeliefConfig()
        lower, upper = asset.footprint_bounds
        self.side = float((upper - lower).max())
        self.center = (lower + upper) / 2

    @property
    def twist_noise(self) -> Float[np.ndarray, " 3"]:
        """Standard deviations of a measured motion: m, m, rad."""
        return self.config.pose_noise_m * np.array([1.0, 1.0, 3 / self.side])

    @property
    def limit_force_median(self) -> float:
        """Median of mu m g, N."""
        return self.config.friction_table * self.asset.mass_kg * GRAVITY

    @property
    def limit_force_spread(self) -> float:
        """Spread of its logarithm."""
        return float(np.hypot(self.config.friction_table_spread, self.config.mass_spread))

    def com(self, z: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
        """Centre of mass, object frame, m."""
        c = self.config
        if c.com_mean_m is not None:
            return jnp.array(c.com_mean_m) + c.com_std_m * z
        return jnp.array(self.center + np.array(c.com_shift_m)) + self.side * (norm.cdf(z) - 0.5)

    def hypothesis(self, z: Float[Array, " dim"]) -> Hypothesis:
        """Parameters of a vector of ``DIM`` components, or of its first ``MOTION_DIM``."""
        c = self.config
        z = jnp.concatenate([z, jnp.zeros(DIM - z.shape[0])])

        def around(median, spread, at):
            return median * jnp.exp(spread * z[at])

        radius = around(c.radius * self.side, c.radius_spread, 2)
        core_share = norm.cdf(z[7])
        load = jax.nn.softmax(c.load_spread * z[8:11])
        feet = z[11:17].reshape(3, 2)
        feet = feet - load @ feet
        size = jnp.sqrt(jnp.sum(load * jnp.sum(feet**2, -1)) + 1e-9)
        return Hypothesis(
            com=self.com(z[:2]),
            radius=radius,
            friction_pusher=around(c.friction_pusher, c.friction_pusher_spread, 3),
            motion_noise=around(c.motion_noise, c.noise_spread, 4),
            wrench_noise=around(c.wrench_noise, c.noise_spread, 5),
            limit_force=around(self.limit_force_median, self.limit_force_spread, 6),
            feet=radius * jnp.sqrt(1 - core_share) * feet / size,
            load=load,
            core=radius * jnp.sqrt(core_share),
            anisotropy=c.anisotropy * z[17:DIM],
        )
