"""The simulated robot: agrees with ``Reality``, keeps time, stops when nobody commands it."""

import time
from dataclasses import replace

import numpy as np
import pytest

from p2r_jax.deploy.protocols import DeviceError, Robot
from p2r_jax.deploy.robots import RobotConfig, make_robot
from p2r_jax.deploy.robots.sim import SimRobot, SimRobotConfig, mass_properties
from p2r_jax.deploy.trackers.sim import SimTracker, SimTrackerConfig
from p2r_jax.sim.reality import REALITY_DEV, REALITY_TEST, Reality, ee_target
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
QUIET = replace(REALITY_DEV, position_noise_m=0.0, yaw_noise_rad=0.0, ee_noise_m=0.0)


def sim_robot(config=None, world=QUIET, task=TASK, seed=0, index=0, count=1):
    trials = draw_trials(task, task.object.with_weight(0.095), count, seed)
    robot = SimRobot(world, task, trials, index, config)
    robot.connect()
    return robot


def send(robot, x, y):
    return robot.send_action({"ee.x": x, "ee.y": y})


def observed(robot):
    seen = robot.get_observation()
    return np.array([seen["ee.x"], seen["ee.y"]])


def sleep(robot, duration_s):
    robot.clock.sleep_until(robot.clock.now() + duration_s)


# agreement -------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 3])
def test_pushes_bitwise_as_reality_does_however_the_sleep_is_cut(slices):
    count, ticks = 2, 8
    trials = draw_trials(TASK, TASK.object.with_weight(0.095), count, seed=5)
    world = Reality(REALITY_TEST, TASK, trials)
    robots = [sim_robot(None, REALITY_TEST, seed=5, index=i, count=count) for i in range(count)]
    trackers = [SimTracker(robot) for robot in robots]
    for tracker in trackers:
        tracker.connect()
    starts = [robot.clock.now() for robot in robots]
    touched = np.zeros(count, bool)
    for tick in range(ticks):
        seen = world.measure()
        action = np.tile(np.array([0.4 * (-1) ** tick, 1.0], np.float32), (count, 1))
        touched |= world.act(action)
        for i, (robot, tracker) in enumerate(zip(robots, trackers, strict=True)):
            pose, tip = tracker.get_pose(), observed(robot)
            np.testing.assert_array_equal(
                np.float32([pose.x, pose.y, pose.yaw]),
                [*seen.object_pose.xy[i], seen.object_pose.yaw[i]],
            )
            np.testing.assert_array_equal(np.float32(tip), seen.ee_xy[i])
            target = ee_target(TASK, tip[None], action[i : i + 1])[0]
            assert list(send(robot, *target).values()) == target.tolist()
            for share in range(1, slices + 1):
                robot.clock.sleep_until(starts[i] + tick + share / slices)
            np.testing.assert_array_equal(robot.truth()[0], world.truth()[0][i])
    assert touched.all()


def test_measurements_between_ticks_have_their_own_noise():
    robot = sim_robot(world=replace(QUIET, ee_noise_m=1e-3))
    send(robot, *TASK.layout.ee_start_xy)
    seen = []
    for _ in range(8):
        sleep(robot, 0.1)
        seen.append(observed(robot))
    assert len({tuple(xy) for xy in seen}) == 8
    assert 2e-4 < np.std(seen, 0).min() < np.std(seen, 0).max() < 3e-3


def test_latency_is_the_age_of_what_is_seen():
    robot = sim_robot(world=replace(QUIET, latency_s=0.1))
    send(robot, 0.32, 0.0)
    sleep(robot, 0.5)
    truth = robot.truth()[1]
    sleep(robot, 0.1)
    np.testing.assert_allclose(observed(robot), truth, atol=1e-12)


# protocol --------------------------------------------------------------------


def test_is_a_robot_by_name_with_the_object_asked_for():
    config = RobotConfig(sim=SimRobotConfig(weight_x_m=-0.065, trial=3, seed=2))
    robot = make_robot("sim", config, TASK)
    assert isinstance(robot, Robot)
    com = TASK.object.with_weight(-0.065)[1]
    np.testing.assert_allclose(robot.world.body.model.body("object").ipos[0], com[0])
    with pytest.raises(KeyError, match="no robot 'ur5'"):
        make_robot("ur5", config, TASK)
    with pytest.raises(KeyError, match="reality-dev, reality-test"):
        make_robot("sim", RobotConfig(sim=SimRobotConfig(reality="mars")), TASK)


