"""One trial of "reality" that runs on its own: physics, the ramp of the command, what was.

``Reality`` steps many trials a control period at a time; here one world is stepped as
far as its caller likes, with the same models, the same ramps and, from command to
command, bitwise the same result.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import mujoco
import numpy as np
from jaxtyping import Float
from mujoco import rollout

from p2r_jax.sim.reality import (
    OBJECT_XY,
    PUSHER,
    QUATERNION,
    RealityConfig,
    build_models,
    start_state,
    yaw_of,
)
from p2r_jax.sim.trials import Trials
from p2r_jax.tasks import Task

MEMORY_S = 2.0  # how far back a state can be looked up


class Body(Protocol):
    """What carries the pusher: a compiled scene, and how it is commanded.

    Attributes:
      model: the scene; the object is the first free body (qpos 0:7).
      start: full physics state at the start, Float[S].
      start_xy: commanded tip at the start, m.
    """

    model: mujoco.MjModel
    start: np.ndarray
    start_xy: np.ndarray

    def controls(self, tips: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n u"]:
        """Controls of physics steps at which the tip is commanded to ``tips``."""
        ...

    def tips(self, states: Float[np.ndarray, "*n s"]) -> Float[np.ndarray, "*n 2"]:
        """Where the tip is in these full physics states, m."""
        ...

    def height(self, state: Float[np.ndarray, " s"]) -> float:
        """How high the tip is over the table, m."""
        ...

    def within_reach(self, xy: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """The nearest target that the body can go to."""
        ...


class Gantry:
    """The pusher of ``Reality``: a sphere on two slides behind a lagging servo."""

    def __init__(self, config: RealityConfig, task: Task, trials: Trials):
        self.model = build_models(config, task, trials)[0]
        self.start = start_state(task, trials)[0]
        self.start_xy = np.array(task.layout.ee_start_xy, float)
        self._limits = task.layout.lower, task.layout.upper
        self._height_m = task.object.height_m / 2

    def controls(self, tips: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """The servos are commanded by position."""
        return tips

    def tips(self, states: Float[np.ndarray, "*n 18"]) -> Float[np.ndarray, "*n 2"]:
        """The slides."""
        return states[..., PUSHER]

    def height(self, state: Float[np.ndarray, " 18"]) -> float:
        """The slides do not leave the object's mid height."""
        return self._height_m

    def within_reach(self, xy: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """The slides end at the workspace's edges."""
        return np.clip(xy, *self._limits)


@dataclass(frozen=True)
class Ramp:
    """A straight line of commands at constant speed; ``target`` after ``steps`` steps."""

    origin: Float[np.ndarray, " 2"]
    target: Float[np.ndarray, " 2"]
    steps: int
    begun_at: int

    def at(self, steps: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
        """Commands at these physics steps."""
        share = np.clip((steps - self.begun_at) / max(self.steps, 1), 0.0, 1.0)
        return self.origin + share[:, None] * (self.target - self.origin)


class SimWorld:
    """A body and an object in C MuJoCo, from the settled start of a trial.

    Attributes:
      steps: physics steps taken, settling included; ``time_s`` is that in seconds.
      states: full physics states of the last ``MEMORY_S``, oldest first.
    """

    def __init__(self, body: Body, config: RealityConfig):
        self.body, self.dt_s = body, config.scene.timestep_s
        self.steps = 0
        self._data = mujoco.MjData(body.model)
        self._rollout = rollout.Rollout(nthread=0)
        self.states = body.start[None]
        self.hold(body.start_xy)
        self.advance(round(config.settle_s / self.dt_s))

    @property
    def time_s(self) -> float:
        """Simulated time; zero before the object settled."""
        return self.steps * self.dt_s

    @property
    def moving(self) -> bool:
        """Whether the ramp has not reached its target."""
        return self.steps < self._ramp.begun_at + self._ramp.steps

    @property
    def command_xy(self) -> Float[np.ndarray, " 2"]:
        """Where the tip is commanded to be now, m."""
        if not self.moving:
            return self._ramp.target
        return self._ramp.at(np.array([self.steps]))[0]

    def ramp_to(self, target: Float[np.ndarray, " 2"], duration_s: float) -> None:
        """From now on, move the command to ``target`` in a straight line.

        The solver starts cold, as it does in every control period of ``Reality``.
        """
        steps = round(duration_s / self.dt_s)
        self._ramp = Ramp(self.command_xy, np.asarray(target, float), steps, self.steps)
        self._warmstart = np.zeros(self.body.model.nv)

    def hold(self, xy: Float[np.ndarray, " 2"]) -> None:
        """Command ``xy`` from now on, without a ramp."""
        self._ramp = Ramp(np.asarray(xy, float), np.asarray(xy, float), 0, self.steps)
        self._warmstart = np.zeros(self.body.model.nv)

    def advance(self, steps: int) -> None:
        """Simulate; zero or fewer steps do nothing."""
        if steps <= 0:
            return
        tips = self._ramp.at(np.arange(self.steps + 1, self.steps + steps + 1))
        states, _ = self._rollout.rollout(
            self.body.model,
            self._data,
            self.states[-1:],
            self.body.controls(tips)[None],
            initial_warmstart=self._warmstart[None],
        )
        self._warmstart = self._data.qacc_warmstart.copy()
        self.states = np.concatenate([self.states, states[0]])[-round(MEMORY_S / self.dt_s) :]
        self.steps += steps

    def seen(self, age_s: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Object (x, y, yaw in [-pi, pi]) and tip (x, y) as they were ``age_s`` ago."""
        back = min(round(age_s / self.dt_s), len(self.states) - 1)
        state = self.states[-1 - back]
        return np.append(state[OBJECT_XY], yaw_of(state[QUATERNION])), self.body.tips(state)


def one_trial(trials: Trials, index: int) -> Trials:
    """The trial of an index, alone.

    Raises:
      ValueError: if there is no such trial.
    """
    if not 0 <= index < trials.count:
        raise ValueError(f"trial is {index}; there are {trials.count}, counted from 0")
    names = ("yaw_rad", "friction", "pusher_share", "off_axis_share", "noise")
    return replace(trials, **{name: getattr(trials, name)[index : index + 1] for name in names})
