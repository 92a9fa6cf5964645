"""The one page about a reconstruction."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("trimesh", reason="needs pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("matplotlib", reason="needs pip install 'p2r_jax[viz]'")
import trimesh
from headless_browser import Browser, chromium
from PIL import Image
from segment_scenes import film_of_the_t, write_frames

from p2r_jax.files import write_json
from p2r_jax.real2sim import report_pictures
from p2r_jax.real2sim.frames import FramesConfig, extract_frames
from p2r_jax.real2sim.mesh.render import depth_of
from p2r_jax.real2sim.pictures import write_picture
from p2r_jax.real2sim.report import STEP_FILES, pick, write_report
from p2r_jax.real2sim.segment.step import MasksConfig, make_masks
from p2r_jax.real2sim.splat.gaussians import initial_splat
from p2r_jax.real2sim.turntable import mesh_pictures, orbit, splat_pictures, write_turntable
from p2r_jax.real2sim.views import write_views

BOX_M = (0.12, 0.04, 0.06)


def box():
    """Standing on the table; red where x is positive, else blue."""
    mesh = trimesh.creation.box(BOX_M).subdivide().subdivide().subdivide()
    mesh.apply_translation([0, 0, BOX_M[2] / 2])
    red = mesh.vertices[:, :1] > 0
    mesh.visual.vertex_colors = np.where(red, (220, 40, 40, 255), (40, 40, 220, 255))
    return mesh


def frames_and_masks(out):
    pictures, truth = film_of_the_t(4)
    capture = out.parent / "capture"
    (capture / "images").mkdir(parents=True)
    for i, rgb in enumerate(pictures):
        write_picture(capture / "images" / f"{i}.png", rgb)
    frames = extract_frames(FramesConfig(at_least=3), capture, out / "frames")
    given = write_frames(out.parent / "given", pictures, "photos", truth)
    make_masks(MasksConfig("given"), given, out / "masks")
    return frames


def cameras_and_mesh(out):
    mesh = box()
    views = orbit(mesh.bounds, 4, 200)
    for view, rgba in zip(views, mesh_pictures(mesh, views), strict=True):
        for folder, pixels in (("images", rgba[..., :3]), ("masks", rgba[..., 3])):
            (out / folder).mkdir(parents=True, exist_ok=True)
            write_picture(out / folder / f"{view.name}.png", pixels)
    views = [
        replace(v, image=out / "images" / f"{v.name}.png", mask=out / "masks" / f"{v.name}.png")
        for v in views
    ]
    (out / "cameras").mkdir()
    notes = {"source": "given", "frames": 5, "without_pose": ["0004"], "seconds": 2.5}
    write_views(out / "cameras" / "cameras.json", views, notes)
    (out / "mesh").mkdir()
    mesh.export(out / "mesh" / "mesh.ply")
    iou = {view.name: 0.9 + 0.01 * i for i, view in enumerate(views)}
    record = {
        "schema": 1, "mesh": "mesh.ply", "watertight": True, "faces": len(mesh.faces),
        "volume_m3": float(mesh.volume), "bounds_m": mesh.bounds.tolist(),
        "uniform_com_m": [0, 0, 0.03], "notes": ["the object is not symmetric"],
        "symmetry": {"score": 0.2, "symmetric": False, "mirrored": False},
        "silhouette_iou": {
            "shaping": {"mean": 0.95, "min": 0.94}, "held_out": {"mean": 0.91, "min": 0.9},
            "by_view": iou,
        },
        "settings": {"held_out": 2}, "seconds": 4.0,
    }  # fmt: skip
    write_json(out / "mesh" / "mesh.json", record)


def without_pictures(page):
    return re.sub(r'"data:[^"]*"', '"data:"', page)


def test_a_folder_without_finished_steps_says_so_for_each(tmp_path):
    page = write_report(tmp_path).read_text()
    assert page.count("not done yet") == len(STEP_FILES)
    assert "could not be shown" not in page


def test_finished_steps_are_shown_and_the_page_needs_nothing_else(tmp_path):
    out = tmp_path / "my <object>"
    out.mkdir()
    frames_and_masks(out)
    cameras_and_mesh(out)
    write_json(out / "config.json", {"capture": "there", "until": "mesh"})
    steps = {name: {"seconds": 7.25} for name in ("frames", "masks", "cameras", "mesh")}
    write_json(out / "steps.json", {"schema": 1, "steps": steps})
    page = write_report(out).read_text()
    text = without_pictures(page)
    assert "could not be shown" not in text
    assert text.count("not done yet") == 2  # splat, asset
    assert "my &lt;object&gt;" in text
    assert "288.0 cm³" in text  # 120 x 40 x 60 mm
    assert "120.0, 40.0, 60.0 mm" in text
    assert "0.910" in text  # of the held-out silhouettes
    assert "the object is not symmetric" in text
    assert "without a pose: 0004" in text
    assert "mesh: 7.2 s" in text  # as the pipeline measured it, not the step
    assert "&quot;until&quot;: &quot;mesh&quot;" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert page.count("data:image/webp;base64,") == 1
    assert text.count('class="overlay"') == 2  # every other view was held out


def test_steps_of_an_earlier_run_are_not_shown_as_done(tmp_path):
    frames_and_masks(tmp_path)
    cameras_and_mesh(tmp_path)
    steps = {name: {"seconds": 1.0} for name in ("frames", "masks")}
    write_json(tmp_path / "steps.json", {"schema": 1, "steps": steps})
    text = without_pictures(write_report(tmp_path).read_text())
    assert text.count("not done yet") == 4
    assert "288.0 cm³" not in text


def test_a_step_that_gave_up_leaves_its_picture_and_its_reason(tmp_path):
    (tmp_path / "masks").mkdir()
    write_picture(tmp_path / "masks" / "contact_sheet.jpg", np.zeros((20, 30, 3), np.uint8))
    page = write_report(tmp_path, "masks: 5 of 6 masks <cannot> be right").read_text()
    assert "5 of 6 masks &lt;cannot&gt; be right" in page
    assert page.count("data:image/jpeg;base64,") == 1


def test_a_record_that_cannot_be_shown_spoils_only_its_own_section(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    frames_and_masks(out)
    (out / "mesh").mkdir()
    write_json(out / "mesh" / "mesh.json", {"schema": 1, "mesh": "gone.ply", "watertight": False})
    (out / "splat").mkdir()
    (out / "splat" / "splat.json").write_text("{ cut off")
    page = write_report(out).read_text()
    assert page.count("could not be shown") == 1
    assert 'class="card bad"><span>watertight</span><b>no</b>' in page
    assert page.count("not done yet") == 3


def test_a_turntable_is_drawn_again_only_when_its_mesh_has_changed(tmp_path, monkeypatch):
    file = tmp_path / "mesh.ply"
    mesh = box()
    mesh.export(file)
    drawn = []

    def pictures(mesh, views):
        drawn.append(len(views))
        return mesh_pictures(mesh, views[:2])

    monkeypatch.setattr(report_pictures, "mesh_pictures", pictures)
    first = report_pictures.mesh_turntable(file, mesh)
    assert report_pictures.mesh_turntable(file, mesh) == first
    assert len(drawn) == 1
    later = (tmp_path / "turntable.webp").stat().st_mtime + 10
    os.utime(file, (later, later))
    report_pictures.mesh_turntable(file, mesh)
    assert len(drawn) == 2


def test_an_orbit_shows_all_of_a_box_as_large_as_it_can():
    bounds = box().bounds
    views = orbit(bounds, 8, 300)
    corners = np.stack(np.meshgrid(*bounds.T), -1).reshape(-1, 3)
    uv = np.concatenate([view.project(corners)[:, :2] for view in views])
    assert uv.min() >= 0
    assert (uv[:, 0] <= views[0].width).all()
    assert (uv[:, 1] <= views[0].height).all()
    assert views[0].width == 300
    assert uv[:, 0].max() > 0.95 * 300
    first = views[0]
    assert first.position[1] < -0.1  # in front
    above = first.project(np.array([[0, 0, 0], [0, 0, 0.05]]))
    assert above[1, 1] < above[0, 1]  # up in the world is up in the picture


def test_painted_meshes_cover_what_the_depth_renderer_says_and_show_their_colours():
    mesh = box()
    for view, rgba in zip(
        orbit(mesh.bounds, 5, 160), mesh_pictures(mesh, orbit(mesh.bounds, 5, 160)), strict=True
    ):
        covered = np.isfinite(depth_of(mesh, view))
        painted = rgba[..., 3] > 127
        assert (covered & painted).sum() / (covered | painted).sum() > 0.97
    front = mesh_pictures(mesh, orbit(mesh.bounds, 1, 160))[0]
    assert bluer_left_redder_right(front, 60, 100) == (1.0, 1.0)


def bluer_left_redder_right(rgba, left, right):
    """Shares of the solid pixels on either side that are blue and red."""
    rows, columns = np.nonzero(rgba[..., 3] > 250)
    red, _, blue, _ = rgba[rows, columns].astype(int).T
    return np.mean((blue > red)[columns < left]), np.mean((red > blue)[columns > right])


def test_a_turntable_is_an_endless_film_with_transparency(tmp_path):
    pictures = [np.full((20, 30, 4), (9, 200, 40 * i, 128), np.uint8) for i in range(3)]
    write_turntable(tmp_path / "t.webp", pictures)
    with Image.open(tmp_path / "t.webp") as film:
        assert (film.n_frames, film.info["loop"], film.mode) == (3, 0, "RGBA")
        assert film.size == (30, 20)


def test_splats_turn_too(tmp_path):
    points, _ = trimesh.sample.sample_surface(box(), 300, seed=0)
    colours = np.where(points[:, :1] > 0, (0.9, 0.1, 0.1), (0.1, 0.1, 0.9))
    splat = initial_splat(points, colours, len(points))
    view = orbit(box().bounds, 1, 96)[0]
    (rgba,) = splat_pictures(splat, [view])
    assert rgba.shape == (view.height, view.width, 4)
    assert (rgba[..., 3] > 200).sum() > 200
    assert min(bluer_left_redder_right(rgba, 35, 61)) > 0.9


def test_missing_values_are_none_and_not_errors():
    record = {"a": {"b": 1}, "c": None}
    assert pick(record, "a.b") == 1
    assert pick(record, "a.x.y") is None
    assert pick(record, "c.d") is None
    assert pick(None, "a") is None


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="needs chromium on the path")
def test_a_browser_shows_every_picture(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    frames_and_masks(out)
    cameras_and_mesh(out)
    page = write_report(out)
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.wait_for("document.readyState == 'complete'")
        loaded = "[...document.images].map(i => i.naturalWidth > 0 && i.complete)"
        states = json.loads(browser.wait_for(f"JSON.stringify({loaded})"))
        wide = browser.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert len(states) == 6
    assert all(states)
    assert wide <= 0
