"""Film one episode in the task's own dynamics: a checkpoint, or zero / random actions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from p2r_jax.evaluation.demo import goal_pose
from p2r_jax.evaluation.video import render_video
from p2r_jax.policy.policy import load_policy
from p2r_jax.sim.push import PushEnv
from p2r_jax.tasks import load_task


@dataclass(frozen=True)
class PlayConfig:
    """One video.

    Attributes:
      out: mp4 to write; an existing file is refused.
      task: registered task.
      policy: folder of a trained policy; without one, ``actions`` decides.
      actions: what to do without a policy.
      seed: of physics, yaw and random actions.
      theta_m: theta told to the policy; by default the truth.
    """

    out: Path
    task: str = "push_tblock"
    policy: Path | None = None
    actions: Literal["zero", "random"] = "random"
    seed: int = 0
    theta_m: float | None = None


def play(config: PlayConfig) -> None:
    """Roll out one episode from the real start and write the video."""
    if config.out.exists():
        raise FileExistsError(f"{config.out} exists; choose another --out")
    task = load_task(config.task)
    env = PushEnv(task, training=False)
    policy = load_policy(config.policy, task) if config.policy else None
    key_reset, key_act = jax.random.split(jax.random.key(config.seed))
    state = jax.jit(env.reset)(key_reset)
    truth = state.pipeline_state.physics.com[: len(task.theta)]
    told = truth if config.theta_m is None else jnp.full_like(truth, config.theta_m)

    def act(state, key):
        if policy is not None:
            return policy(state.obs["state"][: -len(task.theta)], told)
        if config.actions == "zero":
            return jnp.zeros(2)
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)

    def step(state, key):
        before = env.measure(state.pipeline_state)
        return env.step(state, act(state, key)), before

    keys = jax.random.split(key_act, task.episode_length)
    state, seen = jax.jit(lambda s: jax.lax.scan(step, s, keys))(state)
    last = env.measure(state.pipeline_state)
    seen = jax.tree.map(lambda a, b: np.concatenate([a, b[None]]), seen, last)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    pose = seen.object_pose
    hears = policy is not None and policy.contract.sees_theta
    render_video(
        config.out,
        task.object,
        np.concatenate([pose.xy, pose.yaw[:, None]], -1),
        seen.ee_xy,
        goal_pose(task),
        period_s=task.control_period_s,
        caption=(str(config.policy) if config.policy else f"{config.actions} actions",),
        theta_told=np.full(task.episode_length, float(told[0])) if hears else None,
        theta_truth=float(truth[0]),
        pusher_radius_m=task.pusher_radius_m,
    )
