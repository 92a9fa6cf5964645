"""Poses that are given, metres, the table, and what is said when they do not fit."""

import json
import re
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import tyro

pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[reconstruct]'")
pycolmap = pytest.importorskip("pycolmap", reason="needs pip install 'p2r_jax[reconstruct]'")

import cv2  # noqa: E402
from camera_scene import BOX, TAG_M, box_scene, tag_corners  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from p2r_jax.real2sim.cameras import step  # noqa: E402
from p2r_jax.real2sim.cameras.rig import Lens, Rig, Similarity, align, compare  # noqa: E402
from p2r_jax.real2sim.cameras.scale import ScaleConfig  # noqa: E402
from p2r_jax.real2sim.cameras.sfm import (  # noqa: E402
    SfmConfig,
    enough,
    focal_from_exif,
    interruptible,
    too_few,
)
from p2r_jax.real2sim.cameras.silhouettes import locate, read_silhouettes  # noqa: E402
from p2r_jax.real2sim.cameras.step import (  # noqa: E402
    CamerasConfig,
    doubts,
    find_cameras,
    read_cameras,
)
from p2r_jax.real2sim.cameras.tags import find_tags, scale_from_tags, triangulate_tags  # noqa: E402
from p2r_jax.real2sim.cameras.undistort import pixel_map, resampled, straight_lens  # noqa: E402
from p2r_jax.real2sim.errors import CaptureError  # noqa: E402
from p2r_jax.real2sim.views import write_views  # noqa: E402

ELSEWHERE = Similarity(
    3.7, Rotation.from_euler("xyz", [2.0, 0.3, -1.0]).as_matrix(), np.arange(3.0)
)
HERE = Similarity(1.0, np.eye(3), np.zeros(3))
POSE = 1e-6  # what reading and writing numbers may cost
TILT_DEG, HEIGHT_M = 0.3, 1.5e-3  # of a table found from 400 points with 0.2 mm noise
LENGTH = 0.06  # a visual hull of 16 views is longer than the object


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return box_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def tag_scene(tmp_path_factory):
    return box_scene(tmp_path_factory.mktemp("tagged"), tag=True)


def true_rig(scene, move=HERE, points=False) -> Rig:
    views = scene.views
    rig = Rig(
        names=tuple(view.name for view in views),
        lenses=tuple(Lens.pinhole(v.width, v.height, v.K) for v in views),
        poses=np.array([view.T_camera_world for view in views]),
        points=scene.points if points else np.zeros((0, 3)),
        colors=np.full((len(scene.points) if points else 0, 3), 90, np.uint8),
    )
    return rig.moved(move)


def rig_of(result) -> Rig:
    return Rig(
        names=tuple(view.name for view in result.views),
        lenses=tuple(Lens.pinhole(v.width, v.height, v.K) for v in result.views),
        poses=np.array([view.T_camera_world for view in result.views]),
    )


def write_transforms(path, scene, rig, **changes):
    frames = []
    for frame, pose in zip(scene.frames.frames, rig.poses, strict=True):
        matrix = np.linalg.inv(pose) @ np.diag([1, -1, -1, 1])
        row = {"file_path": f"images/{frame.source}", "transform_matrix": matrix.tolist()}
        frames.append(row)
    v = scene.views[0]
    record = {"fl_x": v.K[0, 0], "fl_y": v.K[1, 1], "cx": v.K[0, 2], "cy": v.K[1, 2]}
    record |= {"w": v.width, "h": v.height, "frames": frames}
    path.write_text(json.dumps(record | changes))
    return path


