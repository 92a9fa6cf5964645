"""Who works on what: claims in files, which die with their worker.

A claim names host and process. On the same host it holds as long as that process lives; on
another, as long as its file is touched. Jobs that failed or ended leave a file too.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2r_jax.files import write_json

BEAT_S, STALE_S = 2.0, 120.0
CLAIM, FAILED, ENDED = ".claim", ".failed.json", ".ended.json"


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one with its number.

    Attributes:
      host: its machine.
      pid: its number there.
      born: clock ticks between the machine's start and its own.
    """

    host: str
    pid: int
    born: int

    @property
    def alive(self) -> bool:
        """Whether it runs; only to be asked on its own host."""
        return _born(self.pid) == self.born


def this_process() -> Process:
    """The process that asks."""
    return Process(socket.gethostname(), os.getpid(), _born(os.getpid()) or 0)


def _born(pid: int) -> int | None:
    """Start of a process; None if there is none, or only its remains."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if state == "Z" else int(rest[18])


class Claims:
    """Claims, failures and endings of a sweep's jobs, in one folder."""

    def __init__(self, folder: Path):
        """Use ``folder``, made if needed."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, job: str) -> bool:
        """Claim a job unless another worker holds it."""
        with self._locked():
            if self.holder(job) is not None:
                return False
            write_json(self._path(job, CLAIM), vars(this_process()))
            return True

    def release(self, job: str) -> None:
        """Give up a claim, if it is this process's still."""
        with self._locked():
            if self.holder(job) == this_process():
                self._path(job, CLAIM).unlink(missing_ok=True)

    def holder(self, job: str) -> Process | None:
        """The living worker that holds a job."""
        path = self._path(job, CLAIM)
        try:
            process, touched = Process(**json.loads(path.read_text())), path.stat().st_mtime
        except (OSError, ValueError, TypeError):
            return None
        here = process.host == socket.gethostname()
        living = process.alive if here else time.time() - touched < STALE_S
        return process if living else None

    def held(self) -> list[str]:
        """Jobs that living workers hold."""
        names = [path.name.removesuffix(CLAIM) for path in self.folder.glob(f"*{CLAIM}")]
        return [name for name in names if self.holder(name)]

    def failed(self, job: str, error: str, trace: str) -> None:
        """Note that a job raised."""
        write_json(self._path(job, FAILED), {"error": error, "trace": trace, "time": time.time()})

    def ended(self, job: str, seconds: float) -> None:
        """Note that a job is done, and how long its last attempt took."""
        write_json(self._path(job, ENDED), {"seconds": seconds, "time": time.time()})

    def failure(self, job: str) -> dict | None:
        """What ``failed`` noted."""
        return self._read(job, FAILED)

    def ending(self, job: str) -> dict | None:
        """What ``ended`` noted."""
        return self._read(job, ENDED)

    def forget_failures(self) -> None:
        """Let failed jobs be tried again."""
        for path in self.folder.glob(f"*{FAILED}"):
            path.unlink()

    @contextlib.contextmanager
    def beating(self, job: str) -> Iterator[None]:
        """Touch the claim while the job runs."""
        stop = threading.Event()

        def beat():
            while not stop.wait(BEAT_S):
                with contextlib.suppress(OSError):
                    os.utime(self._path(job, CLAIM))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _path(self, job: str, ending: str) -> Path:
        return self.folder / (job + ending)

    def _read(self, job: str, ending: str) -> dict | None:
        path = self._path(job, ending)
        return json.loads(path.read_text()) if path.is_file() else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
