"""The ceiling of this machine: C MuJoCo stepping the ``contact`` scene on every core."""

import functools
import os

import mujoco
import numpy as np
from mujoco import rollout

from benchmarks.pushes import Pushes
from benchmarks.timing import rate
from p2r_jax.sim.contact import driven_scene
from p2r_jax.sim.mjcf import write_physics
from p2r_jax.sim.support import support_points
from p2r_jax.tasks import Task


def rate_in_c(task: Task, pushes: Pushes, physics: tuple, repeats: int, threads: int = 0) -> dict:
    """Control steps per second at the step of the task's ``contact`` settings.

    Args:
      task: gives object, support, action and settings.
      pushes: their first action is stepped, one environment each.
      physics: mass, centre of mass, inertia, friction of table and pusher, for all of them.
      repeats: timed samples.
      threads: CPU threads; 0 takes every core.

    Returns:
      ``threads``, ``substeps`` and ``control_steps_per_s`` (as ``timing.rate``).
    """
    config, threads = task.contact, threads or len(os.sched_getaffinity(0))
    points = support_points(task.object, task.physics.support, task.physics.support_count)
    scene = config.scene(task.control_period_s)
    model = driven_scene(task.object, points, task.pusher_radius_m, scene, config.pusher_armature)
    write_physics(model, *physics)
    batch, half = len(pushes.yaw), np.asarray(pushes.yaw) / 2
    start = np.zeros((batch, 1 + model.nq + model.nv))
    start[:, 3], start[:, 4], start[:, 7] = task.object.height_m / 2, np.cos(half), np.sin(half)
    start[:, 8:10] = pushes.ee_xy
    start[:, 16:18] = pushes.direction * task.action_scale_m / task.control_period_s
    workers = [mujoco.MjData(model) for _ in range(threads)]
    with rollout.Rollout(nthread=threads) as pool:
        push = functools.partial(pool.rollout, model, workers, start, nstep=config.substeps)
        control = rate(push, batch, repeats)
    return {"threads": threads, "substeps": config.substeps, "control_steps_per_s": control}
