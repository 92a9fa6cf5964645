"""Trackers by name: motion capture against a fake of its library, and replay of recordings."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from p2r_jax.deploy.protocols import DeviceError, TrackedPose, Tracker
from p2r_jax.deploy.record import open_run
from p2r_jax.deploy.records import RunHeader, StepRecord
from p2r_jax.deploy.timing import WallClock
from p2r_jax.deploy.trackers import ReplayConfig, TrackerConfig, make_tracker
from p2r_jax.deploy.trackers.background import Background
from p2r_jax.deploy.trackers.mocap import MocapConfig, MocapTracker, load_calibration
from p2r_jax.deploy.trackers.planar import fit_planar, planar_transform, quaternion_transform
from p2r_jax.deploy.trackers.replay import ReplayTracker
from p2r_jax.pushlog.files import write_log
from p2r_jax.pushlog.log import PushLog

FAKE_LIBRARY = '''
"""Stands in for PyPI's motioncapture: frames from a JSON file, one every 20 ms."""
import json, time
from types import SimpleNamespace

class MotionCapture:
    def __init__(self, frames):
        self._frames, self.rigidBodies = iter(frames), {}

    def waitForNextFrame(self):
        time.sleep(0.02)
        frame = next(self._frames, None)
        if frame is None:
            time.sleep(60)
        self.rigidBodies = {
            name: SimpleNamespace(
                name=name, position=p[:3],
                rotation=SimpleNamespace(w=p[3], x=p[4], y=p[5], z=p[6]),
            )
            for name, p in frame.items()
        }

def connect(kind, settings):
    if kind != "optitrack":
        raise RuntimeError("Unknown motion capture type!")
    return MotionCapture(json.load(open(settings["hostname"])))
