"""From a recorded push to the estimator's windows, and straight pushes to train it on."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.estimator.ensemble import init_ensemble
from p2r_jax.estimator.log_windows import windows_of
from p2r_jax.estimator.rollouts import Disturbances
from p2r_jax.estimator.straight_pushes import PushSource, StraightPushes
from p2r_jax.estimator.train import EstimatorConfig, contract_of, train_estimator
from p2r_jax.pushlog import LogError, PushLog
from p2r_jax.sim.footprint import depth_inside, signed_distance
from p2r_jax.sim.observation import FEATURES, policy_features
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.window import Window, window_inputs
from p2r_jax.tasks import load_task
from p2r_jax.types import Measurement, PlanarPose

TASK = load_task("push_triangle_101")
INTERPOLATION = 2e-4  # m and rad in units of the features; chords of a 60 Hz polygon
RAD_PER_S, SPEED = 0.03, 0.005


def pose_at(t):
    """A made-up motion of the object: (x, y, yaw), m and rad."""
    return np.stack([0.5 + 0.003 * t, 0.1 + 0.001 * t**1.5 / 10, 0.4 + RAD_PER_S * t], -1)


def tool_at(t):
    """A made-up motion of the tool."""
    return np.stack([0.44 + SPEED * t, 0.09 + 0.01 * np.sin(t / 5)], -1)


def made_up_log(seconds=24.0, start=3.7, seed=0, **changes):
    """A log with rows at irregular 60 Hz."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.012, 0.020, int(seconds / 0.012)))
    t = np.append(t[t < seconds], seconds) - t[0]
    log = PushLog("made up", "triangle_101", 0.001, np.zeros(t.size, int), t + start,
                  pose_at(t), tool_at(t))  # fmt: skip
    return replace(log, **changes)


def exact_rows(t):
    """Features and actions at instants of the made-up motion: what should come out."""
    origin = pose_at(0.0)[:2]
    pose = pose_at(t)
    sent = np.diff(tool_at(t), axis=0, prepend=tool_at(t[:1])) / TASK.action_scale_m
    measured = Measurement(
        PlanarPose(jnp.array(pose[:, :2] - origin), jnp.array(pose[:, 2])),
        jnp.array(tool_at(t) - origin),
    )
    goal = PlanarPose(jnp.zeros(2), jnp.zeros(()))
    return policy_features(measured, goal, jnp.array(sent)), jnp.array(sent, jnp.float32)


def test_windows_of_a_known_motion_are_those_pushed_row_by_row():
    found = windows_of(made_up_log(), TASK)
    seconds = int(np.floor(found.t[-1] - found.t[0]))
    np.testing.assert_allclose(found.t - 3.7, np.arange(seconds + 1), atol=1e-9)
    features, sent = exact_rows(np.arange(seconds + 1.0))
    window = Window.empty(TASK.history)
    for i in range(seconds + 1):
        window = window.push(features[i], sent[i])
        np.testing.assert_allclose(found.window.features[i], window.features, atol=INTERPOLATION)
        np.testing.assert_allclose(found.window.actions[i], window.actions, atol=INTERPOLATION)
        assert found.age[i] == min(i + 1, TASK.history)
    np.testing.assert_allclose(found.object_pose, pose_at(np.arange(seconds + 1.0)), atol=1e-4)
    assert found.skipped == 0


def test_a_short_gap_is_interpolated_and_a_long_one_starts_the_window_anew():
    log = made_up_log()
    t = log.t - log.t[0]
    pose = log.object_pose.copy()
    pose[(t > 4.95) & (t < 5.1)] = np.nan  # 0.15 s
    pose[(t > 11.7) & (t < 14.3)] = np.nan  # steps 12, 13, 14 are not known
    found = windows_of(replace(log, object_pose=pose), TASK)
    assert found.skipped == 3
    at = np.round(found.t - 3.7).astype(int)
    assert [i for i in range(at.max() + 1) if i not in at] == [12, 13, 14]
    np.testing.assert_array_equal(found.age, np.where(at < 12, np.minimum(at + 1, 10), at - 14))
    after = int(np.flatnonzero(at == 17)[0])
    np.testing.assert_array_equal(found.window.features[after, :-3], 0.0)
    features, sent = exact_rows(np.arange(18.0))
    np.testing.assert_allclose(
        found.window.features[after, -3:], features[15:18], atol=INTERPOLATION
    )
    np.testing.assert_allclose(found.window.actions[after, -2:], sent[16:18], atol=INTERPOLATION)
    # what the networks read across the gap is nothing
    rows = np.asarray(window_inputs(found.window, TASK.action_scale_m)).reshape(len(at), 9, -1)
    np.testing.assert_array_equal(rows[at == 15], 0.0)


