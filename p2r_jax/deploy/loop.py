"""The control step: observe, estimate, fuse, act. Pure, jitted, vmappable.

Evaluation in "reality" and deployment on a robot call the same ``loop_step``;
only their drivers differ.
"""

from typing import Literal

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.fusion import PAPER, Evidence, FusionRule
from p2r_jax.policy.policy import Policy
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.window import Window
from p2r_jax.types import Gaussian, Measurement, PlanarPose

ThetaSource = Literal["given", "estimate", "fused", "explore"]
EXPLORE_ABOVE = 0.3  # of theta's standard deviation in training
SWAY, SWAYS_PER_TURN = 2.0, 3


@struct.dataclass
class Bundle:
    """What runs on the robot.

    Attributes:
      policy: the actor.
      ensemble: the estimator.
      prior: belief from vision; with source ``given`` its mean is used as it is.
      goal: goal pose of the object, world frame.
      source: which theta the policy is told (static).
      rule: how prior and estimate are fused; the paper's by default (static).
    """

    policy: Policy
    ensemble: Ensemble
    prior: Gaussian
    goal: PlanarPose
    source: ThetaSource = struct.field(pytree_node=False)
    rule: FusionRule = struct.field(pytree_node=False, default=PAPER)

    def empty_memory(self) -> "Memory":
        """Memory at the start of an episode."""
        contract = self.ensemble.contract
        past = Evidence.none(len(contract.theta)) if self.rule.remember else None
        blank = Memory.empty(contract.history)
        return blank.replace(past=past, policy=self.policy.empty_memory())


@struct.dataclass
class Memory:
    """What the loop remembers between steps.

    Attributes:
      window: history of the estimator.
      sent: the action that was really sent last.
      past: evidence about theta so far; None where the rule remembers nothing.
      policy: what a recurrent policy remembers; None for the others.
    """

    window: Window
    sent: Float[Array, " 2"]
    past: Evidence | None = None
    policy: Float[Array, " m"] | None = None

    @classmethod
    def empty(cls, history: int) -> "Memory":
        """Memory at the start of an episode."""
        return cls(Window.empty(history), jnp.zeros(2))


@struct.dataclass
class Diagnostics:
    """What the loop knew at a step: prior, estimate, fused belief, theta it used."""

    prior: Gaussian
    estimate: Gaussian
    fused: Gaussian
    theta: Float[Array, " k"]


def told(
    bundle: Bundle, estimate: Gaussian, fused: Gaussian, object_yaw: Float[Array, ""]
) -> Gaussian:
    """Which belief about theta the policy is told, as ``bundle.source`` says."""
    if bundle.source == "explore":
        return explore(fused, bundle.ensemble.contract.training_prior, object_yaw)
    return {"given": bundle.prior, "estimate": estimate, "fused": fused}[bundle.source]


def explore(fused: Gaussian, training: Gaussian, object_yaw: Float[Array, ""]) -> Gaussian:
    """What a policy is told so that its first pushes inform.

    A push that is aimed through where the centre of mass really is turns nothing and says
    little. Until the fused belief about a component is surer than ``EXPLORE_ABOVE`` of its
    standard deviation in training, the policy hears it displaced within that belief, by up to
    ``SWAY`` of its standard deviations; as the object turns, the displacement sweeps to both
    sides, each component with a phase of its own. Nothing has to be remembered.
    """
    limit = jnp.sqrt(training.variance)
    sigma = jnp.sqrt(fused.variance)
    phase = jnp.pi / 2 * jnp.arange(fused.mean.shape[-1])
    aside = SWAY * jnp.minimum(sigma, limit) * jnp.sin(SWAYS_PER_TURN * object_yaw + phase)
    return fused.replace(mean=fused.mean + jnp.where(sigma > EXPLORE_ABOVE * limit, aside, 0.0))


def loop_step(
    bundle: Bundle, memory: Memory, measurement: Measurement
) -> tuple[Float[Array, " 2"], Memory, Diagnostics]:
    """One control step; action in [-1, 1]^2, displacement in units of the action scale.

    The returned memory assumes that the action is sent as it is; a driver that
    sends something else replaces ``memory.sent`` by it.
    """
    features = policy_features(measurement, bundle.goal, memory.sent)
    window = memory.window.push(features, memory.sent)
    estimate = bundle.ensemble(window)
    contract = bundle.ensemble.contract
    fused, past = bundle.rule.believe(
        bundle.prior, estimate, contract.training_prior, memory.past, contract.history
    )
    belief = told(bundle, estimate, fused, measurement.object_pose.yaw)
    heard = bundle.policy.hears(belief)
    action, recalled = bundle.policy.act(features, heard, window, memory.policy)
    action = jnp.clip(action, -1.0, 1.0)
    known = Diagnostics(bundle.prior, estimate, fused, belief.mean)
    return action, Memory(window, action, past, recalled), known
