"""A run as it happens: ``run.mcap``, on disk to the last half second whatever comes.

The loop hands records to a queue; a thread encodes them as they come and closes a chunk
at least every ``CHUNK_S`` of the loop's time and of ours. A closed chunk has been given
to the operating system (it survives ``kill -9``) and is forced onto the disk at most
``CHUNK_S`` later (it survives a power cut). Messages are JSON with JSON schemas on
``/header``, ``/step`` and ``/end``, uncompressed, so that reading needs no codec.
"""

import json
import os
import queue
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.record.codec import RunError, header_from, schema_of, step_from, to_json
from p2r_jax.deploy.records import KILLED, RunHeader, StepRecord
from p2r_jax.files import new_folder

LOG_NAME = "run.mcap"
CHUNK_S = 0.5
HEADER, STEP, END = "/header", "/step", "/end"
MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
END_SCHEMA = {
    "title": "p2r.End", "type": "object", "properties": {"cause": {"type": "string"}},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a log holds.

    Attributes:
      header: what was known before the first step.
      steps: in the order in which they were written.
      cause: why it ended; ``killed`` if nobody wrote it down.
    """

    header: RunHeader
    steps: tuple[StepRecord, ...]
    cause: str

    def column(self, field: str) -> Float[np.ndarray, "n ..."]:
        """One field of every step; ``object_pose`` gives Float[n, 3]."""
        return np.array([getattr(step, field) for step in self.steps], float)

    @property
    def time_s(self) -> Float[np.ndarray, " n"]:
        """When each step began, s since the start of the run."""
        return self.column("stamp_s") - self.header.clock_start_s


def open_run(folder: Path, header: RunHeader) -> "McapRunWriter":
    """Start ``folder/run.mcap``; the header is on disk when this returns.

    Raises:
      FileExistsError: if the folder is not empty.
      ImportError: without the package mcap; names the extra to install.
    """
    _mcap()  # complain before anything is made
    return McapRunWriter(new_folder(Path(folder)) / LOG_NAME, header)


class McapRunWriter:
    """Writes steps from a thread of its own; see ``records.RunWriter``.

    If writing fails (a full disk), ``step`` and ``close`` raise OSError from then on.
    """

    def __init__(self, path: Path, header: RunHeader):
        """Create the file and write the header."""
        self.path, self._header = path, header
        self._file = path.open("xb")
        self._writer, self._channels = _start(self._file)
        self._queue: queue.SimpleQueue[StepRecord | str] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._closing = False
        self._first_stamp: float | None = None  # of the open chunk
        self._opened_s = self._synced_s = time.monotonic()
        self._last_ns = self._nanoseconds(header.clock_start_s)
        self._add(HEADER, to_json(header))
        self._flush(sync=True)
        self._thread = threading.Thread(target=self._work, name="run log", daemon=True)
        self._thread.start()

    def step(self, record: StepRecord) -> None:
        """Queue one step; takes microseconds.

        Raises:
          OSError: if an earlier step could not be written.
          ValueError: after ``close``.
        """
        self._check()
        if self._closing:
            raise ValueError(f"{self.path} is closed; no step can be added")
        self._queue.put(record)

    def close(self, cause: str) -> None:
        """Write everything queued, then the cause; returns when it is on disk."""
        if not self._closing:
            self._closing = True
            self._queue.put(str(cause))
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise OSError(f"{self.path} cannot be written: {self._failure}") from self._failure

    def _work(self) -> None:
        try:
            while not self._write_next():
                pass
        except Exception as error:
            self._failure = error
        finally:
            self._file.close()

    def _write_next(self) -> bool:
        """Write what comes next, or the chunk if it is due; whether that was the end."""
        wait = max(self._opened_s + CHUNK_S - time.monotonic(), 0.0)
        try:
            item = self._queue.get(timeout=None if self._first_stamp is None else wait)
        except queue.Empty:
            self._flush()
            return False
        if isinstance(item, str):
            self._finish(item)
            return True
        first = self._first_stamp
        if first is not None and (item.stamp_s - first >= CHUNK_S or wait == 0.0):
            self._flush()
        self._add_step(item)
        return False

    def _add_step(self, record: StepRecord) -> None:
        if self._first_stamp is None:
            self._first_stamp, self._opened_s = record.stamp_s, time.monotonic()
        self._last_ns = self._nanoseconds(record.stamp_s)
        self._add(STEP, to_json(record), record.step)

    def _finish(self, cause: str) -> None:
        self._add(END, to_json({"cause": cause}))
        self._flush(sync=True)
        self._writer.finish()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _add(self, topic: str, message: str, sequence: int = 0) -> None:
        at = self._last_ns
        self._writer.add_message(self._channels[topic], at, message.encode(), at, sequence)

    def _flush(self, sync: bool = False) -> None:
        """Close the chunk; force it onto the disk if that was not done for a while."""
        self._writer.flush()
        self._first_stamp, now = None, time.monotonic()
        if sync or now - self._synced_s >= CHUNK_S:
            os.fsync(self._file.fileno())
            self._synced_s = now

    def _nanoseconds(self, stamp_s: float) -> int:
        """Wall-clock time of a stamp of the loop's clock, ns since 1970."""
        since_start = stamp_s - self._header.clock_start_s
        return int(1e9 * self._header.started_unix_s) + int(1e9 * since_start)


def read_run(path: Path | str) -> Run:
    """Read a run, finished or cut off anywhere after its header.

    Args:
      path: the run's folder or its ``.mcap``.

    Raises:
      FileNotFoundError: if there is no such run.
      RunError: if not even the header is there, or it is of another version.
    """
    file = log_file(Path(path))
    header, steps, cause = None, [], KILLED
    for topic, data in _messages(file.read_bytes()):
        try:
            if topic == HEADER:
                header = header_from(data)
            elif topic == STEP:
                steps.append(step_from(data))
            elif topic == END:
                cause = json.loads(data)["cause"]
        except RunError as error:
            raise RunError(f"{file}: {error}") from None
    if header is None:
        raise RunError(f"{file} holds no header of a run: it was cut in its first bytes, or is "
                       "no log of p2r deploy")  # fmt: skip
    return Run(header, tuple(steps), cause)


def log_file(path: Path) -> Path:
    """The ``.mcap`` of a run's folder, or the file itself.

    Raises:
      FileNotFoundError: if there is none.
    """
    file = path / LOG_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"there is no run {file}")
    return file


