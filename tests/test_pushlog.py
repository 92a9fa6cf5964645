"""Push logs: round trips, errors that name row and column, resampling without invention."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2r_jax.pushlog import (
    LogError,
    PushLog,
    check_log,
    read_log,
    resample,
    split_by_contact,
    split_windows,
    tool_gap,
    write_log,
)
from p2r_jax.sim.asset import load_asset
from p2r_jax.sim.triangles import corner_to_object, triangle_101, triangle_150

RADIUS = 0.005
FORMATS = (".npz", ".csv", ".parquet")
TIP_MM = 2.0  # how far the CMU tip may end from the outline; the worst is 1.4


def make_log(pushes=3, rows=20, rate_hz=20.0, observed="ends") -> PushLog:
    """A disc that pushes the triangle's vertical leg along +x; the triangle follows."""
    legs = 0.075
    t = np.arange(rows) / rate_hz
    push, times, pose, tool = [], [], [], []
    for k in range(pushes):
        x = 0.5 + 0.1 * k - legs - RADIUS - 0.002 + 0.02 * t
        moved = np.maximum(0.02 * t - 0.002, 0.0)
        full = np.column_stack([0.5 + 0.1 * k + moved, np.full(rows, 0.1), np.zeros(rows)])
        if observed == "ends":
            full[1:-1] = np.nan
        push.append(np.full(rows, k))
        times.append(t)
        pose.append(full)
        tool.append(np.column_stack([x, np.full(rows, 0.06)]))
    return PushLog(
        "made", "triangle_150", RADIUS, np.concatenate(push), np.concatenate(times),
        np.concatenate(pose), np.concatenate(tool),
    )  # fmt: skip


def changed(log: PushLog, field: str, row: int, value, column: int | None = None) -> PushLog:
    array = getattr(log, field).copy()
    array[row if column is None else (row, column)] = value
    return replace(log, **{field: array})


def written(tmp_path, log: PushLog, suffix=".npz") -> Path:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="parquet logs need pyarrow")
    file = tmp_path / f"log{suffix}"
    write_log(file, log)
    return file


@pytest.fixture(scope="module")
def asset():
    return triangle_150()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_log_survives_every_format(tmp_path, suffix):
    log = make_log()
    log = replace(log, force_xy=np.random.default_rng(0).normal(size=(log.t.size, 2)))
    again = read_log(written(tmp_path, log, suffix))
    assert (again.name, again.asset, again.tool_radius_m) == ("made", "triangle_150", RADIUS)
    for field in ("push", "t", "object_pose", "tool_xy", "force_xy"):
        np.testing.assert_array_equal(getattr(again, field), getattr(log, field))


