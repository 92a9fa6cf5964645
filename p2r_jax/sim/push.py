"""Push an object to a goal pose: the paper's MDP as a Brax environment.

``reset(key) -> State`` and ``step(state, action) -> State`` are pure and work
on one environment; vmap them. Physics and yaw are drawn at every reset.
``State.done`` is terminated or truncated; ``info`` keeps the two apart and
keeps the final observation. Other packages bring reward terms as entry points of the group
``p2r_jax.reward_terms``; ``task.reward.extra`` gives them a weight.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.plugins import Origin, Registry
from p2r_jax.sim.contact import ContactDynamics
from p2r_jax.sim.health import is_healthy
from p2r_jax.sim.observation import FEATURES, policy_features, scale_told
from p2r_jax.sim.planar import PlanarDynamics
from p2r_jax.sim.planar_mjx import PlanarMjxDynamics
from p2r_jax.sim.support import check_support, matching, support_points
from p2r_jax.sim.window import Window, window_inputs, window_size
from p2r_jax.tasks import RewardWeights, Task
from p2r_jax.types import Measurement, PhysicsParams, PlanarPose, rotate, wrap_angle


@struct.dataclass
class PushState:
    """Everything behind an observation.

    Attributes:
      dynamics: state of the dynamics (pose, twist, pusher).
      physics: parameters of this episode.
      cache: what the dynamics derived from them.
      goal: goal pose, world.
      theta_input: what the policy is told about theta, in units of theta.
      last_action: action sent last.
      window: what a policy with a history sees of it; None for the others.
      step: actions so far in this episode.
    """

    dynamics: struct.PyTreeNode
    physics: PhysicsParams
    cache: struct.PyTreeNode
    goal: PlanarPose
    theta_input: Float[Array, "*env n"]
    last_action: Float[Array, "*env 2"]
    window: Window | None
    step: Float[Array, "*env"]


@struct.dataclass
class Transition:
    """What the reward terms look at; ours at the numbers, others at the states too."""

    keypoint_before: Float[Array, "*env"]
    keypoint_after: Float[Array, "*env"]
    success: Float[Array, "*env"]
    stray: Float[Array, "*env"]
    action: Float[Array, "*env 2"]
    last_action: Float[Array, "*env 2"]
    before: PushState
    after: PushState


RewardTerm = Callable[[Transition], Float[Array, "*env"]]


def _potential(keypoint_distance):
    return -keypoint_distance / 0.05 + 2 * jnp.exp(-keypoint_distance / 0.03)


REWARDS: dict[str, RewardTerm] = {
    "progress": lambda t: _potential(t.keypoint_after) - _potential(t.keypoint_before),
    "near": lambda t: jnp.exp(-t.keypoint_after / 0.03),
    "success": lambda t: t.success,
    "stray": lambda t: t.stray,
    "action_rate": lambda t: jnp.sum((t.action - t.last_action) ** 2, -1),
}


def _from_outside(term: RewardTerm, origin: Origin) -> RewardTerm:
    """A reward term of another package; a number per environment is expected of it."""

    def checked(transition: Transition) -> Float[Array, "*env"]:
        value = jnp.asarray(term(transition))
        if value.shape != transition.success.shape:
            raise origin.failure(f"it returns the shape {value.shape}, not one number")
        return value

    return checked


REWARD_TERMS = Registry(("no reward term", "terms"), "p2r_jax.reward_terms", REWARDS, _from_outside)


def reward_terms(weights: RewardWeights) -> dict[str, tuple[float, RewardTerm]]:
    """Weight and function of every term, by the name it is logged under.

    Raises:
      KeyError, PluginError: for a term in ``extra`` that is unknown or cannot be used.
      ValueError: if two terms would be logged under one name.
    """
    terms = {name: (getattr(weights, name), term) for name, term in REWARDS.items()}
    for name, weight in weights.extra:
        label = name.rpartition(":")[2]
        if label in terms:
            raise ValueError(
                f"reward.extra: there is a term {label!r} already (terms: {', '.join(terms)}); "
                "ours have fields of their own"
            )
        terms[label] = (weight, REWARD_TERMS[name])
    return terms


def _uniform(key: Array, bounds: tuple[float, float]) -> Float[Array, ""]:
    return jax.random.uniform(key, (), minval=bounds[0], maxval=bounds[1])


def theta_of(physics: PhysicsParams, size: int) -> Float[Array, "*env k"]:
    """Theta as the physics has it: the first ``size`` CoM coordinates, object frame, m."""
    return physics.com[..., :size]


def make_dynamics(task: Task) -> PlanarDynamics | PlanarMjxDynamics | ContactDynamics:
    """The dynamics a task asks for; all share init / derive / advance."""
    args = (task.object, task.pusher_radius_m, task.control_period_s)
    if task.dynamics == "planar":
        return PlanarDynamics(*args, task.planar)
    if task.dynamics == "planar_mjx":
        return PlanarMjxDynamics(*args, task.planar_mjx)
    contact = replace(task.contact, support_count=task.physics.support_count)
    return ContactDynamics(*args, contact)


def _overflow(dynamics: struct.PyTreeNode) -> dict[str, Array]:
    """Whether the last action ran out of room in MuJoCo Warp; only ``contact`` can."""
    bits = getattr(dynamics, "overflow", None)
    return {} if bits is None else {"overflow_envs": (bits != 0).astype(jnp.float32)}


class PushEnv(Env):
    """The push task of one object with a round pusher."""

    def __init__(self, task: Task, training: bool = True):
        """Build the environment.

        Args:
          task: the configuration.
          training: use the curriculum's starts; otherwise always the real start.

        Raises:
          ValueError: if the object would tip over for a centre of mass in the task's range,
            for reward terms that do not fit, see ``reward_terms``, or shares of the noise on
            theta that are not one per component.
        """
        if len(task.theta_noise_share) not in (0, len(task.theta)):
            raise ValueError(
                f"task {task.name!r}: theta_noise_share has {len(task.theta_noise_share)} values, "
                f"theta {len(task.theta)} components; give one each, or none"
            )
        self.task, self.training = task, training
        self._rewards = reward_terms(task.reward)
        self.dynamics = make_dynamics(task)
        lower, upper = task.object.footprint_bounds
        self._keypoints = jnp.array(
            [[upper[0], upper[1]], [upper[0], lower[1]], [lower[0], 0.0]], jnp.float32
        )
        support = support_points(task.object, task.physics.support, task.physics.support_count)
        check_support(support, task.physics.com_corners(task.object), task.object.name)
        self._support = jnp.array(support, jnp.float32)
        self._rim = None  # where the support points may move; None where they do not
        if task.physics.rim_share != (0.0, 0.0):
            rim = support_points(task.object, "rim", task.physics.support_count)
            self._rim = jnp.array(rim[matching(support, rim)], jnp.float32)

    @property
    def observation_size(self) -> dict[str, tuple[int]]:
        """Sizes of the actor's and the critic's observation."""
        told = len(self.task.theta) * (2 if self.task.theta_input == "belief" else 1)
        now = len(FEATURES) + told
        history = self.task.actor_history
        actor = now + (window_size(history) if history else 0)
        return {"state": (actor,), "privileged_state": (now + len(self.task.theta) + 4,)}

    @property
    def action_size(self) -> int:
        """Two: displacement of the pusher."""
        return 2

    @property
    def backend(self) -> str:
        """Which dynamics; required by Brax."""
        return self.task.dynamics

    @property
    def dt(self) -> float:
        """Control period, s."""
        return self.task.control_period_s

    def reset(self, rng: Array) -> State:
        """New episode: physics, yaw and, in training, the start are drawn from ``rng``."""
        key_physics, key_start, key_theta = jax.random.split(rng, 3)
        physics = self.draw_physics(key_physics)
        pose, ee_xy = self.draw_start(key_start)
        return self.reset_to(physics, pose, ee_xy, self.draw_theta_input(key_theta, physics))

    def reset_to(
        self,
        physics: PhysicsParams,
        pose: PlanarPose,
        ee_xy: Float[Array, " 2"],
        theta_input: Float[Array, " n"],
    ) -> State:
        """Episode with everything given; ``theta_input`` is what the policy is told."""
        task, layout = self.task, self.task.layout
        goal = PlanarPose(jnp.array(layout.goal_xy), jnp.array(layout.goal_yaw_rad))
        inner = PushState(
            dynamics=self.dynamics.init(pose, ee_xy),
            physics=physics,
            cache=self.dynamics.derive(physics),
            goal=goal,
            theta_input=theta_input,
            last_action=jnp.zeros(2),
            window=Window.empty(task.actor_history) if task.actor_history else None,
            step=jnp.zeros(()),
        )
        inner = self._look(inner)
        obs = self.observe(inner)
        zero = jnp.zeros(())
        metrics = {f"reward/{name}": zero for name in self._rewards}
        metrics |= {k: zero for k in ("position_error", "yaw_error", "success", "nan_envs")}
        metrics |= _overflow(inner.dynamics)
        info = {"truncation": zero, "terminated": zero, "final_obs": obs}
        return State(inner, obs, zero, zero, metrics, info)

    def step(self, state: State, action: Float[Array, " 2"]) -> State:
        """One action in [-1, 1]^2 (clipped): the pusher moves, physics follows.

        Where physics blows up (``sim.health``) the episode ends with the state before
        the action, without reward, and ``nan_envs`` is one.
        """
        task, layout, before = self.task, self.task.layout, state.pipeline_state
        action = jnp.clip(action, -1.0, 1.0)
        target = self.pusher_target(before.dynamics, action)
        dynamics = self.dynamics.advance(before.physics, before.cache, before.dynamics, target)
        healthy = is_healthy(dynamics, before.physics, layout)
        counts = {"nan_envs": (~healthy).astype(jnp.float32)} | _overflow(dynamics)
        dynamics, sent = jax.tree.map(
            lambda a, b: jnp.where(healthy, a, b),
            (dynamics, action),
            (before.dynamics, before.last_action),
        )
        after = before.replace(dynamics=dynamics, last_action=sent, step=before.step + 1)
        after = self._look(after)
        metrics, reward = jax.tree.map(
            lambda x: jnp.where(healthy, x, 0.0), self._score(before, after, sent)
        )
        xy = dynamics.pose.xy
        outside = jnp.any((xy < jnp.array(layout.lower)) | (xy > jnp.array(layout.upper)))
        terminated = (outside | ~healthy).astype(jnp.float32)
        timeout = (after.step >= task.episode_length).astype(jnp.float32)
        truncation = timeout * (1 - terminated)
        obs = self.observe(after)
        info = {**state.info, "truncation": truncation, "terminated": terminated, "final_obs": obs}
        return state.replace(
            pipeline_state=after,
            obs=obs,
            reward=reward,
            done=jnp.maximum(terminated, truncation),
            info=info,
            metrics=state.metrics | metrics | counts,
        )

    def pusher_target(
        self, dynamics: struct.PyTreeNode, action: Float[Array, " 2"]
    ) -> Float[Array, " 2"]:
        """Where an action in [-1, 1]^2 sends the pusher, kept in the workspace, m."""
        layout = self.task.layout
        target = dynamics.ee_xy + self.task.action_scale_m * action
        return jnp.clip(target, jnp.array(layout.lower), jnp.array(layout.upper))

    def measure(self, inner: PushState) -> Measurement:
        """What a robot could measure now."""
        return Measurement(inner.dynamics.pose, inner.dynamics.ee_xy)

    def features(self, inner: PushState) -> Float[Array, " f"]:
        """What a policy sees now, without theta and history."""
        return policy_features(self.measure(inner), inner.goal, inner.last_action)

    def _look(self, inner: PushState) -> PushState:
        """Put the present into the window, if there is one."""
        if inner.window is None:
            return inner
        return inner.replace(window=inner.window.push(self.features(inner), inner.last_action))

    def observe(self, inner: PushState) -> dict[str, Float[Array, " n"]]:
        """``state`` for the actor, ``privileged_state`` for the critic; always finite.

        The critic knows the truth and needs no history. Zeros stand for what is not finite:
        physics that is NaN from the start ends its episode in the first step, but this
        observation would already have poisoned the learner.
        """
        now = jnp.concatenate([self.features(inner), self.scale_theta(inner.theta_input)])
        actor = now
        if inner.window is not None:
            past = window_inputs(inner.window, self.task.action_scale_m)
            actor = jnp.concatenate([now, past])
        physics = inner.physics
        truth = self.scale_theta(theta_of(physics, len(self.task.theta)))
        friction = 4 * physics.friction_pusher[None]
        motion = inner.dynamics.twist * jnp.array([30.0, 30.0, 3.0])
        critic = jnp.concatenate([now, truth, friction, motion])
        obs = {"state": actor, "privileged_state": critic}
        return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0.0), obs)

    def scale_theta(self, theta: Float[Array, "*env n"]) -> Float[Array, "*env n"]:
        """Theta, and its standard deviations if told, in units of its training distribution."""
        return scale_told(theta, jnp.array(self.task.theta_mean), jnp.array(self.task.theta_std))

    def draw_physics(self, key: Array) -> PhysicsParams:
        """Mass distribution, friction and support, uniform in the task's ranges."""
        key_mass, key_friction, key_pusher, key_support = jax.random.split(key, 4)
        ranges = self.task.physics
        friction = _uniform(key_friction, ranges.friction)
        physics = self.physics_for(self._draw_mass_properties(key_mass), friction)
        if ranges.friction_pusher is not None:
            physics = physics.replace(friction_pusher=_uniform(key_pusher, ranges.friction_pusher))
        return physics.replace(support=self._draw_support(key_support))

    def _draw_support(self, key: Array) -> Float[Array, "points 2"]:
        """The support points, a random share of them moved out to the rim."""
        if self._rim is None:
            return self._support
        key_share, key_points = jax.random.split(key)
        share = _uniform(key_share, self.task.physics.rim_share)
        moved = jax.random.uniform(key_points, self._support.shape[:1]) < share
        return jnp.where(moved[:, None], self._rim, self._support)

    def _draw_mass_properties(self, key: Array) -> tuple:
        ranges, asset = self.task.physics, self.task.object
        if ranges.com_m is None:
            key_weight, key_side = jax.random.split(key)
            mass, com, inertia = asset.with_weight(_uniform(key_weight, ranges.weight_x_m))
            side = _uniform(key_side, (-ranges.off_axis_m, ranges.off_axis_m))
            return mass, com + side * jnp.array([0.0, 1.0, 0.0]), inertia
        (low_x, high_x), (low_y, high_y) = ranges.com_m
        low = jnp.array([low_x, low_y, ranges.mass_scale[0]])
        high = jnp.array([high_x, high_y, ranges.mass_scale[1]])
        drawn = jax.random.uniform(key, (3,), minval=low, maxval=high)
        return asset.with_com(drawn[:2], drawn[2])

    def physics_for(self, mass_properties: tuple, friction: float) -> PhysicsParams:
        """Physics of one episode.

        Args:
          mass_properties: mass, com, inertia as ``Asset.with_weight`` or ``with_com`` give them.
          friction: effective coefficient, of table and pusher alike.
        """
        scalars = (*mass_properties, friction, friction)
        return PhysicsParams(*(jnp.asarray(x, jnp.float32) for x in scalars), self._support)

    def draw_start(self, key: Array) -> tuple[PlanarPose, Float[Array, " 2"]]:
        """Object pose and pusher at the start of an episode."""
        keys = jax.random.split(key, 5)
        layout, curriculum = self.task.layout, self.task.curriculum
        start, goal = jnp.array(layout.start_xy), jnp.array(layout.goal_xy)
        yaw = jax.random.uniform(keys[0], (), minval=-jnp.pi, maxval=jnp.pi)
        real = PlanarPose(start, yaw), jnp.array(layout.ee_start_xy)
        if not self.training or curriculum.share == 0:
            return real
        u = jax.random.uniform(keys[1], ())
        noise = jax.random.uniform(keys[2], (2,), minval=-1.0, maxval=1.0)
        xy = goal + u * (start - goal) + u * curriculum.position_noise_m * noise
        near_yaw = layout.goal_yaw_rad + yaw * jnp.minimum(2 * u, 1.0)
        angle = jax.random.uniform(keys[3], (), minval=-jnp.pi, maxval=jnp.pi)
        ee = xy + rotate(angle, jnp.array([curriculum.ee_radius_m, 0.0]))
        ray = jax.random.uniform(keys[4], ()) < curriculum.share
        return jax.tree.map(lambda a, b: jnp.where(ray, a, b), (PlanarPose(xy, near_yaw), ee), real)

    def draw_theta_input(self, key: Array, physics: PhysicsParams) -> Float[Array, " n"]:
        """What the policy will be told about theta through this episode."""
        task, size = self.task, len(self.task.theta)
        if task.theta_input == "constant":
            return jnp.array(task.theta_mean)
        if task.theta_input == "belief":
            return self.draw_belief(key, theta_of(physics, size))
        noise = task.theta_noise_m if task.theta_input == "noisy" else 0.0
        if task.theta_noise_share:
            noise = noise * jnp.array(task.theta_noise_share)
        return theta_of(physics, size) + noise * jax.random.normal(key, (size,))

    def draw_belief(self, key: Array, theta: Float[Array, " k"]) -> Float[Array, " n"]:
        """Mean and standard deviation of an honest belief about ``theta``, Float[2 K].

        Somebody measured theta with a Gaussian error and knew the training distribution
        (taken as Gaussian). The error is drawn such that the belief's sigma is uniform
        between certainty and the training prior's.
        """
        mean, std = jnp.array(self.task.theta_mean), jnp.array(self.task.theta_std)
        key_share, key_error = jax.random.split(key)
        share = jax.random.uniform(key_share)  # sigma, in that of training
        known = 1 - share**2  # weight of the measurement in the belief's mean
        error = share * jnp.sqrt(known) * std * jax.random.normal(key_error, theta.shape)
        belief = mean + known * (theta - mean) + error
        return jnp.concatenate([belief, jnp.broadcast_to(share * std, belief.shape)])

    def errors(self, inner: PushState) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Distance (m) and absolute yaw error (rad) to the goal."""
        pose, goal = inner.dynamics.pose, inner.goal
        return jnp.linalg.norm(pose.xy - goal.xy), jnp.abs(wrap_angle(pose.yaw - goal.yaw))

    def _keypoint_distance(self, inner: PushState) -> Float[Array, ""]:
        pose, goal = inner.dynamics.pose, inner.goal
        here = pose.xy + rotate(pose.yaw, self._keypoints)
        there = goal.xy + rotate(goal.yaw, self._keypoints)
        return jnp.mean(jnp.linalg.norm(here - there, axis=-1))

    def _score(self, before: PushState, after: PushState, action) -> tuple[dict, Float[Array, ""]]:
        position_error, yaw_error = self.errors(after)
        limits = self.task.success
        success = (position_error < limits.position_m) & (yaw_error < limits.yaw_rad)
        reach = jnp.linalg.norm(after.dynamics.ee_xy - after.dynamics.pose.xy)
        transition = Transition(
            keypoint_before=self._keypoint_distance(before),
            keypoint_after=self._keypoint_distance(after),
            success=success.astype(jnp.float32),
            stray=jnp.maximum(reach - self.task.reward.free_reach_m, 0.0),
            action=action,
            last_action=before.last_action,
            before=before,
            after=after,
        )
        terms = {
            f"reward/{name}": weight * term(transition)
            for name, (weight, term) in self._rewards.items()
        }
        metrics = {
            **terms,
            "position_error": position_error,
            "yaw_error": yaw_error,
            "success": transition.success,
        }
        return metrics, sum(terms.values())