def test_a_last_step_shorter_than_a_period_is_dropped():
    found = windows_of(made_up_log(seconds=7.5), TASK)
    np.testing.assert_allclose(found.t - 3.7, np.arange(8.0) - 0.0, atol=1e-9)


def test_contact_is_told_from_every_row_between_the_steps():
    log = made_up_log()
    t = log.t - log.t[0]
    pose, away = np.array([[0.5, 0.1, 0.0]]), np.array([0.3, 0.1])
    touching = np.array([0.5 - 0.0505 - 0.002, 0.08])
    near = (t > 6.3) & (t < 6.6)
    log = replace(
        log, object_pose=np.repeat(pose, t.size, 0), tool_xy=np.where(near[:, None], touching, away)
    )
    found = windows_of(log, TASK)
    np.testing.assert_array_equal(np.flatnonzero(found.contact), [7])


def test_several_pushes_do_not_share_a_window():
    one, two = made_up_log(8.0), made_up_log(5.0, seed=1)
    both = replace(
        one,
        push=np.concatenate([one.push, two.push + 1]),
        t=np.concatenate([one.t, two.t]),
        object_pose=np.concatenate([one.object_pose, two.object_pose]),
        tool_xy=np.concatenate([one.tool_xy, two.tool_xy]),
    )
    found, alone = windows_of(both, TASK), windows_of(two, TASK)
    second = found.push == 1
    np.testing.assert_array_equal(found.window.features[second], alone.window.features)
    np.testing.assert_array_equal(found.age[second], alone.age)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"asset": "tblock"}, "about 'tblock', task 'push_triangle_101' pushes 'triangle_101'"),
        ({"tool_radius_m": 0.01}, "radius of 10 mm, task 'push_triangle_101' was trained with 1"),
    ],
)
def test_a_log_of_something_else_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        windows_of(made_up_log(**changes), TASK)


def test_a_tool_that_moved_unrecorded_is_refused():
    log = made_up_log()
    t = log.t - log.t[0]
    with pytest.raises(LogError, match=r"tool_x, tool_y are not recorded for 2\.\d\d s"):
        windows_of(log.take((t < 5) | (t > 7)), TASK)


@pytest.fixture(scope="module")
def source():
    """Straight pushes with few substeps."""
    task = replace(TASK, planar=replace(TASK.planar, substeps=4))
    return PushSource(PushEnv(task), StraightPushes(steps=16))


@pytest.fixture(scope="module")
def episodes(source):
    """A batch of them, without noise."""
    still = Disturbances(0.0, 0.0, 0.0)
    return jax.jit(lambda k: source.collect(None, still, k, 256))(jax.random.key(0))


def test_straight_pushes_start_near_the_object_outside_of_it_and_soon_push(source, episodes):
    ee = np.asarray(episodes.features[:, 0, 6:8]) / 8.0
    gap = signed_distance(TASK.object.parts, ee, np) - TASK.pusher_radius_m
    slack = 2 * source.config.frame_m  # the offset between tool and object frame
    assert gap.min() > -slack
    assert gap.max() < source.config.gap_m + slack
    assert np.isfinite(episodes.features).all()
    contact = np.asarray(episodes.contact)
    assert contact[:, 0].max() == 0
    assert contact[:, 8:].mean() > 0.7


