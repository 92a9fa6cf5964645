"""`p2r reproduce`: bitwise or not, and what differs first."""

import json
from dataclasses import replace
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax import files
from p2r_jax.estimator.rollouts import Drive
from p2r_jax.estimator.train import EstimatorConfig, train_estimator
from p2r_jax.policy.policy import Policy, actor_network, contract_of, save_policy
from p2r_jax.policy.ppo import PPOConfig
from p2r_jax.policy.train import default_train, train
from p2r_jax.runs import estimator_lanes
from p2r_jax.runs import reproduce as module
from p2r_jax.runs.estimator_lanes import train_together
from p2r_jax.runs.folder import read_run
from p2r_jax.runs.programs import continued
from p2r_jax.runs.reproduce import (
    ReproduceConfig,
    numbers_that_differ,
    reproduce,
    surroundings_of,
)
from p2r_jax.tasks import load_task

TINY_PPO = PPOConfig(
    total_steps=64, num_envs=8, unroll_length=4, num_minibatches=2, num_epochs=1,
    policy_layers=(8,), value_layers=(8,), seed=3,
)  # fmt: skip


def write_run(folder, weights=(1.0, 2.0), nll="-0.5", rmse=1.0, **origin):
    """A finished estimator run with these numbers."""
    config = EstimatorConfig(load_task("push_tblock"), folder.parent / "policy", folder)
    (folder / "estimator").mkdir(parents=True)
    (folder.parent / "policy").mkdir(exist_ok=True)
    (folder.parent / "policy" / "policy.json").write_text("{}")
    record = {"git": "abc", "versions": {"jax": "1"}, "device": "cpu", "cpu": "x", "cores": 2}
    files.write_json(folder / "config.json", files.as_record(config) | record | origin)
    raw = flax.serialization.msgpack_serialize({"a": {"b": np.array(weights, np.float32)}})
    (folder / "estimator" / "estimator.msgpack").write_bytes(raw)
    (folder / "metrics.csv").write_text(f"step,nll,seconds\n1,{nll},{rmse}\n")
    row = {"windows": 1, "rmse_cm": rmse}
    report = {"since_contact": {"1-3": row}, "contact_steps_in_window": {}, "git": rmse}
    files.write_json(folder / "calibration.json", report)
    return folder


@pytest.fixture
def again(monkeypatch):
    """Replaces the training by a run that is written with the given numbers."""

    def use(**numbers):
        def rerun(run, config, out):
            return write_run(out, **numbers)

        monkeypatch.setattr(module, "rerun", rerun)

    return use


def test_the_same_numbers_are_reproduced_whatever_the_clock_says(tmp_path, again, capsys):
    run = write_run(tmp_path / "run")
    again()
    assert reproduce(ReproduceConfig(run, tmp_path / "out"))
    assert "reproduced, bitwise the same parameters and metrics" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert record["matched"] is True
    assert record["numbers"] == record["surroundings"] == []


