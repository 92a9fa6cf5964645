"""Another package's task, reward term, fusion rule and network: installed, named, used.

The package is ``tests/example_package``. Here it lies where pip would have put it, with the
metadata that pip would have written (``test_packaging`` lets pip do it, which takes longer);
what is broken or claimed twice is made up.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.cli import main
from p2r_jax.estimator.ensemble import (
    NETWORKS,
    EstimatorContract,
    init_ensemble,
    load_ensemble,
    save_ensemble,
)
from p2r_jax.estimator.straight_pushes import StraightPushes
from p2r_jax.estimator.train import EstimatorConfig, load_training
from p2r_jax.fusion import RULES, FusionRule
from p2r_jax.plugins import PluginError
from p2r_jax.policy.train import default_train
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import REWARD_TERMS, PushEnv, reward_terms
from p2r_jax.sim.window import Window
from p2r_jax.tasks import RewardWeights, load_task, task_names
from p2r_jax.types import Gaussian

PACKAGE = Path(__file__).parent / "example_package"
MODULE = "p2r_example"


def declare(site, package, points):
    """Write what pip would for a package with these entry points, by group and name."""
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [
        line
        for group, paths in points.items()
        for line in (f"[{group}]", *(f"{name} = {path}" for name, path in paths.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of packages with the example package in it."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / MODULE, site / MODULE)
    declare(site, project["name"], project["entry-points"])
    return site


@pytest.fixture
def clean_imports(monkeypatch):
    """``sys.path`` and the modules that a test brings are as before, afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("jax", "p2r_jax")):
            del sys.modules[name]


@pytest.fixture
def example(installed, monkeypatch, clean_imports):
    """The example package can be found, and was not imported yet."""
    monkeypatch.syspath_prepend(installed)
    for name in [m for m in sys.modules if m.partition(".")[0] == MODULE]:
        monkeypatch.delitem(sys.modules, name)
    return installed


