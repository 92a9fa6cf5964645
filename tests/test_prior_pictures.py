"""What a model is shown, and the whole command: from pictures to ``prior.json``."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from fake_vlm_server import FakeVlm

from p2r_jax.mesh_task import NewTaskConfig, new_task
from p2r_jax.prior import command, views
from p2r_jax.prior.aggregate import TooFewAnswersError
from p2r_jax.prior.command import PriorConfig, make_prior
from p2r_jax.prior.photos import (
    TICKS,
    View,
    axes_between,
    draw_axes,
    foreground_mask,
    load_view,
    to_photo,
    to_png,
)
from p2r_jax.prior.prior import load_prior
from p2r_jax.prior.shape import mask_centroids, shape_of_asset
from p2r_jax.sim.asset import load_asset
from p2r_jax.sim.mesh_asset import MeshOptions
from p2r_jax.tasks import load_task

Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra vlm")
pytest.importorskip("matplotlib", reason="matplotlib comes with the extra vlm")
TASK = load_task("push_tblock")
X, Y = "com_object_x", "com_object_y"


def t_picture(noise=3.0, seed=0):
    """A T on a table, 160 x 120: crossbar in rows 20 to 39, stem in rows 40 to 99."""
    rng = np.random.default_rng(seed)
    picture = np.full((120, 160, 3), 190.0)
    mask = np.zeros((120, 160), bool)
    mask[20:40, 50:110] = mask[40:100, 72:88] = True
    picture[mask] = (200, 120, 40)
    return (picture + noise * rng.normal(size=picture.shape)).clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def photos(tmp_path):
    paths = []
    for seed in range(2):
        path = tmp_path / f"photo{seed}.png"
        path.write_bytes(to_png(t_picture(seed=seed)[0]))
        paths.append(path)
    return paths


def rendered(count=2, coordinates=(X, Y), **kwargs):
    scene = views.asset_scene("tblock", TASK.object, **kwargs)
    try:
        return views.render_views(scene, shape_of_asset(TASK.object), coordinates, count)
    except views.RenderError as error:
        pytest.skip(str(error))


def test_object_is_found_against_a_plain_table():
    picture, mask = t_picture()
    found = foreground_mask(picture)
    assert (found & mask).sum() / (found | mask).sum() > 0.97


def test_shading_of_the_table_is_not_taken_for_the_object():
    picture, mask = t_picture()
    shaded = (picture * np.linspace(0.9, 1.0, 160)[:, None]).astype(np.uint8)
    found = foreground_mask(shaded)
    assert (found & mask).sum() / (found | mask).sum() > 0.95


def test_a_picture_without_a_single_object_is_refused_with_the_way_out():
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    with pytest.raises(ValueError, match=r"noise\.png: no single object.*--axis-px"):
        foreground_mask(noise, "noise.png")


def test_axis_of_a_photo_is_its_vertical_between_the_objects_edges(photos):
    view = load_view(photos[0], [X, Y])
    np.testing.assert_allclose(view.axes[X][[0, -1]], [[79.5, 99], [79.5, 20]], atol=1)
    # +y is to the left of +x, seen from above
    np.testing.assert_allclose(view.axes[Y][[0, -1]], [[109, 59.5], [50, 59.5]], atol=1)


def test_axis_that_is_given_is_taken_and_the_second_stands_across():
    _, mask = t_picture()
    ends = np.array([[40.0, 60.0], [120.0, 60.0]])  # +x to the right: +y is up
    axes = axes_between(mask, ends)
    np.testing.assert_allclose(axes[X], ends[0] + (TICKS[:, None] + 1) / 2 * [80, 0])
    np.testing.assert_allclose(axes[Y][[0, -1]], [[80, 99], [80, 20]])
    assert set(axes_between(None, ends)) == {X}


def test_alpha_is_the_mask_and_large_photos_are_shrunk_with_their_axis(tmp_path):
    picture, mask = t_picture()
    rgba = np.dstack([picture, 255 * mask]).astype(np.uint8)
    large = Image.fromarray(rgba).resize((3200, 2400), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.png")
    view = load_view(tmp_path / "large.png", [X])
    assert view.image.shape == (768, 1024, 3)
    np.testing.assert_allclose(view.axes[X][[0, -1], 1], [99 * 6.4, 20 * 6.4], atol=8)
    given = load_view(tmp_path / "large.png", [X], np.array([[1600, 2000], [1600, 400.0]]))
    np.testing.assert_allclose(given.axes[X][[0, -1]], [[512, 640], [512, 128]])


def test_bad_files_and_ends_outside_the_photo_are_named(tmp_path, photos):
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"note\.png is not a picture"):
        load_view(tmp_path / "note.png", [X])
    with pytest.raises(ValueError, match=r"photo0\.png: the axis' ends"):
        load_view(photos[0], [X], np.array([[10.0, 10.0], [500.0, 10.0]]))
    with pytest.raises(FileNotFoundError):
        load_view(tmp_path / "none.png", [X])


def test_axis_is_drawn_where_it_is_and_the_rest_is_left_alone():
    picture, _ = t_picture(noise=0)
    marks = np.array([80, 99.0]) + (TICKS[:, None] + 1) / 2 * [0, -79.0]
    drawn = draw_axes(View("t", picture, None, {X: marks}, "s")).astype(int)
    np.testing.assert_array_equal(drawn[55, 80], (214, 39, 40))
    np.testing.assert_array_equal(drawn[110, 10], picture[110, 10])
    changed = np.any(drawn != picture, -1)
    assert 0.005 < changed.mean() < 0.15
    labels = changed[100:, 60:100].sum(), changed[:20, 60:100].sum()
    assert min(labels) > 20  # "-1" below the object, "+1" above it


def test_digest_depends_on_source_and_axis_not_on_the_drawing_library():
    picture, _ = t_picture()
    view = View("t", picture, None, {X: np.zeros((5, 2))}, "source")
    digest = to_photo(view).digest
    assert to_photo(replace(view, name="other", image=picture // 2)).digest == digest
    assert to_photo(replace(view, source="other")).digest != digest
    assert to_photo(replace(view, axes={X: np.ones((5, 2))})).digest != digest


def test_rendered_axes_end_at_the_objects_edges():
    for view in rendered(3):
        assert 0.02 < view.mask.mean() < 0.5
        along = view.axes[X][-1] - view.axes[X][0]
        rows, columns = np.nonzero(view.mask)
        place = (np.stack([columns, rows], -1) - view.axes[X][0]) @ along / (along @ along)
        # sides of the block show beyond its top's edges, by its height at most
        assert -0.25 < place.min() < 0.02
        assert 0.98 < place.max() < 1.25
        middle = view.axes[X][2] - (view.axes[X][0] + view.axes[X][-1]) / 2
        # perspective moves the scale's zero off the middle of the line, but not far
        assert 1.0 < np.linalg.norm(middle) < 0.08 * np.linalg.norm(along)


@pytest.mark.parametrize("task", ["push_tblock", "push_hammer", "push_triangle"])
def test_every_kind_of_shipped_asset_is_rendered_with_its_axes_the_right_way_round(task):
    """In the first view +x is up and +y left; the silhouette's centroid is the outline's."""
    asset = load_task(task).object
    scene = views.asset_scene(load_task(task).asset, asset)
    try:
        (view,) = views.render_views(scene, shape_of_asset(asset), [X, Y], 1)
    except views.RenderError as error:
        pytest.skip(str(error))
    (bottom, top), (right, left) = view.axes[X][[0, -1]], view.axes[Y][[0, -1]]
    assert top[1] < bottom[1]
    assert left[0] < right[0]
    uniform_x, uniform_y = asset.uniform_com
    length, breadth = np.subtract(*reversed(asset.footprint_bounds))
    seen = mask_centroids(view.mask, view.axes[X][0], view.axes[X][-1])["solid"]
    # perspective and the sides of the object shift it; a wrong direction would be 0.6 off
    np.testing.assert_allclose(seen, 2 * uniform_x / length, atol=0.25)
    across = mask_centroids(view.mask, view.axes[Y][0], view.axes[Y][-1])["solid"]
    np.testing.assert_allclose(across, 2 * uniform_y / breadth, atol=0.25)


def test_an_object_made_from_a_mesh_needs_no_photo(tmp_path):
    """Its own visual mesh is shown: rounder than the flat outline that is simulated."""
    trimesh = pytest.importorskip("trimesh", reason="comes with mujoco-mjx")
    pytest.importorskip("shapely", reason="extra mesh")
    rendered(1)  # skips where nothing can be rendered
    ball, handle = trimesh.creation.icosphere(2, 0.04), trimesh.creation.box((0.2, 0.02, 0.02))
    ball.apply_translation((0.1, 0, 0))
    trimesh.util.concatenate([ball, handle]).export(tmp_path / "mallet.stl")
    new_task(NewTaskConfig(mesh=tmp_path / "mallet.stl", mass=0.5, out=tmp_path / "mallet",
                           options=MeshOptions(mass_from="footprint")))  # fmt: skip
    prior = run("--task", tmp_path / "mallet", "--views", 1, "--out", tmp_path / "p.json")
    assert prior == load_prior(tmp_path / "p.json", load_task(str(tmp_path / "mallet")))
    asset = load_asset(tmp_path / "mallet" / "asset")
    scene = views.asset_scene(str(tmp_path / "mallet" / "asset"), asset)
    (view,) = views.render_views(scene, shape_of_asset(asset), [X], 1)
    shades = np.unique(view.image[view.mask].reshape(-1, 3), axis=0)
    assert len(shades) > 100  # of a ball; a prism has a few


def test_rendered_views_differ_and_are_reproducible():
    first, second = rendered(2), rendered(2)
    assert [v.source for v in first] == [v.source for v in second]
    assert first[0].source != first[1].source


def test_weight_shows_in_the_views():
    bare, heavy = rendered(1)[0], rendered(1, weight_x_m=0.095)[0]
    changed = np.any(bare.image != heavy.image, -1)
    rows, columns = np.nonzero(changed)
    top = heavy.axes[X][-1]
    assert np.hypot(columns.mean() - top[0], rows.mean() - top[1]) < 40


def test_a_coloured_mesh_is_rendered_in_its_colours():
    trimesh = pytest.importorskip("trimesh", reason="comes with mujoco-mjx")
    from p2r_jax.prior.shape import shape_of_mesh

    handle, head = trimesh.creation.box((0.2, 0.02, 0.02)), trimesh.creation.box((0.05, 0.1, 0.03))
    head.apply_translation((0.125, 0, 0))
    handle.visual.face_colors, head.visual.face_colors = (200, 60, 20, 255), (30, 60, 200, 255)
    mesh = trimesh.util.concatenate([handle, head])
    mesh.apply_translation(-mesh.bounds.mean(0))
    try:
        (view,) = views.render_views(views.mesh_scene(mesh), shape_of_mesh("hammer", mesh), [X], 1)
    except views.RenderError as error:
        pytest.skip(str(error))
    seen = view.image[view.mask].astype(int)
    red, blue = (seen[:, 0] > seen[:, 2] + 30).mean(), (seen[:, 2] > seen[:, 0] + 30).mean()
    assert red > 0.2
    assert blue > 0.2


def test_no_opengl_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw-without-a-screen")
    with pytest.raises(views.RenderError, match=r"install libegl1.*or take photos"):
        views.render_views(
            views.asset_scene("tblock", TASK.object), shape_of_asset(TASK.object), [X], 1
        )


def run(*args) -> object:
    return make_prior(tyro.cli(PriorConfig, args=[str(a) for a in args], prog="p2r prior"))


def test_command_looks_at_the_geometry_without_a_key(tmp_path, capsys):
    prior = run("--asset", "tblock", "--out", tmp_path / "p.json")
    assert prior == load_prior("heuristic", TASK) == load_prior(tmp_path / "p.json", TASK)
    assert Image.open(tmp_path / "p_report.png").size[0] > 500
    assert "(heuristic)" in capsys.readouterr().out


def test_heuristic_from_photos_uses_their_silhouettes(tmp_path, photos):
    prior = run(*photos, "--out", tmp_path / "p.json")
    assert prior.kind == "heuristic"
    assert "silhouette in 2 photos" in prior.source
    assert 0.0 < prior.mean[0] < 0.06
    with pytest.raises(ValueError, match="heuristic needs the outline"):
        run(*photos, "--axis-px", "80,99,80,20", "--out", tmp_path / "q.json")


def test_command_asks_a_model_about_photos_and_resumes_and_replays(tmp_path, photos, monkeypatch):
    pytest.importorskip("openai", reason="extra vlm")
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    out = tmp_path / "new" / "prior.json"
    with FakeVlm() as fake:
        common = [*photos, "--object", "a T", "--axis-hint", "from the stem to the crossbar"]
        live = ["--provider", "openai", "--model.name", "m", "--model.base-url", f"{fake.url}/v1"]
        prior = run(*common, *live, "--out", out)
        assert len(fake.questions) == 2 * 5
        shown = fake.questions[0]
    assert "a T" in shown.prompt
    assert "from the stem to the crossbar" in shown.prompt
    pictures = [(out.parent / "prior_shown").glob("photo0-*.png"), [io.BytesIO(shown.png)]]
    sent = [np.asarray(Image.open(next(iter(p)))) for p in pictures]
    assert sent[0].shape == sent[1].shape == (120, 160, 3)
    np.testing.assert_allclose((prior.mean, prior.sigma), ([0.03], [0.015]), atol=1e-9)
    assert prior == load_prior(out, TASK)
    assert prior.kind == "synthetic"  # the server said so: no file pretends to be live
    made = json.loads(out.read_text())["made"]
    assert made["counts"]["input_tokens"] == 10_000
    assert made["requests"] == {"sent": 10, "reused": 0, "failed": 0}
    assert made["settings"]["server"] == "127.0.0.1"
    written = [p for p in out.parent.rglob("*") if p.is_file()]
    assert all(b"secret-key" not in p.read_bytes() for p in written)

    out.unlink()
    again = run(*common, *live, "--out", out)  # the server is gone: the record answers
    assert again == prior
    record = out.with_suffix(".jsonl")
    replayed = run(*common, "--provider", "replay", "--model.replay", record,
                   "--out", tmp_path / "replayed.json")  # fmt: skip
    assert replayed == prior
    with pytest.raises(FileExistsError, match="choose another --out"):
        run(*common, *live, "--out", out)


def test_command_asks_about_rendered_views_and_several_quantities(tmp_path):
    pytest.importorskip("google.genai", reason="extra vlm")
    rendered(1)  # skips where nothing can be rendered
    lines = "COM: 0.4 SIGMA: 0.1\nCOM_ACROSS: 0 SIGMA: 0.2\nMASS: 0.3 SIGMA: 0.1"
    with FakeVlm(text=lambda question: lines) as fake:
        prior = run(
            "--asset", "tblock", "--views", 2, "--weight-x-m", 0.095, "--provider", "gemini",
            "--model.name", "m", "--model.base-url", fake.url, "--theta", X, Y, "mass",
            "--sigma-scale", 2, "--ask.queries", 1, "--out", tmp_path / "p.json",
        )  # fmt: skip
        assert len(fake.questions) == 2
        assert "blue line" in fake.questions[0].prompt
    assert prior.unit == ("m", "m", "kg")
    np.testing.assert_allclose(prior.mean, (0.04, 0.0, 0.3), atol=1e-9)
    np.testing.assert_allclose(prior.sigma, (0.02, 0.04, 0.2), atol=1e-9)
    with pytest.raises(ValueError, match=r"task 'push_tblock' has \('com_object_x',\)"):
        load_prior(tmp_path / "p.json", TASK)


def test_a_model_that_says_nothing_usable_leaves_no_prior_but_its_words(tmp_path, photos):
    pytest.importorskip("openai", reason="extra vlm")
    with FakeVlm(text=lambda question: "Near the top, I suppose.") as fake:
        with pytest.raises(TooFewAnswersError, match=r"0 of 10 .*\n.*Near the top, I suppose"):
            run(*photos, "--provider", "openai", "--model.name", "m", "--model.base-url",
                f"{fake.url}/v1", "--out", tmp_path / "p.json")  # fmt: skip
        assert len(fake.questions) == 2 * 5 * 3  # each asked three times
    assert not (tmp_path / "p.json").exists()
    assert "Near the top" in (tmp_path / "p.jsonl").read_text()


def test_a_final_error_is_a_message_without_the_key(tmp_path, photos, monkeypatch):
    pytest.importorskip("openai", reason="extra vlm")
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")  # the server repeats it in its message
    with (
        FakeVlm(behave=lambda question: "401") as fake,
        pytest.raises(ValueError, match=r"HTTP 401.*\[OPENAI_API_KEY\] 401") as caught,
    ):
        run(*photos, "--provider", "openai", "--model.name", "m", "--model.base-url",
            f"{fake.url}/v1", "--out", tmp_path / "p.json")  # fmt: skip
    assert caught.value.__cause__ is None
    assert "made-up" not in (tmp_path / "p.jsonl").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--views", 2, "a.png"], "not both"),
        (["--provider", "openai"], "needs photos, or --views"),
        (["--min-usable", 0], "min_usable is 0"),
        (["--sigma-scale", -1], "sigma_scale"),
        (["photo0.png", "photo1.png", "--axis-px", "1,2,3"], "not COLUMN,ROW,COLUMN,ROW"),
        (["photo0.png", "photo1.png", *["--axis-px", "1,2,3,4", "1,2,3,4", "1,2,3,4"]],
         "3 times for 2 photos"),
        (["--theta", "colour"], "com_object_x"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(tmp_path, args, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as caught:
        run(*args, "--out", tmp_path / "p.json")
    printed = capsys.readouterr()
    said = " ".join((str(caught.value) + printed.out + printed.err).replace("│", " ").split())
    assert message in said
    assert not list(tmp_path.iterdir())


def test_prior_command_needs_matplotlib_before_it_asks(tmp_path, monkeypatch):
    def missing():
        raise ImportError("matplotlib is not installed: pip install 'p2r_jax[vlm]'")

    monkeypatch.setattr(command, "check_plotting", missing)
    with pytest.raises(ImportError, match=r"p2r_jax\[vlm\]"):
        run("--out", tmp_path / "p.json")
    assert not list(Path(tmp_path).iterdir())
