import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason="needs pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("PIL", reason="needs pip install 'p2r_jax[reconstruct]'")
import av
import cv2
from PIL import Image

from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import FramesConfig, extract_frames, read_frames
from p2r_jax.real2sim.pictures import blur_px, natural_key, read_film, sharpness, size_within

WIDTH, HEIGHT = 160, 120
SMALL = FramesConfig(count=6, at_least=3)
TICKS_PER_S = 1000


def scene(seed=0, width=WIDTH, height=HEIGHT):
    """Rectangles of every brightness: sharp edges in both directions."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), 90, np.uint8)
    for _ in range(40):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, 40, 2)
        rgb[y : y + h, x : x + w] = rng.integers(0, 255, 3)
    return rgb


def tiles(seed=0):
    """Edges far apart, which is what the measure of blur assumes; 640 x 480."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8)).astype(np.uint8)
    return np.kron(coarse, np.ones((80, 80), np.uint8))[..., None].repeat(3, 2)


def blurred(rgb, sigma):
    return cv2.GaussianBlur(rgb, (0, 0), sigma) if sigma else rgb


def write_film(path, pictures, times_s=None):
    """Losslessly coded, each picture at its own time."""
    times_s = times_s or [i / 10 for i in range(len(pictures))]
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "yuv444p", Fraction(1, TICKS_PER_S)
        for rgb, at in zip(pictures, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = round(at * TICKS_PER_S), Fraction(1, TICKS_PER_S)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


def turn_film(path):
    """Set the display matrix of an mp4's track to a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in matrix)
    path.write_bytes(data)


def write_photos(folder, pictures, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"photo{i}.png" for i in range(len(pictures))]
    for name, rgb in zip(names, pictures, strict=True):
        Image.fromarray(rgb).save(folder / name)
    return folder


@pytest.mark.parametrize("sigma", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_blur_is_measured_in_pixels_whatever_the_contrast(sigma, contrast):
    rgb = (contrast * tiles().astype(float)).astype(np.uint8)
    assert blur_px(sharpness(blurred(rgb, sigma))) == pytest.approx(sigma, rel=0.1)


def test_blur_does_not_depend_on_the_pictures_size():
    large = cv2.resize(tiles(), (1920, 1440), interpolation=cv2.INTER_NEAREST)
    assert blur_px(sharpness(blurred(large, 7.5))) == pytest.approx(2.5, rel=0.1)


def test_motion_in_one_direction_counts_as_blur():
    moved = cv2.blur(tiles(), (15, 1))  # a box of 15 px has a sigma of 4.3 px
    assert blur_px(sharpness(moved)) == pytest.approx(15 / 12**0.5, rel=0.15)
    assert blur_px(sharpness(tiles())) < 0.5


def test_a_picture_of_nothing_counts_as_most_blurred():
    assert blur_px(sharpness(np.full((90, 120, 3), 130, np.uint8))) == 20.0


def test_photos_sort_as_people_count(tmp_path):
    paths = [tmp_path / f"Photo{i}.jpg" for i in (10, 2, 1)]
    assert [p.stem for p in sorted(paths, key=natural_key)] == ["Photo1", "Photo2", "Photo10"]


def test_pictures_are_never_enlarged():
    assert size_within(4000, 3000, 1600) == (1600, 1200)
    assert size_within(640, 480, 1600) == (640, 480)
    assert size_within(640, 480, None) == (640, 480)


def test_of_a_film_the_sharpest_of_every_stretch_of_time_is_taken(tmp_path):
    sharp = {2, 7, 13, 15, 21, 28}  # one in each of six windows of half a second
    pictures = [blurred(scene(i), 0 if i in sharp else 2) for i in range(30)]
    film = write_film(tmp_path / "a.mp4", pictures)
    result = extract_frames(SMALL, film, tmp_path / "out")
    assert {row["index"] for row in result.record["frames"] if row["chosen"]} == sharp
    assert result.kind == "film"
    passed = next(row for row in result.record["frames"] if row["index"] == 3)
    assert passed["why_not"] == "not needed: 0.20 s stands for it"
    assert passed["name"] is None


def test_windows_follow_the_films_clock_where_the_frame_rate_varies(tmp_path):
    times = [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 1.0, 2.0, 3.0]
    film = write_film(tmp_path / "a.mkv", [scene(i) for i in range(10)], times)
    result = extract_frames(FramesConfig(count=3, at_least=3), film, tmp_path / "out")
    chosen = [frame.time_s for frame in result.frames]
    assert chosen[0] <= 0.06
    assert chosen[1:] == [pytest.approx(t, abs=1e-3) for t in chosen[1:]]
    assert {round(t) for t in chosen} >= {0, 3}


def test_a_film_turned_by_its_display_matrix_comes_out_upright(tmp_path):
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[:40, :60] = 255  # upper left; after a quarter turn clockwise: upper right
    film = write_film(tmp_path / "a.mp4", [rgb] * 3)
    turn_film(film)
    first = next(read_film(film)).rgb
    assert first.shape == (WIDTH, HEIGHT, 3)
    assert first[:60, -40:].min() > 200
    assert first[:, :70].max() < 60


def test_frames_are_written_as_decoded_and_shrunk_to_the_longest_side(tmp_path):
    pictures = [scene(i) for i in range(8)]
    film = write_film(tmp_path / "a.mp4", pictures)
    config = FramesConfig(count=8, at_least=3, longest_side=80)
    result = extract_frames(config, film, tmp_path / "out")
    assert [f.name for f in result.frames] == [f"{i:04d}" for i in range(8)]
    for frame, rgb in zip(result.frames, pictures, strict=True):
        expected = cv2.resize(rgb, (80, 60), interpolation=cv2.INTER_AREA)
        assert frame.load().shape == (60, 80, 3)
        assert np.abs(frame.load().astype(int) - expected).mean() < 4  # the codec's loss
    assert (result.frames[0].width, result.frames[0].height) == (80, 60)
    assert (result.record["source_width"], result.record["source_height"]) == (WIDTH, HEIGHT)


def test_frames_that_repeat_each_other_are_left_out_and_others_take_their_place(tmp_path):
    still = [scene(0)] * 15
    film = write_film(tmp_path / "a.mp4", still + [scene(i) for i in range(1, 16)])
    result = extract_frames(SMALL, film, tmp_path / "out")
    assert len(result.frames) == 6
    assert sum(frame.time_s < 1.5 for frame in result.frames) == 1
    assert "repeated" in result.record["left_out"]


def test_what_a_step_wrote_is_read_back_and_a_second_run_leaves_nothing_of_the_first(tmp_path):
    folder = write_photos(tmp_path / "photos", [scene(i) for i in range(8)])
    extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")
    result = extract_frames(SMALL, folder, tmp_path / "out")
    assert read_frames(tmp_path / "out") == result
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6
    assert json.loads((tmp_path / "out" / "frames.json").read_text())["schema"] == 1


def test_every_photo_is_taken_in_natural_order_unless_a_count_is_given(tmp_path):
    names = [f"img{i}.png" for i in range(12)]
    folder = write_photos(tmp_path / "photos", [scene(i) for i in range(12)], names)
    (folder / "notes.txt").write_text("not a photo")
    every = extract_frames(FramesConfig(at_least=3), folder, tmp_path / "every")
    assert [frame.source for frame in every.frames] == names
    assert every.kind == "photos"
    assert every.frames[0].time_s is None
    some = extract_frames(SMALL, folder, tmp_path / "some")
    gaps = np.diff([int(f.source[3:-4]) for f in some.frames])
    assert len(some.frames) == 6
    assert gaps.max() <= 4


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        rgb = scene(i)
        rgb[:30, :30] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by a quarter clockwise
        Image.fromarray(rgb).save(folder / f"{i}.jpg", quality=95, exif=exif)
    frames = extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out").frames
    assert frames[0].load().shape == (WIDTH, HEIGHT, 3)
    assert frames[0].load()[:28, -28:].min() > 230


def test_masks_beside_the_photos_come_along_at_the_frames_size(tmp_path):
    write_photos(tmp_path / "c" / "images", [scene(i) for i in range(4)])
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[40:80, 40:120] = 200
    names = [f"photo{i}.png" for i in range(3)]  # the last photo has none
    write_photos(tmp_path / "c" / "masks", [mask] * 3, names)
    config = FramesConfig(at_least=3, longest_side=80)
    frames = extract_frames(config, tmp_path / "c", tmp_path / "out").frames
    assert [frame.mask is not None for frame in frames] == [True, True, True, False]
    loaded = np.asarray(Image.open(frames[0].mask))
    assert loaded.shape == (60, 80)
    assert set(np.unique(loaded)) == {0, 255}
    assert loaded[20:40, 20:60].all()
    assert (loaded > 0).sum() == 20 * 40


def test_transparent_photos_bring_their_mask_and_stand_on_white(tmp_path):
    rgba = [np.dstack([scene(i), np.full((HEIGHT, WIDTH), 255, np.uint8)]) for i in range(3)]
    for picture in rgba:
        picture[:60, :, 3] = 0
    folder = write_photos(tmp_path / "photos", rgba)
    frame = extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out").frames[0]
    assert frame.load()[:60].min() == 255
    assert np.asarray(Image.open(frame.mask))[:60].max() == 0
    assert np.asarray(Image.open(frame.mask))[60:].min() == 255


def test_a_mask_of_another_size_is_refused_by_name(tmp_path):
    write_photos(tmp_path / "c" / "images", [scene(i) for i in range(3)])
    write_photos(tmp_path / "c" / "masks", [np.zeros((50, 70), np.uint8)], ["photo1.png"])
    with pytest.raises(CaptureError, match=r"photo1\.png is 70 x 50 px, its photo 160 x 120 px"):
        extract_frames(FramesConfig(at_least=3), tmp_path / "c", tmp_path / "out")
    assert not (tmp_path / "out" / "frames.json").exists()


def test_a_folder_with_one_film_in_it_is_that_film(tmp_path):
    folder = tmp_path / "capture"
    folder.mkdir()
    write_film(folder / "a.mp4", [scene(i) for i in range(4)])
    assert extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out").kind == "film"
    write_film(folder / "b.mov", [scene(i) for i in range(4)])
    with pytest.raises(CaptureError, match=r"holds 2 films \(a\.mp4, b\.mov\); name one"):
        extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")


def test_blurred_pictures_are_named_with_how_blurred_they_are(tmp_path):
    pictures = [blurred(scene(i), 0 if i == 1 else 6) for i in range(5)]
    folder = write_photos(tmp_path / "photos", pictures)
    with pytest.raises(CaptureError) as error:
        extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")
    text = str(error.value)
    assert text.startswith("1 usable pictures of 5, 3 are needed: 4 pictures are blurred")
    assert "px wide, at most 3" in text
    assert "--frames.max-blur-px" in text
    assert error.value.views == ("photo0.png", "photo2.png", "photo3.png", "photo4.png")


def test_a_few_blurred_pictures_are_left_out_and_said(tmp_path):
    pictures = [blurred(scene(i), 6 if i == 1 else 0) for i in range(5)]
    folder = write_photos(tmp_path / "photos", pictures)
    result = extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")
    assert result.record["left_out"] == {"blurred": 1}
    assert [frame.source for frame in result.frames] == [f"photo{i}.png" for i in (0, 2, 3, 4)]
    assert result.record["frames"][1]["why_not"].startswith("blurred: edges are")


def test_too_few_pictures_say_how_many_are_needed(tmp_path):
    folder = write_photos(tmp_path / "photos", [scene(i) for i in range(5)])
    with pytest.raises(CaptureError, match=r"5 usable pictures of 5, 12 are needed.*at-least"):
        extract_frames(FramesConfig(), folder, tmp_path / "out")
    film = write_film(tmp_path / "still.mp4", [scene(0)] * 20)
    with pytest.raises(CaptureError, match="the camera hardly moves"):
        extract_frames(FramesConfig(), film, tmp_path / "out")


def test_mixed_sizes_are_refused_by_name(tmp_path):
    pictures = [scene(i) for i in range(4)] + [scene(4, HEIGHT, WIDTH)]
    folder = write_photos(tmp_path / "photos", pictures)
    with pytest.raises(CaptureError, match=r"first 120 x 160 px \(turned by 90 degrees\?\)") as e:
        extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")
    assert e.value.views == ("photo4.png",)


def test_files_that_cannot_be_read_are_named(tmp_path):
    folder = write_photos(tmp_path / "photos", [scene(i) for i in range(3)])
    (folder / "photo1.png").write_bytes((folder / "photo1.png").read_bytes()[:200])
    with pytest.raises(CaptureError, match=r"photo1\.png cannot be read"):
        extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film at all" * 100)
    with pytest.raises(CaptureError, match=r"broken\.mp4 cannot be read as a film"):
        extract_frames(SMALL, broken, tmp_path / "out")


def test_a_frame_that_vanished_after_its_step_is_named(tmp_path):
    folder = write_photos(tmp_path / "photos", [scene(i) for i in range(3)])
    frame = extract_frames(FramesConfig(at_least=3), folder, tmp_path / "out").frames[1]
    np.testing.assert_array_equal(frame.load(), scene(1))
    frame.image.unlink()
    with pytest.raises(CaptureError, match=r"0001\.png is gone or damaged; run the frames step"):
        frame.load()


def test_captures_without_pictures_say_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no capture"):
        extract_frames(SMALL, tmp_path / "nowhere", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CaptureError, match="holds no photos"):
        extract_frames(SMALL, empty, tmp_path / "out")
    (empty / "IMG_1.HEIC").write_bytes(b"")
    with pytest.raises(CaptureError, match=r"IMG_1\.HEIC: convert to JPEG first"):
        extract_frames(SMALL, empty, tmp_path / "out")
    photo = write_photos(tmp_path / "one", [scene(0)]) / "photo0.png"
    with pytest.raises(CaptureError, match="is one photo"):
        extract_frames(SMALL, photo, tmp_path / "out")
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as film:
        stream = film.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        for packet in itertools.chain(stream.encode(frame), stream.encode()):
            film.mux(packet)
    with pytest.raises(CaptureError, match=r"sound\.mp4 holds no pictures"):
        extract_frames(SMALL, sound, tmp_path / "out")


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="count is 5, but at_least asks for 12"):
        FramesConfig(count=5)
    with pytest.raises(ValueError, match="longest_side is 10"):
        FramesConfig(longest_side=10)