def test_straight_pushes_say_as_action_what_the_tool_was_seen_to_do(episodes):
    seen = np.asarray(episodes.features[..., 4:6]) / 4.0
    step = np.diff(seen, axis=1) / TASK.action_scale_m
    np.testing.assert_allclose(episodes.sent[:, 1:], step, atol=1e-4)
    np.testing.assert_array_equal(episodes.sent[:, 0], 0.0)
    # up to full speed, and a few percent by the offset that turns with the object
    assert 0.9 < np.linalg.norm(step, axis=-1).max() < 1.2


def test_windows_of_a_simulated_log_are_those_of_the_training(episodes):
    for i in (0, 1, 2):
        f = np.asarray(episodes.features[i], float)
        goal = np.array(TASK.layout.goal_xy)
        yaw = np.unwrap(np.arctan2(f[:, 3], f[:, 2]))
        log = PushLog(
            "simulated", "triangle_101", 0.001, np.zeros(16, int), np.arange(16.0),
            np.column_stack([goal + f[:, :2] / 4, yaw]), goal + f[:, 4:6] / 4,
        )  # fmt: skip
        found = windows_of(log, TASK, max_gap_s=1.5)
        scale = TASK.action_scale_m
        for t in (0, 5, 15):
            wanted = window_inputs(episodes.window(i, t, TASK.history), scale)
            here = window_inputs(jax.tree.map(lambda x, t=t: x[t], found.window), scale)
            np.testing.assert_allclose(here, wanted, atol=2e-3)


def test_supports_enclose_the_centre_of_mass_and_vary_from_feet_to_patches(source):
    physics = jax.jit(jax.vmap(source.draw_physics))(jax.random.split(jax.random.key(1), 64))
    support, com = np.asarray(physics.support, float), np.asarray(physics.com[:, :2], float)
    depth = [depth_inside(s, c[None])[0] for s, c in zip(support, com, strict=True)]
    assert min(depth) > 0
    feet = [len(np.unique(s.round(7), axis=0)) == 3 for s in support]
    assert 0.3 < np.mean(feet) < 0.7
    radius = np.linalg.norm(support - com[:, None], axis=-1).mean(1)
    assert radius.max() > 2 * radius.min()


def test_straight_pushes_need_an_object_that_stands_on_feet_by_its_corners():
    with pytest.raises(ValueError, match=r"hammer: .* would tip over"):
        PushSource(PushEnv(load_task("push_hammer")), StraightPushes())


def test_estimator_trains_on_straight_pushes_and_reports_both_components(source, tmp_path):
    config = EstimatorConfig(
        source.env.task, None, tmp_path / "run", members=2, layers=(16,), rounds=1,
        episodes=32, steps=2, batch=16, pushes=source.config, test_episodes=16,
    )  # fmt: skip
    ensemble = train_estimator(config)
    assert ensemble.contract.theta == ("com_object_x", "com_object_y")
    report = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert set(report["components"]) == {"com_object_x", "com_object_y"}
    windows = report["components"]["com_object_y"]["since_contact"]["0-0"]["windows"]
    assert windows == report["since_contact"]["0-0"]["windows"] > 16


def test_estimate_of_straight_pushes_is_the_ensemble_on_every_window(source):
    config = EstimatorConfig(
        source.env.task, None, "unused", members=2, layers=(8,), pushes=source.config
    )
    ensemble = init_ensemble(contract_of(source.env.task, config), jax.random.key(3))
    data = jax.jit(lambda k: source.collect(ensemble, Disturbances(), k, 4))(jax.random.key(5))
    for env, t in ((0, 0), (1, 7), (3, 15)):
        belief = jax.jit(lambda w: ensemble(w))(data.window(env, t, TASK.history))
        np.testing.assert_allclose(data.estimate.mean[env, t], belief.mean, rtol=1e-4)
        np.testing.assert_allclose(data.estimate.variance[env, t], belief.variance, rtol=1e-3)
    assert data.features.shape == (4, 16, len(FEATURES))


@pytest.mark.parametrize(("policy", "pushes"), [(None, None), ("p", StraightPushes())])
def test_an_estimator_has_one_source_of_experience(policy, pushes):
    with pytest.raises(ValueError, match="either a policy or pushes"):
        EstimatorConfig(TASK, policy, "unused", pushes=pushes)
