"""The simulated robot: one trial of "reality" behind the robot protocol, with its own clock.

On the same seed and trial, the closed loop on this robot does what evaluation does in
``Reality``. Its ``clock`` is the loop's: simulated time, as fast as the machine can, or
the wall clock.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import EE_KEYS, EE_STAMP, DeviceError
from p2r_jax.deploy.robots.reach import no_further, require_positive
from p2r_jax.deploy.robots.sim_world import Body, Gantry, SimWorld, one_trial
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.reality import RealityConfig, reality
from p2r_jax.sim.trials import NOISE_SIZE, Trials, draw_trials
from p2r_jax.tasks import Task

SLICE_S = 0.02  # of a wait in real time, so that a stop finds the world no further than this
SPIN_S = 1e-3  # the end of a wait is spent looking at the clock: sleep comes back late
TICK_STEPS = 2  # physics steps around a control tick in which a measurement is the tick's


@dataclass(frozen=True)
class SimRobotConfig:
    """A simulated robot, its object and its time.

    Attributes:
      reality: name of the world.
      seed, trial: which of the trials of that seed.
      weight_x_m: position of the movable weight on the object's +x; None is the bare object.
      com_m: instead, the object's centre of mass (x, y), object frame.
      body: the ``gantry`` of evaluation, or an ``arm`` of the xArm 6's proportions.
      real_time: wait for the wall clock; else the loop runs as fast as it can.
      watchdog_s: motion stops this long after the loop's last sign of life.
      max_speed_m_s: of the commanded tip; a target further off is cut short.
    """

    reality: str = "reality-dev"
    seed: int = 0
    trial: int = 0
    weight_x_m: float | None = None
    com_m: tuple[float, float] | None = None
    body: Literal["gantry", "arm"] = "gantry"
    real_time: bool = False
    watchdog_s: float = 0.35
    max_speed_m_s: float = 1.0

    def __post_init__(self):
        if self.trial < 0:
            raise ValueError(f"trial is {self.trial}; trials are counted from 0")
        require_positive(self, "watchdog_s", "max_speed_m_s")


class SimRobot:
    """A pusher in C MuJoCo that measures with noise and latency.

    A call, and a sleep on ``clock``, is a sign that the loop lives. After ``watchdog_s``
    without one the watchdog stops whatever motion there is, and the robot refuses further
    actions until it is connected again.

    Attributes:
      clock: the loop's clock; seconds since the world began to settle.
    """

    name = "sim"

    def __init__(
        self,
        world: RealityConfig,
        task: Task,
        trials: Trials,
        index: int = 0,
        config: SimRobotConfig | None = None,
        body: Body | None = None,
    ):
        """Build the scene and let the object settle.

        Args:
          world: the reality.
          task: object, layout, control period.
          trials: what was drawn.
          index: the trial.
          config: time, watchdog, speed; its other fields are for ``from_config``.
          body: what carries the pusher; default a gantry.
        """
        self.config, self.task = config or SimRobotConfig(), task
        self.reality, self.trials = world, one_trial(trials, index)
        self.trial = index
        self.world = SimWorld(body or Gantry(world, task, self.trials), world)
        self.clock = SimClock(self)
        self._connected = False
        self._stopped: str | None = None  # why
        self._sent, self._sent_at = 0, self.world.steps
        self._alive_s = self._now_s = self.world.time_s
        self._wall_origin_s: float | None = None

    @classmethod
    def from_config(cls, config: SimRobotConfig, task: Task) -> "SimRobot":
        """The robot that a command line describes; unknown names raise KeyError."""
        world = reality(config.reality)
        masses = mass_properties(task.object, config.weight_x_m, config.com_m)
        trials = draw_trials(task, masses, config.trial + 1, config.seed)
        body = None
        if config.body == "arm":
            from p2r_jax.deploy.robots.arm import Arm

            body = Arm(world, task, one_trial(trials, config.trial))
        return cls(world, task, trials, config.trial, config, body)

    @property
    def is_connected(self) -> bool:
        """Whether it may be commanded."""
        return self._connected

    def connect(self) -> None:
        """Start the clock, if it is the wall's, and make ready."""
        if self.config.real_time and self._wall_origin_s is None:
            self._wall_origin_s = time.perf_counter() - self.world.time_s
        self._connected, self._stopped = True, None
        self.live()

    def get_observation(self) -> dict[str, float]:
        """Measured tip, ``latency_s`` old, and its height."""
        self._check_connected()
        self.live()
        _, tip = self.world.seen(self.reality.latency_s)
        measured = tip + self.reality.ee_noise_m * self.noise()[3:]
        height = self.world.body.height(self.world.states[-1])
        stamp_s = self.world.time_s - self.reality.latency_s
        position = dict(zip(EE_KEYS, map(float, measured), strict=True))
        return position | {"ee.z": float(height), EE_STAMP: stamp_s}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Ramp the command to the target within a control period.

        Raises:
          DeviceError: not connected, stopped, or the target is no number.
        """
        self._check_connected()
        self.live()
        if self._stopped:
            raise DeviceError(f"{self.name}: {self._stopped}; connect again to move")
        target = np.array([action[key] for key in EE_KEYS], float)
        if not np.all(np.isfinite(target)):
            raise DeviceError(f"{self.name}: target {target.tolist()} is not a position")
        target = self._limited(target)
        self.world.ramp_to(target, self.task.control_period_s)
        self._sent, self._sent_at = self._sent + 1, self.world.steps
        return dict(zip(EE_KEYS, map(float, target), strict=True))

    def stop(self) -> None:
        """Hold the tip where it is."""
        self.live()
        self._halt("it was stopped")

    def disconnect(self) -> None:
        """Stop and refuse everything until the next ``connect``."""
        if self._connected:
            self.stop()
        self._connected = False

    def truth(self) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 2"]]:
        """Object (x, y, yaw) and tip (x, y) now, without noise; for tests and pictures."""
        return self.world.seen()

    def noise(self) -> Float[np.ndarray, " 5"]:
        """Standard normal noise of a measurement made now.

        On a control tick it is the trial's, so that every driver meets the same; in
        between it is drawn from the seed, trial and time.
        """
        since = self.world.steps - self._sent_at
        on_tick = abs(since * self.world.dt_s - self.task.control_period_s)
        ticking = self._sent == 0 or on_tick < (TICK_STEPS + 0.5) * self.world.dt_s
        if ticking and self._sent < self.trials.noise.shape[1]:
            return self.trials.noise[0, self._sent]
        rng = np.random.default_rng([self.trials.seed, self.trial, self.world.steps])
        return rng.standard_normal(NOISE_SIZE)

    def run_unattended(self, duration_s: float) -> None:
        """Let the world go on as if the loop were dead."""
        if self._wall_origin_s is None:
            self._now_s += duration_s
        self._pass_to(self.world.time_s + duration_s)

    def live(self) -> None:
        """Simulate up to now; then note that the loop is alive (and was while simulating)."""
        self._pass_to(self.now())
        self._alive_s = self.now()

    def now(self) -> float:
        """Time of the loop's clock, s."""
        if self._wall_origin_s is None:
            return self._now_s
        return time.perf_counter() - self._wall_origin_s

    def sleep_until(self, time_s: float) -> None:
        """The loop sleeps, and lives: simulate to ``time_s``, in real time wait for it too."""
        if self._wall_origin_s is None:
            self._alive_s = self._now_s = max(self._now_s, time_s)
            self._pass_to(self._now_s)
            return
        while (left := time_s - self.now()) > 1.5 * SLICE_S:
            self.live()
            time.sleep(min(SLICE_S, left - SLICE_S))
        self.live()
        self._pass_to(time_s)
        while (left := time_s - self.now()) > 0:
            if left > SPIN_S:
                time.sleep(left - SPIN_S)
        self._alive_s = self.now()

    def _pass_to(self, time_s: float) -> None:
        """Simulate to the physics step nearest to ``time_s``, under the watchdog's eyes."""
        watchdog_s = self._alive_s + self.config.watchdog_s
        if time_s > watchdog_s:
            self._advance_to(watchdog_s)
            if self.world.moving:
                self._halt(f"the watchdog saw no sign of life for {self.config.watchdog_s:g} s")
        self._advance_to(time_s)

    def _advance_to(self, time_s: float) -> None:
        self.world.advance(round(time_s / self.world.dt_s) - self.world.steps)

    def _halt(self, cause: str) -> None:
        _, tip = self.world.seen()
        self.world.hold(tip)
        self._stopped = self._stopped or cause

    def _limited(self, target: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        target = self.world.body.within_reach(target)
        longest = self.config.max_speed_m_s * self.task.control_period_s
        return no_further(self.world.command_xy, target, longest)

    def _check_connected(self) -> None:
        if not self._connected:
            raise DeviceError(f"{self.name}: not connected; call connect() first")


class SimClock:
    """The clock of a simulated robot: sleeping moves its world."""

    def __init__(self, robot: SimRobot):
        self._robot = robot

    def now(self) -> float:
        """Simulated time or, in real time, the wall's since the same origin; s."""
        return self._robot.now()

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s``; at once if that has passed."""
        self._robot.sleep_until(time_s)


def mass_properties(
    asset: Asset, weight_x_m: float | None, com_m: tuple[float, float] | None
) -> tuple:
    """Mass, centre of mass and inertia with the weight at a place, or with a given CoM.

    Raises:
      ValueError: if both are given, or the asset has no weight.
    """
    if com_m is None:
        return asset.with_weight(weight_x_m)
    if weight_x_m is not None:
        raise ValueError("give weight_x_m or com_m of the simulated object, not both")
    return asset.with_com(com_m)