def test_object_is_given_by_weight_or_by_com_not_both():
    assert mass_properties(TASK.object, None, None)[0] == TASK.object.mass_kg
    np.testing.assert_allclose(
        mass_properties(TASK.object, None, (0.01, 0.02))[1][:2], [0.01, 0.02]
    )
    with pytest.raises(ValueError, match="not both"):
        mass_properties(TASK.object, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trial": -1}, "trial is -1; trials are counted from 0"),
        ({"watchdog_s": 0.0}, r"watchdog_s is 0\.0; it must be positive"),
        ({"max_speed_m_s": float("nan")}, "max_speed_m_s is nan; it must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SimRobotConfig(**setting)


def test_refuses_what_it_cannot_do():
    trials = draw_trials(TASK, TASK.object.with_weight(None), 2, 0)
    with pytest.raises(ValueError, match="trial is 2; there are 2"):
        SimRobot(QUIET, TASK, trials, 2)
    robot = SimRobot(QUIET, TASK, trials)
    for call in (robot.get_observation, lambda: send(robot, 0.3, 0.0)):
        with pytest.raises(DeviceError, match=r"call connect\(\) first"):
            call()
    robot.connect()
    with pytest.raises(DeviceError, match="is not a position"):
        send(robot, float("nan"), 0.0)
    robot.disconnect()
    robot.disconnect()
    assert not robot.is_connected


def test_sends_no_further_than_workspace_and_speed_allow():
    robot = sim_robot(SimRobotConfig(max_speed_m_s=0.04))
    assert send(robot, 0.30, 0.9)["ee.y"] == pytest.approx(0.04)
    fast = sim_robot()
    assert send(fast, 0.30, 0.9) == {"ee.x": 0.30, "ee.y": TASK.layout.upper[1]}


def test_stop_holds_the_tip_until_connected_again():
    robot = sim_robot()
    send(robot, 0.33, 0.0)
    sleep(robot, 0.5)
    robot.stop()
    robot.stop()
    held = robot.truth()[1]
    sleep(robot, 1.0)
    np.testing.assert_allclose(robot.truth()[1], held, atol=2e-4)
    with pytest.raises(DeviceError, match="it was stopped; connect again"):
        send(robot, 0.33, 0.0)
    robot.connect()
    send(robot, 0.33, 0.0)
    sleep(robot, 1.5)
    assert robot.truth()[1][0] == pytest.approx(0.33, abs=1e-3)


# watchdog --------------------------------------------------------------------


def test_watchdog_stops_motion_within_half_a_second_of_the_loops_death():
    robot = sim_robot()
    send(robot, 0.33, 0.0)
    sleep(robot, 0.1)
    robot.run_unattended(0.5)
    still = robot.truth()[1]
    robot.run_unattended(1.0)
    np.testing.assert_allclose(robot.truth()[1], still, atol=1e-4)
    assert still[0] < 0.33 - 0.01
    with pytest.raises(DeviceError, match=r"watchdog saw no sign of life for 0\.35 s"):
        send(robot, 0.33, 0.0)


def test_watchdog_lets_a_long_sleep_and_a_finished_motion_be():
    robot = sim_robot()
    send(robot, 0.33, 0.0)
    sleep(robot, 1.0)
    robot.run_unattended(5.0)
    assert send(robot, 0.30, 0.0) == {"ee.x": 0.30, "ee.y": 0.0}


# time ------------------------------------------------------------------------


def test_simulated_time_runs_as_fast_as_it_can():
    robot = sim_robot()
    begun, start = time.perf_counter(), robot.clock.now()
    robot.clock.sleep_until(start + 5.0)
    assert robot.clock.now() == pytest.approx(start + 5.0)
    robot.clock.sleep_until(start)
    assert robot.clock.now() == pytest.approx(start + 5.0)
    assert time.perf_counter() - begun < 2.5


def test_real_time_waits_for_the_wall_clock_and_moves_the_same():
    patient = SimRobotConfig(real_time=True, watchdog_s=10.0)  # the machine may be busy
    fast, slow = sim_robot(), sim_robot(patient)
    begun = time.perf_counter()
    for robot in (slow, fast):
        send(robot, 0.33, 0.0)
    sleep(slow, 0.4)
    assert time.perf_counter() - begun >= 0.4
    passed = slow.world.steps - slow._sent_at
    assert passed * slow.world.dt_s >= 0.4 - slow.world.dt_s
    sleep(fast, passed * fast.world.dt_s)
    np.testing.assert_allclose(slow.truth()[1], fast.truth()[1], atol=1e-6)


def test_real_time_watchdog_sees_a_loop_that_hangs():
    robot = sim_robot(SimRobotConfig(real_time=True, watchdog_s=0.05))
    send(robot, 0.33, 0.0)
    time.sleep(0.15)
    with pytest.raises(DeviceError, match="watchdog"):
        send(robot, 0.33, 0.0)


# sim tracker -----------------------------------------------------------------


def tracked(robot, config):
    tracker = SimTracker(robot, config)
    tracker.connect()
    return tracker


def test_tracker_stamps_the_moment_it_saw():
    robot = sim_robot()
    tracker = tracked(robot, SimTrackerConfig(extra_latency_s=0.1))
    pose = tracker.get_pose()
    assert robot.clock.now() - pose.stamp_s == pytest.approx(0.15)
    tracker.disconnect()
    with pytest.raises(DeviceError, match="not connected"):
        tracker.get_pose()


def test_tracker_with_a_frame_rate_repeats_frames_with_their_stamp():
    robot = sim_robot()
    tracker = tracked(robot, SimTrackerConfig(rate_hz=10.0))
    stamps = []
    for _ in range(20):
        sleep(robot, 0.02)
        stamps.append(tracker.get_pose().stamp_s)
    assert len(set(stamps)) in (4, 5)
    np.testing.assert_allclose(np.diff(sorted(set(stamps))), 0.1)


def test_tracker_that_drops_frames_never_invents_one():
    robot = sim_robot()
    assert tracked(robot, SimTrackerConfig(dropout=1.0)).get_pose() is None
    tracker = tracked(robot, SimTrackerConfig(dropout=0.5))
    ages = []
    for _ in range(200):
        sleep(robot, 0.02)
        pose = tracker.get_pose()
        if pose is not None:
            ages.append(robot.clock.now() - pose.stamp_s)
    late = np.mean(np.array(ages) > 0.05 + 1e-9)
    assert 0.4 < late < 0.6


def test_tracker_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="rate_hz is 0"):
        SimTrackerConfig(rate_hz=0)
    with pytest.raises(ValueError, match="dropout is 2"):
        SimTrackerConfig(dropout=2)


def test_simulated_sleep_ends_at_the_time_asked_for_even_between_physics_steps():
    robot = sim_robot()
    due = robot.clock.now() + 0.1 + 1e-9
    robot.clock.sleep_until(due)
    assert robot.clock.now() == due
    assert abs(robot.world.time_s - due) <= robot.world.dt_s
