"""The task's own training dynamics as a world for trials: quick, and no test of transfer."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from p2r_jax.sim.push import PushEnv, theta_of
from p2r_jax.sim.trials import Trials
from p2r_jax.tasks import Task
from p2r_jax.types import Measurement, PlanarPose, wrap_angle


class TrainingWorld:
    """N episodes of ``PushEnv`` from the real start; no noise, latency or lag.

    Attributes:
      physics: the truth, leaves Float[N, ...].
    """

    def __init__(self, task: Task, trials: Trials, off_axis_m: float = 0.0):
        """Set all trials to their start.

        Args:
          task: whose dynamics.
          trials: what differs between them.
          off_axis_m: the centre of mass lies off the x axis by up to this, per trial.
        """
        self._env, reset_to, self._step = _compiled(task)
        physics = jax.vmap(partial(self._env.physics_for, trials.mass_properties))(
            jnp.asarray(trials.friction, jnp.float32)
        )
        aside = jnp.asarray(off_axis_m * trials.off_axis_share, jnp.float32)
        physics = physics.replace(com=physics.com.at[:, 1].add(aside))
        self.physics = physics
        layout, n = task.layout, trials.count
        pose = PlanarPose(
            jnp.tile(jnp.array(layout.start_xy), (n, 1)), jnp.asarray(trials.yaw_rad, jnp.float32)
        )
        ee = jnp.tile(jnp.array(layout.ee_start_xy), (n, 1))
        self.theta = np.asarray(theta_of(physics, len(task.theta)))
        self._state = reset_to(physics, pose, ee, self.theta)

    def measure(self) -> Measurement:
        """The true state: this world has no sensors."""
        return self._env.measure(self._state.pipeline_state)

    def act(self, action: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """One environment step; returns which pushers touched their object."""
        self._state = self._step(self._state, action)
        return np.asarray(self._state.pipeline_state.dynamics.contact) > 0

    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Object (x, y, yaw) Float[N, 3], pusher Float[N, 2], CoM speed Float[N]."""
        state = self._state.pipeline_state.dynamics
        pose = np.concatenate([state.pose.xy, wrap_angle(state.pose.yaw)[:, None]], -1)
        speed = np.linalg.norm(state.twist[:, :2], axis=-1)
        return pose, np.asarray(state.ee_xy), speed


@cache
def _compiled(task: Task):
    """The environment with its batched reset and step, compiled once per task and size."""
    env = PushEnv(task, training=False)
    return env, jax.jit(jax.vmap(env.reset_to)), jax.jit(jax.vmap(env.step))
