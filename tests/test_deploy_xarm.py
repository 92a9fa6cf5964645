"""The xArm adapter against a fake of its SDK: units, modes, order of calls, limits, losses."""

import inspect
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from p2r_jax.deploy import command
from p2r_jax.deploy.command import DeployConfig
from p2r_jax.deploy.protocols import DeviceError, Robot
from p2r_jax.deploy.robots import RobotConfig, make_robot
from p2r_jax.deploy.robots.kinematics import XARM6, tip_position
from p2r_jax.deploy.robots.xarm import XArmRobot
from p2r_jax.deploy.robots.xarm_config import XArmConfig
from p2r_jax.deploy.runner import Interruptions
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
FAST = replace(TASK, control_period_s=0.1)
CONFIG = XArmConfig(ip="192.168.1.200")


class FakeXArmAPI:
    """Behaves as the SDK documents: millimetres, return codes, modes and states."""

    def __init__(self, port=None, is_radian=False, do_not_open=False, **kwargs):
        assert do_not_open, "opened before it was meant to"
        self.ip, self.is_radian = port, is_radian
        self.calls, self.answers = [], {}
        self.connected, self.axis = False, 6
        self.mode, self.state, self.enabled, self.error_code = 0, 4, False, 0
        self.pose = [250.0, -30.0, 60.0, np.pi, 0.0, 0.0]
        self.box, self.deaf = None, False
        self.joints = [0.3, *XARM6.rest[1:], 0.0]

    def connect(self):
        self.connected = True

    def disconnect(self):
        self._note("disconnect")
        self.connected = False

    def _note(self, name, *args, **kwargs):
        self.calls.append((name, args, kwargs))
        return self.answers.get(name, 0)

    def names(self):
        return [name for name, _, _ in self.calls]

    def last(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name][-1]

    def motion_enable(self, enable=True, servo_id=None):
        self.enabled = enable
        return self._note("motion_enable", enable)

    def set_mode(self, mode=0, detection_param=0):
        self.mode, self.state = mode, 5  # a change of mode needs set_state(0) to move again
        return self._note("set_mode", mode)

    def set_state(self, state=0):
        if not self.deaf:  # the SDK answers 0 to several refusals
            self.state = 4 if state == 4 else 2
        return self._note("set_state", state)

    def get_state(self):
        return 0, self.state

    def clean_error(self):
        self.error_code = 0
        return self._note("clean_error")

    def clean_warn(self):
        return self._note("clean_warn")

    def get_err_warn_code(self, show=False, lang="en"):
        return 0, [self.error_code, 0]

    def set_tcp_offset(self, offset, is_radian=None, wait=True, **kwargs):
        return self._note("set_tcp_offset", offset, is_radian=is_radian)

    def set_reduced_tcp_boundary(self, boundary):
        self.box = boundary
        return self._note("set_reduced_tcp_boundary", boundary)

    def set_fence_mode(self, on):
        return self._note("set_fence_mode", on)

    def get_position(self, is_radian=None):
        assert is_radian, "degrees"
        return self.answers.get("get_position", 0), list(self.pose)

    def get_servo_angle(self, servo_id=None, is_radian=None, is_real=False):
        assert is_radian, "degrees"
        return self.answers.get("get_servo_angle", 0), list(self.joints)

    def set_position(self, **kwargs):
        if self.mode != 0 or self.state not in (1, 2) or not self.enabled:
            return 9
        self.pose = [kwargs[k] for k in ("x", "y", "z", "roll", "pitch", "yaw")]
        return self._note("set_position", **kwargs)

    def set_servo_cartesian(self, mvpose, speed=None, mvacc=None, mvtime=0, is_radian=None,
                            is_tool_coord=False, **kwargs):  # fmt: skip
        if self.mode != 1:
            return 51
        if self.state not in (1, 2) or not self.enabled:
            return 9
        self.pose = list(mvpose)
        return self._note("set_servo_cartesian", mvpose, is_radian=is_radian)


@pytest.fixture
def arm():
    """Makes connected robots, with the fake behind them; disconnects them at the end."""
    made = []

    def connected(config=CONFIG, task=FAST, prepare=lambda api: None):
        apis = []

        def make(*args, **kwargs):
            apis.append(FakeXArmAPI(*args, **kwargs))
            prepare(apis[-1])
            return apis[-1]

        robot = XArmRobot(config, task, make)
        made.append(robot)
        robot.connect()
        return robot, apis[-1]

    yield connected
    for robot in made:
        robot.disconnect()


