"""Which push next? The one that is expected to say most about the centre of mass.

For a planned push (start of the object, way of the tool) outcomes are drawn from hypotheses of
the belief so far; each outcome weights all hypotheses by the likelihood that identification
itself uses. The gain is the expected fall of half the log determinant of the covariance of the
centre of mass, nats. No outcome of a candidate is looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.estimator.hypotheses import DIM
from p2r_jax.estimator.limit_surface import at_com, friction_wrench, wrench_log_likelihood
from p2r_jax.estimator.sysid import Evidence, Sysid
from p2r_jax.estimator.sysid_pushes import Segments, body_twist

LEAST_MOTION_M = 1e-3  # an object that moves less tells nothing, as in ``SegmentConfig``


@dataclass(frozen=True)
class GainConfig:
    """Cost and care of the expectation.

    Attributes:
      hypotheses: of the belief that are weighted.
      outcomes: drawn per candidate.
      seed: of the draws.
    """

    hypotheses: int = 256
    outcomes: int = 48
    seed: int = 0


class Informative:
    """Ranks candidate pushes of one object; one compilation per number of candidates."""

    def __init__(self, sysid: Sysid, evidence: Evidence, config: GainConfig | None = None):
        """Fix likelihood and cost.

        Args:
          sysid: asset, prior, replay.
          evidence: that the pushes will give: ``force`` or ``motion``.
          config: cost and care.
        """
        self.sysid, self.evidence, self.config = sysid, evidence, config or GainConfig()
        self._scale = np.array([1.0, 1.0, sysid.replay.lever])
        self._gains: Callable = jax.jit(self._expected)

    def prior(self) -> Float[Array, "hypotheses dim"]:
        """Hypotheses before any push, as ``Posterior.z`` holds them afterwards."""
        return jax.random.normal(jax.random.key(self.config.seed), (self.config.hypotheses, DIM))

    def gains(
        self, z: Float[Array, "samples dim"], candidates: Segments
    ) -> Float[np.ndarray, " n"]:
        """Expected gain of every candidate, nats; only ``start`` and ``path`` are read.

        Args:
          z: equally weighted samples of the belief (``prior()`` or ``Posterior.z``).
          candidates: planned pushes.

        Raises:
          ValueError: if the belief has fewer samples than ``hypotheses``.
        """
        count = self.config.hypotheses
        if len(z) < count:
            raise ValueError(f"the belief has {len(z)} samples, {count} hypotheses are wanted")
        picked = z[np.linspace(0, len(z) - 1, count).astype(int)]
        key = jax.random.key(self.config.seed)
        return np.asarray(self._gains(picked, jnp.asarray(candidates.start),
                                      jnp.asarray(candidates.path), key))  # fmt: skip

    def rank(self, z: Float[Array, "samples dim"], candidates: Segments) -> np.ndarray:
        """Candidates from the most to the least informative: Int[n]."""
        return np.argsort(-self.gains(z, candidates))

    def _expected(self, z, start, path, key):
        h = jax.vmap(self.sysid.belief.hypothesis)(z)
        keys = jax.random.split(key, len(start))
        return jax.lax.map(lambda args: self._expected_one(h, *args), (start, path, keys))

    def _expected_one(self, h, start, path, key):
        """Expected gain of one push."""
        end = jax.vmap(self.sysid.replay.final_pose, (0, None, None))(h, start, path)
        drawn = jax.tree.map(lambda x: x[:: max(1, len(end) // self.config.outcomes)], (h, end))
        keys = jax.random.split(key, len(drawn[1]))
        likelihood = self._force if self.evidence == "force" else self._motion
        log_weight = jax.vmap(lambda own, e, k: likelihood(h, end, own, start, e, k))(*drawn, keys)
        moved = jnp.linalg.norm((drawn[1] - start) * self._scale, axis=-1)
        log_weight = jnp.where((moved > LEAST_MOTION_M)[:, None], log_weight, 0.0)
        floor = self.sysid.shared_error_m(self.evidence) ** 2 * jnp.eye(2)
        before = _half_log_det(h.com, jnp.zeros(len(end)), floor)
        after = jax.vmap(lambda w: _half_log_det(h.com, w, floor))(log_weight)
        return before - jnp.mean(after)

    def _force(self, h, _, own, start, end, key):
        """Log-likelihood under all ``h`` of a wrench that ``own`` would give."""
        twist = body_twist(start[None], end[None], jnp)
        f_x, f_y, moment = friction_wrench(own, at_com(own, twist))[0]
        moment = moment + own.com[0] * f_y - own.com[1] * f_x
        noise = own.wrench_noise * jax.random.normal(key, (3,)) * jnp.stack([1.0, 1.0, own.radius])
        wrench = own.limit_force * (jnp.stack([f_x, f_y, moment]) + noise)
        twist_noise = jnp.asarray(self.sysid.belief.twist_noise)
        compare = jax.vmap(wrench_log_likelihood, (0, None, None, None))
        terms = compare(h, twist, wrench[None], twist_noise)
        return terms[:, 0]

    def _motion(self, h, ends, own, start, end, key):
        """Log-likelihood under all ``h`` of a final pose that ``own`` would give."""
        replay = self.sysid.replay
        moved = jnp.linalg.norm((end - start) * self._scale)
        end = end + own.motion_noise * moved * jax.random.normal(key, (3,)) / self._scale
        compare = jax.vmap(replay.misfit_log_likelihood, (0, 0, None, None))
        return compare(h, ends[:, None], start[None], end[None])[:, 0]


def _half_log_det(com, log_weight, floor):
    """Half the log determinant of the weighted covariance plus ``floor``."""
    w = jax.nn.softmax(log_weight)
    d = com - w @ com
    return 0.5 * jnp.linalg.slogdet(jnp.einsum("s,si,sj->ij", w, d, d) + floor)[1]
