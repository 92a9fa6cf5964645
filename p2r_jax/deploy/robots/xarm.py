"""UFACTORY xArm 6 through ``xarm-python-sdk``: millimetres over there, metres over here.

The arm is driven in its servo mode: a thread streams points of the ramp at
``servo_rate_hz``. The arm rests on the last point it got, so motion ends within a few
hundredths of a second when this process dies, and a watchdog in the thread ends it when
only the loop does. That does not hold while ``connect`` travels to the start: that is a
position move, which the controller carries out by itself; Ctrl-C or SIGTERM ends it, but
not the death of this process and not the live page's STOP. Keep a hand on the emergency
stop until then. Not yet run on an arm: tested against a fake of the SDK whose signatures
are checked against the real one.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.protocols import EE_KEYS, DeviceError
from p2r_jax.deploy.robots.heartbeat import HeartbeatClock
from p2r_jax.deploy.robots.kinematics import XARM6, tip_position
from p2r_jax.deploy.robots.reach import arm_reach, no_further
from p2r_jax.deploy.robots.xarm_config import XArmConfig
from p2r_jax.tasks import Task
from p2r_jax.types import wrap_angle

MM = 1000.0
POSITION_MODE, SERVO_MODE = 0, 1
MOTION_STATE, STOP_STATE = 0, 4
READY_STATES = (1, 2)  # in motion, sleeping
STOPPED_STATES = (4, 5)  # stopped, stopped by a change of mode
TOOL_DOWN = (math.pi, 0.0, 0.0)  # roll, pitch, yaw: the flange's z points at the table
READY_TIMEOUT_S, TRAVEL_TIMEOUT_S, STOP_TIMEOUT_S, POLL_S = 2.0, 60.0, 0.3, 0.02
# Without travel, the first streamed point takes out at once what is left within these.
HEIGHT_TOLERANCE_M, TILT_TOLERANCE_RAD = 1e-3, math.radians(2.0)
CATCH_UP_PERIODS = 2.0  # of the servo: after a stall, a point goes no further than these allow
ARRIVED_M = 1e-6
FENCE_MARGIN_M = 0.01  # of the controller's own box around the workspace
CODES = {
    -9: "emergency stop", -8: "out of range", -6: "beyond the arm's Cartesian limits",
    -2: "not enabled, or its state was not set", -1: "not connected", 1: "it has an error",
    2: "it has a warning", 3: "no answer in time", 9: "not ready to move", 51: "wrong mode",
}  # fmt: skip


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
        self._sent_xy, self._due_s = np.zeros(2), -math.inf  # last point; a next one owed since
        self._commanded = False  # whether there may be motion to stop

    @property
    def is_connected(self) -> bool:
        """Whether it may be commanded."""
        return self._connected

    def connect(self) -> None:
        """Open, enable, fence, travel to the start, enter servo mode; ``still``: only open.

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
            xy = self._position()[:2]
        except BaseException as error:
            try:
                self.disconnect()
            except DeviceError as second:
                raise DeviceError(f"{str(error) or 'interrupted'}; and then: {second}") from error
            raise
        self._ramp, self._stopped, self._failure = (xy, xy, -math.inf), None, None
        self._sent_xy, self._due_s = xy, self.clock.now()
        self._connected = True
        self._live()
        if self.config.still:
            return
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
          DeviceError: not connected, ``still``, stopped, lost, or the target is no number.
        """
        self._check_able()
        if self.config.still:
            raise DeviceError("xarm: a dry run: the arm is not enabled and stays where it is")
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
            if not self._owes():
                self._due_s = now
            self._ramp, self._alive_s = (command, target, now), now
        return dict(zip(EE_KEYS, map(float, target), strict=True))

    def stop(self) -> None:
        """Stop at once; DeviceError if the arm does not confirm it."""
        with self._lock:
            self._stopped = self._stopped or "it was stopped"
        if self._api is not None and self._commanded:
            self._halt()

    def disconnect(self) -> None:
        """Stop, end the stream and close; nothing is left to do a second time."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        api, self._thread, self._connected = self._api, None, False
        if api is not None:
            try:
                if api.connected and self._commanded:
                    self._halt()
            finally:
                self._api, self._commanded = None, False
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
            if self._stopped:
                return
            self._stopped = cause = self._expired(now)
            if not cause:
                self._sent_xy, self._due_s = self._next_point(now), now
        if cause:
            self._end_by_watchdog(cause)
        else:
            pose = self._pose(*self._sent_xy, self.tip_height_m)
            self._call("set_servo_cartesian", pose, is_radian=True)

    def _next_point(self, now: float) -> Float[np.ndarray, " 2"]:
        """Point of the ramp, or as far towards it as the arm may go since the last one."""
        period = 1.0 / self.config.servo_rate_hz
        since = min(max(now - self._due_s, period), CATCH_UP_PERIODS * period)
        return no_further(self._sent_xy, self.command_at(now), self.config.max_speed_m_s * since)

    def _owes(self) -> bool:
        """Whether the last streamed point is not yet the ramp's target."""
        return math.dist(self._sent_xy, self._ramp[1]) > ARRIVED_M

    def _expired(self, now: float) -> str | None:
        """Why the motion must not go on: the loop or the stream was silent for too long."""
        longest = self.config.watchdog_s
        if self._owes() and now - self._alive_s > longest:
            return f"the watchdog saw no sign of life for {longest:g} s"
        if self._owes() and now - self._due_s > longest:
            return f"the watchdog saw the stream of points held up for more than {longest:g} s"
        return None

    def _end_by_watchdog(self, cause: str) -> None:
        try:
            self._halt()
        except DeviceError as error:
            self._failure = DeviceError(f"xarm: {cause}, and then: {error}")
            raise

    def _halt(self) -> None:
        """Stop, and read the state back: the SDK's answer to ``set_state`` hides refusals."""
        self._call("set_state", STOP_STATE)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            code, state = self._ask("get_state")
            if code == 0 and state in STOPPED_STATES:
                return
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"xarm: told to stop, but its state is {state} (answer {_meaning(code)}); "
                    "press the emergency stop"
                )
            time.sleep(POLL_S)

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
        if self.config.still:
            return
        self._commanded = True
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
        if code == 0 and found[0] and self.config.clear_errors and not self.config.still:
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
        """Up, over and down to the task's start; or check that the tool is held as meant."""
        if not self.config.go_to_start:
            self._require_held_low()
            return
        x, y, z = self._position()
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

    def _require_held_low(self) -> None:
        """The first servo point must not jump: tip at its height, tool straight down."""
        pose = self._measured_pose()
        z, angles = pose[2] / MM, np.array(pose[3:6])
        if abs(z - self.tip_height_m) > HEIGHT_TOLERANCE_M:
            raise DeviceError(
                f"xarm: the tip is {1e3 * z:.1f} mm high, {1e3 * self.tip_height_m:.1f} mm "
                "are meant, to 1 mm; lower it, or let it travel: --robots.xarm.go-to-start"
            )
        off = wrap_angle(angles - TOOL_DOWN)
        if not np.all(np.abs(off) <= TILT_TOLERANCE_RAD):
            raise DeviceError(
                f"xarm: roll, pitch, yaw are {np.degrees(angles).round(1).tolist()} degrees, "
                f"{np.degrees(TOOL_DOWN).round(1).tolist()} are meant, to 2; turn the tool in "
                "UFACTORY Studio, or let it travel: --robots.xarm.go-to-start"
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            code, state = self._ask("get_state")
            if code == 0 and state in READY_STATES and self._api.mode == SERVO_MODE:
                return
            time.sleep(POLL_S)
        raise DeviceError(
            f"xarm: state {state}, mode {self._api.mode} after {READY_TIMEOUT_S:g} s; it does not "
            "enter servo mode (is the emergency stop pressed?)"
        )

    def _pose(self, x: float, y: float, z: float) -> list[float]:
        """A tip position as the SDK wants it: millimetres, and radians with ``is_radian``."""
        return [float(MM * x), float(MM * y), float(MM * z), *TOOL_DOWN]

    def _position(self) -> Float[np.ndarray, " 3"]:
        """Measured tip, m; ``still``: from the joints, as the controller knows no tool then."""
        if not self.config.still:
            return np.array(self._measured_pose()[:3], float) / MM
        code, angles = self._ask("get_servo_angle", is_radian=True)
        if code != 0 or not np.all(np.isfinite(angles)):
            raise DeviceError(f"xarm: no joint angles ({_meaning(code)}); is it connected?")
        return tip_position(replace(XARM6, tool_m=self.config.tool_m), np.array(angles[:6], float))

    def _measured_pose(self) -> list[float]:
        """x, y, z (mm), roll, pitch, yaw (rad) of the tip, once the controller knows the tool."""
        code, pose = self._ask("get_position", is_radian=True)
        if code != 0 or not np.all(np.isfinite(pose)):
            raise DeviceError(f"xarm: no position ({_meaning(code)}); the connection may be lost")
        return list(pose)

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
