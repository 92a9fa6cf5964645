"""The one function that turns measurements into what networks see.

Simulation, evaluation and hardware all call it. The actor sees nothing that
hardware cannot measure.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.types import Measurement, PlanarPose, to_object

FEATURES = (
    "object_minus_goal_x",
    "object_minus_goal_y",
    "cos_yaw_error",
    "sin_yaw_error",
    "ee_minus_goal_x",
    "ee_minus_goal_y",
    "ee_object_x",
    "ee_object_y",
    "goal_object_x",
    "goal_object_y",
    "last_action_x",
    "last_action_y",
)
POSITION_SCALE = 4.0  # 1 / 0.25 m: the workspace spans about +-1
REACH_SCALE = 8.0  # 1 / 0.125 m: the pusher around the object spans about +-1


def policy_features(
    measurement: Measurement, goal: PlanarPose, last_action: Float[Array, "*env 2"]
) -> Float[Array, "*env 12"]:
    """Features of a policy step, without theta, in the order of ``FEATURES``.

    Args:
      measurement: object pose and end-effector, world frame.
      goal: goal pose of the object, world frame.
      last_action: action that was really sent last, in [-1, 1]; zeros after reset.
    """
    pose, ee = measurement.object_pose, measurement.ee_xy
    yaw_error = pose.yaw - goal.yaw
    return jnp.concatenate(
        [
            POSITION_SCALE * (pose.xy - goal.xy),
            jnp.cos(yaw_error)[..., None],
            jnp.sin(yaw_error)[..., None],
            POSITION_SCALE * (ee - goal.xy),
            REACH_SCALE * to_object(pose, ee),
            POSITION_SCALE * to_object(pose, goal.xy),
            last_action,
        ],
        -1,
    )


def scale_told(
    told: Float[Array, "*env n"], mean: Float[Array, " k"], std: Float[Array, " k"]
) -> Float[Array, "*env n"]:
    """Theta, and behind it its standard deviations if told, in units of its training prior."""
    size = mean.shape[0]
    theta = (told[..., :size] - mean) / std
    spread = told[..., size:]
    return jnp.concatenate([theta, spread / std[: spread.shape[-1]]], -1)
