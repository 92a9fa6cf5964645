"""Films of a policy while it trains: an episode from the real start, every so many steps."""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.policy.policy import Policy
from p2r_jax.policy.train import TrainConfig, phase_task
from p2r_jax.sim.push import PushEnv
from p2r_jax.tasks import Task

FOLDER = "videos"


def episode_videos(config: TrainConfig) -> Callable[[int, Policy], None] | None:
    """What ``policy.train.train`` calls after a checkpoint; None if no videos are asked for.

    Films go to ``out/videos/steps_NNNNNNNNN.mp4``; the episode is the same in all of them.

    Raises:
      ImportError: naming the extra, before a step has been trained.
    """
    if not config.video_every:
        return None
    try:
        import av  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("videos need: pip install 'p2r_jax[viz]'") from error
    return EpisodeVideos(config.out / FOLDER, config)


class EpisodeVideos:
    """Films the first checkpoint at or after every multiple of ``video_every``."""

    def __init__(self, folder: Path, config: TrainConfig):
        """Film into ``folder``; one that is there already is not made again."""
        self._folder, self._every = folder, config.video_every
        self._task = phase_task(config.task, config.phase)
        self._seed = config.ppo.seed  # a key would touch the device before the training does
        self._filmed = max(map(_steps_of, folder.glob("steps_*.mp4")), default=0)

    def __call__(self, steps: int, policy: Policy) -> None:
        """Film ``policy`` if it is time; a film that fails costs the training nothing."""
        if steps // self._every <= self._filmed // self._every:
            return
        started = time.perf_counter()
        path = self._folder / f"steps_{steps:09d}.mp4"
        try:
            film(path, self._task, policy, jax.random.key(self._seed), f"after {steps:,} steps")
        except (OSError, RuntimeError) as error:
            print(f"no video after {steps} steps: {error}", flush=True)
            return
        self._filmed = steps
        print(f"{path} ({time.perf_counter() - started:.0f} s)", flush=True)


def film(path: Path, task: Task, policy: Policy, key: Array, caption: str) -> None:
    """Write the video of one deterministic episode in the training dynamics."""
    from p2r_jax.evaluation.demo import goal_pose
    from p2r_jax.evaluation.video import render_video

    same = policy.replace(contract=replace(policy.contract, steps=0))  # one trace for all films
    poses, ee_xy, told, truth = jax.device_get(_episode(task, same, key))
    path.parent.mkdir(parents=True, exist_ok=True)
    render_video(
        path,
        task.object,
        poses,
        ee_xy,
        goal_pose(task),
        period_s=task.control_period_s,
        caption=(caption,),
        theta_told=np.tile(told, (task.episode_length, 1)) if policy.contract.sees_theta else None,
        theta_truth=truth,
        pusher_radius_m=task.pusher_radius_m,
    )


@functools.partial(jax.jit, static_argnums=0)
def _episode(
    task: Task, policy: Policy, key: Array
) -> tuple[Float[Array, "t+1 3"], Float[Array, "t+1 2"], Float[Array, " k"], Float[Array, " k"]]:
    """Poses of the object, positions of the pusher, theta as told and as it is."""
    env = PushEnv(task, training=False)
    state = env.reset(key)
    width = len(policy.contract.features)
    truth = state.pipeline_state.physics.com[: len(task.theta)]

    def step(state_and_memory, _):
        state, memory = state_and_memory
        inner, features = state.pipeline_state, state.obs["state"][:width]
        action, memory = policy.act(features, inner.theta_input, inner.window, memory)
        return (env.step(state, action), memory), env.measure(inner)

    told = state.pipeline_state.theta_input[: len(task.theta)]
    start = state, policy.empty_memory()
    (state, _), seen = jax.lax.scan(step, start, None, task.episode_length)
    last = env.measure(state.pipeline_state)
    seen = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), seen, last)
    pose = seen.object_pose
    return jnp.concatenate([pose.xy, pose.yaw[:, None]], -1), seen.ee_xy, told, truth


def _steps_of(path: Path) -> int:
    return int(path.stem.split("_")[1])
