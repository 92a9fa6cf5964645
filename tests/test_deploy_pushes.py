"""A run read as a push log and as windows: what identification and the estimator get."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from simulated_run import METHOD, START_S, recorded, run_of, write_run

from p2r_jax.deploy.record import Run, RunError
from p2r_jax.deploy.record.pushes import (
    FILL_S,
    push_log,
    tool_radius_of,
    windows_of_run,
    write_pushes,
)
from p2r_jax.deploy.safety import CLIPS
from p2r_jax.estimator.log_windows import windows_of
from p2r_jax.estimator.smc import SmcConfig
from p2r_jax.estimator.sysid import Sysid, SysidConfig
from p2r_jax.estimator.sysid_pushes import segments_of
from p2r_jax.evaluation.methods import load_checkpoints
from p2r_jax.pushlog import check_log, read_log
from p2r_jax.pushlog.log import MAX_GAP_S
from p2r_jax.tasks import load_task

TASK = load_task("push_tblock")
SAME = 1e-6  # float32
SANE_M = 0.03  # the T is 20 cm wide; identification from one run is no better than 1 to 2 cm
SIGMAS = 4.0  # twenty segments of one run, a coarse sampler


@pytest.fixture(scope="module")
def run() -> Run:
    return run_of(recorded(), TASK)


def without(run: Run, rows) -> Run:
    return replace(run, steps=tuple(s for s in run.steps if s.step not in rows))


def blind(run: Run, rows) -> Run:
    """The object was not seen in these steps."""
    nothing = {"object_pose": (np.nan,) * 3, "pose_stamp_s": np.nan}
    steps = (replace(s, **nothing) if s.step in rows else s for s in run.steps)
    return replace(run, steps=tuple(steps))


def test_the_estimator_answers_to_a_log_what_it_answered_in_the_run(run):
    ensemble = load_checkpoints(None, TASK, (METHOD,)).ensemble
    windows = windows_of_run(run, TASK.history)
    again = jax.jit(jax.vmap(ensemble))(windows.window)
    np.testing.assert_allclose(again.mean, run.column("estimate_mean"), atol=SAME)
    np.testing.assert_allclose(np.sqrt(again.variance), run.column("estimate_sigma"), atol=SAME)
    np.testing.assert_array_equal(windows.age, np.minimum(np.arange(100) + 1, TASK.history))
    assert 0.2 < windows.contact.mean() < 0.9
    assert windows.skipped == 0


def test_a_step_without_a_pose_gives_no_window_and_starts_anew(run):
    windows = windows_of_run(blind(run, {20, 21}), TASK.history)
    assert (windows.skipped, windows.t.size) == (2, 98)
    np.testing.assert_array_equal(windows.age[18:26], [10, 10, 1, 2, 3, 4, 5, 6])
    features = np.asarray(windows.window.features)
    np.testing.assert_array_equal(features[20, :-1], 0.0)
    np.testing.assert_array_equal(features[22, -1], features[23, -2])
    assert np.isfinite(features).all()


def test_steps_missing_from_a_log_start_the_window_anew(run):
    windows = windows_of_run(without(run, range(30, 34)), TASK.history)
    np.testing.assert_array_equal(windows.age[28:33], [10, 10, 1, 2, 3])


def marked(run: Run, causes: dict[int, tuple[str, ...]], **changes) -> Run:
    """What safety said in some steps; ``changes`` are of the steps that it held."""
    steps = (replace(s, safety=causes[s.step], **changes if causes[s.step][0] not in CLIPS else {})
             if s.step in causes else s for s in run.steps)  # fmt: skip
    return replace(run, steps=tuple(steps))


def test_held_steps_are_in_no_window_and_a_jump_starts_anew(run):
    causes = {15: ("workspace",), 20: ("stale",), 30: ("jump",)}
    elsewhere = {"object_pose": (0.1, 0.1, 2.0), "sent_action": (0.0, 0.0)}
    spoilt = marked(run, causes, **elsewhere)
    windows, whole = windows_of_run(spoilt, TASK.history), windows_of_run(run, TASK.history)
    assert (windows.skipped, windows.t.size) == (2, 98)
    np.testing.assert_array_equal(windows.age[18:23], 10)
    np.testing.assert_array_equal(windows.age[27:32], [10, 10, 1, 2, 3])
    found, clean = (np.asarray(w.window.features) for w in (windows, whole))
    np.testing.assert_array_equal(found[:20], clean[:20])
    np.testing.assert_array_equal(found[20, :-1], clean[19, 1:])  # as if 20 had never been
    actions = np.asarray(windows.window.actions)
    np.testing.assert_allclose(actions[20, -1], run.steps[19].sent_action, atol=SAME)
    np.testing.assert_array_equal(actions[29, -1], 0.0)  # nothing was sent before, as at a start
    np.testing.assert_allclose(actions[30, -1], run.steps[31].sent_action, atol=SAME)


def test_a_run_that_was_held_throughout_has_no_windows(run):
    windows = windows_of_run(marked(run, dict.fromkeys(range(100), ("stale",))), TASK.history)
    assert (windows.t.size, windows.skipped) == (0, 100)
    assert windows.window.features.shape[1] == TASK.history


def test_the_push_log_leaves_out_poses_that_were_held_and_parts_at_a_jump(run):
    touching = np.flatnonzero(windows_of_run(run, 2).contact)
    stale, jump = int(touching[3]), int(touching[8])
    spoilt = marked(run, {stale: ("stale",), jump: ("jump",)}, object_pose=(0.1, 0.1, 2.0))
    log, stamps = push_log(spoilt), run.column("pose_stamp_s")
    for step in (stale, jump):
        assert np.abs(log.t[log.observed] - stamps[step]).min() > SAME
    assert np.isclose(log.t[log.observed], stamps[stale - 1], atol=SAME).any()
    for push in log.pushes:
        t = log.t[log.rows(push)]
        assert t[-1] < stamps[jump] or t[0] >= stamps[jump] - SAME


def test_the_push_log_holds_the_measurements_at_their_own_times(run):
    log = push_log(run)
    assert (log.asset, log.tool_radius_m) == (TASK.object.name, TASK.pusher_radius_m)
    stamps = run.column("pose_stamp_s")
    for t, pose in zip(log.t[log.observed], log.object_pose[log.observed], strict=True):
        k = int(np.abs(stamps - t).argmin())
        assert stamps[k] == pytest.approx(t, abs=SAME)
        np.testing.assert_allclose(pose, run.steps[k].object_pose)
    at_step = np.isclose(log.t[:, None], run.column("stamp_s"), atol=SAME)
    rows, steps = np.nonzero(at_step)
    np.testing.assert_allclose(log.tool_xy[rows], run.column("ee_xy")[steps])
    assert check_log(log, TASK.object) == []


def test_the_tip_moves_straight_between_steps_and_not_over_holes(run):
    log = push_log(run)
    for push in log.pushes:
        assert np.diff(log.t[log.rows(push)]).max() <= FILL_S + SAME <= MAX_GAP_S
    period = TASK.control_period_s
    middle = START_S + period * np.arange(99) + 0.4 * period
    ee = run.column("ee_xy")
    for t, tool in zip(log.t, log.tool_xy, strict=True):
        k = np.flatnonzero(np.isclose(middle, t, atol=SAME))
        if k.size:
            np.testing.assert_allclose(tool, (0.6 * ee[k] + 0.4 * ee[k + 1])[0])
    touching = int(np.flatnonzero(windows_of_run(run, 2).contact)[3])
    holed = push_log(without(run, range(touching, touching + 4)))
    hole = START_S + period * np.array([touching - 0.9, touching + 3.9])
    assert not ((holed.t > hole[0]) & (holed.t < hole[1])).any()
    for push in holed.pushes:
        t = holed.t[holed.rows(push)]
        assert t[-1] < hole[0] + period or t[0] > hole[1] - period


def test_a_repeated_pose_is_one_observation(run):
    stuck = [replace(s, object_pose=run.steps[0].object_pose, pose_stamp_s=START_S - 0.05)
             if 10 < s.step < 14 else s for s in run.steps]  # fmt: skip
    log = push_log(replace(run, steps=tuple(stuck)))
    assert check_log(log) == []
    assert (log.t[log.observed] >= START_S).all()


def test_windows_from_the_push_log_are_much_like_those_of_the_run(run):
    """Another way to the same windows: resampled, and actions from what the tip did."""
    resampled = windows_of(push_log(run), TASK, max_gap_s=1.1 * TASK.control_period_s)
    exact = windows_of_run(run, TASK.history)
    ensemble = load_checkpoints(None, TASK, (METHOD,)).ensemble
    one, two = (jax.jit(jax.vmap(ensemble))(w.window) for w in (resampled, exact))
    assert np.isfinite(one.mean).all()
    assert np.abs(np.median(one.mean) - np.median(two.mean)) < SANE_M


def test_identification_from_a_run_is_as_good_as_it_says(run, tmp_path):
    write_run(tmp_path / "run", run)
    log = read_log(write_pushes(tmp_path / "run"), TASK.object)
    quick = SysidConfig(motion_sampler=SmcConfig(particles=96, moves=1, last_moves=2))
    posterior = Sysid(TASK.object, log.tool_radius_m, quick)(segments_of(log, TASK.object))
    truth = np.array([float(recorded().theta_true[0, 0]), 0.0])
    assert np.isfinite(np.asarray(posterior.com)).all()
    sigma = np.sqrt(np.diag(posterior.com_cov))
    assert (sigma < SANE_M).all()  # flat over the object it is 58 mm
    assert (np.abs(np.asarray(posterior.com_mean) - truth) < SIGMAS * sigma).all()


def test_a_header_without_asset_or_tool_means_the_tasks(run):
    bare = replace(run, header=replace(run.header, asset="", tool_radius_m=np.nan))
    assert tool_radius_of(bare) == TASK.pusher_radius_m
    assert push_log(bare).asset == "tblock"


def test_a_run_that_never_saw_the_object_or_never_touched_it_says_so(run):
    with pytest.raises(RunError, match="holds 0 poses of the object"):
        push_log(blind(run, range(100)))
    away = tuple(replace(s, ee_xy=(s.ee_xy[0] + 0.5, s.ee_xy[1])) for s in run.steps)
    with pytest.raises(RunError, match="never touched tblock; it stayed"):
        push_log(replace(run, steps=away))
