"""Physics that blows up: noticed, counted, dumped, and seen again from the dump."""

import csv
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.envs.base import Env, State
from flax import struct

from p2r_jax.policy import watch
from p2r_jax.policy.policy import load_policy
from p2r_jax.policy.ppo import PPOConfig
from p2r_jax.policy.train import TrainConfig, train
from p2r_jax.sim import push
from p2r_jax.sim.dump import STATES, Dump, load_dump, replay, save_dump, scene_xml
from p2r_jax.sim.health import blowups, is_healthy
from p2r_jax.sim.planar import PlanarDynamics
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.training_env import TrainingEnv, UnrollRecord
from p2r_jax.types import PhysicsParams, PlanarPose

# the same step in two compiled programs, float32
REPLAY_TOLERANCE = 1e-5
EDGE_X = 0.36  # the fragile dynamics explode when the pusher is sent beyond


class FragileDynamics(PlanarDynamics):
    """Planar dynamics that throw the object once the pusher goes beyond ``EDGE_X``."""

    def advance(self, physics, cache, state, ee_target):
        after = super().advance(physics, cache, state, ee_target)
        thrown = after.replace(twist=after.twist + jnp.array([1e6, 0.0, 0.0]))
        beyond = ee_target[0] > EDGE_X
        return jax.tree.map(lambda a, b: jnp.where(beyond, a, b), thrown, after)


@pytest.fixture
def small_task(task):
    """Short episodes in the physics that compiles fastest."""
    planar = replace(
        task.planar, substeps=2, table_friction="ellipsoid", friction_iterations=1, contact_sweeps=1
    )
    return replace(task, episode_length=6, planar=planar)


@pytest.fixture
def fragile(monkeypatch):
    def make(task):
        return FragileDynamics(
            task.object, task.pusher_radius_m, task.control_period_s, task.planar
        )

    monkeypatch.setattr(push, "make_dynamics", make)


def with_physics(state, **fields):
    inner = state.pipeline_state
    return state.replace(pipeline_state=inner.replace(physics=inner.physics.replace(**fields)))


def test_blown_environments_end_without_reward_and_leave_the_others_alone(small_task, fragile):
    env = PushEnv(small_task)
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 5))
    dynamics = state.pipeline_state.dynamics
    ee = dynamics.ee_xy.at[:, 0].set(jnp.array([0.30, 0.30, EDGE_X, 0.30, 0.30]))
    sound = state.replace(
        pipeline_state=state.pipeline_state.replace(dynamics=dynamics.replace(ee_xy=ee))
    )
    friction = sound.pipeline_state.physics.friction_table.at[1].set(jnp.nan)
    push_on = jnp.tile(jnp.array([0.5, 0.1]), (5, 1))
    step = jax.jit(jax.vmap(env.step))
    after = step(with_physics(sound, friction_table=friction), push_on.at[4].set(jnp.nan))
    blown, spared = np.array([1, 2, 4]), np.array([0, 3])
    np.testing.assert_array_equal(after.metrics["nan_envs"], [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(after.done, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(after.info["truncation"], 0)
    np.testing.assert_array_equal(after.reward[blown], 0)
    np.testing.assert_array_equal(after.pipeline_state.last_action[blown], 0)  # never sent
    seen = after.obs, after.reward, after.metrics, after.info["final_obs"]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(seen))
    untouched = step(sound, push_on)
    for a, b in zip(*map(jax.tree.leaves, (after, untouched)), strict=True):
        np.testing.assert_array_equal(a[spared], b[spared])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"twist": [0.7, 0.0, 14.0]}, None),
        ({"ee_xy": [np.nan, 0.0]}, "state is not finite"),
        ({"twist": [np.inf, 0.0, 0.0]}, "state is not finite"),
        ({"twist": [8.0, -8.0, 0.0]}, "moves faster than 10.3 m/s"),
        ({"twist": [0.0, 0.0, -101.0]}, "turns faster than 100 rad/s"),
        ({"xy": [0.3, 1.6]}, "more than 1 m outside the workspace"),
    ],
)
def test_what_is_wrong_is_said_in_words(change, reason, small_task):
    env = PushEnv(small_task)
    pose = PlanarPose(np.array(change.pop("xy", [0.3, 0.2])), np.array(0.5))
    change = {k: np.array(v) for k, v in change.items()}
    state = env.dynamics.init(pose, np.zeros(2)).replace(**change)
    physics = env.physics_for(small_task.object.with_weight(0.0), 0.25)
    wrong = [k for k, v in blowups(state, physics, small_task.layout).items() if v]
    assert bool(is_healthy(state, physics, small_task.layout)) == (not wrong)
    if reason is None:
        assert wrong == []
    else:
        assert any(reason in text for text in wrong)


@struct.dataclass
class TraceState:
    """What ``last_states`` reads of an episode, and nothing that takes long to compile."""

    dynamics: jax.Array
    physics: PhysicsParams
    theta_input: jax.Array
    limit: jax.Array


class TraceEnv(Env):
    """Adds actions up; episodes differ in physics and end after 1 to 5 steps."""

    observation_size, action_size, backend = 1, 2, "none"

    def reset(self, rng):
        mass = jax.random.uniform(rng, ())
        zeros = jnp.zeros(3), jnp.eye(3), *jnp.zeros(2), jnp.zeros((3, 2))
        limit = 1 + jnp.floor(5 * mass)
        inner = TraceState(jnp.zeros(2), PhysicsParams(mass, *zeros), mass[None], limit)
        return State(inner, jnp.zeros(1), jnp.zeros(()), jnp.zeros(()), {}, {})

    def step(self, state, action):
        inner = state.pipeline_state
        inner = inner.replace(dynamics=inner.dynamics + action, limit=inner.limit - 1)
        return state.replace(pipeline_state=inner, done=(inner.limit <= 0).astype(jnp.float32))


