"""An episode as it is filmed: where things are in every frame, and what is marked on them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.evaluation.figures import object_outline, pose_transform
from p2r_jax.sim.asset import Asset

OBJECT_RGB, GOAL_RGB, PUSHER_RGB = (0.93, 0.62, 0.20), (0.0, 0.62, 0.45), (0.16, 0.27, 0.45)
TRUTH_RGB, TOLD_RGB = (0.05, 0.05, 0.05), (0.84, 0.15, 0.38)
MARKER_RADIUS_M = 0.008
HEAD_PX, FOOT_PX = 58, 34  # kept free for two lines of caption and a line of numbers


@dataclass(frozen=True)
class Motion:
    """An episode as it is filmed, one row per control step.

    Attributes:
      poses: object x, y (m), yaw (rad), world frame; Float[T, 3].
      ee: pusher, world frame, m; Float[T, 2].
      theta_told: theta the policy was told (CoM on object axes, m) from each step on,
        one for each step or each action (T - 1), a dot on the object; None draws none.
      theta_truth: the true one, m, drawn likewise.
    """

    poses: Float[np.ndarray, "t 3"]
    ee: Float[np.ndarray, "t 2"]
    theta_told: Float[np.ndarray, "actions ..."] | None = None
    theta_truth: float | Float[np.ndarray, " k"] | None = None

    def resample(self, steps: Float[np.ndarray, " f"]) -> "Motion":
        """The motion at fractional control steps, linear in between; yaw takes the short way."""
        known = np.arange(len(self.poses))
        poses = np.array(self.poses, float)
        poses[:, 2] = np.unwrap(poses[:, 2])

        def at(values):
            return np.stack([np.interp(steps, known, v) for v in np.asarray(values, float).T], -1)

        told = self.theta_told
        if told is not None:
            told = np.asarray(told, float)
            told = told[np.minimum(steps.astype(int), len(told) - 1)]
        return Motion(at(poses), at(self.ee), told, self.theta_truth)


def markers(motion: Motion) -> list[tuple]:
    """What is marked on the object: name, theta (one or all frames, k), colour, radius (m)."""
    truth, told = motion.theta_truth, motion.theta_told
    markers = []
    if truth is not None:
        markers.append(("true", np.reshape(truth, (1, -1)), TRUTH_RGB, 1.5 * MARKER_RADIUS_M))
    if told is not None:
        markers.append(("told", np.reshape(told, (len(told), -1)), TOLD_RGB, MARKER_RADIUS_M))
    return markers


def on_object(theta: Float[np.ndarray, "one_or_f k"], count: int) -> Float[np.ndarray, "f 2"]:
    """Where theta is marked, object frame; a single component lies on the x axis."""
    points = np.zeros((count, 2))
    points[:, : theta.shape[1]] = theta[:, :2]
    return points


def visited(
    asset: Asset, motion: Motion, goal: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "points 2"]:
    """Every place that the object's corners, the goal's and the pusher come to, world xy, m."""
    outline = object_outline(asset).vertices
    placed = [pose_transform(pose).transform(outline) for pose in (*motion.poses, goal)]
    return np.concatenate([*placed, motion.ee])
