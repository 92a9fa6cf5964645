"""The checklist: passes on a good set-up, and names what is wrong with a bad one."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from p2r_jax.deploy.check import CheckConfig, check, fit_similarity
from p2r_jax.deploy.jog import Track
from p2r_jax.deploy.protocols import DeviceError, TrackedPose
from p2r_jax.deploy.robots.sim import SimRobot
from p2r_jax.deploy.trackers.sim import SimTracker, SimTrackerConfig
from p2r_jax.sim.reality import REALITY_DEV
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
SEES_TIP = CheckConfig(tracker_sees="tip")


class Bent(SimTracker):
    """Sees through a planar map: x + iy -> a (x + iy) + b, or of its conjugate."""

    def __init__(self, robot, factor=1.0, shift=0.0, mirrored=False, **settings):
        super().__init__(robot, SimTrackerConfig(sees="tip", **settings))
        self._map = factor, shift, mirrored

    def get_pose(self):
        pose = super().get_pose()
        factor, shift, mirrored = self._map
        z = factor * ((pose.x - 1j * pose.y) if mirrored else (pose.x + 1j * pose.y)) + shift
        return TrackedPose(float(z.real), float(z.imag), pose.yaw, pose.stamp_s)


def make_robot(kind=SimRobot, task=TASK, world=REALITY_DEV):
    return kind(world, task, draw_trials(task, task.object.with_weight(None), 1, 0))


def checked(robot, tracker, config=SEES_TIP, **kwargs):
    report = check(robot, tracker, robot.clock, TASK, config, **kwargs)
    assert not robot.is_connected
    return report, {item.name: item for item in report.items}


def test_a_good_set_up_passes_every_item():
    robot, told = make_robot(), []
    report, items = checked(
        robot, SimTracker(robot, SimTrackerConfig(sees="tip")), tell=told.append
    )
    assert report.ok
    assert {item.outcome for item in report.items} == {"pass"}
    assert tuple(told) == report.items
    assert "ready" in report.describe()
    assert json.loads(json.dumps(report.record()))["ok"]
    assert items["frames"].measured["scale"] == pytest.approx(1.0, abs=0.03)


def test_latency_is_servo_lag_plus_age_of_the_measurement():
    robot = make_robot()
    _, items = checked(robot, SimTracker(robot, SimTrackerConfig(sees="tip")))
    expected = REALITY_DEV.servo.lag_s + REALITY_DEV.latency_s
    found = items["latency"].measured
    assert found["robot_s"] == pytest.approx(expected, abs=0.01)
    assert found["tracker_s"] == pytest.approx(expected, abs=0.01)
    assert found["stamp_behind_robot_s"] == pytest.approx(-REALITY_DEV.latency_s, abs=0.01)
    assert items["tracker rate"].measured["age_s"] == pytest.approx(REALITY_DEV.latency_s, abs=1e-3)


def test_a_tracker_of_the_object_leaves_the_frames_open_and_says_why():
    robot = make_robot()
    report, items = checked(robot, SimTracker(robot), CheckConfig())
    assert report.ok
    assert items["frames"].outcome == "skip"
    assert "fix a tag or rigid body to the tool" in items["frames"].advice


@pytest.mark.parametrize(
    ("bend", "advice"),
    [
        ({"factor": 1j, "shift": 0.3 - 0.3j}, r"by -(90|89)\.\d deg: it is off by a quarter turn"),
        ({"factor": -1, "shift": 0.6}, "off by half a turn"),
        ({"factor": np.exp(0.2j), "shift": 0.006 - 0.0595j}, r"frame by -11\.\d deg$"),
        ({"factor": 1000.0}, "the tracker speaks millimetres"),
        ({"factor": 1e-3, "shift": 0.3}, "does not move with the tip"),
        ({"factor": 1.2, "shift": -0.06}, "a wrong scale"),
        ({"mirrored": True}, "mirrored"),
        ({"shift": 0.02 - 0.01j}, r"frame by \(-0\.0(20|19)\d, \+0\.0(10|09)\d\) m"),
    ],
)  # fmt: skip
def test_frames_that_do_not_agree_are_named_with_the_way_to_mend_them(bend, advice):
    robot = make_robot()
    report, items = checked(robot, Bent(robot, **bend))
    assert not report.ok
    assert items["frames"].outcome == "fail"
    assert re.search(advice, items["frames"].advice), items["frames"]


def test_poses_in_millimetres_are_not_plausible():
    robot = make_robot()
    _, items = checked(robot, Bent(robot, factor=1000.0))
    assert items["plausible pose"].advice == "millimetres? metres are meant"
    robot = make_robot()
    _, items = checked(robot, Bent(robot, shift=0.4))
    assert "robot's base frame" in items["plausible pose"].advice


def test_a_slow_tracker_and_an_old_picture_fail():
    robot = make_robot()
    _, items = checked(robot, SimTracker(robot, SimTrackerConfig(rate_hz=4.0)), CheckConfig())
    assert items["tracker rate"].outcome == "fail"
    assert items["tracker rate"].measured["rate_hz"] == pytest.approx(4.0, abs=0.3)
    robot = make_robot()
    frozen = SimTracker(robot, SimTrackerConfig(sees="tip", rate_hz=0.05))
    report, items = checked(robot, frozen)
    assert items["tracker rate"].text == "0.0 new poses/s"
    assert items["latency"].text == "no motion was seen"
    assert "NaN" not in json.dumps(report.record())
    assert "Infinity" not in json.dumps(report.record())
    robot = make_robot()
    late = SimTracker(robot, SimTrackerConfig(sees="tip", extra_latency_s=0.3))
    _, items = checked(robot, late)
    assert "350 ms old" in items["tracker rate"].text
    assert items["tracker rate"].outcome == items["latency"].outcome == "fail"


class Runaway(SimRobot):
    """Ignores the stop."""

    def stop(self):
        pass


class Forgetful(SimRobot):
    """Stops, and goes on as soon as it is told to."""

    def send_action(self, action):
        self._stopped = None
        return super().send_action(action)


class Deaf(Runaway):
    """Finishes its motion after the stop, and refuses the next."""

    stops = 0

    def stop(self):
        self.stops += 1

    def send_action(self, action):
        if self.stops:
            raise DeviceError("stopped")
        return super().send_action(action)


@pytest.mark.parametrize("name", ["push_tblock", "push_hammer"])  # periods of 1 and 0.1 s
@pytest.mark.parametrize("kind", [Runaway, Forgetful, Deaf])
def test_a_robot_that_does_not_stop_fails(kind, name):
    task = load_task(name)
    robot = make_robot(kind, task)
    report = check(robot, SimTracker(robot), robot.clock, task)
    item = report.items[[i.name for i in report.items].index("stopping")]
    assert item.outcome == "fail"
    assert "unattended" in item.advice
    assert np.isfinite(list(item.measured.values())).all()


def test_a_robot_that_stops_passes_at_a_short_control_period():
    task = load_task("push_hammer")
    robot = make_robot(task=task)
    items = check(robot, SimTracker(robot), robot.clock, task).items
    (item,) = (item for item in items if item.name == "stopping")
    assert item.outcome == "pass"
    assert item.measured["left_m"] < 5e-3  # the limit of a position


def test_a_robot_in_millimetres_or_out_of_place_does_not_move():
    class Millimetres(SimRobot):
        def get_observation(self):
            return {key: 1000 * value for key, value in super().get_observation().items()}

        def send_action(self, action):
            raise AssertionError("moved")

    robot = make_robot(Millimetres)
    _, items = checked(robot, SimTracker(robot), CheckConfig())
    assert "millimetres?" in items["plausible tip"].advice
    assert items["frames"].outcome == "skip"
    assert "because of 'plausible tip'" in items["frames"].text
    robot = make_robot()
    _, items = checked(robot, SimTracker(robot), CheckConfig(side_m=0.3))
    assert "0.3 m of room" in items["plausible tip"].advice


def test_devices_that_fail_are_reported_and_the_robot_is_stopped():
    class Lost(SimRobot):
        stops = 0

        def connect(self):
            raise DeviceError("no answer from 10.0.0.9")

        def stop(self):
            Lost.stops += 1
            raise DeviceError("not stopped")

    robot = make_robot(Lost)
    report, items = checked(robot, SimTracker(robot), CheckConfig())
    assert items["connect robot"].text == "no answer from 10.0.0.9"
    assert items["connect tracker"].outcome == "skip"
    assert Lost.stops == 1
    assert items["stop"].advice == "use the emergency stop"
    assert not report.ok


def test_a_tracker_that_never_sees_anything_ends_the_list():
    robot = make_robot()
    _, items = checked(robot, SimTracker(robot, SimTrackerConfig(dropout=1.0)), CheckConfig())
    assert items["connect tracker"].text == "no pose in 3 s"
    assert items["robot rate"].outcome == "skip"


def test_similarity_is_found_with_turn_scale_and_mirror():
    points = np.random.default_rng(0).normal(size=(5, 2))
    z = points[:, 0] + 1j * points[:, 1]
    for mirrored in (False, True):
        image = 0.5 * np.exp(0.7j) * (z.conj() if mirrored else z) + 3
        found = fit_similarity(points, np.stack([image.real, image.imag], 1))
        assert found == (pytest.approx(0.5), pytest.approx(0.7), mirrored)


def test_crossing_of_half_of_the_way_in_spite_of_noise():
    rng, times = np.random.default_rng(0), np.arange(0.0, 3.0, 0.01)
    way = np.clip(times - 1.0, 0.0, 1.0)
    noisy = np.stack([0.3 + 0.03 * way, 0 * way], 1) + 5e-4 * rng.standard_normal((300, 2))
    assert Track.crossing(list(times), list(noisy)) == pytest.approx(1.5, abs=0.01)
    assert np.isnan(Track.crossing([], []))
    assert np.isnan(Track.crossing([0.0, 1.0], [np.zeros(2), np.zeros(2)]))


def test_speed_stays_gentle_whatever_the_control_period():
    quick = replace(TASK, control_period_s=0.1)

    class Watched(SimRobot):
        steps = ()

        def send_action(self, action):
            before = self.world.command_xy
            sent = super().send_action(action)
            way = np.linalg.norm([sent["ee.x"], sent["ee.y"]] - before)
            self.steps += (float(way),)
            return sent

    robot = make_robot(Watched, quick)
    assert check(robot, SimTracker(robot), robot.clock, quick).ok
    assert max(robot.steps) < 0.03 * 0.1 + 2e-3
