"""System identification from a few pushes: a posterior over CoM, friction radius, friction.

Two likelihoods, by name: ``force`` compares measured wrenches with a limit surface (cheap),
``motion`` replays the tool in the planar dynamics and needs no force. What all pushes of a
set-up share (marker frame, wrong model) does not average out, so it is added to the
posterior afterwards and 50 pushes claim no more than they know.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from p2r_jax.estimator.hypotheses import DIM, MOTION_DIM, Belief, BeliefConfig
from p2r_jax.estimator.limit_surface import wrench_log_likelihood
from p2r_jax.estimator.push_motion import Replay, ReplayConfig
from p2r_jax.estimator.smc import SmcConfig, sample
from p2r_jax.estimator.sysid_pushes import Segments, body_twist
from p2r_jax.sim.asset import Asset

Evidence = Literal["force", "motion"]
CHI2_95 = 5.991  # of two dimensions


@dataclass(frozen=True)
class SharedError:
    """What all pushes of one set-up have in common, per axis of the centre of mass.

    Chosen on three of the CMU conditions: ``force_model`` is the root mean square of what the
    estimates from 20 pushes share there (``experiments/com_from_real_pushes.py``),
    ``motion_model`` has the best score there (``experiments/choose_motion_noise.py``).

    Attributes:
      frame_m: motion capture frame against outline, standard deviation.
      force_model, motion_model: wrong friction model, relative to the longest side.
    """

    frame_m: float = 0.001
    force_model: float = 0.013
    motion_model: float = 0.02


@dataclass(frozen=True)
class SysidConfig:
    """How to identify.

    Attributes:
      evidence: ``auto`` uses ``force`` where it was measured, else ``motion``.
      belief: prior.
      shared: errors that do not average out.
      replay: of the tool's way, for ``motion``.
      force_sampler, motion_sampler: cost and care.
      seed: of the sampler.
    """

    evidence: Evidence | Literal["auto"] = "auto"
    belief: BeliefConfig = field(default_factory=BeliefConfig)
    shared: SharedError = field(default_factory=SharedError)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    force_sampler: SmcConfig = field(
        default_factory=lambda: SmcConfig(particles=4096, moves=6, last_moves=16)
    )
    motion_sampler: SmcConfig = field(
        default_factory=lambda: SmcConfig(particles=384, moves=4, last_moves=6)
    )
    seed: int = 0


@struct.dataclass
class Posterior:
    """Equally weighted samples; SI units, object frame.

    Attributes:
      com: centre of mass, with the shared error.
      radius: friction radius.
      friction_pusher, friction_table: coefficients.
      mass: kg.
      z: the vectors behind them (without the shared error), for what builds on it.
    """

    com: Float[Array, "*n samples 2"]
    radius: Float[Array, "*n samples"]
    friction_pusher: Float[Array, "*n samples"]
    friction_table: Float[Array, "*n samples"]
    mass: Float[Array, "*n samples"]
    z: Float[Array, "*n samples dim"]

    @property
    def com_mean(self) -> Float[Array, "*n 2"]:
        """Mean of the centre of mass, m."""
        return jnp.mean(self.com, -2)

    @property
    def com_cov(self) -> Float[Array, "*n 2 2"]:
        """Covariance of the centre of mass, m^2."""
        d = self.com - self.com_mean[..., None, :]
        return jnp.einsum("...si,...sj->...ij", d, d) / (d.shape[-2] - 1)

    def covers(self, point: Float[Array, "*n 2"]) -> Bool[Array, "*n"]:
        """Whether the 95 % region (ellipse of mean and covariance) holds a point."""
        d = jnp.asarray(point) - self.com_mean
        solved = jnp.linalg.solve(self.com_cov, d[..., None])[..., 0]
        return jnp.sum(d * solved, -1) <= CHI2_95


class Sysid:
    """Identification of one asset; one compilation per number of pushes and kind of evidence."""

    def __init__(
        self, asset: Asset, tool_radius_m: float | None, config: SysidConfig | None = None
    ):
        """Fix prior, dynamics and sampler.

        Args:
          asset: the object.
          tool_radius_m: of the log; None takes the configured one.
          config: how to identify.
        """
        self.asset, self.config = asset, config or SysidConfig()
        self.belief = Belief(asset, self.config.belief)
        self.replay = Replay(asset, tool_radius_m, self.config.replay)

    def evidence_in(self, segments: Segments) -> Evidence:
        """The likelihood to use for these segments.

        Raises:
          ValueError: if force is asked for and was not measured.
        """
        wanted = self.config.evidence
        if wanted == "auto":
            return "force" if segments.has_force else "motion"
        if wanted != "motion" and not segments.has_force:
            raise ValueError(
                f"evidence {wanted!r} needs the force in every push (columns force_x, force_y); "
                "without it use evidence 'motion'"
            )
        return wanted

    def __call__(self, segments: Segments) -> Posterior:
        """Posterior from all segments together.

        Raises:
          ValueError: if force is asked for and was not measured.
        """
        evidence = self.evidence_in(segments)
        key = jax.random.key(self.config.seed)
        return self._compiled[evidence](key, *self._arrays(segments))

    def many(self, segments: Segments, subsets: Float[np.ndarray, "m k"]) -> Posterior:
        """Posteriors from M subsets (rows of ``segments``) at once; leading axis M."""
        evidence = self.evidence_in(segments)
        keys = jax.random.split(jax.random.key(self.config.seed), len(subsets))
        arrays = jax.tree.map(lambda x: x[jnp.asarray(subsets)], self._arrays(segments))
        return self._compiled_many[evidence](keys, *arrays)

    def log_likelihood(self, evidence: Evidence, z, segments, twist) -> Float[Array, ""]:
        """Log-likelihood of one vector, the segments in ``used`` alone."""
        h = self.belief.hypothesis(z)
        if evidence == "force":
            terms = wrench_log_likelihood(
                h, twist, segments.wrench, jnp.asarray(self.belief.twist_noise)
            )
        else:
            terms = self.replay.log_likelihood(h, segments.start, segments.end, segments.path)
        return jnp.sum(jnp.where(segments.used, terms, 0.0))

    @cached_property
    def _compiled(self) -> dict[Evidence, Callable]:
        return {e: jax.jit(self._posterior(e)) for e in ("force", "motion")}

    @cached_property
    def _compiled_many(self) -> dict[Evidence, Callable]:
        def loop(one):
            return lambda keys, segments, twist: jax.lax.map(
                lambda args: one(*args), (keys, segments, twist)
            )

        return {e: jax.jit(loop(self._posterior(e))) for e in ("force", "motion")}

    def _posterior(self, evidence: Evidence) -> Callable:
        sampler = self.config.force_sampler if evidence == "force" else self.config.motion_sampler
        dim = MOTION_DIM if evidence == "motion" else DIM

        def posterior(key, segments, twist):
            key_sample, key_rest = jax.random.split(key)

            def log_likelihood(z):
                return jax.vmap(lambda v: self.log_likelihood(evidence, v, segments, twist))(z)

            z = sample(log_likelihood, dim, key_sample, sampler).z
            return self._describe(evidence, z, key_rest)

        return posterior

    def _describe(self, evidence: Evidence, z, key) -> Posterior:
        """Samples in physical units; what the pushes said nothing about keeps its prior."""
        key_rest, key_shared, key_mass, key_unseen = jax.random.split(key, 4)
        n = z.shape[0]
        rest = jax.random.normal(key_rest, (n, DIM - z.shape[1]))
        z = jnp.concatenate([z, rest], 1)
        if evidence == "force":  # forces do not depend on the tool's friction
            unseen = jax.random.normal(key_unseen, (n, MOTION_DIM - 3))
            z = z.at[:, 3:MOTION_DIM].set(unseen)
        h = jax.vmap(self.belief.hypothesis)(z)
        mass, friction = self._split_limit_force(z[:, 6], key_mass)
        shared = jax.random.normal(key_shared, (n, 2))
        shared = self.shared_error_m(evidence) * (shared - jnp.mean(shared, 0))
        return Posterior(h.com + shared, h.radius, h.friction_pusher, friction, mass, z)

    def shared_error_m(self, evidence: Evidence) -> float:
        """Standard deviation per axis of what does not average out, m."""
        shared = self.config.shared
        model = shared.motion_model if evidence == "motion" else shared.force_model
        return float(np.hypot(shared.frame_m, model * self.belief.side))

    def _split_limit_force(self, z, key):
        """Mass and friction of the table: force shows their product alone."""
        c = self.config.belief
        total = self.belief.limit_force_spread * z
        share = c.mass_spread**2 / self.belief.limit_force_spread**2
        left = c.mass_spread * c.friction_table_spread / self.belief.limit_force_spread
        heavier = share * total + left * jax.random.normal(key, z.shape)
        mass = self.asset.mass_kg * jnp.exp(heavier)
        return mass, c.friction_table * jnp.exp(total - heavier)

    def _arrays(self, segments: Segments):
        twist = body_twist(np.asarray(segments.start), np.asarray(segments.end))
        return jax.tree.map(jnp.asarray, segments), jnp.asarray(twist, jnp.float32)
