""" "Reality": C MuJoCo, with the arm's lag, sensor noise and latency. Nothing trains here.

A free body rests on explicit support points under elliptic cones; the pusher
follows a straight ramp to its target through a lagging servo. All trials of a
condition advance together on CPU threads, one rollout per control period.

``REALITY_DEV`` is for our eyes while building. ``REALITY_TEST`` differs from it
in support, off-axis centre of mass, pusher friction, lag and noise; nothing is
trained, tuned or selected on it. A change to either needs a new version.
"""

import copy
import os
from dataclasses import dataclass, field

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Bool, Float
from mujoco import rollout

from p2r_jax.sim.asset import Asset
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.mjcf import PusherServo, SceneOptions, push_spec, write_physics
from p2r_jax.sim.support import support_points
from p2r_jax.sim.trials import Trials
from p2r_jax.tasks import Task
from p2r_jax.types import Measurement, PlanarPose

CONTACT_MARGIN = 1e-3  # m; a pusher this close to the object counts as touching
CONTACT_STRIDE = 10  # physics steps between looks at that distance
QPOS, QVEL = slice(1, 10), slice(10, 18)  # in MuJoCo's full physics state, after the time
OBJECT_XY, QUATERNION, PUSHER = slice(1, 3), slice(4, 8), slice(8, 10)


@dataclass(frozen=True)
class RealityConfig:
    """One frozen world to be judged in.

    Attributes:
      name: what ``reality`` finds it by.
      version: changes with any other field.
      support, support_count: see ``sim.support``.
      off_axis_com_m: the CoM's y in the object frame is uniform in +- this, per trial.
      pusher_friction: range of the coefficient object-pusher, drawn independently
        of the table's; None uses the table's.
      position_noise_m, yaw_noise_rad: white noise of a pose measurement, s.d.
      ee_noise_m: white noise of the measured pusher position, s.d. per axis.
      latency_s: age of a measurement when the action is computed.
      servo: of the pusher.
      scene: solver settings, physics step.
      settle_s: time before the trial for the object to come to rest.
    """

    name: str
    version: str
    support: str = "patch"
    support_count: int = 8
    off_axis_com_m: float = 0.0
    pusher_friction: tuple[float, float] | None = None
    position_noise_m: float = 0.5e-3
    yaw_noise_rad: float = float(np.deg2rad(0.3))
    ee_noise_m: float = 0.1e-3
    latency_s: float = 0.05
    servo: PusherServo = field(default_factory=lambda: PusherServo(lag_s=0.05))
    scene: SceneOptions = field(default_factory=SceneOptions)
    settle_s: float = 0.3

    def __post_init__(self):
        if not 0 <= self.latency_s < self.settle_s:
            raise ValueError(
                f"{self.name}: latency_s is {self.latency_s}, must be in [0, {self.settle_s})"
            )


REALITY_DEV = RealityConfig(name="reality-dev", version="2")
REALITY_TEST = RealityConfig(
    name="reality-test",
    version="2",
    support="rim",
    off_axis_com_m=0.005,
    pusher_friction=(0.15, 0.35),
    position_noise_m=1e-3,
    yaw_noise_rad=float(np.deg2rad(0.5)),
    ee_noise_m=0.2e-3,
    servo=PusherServo(lag_s=0.08),
)
REALITIES = {config.name: config for config in (REALITY_DEV, REALITY_TEST)}


def reality(name: str) -> RealityConfig:
    """A reality by name; an unknown one raises KeyError that lists what exists."""
    if name not in REALITIES:
        raise KeyError(f"no reality {name!r} (realities: {', '.join(REALITIES)})")
    return REALITIES[name]


