"""``p2r deploy`` and ``p2r export`` from outside, and the loop among faults."""

import json
from dataclasses import replace

import pytest
import tyro

from benchmarks.deploy_faults import killed_episode, summarize, summarize_killed
from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.command import DeployConfig, deploy, deploy_command, load_prior_for, tell
from p2r_jax.deploy.controller import Controller
from p2r_jax.deploy.export import CHECKPOINT_ROOT, ExportConfig, export, retimed, write_bundle
from p2r_jax.deploy.faults import Outcome, faulted_episode
from p2r_jax.deploy.protocols import DeviceError
from p2r_jax.deploy.record import read_run
from p2r_jax.deploy.robots.sim import SimRobot
from p2r_jax.deploy.runner import RunResult
from p2r_jax.deploy.timing import Pacer, WallClock
from p2r_jax.deploy.trackers import TrackerConfig
from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.policy.policy import load_policy
from p2r_jax.tasks import load_task

TASK = "push_tblock"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "bundle"
    export(ExportConfig(folder))
    return folder


def test_a_run_on_the_simulated_robot_leaves_a_log_and_its_timing(folder, tmp_path, capsys):
    out = tmp_path / "run"
    result = deploy(DeployConfig(folder, out, prior="paper-top", steps=4))
    assert result.cause == "steps"
    run = read_run(out)
    assert (run.cause, len(run.steps)) == ("steps", 4)
    header = run.header
    assert (header.task, header.robot, header.tracker) == (TASK, "sim", "sim")
    assert header.goal == load_bundle(folder).spec.goal
    assert header.config["prior"] == "paper-top"
    assert header.provenance["bundle"]["git"]
    assert run.steps[0].prior_mean == pytest.approx(header_prior(folder))
    timing = json.loads((out / "timing.json").read_text())
    assert (timing["steps"], timing["missed"], timing["cause"]) == (4, 0, "steps")
    said = capsys.readouterr()
    assert "4 steps at 1.00 Hz" in said.out
    assert "ended: steps" in said.err
    with pytest.raises(FileExistsError, match="every run gets a folder"):
        deploy(DeployConfig(folder, out))


def header_prior(folder):
    bundle = load_bundle(folder)
    return load_prior_for(bundle, "paper-top").mean.tolist()


def test_goal_and_dry_run_reach_the_loop(folder, tmp_path):
    goal = (0.25, 0.1, 1.0)
    deploy(DeployConfig(folder, tmp_path / "run", goal=goal, steps=2, dry_run=True))
    run = read_run(tmp_path / "run")
    assert run.header.goal == goal
    assert [step.sent_action for step in run.steps] == [(0.0, 0.0)] * 2


def test_a_lost_robot_ends_the_run_and_the_log_says_why(folder, tmp_path, capsys, monkeypatch):
    def lost(self, action):
        raise DeviceError("sim: cable out")

    monkeypatch.setattr(SimRobot, "send_action", lost)
    result = deploy(DeployConfig(folder, tmp_path / "a", steps=3))
    assert result.cause == "device: sim: cable out"
    assert read_run(tmp_path / "a").cause == result.cause
    assert f"ended: {result.cause}" in capsys.readouterr().err


def test_a_bug_is_shown_with_its_traceback_and_a_lost_device_without(tmp_path, capsys):
    timing = Pacer(WallClock(), 1.0).report()
    for kind, shown in ((ZeroDivisionError, True), (DeviceError, False)):
        with pytest.raises(kind) as raised:
            raise kind("oops")
        tell(RunResult("a cause", False, False, timing, raised.value), tmp_path)
        assert ("Traceback" in capsys.readouterr().err) == shown


def test_check_prints_the_list_and_the_exit_status_says_whether_to_go(folder, tmp_path, capsys):
    deploy_command(DeployConfig(folder, tmp_path / "out", check=True))
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "ready"
    assert "ok   connect robot" in said
    assert json.loads((tmp_path / "out" / "check.json").read_text())["ok"]
    blind = replace(TrackerConfig().sim, dropout=1.0)
    config = DeployConfig(folder, check=True, trackers=TrackerConfig(sim=blind))
    with pytest.raises(SystemExit, match="1"):
        deploy_command(config)
    assert capsys.readouterr().out.splitlines()[-1] == "not ready"


