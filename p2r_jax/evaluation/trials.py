"""Closed-loop trials in lockstep: the driver, and what is recorded.

A ``World`` moves the objects; ``run_trials`` closes the loop with ``loop_step``.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from p2r_jax.deploy.loop import Bundle, Diagnostics, Memory, loop_step
from p2r_jax.types import Measurement


class World(Protocol):
    """Something that N pushers and N objects live in; steps all trials together.

    Attributes:
      theta: the truth, as the world's physics has it: Float[N, K].
    """

    theta: Float[np.ndarray, "n k"]

    def measure(self) -> Measurement:
        """What the robot knows at this control tick: leaves Float[N, ...]."""
        ...

    def act(self, action: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Carry out one action; returns which pushers touched their object."""
        ...

    def truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Object (x, y, yaw) Float[N, 3], pusher Float[N, 2], CoM speed Float[N], now."""
        ...


@dataclass(frozen=True)
class TrialRecord:
    """What happened: N trials, T actions, K components of theta; SI units.

    Rows 0..T of the first block are control ticks (row k is the state before
    action k); rows of the other blocks belong to action k.

    Attributes:
      object_pose: true x, y and yaw in [-pi, pi).
      ee_xy: true pusher position.
      speed: of the object's centre of mass.
      measured_pose, measured_ee: what the loop was given.
      action: sent, in [-1, 1].
      contact: the pusher touched the object during the action.
      prior_mean, prior_sigma, estimate_mean, estimate_sigma, fused_mean,
        fused_sigma: beliefs when the action was computed.
      theta_used: what the policy was told.
      theta_true: the truth, constant per trial.
    """

    object_pose: Float[np.ndarray, "n t+1 3"]
    ee_xy: Float[np.ndarray, "n t+1 2"]
    speed: Float[np.ndarray, "n t+1"]
    measured_pose: Float[np.ndarray, "n t 3"]
    measured_ee: Float[np.ndarray, "n t 2"]
    action: Float[np.ndarray, "n t 2"]
    contact: Bool[np.ndarray, "n t"]
    prior_mean: Float[np.ndarray, "n t k"]
    prior_sigma: Float[np.ndarray, "n t k"]
    estimate_mean: Float[np.ndarray, "n t k"]
    estimate_sigma: Float[np.ndarray, "n t k"]
    fused_mean: Float[np.ndarray, "n t k"]
    fused_sigma: Float[np.ndarray, "n t k"]
    theta_used: Float[np.ndarray, "n t k"]
    theta_true: Float[np.ndarray, "n k"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Fields by name, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@jax.jit
def batched_loop_step(
    bundle: Bundle, memory: Memory, measurement: Measurement
) -> tuple[Float[Array, "n 2"], Memory, Diagnostics]:
    """``loop_step`` for N trials: one policy, ensemble and goal, a prior per trial."""
    axes = bundle.replace(policy=None, ensemble=None, prior=0, goal=None)
    return jax.vmap(loop_step, in_axes=(axes, 0, 0))(bundle, memory, measurement)


def empty_memory(bundle: Bundle, count: int) -> Memory:
    """Memories of N loops at the start of an episode."""
    blank = bundle.empty_memory()
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), blank)


def run_trials(
    world: World, bundle: Bundle, steps: int, on_step: Callable[[], object] | None = None
) -> TrialRecord:
    """Close the loop for ``steps`` actions from a world that was just set up.

    Args:
      world: N trials at their start.
      bundle: what runs; ``bundle.prior`` has a leading axis of N.
      steps: actions per trial.
      on_step: called after every action, e.g. to move a progress bar.
    """
    memory = empty_memory(bundle, world.theta.shape[0])
    ticks, rows = [world.truth()], []
    for _ in range(steps):
        measurement = world.measure()
        action, memory, known = batched_loop_step(bundle, memory, measurement)
        action = np.asarray(action)
        contact = world.act(action)
        ticks.append(world.truth())
        rows.append(_row(measurement, action, contact, known))
        if on_step:
            on_step()
    pose, ee_xy, speed = (np.stack(x, 1) for x in zip(*ticks, strict=True))
    columns = {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}
    record = TrialRecord(pose, ee_xy, speed, **columns, theta_true=np.asarray(world.theta))
    return TrialRecord(**{k: _compact(v) for k, v in record.arrays().items()})


def _row(measurement: Measurement, action, contact, known: Diagnostics) -> dict[str, np.ndarray]:
    pose = measurement.object_pose
    row = {
        "measured_pose": np.concatenate([pose.xy, np.asarray(pose.yaw)[:, None]], -1),
        "measured_ee": np.asarray(measurement.ee_xy), "action": action, "contact": contact,
    }  # fmt: skip
    for name in ("prior", "estimate", "fused"):
        belief = getattr(known, name)
        row[f"{name}_mean"] = np.asarray(belief.mean)
        row[f"{name}_sigma"] = np.sqrt(np.asarray(belief.variance))
    return row | {"theta_used": np.asarray(known.theta)}


def _compact(x: np.ndarray) -> np.ndarray:
    """Floats as float32."""
    return x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