class Reality:
    """N trials of a task in C MuJoCo, in lockstep.

    Attributes:
      models: one compiled scene per trial, physics written.
      theta: the truth, read from the compiled models: Float[N, K].
      period: full physics states of the last control period (at first, of the
        settling), Float[N, substeps, 18].
    """

    def __init__(
        self, config: RealityConfig, task: Task, trials: Trials, threads: int | None = None
    ):
        """Build the scenes and let the objects settle.

        Args:
          config: the world.
          task: object, layout and action scale.
          trials: what differs between them.
          threads: CPU threads; default as many as this process may use.
        """
        self.config, self.task, self.trials = config, task, trials
        self.models = build_models(config, task, trials)
        self.theta = np.stack([m.body("object").ipos[: len(task.theta)] for m in self.models])
        threads = max(1, min(threads or len(os.sched_getaffinity(0)), trials.count))
        self._data = [mujoco.MjData(self.models[0]) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads)
        self._command = np.tile(np.array(task.layout.ee_start_xy, float), (trials.count, 1))
        self._measured_ee = self._command
        self._ticks = 0
        self._state = start_state(task, trials)
        self._advance(self._command, config.settle_s)

    def measure(self) -> Measurement:
        """Noisy measurement, ``latency_s`` old; call once per control tick."""
        config, noise = self.config, self.trials.noise[:, self._ticks]
        age = round(config.latency_s / config.scene.timestep_s)
        seen = self.period[:, -1 - age]
        xy = seen[:, OBJECT_XY] + config.position_noise_m * noise[:, :2]
        yaw = yaw_of(seen[:, QUATERNION]) + config.yaw_noise_rad * noise[:, 2]
        self._measured_ee = seen[:, PUSHER] + config.ee_noise_m * noise[:, 3:]
        self._ticks += 1
        pose = PlanarPose(jnp.asarray(xy, jnp.float32), jnp.asarray(yaw, jnp.float32))
        return Measurement(pose, jnp.asarray(self._measured_ee, jnp.float32))

    def act(self, action: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Ramp the command to measured pusher + action; returns which pushers touched."""
        target = ee_target(self.task, self._measured_ee, action)
        self._advance(target, self.task.control_period_s)
        looked_at = self.period[:, ::CONTACT_STRIDE]
        gap = footprint_distance(self.task.object, looked_at) - self.task.pusher_radius_m
        return np.any(gap < CONTACT_MARGIN, axis=-1)

    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Object (x, y, yaw) Float[N, 3], pusher Float[N, 2], CoM speed Float[N], now."""
        now = self._state
        yaw = yaw_of(now[:, QUATERNION])
        pose = np.concatenate([now[:, OBJECT_XY], yaw[:, None]], -1)
        velocity, spin = now[:, QVEL][:, :2], now[:, QVEL][:, 5]
        com = np.stack([m.body("object").ipos[:2] for m in self.models])
        c, s = np.cos(yaw), np.sin(yaw)
        arm_x, arm_y = c * com[:, 0] - s * com[:, 1], s * com[:, 0] + c * com[:, 1]
        of_com = velocity + spin[:, None] * np.stack([-arm_y, arm_x], -1)
        return pose, now[:, PUSHER].copy(), np.linalg.norm(of_com, axis=-1)

    def _advance(self, target: Float[np.ndarray, "n 2"], duration_s: float) -> None:
        """Ramp the servo command to ``target`` in a straight line at constant speed."""
        steps = round(duration_s / self.config.scene.timestep_s)
        share = (np.arange(1, steps + 1) / steps)[None, :, None]
        control = self._command[:, None] + share * (target - self._command)[:, None]
        self.period, _ = self._pool.rollout(self.models, self._data, self._state, control)
        self._command, self._state = target, self.period[:, -1]


def ee_target(
    task: Task, measured_ee: Float[np.ndarray, "n 2"], action: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Where an action sends the pusher: measured position + action, in the workspace, m."""
    target = measured_ee + task.action_scale_m * np.clip(action, -1.0, 1.0)
    return np.clip(target, task.layout.lower, task.layout.upper)


def build_models(config: RealityConfig, task: Task, trials: Trials) -> list[mujoco.MjModel]:
    """One compiled scene per trial."""
    asset = task.object
    support = support_points(asset, config.support, config.support_count)
    spec = push_spec(asset, support, task.pusher_radius_m, config.scene, config.servo)
    return trial_models(spec.compile(), config, trials)


def trial_models(
    template: mujoco.MjModel, config: RealityConfig, trials: Trials
) -> list[mujoco.MjModel]:
    """Copies of a compiled scene with the physics of each trial.

    The off-axis share of the CoM moves the mass distribution as a whole: the
    inertia about the centre of mass stays.
    """
    mass, com, inertia = trials.mass_properties
    models = []
    for index in range(trials.count):
        model = copy.copy(template)
        off_axis = config.off_axis_com_m * trials.off_axis_share[index]
        table = pusher = float(trials.friction[index])
        if config.pusher_friction:
            low, high = config.pusher_friction
            pusher = low + (high - low) * float(trials.pusher_share[index])
        write_physics(model, mass, com + np.array([0.0, off_axis, 0.0]), inertia, table, pusher)
        models.append(model)
    return models


def start_state(task: Task, trials: Trials) -> Float[np.ndarray, "n 18"]:
    """Full physics states at the task's start: time, qpos, qvel."""
    state = np.zeros((trials.count, QVEL.stop))
    state[:, OBJECT_XY], state[:, 3] = task.layout.start_xy, task.object.height_m / 2
    half = trials.yaw_rad / 2
    state[:, QUATERNION] = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
    state[:, PUSHER] = task.layout.ee_start_xy
    return state


def yaw_of(quaternion: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """Yaw of a (w, x, y, z) quaternion, in [-pi, pi], rad."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def footprint_distance(asset: Asset, state: Float[np.ndarray, "*n 18"]) -> Float[np.ndarray, "*n"]:
    """Distance of the pusher's centre from the footprint, m; negative inside."""
    yaw = yaw_of(state[..., QUATERNION])
    reach = state[..., PUSHER] - state[..., OBJECT_XY]
    c, s = np.cos(yaw), np.sin(yaw)
    point = np.stack([c * reach[..., 0] + s * reach[..., 1],
                      c * reach[..., 1] - s * reach[..., 0]], -1)  # fmt: skip
    return signed_distance(asset.parts, point, np)
