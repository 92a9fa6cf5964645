"""The apriltag tracker on rendered pictures with known poses, in files and before a camera."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from p2r_jax.deploy.protocols import DeviceError, Tracker
from p2r_jax.deploy.trackers import TrackerConfig, make_tracker
from p2r_jax.deploy.trackers.apriltag import AprilTagConfig, AprilTagTracker
from p2r_jax.deploy.trackers.tags import Tag, load_setup, save_setup

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
from benchmarks import apriltag_accuracy as pictures  # noqa: E402
from p2r_jax.deploy.trackers import tags  # noqa: E402

SETTINGS = pictures.Settings(scenes=2, poses=4)
POSITION_M, YAW_RAD = 3e-3, np.deg2rad(1.0)  # the marks, at 0.6 m and 640 x 480


class SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self, time_s=10.0):
        self.time_s = time_s

    def now(self):
        return self.time_s

    def sleep_until(self, time_s):
        self.time_s = max(self.time_s, time_s)


@pytest.fixture(scope="module")
def scene():
    """A setup with the camera's true place, and pictures of three poses."""
    rng = np.random.default_rng(3)
    setup = pictures.make_setup(SETTINGS, pictures.random_camera(SETTINGS, rng))
    poses = [(0.28, 0.03, 3.1), (0.30, -0.05, -3.1), (0.33, 0.0, 0.4)]
    return setup, poses, [pictures.render(setup, pose, SETTINGS, rng) for pose in poses]


@pytest.fixture
def film(scene, tmp_path):
    """A losslessly written film at 10 Hz: three poses, then a picture without the object."""
    setup, _, images = scene
    blank = pictures.render(setup, None, SETTINGS, np.random.default_rng(4))
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10.0, (640, 480))
    for image in (*images, blank):
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    writer.release()
    return path


def saved(setup, tmp_path, **changes):
    path = tmp_path / "setup.json"
    save_setup(path, replace(setup, **changes))
    return path


def assert_near(seen, pose):
    assert np.hypot(seen[0] - pose[0], seen[1] - pose[1]) < POSITION_M
    assert abs(np.angle(np.exp(1j * (seen[2] - pose[2])))) < YAW_RAD


# geometry --------------------------------------------------------------------


def test_poses_on_rendered_pictures_are_within_the_marks():
    found = pictures.measure(SETTINGS)
    assert found["missed"] == 0
    assert found["position_m"]["max"] < POSITION_M
    assert found["yaw_deg"]["max"] < np.rad2deg(YAW_RAD)


def test_rays_meet_the_plane_where_points_were_projected_from(scene):
    setup, _, _ = scene
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(0.2, 0.4, 20), rng.uniform(-0.1, 0.1, 20), np.full(20, 0.04)]
    setup = replace(setup, distortion=np.array([-0.2, 0.05, 1e-3, -1e-3, 0.0]))
    T = np.linalg.inv(setup.T_world_camera)
    turn = cv2.Rodrigues(T[:3, :3])[0]
    pixels, _ = cv2.projectPoints(points, turn, T[:3, 3], setup.matrix, setup.distortion)
    found = tags.rays_on_plane(setup, pixels[:, 0], 0.04)
    np.testing.assert_allclose(found, points[:, :2], atol=1e-5)


def test_corners_of_a_wrong_size_are_not_a_pose(scene):
    setup, poses, images = scene
    corners = tags.Detector()(images[0], setup.object_ids)
    assert_near(tags.object_pose(setup, corners), poses[0])
    wider = replace(setup.object_tags[0], size_m=0.06)
    assert tags.object_pose(replace(setup, object_tags=(wider,)), corners) is None
    assert tags.object_pose(setup, {}) is None


def test_tag_seen_twice_is_not_seen(scene):
    setup, _, images = scene
    twice = np.concatenate([images[0], images[0]], axis=1)
    assert tags.Detector()(images[0], setup.object_ids).keys() == {pictures.OBJECT_TAG}
    assert tags.Detector()(twice, setup.object_ids) == {}


def test_table_calibration_finds_the_camera_and_refuses_what_does_not_fit(scene):
    setup, _, images = scene
    corners = tags.Detector()(images[0], setup.table_ids)
    unknown = replace(setup, T_world_camera=None)
    found = tags.calibrate(unknown, [corners]).T_world_camera
    np.testing.assert_allclose(found, setup.T_world_camera, atol=5e-3)
    with pytest.raises(DeviceError, match=r"none of the table's tags \[0, 1, 2, 3\] was seen"):
        tags.calibrate(unknown, [{}])
    crooked = tuple(replace(tag, x=tag.x * 1000) for tag in setup.table_tags[:-1])
    with pytest.raises(DeviceError, match="in metres"):
        tags.calibrate(replace(unknown, table_tags=(*crooked, setup.table_tags[-1])), [corners])


