"""Film one episode: a checkpoint, zero or random actions, or a dump of physics that blew up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from p2r_jax.evaluation.demo import goal_pose
from p2r_jax.evaluation.video import render_video
from p2r_jax.policy.policy import load_policy
from p2r_jax.sim.dump import load_dump, replay
from p2r_jax.sim.push import PushEnv
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian


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
      dump: file that training wrote when physics blew up: film its states and simulate
        them again; everything but ``out`` is then the dump's.
    """

    out: Path
    task: str = "push_tblock"
    policy: Path | None = None
    actions: Literal["zero", "random"] = "random"
    seed: int = 0
    theta_m: float | None = None
    dump: Path | None = None


def play(config: PlayConfig) -> None:
    """Write the video of an episode from the real start, or of a dump."""
    if config.out.exists():
        raise FileExistsError(f"{config.out} exists; choose another --out")
    if config.dump:
        play_dump(config.dump, config.out)
    else:
        play_episode(config)


def play_dump(file: Path, out: Path) -> None:
    """Film the states before physics blew up, and say what simulating them again shows."""
    dump = load_dump(file)
    again, states, task = replay(dump), dump.states, dump.task
    wrong = "; ".join(again.reasons) or "nothing: it does not blow up here"
    print(
        f"{file}: update {dump.update}, environment {dump.env}, git {dump.git}, "
        f"{len(dump.actions)} states\n"
        f"  simulated again, one action from each state: off by at most {again.deviation:.1e}\n"
        f"  after the last action {np.round(dump.actions[-1], 3).tolist()}: {wrong}"
    )
    poses = np.concatenate([states.pose.xy, states.pose.yaw[:, None]], -1)
    held = [*range(len(poses)), len(poses) - 1]  # the last state stays on the picture
    truth = np.asarray(dump.physics.com[: len(task.theta)])
    out.parent.mkdir(parents=True, exist_ok=True)
    render_video(
        out,
        task.object,
        poses[held],
        states.ee_xy[held],
        goal_pose(task),
        period_s=task.control_period_s,
        caption=(f"before physics blew up, update {dump.update}", wrong),
        theta_truth=truth if np.isfinite(truth).all() else None,
        pusher_radius_m=task.pusher_radius_m,
    )


def play_episode(config: PlayConfig) -> None:
    """Roll out one episode from the real start and film it."""
    task = load_task(config.task)
    env = PushEnv(task, training=False)
    policy = load_policy(config.policy, task) if config.policy else None
    key_reset, key_act = jax.random.split(jax.random.key(config.seed))
    state = jax.jit(env.reset)(key_reset)
    truth = state.pipeline_state.physics.com[: len(task.theta)]
    told = truth if config.theta_m is None else jnp.full_like(truth, config.theta_m)

    def act(state, memory, key):
        if policy is not None:
            heard = policy.hears(Gaussian(told, jnp.zeros_like(told)))
            return policy.act(state.obs["state"][: -len(task.theta)], heard, memory=memory)
        if config.actions == "zero":
            return jnp.zeros(2), None
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0), None

    def step(state_and_memory, key):
        state, memory = state_and_memory
        action, memory = act(state, memory, key)
        return (env.step(state, action), memory), env.measure(state.pipeline_state)

    keys = jax.random.split(key_act, task.episode_length)
    start = state, policy.empty_memory() if policy is not None else None
    (state, _), seen = jax.jit(lambda s: jax.lax.scan(step, s, keys))(start)
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
        theta_told=np.tile(told, (task.episode_length, 1)) if hears else None,
        theta_truth=np.asarray(truth),
        pusher_radius_m=task.pusher_radius_m,
    )
