"""System identification inside the control loop: the fusion source ``sysid``.

Weighted hypotheses (centre of mass, friction radius, friction at the tool) predict in closed
form how the object moves while the tool goes from one measurement to the next; those that
predict what was seen gain weight. ``WindowSysid`` looks at a window, as the ensemble does, and
takes its place in a ``Bundle``; ``OnlineSysid`` remembers all pushes of an episode. Both are
pure, with static shapes, and need no training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from scipy.stats import qmc

from p2r_jax.estimator.ensemble import EstimatorContract
from p2r_jax.estimator.limit_surface import student_t
from p2r_jax.estimator.quasistatic import push_along
from p2r_jax.estimator.smc import systematic_resampling
from p2r_jax.files import git_revision
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.observation import FEATURES, POSITION_SCALE, REACH_SCALE
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian, Measurement, rotate, to_object, wrap_angle

COM_AXES = {"com_object_x": 0, "com_object_y": 1}
RESAMPLE_BELOW = 0.5  # of the particles, effective
SHRINK = 0.98  # of resampled particles towards their mean, so that jitter adds no variance


@dataclass(frozen=True)
class OnlineConfig:
    """Hypotheses and noise.

    Attributes:
      particles: how many hypotheses.
      pieces: into which the tool's way between two measurements is cut.
      noise_m: of a measured motion (position; yaw by a third of the longest side).
      noise_relative: misfit relative to how far the object moved.
      floor_m: standard deviation that no number of pushes falls below, per component.
      off_axis_m: spread of a coordinate of the centre of mass that theta does not name.
      radius, radius_spread: friction radius relative to the longest side; of its logarithm.
      friction_pusher, friction_pusher_spread: coefficient; of its logarithm.
    """

    particles: int = 512
    pieces: int = 12
    noise_m: float = 1.5e-3
    noise_relative: float = 0.15
    floor_m: float = 4e-3
    off_axis_m: float = 3e-3
    radius: float = 0.35
    radius_spread: float = 0.3
    friction_pusher: float = 0.3
    friction_pusher_spread: float = 0.4


@struct.dataclass
class Particles:
    """Weighted hypotheses about one object.

    Attributes:
      com: centre of mass, object frame, m.
      radius: friction radius, m.
      friction: coefficient tool-object.
      log_weight: up to a constant.
    """

    com: Float[Array, "particles 2"]
    radius: Float[Array, " particles"]
    friction: Float[Array, " particles"]
    log_weight: Float[Array, " particles"]


class OnlineSysid:
    """What identifies one object: its outline, the tool, theta's components, the noise."""

    def __init__(
        self,
        asset: Asset,
        tool_radius_m: float,
        theta: Sequence[str] = ("com_object_x", "com_object_y"),
        config: OnlineConfig | None = None,
    ):
        """Fix shapes.

        Args:
          asset: outline and nominal centre of mass.
          tool_radius_m: of the round tool.
          theta: components, of ``COM_AXES``.
          config: hypotheses and noise.

        Raises:
          ValueError: for a component that pushes do not show.
        """
        unknown = [name for name in theta if name not in COM_AXES]
        if unknown:
            raise ValueError(f"sysid knows {', '.join(COM_AXES)}, not {', '.join(unknown)}")
        self.config = config or OnlineConfig()
        self.parts, self.tool_radius_m = asset.parts, tool_radius_m
        self.axes = tuple(COM_AXES[name] for name in theta)
        self.bounds, self.nominal = np.array(asset.footprint_bounds), np.array(asset.com_m[:2])
        self.side = float(np.ptp(self.bounds, axis=0).max())

    def start(self, seed: int = 0) -> Particles:
        """The prior: theta's coordinates flat over the bounding box, evenly spread."""
        c = self.config
        cube = qmc.Sobol(4, seed=seed).random(c.particles).clip(1e-6, 1 - 1e-6)
        normal = np.asarray(norm.ppf(jnp.asarray(cube)))
        lower, upper = self.bounds
        flat = lower + (upper - lower) * cube[:, :2]
        com = np.where(
            np.isin([0, 1], self.axes), flat, self.nominal + c.off_axis_m * normal[:, :2]
        )
        radius = c.radius * self.side * np.exp(c.radius_spread * normal[:, 2])
        friction = c.friction_pusher * np.exp(c.friction_pusher_spread * normal[:, 3])
        columns = (com, radius, friction, np.zeros(c.particles))
        return Particles(*(jnp.asarray(x, jnp.float32) for x in columns))

    def update(
        self, belief: Particles, before: Measurement, after: Measurement, key: Array
    ) -> Particles:
        """The belief after one more transition; resampled when few hypotheses are left.

        Args:
          belief: so far.
          before, after: two measurements in a row, of one object.
          key: random, for resampling.
        """
        gained = self.log_likelihood(belief, *_in_object(before, after))
        belief = belief.replace(log_weight=jax.nn.log_softmax(belief.log_weight + gained))
        w = jnp.exp(belief.log_weight)
        few = 1 / jnp.sum(w * w) < RESAMPLE_BELOW * w.shape[0]
        return jax.lax.cond(few, _resampled, lambda b, _: b, belief, key)

    def gaussian(self, belief: Particles) -> Gaussian:
        """Mean and variance of theta: Float[K]."""
        w, com = jax.nn.softmax(belief.log_weight), belief.com[:, self.axes]
        mean = w @ com
        return Gaussian(mean, w @ (com - mean) ** 2 + self.config.floor_m**2)

    def log_likelihood(
        self,
        belief: Particles,
        tool: Float[Array, "2 2"],
        motion: Float[Array, " 3"],
    ) -> Float[Array, " particles"]:
        """Log-likelihood of one transition under every hypothesis, up to a constant.

        Args:
          belief: hypotheses.
          tool: where the tool came from and went to, axes of the object before, m.
          motion: of the object (x, y, yaw) in these axes.
        """
        c = self.config
        share = jnp.linspace(0.0, 1.0, c.pieces + 1)[:, None]
        path = tool[0] + share * (tool[1] - tool[0])

        def predict(com, radius, friction):
            return push_along(
                self.parts, self.tool_radius_m, com, radius, friction, jnp.zeros(3), path
            )

        predicted = jax.vmap(predict)(belief.com, belief.radius, belief.friction)
        lever = jnp.array([1.0, 1.0, self.side / 3])
        moved = jnp.linalg.norm(motion * lever)
        scale = jnp.hypot(c.noise_m, c.noise_relative * moved)
        return student_t((predicted - motion) * lever, jnp.broadcast_to(scale, belief.radius.shape))


