"""UFACTORY xArm 6 through ``xarm-python-sdk``: millimetres over there, metres over here.

The arm is driven in its servo mode: a thread streams points of the ramp at
``servo_rate_hz``. The arm rests on the last point it got, so motion ends within a few
hundredths of a second when this process dies, and a watchdog in the thread ends it when
only the loop does. Not yet run on an arm: tested against a fake of the SDK whose
signatures are checked against the real one.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import EE_KEYS, DeviceError
from p2r_jax.deploy.robots.kinematics import XARM6
from p2r_jax.deploy.robots.reach import arm_reach, no_further, require_positive
from p2r_jax.tasks import Task

MM = 1000.0
POSITION_MODE, SERVO_MODE = 0, 1
MOTION_STATE, STOP_STATE = 0, 4
READY_STATES = (1, 2)  # in motion, sleeping
TOOL_DOWN = (math.pi, 0.0, 0.0)  # roll, pitch, yaw: the flange's z points at the table
READY_TIMEOUT_S, TRAVEL_TIMEOUT_S = 2.0, 60.0
HEIGHT_TOLERANCE_M = 3e-3
FENCE_MARGIN_M = 0.01  # of the controller's own box around the workspace
SLICE_S, SPIN_S = 0.05, 3e-4
CODES = {
    -9: "emergency stop", -8: "out of range", -6: "beyond the arm's Cartesian limits",
    -2: "not enabled, or its state was not set", -1: "not connected", 1: "it has an error",
    2: "it has a warning", 3: "no answer in time", 9: "not ready to move", 51: "wrong mode",
}  # fmt: skip


@dataclass(frozen=True)
class XArmConfig:
    """An xArm 6 with a pusher on its flange; the world frame is its base frame.

    Attributes:
      ip: of its control box.
      tip_height_m: at which the tip is held; None is the object's mid height.
      tool_m: from the flange to the tip.
      servo_rate_hz: of the streamed points.
      watchdog_s: motion ends this long after the loop's last sign of life.
      max_speed_m_s: of the commanded tip; a target further off is cut short.
      go_to_start: on connecting, lift the tip, move it over the task's start and lower it.
      travel_speed_m_s, travel_height_m: of that move.
      clear_errors: clear errors that the arm has at the start, instead of refusing.
    """

    ip: str = ""
    tip_height_m: float | None = None
    tool_m: float = XARM6.tool_m
    servo_rate_hz: float = 100.0
    watchdog_s: float = 0.35
    max_speed_m_s: float = 0.25
    go_to_start: bool = True
    travel_speed_m_s: float = 0.05
    travel_height_m: float = 0.12
    clear_errors: bool = False

    def __post_init__(self):
        require_positive(
            self, "tool_m", "servo_rate_hz", "watchdog_s", "max_speed_m_s", "travel_speed_m_s"
        )


class XArmRobot:
    """The robot protocol on an xArm 6.

    Attributes:
      clock: the loop's clock; a sleep on it is a sign that the loop lives.
    """

    name = "xarm"

    def __init__(self, config: XArmConfig, task: Task, make_api: Callable[..., Any] | None = None):
        """Work out reach and limits; nothing is opened yet.

        Args:
          config: the arm.
          task: workspace, start, control period.
          make_api: stands in for the SDK's ``XArmAPI``.

        Raises:
          ValueError: if ``ip`` is missing or the arm does not reach the start.
        """
        if not config.ip:
            raise ValueError("xarm: give the address of the control box: --robots.xarm.ip")
        self.config, self.task, self._make_api = config, task, make_api
        height = config.tip_height_m
        self.tip_height_m = task.object.height_m / 2 if height is None else height
        layout = task.layout
        self.reach = arm_reach(XARM6, self.tip_height_m, layout.lower, layout.upper)
        self.reach.require(layout.ee_start_xy)
        self.clock = HeartbeatClock(self._live)
        self._api: Any = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._connected = False
        self._stopped: str | None = None  # why
        self._failure: Exception | None = None  # of the stream
        self._alive_s = 0.0
        self._ramp = (np.zeros(2), np.zeros(2), -math.inf)

    @property
    def is_connected(self) -> bool:
        """Whether it may be commanded."""
        return self._connected

    def connect(self) -> None:
        """Open, enable, fence, travel to the start, enter servo mode.

        Raises:
          ImportError: without the SDK, naming the extra.
          DeviceError: says at which call the arm refused.
        """
        if self._connected and not self._stopped:
            return
        self.disconnect()
        self._api = self._open()
        try:
            self._make_ready()
        except BaseException:
            self.disconnect()
            raise
        xy = self._position()[:2]
        self._ramp, self._stopped, self._failure = (xy, xy, -math.inf), None, None
        self._connected = True
        self._live()
        self._closing.clear()
        self._thread = threading.Thread(target=self._stream, name="xarm-servo", daemon=True)
        self._thread.start()

    def get_observation(self) -> dict[str, float]:
        """Measured tip, all three coordinates, m."""
        self._check_able()
        self._live()
        position = self._position()
        return dict(zip((*EE_KEYS, "ee.z"), map(float, position), strict=True))

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """Let the stream lead the tip to the target within a control period.

        Raises:
          DeviceError: not connected, stopped, lost, or the target is no number.
        """
        self._check_able()
        target = np.array([action[key] for key in EE_KEYS], float)
        if not np.all(np.isfinite(target)):
            raise DeviceError(f"xarm: target {target.tolist()} is not a position")
        with self._lock:
            if self._stopped:
                raise DeviceError(f"xarm: {self._stopped}; connect again to move")
            now = self.clock.now()
            command = self.command_at(now)
            longest = self.config.max_speed_m_s * self.task.control_period_s
            target = no_further(command, self.reach.nearest(target), longest)
            self._ramp, self._alive_s = (command, target, now), now
        return dict(zip(EE_KEYS, map(float, target), strict=True))

    def stop(self) -> None:
        """Stop at once; DeviceError if the arm does not confirm it."""
        with self._lock:
            self._stopped = self._stopped or "it was stopped"
        if self._api is not None:
            self._call("set_state", STOP_STATE)

    def disconnect(self) -> None:
        """Stop, end the stream and close; nothing is left to do a second time."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        api, self._api, self._thread, self._connected = self._api, None, None, False
        if api is not None:
            try:
                if api.connected:
                    api.set_state(STOP_STATE)
            finally:
                api.disconnect()

    def command_at(self, now: float) -> Float[np.ndarray, " 2"]:
        """Point of the ramp at a time of the clock, m."""
        origin, target, begun = self._ramp
        share = min(max((now - begun) / self.task.control_period_s, 0.0), 1.0)
        return origin + share * (target - origin)

    def stream_once(self, now: float) -> None:
        """Send the point of the ramp for ``now``, unless stopped or the watchdog stops it.

        Raises:
          DeviceError: if the arm refuses.
        """
        with self._lock:
            xy, expired = self.command_at(now), self._expired(now)
            if expired:
                self._stopped = f"the watchdog saw no sign of life for {self.config.watchdog_s:g} s"
            stopped = self._stopped
        if expired:
            self._call("set_state", STOP_STATE)
        elif not stopped:
            self._call("set_servo_cartesian", self._pose(*xy, self.tip_height_m), is_radian=True)

    def _expired(self, now: float) -> bool:
        """Whether the ramp goes on although the loop has been silent for too long."""
        moving = now < self._ramp[2] + self.task.control_period_s
        return moving and not self._stopped and now - self._alive_s > self.config.watchdog_s

    def _stream(self) -> None:
        due = self.clock.now()
        while not self._closing.is_set():
            try:
                self.stream_once(self.clock.now())
            except Exception as error:
                if not self._stopped:
                    self._failure = error
                return
            due = max(due + 1.0 / self.config.servo_rate_hz, self.clock.now())
            self._closing.wait(due - self.clock.now())

    def _open(self) -> Any:
        make = self._make_api or _sdk()
        try:
            api = make(self.config.ip, is_radian=True, do_not_open=True)
            api.connect()
        except Exception as error:
            raise DeviceError(f"xarm at {self.config.ip}: {error}; is it switched on?") from error
        if not api.connected:
            raise DeviceError(f"xarm at {self.config.ip}: no connection; is it switched on?")
        return api

    def _make_ready(self) -> None:
        if self._api.axis != 6:
            raise DeviceError(f"xarm: the arm has {self._api.axis} axes; an xArm 6 is meant")
        self._check_errors()
        self._call("motion_enable", True)
        self._call("set_mode", POSITION_MODE)
        self._call("set_state", MOTION_STATE)
        offset = [0.0, 0.0, MM * self.config.tool_m, 0.0, 0.0, 0.0]
        self._call("set_tcp_offset", offset, is_radian=True)
        self._call("set_state", MOTION_STATE)
        self._fence()
        self._travel()
        self._call("set_mode", SERVO_MODE)
        self._call("set_state", MOTION_STATE)
        self._wait_until_ready()

    def _check_errors(self) -> None:
        code, found = self._ask("get_err_warn_code")
        if code == 0 and found[0] and self.config.clear_errors:
            self._call("clean_error")
            self._call("clean_warn")
            code, found = self._ask("get_err_warn_code")
        if code != 0 or found[0]:
            raise DeviceError(
                f"xarm: controller error {found[0]} (answer {code}); look at the arm, then clear "
                "it in UFACTORY Studio or with --robots.xarm.clear-errors"
            )

    def _fence(self) -> None:
        """Let the controller itself keep the tip in the workspace."""
        position = self._position()
        lower = [*self.reach.lower, self.tip_height_m]
        upper = [*self.reach.upper, max(self.config.travel_height_m, self.tip_height_m)]
        low, high = np.array(lower) - FENCE_MARGIN_M, np.array(upper) + FENCE_MARGIN_M
        if np.any(position < low) or np.any(position > high):
            raise DeviceError(
                f"xarm: the tip is at {position.round(3).tolist()} m, outside "
                f"{low.round(3).tolist()} to {high.round(3).tolist()}; move it inside in UFACTORY "
                "Studio first"
            )
        x, y, z = (
            (math.ceil(MM * above), math.floor(MM * below))
            for above, below in zip(high, low, strict=True)
        )
        self._call("set_reduced_tcp_boundary", [*x, *y, *z])
        self._call("set_fence_mode", True)

    def _travel(self) -> None:
        """Up, over and down to the task's start; or check that the tip is held low."""
        x, y, z = self._position()
        if not self.config.go_to_start:
            if abs(z - self.tip_height_m) > HEIGHT_TOLERANCE_M:
                raise DeviceError(
                    f"xarm: the tip is {1e3 * z:.1f} mm high, {1e3 * self.tip_height_m:.1f} mm "
                    "are meant; lower it, or let it travel: --robots.xarm.go-to-start"
                )
            return
        start, above = self.task.layout.ee_start_xy, max(self.config.travel_height_m, z)
        for waypoint in ((x, y, above), (*start, above), (*start, self.tip_height_m)):
            names = ("x", "y", "z", "roll", "pitch", "yaw")
            self._call(
                "set_position",
                **dict(zip(names, self._pose(*waypoint), strict=True)),
                speed=MM * self.config.travel_speed_m_s,
                is_radian=True,
                wait=True,
                timeout=TRAVEL_TIMEOUT_S,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            code, state = self._ask("get_state")
            if code == 0 and state in READY_STATES and self._api.mode == SERVO_MODE:
                return
            time.sleep(0.02)
        raise DeviceError(
            f"xarm: state {state}, mode {self._api.mode} after {READY_TIMEOUT_S:g} s; it does not "
            "enter servo mode (is the emergency stop pressed?)"
        )

    def _pose(self, x: float, y: float, z: float) -> list[float]:
        """A tip position as the SDK wants it: millimetres, and radians with ``is_radian``."""
        return [float(MM * x), float(MM * y), float(MM * z), *TOOL_DOWN]

    def _position(self) -> Float[np.ndarray, " 3"]:
        """Measured tip, m."""
        code, pose = self._ask("get_position", is_radian=True)
        if code != 0 or not np.all(np.isfinite(pose[:3])):
            raise DeviceError(f"xarm: no position ({_meaning(code)}); the connection may be lost")
        return np.array(pose[:3], float) / MM

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        code = self._ask(method, *args, **kwargs)
        if code != 0:
            raise DeviceError(
                f"xarm: {method} answered {_meaning(code)}; controller error {self._api.error_code}"
            )

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._api, method)(*args, **kwargs)
        except Exception as error:
            raise DeviceError(f"xarm: {method}: {error}") from error

    def _check_able(self) -> None:
        if not self._connected:
            raise DeviceError("xarm: not connected; call connect() first")
        if self._failure is not None:
            raise DeviceError(str(self._failure))
        if not self._api.connected:
            raise DeviceError("xarm: the connection is lost")
        if self._api.error_code:
            raise DeviceError(f"xarm: controller error {self._api.error_code}")

    def _live(self) -> None:
        with self._lock:
            self._alive_s = self.clock.now()


class HeartbeatClock:
    """The machine's monotonic clock; tells the robot, while the loop sleeps, that it lives."""

    def __init__(self, live: Callable[[], None]):
        self._live = live

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.perf_counter()

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s``; at once if that has passed."""
        self._live()
        while (left := time_s - time.perf_counter()) > 0:
            if left > SLICE_S:
                time.sleep(SLICE_S)
                self._live()
            elif left > SPIN_S:
                time.sleep(left - SPIN_S)


def _meaning(code: int) -> str:
    return f"{code} ({CODES[code]})" if code in CODES else str(code)


def _sdk() -> Callable[..., Any]:
    try:
        from xarm.wrapper import XArmAPI
    except ImportError as error:
        raise ImportError(
            "the xArm needs xarm-python-sdk: pip install 'p2r_jax[hardware]'"
        ) from error
    return XArmAPI