'''


def about_z(yaw):
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


@pytest.fixture
def mocap(tmp_path, monkeypatch):
    """Makes trackers of the fake library, which shows the frames that they are given."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "motioncapture.py").write_text(FAKE_LIBRARY)
    monkeypatch.setenv("PYTHONPATH", str(library))
    made = []

    def tracker(frames, **changes):
        file = tmp_path / "frames.json"
        file.write_text(json.dumps(frames))
        config = replace(MocapConfig(host=str(file), body="T", timeout_s=3.0), **changes)
        made.append(MocapTracker(config, WallClock()))
        return made[-1]

    yield tracker
    for each in made:
        each.disconnect()


def wait_for(tracker, accept):
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        pose = tracker.get_pose()
        if accept(pose):
            return pose
        time.sleep(0.005)
    raise AssertionError(f"not seen in time; last {tracker.get_pose()}")


# planar geometry -------------------------------------------------------------


def test_fit_finds_the_pose_and_its_error():
    points = np.random.default_rng(0).normal(size=(6, 2))
    T = planar_transform(0.1, -0.2, 2.5)
    pose, error = fit_planar(points, points @ T[:2, :2].T + T[:2, 2])
    np.testing.assert_allclose(pose, (0.1, -0.2, 2.5), atol=1e-12)
    assert error < 1e-12
    assert fit_planar(points, 2 * points)[1] > 0.1


# motion capture --------------------------------------------------------------


def test_mocap_pose_is_in_the_world_and_stamped_at_capture(mocap, tmp_path):
    y_up = np.array([[0, 0, 1, 0.5], [1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    offset = quaternion_transform([0.01, 0.0, 0.0], about_z(0.2))
    T_world_body = quaternion_transform([0.3, -0.1, 0.02], about_z(3.0))
    T_mocap_body = np.linalg.inv(y_up) @ T_world_body
    w = np.sqrt(1 + np.trace(T_mocap_body[:3, :3])) / 2
    R = T_mocap_body[:3, :3]
    q = [
        w,
        (R[2, 1] - R[1, 2]) / (4 * w),
        (R[0, 2] - R[2, 0]) / (4 * w),
        (R[1, 0] - R[0, 1]) / (4 * w),
    ]
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(
        {"schema": 1, "T_world_mocap": y_up.tolist(), "T_body_object": offset.tolist()}
    ))  # fmt: skip
    tracker = mocap([{"T": [*T_mocap_body[:3, 3], *q]}], calibration=file, latency_s=0.05)
    before = time.perf_counter()
    tracker.connect()
    pose = tracker.get_pose()
    expected = T_world_body @ offset
    np.testing.assert_allclose(pose[:2], expected[:2, 3], atol=1e-9)
    assert np.angle(np.exp(1j * (pose.yaw - 3.2))) == pytest.approx(0.0, abs=1e-9)
    assert -np.pi <= pose.yaw <= np.pi
    assert before - 0.05 <= pose.stamp_s <= time.perf_counter() - 0.05
    assert isinstance(tracker, Tracker)


def test_mocap_body_that_is_lost_or_frozen_or_upside_down_keeps_its_old_stamp(mocap):
    good = [0.3, 0.0, 0.02, *about_z(0.5)]
    upside_down = [0.3, 0.2, 0.02, 0.0, 1.0, 0.0, 0.0]
    broken = [float("nan"), 0.0, 0.0, *about_z(0.0)]
    frames = [{"T": good}, {"T": good}, {"other": good}, {"T": upside_down}, {"T": broken}, {}]
    tracker = mocap(frames)
    tracker.connect()
    first = tracker.get_pose()
    time.sleep(0.3)
    assert tracker.get_pose() == first


def test_mocap_goes_on_after_a_gap_with_a_new_stamp(mocap):
    tracker = mocap([{"T": [0.3, 0, 0, *about_z(3.1)]}, {}, {"T": [0.31, 0, 0, *about_z(-3.1)]}])
    tracker.connect()
    first = tracker.get_pose()
    pose = wait_for(tracker, lambda pose: pose.x > 0.305)
    assert pose.yaw == pytest.approx(-3.1)
    assert 0.02 < pose.stamp_s - first.stamp_s < 1.0


def test_mocap_says_what_is_missing(mocap, monkeypatch):
    with pytest.raises(DeviceError, match=r"no pose of 'T'.*\(bodies: Tee, hand\)"):
        mocap([{"Tee": [0, 0, 0, 1, 0, 0, 0], "hand": [0, 0, 0, 1, 0, 0, 0]}] * 9,
              timeout_s=1.0).connect()  # fmt: skip
    with pytest.raises(DeviceError, match="leans 180 deg; is T_world_mocap right"):
        mocap([{"T": [0, 0, 0, 0, 1, 0, 0]}], timeout_s=1.0).connect()
    with pytest.raises(DeviceError, match="Unknown motion capture type"):
        mocap([], system="none").connect()
    tracker = mocap([{"T": [0, 0, 0, 1, 0, 0, 0]}])
    with pytest.raises(DeviceError, match=r"call connect\(\) first"):
        tracker.get_pose()
    tracker.connect()
    tracker._process.kill()
    with pytest.raises(DeviceError, match="its process ended"):
        wait_for(tracker, lambda pose: False)
    with pytest.raises(ValueError, match=r"--trackers\.mocap\.host"):
        make_tracker("mocap", TrackerConfig(), None, WallClock())


def test_mocap_is_not_disturbed_by_a_library_that_prints(mocap, tmp_path):
    file = tmp_path / "library" / "motioncapture.py"
    chatty = "time.sleep(0.02); print('a frame'); __import__('os').write(1, b'connected\\n')"
    file.write_text(FAKE_LIBRARY.replace("time.sleep(0.02)", chatty))
    tracker = mocap([{"T": [0.3, 0.1, 0, *about_z(0.2)]}, {"T": [0.31, 0.1, 0, *about_z(0.2)]}])
    tracker.connect()
    assert wait_for(tracker, lambda pose: pose.x > 0.305).y == pytest.approx(0.1)
    out = tracker._process.stdout
    tracker.disconnect()
    assert out.closed


def test_mocap_without_the_library_names_the_extra(mocap, monkeypatch, tmp_path):
    (tmp_path / "library" / "motioncapture.py").write_text("raise ImportError('none')")
    with pytest.raises(DeviceError, match=r"p2r_jax\[hardware\]"):
        mocap([]).connect()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ValueError, "is not JSON"),
        ('{"schema": 2}', ValueError, 'no mocap calibration, which has "schema": 1'),
        ('{"schema": 1}', ValueError, "T_world_mocap is missing"),
        ('{"schema": 1, "T_world_mocap": [1], "T_body_object": [1]}', ValueError, "4 x 4"),
    ],
)
def test_bad_calibration_is_refused(tmp_path, text, error, message):
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(error, match=message):
        load_calibration(file)


# background ------------------------------------------------------------------


def test_background_passes_on_the_readers_failure():
    def fail():
        raise DeviceError("cable pulled")

    reader = Background("test", fail)
    reader.start()
    with pytest.raises(DeviceError, match="cable pulled"):
        reader.wait(1.0)
    reader.stop()


# replay ----------------------------------------------------------------------


class SteppedClock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.time_s = 100.0

    def now(self):
        return self.time_s


def test_replays_a_log_of_pushes_at_its_pace(tmp_path):
    t = np.array([0.0, 0.1, 0.2, 0.0, 0.1])
    pose = np.array([[0, 0, 3.1], [0.01, 0, np.nan], [0.02, 0, 3.2], [0.5, 0, 0], [0.5, 0, 0]])
    pose[1] = np.nan
    log = PushLog("two", None, None, np.array([1, 1, 1, 2, 2]), t, pose, np.full((5, 2), 0.3))
    write_log(tmp_path / "two.npz", log)
    clock = SteppedClock()
    config = TrackerConfig(replay=ReplayConfig(tmp_path / "two.npz"))
    tracker = make_tracker("replay", config, None, clock)
    tracker.connect()
    assert tracker.get_pose() == TrackedPose(0.0, 0.0, pytest.approx(3.1), 100.0)
    clock.time_s += 0.15
    assert tracker.get_pose().stamp_s == 100.0
    clock.time_s += 10.0
    last = tracker.get_pose()
    assert last == TrackedPose(0.02, 0.0, pytest.approx(3.2 - 2 * np.pi), pytest.approx(100.2))
    second = ReplayTracker(ReplayConfig(tmp_path / "two.npz", push=2), clock)
    second.connect()
    assert second.get_pose().x == 0.5
    tracker.disconnect()
    with pytest.raises(DeviceError, match=r"call connect\(\) first"):
        tracker.get_pose()


def test_replays_a_run_with_the_stamps_of_its_poses(tmp_path):
    header = RunHeader(
        "push_tblock", 1.0, 0.03, ("com_object_x",), (0.3, -0.2, 0.0), "sim", "sim",
        ((0, 0),), ((0, 0),), 0.0, 0.0,
    )  # fmt: skip
    pair, one = (0.0, 0.0), (0.0,)
    writer = open_run(tmp_path / "run", header)
    for step, x in enumerate((0.1, 0.2, 0.3)):
        writer.step(StepRecord(
            step, float(step), (x, 0.0, 0.0), step - 0.05, pair, pair, pair, pair, pair,
            one, one, one, one, one, one, one,
        ))  # fmt: skip
    writer.close("done")
    clock = SteppedClock()
    tracker = ReplayTracker(ReplayConfig(tmp_path / "run"), clock)
    tracker.connect()
    clock.time_s += 1.0
    assert tracker.get_pose() == TrackedPose(0.2, 0.0, 0.0, pytest.approx(101.0))


def test_replay_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"--trackers\.replay\.path"):
        ReplayTracker(ReplayConfig(), SteppedClock())
    with pytest.raises(FileNotFoundError):
        ReplayTracker(ReplayConfig(tmp_path / "none.npz"), SteppedClock())
    with pytest.raises(KeyError, match="no tracker 'vive'"):
        make_tracker("vive", TrackerConfig(), None, WallClock())
    with pytest.raises(ValueError, match="sees the simulated robot only, not 'xarm'"):
        make_tracker("sim", TrackerConfig(), SimpleNamespace(name="xarm"), WallClock())
