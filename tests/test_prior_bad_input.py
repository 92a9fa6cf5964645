"""What a careless or hostile user gives ``p2r prior``: a message that names it, nothing lost."""

import io
from pathlib import Path

import numpy as np
import pytest
import tyro
from fake_vlm_server import FakeVlm

from p2r_jax.cli import main
from p2r_jax.prior.command import PriorConfig, make_prior
from p2r_jax.prior.photos import load_view
from p2r_jax.prior.prompts import load_prompt
from p2r_jax.prior.protocol import ProviderError
from p2r_jax.prior.providers import ModelConfig, make_client
from p2r_jax.prior.shape import hull_centroid
from p2r_jax.prior.views import MAX_VIEWS, asset_scene, render_views
from p2r_jax.tasks import load_task

Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra vlm")
pytest.importorskip("matplotlib", reason="matplotlib comes with the extra vlm")
X = "com_object_x"


def t_picture(seed=0):
    """A T on a table, 160 x 120, upright."""
    picture = np.full((120, 160, 3), 190.0)
    picture[20:40, 50:110] = picture[40:100, 72:88] = (200, 120, 40)
    noise = 3 * np.random.default_rng(seed).normal(size=picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(t_picture()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*args):
    return make_prior(tyro.cli(PriorConfig, args=[str(a) for a in args], prog="p2r prior"))


def saved(folder, name, picture, **kwargs):
    path = folder / name
    picture.save(path, **kwargs)
    return path


def broken_files(folder):
    """Path and the message it must lead to."""
    (folder / "empty.png").write_bytes(b"")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (folder / "photos").mkdir()
    for name in ("cut.jpg", "cut.png"):
        whole = saved(folder, name, Image.fromarray(t_picture())).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    saved(folder, "huge.png", Image.new("1", (20_000, 20_000)))
    clear = np.dstack([t_picture(), np.zeros((120, 160), np.uint8)])
    saved(folder, "clear.png", Image.fromarray(clear))
    saved(folder, "one.png", Image.new("RGB", (1, 1)))
    return {
        "none.png": r"there is no photo .*none\.png",
        "empty.png": r"empty\.png is not a picture .*convert it to PNG or JPEG",
        "phone.heic": r"phone\.heic is not a picture .*convert it",
        "photos": r"photos is a folder; name the photos in it",
        "cut.jpg": r"cut\.jpg is damaged or cut off: .*save it anew",
        "cut.png": r"cut\.png is damaged or cut off",
        "huge.png": r"huge\.png is too large: .*make it smaller",
        "clear.png": r"clear\.png: its alpha.*leaves 0 x 0 pixels",
        "one.png": r"one\.png: no single object stands out",
    }


def test_broken_photos_are_named_with_the_way_out(tmp_path, capsys):
    for name, message in broken_files(tmp_path).items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_view(tmp_path / name, [X])
        assert main(["prior", str(tmp_path / name), "--out", str(tmp_path / "p.json")]) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("kind", ["gray", "gray16", "int32", "float", "palette", "cmyk", "exif"])
def test_photos_of_every_common_kind_show_the_same_object(tmp_path, kind):
    picture = Image.fromarray(t_picture())
    gray = np.asarray(picture.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6  # the viewer is to turn it clockwise by 90 degrees
    made = {
        "gray": lambda: saved(tmp_path, "a.png", picture.convert("L")),
        "gray16": lambda: saved(tmp_path, "a.png", Image.fromarray(gray.astype(np.uint16) * 16)),
        "int32": lambda: saved(tmp_path, "a.tif", Image.fromarray(gray.astype(np.int32) * 4096)),
        "float": lambda: saved(tmp_path, "a.tif", Image.fromarray(gray / np.float32(255))),
        "palette": lambda: saved(tmp_path, "a.png", picture.convert("P")),
        "cmyk": lambda: saved(tmp_path, "a.jpg", picture.convert("CMYK"), quality=95),
        "exif": lambda: saved(
            tmp_path, "a.jpg", picture.rotate(90, expand=True), exif=turned, quality=95
        ),
    }
    view = load_view(made[kind](), [X])
    np.testing.assert_allclose(view.axes[X][[0, -1]], [[79.5, 99], [79.5, 20]], atol=2)


def test_a_photo_named_like_the_prior_survives_it(photo):
    before = photo.read_bytes()
    run(photo, "--out", photo.with_suffix(".json"))
    assert photo.read_bytes() == before
    shown = photo.rename(photo.with_name("mallet_report.png"))
    with pytest.raises(SystemExit):  # tyro prints the message
        run(shown, "--out", photo.with_name("mallet.json"))
    with pytest.raises(ValueError, match=r"mallet_report\.png would be overwritten by the report"):
        PriorConfig(photo.with_name("mallet.json"), (shown,))
    assert shown.read_bytes() == before


def test_photos_of_one_name_in_two_folders_stay_two(tmp_path):
    paths = []
    for seed, name in enumerate(("left", "right")):
        (tmp_path / name).mkdir()
        paths.append(saved(tmp_path / name, "1.png", Image.fromarray(t_picture(seed))))
    pytest.importorskip("openai", reason="extra vlm")
    with FakeVlm() as fake:
        run(*paths, "--provider", "openai", "--model.name", "m", "--model.base-url",
            f"{fake.url}/v1", "--ask.queries", 1, "--out", tmp_path / "p.json")  # fmt: skip
    text = (tmp_path / "p.json").read_text()
    assert '"left/1.png"' in text
    assert '"right/1.png"' in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "p.png"}, r"out is p\.png; its name must end in \.json"),
        ({"out": "folder"}, r"its name must end in \.json"),
        ({"sigma_scale": float("inf")}, "positive and finite"),
        ({"prices_usd": (-1.0, 1.0)}, "must not be negative"),
        ({"weight_x_m": 0.01}, "weight_x_m is for rendered views; give --views"),
        ({"axis_px": ("1,2,3,4",)}, "axis_px is for photos, and none is given"),
        ({"model": ModelConfig("gpt")}, "asks no model, but model is set: choose a --provider"),
        ({"sigma_scale": 2.0, "prompt": "parts-v1"}, "but prompt, sigma_scale is set"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, changes, message):
    changes = {k: Path(v) if k == "out" else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=message):
        PriorConfig(**({"out": tmp_path / "p.json"} | changes))