def eventually(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def send(robot, x, y):
    return robot.send_action({"ee.x": x, "ee.y": y})


def test_starts_up_in_the_documented_order(arm):
    robot, api = arm()
    order = [name for name in api.names() if name != "set_servo_cartesian"]
    assert order == [
        "motion_enable", "set_mode", "set_state", "set_tcp_offset", "set_state",
        "set_reduced_tcp_boundary", "set_fence_mode", "set_position", "set_position",
        "set_position", "set_mode", "set_state",
    ]  # fmt: skip
    assert isinstance(robot, Robot)
    assert api.ip == CONFIG.ip
    assert api.is_radian
    assert (api.mode, api.state) == (1, 2)
    assert robot.is_connected


def test_every_call_fits_the_signatures_of_the_real_sdk(arm):
    wrapper = pytest.importorskip("xarm.wrapper", reason="xarm-python-sdk is not installed")
    robot, api = arm()
    send(robot, 0.31, 0.0)
    time.sleep(0.05)
    robot.stop()
    robot.disconnect()
    sdk = wrapper.XArmAPI
    for name, args, kwargs in api.calls:
        inspect.signature(getattr(sdk, name)).bind(None, *args, **kwargs)
    inspect.signature(sdk).bind(CONFIG.ip, is_radian=True, do_not_open=True)
    inspect.signature(sdk.get_position).bind(None, is_radian=True)
    inspect.signature(sdk.get_servo_angle).bind(None, is_radian=True)
    for name in ("get_state", "get_err_warn_code", "clean_error", "clean_warn", "connect"):
        inspect.signature(getattr(sdk, name)).bind(None)
    for name in ("connected", "axis", "mode", "error_code"):
        assert isinstance(inspect.getattr_static(sdk, name), property)


def test_travels_up_over_and_down_in_millimetres_and_radians(arm):
    _, api = arm()
    moves = [kwargs for name, _, kwargs in api.calls if name == "set_position"]
    places = [(move["x"], move["y"], move["z"]) for move in moves]
    np.testing.assert_allclose(places, [(250, -30, 120), (300, 0, 120), (300, 0, 20)])
    for move in moves:
        assert move["is_radian"]
        assert move["wait"]
        assert move["speed"] == pytest.approx(50.0)
        assert (move["roll"], move["pitch"], move["yaw"]) == (np.pi, 0.0, 0.0)
    (offset,), _ = api.last("set_tcp_offset")
    assert offset[2] == pytest.approx(195.0)


def test_controller_is_given_the_workspace_as_its_fence(arm):
    _, api = arm()
    assert api.box == [560, 40, 460, -460, 130, 10]


def test_measures_and_sends_metres(arm):
    robot, api = arm()
    seen = robot.get_observation()
    np.testing.assert_allclose([seen["ee.x"], seen["ee.y"], seen["ee.z"]], [0.3, 0.0, 0.02])
    assert send(robot, 0.31, 0.01) == {"ee.x": 0.31, "ee.y": 0.01}
    eventually(lambda: api.pose[0] == pytest.approx(310))
    (pose,), kwargs = api.last("set_servo_cartesian")
    np.testing.assert_allclose(pose, [310, 10, 20, np.pi, 0, 0])
    assert kwargs == {"is_radian": True}


def test_streams_a_straight_ramp_of_small_steps(arm):
    robot, api = arm()
    send(robot, 0.32, 0.0)
    eventually(lambda: api.pose[0] == pytest.approx(320))
    x = np.array([args[0][0] for name, args, _ in api.calls if name == "set_servo_cartesian"])
    assert (np.diff(x) >= -1e-9).all()
    assert len(x) > 3
    now = robot.clock.now()
    robot._ramp = (np.array([0.3, 0.0]), np.array([0.32, 0.01]), now)
    np.testing.assert_allclose(robot.command_at(now + 0.05), [0.31, 0.005])


def test_sends_no_further_than_workspace_reach_and_speed_allow(arm):
    robot, _ = arm(replace(CONFIG, max_speed_m_s=100.0))
    assert send(robot, 0.30, 0.9) == {"ee.x": 0.30, "ee.y": 0.45}
    near = send(robot, 0.05, 0.0)
    assert 0.16 < near["ee.x"] < 0.175
    slow, _ = arm(replace(CONFIG, max_speed_m_s=0.1))
    assert send(slow, 0.40, 0.0)["ee.x"] == pytest.approx(0.31)
    with pytest.raises(DeviceError, match="is not a position"):
        send(slow, float("nan"), 0.0)


def test_stop_halts_the_arm_until_connected_again(arm):
    robot, api = arm()
    send(robot, 0.32, 0.0)
    robot.stop()
    robot.stop()
    assert api.state == 4
    sent = api.names().count("set_servo_cartesian")
    time.sleep(0.05)
    assert api.names().count("set_servo_cartesian") <= sent + 1
    with pytest.raises(DeviceError, match="it was stopped; connect again"):
        send(robot, 0.32, 0.0)
    robot.connect()
    assert send(robot, 0.31, 0.0)["ee.x"] == 0.31


def test_watchdog_stops_a_ramp_whose_loop_is_silent(arm):
    robot, api = arm(replace(CONFIG, watchdog_s=0.2), task=TASK)
    send(robot, 0.33, 0.0)
    robot.clock.sleep_until(robot.clock.now() + 0.3)  # asleep is alive
    assert api.state == 2
    eventually(lambda: api.state == 4)
    assert api.pose[0] < 325
    with pytest.raises(DeviceError, match=r"watchdog saw no sign of life for 0\.2 s"):
        send(robot, 0.33, 0.0)


def test_watchdog_lets_a_finished_ramp_rest(arm):
    robot, api = arm(replace(CONFIG, watchdog_s=0.15))
    send(robot, 0.301, 0.0)
    robot.clock.sleep_until(robot.clock.now() + 0.12)
    time.sleep(0.2)
    assert api.state == 2
    assert send(robot, 0.302, 0.0)["ee.x"] == 0.302


def test_disconnect_stops_the_arm_and_the_stream(arm):
    robot, api = arm()
    thread = robot._thread
    robot.disconnect()
    robot.disconnect()
    assert api.names()[-2:] == ["set_state", "disconnect"]
    assert not thread.is_alive()
    assert not robot.is_connected
    with pytest.raises(DeviceError, match=r"call connect\(\) first"):
        robot.get_observation()


def test_lost_connection_and_controller_errors_reach_the_loop(arm):
    robot, api = arm()
    api.error_code = 31
    with pytest.raises(DeviceError, match="controller error 31"):
        robot.get_observation()
    api.error_code, api.connected = 0, False
    with pytest.raises(DeviceError, match="connection is lost"):
        send(robot, 0.3, 0.0)
    api.connected, api.answers["get_position"] = True, 3
    with pytest.raises(DeviceError, match="no answer in time"):
        robot.get_observation()


def test_a_refused_servo_command_reaches_the_loop(arm):
    robot, api = arm()
    api.answers["set_servo_cartesian"] = 1
    eventually(lambda: not robot._thread.is_alive())
    with pytest.raises(DeviceError, match=r"set_servo_cartesian answered 1 \(it has an error\)"):
        robot.get_observation()


def test_an_exception_inside_the_sdk_reaches_the_loop_as_a_lost_device(arm, monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("broken pipe")

    robot, api = arm()
    monkeypatch.setattr(api, "set_servo_cartesian", broken)
    eventually(lambda: not robot._thread.is_alive())
    with pytest.raises(DeviceError, match="set_servo_cartesian: broken pipe"):
        send(robot, 0.3, 0.0)
    monkeypatch.setattr(api, "set_state", broken)
    with pytest.raises(DeviceError, match="set_state: broken pipe"):
        robot.stop()
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda api: setattr(api, "error_code", 19), "controller error 19"),
        (lambda api: setattr(api, "axis", 7), "7 axes"),
        (lambda api: api.answers.update(motion_enable=-2), "motion_enable answered -2"),
        (lambda api: setattr(api, "pose", [-200.0, 0, 300, np.pi, 0, 0]), "move it inside"),
    ],
)
def test_refuses_to_start_and_closes_the_connection(arm, prepare, message):
    apis = []

    def remember(api):
        apis.append(api)
        prepare(api)

    with pytest.raises(DeviceError, match=message):
        arm(prepare=remember)
    assert not apis[0].connected


