"""Figures and videos: written, not blank, the right number of frames."""

import os
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from p2r_jax.evaluation import figures, offscreen, video
from p2r_jax.evaluation.methods import METHODS
from p2r_jax.evaluation.motion import Motion
from p2r_jax.sim.footprint import Box
from p2r_jax.types import Gaussian

GOAL = np.array([0.30, -0.20, 0.0])
SMALL = (320, 240)


@pytest.fixture
def episode():
    """Poses and pusher of a smooth made-up episode of 20 actions."""
    s = np.linspace(0, 1, 21)
    poses = np.stack([0.3 + 0.05 * np.sin(np.pi * s), 0.2 - 0.4 * s, np.pi * (1 - s)], -1)
    return poses, poses[:, :2] + np.array([0.02, 0.12])


def assert_drawn(path, least_colors=50):
    """A picture of a sensible size that holds more than a background."""
    image = np.asarray(Image.open(path).convert("RGB"))
    assert min(image.shape[:2]) >= 400
    assert len(np.unique(image.reshape(-1, 3), axis=0)) >= least_colors
    assert 0.005 < np.mean(image.min(-1) < 250) < 0.9
    return image


def decode(path):
    """Frames of a video, Uint8[F, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_theta_figure_shows_beliefs_of_any_width(tmp_path):
    time = np.arange(30.0)
    estimate = Gaussian(0.02 + 0.001 * time, np.full(30, 0.02**2))
    prior = Gaussian(np.array(0.04), np.array(0.014**2))
    nothing = Gaussian(np.array(0.04), np.array(np.inf))
    for name, belief in (("informed", prior), ("uninformed", nothing)):
        path = tmp_path / f"{name}.png"
        figures.theta_figure(path, time, 0.06, belief, estimate, prior, time > 10)
        assert_drawn(path)


def test_success_figure_has_one_panel_per_condition_and_takes_unknown_methods(tmp_path):
    met = np.random.default_rng(0).random((20, 1)) < np.linspace(0, 1, 31)
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    figures.success_figure(one, {"top": {"fused": met, "mine": ~met}})
    figures.success_figure(two, {"top": {"fused": met}, "bottom": {"fused": met, "dr": met}})
    assert assert_drawn(two).shape[1] > assert_drawn(one).shape[1]


def test_every_method_has_a_style_of_its_own():
    styles = [figures.METHOD_STYLES[name] for name in METHODS]
    assert (
        len({(s.color, s.dash) for s in styles}) == len({s.label for s in styles}) == len(METHODS)
    )


def test_overlay_figure_shows_the_episode(tmp_path, task, episode):
    path = tmp_path / "overlay.png"
    figures.overlay_figure(path, *episode, task.object, GOAL, com_object_m=np.array([0.06, 0.0]))
    assert_drawn(path)


def signed_area(outline):
    """Shoelace over the loops: outer ones count, holes are taken off."""
    loops = [np.array(loop).T for loop in outline.to_polygons()]
    return sum(0.5 * (x[:-1] @ y[1:] - x[1:] @ y[:-1]) for x, y in loops)


def test_object_outline_is_the_union_of_the_parts(task):
    outline = figures.object_outline(task.object)
    corners = {tuple(v) for v in np.round(outline.vertices, 4)}
    assert {(0.1, 0.1), (0.1, -0.1), (0.0524, 0.025), (-0.1, 0.025)} <= corners
    assert signed_area(outline) == pytest.approx(task.object.area)


def test_object_outline_keeps_holes_and_parts_that_touch_in_a_corner(task):
    sides = [Box((x, 0.0), (0.01, 0.1)) for x in (-0.09, 0.09)]
    bars = [Box((0.0, y), (0.08, 0.01)) for y in (-0.09, 0.09)]
    corner = [Box((0.12, 0.12), (0.02, 0.02))]
    odd = replace(task.object, parts=(*sides, *bars, *corner))
    outline = figures.object_outline(odd)
    assert len(outline.to_polygons()) >= 2
    assert signed_area(outline) == pytest.approx(odd.area)


def test_motion_turns_the_short_way_and_holds_theta_between_actions():
    poses = np.array([[0.0, 0.0, 3.1], [1.0, 0.0, -3.1]])
    film = Motion(poses, poses[:, :2], np.array([0.04])).resample(np.array([0.0, 0.5, 1.0]))
    assert np.cos(film.poses[1, 2]) == pytest.approx(-1.0)
    assert film.poses[1, 0] == pytest.approx(0.5)
    assert film.theta_told.tolist() == [0.04, 0.04, 0.04]


def test_top_view_decodes_to_every_frame(tmp_path, task, episode, capsys):
    path = tmp_path / "episode.mp4"
    used = video.render_video(
        path, task.object, *episode, GOAL, fps=10, speed=5, caption=("fused", "top"),
        theta_told=np.full(20, 0.04), theta_truth=0.06, size=SMALL, renderer=video.TOP_VIEW,
    )  # fmt: skip
    frames = decode(path)
    assert frames.shape == (41, SMALL[1], SMALL[0], 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 60
    assert used == "top-view"
    assert "41 frames, drawn with top-view" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["episode.mp4"]


def test_mujoco_film_where_opengl_works(tmp_path, task, episode, capsys):
    backend = offscreen.working_backend()
    if backend is None:
        pytest.skip(capsys.readouterr().out.strip() or "no OpenGL here, tried earlier")
    path = tmp_path / "episode.mp4"
    options = {"fps": 2, "speed": 8, "size": SMALL, "theta_told": np.full(20, 0.04)}
    assert video.render_video(path, task.object, *episode, GOAL, **options) == backend
    frames = decode(path)
    assert len(frames) == 6
    assert frames[0].std() > 10
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 60


def test_without_opengl_the_reason_is_printed_and_a_top_view_drawn(
    tmp_path, task, episode, capsys, monkeypatch
):
    monkeypatch.setattr(offscreen, "BACKENDS", ("nonsense",))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    offscreen.working_backend.cache_clear()
    try:
        options = {"fps": 2, "speed": 8, "size": SMALL}
        used = video.render_video(tmp_path / "a.mp4", task.object, *episode, GOAL, **options)
    finally:
        offscreen.working_backend.cache_clear()
    printed = capsys.readouterr().out
    assert used == video.TOP_VIEW
    assert "nonsense: " in printed
    assert "2-D top view" in printed


def test_a_named_backend_that_fails_is_an_error(tmp_path, task, episode):
    with pytest.raises(offscreen.RenderError, match="MUJOCO_GL"):
        video.render_video(tmp_path / "a.mp4", task.object, *episode, GOAL, renderer="nonsense")
    assert os.listdir(tmp_path) == []


def test_importing_the_film_room_leaves_the_environment_alone():
    code = (
        "import os; before = dict(os.environ); import p2r_jax.evaluation.video; "
        "import sys; sys.exit(dict(os.environ) != before)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