def write_colmap_text(folder, scene, rig, points):
    """By hand, after COLMAP's description of the format; every view sees every point."""
    folder.mkdir()
    v = scene.views[0]
    f, cx, cy = v.K[0, 0], v.K[0, 2], v.K[1, 2]
    camera = f"1 SIMPLE_PINHOLE {v.width} {v.height} {f} {cx} {cy}\n"
    (folder / "cameras.txt").write_text(camera)
    images = []
    for number, (frame, T) in enumerate(zip(scene.frames.frames, rig.poses, strict=True), 1):
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat()
        numbers = " ".join(repr(float(n)) for n in (w, x, y, z, *T[:3, 3]))
        images.append(f"{number} {numbers} 1 {frame.source}\n")
        images.append(" ".join(f"1.0 1.0 {p + 1}" for p in range(len(points))) + "\n")
    (folder / "images.txt").write_text("".join(images))
    track = {p: " ".join(f"{i + 1} {p}" for i in range(len(rig.poses))) for p in range(len(points))}
    rows = (f"{p + 1} {x} {y} {z} 9 9 9 0.5 {track[p]}\n" for p, (x, y, z) in enumerate(points))
    (folder / "points3D.txt").write_text("".join(rows))
    return folder


def tilt_and_height(result, scene):
    """Angle of the result's up from the true one (deg) and height of its z = 0 (m)."""
    common = [scene.views[int(view.name)].position for view in result.views]
    move = align(rig_of(result).centers, np.array(common))
    up = move.R @ [0.0, 0.0, 1.0]
    return np.rad2deg(np.arccos(min(1.0, up[2]))), float(move(np.zeros((1, 3)))[0, 2])


def run(scene, out, **settings):
    return find_cameras(CamerasConfig(**settings), scene.frames, scene.masks, out)


def test_alignment_finds_the_similarity_and_refuses_a_line():
    points = np.random.default_rng(1).normal(size=(9, 3))
    found = align(points, ELSEWHERE(points))
    np.testing.assert_allclose(found.scale, ELSEWHERE.scale)
    np.testing.assert_allclose(found.R, ELSEWHERE.R, atol=1e-12)
    with pytest.raises(ValueError, match="on a line"):
        align(np.outer(np.arange(5.0), [1, 2, 3]), points[:5])


def test_a_moved_rig_sees_moved_points_in_the_same_pixels(scene):
    rig = true_rig(scene, points=True)
    moved = rig.moved(ELSEWHERE)
    for index in (0, 7):
        before, after = (
            r.lenses[index].pixels(r.points @ r.poses[index, :3, :3].T + r.poses[index, :3, 3])
            for r in (rig, moved)
        )
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert compare(moved, rig)["center_max"] < 1e-9


def test_own_cameras_are_taken_as_they_are(scene, tmp_path):
    write_views(tmp_path / "cameras.json", scene.views, {"source": "test"})
    result = run(scene, tmp_path / "out", poses=tmp_path / "cameras.json")
    for view, truth in zip(result.views, scene.views, strict=True):
        np.testing.assert_allclose(view.T_camera_world, truth.T_camera_world, atol=POSE)
        assert view.image.samefile(truth.image)  # no lens to straighten, so no copies
        assert view.load_mask().any()
    assert result.record["scale"]["source"] == "given poses"
    again = read_cameras(tmp_path / "out")
    assert [view.name for view in again.views] == [view.name for view in scene.views]
    assert again.record["settings"] == result.record["settings"]


@pytest.mark.parametrize("form", ["transforms", "colmap text", "colmap binary", "llff"])
def test_given_poses_come_out_in_the_world_frame(scene, tmp_path, form):
    rig = true_rig(scene, ELSEWHERE)
    points = ELSEWHERE(scene.points)
    if form == "transforms":
        path = write_transforms(tmp_path / "transforms.json", scene, rig)
    elif form == "llff":
        path = tmp_path / "poses_bounds.npy"
        to_world = np.linalg.inv(rig.poses)[:, :3]
        right, down, forward, place = np.moveaxis(to_world, 2, 0)
        size = np.tile([scene.views[0].height, scene.views[0].width, 300.0], (len(place), 1))
        table = np.stack([down, right, -forward, place, size], -1).reshape(len(place), 15)
        np.save(path, np.append(table, np.ones((len(place), 2)), 1))
    else:
        path = write_colmap_text(tmp_path / "sparse", scene, rig, points)
        if form == "colmap binary":
            model, path = pycolmap.Reconstruction(path), tmp_path / "binary"
            path.mkdir()
            model.write_binary(path)
    to_middle = true_rig(scene).centers - [0, 0, BOX[2] / 2]
    distance = float(np.median(np.linalg.norm(to_middle, axis=1)))
    result = run(scene, tmp_path / "out", poses=path, scale=ScaleConfig(camera_distance_m=distance))
    difference = compare(rig_of(result), true_rig(scene))
    assert difference["rotation_max_deg"] < 1e-3
    assert difference["center_max"] < POSE
    assert difference["scale"] == pytest.approx(1, abs=0.02)  # of the distance: hull, not centre
    tilt, height = tilt_and_height(result, scene)
    assert tilt < TILT_DEG
    from_points = form.startswith("colmap")
    assert abs(height) < (HEIGHT_M if from_points else 0.006)
    expected = "points beside" if from_points else "assumed: cameras held level"
    assert result.record["table"]["source"].startswith(expected)
    first = result.views[0].position
    assert abs(first[0]) < 0.1 * abs(first[1])
    assert first[1] < 0 < first[2]