# tracker ---------------------------------------------------------------------


def test_film_is_shown_at_its_pace_and_a_lost_tag_leaves_the_last_pose(scene, film, tmp_path):
    setup, poses, _ = scene
    clock = SteppedClock()
    path = saved(setup, tmp_path, T_world_camera=None)
    config = AprilTagConfig(setup=path, source=str(film), save_setup=tmp_path / "found.json")
    tracker = make_tracker("apriltag", TrackerConfig(apriltag=config), None, clock)
    assert isinstance(tracker, Tracker)
    tracker.connect()
    for index, pose in enumerate(poses):
        seen = tracker.get_pose()
        assert_near(seen, pose)
        assert seen.stamp_s == pytest.approx(10.0 + 0.1 * index)
        clock.time_s += 0.1
    clock.time_s += 5.0
    assert tracker.get_pose() == seen
    tracker.disconnect()
    tracker.disconnect()
    found = load_setup(tmp_path / "found.json").T_world_camera
    np.testing.assert_allclose(found, setup.T_world_camera, atol=5e-3)


@pytest.mark.parametrize(
    ("last", "message"),
    [([], "gives no more frames"), ([np.zeros((720, 1280))], "1280 x 720, .* for 640 x 480")],
)
def test_camera_frames_carry_the_time_of_their_light(scene, tmp_path, monkeypatch, last, message):
    setup, poses, images = scene

    class FakeCamera:
        def __init__(self, source):
            self.left = [images[0], images[1], *last]

        def isOpened(self):  # noqa: N802
            return True

        def set(self, what, value):
            pass

        def grab(self):
            return bool(self.left)

        def retrieve(self):
            return True, self.left.pop(0)

        def release(self):
            self.left = []

    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    config = AprilTagConfig(setup=saved(setup, tmp_path), source="0", latency_s=0.05)
    tracker = AprilTagTracker(config, SteppedClock())
    tracker.connect()
    tracker._background._thread.join(timeout=5)
    with pytest.raises(DeviceError, match=message):
        tracker.get_pose()
    newest = tracker._background._newest
    assert newest.stamp_s == pytest.approx(9.95)
    assert_near(newest, poses[1])
    tracker.disconnect()


def test_missing_devices_and_files_are_named(scene, tmp_path, monkeypatch):
    setup, _, _ = scene
    with pytest.raises(ValueError, match=r"--trackers\.apriltag\.setup FILE"):
        AprilTagTracker(AprilTagConfig(), SteppedClock())
    with pytest.raises(FileNotFoundError, match="no apriltag setup at"):
        AprilTagTracker(AprilTagConfig(setup=tmp_path / "none.json"), SteppedClock())
    path = saved(setup, tmp_path)
    tracker = AprilTagTracker(AprilTagConfig(setup=path, source="none.mp4"), SteppedClock())
    with pytest.raises(DeviceError, match=r"no camera and no file none\.mp4"):
        tracker.connect()
    with pytest.raises(DeviceError, match=r"call connect\(\) first"):
        tracker.get_pose()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"p2r_jax\[hardware\]"):
        tracker.connect()


# files -----------------------------------------------------------------------


def test_setup_file_round_trip(scene, tmp_path):
    setup, _, _ = scene
    loaded = load_setup(saved(setup, tmp_path))
    assert loaded.object_tags == setup.object_tags
    assert loaded.table_tags == setup.table_tags
    np.testing.assert_array_equal(loaded.matrix, setup.matrix)
    np.testing.assert_array_equal(loaded.T_world_camera, setup.T_world_camera)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"object_tags": []}, "no tag on the object"),
        ({"object_tags": [vars(Tag(0, 0.04, 0, 0, 0))]}, "a tag is named twice"),
        ({"object_tags": [vars(Tag(9, 40.0, 0, 0, 0))]}, "sizes are in metres"),
        ({"object_tags": [{"id": 9}]}, "missing or unknown entry"),
        ({"camera": {"matrix": [[1.0]], "width": 640, "height": 480}}, "must be 3 x 3"),
        ({"table_tags": [], "T_world_camera": None}, "the camera's place is unknown"),
        ({"T_world_camera": (2 * np.eye(4)).tolist()}, "not a rotation and a translation"),
        ({"schema": 99}, 'no apriltag setup, which has "schema": 1'),
    ],
)
def test_bad_setup_is_refused_with_its_reason(scene, tmp_path, change, message):
    path = saved(scene[0], tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_setup(path)
