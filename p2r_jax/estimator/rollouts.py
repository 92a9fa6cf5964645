"""Experience for the estimator: episodes of the frozen policy driven by the estimate itself.

A policy that is told the true theta leaks it through its actions, and an
estimator trained on that knows theta before it touched anything. So the
frozen policy hears the current ensemble's own estimate, as in RMA.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.estimator.ensemble import Ensemble, Window
from p2r_jax.policy.policy import Policy
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.types import Gaussian, Measurement, PlanarPose


@dataclass(frozen=True)
class MeasurementNoise:
    """White noise on what the loop measures; each episode draws its scale in [0, 1].

    Attributes:
      position_m, yaw_rad: object pose, standard deviation at full scale.
      ee_m: end-effector, standard deviation at full scale.
    """

    position_m: float = 0.001
    yaw_rad: float = 0.0087
    ee_m: float = 0.0005

    def apply(self, measurement: Measurement, scale, key: Array) -> Measurement:
        """A noisy copy of one measurement."""
        noise = jax.random.normal(key, (5,)) * scale
        pose = measurement.object_pose
        noisy = PlanarPose(
            pose.xy + self.position_m * noise[:2], pose.yaw + self.yaw_rad * noise[2]
        )
        return Measurement(noisy, measurement.ee_xy + self.ee_m * noise[3:])


@struct.dataclass
class Episodes:
    """Whole episodes, time on axis 1.

    Attributes:
      features: what the loop saw, o[t].
      sent: action sent before o[t], a[t-1]; zero at t = 0.
      contact: the pusher touched the object between o[t-1] and o[t].
      theta: truth.
      estimate: what the driving ensemble said at t.
    """

    features: Float[Array, "env t f"]
    sent: Float[Array, "env t 2"]
    contact: Float[Array, "env t"]
    theta: Float[Array, "env k"]
    estimate: Gaussian

    def window(self, env: Array, t: Array, history: int) -> Window:
        """The estimator's window of one environment at time ``t``, zeros before the start."""

        def tail(x):
            padded = jnp.pad(x[env], ((history - 1, 0), (0, 0)))
            return jax.lax.dynamic_slice_in_dim(padded, t, history)

        return Window(tail(self.features), tail(self.sent))


def collect(
    env: PushEnv, policy: Policy, ensemble: Ensemble, noise: MeasurementNoise, key: Array,
    episodes: int,
) -> Episodes:
    """Roll out ``episodes`` full episodes; an environment that terminates stays where it is."""

    def episode(key):
        key_reset, key_scale, key_steps = jax.random.split(key, 3)
        state = env.reset(key_reset)
        scale = jax.random.uniform(key_scale, ())
        window = Window.empty(ensemble.contract.history)

        def step(carry, key):
            state, window = carry
            inner = state.pipeline_state
            measured = noise.apply(env.measure(inner), scale, key)
            features = policy_features(measured, inner.goal, inner.last_action)
            window = window.push(features, inner.last_action)
            estimate = ensemble(window)
            row = (features, inner.last_action, inner.dynamics.contact > 0, estimate)
            return (env.step(state, policy(features, estimate.mean)), window), row

        keys = jax.random.split(key_steps, env.task.episode_length)
        _, (features, sent, contact, estimate) = jax.lax.scan(step, (state, window), keys)
        theta = theta_of(state.pipeline_state.physics, len(env.task.theta))
        return Episodes(features, sent, contact.astype(jnp.float32), theta, estimate)

    return jax.vmap(episode)(jax.random.split(key, episodes))
