"""The command line: what exists is listed, defaults round-trip, imports stay light."""

import subprocess
import sys

import pytest
import tyro

from p2r_jax.cli import COMMANDS, main
from p2r_jax.policy.train import TrainConfig, default_train
from p2r_jax.tasks import Task, load_task, task_names


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_import_touches_no_device_no_torch_and_no_environment():
    code = """
import os, sys
before = dict(os.environ)
import p2r_jax, p2r_jax.tasks, p2r_jax.fusion, p2r_jax.cli
assert dict(os.environ) == before, "environment changed"
assert "torch" not in sys.modules, "torch imported"
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "device touched"
"""
    assert run_python(code).returncode == 0


@pytest.mark.parametrize("name", task_names())
def test_empty_command_line_gives_the_tasks_default_back(name):
    assert tyro.cli(Task, default=load_task(name), args=[]) == load_task(name)


@pytest.mark.parametrize("phase", ["privileged", "noisy", "dr"])
def test_train_defaults_round_trip_and_dotted_paths_reach_everything(phase, tmp_path):
    default = default_train("push_tblock", phase, tmp_path)
    assert tyro.cli(TrainConfig, default=default, args=[]) == default
    changed = tyro.cli(
        TrainConfig,
        default=default,
        args=["--task.physics.support", "rim", "--ppo.discount", "0.9"],
    )
    assert (changed.task.physics.support, changed.ppo.discount) == ("rim", 0.9)


def test_dr_gets_the_steps_of_both_other_phases(tmp_path):
    steps = {
        p: default_train("push_tblock", p, tmp_path).ppo.total_steps
        for p in ("privileged", "noisy", "dr")
    }
    assert steps["dr"] == steps["privileged"] + steps["noisy"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train"], "one of: push_hammer, push_tblock"),
        (["train", "push_tblok", "dr"], "did you mean 'push_tblock'"),
        (["train", "push_tblock", "phase9"], "privileged, noisy, belief, dr"),
        (["evaluate", "--out", "unused", "--methods", "fusedd"], "fused"),
        (["play", "--out", "unused.mp4", "--task", "push_tblok"], "did you mean 'push_tblock'"),
    ],
)
def test_wrong_words_are_named_with_what_exists(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)


def test_tasks_prints_theta_with_its_range(capsys):
    assert main(["tasks"]) == 0
    assert "com_object_x [-0.0342, +0.0742] m" in capsys.readouterr().out


def test_existing_video_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"keep")
    assert main(["play", "--out", str(tmp_path / "a.mp4")]) == 2
    assert (tmp_path / "a.mp4").read_bytes() == b"keep"
    assert "exists" in capsys.readouterr().err
