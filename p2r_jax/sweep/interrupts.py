"""Ctrl-C of a local sweep: the launcher asks its workers to end, and gives them time to save.

A terminal sends Ctrl-C to every process that was started from it, and submitit kills a worker
one second later. So workers are started deaf to it. They look for a request instead, a file
named after their launcher, and for the launcher itself, which they must not outlive.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from p2r_jax.files import write_atomic
from p2r_jax.sweep.claims import Process

PATIENCE_S = 120.0  # a training saves between two updates
LOOK_S = 0.5


class StopRequest:
    """What a launcher asks of its workers, in the folder of their claims."""

    def __init__(self, folder: Path, launcher: Process):
        """The request of ``launcher``, whether it has asked or not."""
        self._launcher = launcher
        name = f"{launcher.host}-{launcher.pid}-{launcher.born}.stop"
        self._path = folder / name

    def ask(self, patience_s: float) -> None:
        """Ask workers to end; those that go on after ``patience_s`` end without saving."""
        write_atomic(self._path, f"{patience_s}\n".encode())

    def withdraw(self) -> None:
        """Remove what ``ask`` left."""
        self._path.unlink(missing_ok=True)

    def patience_s(self) -> float | None:
        """Seconds a worker has, from when it first sees the request; None: nobody asked."""
        try:
            return float(self._path.read_text())
        except FileNotFoundError:
            return None if self._launcher.alive else PATIENCE_S


@contextlib.contextmanager
def heeding(request: StopRequest | None) -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread when asked to end; without patience, end.

    A block that is not done in time ends the process: it may be in a call that nothing
    interrupts.
    """
    if request is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    over = threading.Event()
    thread = threading.Thread(target=_heed, args=(request, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _heed(request: StopRequest, over: threading.Event) -> None:
    asked = None
    while not over.is_set():
        patience_s = request.patience_s()
        if patience_s is not None:
            if asked is None:
                asked = time.monotonic()
                _thread.interrupt_main()
            if time.monotonic() - asked >= patience_s:
                print(f"not done {patience_s:g} s after the request to end", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)
        over.wait(LOOK_S)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in the block hear neither Ctrl-C nor a terminal that closes.

    This one hears them after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does; only the main thread can have it so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
