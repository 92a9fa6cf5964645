"""Contracts of the push environment and of the honest resets around it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.sim.footprint import depth_inside
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.training_env import TrainingEnv
from p2r_jax.tasks import PhysicsRanges, load_task, register, task_names
from p2r_jax.types import PlanarPose

# float32 sums in another order, over ten actions
BATCH_TOLERANCE = 1e-4


class JitEnv:
    """An environment with its functions compiled: eager resets cost a second each."""

    def __init__(self, task, training=True):
        self.env = PushEnv(task, training)
        self.reset, self.step = jax.jit(self.env.reset), jax.jit(self.env.step)
        self.reset_to = jax.jit(self.env.reset_to)
        self.reset_many = jax.jit(jax.vmap(self.env.reset))
        self.step_many = jax.jit(jax.vmap(self.env.step))


@pytest.fixture(scope="module")
def real():
    """The registered task from the real start."""
    return JitEnv(load_task("push_tblock"), training=False)


@pytest.fixture(scope="module")
def short():
    """Six-action episodes with two substeps, from training starts."""
    task = load_task("push_tblock")
    return JitEnv(replace(task, episode_length=6, planar=replace(task.planar, substeps=2)))


def masses(weight_x):
    """Mass properties of the T-block with its weight somewhere."""
    return load_task("push_tblock").object.with_weight(weight_x)


def seeds(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("name", task_names())
def test_registered_task_resets_and_steps_without_nan(name):
    task = load_task(name)
    jitted = JitEnv(task)
    state = jitted.reset_many(seeds(8))
    for i in range(5):
        action = jax.random.uniform(jax.random.key(i), (8, 2), minval=-1, maxval=1)
        state = jitted.step_many(state, action)
    for key, size in jitted.env.observation_size.items():
        assert state.obs[key].shape == (8, *size)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.obs, state.reward)))


@pytest.mark.parametrize(
    ("name", "dynamics"),
    [*((name, "planar") for name in task_names()), ("push_tblock", "contact")],
)
def test_a_step_keeps_the_types_of_the_state(name, dynamics):
    # a leaf that turns weakly typed would compile the whole training step a second time
    task = replace(load_task(name), dynamics=dynamics)
    env = TrainingEnv(PushEnv(task), task.episode_length)
    before = jax.eval_shape(env.reset, seeds(4))
    after = jax.eval_shape(env.step, before, jnp.zeros((4, 2)))
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


def test_a_less_known_world_varies_support_off_axis_mass_and_pusher_friction():
    task = load_task("push_tblock_plus")
    env = PushEnv(task)
    drawn = jax.jit(jax.vmap(env.draw_physics))(seeds(500))
    paper = jax.jit(jax.vmap(PushEnv(load_task("push_tblock")).draw_physics))(seeds(500))
    outlying = np.asarray(jnp.any(drawn.support != paper.support, -1)).mean(1)
    assert np.ptp(paper.support, axis=0).max() == 0
    assert np.percentile(outlying, 5) < 0.15
    assert np.percentile(outlying, 95) > 0.85
    assert np.abs(drawn.com[:, 1]).max() == pytest.approx(0.01, rel=0.02)
    assert np.ptp(paper.com[:, 1]) == 0
    assert np.abs(np.corrcoef(drawn.friction_table, drawn.friction_pusher)[0, 1]) < 0.2
    np.testing.assert_array_equal(paper.friction_table, paper.friction_pusher)
    for support, com in zip(np.asarray(drawn.support), np.asarray(drawn.com), strict=True):
        assert depth_inside(support.astype(float), com[None, :2].astype(float))[0] > 0.005


def test_the_window_of_a_policy_with_a_history_is_cleared_at_reset_and_ends_with_now(short):
    jitted = JitEnv(replace(short.env.task, actor_history=3))
    state = jitted.reset_many(seeds(4))
    assert not np.any(state.pipeline_state.window.features[:, :-1])
    action = jnp.full((4, 2), 0.5)
    for _ in range(3):
        state = jitted.step_many(state, action)
    window, now = state.pipeline_state.window, len(FEATURES)
    np.testing.assert_array_equal(window.features[:, -1], state.obs["state"][:, :now])
    np.testing.assert_array_equal(window.actions, np.full((4, 3, 2), 0.5))
    for key, size in jitted.env.observation_size.items():
        assert state.obs[key].shape == (4, *size)
    plain = short.env.observation_size
    assert state.obs["state"].shape[1] > plain["state"][0]
    assert jitted.env.observation_size["privileged_state"] == plain["privileged_state"]


@pytest.mark.parametrize("dynamics", ["planar_mjx", "contact"])
def test_other_dynamics_run_the_same_task(dynamics, task):
    few = {"planar_mjx": replace(task.planar_mjx, substeps=10),
           "contact": replace(task.contact, substeps=100)}  # fmt: skip
    jitted = JitEnv(replace(task, dynamics=dynamics, **{dynamics: few[dynamics]}), training=False)
    pose, ee = PlanarPose(jnp.array([0.3, 0.1]), jnp.array(0.0)), jnp.array([0.3, 0.16])
    physics = jitted.env.physics_for(masses(0.0), 0.25)
    state = jitted.reset_to(physics, pose, ee, physics.com[:1])
    for _ in range(2):
        state = jitted.step(state, jnp.array([0.0, -1.0]))
    moved = state.pipeline_state.dynamics.pose.xy[1] - pose.xy[1]
    # two 3 cm steps from 2.25 cm away push the object on by about 3.75 cm
    assert -0.045 < moved < -0.02
    assert state.metrics["nan_envs"] == 0


def test_unknown_task_error_lists_what_exists():
    with pytest.raises(KeyError, match=r"did you mean 'push_tblock'.*push_tblock"):
        load_task("push_tblok")


def test_duplicate_task_name_raises():
    def push_tblock():
        raise AssertionError("never called")

    with pytest.raises(ValueError, match="registered twice"):
        register(push_tblock)


def test_theta_spans_the_papers_range_and_moves_inertia(real, task):
    physics = real.reset_many(seeds(2000)).pipeline_state.physics
    theta = np.asarray(physics.com[:, 0])
    # +-13 cm of 143.16 g on 200 g at +3.43 cm: [-3.42, 7.42] cm (papers.md 1.2)
    assert theta.min() == pytest.approx(-0.0342, abs=5e-4)
    assert theta.max() == pytest.approx(0.0742, abs=5e-4)
    assert theta.mean() == pytest.approx(task.theta_mean[0], abs=2e-3)
    assert theta.std() == pytest.approx(task.theta_std[0], abs=1e-3)
    far, near = (
        physics.inertia[theta.argmin(), 2, 2],
        physics.inertia[np.abs(theta - 0.0343).argmin(), 2, 2],
    )
    assert far > 2 * near
    friction = np.asarray(physics.friction_table)
    assert friction.min() >= 0.15
    assert friction.max() <= 0.35


def test_actor_sees_nothing_that_hardware_cannot_measure(real):
    pose, ee = PlanarPose(jnp.array([0.3, 0.1]), jnp.array(0.5)), jnp.array([0.3, 0.0])
    theta = jnp.array([0.01])
    a = real.reset_to(real.env.physics_for(masses(0.1), 0.2), pose, ee, theta).obs
    b = real.reset_to(real.env.physics_for(masses(-0.1), 0.3), pose, ee, theta).obs
    np.testing.assert_array_equal(a["state"], b["state"])
    assert not np.allclose(a["privileged_state"], b["privileged_state"])
    assert a["state"].shape == (len(FEATURES) + 1,)


def test_constant_theta_input_hides_theta(task):
    env = PushEnv(replace(task, theta_input="constant"))
    physics = env.physics_for(masses(0.1), 0.2)
    shown = env.draw_theta_input(jax.random.key(0), physics)
    np.testing.assert_array_equal(env.scale_theta(shown), 0.0)
    assert physics.com[0] != shown[0]


def test_noisy_theta_has_the_stated_spread(task):
    env = PushEnv(replace(task, theta_input="noisy", theta_noise_m=0.015))
    physics = env.physics_for(masses(0.1), 0.2)
    shown = jax.jit(jax.vmap(lambda k: env.draw_theta_input(k, physics)))(seeds(4000))
    error = np.asarray(shown[:, 0] - physics.com[0])
    assert error.std() == pytest.approx(0.015, rel=0.05)
    assert error.mean() == pytest.approx(0.0, abs=1e-3)


def test_theta_input_is_constant_through_an_episode(short):
    state = short.reset(jax.random.key(0))
    after = short.step(state, jnp.array([1.0, 0.0]))
    before, later = state.pipeline_state.theta_input, after.pipeline_state.theta_input
    np.testing.assert_array_equal(before, later)


def test_time_limit_truncates_and_leaving_the_table_terminates(short):
    state = short.reset(jax.random.key(0))
    for _ in range(short.env.task.episode_length):
        assert state.done == 0
        state = short.step(state, jnp.zeros(2))
    assert (state.done, state.info["truncation"], state.info["terminated"]) == (1, 1, 0)
    away = PlanarPose(jnp.array([0.9, 0.2]), jnp.array(0.0))
    physics = short.env.physics_for(masses(0.0), 0.2)
    lost = short.reset_to(physics, away, jnp.array([0.3, 0.0]), jnp.zeros(1))
    lost = short.step(lost, jnp.zeros(2))
    assert (lost.done, lost.info["truncation"], lost.info["terminated"]) == (1, 0, 1)


def test_broken_physics_ends_the_episode_with_zero_reward_and_is_counted(short):
    state = short.reset(jax.random.key(0))
    broken = state.pipeline_state.physics.replace(mass=jnp.array(jnp.nan))
    state = state.replace(pipeline_state=state.pipeline_state.replace(physics=broken))
    after = short.step(state, jnp.ones(2))
    assert (after.done, after.reward, after.metrics["nan_envs"]) == (1, 0, 1)
    assert np.isfinite(after.obs["state"]).all()


def test_consecutive_training_episodes_differ_in_physics_and_yaw(short):
    env = TrainingEnv(short.env, short.env.task.episode_length)
    state = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 8))
    step, refill = jax.jit(env.step), jax.jit(env.refill)
    seen = [[] for _ in range(8)]
    for i in range(20):
        state = refill(state, jax.random.key(i))
        state = step(state, jnp.zeros((8, 2)))
        for env_index in np.flatnonzero(state.done):
            inner = state.pipeline_state
            seen[env_index].append(
                (float(inner.physics.com[env_index, 0]), float(inner.dynamics.pose.yaw[env_index]))
            )
    assert all(len(episodes) >= 3 for episodes in seen)
    drawn = [e for episodes in seen for e in episodes]
    assert len({com for com, _ in drawn}) == len(drawn)
    assert len({yaw for _, yaw in drawn}) == len(drawn)


def test_second_end_within_an_unroll_takes_another_reserve_and_is_counted(small_task):
    one_step = replace(small_task, episode_length=1)
    env = TrainingEnv(PushEnv(one_step), 1)
    state = jax.jit(env.reset)(jax.random.split(jax.random.key(0), 4))
    first = jax.jit(env.step)(state, jnp.zeros((4, 2)))
    second = jax.jit(env.step)(first, jnp.zeros((4, 2)))
    com = lambda s: np.asarray(s.pipeline_state.physics.com[:, 0])  # noqa: E731
    np.testing.assert_array_equal(com(second), np.roll(com(first), -1))
    assert second.info["reserve_reuse"].sum() == 4


def test_final_observation_survives_the_reset(short):
    env = TrainingEnv(short.env, short.env.task.episode_length)
    state = jax.jit(env.reset)(seeds(8))
    state = jax.jit(env.step)(state, jnp.ones((8, 2)))
    ended = np.flatnonzero(state.done)
    assert ended.size
    final, fresh = state.info["final_obs"]["state"], state.obs["state"]
    assert not np.allclose(final[ended], fresh[ended])
    running = np.flatnonzero(state.done == 0)
    np.testing.assert_array_equal(final[running], fresh[running])


def test_batched_steps_equal_a_loop_over_environments(real):
    states = real.reset_many(seeds(4, 3))
    action = jax.random.uniform(jax.random.key(4), (10, 4, 2), minval=-1, maxval=1)
    together = states
    for a in action:
        together = real.step_many(together, a)
    for i in range(4):
        alone = jax.tree.map(lambda x, i=i: x[i], states)
        for a in action[:, i]:
            alone = real.step(alone, a)
        np.testing.assert_allclose(
            together.obs["state"][i], alone.obs["state"], atol=BATCH_TOLERANCE
        )


def test_one_compile_serves_every_physics(short):
    traces = []

    @jax.jit
    def step(state, action):
        traces.append(1)
        return short.env.step(state, action)

    for key in seeds(4):
        step(short.reset(key), jnp.zeros(2))
    assert len(traces) == 1


def test_runs_under_stock_brax_wrappers(short):
    from brax.envs.wrappers import training

    # the wrapper's own time limit, shorter than the environment's, is the one it calls truncation
    env = training.wrap(short.env, episode_length=3)
    # it reads the batch size off old-style keys of shape [batch, 2]
    state = jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), 3))
    step = jax.jit(env.step)
    for _ in range(3):
        state = step(state, jnp.zeros((3, 2)))
    np.testing.assert_array_equal(state.done, 1.0)
    np.testing.assert_array_equal(state.info["truncation"], 1.0)


def test_real_start_is_the_papers(real):
    states = real.reset_many(seeds(2000))
    inner = states.pipeline_state.dynamics
    np.testing.assert_allclose(inner.pose.xy, np.tile([0.30, 0.20], (2000, 1)), atol=1e-6)
    np.testing.assert_allclose(inner.ee_xy, np.tile([0.30, 0.0], (2000, 1)), atol=1e-6)
    assert np.ptp(inner.pose.yaw) > 6.0


def test_hammer_draws_its_centre_of_mass_and_mass_in_the_papers_ranges():
    env = PushEnv(load_task("push_hammer"))
    physics = jax.jit(jax.vmap(env.draw_physics))(seeds(2000))
    x, mass = np.asarray(physics.com[:, 0]), np.asarray(physics.mass)
    assert x.min() == pytest.approx(-0.13, abs=1e-3)
    assert x.max() == pytest.approx(0.13, abs=1e-3)
    assert mass.min() == pytest.approx(0.62 * 0.8, rel=2e-3)
    assert mass.max() == pytest.approx(0.62 * 1.2, rel=2e-3)
    np.testing.assert_array_equal(physics.com[:, 1], 0.0)
    # the distribution moves as a whole: its own inertia follows the mass alone
    scale = mass / 0.62
    inertia = np.asarray(env.task.object.inertia)[2, 2] * scale
    np.testing.assert_allclose(physics.inertia[:, 2, 2], inertia, rtol=1e-5)


def test_physics_ranges_take_a_weight_or_a_centre_of_mass_not_both():
    with pytest.raises(ValueError, match="either weight_x_m or com_m"):
        PhysicsRanges(com_m=((-0.1, 0.1), (0.0, 0.0)))
    with pytest.raises(ValueError, match="mass_scale"):
        PhysicsRanges(mass_scale=(0.0, 1.0))


def test_a_centre_of_mass_outside_the_support_is_refused_before_anything_runs(task):
    physics = PhysicsRanges(weight_x_m=None, com_m=((-0.05, 0.12), (0.0, 0.0)))
    with pytest.raises(ValueError, match=r"at \(12\.00, 0\.00\) cm the object would tip over"):
        PushEnv(replace(task, physics=physics))