def test_a_run_that_lacks_its_parameters_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "rerun", lambda *args: pytest.fail("it was run again"))
    run = write_run(tmp_path / "run")
    (run / "estimator" / "estimator.msgpack").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no estimator/estimator.msgpack.*copy the"):
        reproduce(ReproduceConfig(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_number_of_devices_is_kept_and_compared_where_both_runs_tell_it(tmp_path):
    assert files.provenance()["device_count"] == jax.device_count()
    old, one, two = (
        write_run(tmp_path / name, **told)
        for name, told in [("old", {}), ("a", {"device_count": 1}), ("b", {"device_count": 4})]
    )
    assert [str(d) for d in surroundings_of(one, two)] == ["device_count: 1 before, 4 now"]
    assert surroundings_of(old, two) == []
    assert "device_count" in read_run(two).origin
    assert "device_count" not in read_run(two).config


def test_one_bit_is_found_and_what_differs_around_it_comes_first(tmp_path, again, capsys):
    run = write_run(tmp_path / "run")
    off = float(np.nextafter(np.float32(2.0), np.float32(3.0)))
    again(weights=(1.0, off), nll="-0.51", rmse=1.5, versions={"jax": "2"}, cores=1)
    assert not reproduce(ReproduceConfig(run, tmp_path / "out"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("NOT reproduced")
    assert lines[1] == "  differs first: versions.jax: 1 before, 2 now"
    assert lines[2] == "  also: cores: 2 before, 1 now"
    assert "estimator.msgpack a/b[1] (largest difference 2.38e-07): 2.0 before" in lines[3]
    assert lines[4] == "  numbers: metrics.csv step 1 nll: -0.5 before, -0.51 now"
    assert "calibration.json.since_contact.1-3.rmse_cm: 1.0 before, 1.5 now" in lines[5]


def test_minus_zero_and_another_nan_are_bits_too(tmp_path):
    before = write_run(tmp_path / "a" / "run", weights=(0.0, float("nan")))
    same = write_run(tmp_path / "b" / "run", weights=(0.0, float("nan")))
    other = write_run(tmp_path / "c" / "run", weights=(-0.0, float("nan")))
    assert numbers_that_differ("train-estimator", before, same) == []
    (found,) = numbers_that_differ("train-estimator", before, other)
    assert "a/b[0]" in found.what


def test_uncommitted_changes_inputs_and_resumes_are_named(tmp_path):
    resumed = [{"at": 3}]
    before = write_run(tmp_path / "a", inputs={"policy": "1"}, resumed=resumed)
    now = write_run(tmp_path / "b", inputs={"policy": "2"})
    (now / "git.patch").write_text("diff")
    found = [difference.what for difference in surroundings_of(before, now)]
    assert found == ["uncommitted changes (git.patch)", "inputs.policy", "resumed at"]


def test_what_cannot_be_run_again_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        reproduce(ReproduceConfig(tmp_path, tmp_path / "out"))
    run = write_run(tmp_path / "run")
    (tmp_path / "policy" / "policy.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"was made from .*policy.json, which is not there"):
        reproduce(ReproduceConfig(run, tmp_path / "out"))
    (run / "calibration.json").unlink()
    with pytest.raises(ValueError, match="not finished; finish it with --resume first"):
        reproduce(ReproduceConfig(run, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def tiny_estimator(folder, small_task):
    """An estimator training of seconds, with a random policy."""
    contract = contract_of(small_task, "noisy", (8,), 0)
    size = contract.observation_size
    params = jax.jit(actor_network(contract).policy_network.init)(jax.random.key(0))
    save_policy(folder / "policy", Policy(params, jnp.zeros(size), jnp.ones(size), contract))
    return EstimatorConfig(
        small_task, folder / "policy", folder / "run", members=2, layers=(8,), rounds=2,
        episodes=8, steps=3, batch=8, test_episodes=4, seed=5,
    )  # fmt: skip


@pytest.mark.slow
def test_a_policy_training_is_the_same_bit_by_bit_and_another_seed_is_not(tmp_path, small_task):
    config = replace(default_train("push_tblock", "privileged", tmp_path / "run"),
                     task=small_task, ppo=TINY_PPO, evaluations=2)  # fmt: skip
    train(config)
    assert reproduce(ReproduceConfig(config.out, tmp_path / "out"))
    assert Path(tmp_path / "out" / "again" / "policy" / "policy.msgpack").is_file()
    other = replace(config, out=tmp_path / "other", ppo=replace(TINY_PPO, seed=4))
    train(other)
    assert numbers_that_differ("train", config.out, other.out)


@pytest.mark.slow
def test_an_estimator_training_is_the_same_bit_by_bit(tmp_path, small_task):
    config = tiny_estimator(tmp_path, small_task)
    train_estimator(config)
    assert reproduce(ReproduceConfig(config.out, tmp_path / "out"))


def two_lanes(folder, small_task):
    """Two runs that may share a program: other seed, other learning rate."""
    base = tiny_estimator(folder, small_task)
    other = replace(base, learning_rate=1e-2, seed=6)
    return [replace(base, out=folder / "lane-a"), replace(other, out=folder / "lane-b")]


def assert_close(a, b):
    """Parameters of two runs, up to the rounding of sums in another order, through training."""
    a, b = _weights(a), _weights(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=2e-5)


@pytest.mark.slow
def test_lanes_are_the_trainings_they_would_be_alone(tmp_path, small_task):
    configs = two_lanes(tmp_path, small_task)
    train_together(configs)
    for config in configs:
        alone = replace(config, out=tmp_path / f"{config.out.name}.alone")
        train_estimator(alone)
        assert_close(config.out, alone.out)
        assert read_run(config.out).finished
    with pytest.raises(AssertionError):
        assert_close(configs[0].out, configs[1].out)


@pytest.mark.slow
def test_a_lane_is_reproduced_with_the_lanes_that_shared_its_program(tmp_path, small_task):
    configs = two_lanes(tmp_path, small_task)
    train_together(configs)
    record = json.loads((configs[1].out / "config.json").read_text())
    lanes = [{"seed": 5, "learning_rate": 1e-3}, {"seed": 6, "learning_rate": 1e-2}]
    assert record["one_program"] == lanes
    assert reproduce(ReproduceConfig(configs[1].out, tmp_path / "out"))


@pytest.mark.slow
def test_lanes_killed_between_two_saves_go_on_from_where_each_was(
    tmp_path, small_task, monkeypatch
):
    whole = two_lanes(tmp_path, small_task)
    train_together(whole)
    cut = [replace(config, out=tmp_path / f"{config.out.name}.cut") for config in whole]
    saves, real = [], estimator_lanes.save_run

    def stop_between_lanes(*args):
        real(*args)
        saves.append(args)
        if len(saves) == 3:  # both lanes of the first round, one of the second
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(estimator_lanes, "save_run", stop_between_lanes)
        with pytest.raises(KeyboardInterrupt):
            train_together(cut)
    train_together([continued(config) for config in cut])
    for ours, straight in zip(cut, whole, strict=True):
        assert_close(ours.out, straight.out)
        rows = (ours.out / "metrics.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == ["step", "1", "2"]
        assert json.loads((ours.out / "config.json").read_text())["resumed"]


def test_what_lanes_may_not_differ_in_is_named(tmp_path, small_task):
    config = EstimatorConfig(small_task, tmp_path, tmp_path / "a")
    numbers = estimator_lanes.check_lanes(
        [config, replace(config, out=tmp_path / "b", seed=1, drive=Drive(fused_share=0.5))]
    )
    assert list(numbers) == ["drive.fused_share"]
    np.testing.assert_array_equal(numbers["drive.fused_share"], np.float32([0.0, 0.5]))
    with pytest.raises(ValueError, match=r"differ in config.members: 10 and 3"):
        train_together([config, replace(config, members=3)])


def _weights(folder):
    raw = (folder / "estimator" / "estimator.msgpack").read_bytes()
    return module._leaves(flax.serialization.msgpack_restore(raw))
