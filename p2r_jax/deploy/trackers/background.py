"""A thread that waits for frames, so that the loop never does."""

import threading
from collections.abc import Callable

from p2r_jax.deploy.protocols import DeviceError, TrackedPose


class Background:
    """Calls a blocking reader again and again and keeps the newest pose it returned."""

    def __init__(self, name: str, read: Callable[[], TrackedPose | None]):
        """Nothing runs before ``start``.

        Args:
          name: for messages.
          read: blocks until there is a frame; its pose, or None if it showed none.
            What it raises ends the thread and reaches ``newest`` as a DeviceError.
        """
        self._name, self._read = name, read
        self._ending = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self._newest: TrackedPose | None = None
        self._failure: Exception | None = None

    def start(self) -> None:
        """Begin to read."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> TrackedPose | None:
        """The newest pose as soon as there is one, or None after ``timeout_s``."""
        self._first.wait(timeout_s)
        return self.newest()

    def newest(self) -> TrackedPose | None:
        """The newest pose; raises what the reader failed with."""
        if self._failure is not None:
            raise DeviceError(str(self._failure)) from self._failure
        return self._newest

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the thread; a reader that hangs is left behind."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                pose = self._read()
            except Exception as error:
                self._failure = error
                self._first.set()
                return
            if pose is not None:
                self._newest = pose
                self._first.set()
