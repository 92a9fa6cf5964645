"""Experience for the estimator: episodes of the frozen policy driven by the estimate itself.

A policy that is told the true theta leaks it through its actions, and an
estimator trained on that knows theta before it touched anything. So the
frozen policy hears the current ensemble's own estimate, as in RMA; or that estimate
fused with a prior, as later in use, but with one drawn independently of the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.fusion import fuse
from p2r_jax.policy.policy import Policy
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian, Measurement, PhysicsParams, PlanarPose


@dataclass(frozen=True)
class Disturbances:
    """What a robot adds to the clean dynamics; drawn per episode, so that training meets many.

    White measurement noise with a scale uniform in [0, 1], and a pusher that
    falls short of its command, as latency and servo lag make it.

    Attributes:
      position_m, yaw_rad: noise of the object pose, standard deviation at full scale.
      ee_m: noise of the end-effector, standard deviation at full scale.
      step_gain: range of the share of a commanded step that is really done.
    """

    position_m: float = 0.001
    yaw_rad: float = 0.0087
    ee_m: float = 0.0005
    step_gain: tuple[float, float] = (0.85, 1.0)

    def measure(self, measurement: Measurement, scale, key: Array) -> Measurement:
        """A noisy copy of one measurement."""
        noise = jax.random.normal(key, (5,)) * scale
        pose = measurement.object_pose
        noisy = PlanarPose(
            pose.xy + self.position_m * noise[:2], pose.yaw + self.yaw_rad * noise[2]
        )
        return Measurement(noisy, measurement.ee_xy + self.ee_m * noise[3:])

    def draw(self, key: Array) -> tuple[Array, Array]:
        """Noise scale and step gain of an episode."""
        key_scale, key_gain = jax.random.split(key)
        low, high = self.step_gain
        return jax.random.uniform(key_scale), jax.random.uniform(
            key_gain, (), minval=low, maxval=high
        )


@dataclass(frozen=True)
class Drive:
    """What the frozen policy hears while it gathers experience.

    Attributes:
      fused_share: share of the episodes in which the estimate is fused with a prior.
      sigma: range of the prior's standard deviation, in those of the training
        distribution; its mean is drawn from that distribution, whatever the truth.
    """

    fused_share: float = 0.0
    sigma: tuple[float, float] = (0.3, 1.0)

    def draw(self, task: Task, key: Array) -> Gaussian:
        """The prior of an episode; of infinite variance where it hears the estimate alone."""
        key_share, key_mean, key_sigma = jax.random.split(key, 3)
        std = jnp.array(task.theta_std)
        low, high = self.sigma
        sigma = std * jax.random.uniform(key_sigma, (), minval=low, maxval=high)
        mean = task.theta_mean + std * jax.random.normal(key_mean, std.shape)
        fused = jax.random.uniform(key_share) < self.fused_share
        return Gaussian(mean, jnp.where(fused, sigma**2, jnp.inf))


@struct.dataclass
class Episodes:
    """Whole episodes, time on axis 1.

    Attributes:
      features: what the loop saw, o[t].
      sent: action sent before o[t], a[t-1]; zero at t = 0.
      contact: the pusher touched the object between o[t-1] and o[t].
      theta: truth.
      estimate: what the (driving) ensemble said at t; None where none was asked.
    """

    features: Float[Array, "env t f"]
    sent: Float[Array, "env t 2"]
    contact: Float[Array, "env t"]
    theta: Float[Array, "env k"]
    estimate: Gaussian | None

    def window(self, env: Array, t: Array, history: int) -> Window:
        """The estimator's window of one environment at time ``t``, zeros before the start."""

        def tail(x):
            padded = jnp.pad(x[env], ((history - 1, 0), (0, 0)))
            return jax.lax.dynamic_slice_in_dim(padded, t, history)

        return Window(tail(self.features), tail(self.sent))


def collect(
    env: PushEnv,
    policy: Policy,
    ensemble: Ensemble,
    disturbances: Disturbances,
    drive: Drive,
    key: Array,
    episodes: int,
    truth: Callable[[PhysicsParams], Array] | None = None,
) -> Episodes:
    """Roll out ``episodes`` full episodes; the policy hears what ``drive`` says.

    ``theta`` of the result is that of the physics, or what ``truth`` makes of them.
    """
    truth = truth or (lambda physics: theta_of(physics, len(env.task.theta)))

    def episode(key):
        key_reset, key_draw, key_steps, key_drive = jax.random.split(key, 4)
        prior = drive.draw(env.task, key_drive)
        state = env.reset(key_reset)
        scale, gain = disturbances.draw(key_draw)
        window = Window.empty(ensemble.contract.history)

        def step(carry, key):
            state, sent, window = carry
            inner = state.pipeline_state
            measured = disturbances.measure(env.measure(inner), scale, key)
            features = policy_features(measured, inner.goal, sent)
            window = window.push(features, sent)
            estimate = ensemble(window)
            row = (features, sent, inner.dynamics.contact > 0, estimate)
            action = policy(features, policy.hears(fuse(prior, estimate)), window)
            return (env.step(state, gain * action), action, window), row

        keys = jax.random.split(key_steps, env.task.episode_length)
        start = (state, jnp.zeros(2), window)
        _, (features, sent, contact, estimate) = jax.lax.scan(step, start, keys)
        theta = truth(state.pipeline_state.physics)
        return Episodes(features, sent, contact.astype(jnp.float32), theta, estimate)

    return jax.vmap(episode)(jax.random.split(key, episodes))
