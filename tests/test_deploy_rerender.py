"""A run drawn again from its log: what the pictures show, and logs with holes in them."""

import importlib
import math
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from test_deploy_record import PERIOD, header, step, write

from p2r_jax.deploy.record import RunError, open_run, read_run
from p2r_jax.deploy.rerender import (
    HEAD_PX,
    MAP_PX,
    PANEL_PX,
    RerenderConfig,
    describe,
    film_frames,
    rerender,
    run_figure,
    theta_label,
)
from p2r_jax.deploy.top_view import OBJECT, SMOOTH, TopView, placed, places

COUNT = 30
PIXELS = 3.0  # how well a disc's centre is found in a picture


def moving(k: int, **changes):
    """The object slides along +y, the tip behind it."""
    at = {"object_pose": (0.6, -0.2 + 0.01 * k, 0.02 * k), "ee_xy": (0.6, -0.35 + 0.01 * k),
          "estimate_sigma": (0.02,), "safety": ()}  # fmt: skip
    return step(k, **(at | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rerender") / "run"
    write(path, [moving(k, safety=("step limit",) if k == 7 else ()) for k in range(COUNT)])
    return path


@pytest.fixture(scope="module")
def run(folder):
    return read_run(folder)


def frames_at(run, *times):
    return list(film_frames(run, np.array(times), 1.0))


def centre_of(picture, color, tolerance=40):
    """Mean column and row of the pixels of a colour."""
    away = np.abs(picture.astype(int) - np.array(color[:3])).max(-1)
    rows, columns = np.nonzero(away < tolerance)
    return np.array([columns.mean(), rows.mean()])


def test_a_run_becomes_a_picture_and_a_video(folder, tmp_path, capsys):
    out = rerender(RerenderConfig(folder, tmp_path / "out", speed=2.0, fps=10))
    assert {p.name for p in out.iterdir()} == {"run.png", "run.mp4"}
    with av.open(str(out / "run.mp4")) as film:
        count = sum(1 for _ in film.decode(video=0))
        size = film.streams.video[0].width, film.streams.video[0].height
    assert count == int((COUNT - 1) * PERIOD / 2.0 * 10) + 1
    assert size == (MAP_PX[0] + PANEL_PX[0], MAP_PX[1] + HEAD_PX)
    said = capsys.readouterr().out
    assert f"{COUNT} steps in {PERIOD * (COUNT - 1):.1f} s, {1 / PERIOD:.2f} Hz" in said
    assert "safety: 1 steps (step limit)" in said


def test_the_pictures_land_beside_the_log(folder):
    assert rerender(RerenderConfig(folder, video=False)) == folder / "replay"
    with pytest.raises(FileExistsError, match="--overwrite"):
        rerender(RerenderConfig(folder, video=False))
    rerender(RerenderConfig(folder, video=False, overwrite=True))


def test_x_points_up_and_y_to_the_left():
    view = TopView(header(), (320, 240), np.zeros((0, 2)))
    (c, r), (up_c, up_r), (left_c, left_r) = view.pixels(
        np.array([[0.5, 0.0], [0.6, 0.0], [0.5, 0.1]])
    )
    assert (up_c, left_r) == (c, r)
    assert up_r < r
    assert left_c < c
    assert r - up_r == pytest.approx(c - left_c)


def test_the_object_is_drawn_where_it_was():
    view = TopView(header(), (320, 240), np.zeros((0, 2)))
    pose, nothing = (0.4, 0.2, 0.3), (math.nan, math.nan)
    picture = view.frame(pose, nothing, np.zeros((0, 2)))
    wanted = np.array(view.pixels(np.array([pose[:2]]))[0]) / SMOOTH
    np.testing.assert_allclose(centre_of(picture, OBJECT), wanted, atol=PIXELS)


def test_between_two_steps_the_object_is_between_them(run):
    last = PERIOD * (COUNT - 1)
    maps = [frame[:, : MAP_PX[0]] for frame in frames_at(run, 0.0, last / 2, last)]
    early, middle, late = (centre_of(picture, OBJECT)[0] for picture in maps)
    assert early > middle > late  # +y is to the left
    assert middle == pytest.approx((early + late) / 2, abs=PIXELS)


def test_the_cursor_moves_over_the_panel(run):
    frames = frames_at(run, 0.2, 1.0)
    differ = np.nonzero((frames[0] != frames[1])[HEAD_PX + 60 :, MAP_PX[0] :].any((0, 2)))[0]
    assert differ.min() < PANEL_PX[0] / 2 < differ.max()


def test_a_step_that_safety_changed_is_labelled(run):
    calm, clipped = frames_at(run, 6 * PERIOD, 7 * PERIOD)
    label = np.s_[HEAD_PX : HEAD_PX + 40, : MAP_PX[0]]
    red = [((f[label][..., 0] > 150) & (f[label][..., 1] < 90)).sum() for f in (calm, clipped)]
    assert red[0] == 0 < red[1]


def test_a_run_that_lost_sight_of_the_object_is_drawn_without_it(run, tmp_path):
    lost = {"object_pose": (math.nan,) * 3, "fused_mean": (math.nan,), "fused_sigma": (math.nan,)}
    for rows in (range(10, 20), range(COUNT)):
        holed = replace(run, steps=tuple(
            replace(s, **lost) if s.step in rows else s for s in run.steps
        ))  # fmt: skip
        run_figure(holed, tmp_path / "run.png")
        (hidden,) = frames_at(holed, 15 * PERIOD)
        with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
            assert np.isnan(centre_of(hidden[:, : MAP_PX[0]], OBJECT)).all()
    assert (tmp_path / "run.png").stat().st_size > 5000


def test_a_run_of_one_step_and_two_components_of_theta_is_drawn(tmp_path):
    two = {f"{who}_{what}": (0.01, 0.02) for who in ("prior", "estimate", "fused")
           for what in ("mean", "sigma")}  # fmt: skip
    folder = tmp_path / "run"
    writer = open_run(folder, header(theta=("com_object_x", "friction")))
    writer.step(moving(0, theta_used=(0.0, 0.3), **two))
    writer.close("stopped by the operator")
    out = rerender(RerenderConfig(folder))
    assert (out / "run.mp4").stat().st_size > 0
    assert "ended: stopped by the operator" in describe(read_run(folder))


def test_a_run_without_a_step_is_refused(tmp_path):
    write(tmp_path / "run", [], "robot lost")
    with pytest.raises(RunError, match=r"holds no step \(it ended: robot lost\)"):
        rerender(RerenderConfig(tmp_path / "run"))


@pytest.mark.parametrize("change", [{"speed": 0.0}, {"fps": -1}])
def test_a_speed_that_cannot_be_is_refused(folder, tmp_path, change):
    with pytest.raises(ValueError, match="must be above zero"):
        rerender(RerenderConfig(folder, tmp_path / "out", **change))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "p2r_jax.deploy.rerender")
    with pytest.raises(ImportError, match=r"pip install 'p2r_jax\[viz\]'"):
        importlib.import_module("p2r_jax.deploy.rerender")


def test_components_are_named_with_their_units():
    assert theta_label("com_object_y") == ("centre of mass y", 100.0, "cm")
    assert theta_label("friction") == ("friction", 1.0, "")


def test_an_outline_is_turned_then_moved():
    corners = placed(np.array([[1.0, 0.0]]), (2.0, 3.0, math.pi / 2))
    np.testing.assert_allclose(corners, [[2.0, 4.0]], atol=1e-12)
    both = places([[1.0, 0.0]], np.array([[0.0, 0.0, 0.0]]), np.array([[5.0, 5.0]]))
    np.testing.assert_allclose(both, [[5.0, 5.0], [1.0, 0.0]])
