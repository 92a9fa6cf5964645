"""The loop: what it sends and remembers, how it keeps time, and that it always ends well."""

import gc
import math
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.controller import Controller, Decision
from p2r_jax.deploy.export import ExportConfig, export, loop_spec
from p2r_jax.deploy.loop import Bundle
from p2r_jax.deploy.protocols import DeviceError, TrackedPose
from p2r_jax.deploy.robots.sim import SimRobot
from p2r_jax.deploy.runner import Runner, RunOptions
from p2r_jax.deploy.safety import SafetyConfig, limits_for
from p2r_jax.deploy.timing import Pacer, WallClock
from p2r_jax.deploy.trackers.sim import SimTracker
from p2r_jax.evaluation.trials import run_trials
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.reality import REALITY_DEV, Reality
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import load_task
from p2r_jax.types import PlanarPose

TASK = load_task("push_tblock")
SPEC = loop_spec(TASK, "fused")
SCALE = SPEC.action_scale_m
# Two programs (batched and single) round float32 in their own ways, and contacts amplify it.
SAME_M, SAME_ACTION = 5e-4, 1e-2


class FakeClock:
    """Time passes when someone sleeps."""

    def __init__(self):
        self.time_s = 100.0

    def now(self):
        return self.time_s

    def sleep_until(self, time_s):
        self.time_s = max(self.time_s, time_s)


class FakeController:
    """Always wants the same; notes what it is told."""

    spec, goal, prior_mean, prior_sigma = SPEC, SPEC.goal, (0.0,), (1.0,)

    def __init__(self, action=(0.5, -0.25)):
        self.action, self.sent, self.forgot = action, [], 0

    def propose(self, pose, ee):
        known = tuple(pose) + tuple(ee)
        action = self.action if np.isfinite(known).all() else (math.nan, math.nan)
        return Decision(action, (0.0,), (0.0,), (1.0,), (0.0,), (1.0,))

    def commit(self, sent):
        self.sent.append(sent)

    def forget(self):
        self.forgot += 1


class FakeRobot:
    """Is at once where it is sent; ``calls`` is the story, ``answer`` its own limits."""

    name = "fake"

    def __init__(self, answer=lambda target: target):
        self.calls, self.answer, self.xy = [], answer, (0.3, 0.0)
        self.fails: dict[str, BaseException] = {}

    def _call(self, what):
        self.calls.append(what)
        if what in self.fails:
            raise self.fails[what]

    def connect(self):
        self._call("connect")

    def get_observation(self):
        self._call("observe")
        return dict(zip(("ee.x", "ee.y"), self.xy, strict=True))

    def send_action(self, action):
        self._call("send")
        self.xy = self.answer((action["ee.x"], action["ee.y"]))
        return dict(zip(("ee.x", "ee.y"), self.xy, strict=True))

    def stop(self):
        self._call("stop")

    def disconnect(self):
        self._call("disconnect")


class FakeTracker:
    """Poses from a function of the number of the call; stamps are now."""

    name = "fake"

    def __init__(self, clock, pose=lambda number: (0.3, 0.2, 0.1)):
        self.clock, self.pose, self.calls = clock, pose, 0

    def connect(self):
        pass

    def get_pose(self):
        self.calls += 1
        found = self.pose(self.calls - 1)
        return found and TrackedPose(*found, self.clock.now())

    def disconnect(self):
        pass


class ListWriter:
    """A log in memory."""

    def __init__(self):
        self.records, self.cause, self.fails = [], None, None

    def step(self, record):
        if self.fails:
            raise self.fails
        self.records.append(record)

    def close(self, cause):
        self.cause = self.cause or cause


def make(steps=5, pose=None, robot=None, controller=None, safety=None, view=None, **options):
    """A runner of fakes, and its parts."""
    clock = FakeClock()
    tracker = FakeTracker(clock, pose) if pose else FakeTracker(clock)
    parts = SimpleNamespace(
        clock=clock, tracker=tracker, robot=robot or FakeRobot(), writer=ListWriter(),
        controller=controller or FakeController(), view=view,
    )  # fmt: skip
    limits = limits_for(safety or SafetyConfig(), SPEC.workspace, SPEC.control_period_s, SCALE)
    chosen = RunOptions(steps, **{"success_hold_s": None, **options})
    runner = Runner(
        parts.controller, limits, parts.robot, tracker, clock, parts.writer, chosen, view
    )
    return runner, parts


def assert_ended_well(parts, cause):
    """Stopped, disconnected, and the log says why."""
    after_last_send = parts.robot.calls[::-1].index("send") if "send" in parts.robot.calls else 99
    assert "stop" in parts.robot.calls[-after_last_send:]
    assert parts.robot.calls[-1] == "disconnect"
    assert parts.writer.cause == cause


# --- one loop_step, two drivers -------------------------------------------------------------