@struct.dataclass
class WindowSysid:
    """An estimator without networks: takes the ensemble's place in a ``Bundle``.

    Attributes:
      prior: hypotheses before the window.
      goal_yaw_rad: that the window's yaw is relative to.
      sysid: outline, tool and noise (static).
      contract: what it expects and means (static).
    """

    prior: Particles
    goal_yaw_rad: Float[Array, ""]
    sysid: OnlineSysid = struct.field(pytree_node=False)
    contract: EstimatorContract = struct.field(pytree_node=False)

    def __call__(self, window: Window) -> Gaussian:
        """Belief about theta from a window; flat where nothing was pushed."""
        tool, motion, exists = self._transitions(window)
        gained = jax.vmap(self.sysid.log_likelihood, (None, 0, 0))(self.prior, tool, motion)
        gained = jnp.sum(jnp.where(exists[:, None], gained, 0.0), 0)
        return self.sysid.gaussian(self.prior.replace(log_weight=self.prior.log_weight + gained))

    def _transitions(self, window: Window):
        """Tool (n, 2, 2) and object motion (n, 3) in the axes of each transition's object."""
        f = window.features
        exists = f[:, 2] ** 2 + f[:, 3] ** 2 > 0.5
        yaw = jnp.arctan2(f[:, 3], f[:, 2])
        to_axes = -(yaw[:-1] + self.goal_yaw_rad)
        moved = rotate(to_axes, jnp.diff(f[:, :2], axis=0) / POSITION_SCALE)
        went = rotate(to_axes, jnp.diff(f[:, 4:6], axis=0) / POSITION_SCALE)
        came = f[:-1, 6:8] / REACH_SCALE
        motion = jnp.column_stack([moved, wrap_angle(jnp.diff(yaw))])
        return jnp.stack([came, came + went], 1), motion, exists[:-1] & exists[1:]


def window_sysid(
    task: Task, tool_radius_m: float | None = None, config: OnlineConfig | None = None
) -> WindowSysid:
    """The estimator ``sysid`` of a task; no training.

    Args:
      task: theta's components, object, goal and history.
      tool_radius_m: None takes the task's pusher.
      config: hypotheses and noise.

    Raises:
      ValueError: for a component of theta that pushes do not show.
    """
    radius = task.pusher_radius_m if tool_radius_m is None else tool_radius_m
    names = tuple(t.name for t in task.theta)
    sysid = OnlineSysid(task.object, radius, names, config)
    contract = EstimatorContract(
        task=task.name, features=FEATURES, theta=names,
        theta_mean=tuple(t.mean for t in task.theta), theta_std=tuple(t.std for t in task.theta),
        history=task.history, members=1, layers=(), action_scale_m=task.action_scale_m,
        git=git_revision(),
    )  # fmt: skip
    return WindowSysid(sysid.start(), jnp.asarray(task.layout.goal_yaw_rad), sysid, contract)


def _in_object(before: Measurement, after: Measurement):
    """Tool (2, 2) and object motion (3,) in the axes of the object before."""
    pose = before.object_pose
    tool = jnp.stack([to_object(pose, before.ee_xy), to_object(pose, after.ee_xy)])
    moved = to_object(pose, after.object_pose.xy)
    turn = wrap_angle(after.object_pose.yaw - pose.yaw)
    return tool, jnp.concatenate([moved, turn[None]])


def _resampled(belief: Particles, key: Array) -> Particles:
    """Equal weights; shrunk towards the mean and spread again (Liu & West 2001)."""
    key_pick, key_spread = jax.random.split(key)
    n = belief.radius.shape[0]
    chosen = systematic_resampling(belief.log_weight, key_pick)
    logs = jnp.column_stack([belief.com, jnp.log(belief.radius), jnp.log(belief.friction)])[chosen]
    mean, spread = jnp.mean(logs, 0), jnp.std(logs, 0) * (1 - SHRINK**2) ** 0.5
    logs = mean + SHRINK * (logs - mean) + spread * jax.random.normal(key_spread, logs.shape)
    com, radius, friction = logs[:, :2], jnp.exp(logs[:, 2]), jnp.exp(logs[:, 3])
    return Particles(com, radius, friction, jnp.full(n, -jnp.log(float(n))))
