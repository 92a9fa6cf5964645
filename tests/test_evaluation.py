"""Reality, methods, statistics and the comparison itself; tiny networks, short episodes."""

import hashlib
import json
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax import tasks
from p2r_jax.deploy.loop import Memory, loop_step
from p2r_jax.estimator.ensemble import EstimatorContract, init_ensemble, save_ensemble
from p2r_jax.evaluation import evaluate as evaluation
from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.evaluation.methods import (
    METHODS,
    Checkpoints,
    condition,
    load_checkpoints,
    make_bundle,
    method,
    uninformed_ensemble,
)
from p2r_jax.evaluation.outcomes import compare, first_success_s, judge, summarize
from p2r_jax.evaluation.statistics import bootstrap, paired_difference, wilson
from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import TrialRecord, batched_loop_step, run_trials
from p2r_jax.policy.policy import Policy, actor_network, contract_of, save_policy
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.reality import REALITY_DEV, REALITY_TEST, Reality, ee_target, reality
from p2r_jax.sim.trials import draw_trials
from p2r_jax.types import Gaussian, Measurement, PlanarPose

NAME = "push_tblock_short"
STEPS = 3
TASK = replace(tasks.load_task("push_tblock"), name=NAME, episode_length=STEPS)
LOOP_TOLERANCE = 1e-5  # float32, another order of additions under vmap
UP = np.array([0.0, 1.0])  # the pusher starts below the object


def random_policy(phase, seed):
    contract = contract_of(TASK, phase, (16, 16), 0)
    size = len(FEATURES) + len(TASK.theta)
    params = actor_network(contract).policy_network.init(jax.random.key(seed))
    return Policy(params, jnp.zeros(size), 0.1 * jnp.ones(size), contract)


def random_ensemble():
    contract = EstimatorContract(
        task=NAME, features=FEATURES, theta=("com_object_x",),
        theta_mean=(float(TASK.theta_mean[0]),), theta_std=(float(TASK.theta_std[0]),),
        history=TASK.history, members=2, layers=(16,), action_scale_m=TASK.action_scale_m,
        git="test",
    )  # fmt: skip
    return init_ensemble(contract, jax.random.key(9))


@pytest.fixture(scope="module")
def checkpoints():
    policies = {p: random_policy(p, i) for i, p in enumerate(("privileged", "noisy", "dr"))}
    return Checkpoints(policies, random_ensemble())


@pytest.fixture(scope="module")
def root(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, policy in checkpoints.policies.items():
        save_policy(folder / name, policy)
    save_ensemble(folder / "estimator", checkpoints.ensemble)
    return folder


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(tasks._REGISTRY, NAME, lambda: TASK)


def trials_of(count=2, weight=0.095, seed=0, task=TASK):
    return draw_trials(task, task.object.with_weight(weight), count, seed)


# statistics ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718), (20, 20, 0.8389, 1.0)],
)  # fmt: skip
def test_wilson_matches_published_values(successes, count, low, high):
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    np.testing.assert_allclose(wilson(successes, count), [successes / count, low, high], atol=5e-5)


def test_wilson_refuses_what_is_no_rate():
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="of 0"):
        wilson(0, 0)


def pairs(both, only_a, only_b, neither):
    counts = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], counts), np.repeat(
        [True, False, True, False], counts
    )


def test_paired_difference_matches_a_published_example():
    # airway hyper-responsiveness before and after (Bentur et al. 2009), in Fagerland et al. 2014
    np.testing.assert_allclose(
        paired_difference(*pairs(1, 1, 7, 12)), [-0.286, -0.507, -0.026], atol=5e-4
    )


def test_paired_difference_keeps_a_width_when_all_trials_agree():
    difference = paired_difference(*pairs(20, 0, 0, 0))
    assert difference.value == 0
    assert difference.low < -0.1
    assert difference.high > 0.1


def test_bootstrap_covers_the_statistic_and_repeats_itself():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    interval = bootstrap(values)
    np.testing.assert_allclose(interval.high - interval.low, 2 * 1.96 / 20, rtol=0.1)
    assert interval == bootstrap(values)
    assert np.isnan(bootstrap(np.array([]))).all()