def test_dump_holds_exactly_what_a_step_by_step_log_saw(small_task, monkeypatch):
    monkeypatch.setattr(watch, "scene_xml", lambda task, physics: "")
    env = TrainingEnv(TraceEnv(), 1)
    step, refill = jax.jit(env.step), jax.jit(env.refill)
    keys = jax.random.split(jax.random.key(0), 5)
    state = refill(jax.jit(jax.vmap(TraceEnv().reset))(keys), jax.random.key(1))
    rng, log, records = np.random.default_rng(0), [], []
    for update in range(2):
        state = refill(state, jax.random.key(update))
        start = jax.device_get(state)
        for _ in range(8):
            action = rng.uniform(-1.5, 1.5, (5, 2)).astype(np.float32)
            before = jax.device_get(state.pipeline_state)
            state = step(state, action)
            log.append((before, action, np.asarray(state.done) > 0))
        seen = [(b.dynamics, a, d, np.zeros_like(d)) for b, a, d in log[-8:]]
        stacked = jax.tree.map(lambda *x: np.stack(x), *seen)
        records.append(UnrollRecord(start.pipeline_state, start.info["reserve"][0], *stacked))
    assert state.info["reserve_reuse"].sum() > 0  # a neighbour's reserve is in the test
    lengths = set()
    for time in range(8):
        for index in range(5):
            dump = watch.last_states(small_task, records, time, index, update=2)
            past = range(8 + time)
            first = max((i + 1 for i in past if log[i][2][index]), default=0)
            rows = log[first : 8 + time + 1]
            before = [jax.tree.map(lambda x: x[index], b) for b, _, _ in rows]  # noqa: B023
            np.testing.assert_array_equal(dump.states, [b.dynamics for b in before])
            np.testing.assert_array_equal(
                dump.actions, [np.clip(a[index], -1, 1) for _, a, _ in rows]
            )
            np.testing.assert_array_equal(dump.physics.mass, before[0].physics.mass)
            np.testing.assert_array_equal(dump.theta_input, before[0].theta_input)
            lengths.add(len(rows))
    assert len(lengths) > 3


def test_dump_holds_no_more_than_the_last_states(small_task, monkeypatch):
    monkeypatch.setattr(watch, "scene_xml", lambda task, physics: "")
    inner = TraceEnv().reset(jax.random.key(0)).pipeline_state
    inner = jax.tree.map(lambda x: x[None], inner)
    count = STATES // 2 + 10
    still = np.zeros((count, 1), bool)

    def record(first):
        numbers = np.arange(first, first + count, dtype=np.float32)[:, None, None]
        return UnrollRecord(inner, inner, numbers, np.zeros((count, 1, 2)), still, still)

    records = [record(0), record(count)]
    dump = watch.last_states(small_task, records, count - 1, 0, update=2)
    np.testing.assert_array_equal(dump.states[:, 0], np.arange(2 * count)[-STATES:])


SMALL = PPOConfig(
    total_steps=8 * 16 * 8,
    num_envs=16,
    unroll_length=8,
    num_minibatches=2,
    num_epochs=1,
    policy_layers=(16,),
    value_layers=(16,),
)


def test_training_counts_blowups_and_dumps_a_few_that_blow_up_again(
    small_task, fragile, tmp_path, capsys
):
    task = replace(small_task, episode_length=40)
    config = TrainConfig(task, "privileged", SMALL, tmp_path / "run", evaluations=1, max_dumps=2)
    train(config)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert sum(float(row["sim/nan_envs"]) for row in rows) > 2
    policy = load_policy(tmp_path / "run" / "policy")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((policy.params, policy.mean)))
    dumps = sorted((tmp_path / "run" / "blowups").iterdir())
    assert len(dumps) == 2
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in dumps)
    for path in dumps:
        dump = load_dump(path)
        assert dump.task == replace(task, theta_input="true")
        assert 1 <= len(dump.actions) <= STATES
        assert '<body name="object"' in dump.model
        again = replay(dump)
        assert any("moves faster" in reason for reason in again.reasons)
        assert not again.deviation > REPLAY_TOLERANCE  # NaN where there is one state only


def test_a_dump_of_nan_physics_says_so_when_replayed(small_task, tmp_path):
    env = PushEnv(small_task)
    physics = env.physics_for(small_task.object.with_weight(0.0), float("nan"))
    pose = PlanarPose(jnp.array([[0.3, 0.2]] * 2), jnp.zeros(2))
    states = jax.vmap(env.dynamics.init)(pose, jnp.array([[0.3, 0.0]] * 2))
    model = scene_xml(small_task, physics)
    dump = Dump(small_task, physics, np.zeros(1), states, np.zeros((2, 2)), 7, 3, model, "abc")
    save_dump(tmp_path / "deep" / "dump.npz", dump)
    loaded = load_dump(tmp_path / "deep" / "dump.npz")
    assert (loaded.task, loaded.update, loaded.env, loaded.git) == (small_task, 7, 3, "abc")
    assert {"the physics is not finite", "the state is not finite"} <= set(replay(loaded).reasons)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_file_that_is_no_dump_is_refused_by_name(content, tmp_path):
    path = tmp_path / "other.npz"
    if content is None:
        np.savez(path, meta='{"kind": "pushes", "schema": 1}')
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.npz is no blow-up dump"):
        load_dump(path)