def test_poses_without_points_find_the_foot_of_the_object_from_the_given_up(scene, tmp_path):
    path = write_transforms(tmp_path / "transforms.json", scene, true_rig(scene, ELSEWHERE))
    up = tuple(float(x) for x in ELSEWHERE.R @ [0, 0, 1.0])
    scale = ScaleConfig(baseline=("0000", "0008", _baseline(scene, 0, 8)))
    result = run(scene, tmp_path / "out", poses=path, up=up, scale=scale)
    tilt, height = tilt_and_height(result, scene)
    assert tilt < 1e-3
    assert abs(height) < 0.006


def _baseline(scene, a, b):
    return float(np.linalg.norm(scene.views[a].position - scene.views[b].position))


def test_each_way_to_metres_gives_the_true_scale(tag_scene, tmp_path):
    path = write_transforms(tmp_path / "transforms.json", tag_scene, true_rig(tag_scene, ELSEWHERE))
    scale = ScaleConfig(
        tag_size_m=TAG_M,
        object_length_m=float(BOX[0]),
        baseline=("0000", "0005", _baseline(tag_scene, 0, 5)),
    )
    result = run(tag_scene, tmp_path / "out", poses=path, scale=scale, table="tag")
    ways = result.record["scale"]["ways"]
    assert ways["baseline"] == pytest.approx(1 / ELSEWHERE.scale, rel=1e-9)
    assert ways["tag"] == pytest.approx(1 / ELSEWHERE.scale, rel=0.004)
    assert ways["object length"] == pytest.approx(1 / ELSEWHERE.scale, rel=LENGTH)
    assert result.record["scale"]["source"] == "tag"
    assert result.record["table"]["source"] == "AprilTag"
    tilt, height = tilt_and_height(result, tag_scene)
    assert tilt < 2
    assert abs(height) < HEIGHT_M


def test_tags_are_found_to_a_fraction_of_a_pixel_and_triangulated(tag_scene):
    rig = true_rig(tag_scene)
    seen = find_tags(tag_scene.frames.frames, "36h11")
    errors = [
        np.abs(seen[v.name][5] - v.project(tag_corners())[:, :2]).mean()
        for v in tag_scene.views
        if 5 in seen[v.name]
    ]
    assert len(errors) > 8
    assert np.mean(errors) < 0.25
    (tag,) = triangulate_tags(rig, seen)
    np.testing.assert_allclose(tag.corners, tag_corners(), atol=6e-4)
    assert tag.normal[2] > 0.99
    assert triangulate_tags(rig, seen, wanted=[7]) == []
    with pytest.raises(CaptureError, match="no AprilTag could be placed"):
        scale_from_tags([], TAG_M, seen)
    bent = replace(tag, misfit=0.2)
    with pytest.raises(CaptureError, match="no square in space"):
        scale_from_tags([bent], TAG_M, seen)


