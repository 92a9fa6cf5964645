"""The watcher of faulted episodes: it sees commands that rest on poses that cannot be."""

import math

import pytest

import p2r_jax.deploy.safety as safety
from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.command import DeployConfig, load_prior_for
from p2r_jax.deploy.controller import Controller
from p2r_jax.deploy.export import CHECKPOINT_ROOT, retimed, write_bundle
from p2r_jax.deploy.faults import Watcher, faulted_episode
from p2r_jax.deploy.protocols import TrackedPose
from p2r_jax.deploy.robots.sim import SimRobot, SimRobotConfig
from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.policy.policy import load_policy
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
NAN = math.nan
SEEDS = range(30)  # to look for a fault in


def robot_with(poses) -> tuple[SimRobot, Watcher]:
    """A robot at rest whose watcher knows of poses, given as x, y, yaw and age."""
    robot = SimRobot.from_config(SimRobotConfig(), TASK)
    robot.connect()
    now = robot.clock.now()
    given = [p and TrackedPose(*p[:3], stamp_s=now - p[3]) for p in poses]
    return robot, Watcher(robot, TASK, given)


def command(watcher: Watcher, x_m: float) -> None:
    x, y = TASK.layout.ee_start_xy
    watcher.send_action({"ee.x": x + x_m, "ee.y": y})


@pytest.mark.parametrize(
    ("poses", "wrong"),
    [
        ([None], "no number"),
        ([(0.3, NAN, 0.0, 0.05)], "no number"),
        ([(0.3, 0.2, 0.0, NAN)], "no number"),
        ([(0.3, 0.2, 0.0, 0.3)], "stale pose, 0.30 s old"),
        ([(0.3, 0.2, 0.0, -0.05)], "from the future, 0.05 s"),
        ([(0.3, 0.2, 0.0, 1.0), (0.4, 0.2, 0.0, 0.0)], "jump of the object by 0.100 m"),
        ([(0.3, 0.2, 3.0, 1.0), None, (0.3, 0.2, -1.8, 0.0)], "jump of the object by 1.48 rad"),
        ([(0.3, 0.2, 3.0, 1.0), (0.31, 0.2, -3.0, 0.0)], None),
        ([(0.3, 0.2, 0.0, 0.2)], None),
    ],
)
def test_a_new_target_on_a_bad_pose_is_unsafe_and_a_held_one_is_not(poses, wrong):
    _, watcher = robot_with(poses)
    command(watcher, 0.01)
    command(watcher, 0.01)
    assert watcher.unsafe == []
    command(watcher, 0.02)
    if wrong:
        assert len(watcher.unsafe) == 1
        assert wrong in watcher.unsafe[0]
        assert "command 3" in watcher.unsafe[0]
    else:
        assert watcher.unsafe == []


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Configuration, controller and task of a bundle at 5 Hz."""
    root = CHECKPOINT_ROOT / TASK.name
    networks = load_policy(root / "noisy", TASK), load_ensemble(root / "estimator", TASK)
    folder = tmp_path_factory.mktemp("faults") / "bundle"
    at_rate = retimed(TASK, *networks, 0.2)
    write_bundle(folder, *at_rate)
    bundle = load_bundle(folder)
    controller = Controller(bundle, load_prior_for(bundle, "paper-top"))
    return DeployConfig(folder, folder.parent / "run"), controller, at_rate[0]


@pytest.mark.parametrize(
    ("cause", "words"), [("stale", "stale"), ("clock", "from the future"), ("jump", "a jump")]
)
def test_a_safety_that_overlooks_a_cause_is_found_out(fast, tmp_path, monkeypatch, cause, words):
    """Poses that are no numbers make actions that are none: they are stopped twice."""
    every = safety._hold_causes
    monkeypatch.setattr(
        safety, "_hold_causes", lambda *args: tuple(c for c in every(*args) if c != cause)
    )
    for seed in SEEDS:
        unsafe = faulted_episode(*fast, tmp_path / f"{seed}", seed, steps=15).unsafe
        if unsafe:
            break
    assert any(words in line for line in unsafe)


def test_the_whole_safety_passes_the_same_episodes(fast, tmp_path):
    outcomes = [faulted_episode(*fast, tmp_path / f"{i}", i, steps=25) for i in range(15)]
    assert [line for outcome in outcomes for line in outcome.failed] == []
    happened = {name for outcome in outcomes for name, count in outcome.faults.items() if count}
    assert {"delayed", "future", "teleport", "nan"} <= happened


def test_a_jump_behind_poses_that_are_no_numbers_is_seen(fast, tmp_path):
    assert faulted_episode(*fast, tmp_path / "run", 38, steps=60).failed == []