def is_run(path: Path | str) -> bool:
    """Whether a path is the folder or the ``.mcap`` of a run."""
    path = Path(path)
    return path.suffix == ".mcap" or (path / LOG_NAME).is_file()


def _start(file):
    """A started writer and its channel numbers by topic."""
    Writer = _mcap().writer.Writer
    writer = Writer(file, compression=_mcap().writer.CompressionType.NONE)
    writer.start(profile="p2r", library="p2r_jax")
    channels = {}
    schemas = {HEADER: schema_of(RunHeader), STEP: schema_of(StepRecord), END: END_SCHEMA}
    for topic, schema in schemas.items():
        number = writer.register_schema(schema["title"], "jsonschema", json.dumps(schema).encode())
        channels[topic] = writer.register_channel(topic, "json", number)
    return writer, channels


def _messages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Topic and content of every message in a whole chunk, up to where the file breaks off."""
    records = _mcap().records
    topics: dict[int, str] = {}
    for chunk in _chunks(data):
        for record in _records_in(chunk):
            if isinstance(record, records.Channel):
                topics[record.id] = record.topic
            elif isinstance(record, records.Message) and record.channel_id in topics:
                yield topics[record.channel_id], record.data  # else its channel's chunk is damaged


def _chunks(data: bytes) -> Iterator[bytes]:
    """Bodies of the chunks; every record of a file is an opcode, a length and a body."""
    at = len(MAGIC)
    while data.startswith(MAGIC) and at + RECORD_HEAD.size <= len(data):
        opcode, length = RECORD_HEAD.unpack_from(data, at)
        at += RECORD_HEAD.size + length
        if at <= len(data) and opcode == _mcap().opcode.Opcode.CHUNK:
            yield data[at - length : at]


def _records_in(chunk: bytes) -> list:
    """Records of a chunk; none of one that is damaged, as its checksum tells."""
    mcap = _mcap()
    stream = mcap.data_stream.ReadDataStream(BytesIO(chunk))
    try:
        return mcap.stream_reader.breakup_chunk(mcap.records.Chunk.read(stream), validate_crc=True)
    except (mcap.exceptions.McapError, ValueError, OverflowError, struct.error):
        return []


def _mcap():
    try:
        import mcap.data_stream
        import mcap.exceptions
        import mcap.opcode
        import mcap.records
        import mcap.stream_reader
        import mcap.writer
    except ImportError:
        raise ImportError("logs of runs need mcap: pip install 'p2r_jax[deploy]'") from None
    return mcap