@pytest.fixture
def declaring(tmp_path, monkeypatch, clean_imports):
    """Declares tasks of a package whose modules lie in ``tmp_path``."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda package, **tasks: declare(tmp_path, package, {"p2r_jax.tasks": tasks})


def test_names_of_an_installed_package_are_listed_without_importing_it(example):
    assert "push_on_ice" in task_names()
    assert {"push_tblock", "push_hammer"} < set(task_names())
    names = {"terms": list(REWARD_TERMS), "rules": list(RULES), "networks": list(NETWORKS)}
    assert names["terms"][-1] == "turning"
    assert names["rules"][0] == "paper"
    assert names["rules"][-1] == "intersect"
    assert names["networks"] == ["mlp", "gru", "deep_sets"]
    assert not [m for m in sys.modules if m.startswith(MODULE)]


def test_without_the_package_its_names_are_unknown(capsys):
    assert "push_on_ice" not in task_names()
    with pytest.raises(KeyError, match="no task 'push_on_ice'"):
        load_task("push_on_ice")
    assert main(["train", "push_on_ice", "dr", "--out", "unused"]) == 2
    assert "no TASK 'push_on_ice'" in capsys.readouterr().err


def test_its_task_steps_and_its_reward_term_is_logged_by_name(example):
    task = load_task("push_on_ice")
    assert (task.name, task.physics.friction) == ("push_on_ice", (0.03, 0.1))
    env = PushEnv(replace(task, planar=replace(task.planar, substeps=2)))

    def one(key):
        state = env.reset(key)
        return state, env.step(state, jnp.ones(2))

    state, after = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 64))
    assert "reward/turning" in state.metrics
    yaw = [s.pipeline_state.dynamics.pose.yaw for s in (state, after)]
    turned = np.abs(np.angle(np.exp(1j * np.asarray(yaw[1] - yaw[0]))))
    assert turned.max() > 0.01  # something was hit
    np.testing.assert_allclose(after.metrics["reward/turning"], -0.05 * turned, atol=1e-6)
    terms = [v for k, v in after.metrics.items() if k.startswith("reward/")]
    np.testing.assert_allclose(after.reward, sum(terms), atol=1e-6)


def test_reward_terms_that_do_not_fit_are_refused_by_name(example):
    twice = RewardWeights(extra=(("turning", 1.0), (f"{MODULE}.rewards:turning", 1.0)))
    with pytest.raises(ValueError, match="there is a term 'turning' already"):
        reward_terms(twice)
    with pytest.raises(ValueError, match=r"'near' already.*ours have fields of their own"):
        reward_terms(RewardWeights(extra=(("near", 1.0),)))
    with pytest.raises(KeyError, match="no reward term 'turnin'; did you mean 'turning'"):
        reward_terms(RewardWeights(extra=(("turnin", 1.0),)))
    assert list(reward_terms(RewardWeights(extra=((f"{MODULE}.rewards:turning", 1.0),))))[-1] == (
        "turning"
    )


def test_a_reward_term_that_is_not_one_number_is_named(
    small_task, tmp_path, monkeypatch, clean_imports
):
    (tmp_path / "my_rewards.py").write_text("def where(t): return t.after.dynamics.pose.xy\n")
    monkeypatch.chdir(tmp_path)
    env = PushEnv(replace(small_task, reward=RewardWeights(extra=(("my_rewards:where", 1.0),))))
    with pytest.raises(PluginError, match=r"'my_rewards:where'.*the shape \(2,\), not one number"):
        jax.eval_shape(lambda k: env.step(env.reset(k), jnp.zeros(2)), jax.random.key(0))


def test_its_fusion_rule_answers_and_survives_a_bundle_record(example):
    rule = RULES["intersect"]
    assert rule == FusionRule(**asdict(rule)) == FusionRule(function=f"{MODULE}.fusion:intersect")
    assert not rule.is_paper
    prior, estimate = gaussian(4.0, 1.0), gaussian(6.0, 3.0)
    believe = jax.jit(lambda a, b: rule.believe(a, b, prior, None, 10))
    belief, past = believe(prior, estimate)
    # precisions 1 and 1/9: mean (4 + 6/9) / (10/9), variance 2 / (10/9)
    np.testing.assert_allclose(belief.mean, 4.2, rtol=1e-6)
    np.testing.assert_allclose(belief.variance, 1.8, rtol=1e-6)
    assert past is None


@pytest.mark.slow
def test_its_fusion_rule_is_a_method(example):
    code = (
        "from p2r_jax.evaluation.methods import method; from p2r_jax.fusion import RULES;"
        "m = method('fused-intersect'); print(m.source, m.policy, RULES[m.rule].function)"
    )
    path = os.pathsep.join([str(example), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert run.stdout.split() == ["fused", "noisy", f"{MODULE}.fusion:intersect"]


def test_fusion_rules_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="function is an import path"):
        FusionRule(function="intersect")
    with pytest.raises(ValueError, match="doubt have no meaning"):
        FusionRule(function="a.b:c", doubt=0.1)
    belief = gaussian(0.0, 1.0)
    with pytest.raises(PluginError, match=r"'builtins:print'.*returns a NoneType"):
        FusionRule(function="builtins:print").believe(belief, belief, belief, None, 10)
    with pytest.raises(PluginError, match="neither a FusionRule nor a function"):
        RULES["math:pi"]


def test_its_network_is_saved_by_name_and_loaded_again(example, task, tmp_path):
    contract = estimator_contract(task, "deep_sets")
    ensemble = jax.jit(lambda k: init_ensemble(contract, k))(jax.random.key(0))
    save_ensemble(tmp_path, ensemble)
    loaded = load_ensemble(tmp_path, task)
    assert loaded.contract.network == "deep_sets"
    means, variances = jax.eval_shape(loaded.members, Window.empty(10))
    assert means.shape == variances.shape == (2, 1)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, ensemble.params)


@pytest.mark.slow
def test_its_network_learns(example, task, tmp_path):
    config = EstimatorConfig(
        task, None, tmp_path, members=2, layers=(16, 8), network="deep_sets", batch=64,
        rounds=1, steps=60, learning_rate=1e-2, pushes=StraightPushes(),
    )  # fmt: skip
    training = load_training(config)
    key, size = jax.random.key(0), training.contract.history - 1
    theta = task.theta_mean + task.theta_std * jax.random.normal(key, (32, 1))
    columns = jax.random.normal(key, (32, size + 20, 5)).at[..., 0].set(training.scaled(theta))

    def step(carry, key):
        params, optimizer, loss = training.member_step(*carry, key, columns, theta)
        return (params, optimizer), loss

    def learn(key):
        params = training.net.init(key, columns[0, :size])
        start = (params, training.optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, config.steps))[1]

    losses = np.asarray(jax.jit(learn)(key))
    assert losses[-10:].mean() < losses[:10].mean() - 0.5


def test_an_estimator_whose_network_is_not_installed_is_refused(task):
    with pytest.raises(ValueError, match=r"no estimator network 'deep_sets'.*install that"):
        estimator_contract(task, "deep_sets")


def test_a_network_with_another_answer_is_named(task, tmp_path, monkeypatch, clean_imports):
    (tmp_path / "wide.py").write_text(
        "from flax import linen as nn\n"
        "class Wide(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, rows):\n"
        "        return nn.Dense(5)(rows), nn.Dense(5)(rows)\n"
        "def wide(contract):\n"
        "    return Wide()\n"
    )
    monkeypatch.chdir(tmp_path)  # a module in the working directory is found
    with pytest.raises(PluginError, match=r"'wide:wide'.*\(9, 5\).*not mean and log-variance"):
        init_ensemble(estimator_contract(task, "wide:wide"), jax.random.key(0))


def test_a_name_that_is_claimed_twice_is_refused_and_no_other(declaring):
    declaring("first-pkg", push_mug="first:push_mug", push_hammer="first:hammer")
    declaring("second-pkg", push_mug="second:push_mug")
    with pytest.raises(PluginError, match=r"'push_mug' is taken twice.*first-pkg.*second-pkg"):
        load_task("push_mug")
    with pytest.raises(PluginError, match="'push_hammer' is taken twice, by p2r_jax itself and"):
        load_task("push_hammer")
    assert task_names().count("push_mug") == task_names().count("push_hammer") == 1
    assert load_task("push_tblock").name == "push_tblock"


BROKEN = {
    "does_not_import": ("gone:task", "ModuleNotFoundError: No module named 'gone'"),
    "has_no_attribute": ("broken:nothing", "AttributeError"),
    "raises": ("broken:raises", "ValueError: no such mug"),
    "returns_another_thing": ("broken:number", "returns a int, not a Task"),
    "misnamed": ("broken:misnamed", "its task has name='push_tblock', not 'misnamed'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_named_and_breaks_nothing_else(declaring, tmp_path, capsys, name):
    (tmp_path / "broken.py").write_text(
        "from p2r_jax.tasks import load_task\n"
        "def raises(): raise ValueError('no such mug')\n"
        "def number(): return 3\n"
        "def misnamed(): return load_task('push_tblock')\n"
    )
    path, says = BROKEN[name]
    declaring("mugs", **{name: path})
    with pytest.raises(PluginError, match=r"package mugs 1\.0") as error:
        load_task(name)
    assert says in str(error.value)
    assert f"entry point {name} = {path} in p2r_jax.tasks" in str(error.value)
    assert load_task("push_tblock").name == "push_tblock"
    assert main(["train", name, "dr", "--out", str(tmp_path / "run")]) == 2
    assert "package mugs 1.0" in capsys.readouterr().err


def test_p2r_tasks_lists_the_others_and_says_what_is_broken(declaring, capsys):
    declaring("mugs", push_mug="gone:push_mug")
    assert main(["tasks"]) == 0
    lines = capsys.readouterr().out
    assert "push_mug: package mugs 1.0" in lines
    assert "push_hammer: hammer" in lines
    assert "push_triangle: triangle_150" in lines


def test_a_task_by_import_path_needs_no_package(tmp_path, monkeypatch, clean_imports):
    (tmp_path / "far_tasks.py").write_text(
        "from dataclasses import replace\n"
        "from p2r_jax.tasks import load_task\n"
        "def push_far(): return replace(load_task('push_tblock'), name='push_far')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_task("far_tasks:push_far").name == "push_far"
    assert default_train("far_tasks:push_far", "dr", tmp_path).task.name == "push_far"
    with pytest.raises(PluginError, match=r"import path 'far_tasks:push_near'.*AttributeError"):
        load_task("far_tasks:push_near")
    with pytest.raises(PluginError, match="No module named 'your_tasks'"):
        load_task("your_tasks:push_far")


@pytest.mark.slow
def test_its_task_trains_with_its_reward_from_the_command_line(example, tmp_path):
    out = tmp_path / "run"
    small = "--ppo.total-steps 2000 --ppo.num-envs 20 --ppo.unroll-length 10 --evaluations 2"
    sizes = "--ppo.num-minibatches 2 --ppo.policy-layers 16 --ppo.value-layers 16"
    command = f"-m p2r_jax.cli train push_on_ice privileged --out {out} {small} {sizes}"
    path = os.pathsep.join([str(example), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (out / "policy" / "policy.json").is_file()
    logged = "".join(p.read_text() for p in out.glob("*.csv")) + "".join(
        p.read_text() for p in out.glob("*.jsonl")
    )
    assert "reward/turning" in logged


def gaussian(mean, sigma):
    return Gaussian(jnp.array([mean], jnp.float32), jnp.array([sigma], jnp.float32) ** 2)


def estimator_contract(task, network):
    return EstimatorContract(
        task=task.name, features=FEATURES, theta=("com_object_x",), theta_mean=(0.0,),
        theta_std=(0.03,), history=10, members=2, layers=(16,), action_scale_m=0.03, git="",
        network=network,
    )  # fmt: skip
