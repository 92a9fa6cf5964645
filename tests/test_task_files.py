"""Tasks as folders: exact on disk, clear when broken, and made from a mesh they run."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.support import check_support, support_points
from p2r_jax.task_files import is_task_folder, read_task, write_task
from p2r_jax.tasks import load_task, task_names


@pytest.fixture
def mesh_task():
    """The module that needs shapely."""
    pytest.importorskip("shapely", reason="outlines need shapely; extra mesh")
    from p2r_jax import mesh_task

    return mesh_task


@pytest.fixture
def bar(tmp_path):
    """A mesh of two boxes, 20 cm long, in millimetres."""
    handle = trimesh.creation.box((200.0, 30.0, 24.0))
    head = trimesh.creation.box((40.0, 90.0, 24.0)).apply_translation((80.0, 0.0, 0.0))
    trimesh.util.concatenate([handle, head]).export(tmp_path / "bar.stl")
    return tmp_path / "bar.stl"


def edited(folder, change):
    record = json.loads((folder / "task.json").read_text())
    change(record)
    (folder / "task.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("name", task_names())
def test_a_task_read_back_is_the_task_written(tmp_path, name):
    task = load_task(name)
    assert not is_task_folder(tmp_path)
    write_task(task, tmp_path)
    assert is_task_folder(tmp_path)
    assert read_task(tmp_path) == task
    varied = replace(
        task,
        history=7,
        physics=replace(task.physics, weight_x_m=None, com_m=((-0.01, 0.1), (0.1 / 3, 0.2))),
        theta=task.theta * 2,
    )
    write_task(varied, tmp_path)
    assert read_task(tmp_path) == varied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=9), "schema 9"),
        (lambda r: r["task"].update(gravity=3.0), "task has no setting 'gravity'"),
        (lambda r: r["task"].pop("name"), r"task\.name is missing"),
        (
            lambda r: r["task"].update(history="ten"),
            r"task\.history is 'ten' \(str\), a whole number",
        ),
        (lambda r: r["task"].update(history=True), r"task\.history is True"),
        (lambda r: r["task"].update(dynamics="magic"), r"task\.dynamics is 'magic', not one of"),
        (lambda r: r["task"]["layout"].update(goal_xy=[0.1]), r"goal_xy has 1 values, 2 are"),
        (lambda r: r["task"].update(layout=3), r"task\.layout is 3 \(int\), settings by name"),
        (lambda r: r["task"]["theta"][0].update(low=None), r"task\.theta\[0\]\.low is None"),
        (lambda r: r["task"]["physics"].update(weight_x_m=None), "either weight_x_m or com_m"),
    ],
)
def test_a_broken_task_file_names_the_field(tmp_path, task, change, message):
    write_task(task, tmp_path)
    with pytest.raises(ValueError, match=message):
        read_task(edited(tmp_path, change))


def test_what_is_no_task_folder_says_so(tmp_path, task):
    with pytest.raises(FileNotFoundError, match=r"holds no task\.json"):
        read_task(tmp_path)
    (tmp_path / "task.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_task(tmp_path)


def test_a_new_task_runs_and_its_folder_can_be_moved(tmp_path, mesh_task, bar):
    config = mesh_task.NewTaskConfig(bar, 0.4, tmp_path / "bar_task")
    task, _ = mesh_task.new_task(config)
    assert task.name == task.object.name == "bar_task"
    assert read_task(tmp_path / "bar_task") == task
    shutil.move(tmp_path / "bar_task", tmp_path / "elsewhere")
    moved = read_task(tmp_path / "elsewhere")
    assert moved.object == replace(task, asset=moved.asset).object
    shutil.rmtree(tmp_path / "elsewhere" / "asset")
    with pytest.raises(FileNotFoundError, match="no asset folder"):
        read_task(tmp_path / "elsewhere")


@pytest.mark.parametrize("theta", ["1d", "2d"])
def test_theta_is_what_the_support_encloses(tmp_path, mesh_task, bar, theta):
    config = mesh_task.NewTaskConfig(bar, 0.4, tmp_path / "bar_task", theta=theta)
    task, _ = mesh_task.new_task(config)
    assert len(task.theta) == int(theta[0])
    support = support_points(task.object, task.physics.support, task.physics.support_count)
    corners = np.array([(x, y) for x in task.physics.com_m[0] for y in task.physics.com_m[1]])
    check_support(support, corners, "bar")
    x = task.theta[0]
    assert -0.09 - 1e-9 <= x.low < task.object.com_m[0] < x.high <= 0.09 + 1e-9
    assert x.high - x.low > 0.08
    assert x.std == pytest.approx((x.high - x.low) / 12**0.5)
    with pytest.raises(ValueError, match="would tip over"):
        check_support(support, np.array([[0.099, 0.0]]), "bar")


def test_environment_of_a_new_task_stays_finite_and_touches_the_object(tmp_path, mesh_task, bar):
    task, _ = mesh_task.new_task(mesh_task.NewTaskConfig(bar, 0.4, tmp_path / "t", name="bar"))
    env = PushEnv(replace(task, planar=replace(task.planar, substeps=2)))

    @jax.jit
    def rollout(key):
        key_reset, key_act = jax.random.split(key)
        state = jax.vmap(env.reset)(jax.random.split(key_reset, 32))
        actions = jax.random.uniform(key_act, (20, 32, 2), minval=-1.0, maxval=1.0)

        def step(state, action):
            state = jax.vmap(env.step)(state, action)
            return state, (state.obs["state"], state.pipeline_state.dynamics.contact)

        return jax.lax.scan(step, state, actions)[1]

    obs, contact = rollout(jax.random.key(0))
    assert obs.shape == (20, 32, 13)
    assert jnp.isfinite(obs).all()
    assert float(contact.max()) > 0


def test_lengths_follow_the_object(tmp_path, mesh_task):
    """The T-block's own lengths for an object of its size, smaller ones for a smaller object."""
    base = load_task("push_tblock")
    same, _ = mesh_task.task_for_asset(base.object, base, "1d", base.pusher_radius_m)
    assert same.layout == base.layout
    assert same.action_scale_m == base.action_scale_m
    assert same.curriculum.ee_radius_m == pytest.approx(base.curriculum.ee_radius_m, abs=5e-3)
    assert same.reward.free_reach_m == base.reward.free_reach_m
    for size, scale in ((0.1, 0.5), (0.4, 1.0), (0.04, 1 / 3)):
        box = trimesh.creation.box((size, size / 2, 0.02))
        box.export(tmp_path / f"box{size}.ply")
        task, _ = mesh_task.new_task(
            mesh_task.NewTaskConfig(
                tmp_path / f"box{size}.ply", 0.2, tmp_path / f"t{size * 1000:.0f}"
            )
        )
        assert task.action_scale_m == pytest.approx(scale * base.action_scale_m, abs=1e-4)
        assert task.success.position_m == pytest.approx(scale * base.success.position_m, abs=1e-4)
        layout, reach = task.layout, np.hypot(size, size / 2) / 2 + task.pusher_radius_m
        for place in (layout.start_xy, layout.goal_xy):
            assert np.all(np.array(place) - reach > layout.lower)
            assert np.all(np.array(place) + reach < layout.upper)
            assert np.linalg.norm(np.subtract(place, layout.ee_start_xy)) > reach


def test_what_cannot_be_a_new_task_is_refused_before_anything_is_written(tmp_path, mesh_task, bar):
    new = mesh_task.NewTaskConfig
    out = tmp_path / "bar_task"
    for config, message in (
        (new(bar, 0.0, out), "positive one with --mass"),
        (new(bar, 0.4, out, name="7 of 9"), "cannot name a task"),
        (new(bar, 0.4, out, name="push_tblock"), "is a registered task"),
        (
            new(bar, 0.4, out, options=replace(mesh_task.MeshOptions(), com=(0.1, 0.05))),
            "outside its footprint",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            mesh_task.new_task(config)
    with pytest.raises(KeyError, match="no task 'push_cup'"):
        mesh_task.new_task(new(bar, 0.4, out, base="push_cup"))
    assert not out.exists()
    mesh_task.new_task(new(bar, 0.4, out))
    with pytest.raises(FileExistsError, match="not empty"):
        mesh_task.new_task(new(bar, 0.4, out))