def test_clears_errors_only_when_asked_to(arm):
    _, api = arm(replace(CONFIG, clear_errors=True), prepare=lambda a: setattr(a, "error_code", 19))
    assert api.names()[:2] == ["clean_error", "clean_warn"]


def test_without_travel_the_tip_must_already_be_low(arm):
    config = replace(CONFIG, go_to_start=False)
    with pytest.raises(DeviceError, match=r"60\.0 mm high, 20\.0 mm are meant"):
        arm(config)
    _, api = arm(config, prepare=lambda a: setattr(a, "pose", [300.0, 0, 20.5, -np.pi, 0, 0]))
    assert "set_position" not in api.names()


@pytest.mark.parametrize("turned", [(0.0, 0.0, 0.5), (-0.04, 0.0, 0.0), (0.0, 0.04, 0.0)])
def test_without_travel_the_tool_must_already_point_straight_down(arm, turned):
    apis = []

    def prepare(api):
        apis.append(api)
        api.pose = [300.0, 0, 20, np.pi + turned[0], *turned[1:]]

    with pytest.raises(DeviceError, match=r"are meant, to 2; turn the tool.*go-to-start"):
        arm(replace(CONFIG, go_to_start=False), prepare=prepare)
    assert "set_servo_cartesian" not in apis[0].names()


