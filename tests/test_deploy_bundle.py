"""Bundles: what is in them, what is refused, and that every form says the same."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.deploy import exported
from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.controller import Controller, StepOutputs, compile_step, flat_step
from p2r_jax.deploy.export import (
    CHECKPOINT_ROOT,
    ExportConfig,
    export,
    outline,
    retimed,
    write_bundle,
)
from p2r_jax.deploy.loop import Bundle, loop_step
from p2r_jax.estimator.ensemble import EstimatorContract, init_ensemble, load_ensemble
from p2r_jax.files import write_json
from p2r_jax.fusion import RULES
from p2r_jax.policy.policy import Policy, actor_network, contract_of, load_policy
from p2r_jax.sim.asset import load_asset
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian, Measurement, PlanarPose

TASK = "push_tblock"
PRIOR = Gaussian(jnp.array([0.03]), jnp.array([2e-4]))
ROUNDING = 1e-6  # float32, and a program that is compiled in another way


@pytest.fixture(scope="module")
def networks():
    task, root = load_task(TASK), CHECKPOINT_ROOT / TASK
    return task, load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export(ExportConfig(folder, stablehlo=True, onnx=True))
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(folder, change):
    record = json.loads((folder / "bundle.json").read_text())
    change(record)
    write_json(folder / "bundle.json", record)


def test_a_bundle_says_what_the_loop_needs_and_where_it_came_from(folder, networks):
    task, policy, ensemble = networks
    bundle = load_bundle(folder, task)
    spec = bundle.spec
    assert (spec.task, spec.source, spec.history) == (TASK, "fused", task.history)
    assert spec.goal == (*task.layout.goal_xy, task.layout.goal_yaw_rad)
    assert spec.control_period_s == task.control_period_s
    assert spec.theta == ("com_object_x",)
    assert {"git", "versions", "device"} <= set(bundle.made)
    assert replace(bundle.task, asset=task.asset) == task
    assert bundle.task.object == task.object
    for ours, theirs in ((bundle.policy, policy), (bundle.ensemble, ensemble)):
        assert ours.contract == theirs.contract
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize("rule", ["paper", "remember-doubt"])
def test_the_compiled_controller_is_loop_step_with_a_memory(tmp_path, rule):
    bundle = export(ExportConfig(tmp_path / "b", rule=rule, stablehlo=True))
    assert bundle.parity["stablehlo"] <= exported.PARITY
    assert load_bundle(bundle.folder).spec.rule == RULES[rule]
    controller = Controller(bundle, PRIOR)
    x, y, yaw = bundle.spec.goal
    goal = PlanarPose(jnp.array([x, y]), jnp.array(yaw))
    loop = Bundle(bundle.policy, bundle.ensemble, PRIOR, goal, "fused", RULES[rule])
    memory, step = loop.empty_memory(), jax.jit(loop_step)
    rng = np.random.default_rng(0)
    pose, ee = np.array([0.3, 0.2, 0.4]), np.array([0.3, 0.0])
    for number in range(14):
        pose, ee = pose + rng.normal(0, 0.02, 3), ee + rng.normal(0, 0.02, 2)
        seen = Measurement(PlanarPose(jnp.array(pose[:2]), jnp.array(pose[2])), jnp.array(ee))
        action, after, known = step(loop, memory, seen)
        decision = controller.propose(tuple(pose), tuple(ee))
        np.testing.assert_allclose(decision.action, action, atol=ROUNDING)
        np.testing.assert_allclose(decision.theta, known.theta, atol=ROUNDING)
        sigma = np.sqrt(known.estimate.variance)
        np.testing.assert_allclose(decision.estimate_sigma, sigma, atol=ROUNDING)
        if number % 3:  # every third step is put aside, as safety does
            sent = tuple(map(float, rng.uniform(-1, 1, 2)))
            controller.commit(sent)
            memory = after.replace(sent=jnp.array(sent))
    controller.forget()
    again = Controller(bundle, PRIOR).propose(tuple(pose), tuple(ee))
    assert controller.propose(tuple(pose), tuple(ee)) == again


@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
def test_exported_forms_say_the_same_as_the_step(folder, form):
    bundle = load_bundle(folder)
    assert bundle.parity[form] <= exported.PARITY
    found = exported.parity(compile_step(bundle), compile_step(bundle, form), bundle.spec)
    assert found == pytest.approx(bundle.parity[form], abs=exported.PARITY / 5)


@pytest.mark.parametrize(
    ("policy", "source"), [("dr", "given"), ("privileged", "given"), ("noisy", "estimate")]
)
def test_the_onnx_graph_follows_policy_and_source(tmp_path, policy, source):
    bundle = export(ExportConfig(tmp_path / "b", policy=policy, source=source, onnx=True))
    assert bundle.parity["onnx"] <= exported.PARITY


@pytest.mark.parametrize("phase", ["noisy", "dr-history"])
def test_every_form_carries_two_components_of_theta_and_a_policy_with_history(tmp_path, phase):
    task = load_task("push_triangle")
    task = replace(task, actor_history=task.history if phase == "dr-history" else 0)
    contract = contract_of(task, phase, (32, 32), steps=0)
    key_policy, key_ensemble = jax.random.split(jax.random.key(0))
    size = contract.observation_size
    params = actor_network(contract).policy_network.init(key_policy)
    policy = Policy(params, jnp.linspace(-1.0, 1.0, size), jnp.linspace(0.5, 2.0, size), contract)
    estimator = EstimatorContract(
        task=task.name, features=contract.features, theta=contract.theta,
        theta_mean=contract.theta_mean, theta_std=contract.theta_std, history=task.history,
        members=3, layers=(16,), action_scale_m=task.action_scale_m, git="",
    )  # fmt: skip
    ensemble = init_ensemble(estimator, key_ensemble)
    bundle = write_bundle(tmp_path / "b", task, policy, ensemble, forms=("stablehlo", "onnx"))
    assert max(bundle.parity.values()) <= exported.PARITY
    seen = Controller(bundle, Gaussian(jnp.zeros(2), jnp.ones(2))).propose((0.3,) * 3, (0.3, 0.0))
    assert len(seen.theta) == len(seen.fused_sigma) == 2


def test_a_form_that_deviates_is_not_exported(tmp_path, networks, monkeypatch):
    task, policy, ensemble = networks

    def off(path, spec):
        step = jax.jit(flat_step(policy, ensemble, spec))
        return lambda inputs: StepOutputs(*step(inputs))._replace(
            known=step(inputs).known.at[0].add(1e-4)
        )

    monkeypatch.setitem(exported.LOADERS, "stablehlo", off)
    with pytest.raises(ValueError, match=r"deviates from the step by 1\.\de-04"):
        write_bundle(tmp_path / "b", task, policy, ensemble, forms=("stablehlo",))
    with pytest.raises(FileNotFoundError, match=r"holds no bundle\.json"):
        load_bundle(tmp_path / "b")  # half an export is no bundle


def test_onnx_says_what_it_does_not_cover_and_a_rule_must_exist(tmp_path):
    with pytest.raises(ValueError, match="export it with --stablehlo"):
        export(ExportConfig(tmp_path / "b", rule="doubt", onnx=True))
    with pytest.raises(KeyError, match=r"no fusion rule 'x' \(rules: paper, "):
        export(ExportConfig(tmp_path / "c", rule="x"))


def test_a_form_that_was_not_exported_is_named(tmp_path, networks):
    bundle = write_bundle(tmp_path / "b", *networks)
    with pytest.raises(FileNotFoundError, match=r"no step\.onnx; export it with --onnx"):
        Controller(bundle, PRIOR, form="onnx")


def test_a_bundle_of_another_schema_task_or_feature_order_is_refused(copied):
    with pytest.raises(ValueError, match="of task 'push_tblock', not of 'push_triangle'"):
        load_bundle(copied, load_task("push_triangle"))
    edit(copied, lambda r: r["loop"].update(control_period_s=0.5))
    with pytest.raises(ValueError, match=r"policy has control_period_s = 1\.0, the loop 0\.5"):
        load_bundle(copied)
    edit(copied, lambda r: r["loop"].update(control_period_s=1.0, history=5))
    with pytest.raises(ValueError, match="estimator has history = 10, the loop 5"):
        load_bundle(copied)
    edit(copied, lambda r: r["loop"].update(history=10, features=r["loop"]["features"][::-1]))
    with pytest.raises(ValueError, match="policy has features"):
        load_bundle(copied)
    edit(copied, lambda r: r.update(schema=99))
    with pytest.raises(ValueError, match="has schema 99, this version reads 1"):
        load_bundle(copied)


def test_a_damaged_bundle_is_refused(copied, tmp_path):
    (copied / "estimator" / "estimator.msgpack").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"estimator\.msgpack was changed after the export"):
        load_bundle(copied)
    (copied / "estimator" / "estimator.msgpack").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks estimator/estimator\.msgpack"):
        load_bundle(copied)
    (copied / "bundle.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_bundle(copied)
    with pytest.raises(FileNotFoundError, match="p2r export"):
        load_bundle(tmp_path / "nothing")


def test_export_does_not_write_into_a_full_folder(folder):
    with pytest.raises(FileExistsError, match="is not empty"):
        export(ExportConfig(folder))


def test_networks_at_another_rate_keep_their_speed(networks, tmp_path):
    task, policy, ensemble = retimed(*networks, 0.05)
    bundle = write_bundle(tmp_path / "b", task, policy, ensemble)
    assert bundle.spec.control_period_s == 0.05
    assert bundle.spec.action_scale_m == pytest.approx(0.03 * 0.05)


def test_a_task_whose_asset_is_a_folder_travels_with_its_bundle(folder, networks, tmp_path):
    _, policy, ensemble = networks
    away = Path(shutil.copytree(folder, tmp_path / "away"))
    bundle = write_bundle(tmp_path / "b", load_bundle(away).task, policy, ensemble)
    shutil.rmtree(away)
    assert bundle.task.object == load_asset("tblock")
    assert bundle.task.asset == str((tmp_path / "b" / "asset").resolve())


@pytest.mark.parametrize("name", ["tblock", "triangle_150"])
def test_the_outline_goes_around_all_parts(name):
    asset = load_asset(name)
    corners = np.array(outline(asset))
    x, y = corners.T
    area = 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))
    assert area == pytest.approx(asset.area, rel=1e-6)  # and counter-clockwise
    assert np.abs(signed_distance(asset.parts, corners, np)).max() < 1e-6


def test_a_bundle_runs_without_training_code(folder):
    code = (
        "import sys\n"
        "from p2r_jax.deploy.command import load_prior_for\n"
        "from p2r_jax.deploy.bundle import load_bundle\n"
        "from p2r_jax.deploy.controller import Controller\n"
        f"bundle = load_bundle({str(folder)!r})\n"
        "controller = Controller(bundle, load_prior_for(bundle, 'paper-top'))\n"
        "print(controller.propose((0.3, 0.2, 0.0), (0.3, 0.0)).action)\n"
        "print(*(m for m in sys.modules if m.startswith('p2r_jax') or m in ('optax', 'torch')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    action, modules = done.stdout.splitlines()[-2:]
    assert np.isfinite(eval(action)).all()
    trains = ("p2r_jax.policy.train", "p2r_jax.policy.ppo", "p2r_jax.estimator.train",
              "p2r_jax.estimator.rollouts", "p2r_jax.evaluation", "p2r_jax.sim.training_env",
              "p2r_jax.sim.push", "optax", "torch")  # fmt: skip
    loaded = modules.split()
    assert "p2r_jax.deploy.controller" in loaded
    assert [m for m in loaded if m.startswith(trains)] == []
