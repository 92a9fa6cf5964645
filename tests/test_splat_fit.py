"""The splat step on tiny captures: files, scores, going on after Ctrl-C, bad input."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from p2r_jax.files import save_pytree
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.splat import fit
from p2r_jax.real2sim.splat.backends import JaxBackend, Progress
from p2r_jax.real2sim.splat.crops import crop_views, point_colours
from p2r_jax.real2sim.splat.fit import SplatConfig, fit_splat, split_views
from p2r_jax.real2sim.splat.optimise import OptimiserConfig
from p2r_jax.real2sim.splat.ply import read_ply
from p2r_jax.real2sim.views import View

SIDE, RADIUS = 40, 0.05
QUICK = OptimiserConfig(colours=0.1)
TINY = SplatConfig(
    size=24, gaussians=150, iterations=60, hold_out=4, degree=0, preview_every=20, optimiser=QUICK
)


def looking_at(eye):
    forward = -np.asarray(eye, float) / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    T[:3, 3] = -T[:3, :3] @ eye
    return T


def film_ball(folder, count=8):
    """A ball, one half red and one half blue, before a green wall, ray by ray."""
    views = []
    K = np.array([[80.0, 0, SIDE / 2], [0, 80.0, SIDE / 2], [0, 0, 1]])
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    for i in range(count):
        eye = 0.3 * np.array([np.cos(0.8 * i), np.sin(0.8 * i), 0.5 * np.cos(1.7 * i)])
        T = looking_at(eye)
        d = rays @ T[:3, :3] / np.linalg.norm(rays, axis=-1, keepdims=True)
        b = d @ eye
        inside = b**2 - eye @ eye + RADIUS**2
        hit = eye + (-b - np.sqrt(np.maximum(inside, 0)))[..., None] * d
        rgb = np.where(hit[..., :1] > 0, [220, 30, 30], [30, 30, 220])
        rgb = np.where(inside[..., None] > 0, rgb, [20, 240, 20]).astype(np.uint8)
        paths = [folder / f"{kind}{i}.png" for kind in ("image", "mask")]
        Image.fromarray(rgb).save(paths[0])
        Image.fromarray(np.where(inside > 0, 255, 0).astype(np.uint8)).save(paths[1])
        views.append(View(f"{i:04d}", SIDE, SIDE, K, T, *paths))
    return views


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    x = np.random.default_rng(0).normal(size=(500, 3))
    points = RADIUS * x / np.linalg.norm(x, axis=1, keepdims=True)
    return film_ball(tmp_path_factory.mktemp("ball")), points


@pytest.fixture(scope="module")
def fitted(ball, tmp_path_factory):
    out = tmp_path_factory.mktemp("fit")
    return fit_splat(*ball, TINY, out), out


def test_a_fit_renders_views_that_it_never_saw(fitted):
    result, _ = fitted
    assert [score.view for score in result.held_out] == ["0002", "0006"]
    assert min(score.psnr_crop_db for score in result.held_out) > 15
    assert min(score.mask_iou for score in result.held_out) > 0.85
    assert all(score.psnr_crop_db > score.psnr_db for score in result.held_out)


def test_a_fit_leaves_splat_pictures_and_a_record_and_no_checkpoint(fitted):
    result, out = fitted
    record = json.loads((out / "splat.json").read_text())
    assert record["schema"] == 1
    assert record["psnr_db"] == pytest.approx(result.psnr_db)
    assert record["dropped_pairs"] == 0
    assert {"versions", "git", "device"} <= set(record["provenance"])
    assert record["settings"]["gaussians"] == 150
    np.testing.assert_array_equal(read_ply(result.ply).means, result.splat.means)
    for name in ("0002", "0006"):
        assert Image.open(out / "heldout" / f"{name}.png").size == (2 * TINY.size, TINY.size)
    assert Image.open(out / "preview.png").size == (2 * TINY.size, 2 * TINY.size)
    assert not (out / "checkpoint.msgpack").exists()


def interrupted(monkeypatch, after):
    """Ctrl-C arrives once so many strides are done."""
    done, advance = [], JaxBackend.advance

    def press(self, *arguments):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return advance(self, *arguments)

    monkeypatch.setattr(JaxBackend, "advance", press)


def test_a_fit_goes_on_exactly_after_ctrl_c(ball, fitted, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, after=1)
        with pytest.raises(KeyboardInterrupt):
            fit_splat(*ball, TINY, tmp_path)
    assert (tmp_path / "checkpoint.msgpack").exists()
    assert not (tmp_path / "splat.json").exists()
    again = fit_splat(*ball, TINY, tmp_path)
    for ours, theirs in zip(*map(jax.tree.leaves, (again.splat, fitted[0].splat)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_fit_starts_anew_and_says_why(ball, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupted(patch, after=1)
        (tmp_path / "splat.json").write_text("{}")  # an older fit's
        with pytest.raises(KeyboardInterrupt):
            fit_splat(*ball, TINY, tmp_path)
    assert not (tmp_path / "splat.json").exists()
    other = replace(TINY, seed=1)
    again = fit_splat(*ball, other, tmp_path)
    assert "starts anew" in "".join(capsys.readouterr())
    straight = fit_splat(*ball, other, tmp_path / "straight")
    np.testing.assert_array_equal(again.splat.means, straight.splat.means)


def test_a_damaged_checkpoint_is_named(ball, tmp_path, monkeypatch):
    interrupted(monkeypatch, after=0)
    with pytest.raises(KeyboardInterrupt):
        fit_splat(*ball, TINY, tmp_path)
    save_pytree(tmp_path / "checkpoint.msgpack", {"means": np.zeros(3)})
    with pytest.raises(ValueError, match=r"checkpoint\.msgpack does not fit"):
        fit_splat(*ball, TINY, tmp_path)


def test_a_crop_shows_the_object_where_its_camera_says(ball):
    views, _ = ball
    crops = crop_views(views, 64)
    for crop in (crops[i] for i in range(len(views))):
        mask = np.asarray(crop.mask)
        rows, columns = (mask.sum(axis) @ (np.arange(64) + 0.5) / mask.sum() for axis in (1, 0))
        centre = np.asarray(crop.camera.T_camera_world[:3, 3])
        u, v = (np.asarray(crop.K) @ (centre / centre[2]))[:2]
        np.testing.assert_allclose([columns, rows], [u, v], atol=0.4)
        assert float(np.asarray(crop.rgb)[mask > 0.99][:, 1].max()) < 0.3  # no wall in the object
        assert float(np.asarray(crop.rgb)[mask == 0].max()) < 0.05  # ringing of the filter


def test_a_small_crop_averages_instead_of_skipping_pixels(ball, tmp_path):
    views, _ = ball
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(tmp_path / "n.png")
    noisy = [replace(views[0], image=tmp_path / "n.png")]
    large, small = (crop_views(noisy, size)[0] for size in (64, 6))
    spread = [np.asarray(c.rgb)[np.asarray(c.mask) > 0.99].std() for c in (large, small)]
    assert spread[1] < 0.6 * spread[0]


def test_points_take_the_colours_they_are_seen_in(ball):
    views, _ = ball
    near = point_colours(np.array([[0.04, 0, 0], [-0.04, 0, 0], [9.0, 9.0, 9.0]]), views)
    assert near[0, 0] > near[0, 2]
    assert near[1, 2] > near[1, 0]
    np.testing.assert_allclose(near[2], 0.5)


def test_an_empty_mask_is_named(ball, tmp_path):
    views, points = ball
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "empty.png")
    views = [replace(views[0], mask=tmp_path / "empty.png"), *views[1:]]
    with pytest.raises(CaptureError, match=r"the mask is empty.*\[0000\]"):
        fit_splat(views, points, TINY, tmp_path / "out")


def test_a_view_whose_pose_is_wrong_is_named(ball, tmp_path):
    views, points = ball
    away = views[5].T_camera_world.copy()
    away[0, 3] += 0.2
    views = [*views[:5], replace(views[5], T_camera_world=away), *views[6:]]
    with pytest.raises(CaptureError, match=r"in 1 of 8 views .* outside its mask.*\[0005\]"):
        fit_splat(views, points, TINY, tmp_path)
    with pytest.raises(ValueError, match="points of the surface are not all finite"):
        fit_splat(views, points * np.nan, TINY, tmp_path)


def test_a_fit_that_diverges_says_so(ball, tmp_path, monkeypatch):
    monkeypatch.setattr(
        JaxBackend, "advance", lambda self, state, *_: (state, Progress(float("nan"), 0))
    )
    with pytest.raises(ValueError, match="diverged before step 20; lower the rates"):
        fit_splat(*ball, TINY, tmp_path)


def test_too_few_views_and_bad_settings_are_refused(ball, tmp_path):
    views, points = ball
    with pytest.raises(CaptureError, match="3 views are too few"):
        fit_splat(views[:3], points, TINY, tmp_path)
    with pytest.raises(ValueError, match="hold_out 1 leaves no view"):
        SplatConfig(hold_out=1)
    with pytest.raises(ValueError, match="degree 3 are not implemented"):
        SplatConfig(degree=3)


def test_every_kth_view_is_held_out():
    fitted, held = split_views([View(str(i), 1, 1, np.eye(3), np.eye(4)) for i in range(17)], 8)
    assert [view.name for view in held] == ["4", "12"]
    assert len(fitted) == 15


def test_psnr_is_20_db_for_an_error_of_a_tenth():
    assert fit.psnr_db(0.1**2) == pytest.approx(20)
