"""The simulated arm: kinematics against published numbers and MuJoCo, and a push with it."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from p2r_jax.deploy.robots import RobotConfig, SimRobotConfig, make_robot
from p2r_jax.deploy.robots.arm import JOINTS, Arm, arm_scene
from p2r_jax.deploy.robots.kinematics import (
    XARM6,
    flange_pose,
    jacobian,
    joint_frames,
    pose_error,
    solve_ik,
    tip_position,
    tool_down,
)
from p2r_jax.deploy.robots.reach import arm_reach
from p2r_jax.sim.reality import REALITY_DEV
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
HEIGHT = TASK.object.height_m / 2
HELD_HEIGHT = 5e-4  # m; the joints lag differently, which moves the tip by about 0.3 mm
HELD_TILT = np.deg2rad(0.3)


def random_joints(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.array(XARM6.rest) + rng.uniform(-0.6, 0.6, (count, 6))


def test_rest_joints_hold_the_published_tip_and_flange():
    T = flange_pose(XARM6, np.array(XARM6.rest))
    np.testing.assert_allclose(T[:3, 3], [0.300, 0.000, 0.215], atol=1e-4)
    np.testing.assert_allclose(T[:3, :3], np.diag([-1, 1, -1]), atol=2e-3)
    tip = tip_position(XARM6, np.array(XARM6.rest))
    np.testing.assert_allclose(tip, [0.300, 0.000, 0.020], atol=5e-4)


def test_mujoco_arm_stands_where_the_kinematics_say():
    model = arm_scene(REALITY_DEV, TASK)
    data = mujoco.MjData(model)
    for q in random_joints(20):
        data.qpos[JOINTS.start - 1 : JOINTS.stop - 1] = q
        mujoco.mj_kinematics(model, data)
        T = flange_pose(XARM6, q)
        np.testing.assert_allclose(data.body("link6").xpos, T[:3, 3], atol=1e-9)
        np.testing.assert_allclose(data.body("link6").xmat.reshape(3, 3), T[:3, :3], atol=1e-9)
        np.testing.assert_allclose(data.geom("pusher").xpos, tip_position(XARM6, q), atol=1e-9)


def test_jacobian_is_the_derivative_of_the_pose():
    q, small = random_joints(1)[0], 1e-6
    J = jacobian(joint_frames(XARM6, q))
    for joint in range(6):
        moved = flange_pose(XARM6, q + small * np.eye(6)[joint])
        difference = pose_error(moved, flange_pose(XARM6, q)) / small
        np.testing.assert_allclose(J[:, joint], difference, atol=1e-5)


@pytest.mark.parametrize("height", [0.012, 0.020])
def test_ik_round_trip_over_the_workspace_to_a_tenth_of_a_millimetre(height):
    x = np.linspace(TASK.layout.lower[0], TASK.layout.upper[0], 21)
    y = np.linspace(TASK.layout.lower[1], TASK.layout.upper[1], 31)
    tips = np.stack(np.meshgrid(x, y, [height], indexing="ij"), -1).reshape(-1, 3)
    target, guess = tool_down(XARM6, tips)
    joints, reached = solve_ik(XARM6, target, guess)
    reach = arm_reach(XARM6, height, TASK.layout.lower, TASK.layout.upper)
    near, far = reach.near_m, reach.far_m
    distance = np.hypot(tips[:, 0], tips[:, 1])
    assert reached[(distance > near) & (distance < far)].all()
    assert not reached[distance < near - 1e-3].any()
    error = np.abs(tip_position(XARM6, joints) - tips)[reached]
    assert error.max() < 1e-4
    tool = flange_pose(XARM6, joints)[reached, :3, 2]
    assert np.arccos(np.clip(-tool[:, 2], -1, 1)).max() < 1e-4


def test_joints_beyond_their_limits_do_not_count_as_reached():
    q = np.array(XARM6.rest)[None]
    _, reached = solve_ik(
        replace(XARM6, upper=(*XARM6.upper[:4], 0.5, 7.0)), flange_pose(XARM6, q), q
    )
    assert not reached.any()


def test_arm_pushes_with_the_tip_held_down_and_low():
    robot = make_robot("sim", RobotConfig(sim=SimRobotConfig(body="arm", weight_x_m=0.095)), TASK)
    robot.connect()
    start, _ = robot.truth()
    heights, tilts = [], []
    for _ in range(10):
        seen = robot.get_observation()
        robot.send_action({"ee.x": seen["ee.x"], "ee.y": seen["ee.y"] + TASK.action_scale_m})
        robot.clock.sleep_until(robot.clock.now() + TASK.control_period_s)
        joints = robot.world.states[-500:, JOINTS]
        heights.append(tip_position(XARM6, joints)[:, 2])
        tilts.append(np.arccos(np.clip(-flange_pose(XARM6, joints)[:, 2, 2], -1, 1)))
    assert np.abs(np.array(heights) - HEIGHT).max() < HELD_HEIGHT
    assert np.max(tilts) < HELD_TILT
    assert np.linalg.norm(robot.truth()[0][:2] - start[:2]) > 0.05


def test_target_out_of_reach_is_sent_as_the_nearest_one_in_reach():
    robot = make_robot("sim", RobotConfig(sim=SimRobotConfig(body="arm")), TASK)
    robot.connect()
    near = robot.world.body.reach.near_m
    sent = robot.send_action({"ee.x": 0.06, "ee.y": 0.0})
    assert near < sent["ee.x"] < near + 0.01
    assert sent["ee.y"] == 0.0
    robot.clock.sleep_until(robot.clock.now() + 2.0)
    np.testing.assert_allclose(robot.truth()[1], [sent["ee.x"], 0.0], atol=1e-3)


def test_start_or_height_out_of_reach_is_an_error_that_says_what_is_in_reach():
    trials = draw_trials(TASK, TASK.object.with_weight(None), 1, 0)
    close = replace(TASK, layout=replace(TASK.layout, ee_start_xy=(0.08, 0.0)))
    with pytest.raises(ValueError, match=r"at \[0\.08, 0\.0\]: it reaches 0\.16"):
        Arm(REALITY_DEV, close, trials)
    with pytest.raises(ValueError, match=r"at a height of 1\.5 m"):
        arm_reach(XARM6, 1.5, (0.0, 0.0), (1.0, 1.0))
