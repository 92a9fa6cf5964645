"""Every request and every raw answer, one JSON line each, written as it happens.

A run that is killed leaves a record from which the next one goes on: a line counts
once its newline is on disk, and half a line at the end is dropped.
"""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2r_jax.prior.protocol import Answer, Request

SCHEMA_VERSION = 1


@dataclass
class RecordContents:
    """What a record holds.

    Attributes:
      settings: provider, model and sampling that the answers came from.
      answers: by the key of their request.
      requested: keys of all requests that were sent, answered or not.
      complete_bytes: length of the file up to its last whole line.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    requested: set[str] = field(default_factory=set)
    complete_bytes: int = 0

    @property
    def unanswered(self) -> set[str]:
        """Requests without an answer: failed, or in flight when the run ended."""
        return self.requested - self.answers.keys()


def read_record(path: Path) -> RecordContents:
    """Read a record; half a line at its end is left out.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the line that is not a record's.
    """
    data = Path(path).read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    contents = RecordContents(complete_bytes=len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            _take(contents, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a record's: {error!r}") from error
    return contents


def _take(contents: RecordContents, line: dict) -> None:
    kind = line["kind"]
    if kind == "record":
        if line["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema {line['schema']}, this version reads {SCHEMA_VERSION}")
        contents.settings = line["settings"]
    elif kind == "request":
        contents.requested.add(line["key"])
    elif kind == "answer":
        contents.answers[line["key"]] = Answer(**line["answer"])
    elif kind != "failure":
        raise ValueError(f"line of kind {kind!r}")


class Record:
    """A record that is being written; safe to use from several threads.

    Attributes:
      path: of the file.
      contents: what it held when it was opened.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        """Create the file, or go on with one of the same settings.

        Raises:
          ValueError: if another process writes it, or naming the first setting in which an
            existing record differs.
        """
        self.path, self._lock = path, threading.Lock()
        ours: dict[str, Any] = json.loads(json.dumps(settings))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._file, path)
            self.contents = read_record(path)
            if self.contents.settings:
                _check_settings(path, self.contents.settings, ours)
        except BaseException:
            self.close()
            raise
        os.ftruncate(self._file, self.contents.complete_bytes)
        if not self.contents.settings:
            self.contents.settings = ours
            self._write(kind="record", schema=SCHEMA_VERSION, settings=ours)

    def request(self, request: Request) -> None:
        """Note that a request is about to be sent."""
        self._write(
            kind="request",
            key=request.key,
            photo=request.photo.name,
            photo_digest=request.photo.digest,
            query=request.query,
            attempt=request.attempt,
            prompt=request.prompt,
            schema=request.schema,
        )

    def answer(self, request: Request, answer: Answer, seconds: float) -> None:
        """Keep a raw answer; returns when it is on disk."""
        self._write(kind="answer", key=request.key, answer=asdict(answer), seconds=seconds)

    def failure(self, request: Request, reason: str) -> None:
        """Note that a request was not answered; it will be asked again."""
        self._write(kind="failure", key=request.key, reason=reason)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, **line: Any) -> None:
        line["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = (json.dumps(line) + "\n").encode()
        with self._lock:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another run is writing {path}; wait for it to end") from None


def _check_settings(path: Path, before: Mapping, now: Mapping) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{path} holds answers with {name} = {before.get(name)!r}, not {now.get(name)!r}; "
                "choose another --out, or the same settings to go on"
            )
