"""Which steps of a reconstruction are done, and with what settings.

A finished step leaves a line in ``steps.json``: a fingerprint of its settings and of the
step before it. Started again, a reconstruction skips what still fits and redoes the rest;
a step that failed or was interrupted has no line.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2r_jax.files import as_record, write_json

LEDGER = "steps.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A finished step.

    Attributes:
      fingerprint: of its settings and of all that came before.
      seconds: it took.
    """

    fingerprint: str
    seconds: float


class Ledger:
    """The finished steps of one output folder."""

    def __init__(self, out: Path):
        self.path = out / LEDGER
        self.entries: dict[str, Entry] = {}
        if self.path.is_file():
            record = json.loads(self.path.read_text())
            self.entries = {name: Entry(**entry) for name, entry in record["steps"].items()}

    def is_done(self, step: str, fingerprint: str) -> bool:
        """Whether the step was finished with these settings after the same steps."""
        entry = self.entries.get(step)
        return entry is not None and entry.fingerprint == fingerprint

    def finished(self, step: str, fingerprint: str, seconds: float) -> None:
        """Note a finished step."""
        self.entries[step] = Entry(fingerprint, round(seconds, 2))
        self._write()

    def forget(self, steps: Sequence[str]) -> None:
        """Before a step is done again: it and those after it are unfinished from now on."""
        if any([self.entries.pop(step, None) is not None for step in steps]):
            self._write()

    def _write(self) -> None:
        steps = {name: asdict(entry) for name, entry in self.entries.items()}
        write_json(self.path, {"schema": SCHEMA_VERSION, "steps": steps})


def fingerprint(before: str, settings: Any, files: Sequence[Path] = ()) -> str:
    """Of a step.

    Args:
      before: fingerprint of the step before it.
      settings: a config dataclass, or a tuple of them.
      files: that the settings name (files or folders); one that is not there is left out.
    """
    parts = settings if isinstance(settings, tuple) else (settings,)
    seen = [_seen(path) for path in files if path.exists()]
    text = json.dumps([before, *(as_record(part) for part in parts), *seen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def capture_fingerprint(capture: Path) -> str:
    """Of the input: names, sizes and times of its files.

    Raises:
      FileNotFoundError: if there is no such file or folder.
    """
    if not capture.exists():
        raise FileNotFoundError(f"no capture {capture}; give a video file or a folder of photos")
    masks = capture.parent / "masks"  # used beside a folder of images
    beside = [masks] if capture.name == "images" and masks.is_dir() else []
    seen = [_seen(path) for path in (capture, *beside)]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _seen(path: Path) -> list:
    """Names below a file or folder, sizes and times."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stats = [(str(p.relative_to(path.parent)), p.stat()) for p in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