def compare_drivers(folder, trials_count, steps, reality=REALITY_DEV):
    """Largest differences between evaluation and the runner on the simulated robot."""
    bundle = load_bundle(folder)
    prior = load_prior("paper-top", TASK).to_gaussian()
    trials = draw_trials(TASK, TASK.object.with_weight(0.095), trials_count, seed=0)
    x, y, yaw = bundle.spec.goal
    evaluated = Bundle(
        bundle.policy, bundle.ensemble,
        jax.tree.map(lambda v: jnp.broadcast_to(v, (trials_count, 1)), prior),
        PlanarPose(jnp.array([x, y]), jnp.array(yaw)), "fused",
    )  # fmt: skip
    record = run_trials(Reality(reality, TASK, trials), evaluated, steps)
    limits = limits_for(SafetyConfig(), bundle.spec.workspace, 1.0, bundle.spec.action_scale_m)
    controller, causes = Controller(bundle, prior), set()
    for index in range(trials_count):
        robot, writer = SimRobot(reality, TASK, trials, index), ListWriter()
        controller.forget()
        options = RunOptions(steps, success_hold_s=None)
        tracker = SimTracker(robot)
        Runner(controller, limits, robot, tracker, robot.clock, writer, options).run()
        rows = writer.records
        for mine, theirs, same in (
            ([r.object_pose for r in rows], record.measured_pose, SAME_M),
            ([r.ee_xy for r in rows], record.measured_ee, SAME_M),
            ([r.action for r in rows], record.action, SAME_ACTION),
            ([r.fused_mean for r in rows], record.fused_mean, SAME_M),
        ):
            np.testing.assert_allclose(mine, theirs[index], atol=same)
        np.testing.assert_allclose(robot.truth()[0], record.object_pose[index, -1], atol=SAME_M)
        causes |= {cause for row in rows for cause in row.safety}
    return causes


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "bundle"
    export(ExportConfig(folder))
    return folder


def test_the_simulated_robot_does_what_evaluation_does_in_reality(bundle_folder):
    assert compare_drivers(bundle_folder, trials_count=1, steps=40) == set()


@pytest.mark.slow
def test_whole_trials_agree_also_where_the_workspace_cuts_actions_short(bundle_folder):
    assert compare_drivers(bundle_folder, trials_count=8, steps=100) == {"workspace"}


# --- what is sent and remembered ------------------------------------------------------------


def test_an_action_moves_the_measured_tip_by_its_scale():
    runner, parts = make(steps=2)
    result = runner.run()
    assert (result.cause, result.planned) == ("steps", True)
    first, second = parts.writer.records
    assert first.target_xy == pytest.approx((0.3 + 0.5 * SCALE, -0.25 * SCALE))
    assert second.ee_xy == first.target_xy
    assert parts.controller.sent == [(0.5, -0.25)] * 2
    assert first.safe_action == first.sent_action == first.action == (0.5, -0.25)
    assert second.stamp_s - first.stamp_s == SPEC.control_period_s
    assert_ended_well(parts, "steps")


def test_the_history_holds_what_the_robot_says_it_did():
    half = FakeRobot(answer=lambda target: (0.3 + (target[0] - 0.3) / 2, target[1] / 2))
    runner, parts = make(steps=1, robot=half)
    runner.run()
    assert parts.controller.sent[0] == pytest.approx((0.25, -0.125))
    (record,) = parts.writer.records
    assert record.safe_action == (0.5, -0.25)
    assert record.sent_action == pytest.approx((0.25, -0.125))


def test_an_action_cut_short_by_the_tasks_own_workspace_stays_the_action():
    robot = FakeRobot()
    robot.xy = (0.549, 0.0)
    runner, parts = make(steps=1, robot=robot)
    runner.run()
    (record,) = parts.writer.records
    assert record.safety == ("workspace",)
    assert record.target_xy == pytest.approx((0.55, -0.25 * SCALE))
    assert parts.controller.sent == [(0.5, -0.25)]  # as in training
    tight = SafetyConfig(max_step_m=0.005)
    runner, parts = make(steps=1, safety=tight)
    runner.run()
    assert math.hypot(*parts.controller.sent[0]) == pytest.approx(0.005 / SCALE)


def test_a_lost_pose_holds_the_last_target_and_is_no_part_of_the_history():
    runner, parts = make(steps=4, pose=lambda n: None if n == 2 else (0.3, 0.2, 0.1))
    runner.run()
    rows = parts.writer.records
    assert [row.safety for row in rows] == [(), (), ("not-finite",), ()]
    assert rows[2].target_xy == rows[1].target_xy
    assert parts.robot.calls.count("send") == 4
    assert len(parts.controller.sent) == 3