def test_without_a_scale_every_way_to_give_one_is_named(scene, tmp_path):
    path = write_transforms(tmp_path / "transforms.json", scene, true_rig(scene))
    with pytest.raises(CaptureError) as caught:
        run(scene, tmp_path / "out", poses=path)
    for way in ("tag-size-m", "object-length-m", "camera-distance-m", "baseline", "metric"):
        assert f"--cameras.scale.{way}" in str(caught.value)
    with pytest.raises(CaptureError, match="pictures have no scale"):
        run(scene, tmp_path / "out")  # before structure from motion has cost minutes
    with pytest.raises(CaptureError, match="never in metres"):
        run(scene, tmp_path / "out", scale=ScaleConfig(metric=True))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (ScaleConfig(camera_distance_m=450.0), "object is 1.* m long"),
        (ScaleConfig(camera_distance_m=0.001), "object is 0.000.* m long"),
        (ScaleConfig(metric=True, camera_distance_m=0.6), "one of the two lengths is wrong"),
        (ScaleConfig(baseline=("0000", "0099", 1.0)), "'0099', which has no pose"),
        (ScaleConfig(tag_size_m=0.05), "seen in 0 of 16"),
    ],
)
def test_an_impossible_scale_is_refused(scene, tmp_path, scale, message):
    path = write_transforms(tmp_path / "transforms.json", scene, true_rig(scene))
    with pytest.raises(CaptureError, match=message):
        run(scene, tmp_path / "out", poses=path, scale=scale)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda poses: np.roll(poses, 3, axis=0), "in common fills"),
        (
            lambda poses: np.concatenate([poses[:8, [1, 0, 2, 3]], poses[8:]]),
            "leave the cameras backward",
        ),
    ],
    ids=["of other frames", "axes mixed up"],
)
def test_poses_that_the_masks_contradict_are_refused(scene, tmp_path, spoil, message):
    rig = true_rig(scene)
    path = write_transforms(
        tmp_path / "transforms.json", scene, replace(rig, poses=_proper(spoil(rig.poses)))
    )
    with pytest.raises(CaptureError, match=f"poses and masks disagree.*{message}") as caught:
        run(scene, tmp_path / "out", poses=path, scale=ScaleConfig(metric=True))
    assert caught.value.views
    assert caught.value.picture.is_file()
    assert not (tmp_path / "out" / "cameras.json").exists()


def _proper(poses):
    """Rotations without mirrors."""
    mirrored = np.linalg.det(poses[:, :3, :3]) < 0
    poses = poses.copy()
    poses[mirrored, 2] *= -1
    return poses


def test_poses_of_another_capture_are_refused(scene, tmp_path):
    path = write_transforms(tmp_path / "transforms.json", scene, true_rig(scene))
    path.write_text(path.read_text().replace("photo", "IMG_"))
    metric = ScaleConfig(metric=True)
    with pytest.raises(CaptureError, match=r"poses for 0 of 16 frames.*by file name"):
        run(scene, tmp_path / "out", poses=path, scale=metric)
    write_transforms(path, scene, true_rig(scene), w=240, h=320)
    with pytest.raises(CaptureError, match="turned or cropped"):
        run(scene, tmp_path / "out", poses=path, scale=metric)
    np.save(tmp_path / "poses_bounds.npy", np.ones((5, 17)))
    with pytest.raises(CaptureError, match="5 poses, the capture 16 pictures"):
        run(scene, tmp_path / "out", poses=tmp_path / "poses_bounds.npy", scale=metric)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed"),
        ("{}", "KeyError: 'frames'"),
        ('{"frames": [{"file_path": "a", "transform_matrix": [[1]]}]}', "malformed"),
        (
            '{"w": 4, "h": 3, "fl_x": 1, "frames": [{"file_path": "a", "transform_matrix": '
            "[[2,0,0,0],[0,2,0,0],[0,0,2,0],[0,0,0,1]]}]}",
            "no rotation",
        ),
        ('{"camera_model": "OPENCV_FISHEYE", "frames": [{}]}', "OPENCV_FISHEYE is not supported"),
    ],
)
def test_malformed_poses_are_named(scene, tmp_path, text, message):
    path = tmp_path / "transforms.json"
    path.write_text(text)
    with pytest.raises(CaptureError, match=message):
        run(scene, tmp_path / "out", poses=path, scale=ScaleConfig(metric=True))


def test_poses_that_are_not_there_list_the_forms(scene, tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"transforms\.json.*COLMAP.*LLFF"):
            run(scene, tmp_path / "out", poses=path)