def test_a_csv_needs_only_the_documented_columns_in_any_order(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "tool_y,tool_x,t,object_x,object_y,object_yaw,comment\n"
        "0.0,-0.1,0.0,0.0,0.0,0.0,start\n"
        "0.0,-0.09,0.1,,,,\n"
        "0.0,-0.08,0.2,0.01,0.0,0.1,end\n"
    )
    log = read_log(file)
    assert (log.name, log.asset, log.tool_radius_m, log.force_xy) == ("mine", None, None, None)
    assert log.push.tolist() == [0, 0, 0]
    assert log.observed.tolist() == [True, False, True]
    np.testing.assert_allclose(log.poses_after(), [[0.01, 0.0, 0.1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,object_x,object_y,tool_x,tool_y\n0,0,0,0,0\n", r"missing column object_yaw"),
        ("t,object_x,object_y,object_yaw,tool_x,tool_y\n0,0,0,0,zero,0\n",
         r"row 0, column tool_x: 'zero' is not a number"),
        ("t,object_x,object_y,object_yaw,tool_x,tool_y\n0,0,0,0,0\n", r"row 0 has 5 cells"),
        ("", r"the file is empty"),
        ("# tool_radius_m = thin\nt,object_x,object_y,object_yaw,tool_x,tool_y\n0,0,0,0,0,0\n",
         r"tool_radius_m is 'thin'"),
        ("t,object_x,object_y,object_yaw,tool_x,tool_y,force_x\n0,0,0,0,0,0,0\n",
         r"missing column force_y"),
        ("t,object_x,object_y,object_yaw,tool_x,tool_y\n0,0,0,0,0,0\n",
         r"rows 0 to 0, .*: 1 complete; a push needs a pose before and a pose after"),
        ("t,object_x,object_y,object_yaw,tool_x,tool_y,push\n0,0,0,0,0,0,0.5\n",
         r"row 0, column push: 0.5 is not a whole number"),
    ],
)  # fmt: skip
def test_a_malformed_csv_is_refused_with_its_place(tmp_path, text, message):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(LogError, match=message) as error:
        read_log(file)
    assert str(file) in str(error.value)


def test_unknown_endings_and_absent_files_are_named(tmp_path):
    with pytest.raises(LogError, match=r"\.npz, \.parquet, \.csv; \.txt is not known"):
        read_log(tmp_path / "log.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no log"):
        read_log(tmp_path / "log.npz")
    (tmp_path / "log.npz").write_bytes(b"no zip")
    with pytest.raises(LogError, match=r"not a readable \.npz"):
        read_log(tmp_path / "log.npz")


BAD = {
    "clock backwards": (lambda g: changed(g, "t", 25, 0.05), r"row 25, column t: .*backwards"),
    "clock repeats": (lambda g: changed(g, "t", 25, g.t[24]), r"row 25, column t: .*repeats"),
    "no clock": (lambda g: changed(g, "t", 25, np.nan), r"row 25, column t: not a number"),
    "tool missing": (lambda g: changed(g, "tool_xy", 25, np.nan, 1), r"row 25, column tool_y"),
    "object infinite": (lambda g: changed(g, "object_pose", 20, np.inf, 0),
                        r"row 20, column object_x: not a number"),
    "tool jumps": (lambda g: changed(g, "tool_xy", 25, 0.3, 0),
                   r"row 25, column tool_x: a jump of .* mm in 50 ms \(over 2 m/s\)"),
    "never observed": (lambda g: replace(g, object_pose=np.where((g.push == 1)[:, None], np.nan,
                                                                 g.object_pose)),
                       r"rows 20 to 39, columns object_x, .*: 0 complete; a push needs"),
    "never touches": (lambda g: replace(g, tool_xy=g.tool_xy - 0.05 * (g.push == 1)[:, None]),
                      r"rows 20 to 39, columns tool_x, tool_y: the tool never touches"),
    "inside": (lambda g: replace(g, tool_xy=g.tool_xy + [0.03, 0] * (g.push == 1)[:, None]),
               r"row 20, .*: the tool is 28 mm inside triangle_150 at the start"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_push_is_refused_or_left_out_with_its_reason(tmp_path, asset, name):
    spoil, message = BAD[name]
    file = written(tmp_path, spoil(make_log()))
    with pytest.raises(LogError, match=message):
        read_log(file, asset)
    kept = read_log(file, asset, on_bad="exclude")
    assert kept.pushes.tolist() == [0, 2]
    (left_out,) = kept.excluded
    assert left_out.push == 1
    with pytest.raises(LogError, match=message):
        raise LogError(left_out.reason)


@pytest.mark.parametrize("column", [0, 2])
def test_an_object_that_jumps_is_refused(asset, column):
    log = make_log(observed="always")
    log = changed(log, "object_pose", 25, log.object_pose[25, column] + 1.5, column)
    name = ("object_x", "object_y", "object_yaw")[column]
    (problem,) = check_log(log)
    assert problem.push == 1
    assert f"row 25, column {name}: a jump" in problem.message


def test_a_yaw_that_wraps_is_no_jump_and_comes_back_unwrapped(tmp_path):
    log = make_log(pushes=1, observed="always")
    yaw = 3.1 + 0.01 * np.arange(log.t.size)
    pose = np.column_stack([log.object_pose[:, :2], (yaw + np.pi) % (2 * np.pi) - np.pi])
    again = read_log(written(tmp_path, replace(log, object_pose=pose)))
    np.testing.assert_allclose(again.object_pose[:, 2], yaw, atol=1e-12)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: replace(g, object_pose=g.object_pose * [1000, 1000, 1],
                           tool_xy=g.tool_xy * 1000), r"column object_x.*millimetres"),
        (lambda g: replace(g, tool_xy=g.tool_xy * 1000), r"column tool_x.*millimetres"),
        (lambda g: replace(g, object_pose=g.object_pose + np.array([0, 0, 137.0])),
         r"row 0, column object_yaw: 137 rad; is this in degrees"),
        (lambda g: replace(g, push=np.where(g.push == 2, 0, g.push)),
         r"row 40, column push: push 0 comes back"),
        (lambda g: replace(g, tool_xy=g.tool_xy * np.nan), r"column tool_x holds no number"),
        (lambda g: replace(g, object_pose=g.object_pose * np.nan), r"hold no complete row"),
        (lambda g: g.take(slice(0, 0)), r"it has no rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_whole_log_is_never_excluded(tmp_path, spoil, message):
    file = written(tmp_path, spoil(make_log()))
    for on_bad in ("raise", "exclude"):
        with pytest.raises(LogError, match=message):
            read_log(file, on_bad=on_bad)


def test_a_short_push_in_millimetres_is_recognised_by_its_distance():
    log = make_log(pushes=1)
    local = replace(
        log, object_pose=(log.object_pose - [0.5, 0.1, 0]) * [1000, 1000, 1],
        tool_xy=(log.tool_xy - [0.5, 0.1]) * 1000,
    )  # fmt: skip
    (problem,) = check_log(local)
    assert "never comes nearer than" in problem.message


def test_a_log_of_bad_pushes_only_says_so(tmp_path, asset):
    file = written(tmp_path, replace(make_log(), tool_xy=make_log().tool_xy - 0.2))
    with pytest.raises(LogError, match=r"all 3 pushes are bad; push 0: .*never touches"):
        read_log(file, asset, on_bad="exclude")


def test_streams_of_two_rates_may_be_interleaved(tmp_path):
    t_tool, t_object = np.arange(0, 1, 0.03), np.arange(0.005, 0.95, 0.017)
    t = np.sort(np.concatenate([t_tool, t_object]))
    is_tool = np.isin(t, t_tool)
    tool = np.where(is_tool[:, None], np.column_stack([0.1 * t, 0.2 * t]), np.nan)
    pose = np.where(is_tool[:, None], np.nan, np.column_stack([t, t, t]))
    log = PushLog("two", None, None, np.zeros(t.size, int), t, pose, tool)
    again = read_log(written(tmp_path, log))
    np.testing.assert_allclose(again.tool_xy, np.column_stack([0.1 * t, 0.2 * t]), atol=1e-12)
    silent = replace(log, tool_xy=np.where((np.abs(t - 0.5) < 0.2)[:, None], np.nan, tool))
    with pytest.raises(LogError, match=r"column tool_x: not a number"):
        read_log(written(tmp_path, silent))


def test_resampling_equals_interpolation_row_by_row():
    log = make_log(pushes=2, observed="always")
    log = replace(log, force_xy=log.tool_xy * 3)
    period = 0.03
    regular = resample(log, period)
    for push in log.pushes:
        old, new = log.take(log.rows(push)), regular.take(regular.rows(push))
        np.testing.assert_allclose(np.diff(new.t), period)
        assert 0 <= new.t[-1] - old.t[-1] < period
        for i, t in enumerate(new.t):
            at = min(t, old.t[-1])
            for a, b in ((old.object_pose, new.object_pose), (old.tool_xy, new.tool_xy),
                         (old.force_xy, new.force_xy)):  # fmt: skip
                expected = [np.interp(at, old.t, a[:, c]) for c in range(a.shape[1])]
                np.testing.assert_allclose(b[i], expected, atol=1e-12)


def test_resampling_invents_nothing_inside_gaps():
    regular = resample(make_log(pushes=1), 0.1)
    assert regular.observed.tolist() == [True] + [False] * 9 + [True]
    np.testing.assert_allclose(regular.poses_after(), make_log(pushes=1).poses_after())


def test_resampling_refuses_a_tool_that_moved_unseen():
    log = make_log(pushes=1)
    with pytest.raises(LogError, match=r"push 0: tool_x, tool_y are not recorded for 0\.65 s"):
        resample(log.take(np.r_[0:4, 16:20]), 0.1)
    with pytest.raises(ValueError, match="must be positive"):
        resample(log, 0.0)


def test_a_continuous_log_is_split_by_contact_or_into_windows(asset):
    log = make_log(pushes=1, rows=60, observed="always")
    away = replace(log, tool_xy=log.tool_xy - [0.1, 0.0], t=log.t + 3.0)
    later = replace(log, t=log.t + 6.0)
    whole = replace(
        log, push=np.zeros(180, int), t=np.concatenate([log.t, away.t, later.t]),
        object_pose=np.tile(log.object_pose, (3, 1)),
        tool_xy=np.concatenate([log.tool_xy, away.tool_xy, later.tool_xy]),
    )  # fmt: skip
    gap = tool_gap(asset, whole.object_pose, whole.tool_xy, RADIUS)
    pushes = split_by_contact(whole, gap)
    assert pushes.pushes.tolist() == [0, 1]
    assert pushes.t[pushes.rows(1)][0] >= 5.5
    windows = split_windows(whole, 1.0)
    assert len(windows.pushes) == 9
    assert max(np.ptp(windows.t[windows.rows(p)]) for p in windows.pushes) <= 1.0


def test_selecting_pushes_keeps_their_rows_together():
    log = make_log()
    picked = log.select([2, 0])
    assert picked.pushes.tolist() == [2, 0]
    np.testing.assert_array_equal(picked.poses_before()[0], log.poses_before()[2])
    with pytest.raises(KeyError, match="made has no push 7"):
        log.rows(7)


@pytest.mark.parametrize("make", [triangle_150, triangle_101])
def test_the_shipped_triangles_are_what_their_functions_say(make):
    assert load_asset(make().name) == make()
    np.testing.assert_allclose(make().uniform_com, make().com_m[:2], atol=1e-9)


def test_corner_and_object_frame_differ_by_half_a_leg():
    pose = corner_to_object(np.array([[1.0, 2.0, np.pi / 2]]), (0.150, 0.150))
    np.testing.assert_allclose(pose, [[0.925, 2.075, np.pi / 2]])


def _cmu():
    file = Path(__file__).parents[1] / "experiments" / "cmu_pushes.py"
    spec = importlib.util.spec_from_file_location("cmu_pushes", file)
    module = sys.modules["cmu_pushes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.DATA.is_dir():
        pytest.skip(f"the CMU pushes are not at {module.DATA}")
    return module


def test_cmu_pushes_convert_with_the_tip_on_the_outline_and_forces_that_push(asset):
    cmu = _cmu()
    for name, condition in cmu.CONDITIONS.items():
        log = cmu.load_condition(name)
        assert len(log.pushes) == 50
        assert check_log(log, asset) == []
        ends = np.array([log.rows(p).stop - 1 for p in log.pushes])
        gap = tool_gap(asset, log.object_pose[ends], log.tool_xy[ends], log.tool_radius_m)
        assert np.abs(gap).max() < TIP_MM / 1000
        power = [np.sum(log.force_xy[log.rows(p)][1:] * np.diff(log.tool_xy[log.rows(p)], axis=0))
                 for p in log.pushes]  # fmt: skip
        assert min(power) > 0
        assert condition.support().shape[1] == 2


def test_cmu_continuous_runs_convert_with_the_tool_at_the_edge():
    cmu = _cmu()
    small = triangle_101()
    for name in cmu.CONTINUOUS:
        log = cmu.load_continuous(name)
        assert check_log(log, small) == [], name
        pressed = (np.linalg.norm(log.force_xy, axis=1) > 0.25) & log.observed
        assert pressed.sum() > 30
        gap = tool_gap(small, log.object_pose, log.tool_xy, log.tool_radius_m)
        assert abs(np.median(gap[pressed])) < 0.004