def test_an_object_that_jumps_starts_a_new_history():
    runner, parts = make(steps=5, pose=lambda n: (0.3 + 0.2 * (n >= 2), 0.2, 0.1))
    runner.run()
    assert [row.safety for row in parts.writer.records] == [(), (), ("jump",), (), ()]
    assert parts.controller.forgot == 1


def test_a_device_that_blocks_is_noticed_before_anything_is_sent():
    runner, parts = make(steps=5)

    def pose(number):
        parts.clock.time_s += 0.4 * (number == 2)
        return (0.3, 0.2, 0.1)

    parts.tracker.pose = pose
    result = runner.run()
    assert result.cause == "safety: gap"
    assert parts.robot.calls.count("send") == 2
    assert_ended_well(parts, "safety: gap")


def test_holding_for_too_long_ends_the_run():
    runner, parts = make(steps=9, pose=lambda n: (0.3, 0.2, 0.1) if n < 2 else None)
    result = runner.run()
    assert result.cause == "safety: not-finite, held-too-long"
    assert not result.planned
    assert len(parts.writer.records) == 2 + 4  # two seconds of 1 Hz, then the stop
    assert math.isnan(parts.writer.records[-1].target_xy[0])
    assert_ended_well(parts, result.cause)


def test_a_dry_run_does_everything_but_move():
    runner, parts = make(steps=3, dry_run=True)
    result = runner.run()
    assert result.cause == "steps"
    assert "send" not in parts.robot.calls
    assert [row.sent_action for row in parts.writer.records] == [(0.0, 0.0)] * 3
    assert parts.writer.records[0].action == (0.5, -0.25)


# --- how it ends ----------------------------------------------------------------------------


def test_success_that_holds_ends_the_run():
    x, y, yaw = SPEC.goal
    runner, parts = make(
        steps=20, success_hold_s=3.0,
        pose=lambda n: (x, y + 0.04 * (n < 2) + 0.04 * (n == 4), yaw + 2 * math.pi),
    )  # fmt: skip
    result = runner.run()
    assert (result.cause, result.success, result.planned) == ("success", True, True)
    assert len(parts.writer.records) == 5 + 4  # from step 5 on, held for three seconds


@pytest.mark.parametrize("what", ["connect", "observe", "send"])
def test_a_robot_that_fails_is_stopped_and_the_log_says_so(what):
    robot = FakeRobot()
    robot.fails[what] = DeviceError("cable out")
    runner, parts = make(robot=robot)
    result = runner.run()
    assert result.cause == "device: cable out"
    assert not result.planned
    assert_ended_well(parts, "device: cable out")


def test_a_bug_ends_in_a_stopped_robot_too():
    def pose(number):
        raise ZeroDivisionError("oops")

    runner, parts = make(pose=pose)
    result = runner.run()
    assert result.cause == "error: ZeroDivisionError: oops"
    assert isinstance(result.error, ZeroDivisionError)
    assert_ended_well(parts, result.cause)


def test_a_log_that_cannot_be_written_stops_the_robot():
    runner, parts = make()
    parts.writer.fails = OSError("disk full")
    result = runner.run()
    assert result.cause == "error: OSError: disk full"
    assert "stop" in parts.robot.calls[parts.robot.calls.index("send") :]


def test_a_stop_that_is_not_confirmed_is_tried_again_and_told():
    robot = FakeRobot()
    robot.fails["stop"] = DeviceError("no answer")
    runner, parts = make(steps=1, robot=robot)
    result = runner.run()
    assert parts.robot.calls.count("stop") == 3
    assert result.cause == "steps; the robot did not confirm the stop: no answer"
    assert not result.planned
    robot = FakeRobot()
    robot.xy, robot.fails["stop"] = (0.9, 0.0), DeviceError("no answer")
    outside = make(robot=robot)[0].run().cause
    assert outside == "safety: outside; the robot did not confirm the stop: no answer"


def test_a_robot_without_a_tip_or_with_a_target_of_nan_is_a_failed_device():
    robot = FakeRobot()
    robot.get_observation = lambda: {"joint1": 0.0}
    assert "observed {'joint1': 0.0}" in make(robot=robot)[0].run().cause
    nowhere = FakeRobot(answer=lambda target: (math.nan, 0.0))
    assert make(robot=nowhere)[0].run().cause.startswith("device: fake says it went to (nan")


