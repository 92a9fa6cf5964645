"""Notice physics that blew up: not finite, or outside every plausible range.

``PushEnv.step`` ends the episode of an unhealthy environment without reward and
counts it (``nan_envs``); training dumps its last states (``sim.dump``).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool

from p2r_jax.tasks import Layout
from p2r_jax.types import PhysicsParams

DIAGONALS_AWAY = 1.0  # outside the workspace, in diagonals of it
DIAGONALS_PER_S = 10.0  # speed of the object, in diagonals of the workspace per second
TURN_LIMIT = 100.0  # rad/s; a pusher at 0.7 m/s on a lever of 5 cm turns an object at 14


def blowups(
    state: struct.PyTreeNode, physics: PhysicsParams, layout: Layout
) -> dict[str, Bool[Array, "*env"]]:
    """What is wrong with a state, by description.

    The limits are far outside honest motion: an episode ends when the object leaves the
    workspace, and a pusher takes seconds to cross it.

    Args:
      state: of any dynamics (pose, twist and more).
      physics: of the episode.
      layout: its corners give the scale.
    """
    lower, upper = np.array(layout.lower), np.array(layout.upper)
    diagonal = float(np.linalg.norm(upper - lower))
    away, fastest = DIAGONALS_AWAY * diagonal, DIAGONALS_PER_S * diagonal
    outside = jnp.maximum(lower - state.pose.xy, state.pose.xy - upper)
    speed = jnp.linalg.norm(state.twist[..., :2], axis=-1)
    turn = jnp.abs(state.twist[..., 2])
    lead = state.pose.yaw.shape
    return {
        "the physics is not finite": ~_all_finite(physics, lead),
        "the state is not finite": ~_all_finite(state, lead),
        f"the object is more than {away:.2g} m outside the workspace": jnp.any(outside > away, -1),
        f"the object moves faster than {fastest:.3g} m/s": speed > fastest,
        f"the object turns faster than {TURN_LIMIT:g} rad/s": turn > TURN_LIMIT,
    }


def is_healthy(
    state: struct.PyTreeNode, physics: PhysicsParams, layout: Layout
) -> Bool[Array, "*env"]:
    """Whether none of ``blowups`` holds."""
    return ~jnp.any(jnp.stack(list(blowups(state, physics, layout).values())), axis=0)


def _all_finite(tree: Any, lead: tuple[int, ...]) -> Bool[Array, "*env"]:
    """Over every leaf and all but the leading axes."""
    leaves = [jnp.reshape(x, (*lead, -1)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.concatenate(leaves, -1)), -1)