def test_a_still_arm_is_only_looked_at(arm):
    robot, api = arm(replace(CONFIG, still=True, clear_errors=True))
    seen = robot.get_observation()
    tip = tip_position(XARM6, np.array(api.joints[:6]))
    np.testing.assert_allclose([seen["ee.x"], seen["ee.y"], seen["ee.z"]], tip)
    with pytest.raises(DeviceError, match="a dry run: the arm is not enabled"):
        send(robot, 0.31, 0.0)
    robot.stop()
    robot.disconnect()
    assert api.names() == ["disconnect"]
    with pytest.raises(DeviceError, match="controller error 19"):
        arm(
            replace(CONFIG, still=True, clear_errors=True),
            prepare=lambda api: setattr(api, "error_code", 19),
        )


def test_a_still_arm_whose_joints_cannot_be_read_is_a_failed_device(arm):
    with pytest.raises(DeviceError, match=r"no joint angles \(3 \(no answer in time\)\)"):
        arm(replace(CONFIG, still=True), prepare=lambda a: a.answers.update(get_servo_angle=3))


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_dry_run_on_the_command_line_commands_no_motion(tmp_path, monkeypatch, dry_run):
    robots = RobotConfig(xarm=CONFIG)
    config = DeployConfig(Path("b"), tmp_path, "xarm", dry_run=dry_run, robots=robots)
    monkeypatch.setattr(command, "make_tracker", lambda *_: None)
    robot, _, _ = command.make_devices(config, SimpleNamespace(task=TASK))
    apis = []
    robot._make_api = lambda *args, **kwargs: apis.append(FakeXArmAPI(*args, **kwargs)) or apis[-1]
    robot.connect()
    robot.get_observation()
    time.sleep(0.05)
    robot.stop()
    robot.disconnect()
    motion = {"motion_enable", "set_mode", "set_state", "set_position", "set_servo_cartesian"}
    assert set(apis[0].names()) & motion == (set() if dry_run else motion)


def stalled(robot):
    """End the thread of the stream; its points are sent by hand then."""
    robot._closing.set()
    robot._thread.join()
    robot._closing.clear()
    return robot


def test_a_stall_past_the_ramps_end_stops_instead_of_jumping(arm):
    robot, api = arm(replace(CONFIG, watchdog_s=0.3))
    stalled(robot)
    send(robot, 0.32, 0.0)
    late = robot.clock.now() + 1.5
    robot._alive_s = late  # the loop is well
    robot.stream_once(late)
    assert api.state == 4
    assert api.pose[0] == pytest.approx(300)
    with pytest.raises(DeviceError, match=r"stream of points held up for more than 0\.3 s"):
        send(robot, 0.32, 0.0)


