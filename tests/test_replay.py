"""Replaying recorded pushes: against a loop, C MuJoCo, hand-worked numbers, real data."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.evaluation.replay import (
    STILL,
    TRANSFORM,
    ReplayConfig,
    halves,
    make_dynamics,
    parse_support,
    replay_command,
)
from p2r_jax.pushlog import PushLog, write_log
from p2r_jax.sim.contact import driven_scene, push_in_c
from p2r_jax.sim.mjcf import SceneOptions, write_physics
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.replay import (
    apply_transform,
    fit_friction,
    fit_transform,
    natural_speed_up,
    paths,
    pose_errors,
    replay,
    rest_physics,
)
from p2r_jax.sim.triangles import triangle_150
from p2r_jax.types import PlanarPose

RADIUS, PERIOD = 0.01, 0.1
SPEED, LENGTH = 0.03, 0.03  # m/s, m
FEET = np.array([[-0.065, -0.065], [0.055, -0.065], [-0.065, 0.055]])
LOOP = 1e-5  # m and rad: the same arithmetic, batched, in float32
JUDGE = (0.3, 0.3)  # median, mm and deg; planar against C MuJoCo, as in the parity table
COUNT = 12


@pytest.fixture(scope="module")
def asset():
    return triangle_150()


@pytest.fixture(scope="module")
def dynamics(asset):
    return PlanarDynamics(asset, RADIUS, PERIOD, PlanarConfig(substeps=10))


@pytest.fixture(scope="module")
def physics(asset):
    return rest_physics(asset, FEET, 0.35, 0.3)


def straight_pushes(asset, count=COUNT, seed=0) -> PushLog:
    """Straight pushes at the three edges; the pose after them is not known yet."""
    rng = np.random.default_rng(seed)
    t = np.arange(0, LENGTH / SPEED + 0.5 * PERIOD, PERIOD)
    corners = asset.parts[0].corners
    push, times, pose, tool = [], [], [], []
    for k in range(count):
        a, b = corners[k % 3], corners[(k + 1) % 3]
        along = (b - a) / np.linalg.norm(b - a)
        inwards = np.array([-along[1], along[0]])
        angle = rng.uniform(-0.5, 0.5)
        direction = np.cos(angle) * inwards + np.sin(angle) * along
        start = a + rng.uniform(0.3, 0.7) * (b - a) - (RADIUS + 0.001) * inwards
        at, yaw = rng.uniform(-0.3, 0.3, 2), rng.uniform(-3, 3)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        path = (start + SPEED * t[:, None] * direction) @ turn.T + at
        seen = np.full((t.size, 3), np.nan)
        seen[0] = seen[-1] = [*at, yaw]
        push.append(np.full(t.size, k))
        times.append(t)
        pose.append(seen)
        tool.append(path)
    return PushLog(
        "straight", "triangle_150", RADIUS, np.concatenate(push), np.concatenate(times),
        np.concatenate(pose), np.concatenate(tool),
    )  # fmt: skip


def with_after(log: PushLog, after: np.ndarray) -> PushLog:
    pose = log.object_pose.copy()
    pose[[log.rows(p).stop - 1 for p in log.pushes]] = after
    return replace(log, object_pose=pose)


@pytest.fixture(scope="module")
def simulated(asset, dynamics, physics):
    """Pushes whose outcome is what the planar dynamics says."""
    log = straight_pushes(asset)
    return with_after(log, replay(log, physics, dynamics)[1])


def test_a_batched_replay_equals_a_loop_over_pushes_and_periods(asset, dynamics, physics):
    log = straight_pushes(asset, count=3)
    _, final = replay(log, physics, dynamics)
    advance = jax.jit(dynamics.advance)
    cache = dynamics.derive(physics)
    for k, push in enumerate(log.pushes):
        one = log.take(log.rows(push))
        start = one.object_pose[0]
        pose = PlanarPose(jnp.zeros(2), jnp.float32(start[2]))
        state = dynamics.init(pose, jnp.float32(one.tool_xy[0] - start[:2]))
        for target in one.tool_xy[1:]:
            state = advance(physics, cache, state, jnp.float32(target - start[:2]))
        np.testing.assert_allclose(state.pose.xy + start[:2], final[k, :2], atol=LOOP)
        np.testing.assert_allclose(state.pose.yaw, final[k, 2], atol=LOOP)


def test_a_replay_ends_where_c_mujoco_ends(asset, dynamics, physics):
    log = straight_pushes(asset)
    options = SceneOptions(timestep_s=0.001, iterations=100, ls_iterations=50)
    models = []
    for _ in log.pushes:
        model = driven_scene(asset, FEET, RADIUS, options, 1e5)
        mass = (np.asarray(v, float) for v in (physics.mass, physics.com, physics.inertia))
        write_physics(model, *mass, float(physics.friction_table), float(physics.friction_pusher))
        models.append(model)
    before = log.poses_before()
    start = np.array([log.tool_xy[log.rows(p)][0] for p in log.pushes])
    end = np.array([log.tool_xy[log.rows(p)][-1] for p in log.pushes])
    duration = LENGTH / SPEED
    after = push_in_c(models, PlanarPose(before[:, :2], before[:, 2]), start,
                      (end - start) / duration, duration)  # fmt: skip
    judge = np.column_stack([after.xy, after.yaw])
    assert np.median(pose_errors(asset, before, judge)["position_mm"]) > 10  # they did push
    errors = pose_errors(asset, replay(log, physics, dynamics)[1], judge)
    assert np.median(errors["position_mm"]) < JUDGE[0]
    assert np.median(errors["yaw_deg"]) < JUDGE[1]


def test_a_push_keeps_its_outcome_beside_longer_ones(asset, dynamics, physics):
    log = straight_pushes(asset, count=4)
    short = log.take((log.push != 1) | (log.t < 0.55))
    seen = short.object_pose.copy()
    seen[short.rows(1).stop - 1] = 0.0  # observed, whatever the value
    short = replace(short, object_pose=seen)
    alone = replay(short.select([1]), physics, dynamics)[1][0]
    together = replay(short, physics, dynamics)[1][1]
    np.testing.assert_allclose(together, alone, atol=LOOP)


def test_a_tool_that_starts_inside_does_not_throw_the_object(asset, dynamics, physics):
    log = straight_pushes(asset, count=3)
    direction = np.array([np.diff(log.tool_xy[log.rows(p)][:2], axis=0)[0] for p in log.pushes])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    deeper = replace(log, tool_xy=log.tool_xy + 0.005 * direction[log.push])
    moved = pose_errors(asset, replay(deeper, physics, dynamics)[1], log.poses_before())
    assert moved["position_mm"].max() < 1000 * LENGTH
    recorded = paths(deeper, PERIOD, asset, RADIUS)
    local = recorded.tool[:, 0]
    turned = np.stack(
        [
            np.cos(recorded.yaw) * local[:, 0] + np.sin(recorded.yaw) * local[:, 1],
            np.cos(recorded.yaw) * local[:, 1] - np.sin(recorded.yaw) * local[:, 0],
        ]
    )
    gap = asset.parts[0].nearest(*turned, np)[2] - RADIUS
    np.testing.assert_allclose(gap, 0.0, atol=1e-9)


def test_the_friction_that_made_a_log_is_found_in_it(dynamics, physics, simulated):
    unknown = physics.replace(friction_pusher=jnp.float32(0.9))
    candidates = (0.15, 0.25, 0.35, 0.5)
    best, loss = fit_friction(simulated, unknown, dynamics, PERIOD, candidates)
    assert float(best.friction_pusher) == pytest.approx(0.35)
    assert loss.argmin() == 2
    assert loss[2] < 0.01 < loss[0]


def test_the_transform_baseline_is_exact_where_the_object_follows_a_linear_map(asset):
    log = straight_pushes(asset)
    truth = np.array([[0.7, 0.1], [-0.2, 0.5], [4.0, -3.0]])
    log = with_after(log, apply_transform(log, truth))
    np.testing.assert_allclose(fit_transform(log), truth, atol=1e-9)
    errors = pose_errors(asset, apply_transform(log, fit_transform(log)), log.poses_after())
    assert errors["outline_mm"].max() < 1e-6


def test_pose_errors_by_hand(asset):
    measured = np.zeros((2, 3))
    predicted = np.array([[0.003, 0.004, 2 * np.pi], [0.0, 0.0, np.pi / 2]])
    errors = pose_errors(asset, predicted, measured)
    np.testing.assert_allclose(errors["position_mm"], [5.0, 50.0], atol=1e-9)  # CoM at (-25, -25)
    np.testing.assert_allclose(errors["yaw_deg"], [0.0, 90.0], atol=1e-9)
    np.testing.assert_allclose(errors["outline_mm"], [5.0, 150.0], atol=1e-9)


def test_slow_logs_may_run_faster_fast_ones_may_not(simulated):
    slow = replace(simulated, t=simulated.t * 12)
    assert natural_speed_up(slow) == pytest.approx(8.0)
    assert natural_speed_up(simulated) == 1.0


def test_support_points_are_parsed_and_must_enclose_the_centre_of_mass(asset):
    np.testing.assert_allclose(parse_support("0.0,0.1;-0.1,0;0,-0.1", asset)[1], [-0.1, 0.0])
    assert parse_support("rim", asset, 8).shape == (8, 2)
    for text in ("tray", "0,0;1,1", "0,0;1;2,2"):
        with pytest.raises(ValueError, match=r"neither one of patch, .* nor three or more points"):
            parse_support(text, asset)
    with pytest.raises(ValueError, match=r"at \(-2.50, -2.50\) cm the object would tip"):
        rest_physics(asset, FEET + np.array([0.1, 0.0]), 0.3, 0.3)
    with pytest.raises(ValueError, match="contact dynamics needs a tool with a radius"):
        make_dynamics("contact", asset, 0.0, 0.1, 5, 3)


def test_halves_are_disjoint_complete_and_seeded(simulated):
    one, other = halves(simulated, 3)
    assert sorted([*one.pushes, *other.pushes]) == simulated.pushes.tolist()
    assert len(one.pushes) == COUNT // 2
    assert halves(simulated, 3)[0].pushes.tolist() == one.pushes.tolist()
    assert halves(simulated, 4)[0].pushes.tolist() != one.pushes.tolist()
    few = simulated.select([0, 1, 2])
    assert [len(h.pushes) for h in halves(few, 0)] == [0, 3]


def test_the_command_replays_a_users_log(tmp_path, capsys, simulated):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    tool = simulated.tool_xy.copy()
    tool[simulated.rows(5)] -= 0.5  # a push whose tool is elsewhere
    write_log(tmp_path / "mine.csv", replace(simulated, tool_xy=tool))
    feet = ";".join(f"{x},{y}" for x, y in FEET)
    config = ReplayConfig(
        tmp_path / "mine.csv", tmp_path / "out", support=feet, friction_table=0.3, fit=True,
        period_s=PERIOD, on_bad="exclude",
    )  # fmt: skip
    result = replay_command(config)
    assert json.loads((tmp_path / "out" / "replay.json").read_text()) == result
    assert (tmp_path / "out" / "replay.png").stat().st_size > 10_000
    assert result["physics"]["friction_pusher"] == pytest.approx(0.35)
    assert result["errors"]["planar"]["outline_mm"]["p95"] < 0.1
    for baseline in (STILL, TRANSFORM):
        assert result["errors"][baseline]["outline_mm"]["value"] > 3
    assert [e["push"] for e in result["log"]["excluded"]] == [5]
    assert len(result["by_push"]) == len(result["pushes_tested"])
    assert "1 pushes left out; the first, push 5: rows 55 to 65" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="not empty"):
        replay_command(config)


def test_the_command_says_what_a_log_lacks(tmp_path, simulated):
    bare = replace(simulated.select([0, 1]), asset=None, tool_radius_m=None)
    write_log(tmp_path / "bare.npz", bare)
    config = ReplayConfig(tmp_path / "bare.npz", tmp_path / "out")
    with pytest.raises(ValueError, match=r"names no asset; say which with --asset"):
        replay_command(config)
    config = replace(config, asset="triangle_150")
    with pytest.raises(ValueError, match=r"how thick the tool is; add --tool-radius-m"):
        replay_command(config)
    with pytest.raises(ValueError, match=r"straight has 2 pushes; --fit needs 4"):
        replay_command(replace(config, tool_radius_m=RADIUS, fit=True))
    with pytest.raises(FileNotFoundError, match="shipped assets"):
        replay_command(replace(config, asset="teapot"))


def test_real_pushes_are_predicted_better_than_by_both_baselines(asset):
    file = Path(__file__).parents[1] / "experiments" / "cmu_pushes.py"
    spec = importlib.util.spec_from_file_location("cmu_pushes", file)
    cmu = sys.modules["cmu_pushes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cmu)
    if not cmu.DATA.is_dir():
        pytest.skip(f"the CMU pushes are not at {cmu.DATA}")
    condition = cmu.CONDITIONS["wood_30_90_30_30_30_90"]
    log = cmu.load_condition(condition.name)
    fitting, testing = halves(log, 0)
    physics = rest_physics(asset, condition.support(), 0.5, condition.friction_table)
    dynamics = make_dynamics("planar", asset, log.tool_radius_m, 0.025, 10, 3)
    physics, _ = fit_friction(fitting, physics, dynamics, 0.2, (0.3, 0.5, 0.8))
    after = testing.poses_after()
    planar = pose_errors(asset, replay(testing, physics, dynamics, 0.2)[1], after)
    moved = pose_errors(asset, apply_transform(testing, fit_transform(fitting)), after)
    still = pose_errors(asset, testing.poses_before(), after)
    for metric in planar:
        assert np.median(planar[metric]) < 0.5 * np.median(still[metric])
        assert np.median(planar[metric]) < 0.5 * np.median(moved[metric])