def test_a_run_that_safety_stops_explains_itself_and_exits_with_one(folder, tmp_path, capsys):
    blind = TrackerConfig(sim=replace(TrackerConfig().sim, dropout=1.0))
    with pytest.raises(SystemExit, match="1"):
        deploy_command(DeployConfig(folder, tmp_path / "run", trackers=blind))
    said = capsys.readouterr().err
    assert "ended: safety: not-finite, held-too-long" in said
    assert "not-finite: there was no pose yet" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot": "r2d2"}, "no robot 'r2d2'"),
        ({"tracker": "eyes"}, "no tracker 'eyes'"),
        ({"prior": "paper-left"}, "no prior 'paper-left'"),
        ({"form": "onnx"}, "export it with --onnx"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_starts(folder, tmp_path, change, message):
    with pytest.raises((KeyError, FileNotFoundError), match=message):
        deploy(DeployConfig(folder, tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="--out DIR"):
        DeployConfig(folder)
    with pytest.raises(ValueError, match="steps is 0"):
        DeployConfig(folder, tmp_path, steps=0)
    with pytest.raises(ValueError, match="x, y and yaw must be numbers"):
        DeployConfig(folder, tmp_path, goal=(0.0, float("nan"), 0.0))


def test_the_command_line_is_the_configuration(tmp_path):
    args = ["--bundle", "B", "--out", str(tmp_path), "--robots.sim.seed", "3", "--dry-run",
            "--safety.max-speed-m-s", "0.1", "--goal", "0.3", "-0.2", "0"]  # fmt: skip
    config = tyro.cli(DeployConfig, args=args)
    assert (config.robots.sim.seed, config.dry_run, config.goal) == (3, True, (0.3, -0.2, 0.0))
    assert config.safety.max_speed_m_s == 0.1
    plain = tyro.cli(DeployConfig, args=args[:4])
    assert plain == DeployConfig(plain.bundle, tmp_path)
    assert tyro.cli(ExportConfig, args=["--out", "B", "--onnx"]).onnx


# --- faults ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Configuration, controller and task of a bundle at 5 Hz."""
    task, root = load_task(TASK), CHECKPOINT_ROOT / TASK
    networks = load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)
    folder = tmp_path_factory.mktemp("faults") / "bundle"
    at_rate = retimed(task, *networks, 0.2)
    bundle = write_bundle(folder, *at_rate)
    controller = Controller(bundle, load_prior_for(bundle, "paper-top"))
    return DeployConfig(folder, folder.parent / "run"), controller, at_rate[0]


def test_faulted_episodes_send_nothing_unsafe_and_leave_readable_logs(fast, tmp_path):
    outcomes = [faulted_episode(*fast, tmp_path / f"{i}", i, steps=25) for i in range(12)]
    found = summarize(outcomes)
    assert found["failures"] == []
    assert found["unsafe_commands"] == found["unreadable_logs"] == 0
    assert len(found["causes"]) >= 3
    assert sum(found["faults"].values()) >= 10
    assert found["commands"] >= 50


def test_faulted_episodes_depend_on_their_seed_alone(fast, tmp_path):
    runs = [faulted_episode(*fast, tmp_path / f"{i}", 3, steps=20) for i in range(2)]
    assert runs[0] == runs[1]


def test_without_safety_the_watcher_sees_what_must_not_be(fast, tmp_path, monkeypatch):
    """The judge can tell: the same faults with a safety that lets everything through."""
    import p2r_jax.deploy.runner as runner
    from p2r_jax.deploy.safety import Verdict

    def lax(limits, s):
        target = tuple(e + limits.action_scale_m * a for e, a in zip(s.ee, s.action, strict=True))
        return Verdict(False, False, target, ())

    monkeypatch.setattr(runner, "check", lax)
    outcomes = [faulted_episode(*fast, tmp_path / f"{i}", i, steps=25) for i in range(12)]
    assert summarize(outcomes)["unsafe_commands"] > 0


def test_an_outcome_says_what_failed():
    good = Outcome("steps", "steps", 5, 5, 5, {})
    assert good.failed == []
    assert replace(good, logged=None).failed == ["the log cannot be read"]
    assert "the log with 'killed'" in replace(good, logged="killed").failed[0]
    assert "3 are in the log" in replace(good, logged_steps=3).failed[0]


def test_kill_9_leaves_a_log_that_reads_killed_and_a_robot_that_stops(folder, tmp_path):
    row = killed_episode(folder, load_task(TASK), tmp_path / "run", seed=3)
    found = summarize_killed([row])
    assert found["failures"] == []
    assert row["cause"] == "killed"
    assert row["commands"] >= 2
    assert 0 < row["moved_for_s"] <= 0.5  # in the middle of a motion, and stopped by the robot