# trials ----------------------------------------------------------------------


def test_few_trials_are_the_first_of_many_and_seeds_differ():
    few, many, other = trials_of(2), trials_of(5), trials_of(2, seed=1)
    for name in ("yaw_rad", "friction", "pusher_share", "off_axis_share", "noise"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:2])
        assert not np.any(getattr(few, name) == getattr(other, name))


def test_draws_stay_in_their_ranges():
    trials, (low, high) = trials_of(200), TASK.physics.friction
    assert low <= trials.friction.min() < trials.friction.max() < high
    assert -np.pi <= trials.yaw_rad.min() < -2.9 < 2.9 < trials.yaw_rad.max() < np.pi
    assert abs(trials.noise.std() - 1) < 0.05


# reality ---------------------------------------------------------------------

# A digest changes with any setting of the world, solver included: give the config
# a new version, then a new digest here.
DIGESTS = {
    ("reality-dev", "2"): "931d2ea69ddb",
    ("reality-test", "2"): "8354404fe955",
}


@pytest.mark.parametrize("config", [REALITY_DEV, REALITY_TEST], ids=lambda c: c.name)
def test_published_worlds_do_not_change_without_a_new_version(config):
    text = json.dumps(asdict(config), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == DIGESTS[config.name, config.version]


def test_unknown_reality_lists_names():
    with pytest.raises(KeyError, match="reality-dev, reality-test"):
        reality("reality")


def test_latency_beyond_what_is_kept_is_refused():
    with pytest.raises(ValueError, match="latency_s"):
        replace(REALITY_DEV, latency_s=1.0)


@pytest.mark.parametrize("config", [REALITY_DEV, REALITY_TEST], ids=lambda c: c.name)
def test_truth_is_the_compiled_centre_of_mass(config):
    trials = trials_of(3)
    world = Reality(config, TASK, trials)
    compiled = np.stack([m.body_ipos[m.body("object").id] for m in world.models])
    np.testing.assert_array_equal(world.theta, compiled[:, :1])
    np.testing.assert_allclose(world.theta, 0.0596, atol=1e-4)  # papers.md 1.1: 5.96 cm
    np.testing.assert_allclose(
        compiled[:, 1], config.off_axis_com_m * trials.off_axis_share, atol=1e-12
    )


def test_pusher_friction_is_the_tables_in_dev_and_its_own_in_test():
    def frictions(config):
        model = Reality(config, TASK, trials_of(1)).models[0]
        return [model.pair(n).friction[0] for n in ("table_support0", "pusher_part0")]

    table, pusher = frictions(REALITY_DEV)
    assert table == pusher
    table, pusher = frictions(REALITY_TEST)
    assert table != pusher
    assert 0.15 <= pusher <= 0.35


def test_same_seed_gives_identical_trials_whatever_the_threads():
    def end(threads):
        world = Reality(REALITY_TEST, TASK, trials_of(3), threads)
        for _ in range(STEPS):
            seen = world.measure()
            world.act(np.tile(UP, (3, 1)))
        return *world.truth(), np.asarray(seen.object_pose.xy)

    for a, b in zip(end(1), end(2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_measurement_is_late_by_the_latency():
    quiet = replace(REALITY_DEV, position_noise_m=0.0, yaw_noise_rad=0.0, ee_noise_m=0.0)
    world = Reality(quiet, TASK, trials_of(1))
    np.testing.assert_allclose(world.measure().ee_xy, [TASK.layout.ee_start_xy], atol=1e-6)
    world.act(UP[None])
    _, ee, _ = world.truth()
    # after 20 lags the pusher moves at 3 cm/s, so 50 ms are 1.5 mm
    np.testing.assert_allclose(ee - np.asarray(world.measure().ee_xy), [[0, 0.0015]], atol=2e-5)
    prompt = Reality(replace(quiet, latency_s=0.0), TASK, trials_of(1))
    prompt.measure()
    prompt.act(UP[None])
    np.testing.assert_allclose(prompt.measure().ee_xy, prompt.truth()[1], atol=1e-7)


def test_pusher_lags_behind_its_command():
    lag = 0.1
    world = Reality(replace(REALITY_DEV, servo=replace(REALITY_DEV.servo, lag_s=lag)), TASK,
                    trials_of(1))  # fmt: skip
    world.act(UP[None])
    travelled = world.truth()[1][0, 1] - TASK.layout.ee_start_xy[1]
    np.testing.assert_allclose(travelled, 0.03 - lag * 0.03, atol=1e-4)


def test_noise_is_the_trials_own_scaled_by_the_config():
    trials = trials_of(2)
    quiet = replace(REALITY_DEV, position_noise_m=0.0, yaw_noise_rad=0.0, ee_noise_m=0.0)
    clean = Reality(quiet, TASK, trials).measure()
    noisy = Reality(REALITY_DEV, TASK, trials).measure()
    scale = REALITY_DEV.position_noise_m
    np.testing.assert_allclose(
        noisy.object_pose.xy - clean.object_pose.xy, scale * trials.noise[:, 0, :2], atol=1e-7
    )
    np.testing.assert_allclose(
        noisy.object_pose.yaw - clean.object_pose.yaw,
        REALITY_DEV.yaw_noise_rad * trials.noise[:, 0, 2], atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        noisy.ee_xy - clean.ee_xy, REALITY_DEV.ee_noise_m * trials.noise[:, 0, 3:], atol=1e-7
    )


def test_object_stands_still_until_the_pusher_arrives_and_moves_after():
    trials = replace(trials_of(1), yaw_rad=np.array([0.0]))
    long = replace(TASK, episode_length=9)
    world = Reality(REALITY_DEV, long, replace(trials, noise=np.zeros((1, 9, 5))))
    touched, moved = [], []
    for _ in range(9):
        world.measure()
        touched.append(bool(world.act(UP[None])[0]))
        moved.append(np.linalg.norm(world.truth()[0][0, :2] - TASK.layout.start_xy))
    first = touched.index(True)
    assert 1 <= first < 8
    assert max(moved[:first]) < 1e-3  # settling on soft support
    assert moved[-1] > 0.02
    assert world.truth()[2][0] > TASK.success.rest_speed


def test_targets_stay_in_the_workspace():
    corner = np.array([TASK.layout.upper])
    np.testing.assert_array_equal(ee_target(TASK, corner, np.array([[1.0, 1.0]])), corner)
    np.testing.assert_allclose(ee_target(TASK, corner, np.array([[-9.0, 0.0]])), corner - [0.03, 0])


# loop, methods ---------------------------------------------------------------


def test_batched_step_equals_single_steps_and_is_traced_once(checkpoints):
    count, key = 3, jax.random.key(0)
    theta = np.full((count, 1), 0.02)
    bundle = make_bundle("fused", checkpoints, TASK, load_prior("heuristic", TASK).to_gaussian(),
                         theta)  # fmt: skip
    memory = jax.tree.map(lambda x: jnp.stack([x] * count), Memory.empty(TASK.history))
    singles = [Memory.empty(TASK.history)] * count
    before = batched_loop_step._cache_size()
    for step in range(STEPS):
        xy, yaw, ee = (jax.random.uniform(k, (count, 2)) for k in
                       jax.random.split(jax.random.fold_in(key, step), 3))  # fmt: skip
        seen = Measurement(PlanarPose(xy, yaw[:, 0]), ee)
        action, memory, known = batched_loop_step(bundle, memory, seen)
        for i in range(count):
            one = bundle.replace(prior=jax.tree.map(lambda x, i=i: x[i], bundle.prior))
            expected, singles[i], expected_known = loop_step(
                one, singles[i], jax.tree.map(lambda x, i=i: x[i], seen)
            )
            np.testing.assert_allclose(action[i], expected, atol=LOOP_TOLERANCE)
            np.testing.assert_allclose(
                known.fused.mean[i], expected_known.fused.mean, atol=LOOP_TOLERANCE
            )
    assert batched_loop_step._cache_size() == before + 1


def test_unknown_names_list_what_exists():
    with pytest.raises(KeyError, match=r"privileged.*fused.*vlm-only.*rma-only.*dr"):
        method("oracle")
    with pytest.raises(KeyError, match="top, bottom, bare, middle"):
        condition("left")
    with pytest.raises(KeyError, match="reality-dev, reality-test, training"):
        evaluation.describe_world("isaac", TASK)


def test_only_privileged_methods_look_at_the_truth(checkpoints):
    prior = Gaussian(jnp.array([0.04]), jnp.array([0.0002]))

    def told(name, truth):
        bundle = make_bundle(name, checkpoints, TASK, prior, np.array([[truth]]))
        memory = jax.tree.map(lambda x: x[None], Memory.empty(TASK.history))
        seen = Measurement(PlanarPose(jnp.array([[0.3, 0.2]]), jnp.zeros(1)), jnp.ones((1, 2)))
        return float(batched_loop_step(bundle, memory, seen)[2].theta[0, 0])

    for name, chosen in METHODS.items():
        here, there = told(name, -0.01), told(name, 0.06)
        if chosen.given == "truth":
            np.testing.assert_allclose([here, there], [-0.01, 0.06], rtol=1e-6)
        else:
            assert here == there
    np.testing.assert_allclose(told("vlm-only", 0.0), 0.04)
    np.testing.assert_allclose(told("dr", 0.0), TASK.theta_mean)


def test_uninformed_ensemble_returns_the_training_prior():
    ensemble = uninformed_ensemble(TASK)
    belief = ensemble(Memory.empty(TASK.history).window)
    np.testing.assert_allclose(belief.mean, TASK.theta_mean, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(belief.variance), TASK.theta_std, rtol=0.05)


def test_checkpoint_of_another_task_or_phase_is_refused(root, tmp_path):
    other = replace(TASK, name="push_hammer")
    with pytest.raises(ValueError, match=f"{NAME}.*push_hammer"):
        load_checkpoints(root, other, ["privileged"])
    (tmp_path / "dr").symlink_to(root / "noisy")
    with pytest.raises(ValueError, match="'noisy', 'dr'"):
        load_checkpoints(tmp_path, TASK, ["dr"])
    (tmp_path / "noisy").symlink_to(root / "noisy")
    with pytest.raises(FileNotFoundError, match="estimator"):
        load_checkpoints(tmp_path, TASK, ["fused"])


# outcomes --------------------------------------------------------------------


def record_at(poses, speed=0.0):
    """A record of one trial with these object poses (x, y, yaw) at its ticks."""
    ticks, steps = len(poses), len(poses) - 1
    belief = {
        f"{who}_{what}": np.zeros((1, steps, 1))
        for who in ("prior", "estimate", "fused") for what in ("mean", "sigma")
    }  # fmt: skip
    return TrialRecord(
        object_pose=np.array([poses], float), ee_xy=np.zeros((1, ticks, 2)),
        speed=np.full((1, ticks), speed), measured_pose=np.zeros((1, steps, 3)),
        measured_ee=np.zeros((1, steps, 2)), action=np.zeros((1, steps, 2)),
        contact=np.zeros((1, steps), bool), theta_used=np.full((1, steps, 1), 0.03),
        theta_true=np.full((1, 1), 0.02), **belief,
    )  # fmt: skip


AT_GOAL = (*TASK.layout.goal_xy, TASK.layout.goal_yaw_rad)
AWAY = (0.3, 0.2, 1.0)


def test_success_is_judged_at_the_end_not_ever():
    passed = summarize(record_at([AWAY, AT_GOAL, AT_GOAL, AWAY]), TASK)
    assert passed["hardware"]["successes"] == 0
    assert passed["ever"]["successes"] == 1
    assert passed["first_success_s"]["value"] == 1.0
    stayed = summarize(record_at([AWAY, AWAY, AT_GOAL]), TASK)
    assert stayed["hardware"]["successes"] == 1
    assert stayed["first_success_s"]["value"] == 2.0
    np.testing.assert_allclose(stayed["theta_rmse_m"]["used"], 0.01)
    never = summarize(record_at([AWAY, AWAY]), TASK)
    assert never["first_success_s"] == {"n": 0, "value": None, "low": None, "high": None}


def test_hardware_forgives_15_degrees_and_strict_wants_rest():
    turned = (*TASK.layout.goal_xy, np.deg2rad(15) + 2 * np.pi)
    outcome = judge(record_at([AWAY, turned]), TASK)
    assert outcome.hardware[0, -1]
    assert not outcome.strict_pose[0, -1]
    moving = judge(record_at([AWAY, AT_GOAL], speed=0.02), TASK)
    assert moving.strict_pose[0, -1]
    assert not moving.strict[0, -1]
    assert first_success_s(moving, TASK) == 1.0


def test_comparison_is_paired():
    good, bad = record_at([AWAY, AT_GOAL]), record_at([AWAY, AWAY])
    assert compare(bad, good, TASK)["hardware"]["value"] == -1.0
    assert compare(good, good, TASK)["strict"]["value"] == 0.0


# evaluate --------------------------------------------------------------------


@pytest.fixture
def config(registered, root, tmp_path):
    return EvaluateConfig(
        out=tmp_path / "out", task=NAME, dynamics="reality-test",
        methods=("fused", "privileged", "dr"), conditions=("bare",), trials=3, checkpoints=root,
    )  # fmt: skip


def test_every_method_meets_the_same_trials_and_all_files_are_written(config):
    results = evaluate(config)
    assert results["complete"]
    assert json.loads((config.out / "results.json").read_text()) == results
    assert [r["method"] for r in results["results"]] == ["privileged", "fused", "dr"]
    assert results["dynamics"]["name"] == "reality-test"
    assert results["conditions"]["bare"]["prior"]["kind"] == "heuristic"
    np.testing.assert_allclose(results["conditions"]["bare"]["theta_true_m"], [0.0343], atol=1e-6)
    by_name = {r["method"]: r for r in results["results"]}
    assert by_name["privileged"]["paired_to_reference"] is None
    assert by_name["fused"]["paired_to_reference"]["hardware"]["value"] == 0
    assert by_name["privileged"]["theta_rmse_m"]["used"] < 1e-6
    assert by_name["dr"]["theta_rmse_m"]["used"] is None
    records = load_records(config.out)
    first = records["bare", "privileged"]
    for record in records.values():
        np.testing.assert_array_equal(record.object_pose[:, 0], first.object_pose[:, 0])
        np.testing.assert_array_equal(record.measured_pose[:, 0], first.measured_pose[:, 0])
        assert record.object_pose.shape == (3, STEPS + 1, 3)
        assert record.theta_used.shape == (3, STEPS, 1)
    table = (config.out / "results.md").read_text()
    assert "| privileged | 0 [0, 56] |" in table
    with pytest.raises(FileExistsError, match="--overwrite"):
        evaluate(config)


def test_wrong_names_are_refused_before_any_work(config):
    for change in ({"dynamics": "moon"}, {"methods": ("x",)}, {"conditions": ("x",)}):
        with pytest.raises(KeyError):
            evaluate(replace(config, **change))
    assert not config.out.exists()


def test_training_world_agrees_with_the_environment(checkpoints):
    task = replace(TASK, layout=replace(TASK.layout, ee_start_xy=(0.30, 0.08)))  # near the object
    trials = trials_of(2)
    world = TrainingWorld(task, trials)
    np.testing.assert_allclose(world.theta, 0.0596, atol=1e-4)
    bundle = make_bundle("privileged", checkpoints, task,
                         load_prior("heuristic", task).to_gaussian(), world.theta)  # fmt: skip
    record = run_trials(world, bundle, STEPS)
    env = PushEnv(task, training=False)
    step = jax.jit(env.step)
    for i in range(2):
        physics = env.physics_for(trials.mass_properties, float(trials.friction[i]))
        start = PlanarPose(
            jnp.array(task.layout.start_xy), jnp.array(trials.yaw_rad[i], jnp.float32)
        )
        state = env.reset_to(
            physics, start, jnp.array(task.layout.ee_start_xy), jnp.array(world.theta[i])
        )
        for k in range(STEPS):
            state = step(state, record.action[i, k])
        dynamics = state.pipeline_state.dynamics
        np.testing.assert_allclose(record.object_pose[i, -1, :2], dynamics.pose.xy, atol=1e-5)
        np.testing.assert_allclose(record.ee_xy[i, -1], dynamics.ee_xy, atol=1e-6)
