"""AprilTags on the object, seen by a camera or in its film."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2r_jax.deploy.protocols import Clock, DeviceError, TrackedPose
from p2r_jax.deploy.trackers.background import Background
from p2r_jax.deploy.trackers.tags import (
    Corners,
    Detector,
    calibrate,
    load_setup,
    object_pose,
    opencv,
    save_setup,
)

CALIBRATION_FRAMES = 10


@dataclass(frozen=True)
class AprilTagConfig:
    """A camera or a film of one, and its setup.

    Attributes:
      setup: JSON of ``TagSetup``.
      source: number of a camera, or a video file.
      latency_s: from the light to the arrival of a camera's frame; ``p2r deploy --check``
        measures it. Frames of a file have none.
      timeout_s: how long to wait for the first frames.
      save_setup: write the setup here, with the place of the camera that was found.
    """

    setup: Path | None = None
    source: str = "0"
    latency_s: float = 0.03
    timeout_s: float = 5.0
    save_setup: Path | None = None


class AprilTagTracker:
    """The newest frame that showed the object's tags."""

    name = "apriltag"

    def __init__(self, config: AprilTagConfig, clock: Clock):
        """Read the setup; the camera is not yet opened.

        Raises:
          ValueError, FileNotFoundError: for a missing or bad setup.
        """
        if config.setup is None:
            raise ValueError("apriltag: give camera and tags: --trackers.apriltag.setup FILE")
        self.config, self._clock = config, clock
        self.setup = load_setup(config.setup)
        self._detect: Detector | None = None
        self._source: CameraSource | FileSource | None = None
        self._background: Background | None = None
        self._last: TrackedPose | None = None

    def connect(self) -> None:
        """Open the source and find the camera's place, if it is not known.

        Raises:
          ImportError: without OpenCV, naming the extra.
          DeviceError: if there is no picture, or no tag of the table in it.
        """
        self.disconnect()
        self._detect = Detector()
        if self.config.source.isdigit():
            self._source = CameraSource(self.config, self.setup.size_px, self._clock)
        else:
            self._source = FileSource(Path(self.config.source), self._clock)
        try:
            self._find_camera()
        except BaseException:
            self.disconnect()
            raise
        if isinstance(self._source, CameraSource):
            self._background = Background(self.name, lambda: self._locate(self._source.read()))
            self._background.start()

    def get_pose(self) -> TrackedPose | None:
        """The newest pose; a frame without the tags leaves the one before."""
        if self._source is None:
            raise DeviceError("apriltag: not connected; call connect() first")
        if self._background is not None:
            return self._background.newest()
        for frame in reversed(self._source.frames_until_now()):
            pose = self._locate(frame)
            if pose is not None:
                self._last = pose
                break
        return self._last

    def disconnect(self) -> None:
        """Close the source."""
        if self._background is not None:
            self._background.stop()
        if self._source is not None:
            self._source.close()
        self._background = self._source = self._last = None

    def _locate(self, frame: tuple[np.ndarray, float]) -> TrackedPose | None:
        image, stamp = frame
        pose = object_pose(self.setup, self._seen(image, self.setup.object_ids))
        return None if pose is None else TrackedPose(*pose, stamp_s=stamp)

    def _seen(self, image: np.ndarray, ids: tuple[int, ...]) -> Corners:
        height, width = image.shape[:2]
        if (width, height) != self.setup.size_px:
            raise DeviceError(
                f"apriltag: pictures are {width} x {height}, the camera's matrix in the setup is "
                f"for {self.setup.size_px[0]} x {self.setup.size_px[1]}"
            )
        return self._detect(image, ids)

    def _find_camera(self) -> None:
        if self.setup.T_world_camera is None:
            images = self._source.look(CALIBRATION_FRAMES)
            seen = [self._seen(image, self.setup.table_ids) for image in images]
            self.setup = calibrate(self.setup, seen)
        if self.config.save_setup is not None:
            save_setup(self.config.save_setup, self.setup)


class CameraSource:
    """A camera; ``read`` blocks until the next frame."""

    def __init__(self, config: AprilTagConfig, size_px: tuple[int, int], clock: Clock):
        cv2 = opencv()
        self._capture = open_capture(int(config.source), f"camera {config.source}")
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._clock, self._latency_s = clock, config.latency_s

    def read(self) -> tuple[np.ndarray, float]:
        """A frame and when its light came; DeviceError if the camera is lost."""
        grabbed = self._capture.grab()
        stamp = self._clock.now() - self._latency_s
        found, image = self._capture.retrieve() if grabbed else (False, None)
        if not found:
            raise DeviceError("apriltag: the camera gives no more frames")
        return image, stamp

    def look(self, count: int) -> list[np.ndarray]:
        """The next frames."""
        return [self.read()[0] for _ in range(count)]

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


class FileSource:
    """A film, shown at its own pace from the first look on; then its last frame stays."""

    def __init__(self, path: Path, clock: Clock):
        if not path.is_file():
            raise DeviceError(f"apriltag: no camera and no file {path}")
        self._path, self._clock = path, clock
        self._capture = open_capture(str(path), str(path))
        rate = self._capture.get(opencv().CAP_PROP_FPS)
        if not rate > 0:
            raise DeviceError(f"apriltag: {path} has no frame rate")
        self._period_s = 1.0 / rate
        self._started_s: float | None = None
        self._shown = 0

    def frames_until_now(self) -> list[tuple[np.ndarray, float]]:
        """Frames since the last call, each with the time at which it is shown."""
        now = self._clock.now()
        self._started_s = now if self._started_s is None else self._started_s
        frames = []
        while (stamp := self._started_s + self._shown * self._period_s) <= now + 1e-9:
            found, image = self._capture.read()
            if not found:
                break
            frames.append((image, stamp))
            self._shown += 1
        return frames

    def look(self, count: int) -> list[np.ndarray]:
        """The first frames, which will be shown all the same."""
        capture, frames = open_capture(str(self._path), str(self._path)), []
        while len(frames) < count and (read := capture.read())[0]:
            frames.append(read[1])
        capture.release()
        return frames

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def open_capture(source: int | str, name: str):
    """OpenCV's capture of a camera or file; DeviceError if it does not open."""
    capture = opencv().VideoCapture(source)
    if not capture.isOpened():
        raise DeviceError(f"apriltag: {name} does not open")
    return capture
