"""What is drawn before anyone acts: trials, the same for every method and every driver.

``Trials`` hold everything that differs between trials, noise included, so that
every method meets the same ones, in evaluation and on the simulated robot.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.tasks import Task

NOISE_SIZE = 5  # object x, y, yaw and pusher x, y


@dataclass(frozen=True)
class Trials:
    """What is given before a method acts; N trials, T actions each.

    Trial i depends on the seed and i alone: twenty trials are the first of two
    hundred. Uniform draws are kept in [0, 1) or in their range, noise in
    standard deviations; the world that uses them scales them.

    Attributes:
      mass_properties: mass (kg), centre of mass (3,) and inertia (3, 3) of the object.
      yaw_rad: yaw of the object at the start.
      friction: effective coefficient object-table.
      pusher_share: uniform in [0, 1), for a world that draws the pusher's friction.
      off_axis_share: uniform in [-1, 1), for a world that moves the CoM off the axis.
      noise: standard normal, one row per measurement.
      seed: what they were drawn with.
    """

    mass_properties: tuple[float, np.ndarray, np.ndarray]
    yaw_rad: Float[np.ndarray, " n"]
    friction: Float[np.ndarray, " n"]
    pusher_share: Float[np.ndarray, " n"]
    off_axis_share: Float[np.ndarray, " n"]
    noise: Float[np.ndarray, "n t 5"]
    seed: int

    @property
    def count(self) -> int:
        """Number of trials."""
        return self.yaw_rad.shape[0]


def draw_trials(task: Task, mass_properties: tuple, count: int, seed: int) -> Trials:
    """``count`` trials of a task with one object; see ``Asset.with_weight``."""
    low, high = task.trial_friction or task.physics.friction
    rows = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yaw, friction, pusher, off_axis = rng.uniform(size=4)
        noise = rng.standard_normal((task.episode_length, NOISE_SIZE))
        rows.append((np.pi * (2 * yaw - 1), low + (high - low) * friction, pusher,
                     2 * off_axis - 1, noise))  # fmt: skip
    return Trials(mass_properties, *(np.stack(column) for column in zip(*rows, strict=True)), seed)