def test_missing_and_empty_masks_are_named(scene, tmp_path):
    write_views(tmp_path / "cameras.json", scene.views, {})
    config = CamerasConfig(poses=tmp_path / "cameras.json")
    some = {name: mask for name, mask in scene.masks.items() if name != "0003"}
    with pytest.raises(CaptureError, match=r"no mask.*0003"):
        find_cameras(config, scene.frames, some, tmp_path / "out")
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((240, 320), np.uint8))
    black = scene.masks | {"0004": tmp_path / "black.png"}
    with pytest.raises(CaptureError, match=r"empty.*0004"):
        find_cameras(config, scene.frames, black, tmp_path / "out")


def test_a_bent_lens_is_straightened_like_opencv_does(scene, tmp_path):
    bend = {"k1": -0.12, "k2": 0.03, "p1": 0.002, "p2": -0.001}
    path = write_transforms(tmp_path / "transforms.json", scene, true_rig(scene), **bend)
    result = run(scene, tmp_path / "out", poses=path, scale=ScaleConfig(metric=True))
    assert result.record["lens"]["model"] == "OPENCV"
    assert result.record["lens"]["bend_px"] > 2
    view = result.views[3]
    assert view.image.parent == tmp_path / "out" / "images"
    assert view.load_image().shape == (view.height, view.width, 3)
    lens = Lens("OPENCV", 320, 240, (300.0, 300.0, 160.0, 120.0, *bend.values()))
    straight = straight_lens(lens)
    to_opencv = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # the first pixel's middle is 0
    K, new = lens.matrix - to_opencv, straight.matrix - to_opencv
    size = (straight.width, straight.height)
    x, y = cv2.initUndistortRectifyMap(
        K, np.array(list(bend.values())), None, new, size, cv2.CV_32FC1
    )
    np.testing.assert_allclose(pixel_map(lens, straight) - 0.5, np.stack([x, y], -1), atol=2e-3)
    ramp = np.tile(np.arange(320, dtype=np.uint8), (240, 1))
    middle = resampled(ramp, pixel_map(lens, straight))[straight.height // 2]
    assert np.all(np.diff(middle[20:-90].astype(int)) >= 0)


def test_sfm_on_pictures_without_texture_says_what_to_do(scene, tmp_path):
    few = replace(scene.frames, frames=scene.frames.frames[:6])
    config = CamerasConfig(scale=ScaleConfig(camera_distance_m=0.4))
    with pytest.raises(CaptureError, match=r"placed 0 of 6 frames.*texture") as caught:
        find_cameras(config, few, scene.masks, tmp_path / "out")
    assert caught.value.views == tuple(f"{i:04d}" for i in range(6))
    assert caught.value.picture.is_file()
    with pytest.raises(CaptureError, match="3 frames are too few"):
        find_cameras(config, replace(few, frames=few.frames[:3]), scene.masks, tmp_path / "out")


def test_sfm_that_places_too_few_frames_names_the_others_and_the_groups(scene, tmp_path):
    rig = true_rig(scene)
    some = replace(rig, names=rig.names[:7], poses=rig.poses[:7], notes={"models": [7, 4]})
    frames, sheet = scene.frames.frames, tmp_path / "sheet.jpg"
    error = too_few(SfmConfig(), some, frames, scene.masks, sheet)
    assert re.search(r"7 of 16 frames.*60 %.*groups of \[7, 4\].*0007, ", str(error))
    assert error.picture.is_file()
    assert not enough(SfmConfig(), some, frames)
    assert not enough(SfmConfig(), None, frames)
    assert enough(SfmConfig(), replace(rig, names=rig.names[:10]), frames)


def _behind(poses):
    """Poses that look away from the object."""
    poses = poses.copy()
    poses[:, :3] = np.diag([1.0, -1.0, -1.0]) @ poses[:, :3]
    return poses


TRUE, TURNTABLE, ALONE = ({"reprojection_px": error} for error in (0.3, 0.9, 0.35))


@pytest.mark.parametrize(
    ("spoil", "notes", "expected"),
    [
        (None, TRUE, "scene"),
        (_behind, TRUE, "object"),
        (lambda poses: poses[::-1], TURNTABLE, "object"),
        (None, TURNTABLE, "scene"),
    ],
    ids=["plain", "masks disagree", "turntable", "doubted but right"],
)
def test_sfm_asks_the_object_alone_when_the_scene_is_doubtful(
    scene, tmp_path, monkeypatch, spoil, notes, expected
):
    tried = []

    def fake(config, attempt, frames, masks, work):
        tried.append((attempt.look_at, attempt.loose))
        rig = true_rig(scene, ELSEWHERE, points=True)
        spoiled = spoil and attempt.look_at == "scene"
        poses = spoil(rig.poses) if spoiled else rig.poses
        notes_now = notes if attempt.look_at == "scene" else ALONE
        return replace(rig, poses=poses, notes={"look_at": attempt.look_at, **notes_now})

    monkeypatch.setattr(step, "run_sfm", fake)
    result = run(scene, tmp_path / "out", scale=ScaleConfig(camera_distance_m=0.48))
    assert result.record["poses"]["look_at"] == expected
    alone = spoil is None and notes == TRUE
    assert tried == [("scene", False)] + ([] if alone else [("object", False)])
    assert compare(rig_of(result), true_rig(scene))["rotation_max_deg"] < 1e-3
    tilt, height = tilt_and_height(result, scene)
    assert tilt < TILT_DEG
    assert abs(height) < HEIGHT_M
    assert (tmp_path / "out" / "points.ply").is_file()


def test_doubts_about_poses_are_kept_when_the_object_alone_gives_none(scene, tmp_path, monkeypatch):
    def fake(config, attempt, frames, masks, work):
        if attempt.look_at == "object":
            return None
        return replace(true_rig(scene, points=True), notes=TURNTABLE)

    monkeypatch.setattr(step, "run_sfm", fake)
    result = run(scene, tmp_path / "out", scale=ScaleConfig(camera_distance_m=0.48))
    assert result.record["poses"]["doubts"] == ["reprojection error 0.90 px"]


def test_views_from_one_side_are_doubted(scene):
    rig, silhouettes = true_rig(scene), read_silhouettes(true_rig(scene), scene.masks)
    rig = replace(rig, notes=TRUE)
    assert doubts(rig, locate(rig, silhouettes)) == []
    near = replace(rig, names=rig.names[:4], lenses=rig.lenses[:4], poses=rig.poses[:4])
    seen = read_silhouettes(near, scene.masks)
    (why,) = doubts(near, locate(near, seen))
    assert "all views within" in why


def test_ctrl_c_ends_a_long_call_of_pycolmap():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
    ended = []

    def long_call(cancellation_token):
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        for _ in range(500):
            if cancellation_token.is_cancelled:
                ended.append(True)
                return
            time.sleep(0.01)

    try:
        with pytest.raises(KeyboardInterrupt):
            interruptible(long_call)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True]


def test_the_focal_length_comes_from_exif_of_the_photos(tmp_path):
    from PIL import Image

    photo = Image.new("RGB", (40, 30))
    exif = photo.getexif()
    exif.get_ifd(0x8769)[0xA405] = 26
    photo.save(tmp_path / "photo.jpg", exif=exif)
    focal = focal_from_exif(tmp_path / "photo.jpg", 4000, 3000)
    assert focal == pytest.approx(26 / 43.27 * 5000)
    Image.new("RGB", (40, 30)).save(tmp_path / "plain.jpg")
    assert focal_from_exif(tmp_path / "plain.jpg", 40, 30) is None


def test_the_command_line_is_the_config_tree():
    assert tyro.cli(CamerasConfig, args=[]) == CamerasConfig()
    args = ["--scale.baseline", "0000", "0012", "0.31", "--up", "0", "0", "1", "--poses", "t.json"]
    assert tyro.cli(CamerasConfig, args=args).scale.baseline == ("0000", "0012", 0.31)
    with pytest.raises(ValueError, match="must be positive"):
        ScaleConfig(tag_size_m=-0.05)
    with pytest.raises(ValueError, match="give those as well"):
        CamerasConfig(up=(0.0, 0.0, 1.0))