@pytest.mark.parametrize("url", ["notaurl", "localhost:8000/v1", "ftp://server/v1", "http://"])
def test_a_base_url_must_be_one(url):
    with pytest.raises(ValueError, match=r"base_url is .*it must be http\(s\)://SERVER"):
        ModelConfig("m", url)


@pytest.mark.parametrize("key", ["sk-abc\ndef", "sk-ü", "sk abc"])
def test_a_key_that_no_header_can_carry_is_named_but_not_quoted(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ProviderError, match="OPENAI_API_KEY in the environment holds") as caught:
        make_client("openai", ModelConfig("m"))
    assert "sk" not in str(caught.value)


def test_an_out_that_cannot_be_written_is_named(tmp_path, photo):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"cannot write into .*file .*; choose another --out"):
        run(photo, "--out", tmp_path / "file" / "p.json")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_replay_of_no_file_says_what_is_wanted(tmp_path, photo):
    for record in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no record at .*the \.jsonl beside a prior"):
            run(photo, "--provider", "replay", "--model.replay", record,
                "--out", tmp_path / "p.json")  # fmt: skip


def test_a_record_of_another_question_is_neither_mixed_nor_lost(tmp_path, photo):
    pytest.importorskip("openai", reason="extra vlm")
    out = tmp_path / "p.json"
    with FakeVlm() as fake:
        asked = ["--provider", "openai", "--model.name", "m", "--model.base-url",
                 f"{fake.url}/v1", "--out", out]  # fmt: skip
        run(photo, *asked, "--ask.queries", 1)
        out.unlink()
        before = out.with_suffix(".jsonl").read_bytes()
        with pytest.raises(ValueError, match=r"answers to other questions.*choose another --out"):
            run(photo, *asked, "--prompt", "parts-v1")
        assert out.with_suffix(".jsonl").read_bytes() == before
        run(photo, *asked, "--ask.queries", 3)  # more of the same goes on
        assert len(fake.questions) == 3


def test_axis_ends_that_are_no_numbers_are_no_points(photo):
    with pytest.raises(ValueError, match=r"photo\.png: the axis' ends"):
        load_view(photo, [X], np.array([[np.nan, 1.0], [2.0, 3.0]]))


def test_a_weight_off_the_object_and_too_many_views_are_refused():
    asset = load_task("push_tblock").object
    for place in (0.2, float("nan")):
        with pytest.raises(ValueError, match=r"off 'tblock', which reaches from -0\.1 to 0\.1 m"):
            asset_scene("tblock", asset, place)
    for count in (-1, MAX_VIEWS + 1):
        with pytest.raises(ValueError, match="between 1 and 64"):
            render_views(asset_scene("tblock", asset), None, [X], count)


def test_a_prompt_with_a_stray_dollar_is_named(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("$object $axes $questions $ending costs $5")
    with pytest.raises(ValueError, match=r"prompt\.txt: it needs the slots .*no other \$"):
        load_prompt(str(path))


def test_points_on_a_line_have_no_hull():
    with pytest.raises(ValueError, match="outline without area"):
        hull_centroid(np.stack([np.arange(5.0), np.arange(5.0)], -1))


def test_report_of_a_long_story_stays_within_its_width(tmp_path, photo):
    """Headings are wrapped: nothing reaches the picture's right edge."""
    run(photo, "--out", tmp_path / "p.json")
    picture = np.asarray(Image.open(io.BytesIO((tmp_path / "p_report.png").read_bytes())))
    assert picture[:60, -8:].min() > 240