def test_targets_sent_during_a_stall_do_not_hide_it(arm):
    robot, api = arm(replace(CONFIG, watchdog_s=0.3))
    stalled(robot)
    begun = robot.clock.now()
    for number in range(5):
        robot.clock.now = lambda number=number: begun + 0.1 * number
        send(robot, 0.31 + 0.01 * number, 0.0)
    robot.stream_once(begun + 0.41)
    assert api.state == 4
    assert api.pose[0] == pytest.approx(300)


def test_after_a_short_stall_the_stream_catches_up_within_the_speed_limit(arm):
    robot, api = arm(replace(CONFIG, max_speed_m_s=0.25))
    stalled(robot)
    send(robot, 0.32, 0.0)
    begun, seen = robot._ramp[2], [300.0]
    for time_s in [0.01, 0.02, *np.arange(0.25, 0.4, 0.01)]:
        robot._alive_s = begun + time_s
        robot.stream_once(begun + time_s)
        seen.append(api.pose[0])
    assert max(np.diff(seen)) <= 1e3 * 0.25 * 0.02 + 1e-6
    assert seen[-1] == pytest.approx(320)
    assert api.state == 2


def test_a_rest_in_which_nothing_was_streamed_is_no_stall(arm):
    robot, api = arm()
    stalled(robot)
    later = robot.clock.now() + 3.0
    robot.clock.now = lambda: later
    send(robot, 0.31, 0.0)
    robot.stream_once(later + 0.01)
    assert api.state == 2
    assert api.pose[0] == pytest.approx(301)


def test_a_stop_that_the_arm_does_not_carry_out_is_an_error(arm):
    robot, api = arm()
    api.deaf = True
    with pytest.raises(DeviceError, match=r"told to stop, but its state is 2.*emergency stop"):
        robot.stop()
    with pytest.raises(DeviceError, match="told to stop"):
        robot.disconnect()
    assert not api.connected
    assert not robot.is_connected


def test_a_start_that_fails_and_cannot_be_stopped_says_both(arm):
    def prepare(api):
        api.answers["set_position"] = 9
        api.set_state = lambda state=0: 3 if state == 4 else FakeXArmAPI.set_state(api, state)

    with pytest.raises(DeviceError, match=r"set_position answered 9.*and then: .*set_state answ"):
        arm(prepare=prepare)


def test_a_watchdog_stop_that_fails_reaches_the_loop(arm):
    robot, api = arm(replace(CONFIG, watchdog_s=0.2), task=TASK)
    api.deaf = True
    send(robot, 0.33, 0.0)
    eventually(lambda: not robot._thread.is_alive())
    with pytest.raises(DeviceError, match=r"no sign of life for 0\.2 s, and then: .*state is 2"):
        robot.get_observation()
    api.deaf = False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_travel_stops_the_arm(number):
    apis = []

    class Travelling(FakeXArmAPI):
        def set_position(self, **kwargs):
            self._note("set_position", **kwargs)
            os.kill(os.getpid(), number)
            for _ in range(100):  # blocks, as wait=True does
                time.sleep(0.01)
            return 0

    def make(*args, **kwargs):
        apis.append(Travelling(*args, **kwargs))
        return apis[-1]

    robot = XArmRobot(CONFIG, TASK, make)
    interruptions = Interruptions()
    with interruptions:
        interruptions.connecting = True
        with pytest.raises(KeyboardInterrupt):
            robot.connect()
    assert apis[0].names().count("set_position") == 1
    assert apis[0].names()[-2:] == ["set_state", "disconnect"]
    assert apis[0].state == 4


def test_needs_an_address_and_says_how_to_install_the_sdk(monkeypatch):
    with pytest.raises(ValueError, match=r"--robots\.xarm\.ip"):
        make_robot("xarm", RobotConfig(), TASK)
    robot = make_robot("xarm", RobotConfig(xarm=CONFIG), TASK)
    monkeypatch.setitem(sys.modules, "xarm", None)
    monkeypatch.setitem(sys.modules, "xarm.wrapper", None)
    with pytest.raises(ImportError, match=r"p2r_jax\[hardware\]"):
        robot.connect()


def test_unreachable_arm_is_a_clear_error():
    def refuse(*args, **kwargs):
        raise Exception("connect socket failed")

    with pytest.raises(
        DeviceError, match=r"192\.168\.1\.200: connect socket failed; is it switched"
    ):
        XArmRobot(CONFIG, TASK, refuse).connect()