@pytest.mark.parametrize("wrong", [(0.5, 0.2), (math.nan, 0.0)])
@pytest.mark.parametrize("where", range(3))
def test_a_robot_that_does_not_know_where_it_is_does_not_start(wrong, where):
    robot = FakeRobot()
    readings = [(0.3, 0.0)] * 3
    readings[where] = wrong
    robot.get_observation = lambda: dict(zip(("ee.x", "ee.y"), readings.pop(0), strict=True))
    runner, parts = make(robot=robot)
    result = runner.run()
    assert result.cause.startswith("device: fake: readings of its tip at rest differ: (")
    assert "send" not in parts.robot.calls
    assert_ended_well(parts, result.cause)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_stops_the_robot_and_gives_the_handlers_back(signals):
    def pose(number):
        if number == 2:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
        return (0.3, 0.2, 0.1)

    before = signal.getsignal(signal.SIGINT)
    runner, parts = make(steps=9, pose=pose)
    result = runner.run()
    assert result.cause == "interrupted"
    assert len(parts.writer.records) == 4 - signals  # the second one does not wait for the step
    assert_ended_well(parts, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
def test_the_first_signal_while_connecting_ends_the_wait_and_later_ones_do_not_disturb(
    number, times
):
    class Travelling(FakeRobot):
        def connect(self):
            self.calls.append("connect")
            try:
                os.kill(os.getpid(), number)
                self.calls.append("arrived")
            except KeyboardInterrupt:
                for _ in range(times - 1):
                    os.kill(os.getpid(), number)
                self.calls.append("halted")
                raise

    runner, parts = make(robot=Travelling())
    result = runner.run()
    assert result.cause == parts.writer.cause == "interrupted"
    assert not result.planned
    assert parts.robot.calls == ["connect", "halted", "stop", "disconnect"]


def test_the_log_is_closed_before_tracker_and_view_and_without_their_troubles():
    seen = []

    class View:
        stop_requested = False

        def update(self, record):
            pass

        def close(self):
            seen.append(parts.writer.cause)
            raise OSError("page stuck")

    def disconnect():
        seen.append(parts.writer.cause)
        raise DeviceError("camera stuck")

    runner, parts = make(steps=2, view=View())
    parts.tracker.disconnect = disconnect
    result = runner.run()
    assert seen == ["steps", "steps"]
    assert parts.writer.cause == "steps"
    assert result.cause == "steps; disconnecting: camera stuck; the live view: page stuck"
    assert not result.planned


def test_a_stop_request_from_the_view_ends_the_run():
    class View:
        stop_requested, closed, seen = False, False, 0

        def update(self, record):
            self.seen += 1
            self.stop_requested = self.seen == 3

        def close(self):
            self.closed = True

    runner, parts = make(steps=9, view=View())
    result = runner.run()
    assert (result.cause, result.planned) == ("stop requested", True)
    assert parts.view.closed
    assert len(parts.writer.records) == 3
    assert_ended_well(parts, "stop requested")


def test_garbage_is_collected_again_after_a_run_that_failed():
    robot = FakeRobot()
    robot.fails["send"] = DeviceError("cable out")
    seen = []
    runner, _ = make(robot=robot, pose=lambda n: seen.append(gc.isenabled()) or (0.3, 0.2, 0.1))
    runner.run()
    assert seen == [False]
    assert gc.isenabled()


# --- time -----------------------------------------------------------------------------------


def test_late_work_is_counted_named_and_not_made_up_for():
    runner, parts = make(steps=6, safety=SafetyConfig(max_gap_s=5.0, max_age_s=5.0))

    def pose(number):
        if number == 2:
            parts.clock.time_s += 2.3  # on a grid of one second
        return (0.3, 0.2, 0.1)

    parts.tracker.pose = pose
    result = runner.run()
    assert (result.timing.missed, result.timing.skipped) == (1, 1)
    begins = [row.stamp_s - 100.0 for row in parts.writer.records]
    assert begins == pytest.approx([0, 1, 2, 4.3, 5, 6])
    assert result.timing.late.max_s == pytest.approx(0.3)
    assert result.timing.jitter.max_s == pytest.approx(1.3)
    assert parts.writer.records[3].sections_s["late"] == pytest.approx(0.3)


def test_the_report_says_rate_misses_and_worst_section(monkeypatch):
    runner, parts = make(steps=4)
    observe = parts.robot.get_observation

    def slow():
        WallClock().sleep_until(WallClock().now() + 0.03)
        return observe()

    parts.robot.get_observation = slow
    timing = runner.run().timing
    assert timing.rate_hz == pytest.approx(1.0)
    assert timing.worst == "observe"
    assert timing.sections["observe"].median_s >= 0.03
    said = timing.describe()
    assert "4 steps at 1.00 Hz (asked 1.00), 0 deadlines missed" in said
    assert "worst section: observe" in said
    assert replace(timing, steps=0).describe() == "no step was made"


def test_the_wall_clock_paces_steps():
    pacer = Pacer(WallClock(), 0.02)
    for _ in range(10):
        assert pacer.begin(lambda: False) is not None
        for _ in range(4):
            pacer.section()
        pacer.end()
    timing = pacer.report()
    assert timing.rate_hz == pytest.approx(50, rel=0.2)  # others may be at work here
    assert timing.late.median_s < 0.01
    assert pacer.begin(lambda: True) is None
