"""System identification in the loop: moves to the truth, says nothing before contact."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.deploy.loop import Memory, loop_step
from p2r_jax.estimator.hypotheses import Belief
from p2r_jax.estimator.online import OnlineSysid, window_sysid
from p2r_jax.estimator.push_motion import Replay, ReplayConfig
from p2r_jax.evaluation.methods import load_checkpoints, make_bundle
from p2r_jax.sim.asset import load_asset
from p2r_jax.sim.observation import policy_features
from p2r_jax.sim.window import Window
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian, Measurement, PlanarPose

TRUE_X = 0.045
TOOL = 0.0125
PUSHES = 8


@pytest.fixture(scope="module")
def asset():
    return load_asset("tblock")


@pytest.fixture(scope="module")
def pushes(asset) -> list[list[Measurement]]:
    """Pushes of the T's flat end and sides, three measurements each, by the planar dynamics."""
    replay = Replay(asset, TOOL, ReplayConfig(engine="planar", step_s=0.5))
    h = Belief(asset).hypothesis(jnp.zeros(19))
    h = h.replace(com=jnp.array([TRUE_X, 0.0]), radius=jnp.array(0.06))
    final_pose = jax.jit(lambda start, path: replay.final_pose(h, start, path))
    rng, (lower, upper) = np.random.default_rng(0), asset.footprint_bounds
    found = []
    for i in range(PUSHES):
        side = 1 if i % 2 else -1
        x = rng.uniform(lower[0] + 0.02, upper[0] - 0.02)
        y = _outline_y(asset, x, side) + side * TOOL
        tool = np.array([[x, y + side * 0.003], [x, y - side * 0.012], [x, y - side * 0.027]])
        pose = np.zeros(3)
        row = [pose]
        for a, b in pairwise(tool):
            path = (a + np.linspace(0, 1, 13)[:, None] * (b - a)).astype(np.float32)
            pose = np.asarray(final_pose(jnp.asarray(pose, jnp.float32), path))
            row.append(pose)
        found.append([_measured(p, t) for p, t in zip(row, tool, strict=True)])
    return found


def _outline_y(asset, x: float, side: int) -> float:
    """The outermost y of the outline on one side at x, m."""
    spans = [p.corners for p in asset.parts if p.corners[:, 0].min() <= x <= p.corners[:, 0].max()]
    return max((side * c[:, 1]).max() for c in spans) * side


def _measured(pose, tool) -> Measurement:
    pose = jnp.asarray(pose, jnp.float32)
    return Measurement(PlanarPose(pose[:2], pose[2]), jnp.asarray(tool, jnp.float32))


def test_belief_moves_to_the_true_centre_of_mass_and_covers_it(asset, pushes):
    sysid = OnlineSysid(asset, TOOL, ("com_object_x",))
    belief, update = sysid.start(), jax.jit(sysid.update)
    first = sysid.gaussian(belief)
    for i, push in enumerate(pushes):
        for j, (before, after) in enumerate(pairwise(push)):
            belief = update(belief, before, after, jax.random.key(10 * i + j))
    last = sysid.gaussian(belief)
    assert abs(float(first.mean[0]) - TRUE_X) > 0.02
    assert abs(float(last.mean[0]) - TRUE_X) < 0.008
    assert float(last.variance[0]) < float(first.variance[0]) / 20
    assert abs(float(last.mean[0]) - TRUE_X) < 2.5 * float(last.variance[0]) ** 0.5


def test_a_tool_that_touches_nothing_tells_nothing(asset):
    sysid = OnlineSysid(asset, TOOL, ("com_object_x",))
    far = [_measured(np.zeros(3), (0.3, y)) for y in (0.0, 0.02)]
    belief = jax.jit(sysid.update)(sysid.start(), *far, jax.random.key(0))
    for a, b in zip(
        jax.tree.leaves(sysid.gaussian(belief)),
        jax.tree.leaves(sysid.gaussian(sysid.start())),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_window_gives_what_the_transitions_in_it_give(pushes):
    task = load_task("push_tblock")
    estimator = window_sysid(task, TOOL)
    goal = PlanarPose(jnp.array(task.layout.goal_xy), jnp.array(task.layout.goal_yaw_rad))
    window = Window.empty(task.history)
    for measurement in pushes[3]:
        window = window.push(policy_features(measurement, goal, jnp.zeros(2)), jnp.zeros(2))
    belief, sysid = estimator.prior, estimator.sysid
    for before, after in pairwise(pushes[3]):
        pose = before.object_pose
        turn = np.array(
            [[np.cos(pose.yaw), np.sin(pose.yaw)], [-np.sin(pose.yaw), np.cos(pose.yaw)]]
        )
        tool = np.stack([turn @ (m.ee_xy - pose.xy) for m in (before, after)])
        motion = [*(turn @ (after.object_pose.xy - pose.xy)), after.object_pose.yaw - pose.yaw]
        gained = sysid.log_likelihood(belief, jnp.asarray(tool), jnp.asarray(motion))
        belief = belief.replace(log_weight=belief.log_weight + gained)
    expected, found = sysid.gaussian(belief), jax.jit(lambda w: estimator(w))(window)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=0.02)


def test_an_empty_window_says_the_flat_prior(asset):
    estimator = window_sysid(load_task("push_tblock"))
    found = estimator(Memory.empty(estimator.contract.history).window)
    assert isinstance(found, Gaussian)
    lower, upper = asset.footprint_bounds
    assert float(found.variance[0]) ** 0.5 == pytest.approx((upper - lower)[0] / 12**0.5, rel=0.05)


def test_the_loop_runs_with_identification_in_the_ensembles_place(pushes):
    task = load_task("push_tblock")
    checkpoints = load_checkpoints(None, task, ("sysid-fused",))
    prior = Gaussian(jnp.array([0.0]), jnp.array([0.04**2]))
    bundle = make_bundle("sysid-fused", checkpoints, task, prior, np.array([[TRUE_X]]))
    bundle = bundle.replace(prior=prior)
    memory, step = Memory.empty(task.history), jax.jit(loop_step)
    for measurement in [m for push in pushes[2:4] for m in push]:
        action, memory, told = step(bundle, memory, measurement)
    assert np.isfinite(np.asarray(action)).all()
    assert abs(float(told.fused.mean[0]) - TRUE_X) < abs(0.0 - TRUE_X)
    assert float(told.fused.variance[0]) < 0.04**2


def test_a_component_that_pushes_do_not_show_is_refused(asset):
    with pytest.raises(ValueError, match=r"com_object_x.*not mass"):
        OnlineSysid(asset, TOOL, ("mass",))
