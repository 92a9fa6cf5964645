"""Logs of runs: what was written is read back, cut anywhere, killed at any time."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from io import BytesIO

import numpy as np
import pytest

from p2r_jax.deploy.record import RunError, open_run, read_run
from p2r_jax.deploy.record.codec import step_from, to_json
from p2r_jax.deploy.record.mcap import CHUNK_S
from p2r_jax.deploy.records import KILLED, RunHeader, StepRecord

PERIOD = 0.05
STEP_BUDGET_S = 1e-3  # what the loop allows the log


def header(**changes) -> RunHeader:
    outline = ((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1))
    return replace(
        RunHeader(
            task="push_tblock", control_period_s=PERIOD, action_scale_m=0.01,
            theta=("com_object_x",), goal=(0.6, 0.0, 0.5), robot="sim", tracker="sim",
            outline=outline, workspace=((0.2, -0.5), (1.0, -0.5), (1.0, 0.5), (0.2, 0.5)),
            started_unix_s=1.7e9, clock_start_s=100.0, asset="tblock", tool_radius_m=0.0125,
            config={"seed": 3},
        ),
        **changes,
    )  # fmt: skip


def step(k: int, **changes) -> StepRecord:
    return replace(
        StepRecord(
            step=k, stamp_s=100.0 + PERIOD * k, object_pose=(0.6, 0.01 * k, 0.1),
            pose_stamp_s=100.0 + PERIOD * k - 0.01, ee_xy=(0.5, 0.0), action=(0.25, -1.0),
            safe_action=(0.25, -0.5), sent_action=(0.25, -0.5), target_xy=(0.5025, -0.005),
            theta_used=(0.01,), prior_mean=(0.02,), prior_sigma=(0.03,), estimate_mean=(0.0,),
            estimate_sigma=(math.inf,), fused_mean=(0.01,), fused_sigma=(0.015,),
            safety=("step limit",), sections_s={"observe": 1e-4, "late": 0.0},
        ),
        **changes,
    )  # fmt: skip


def write(folder, steps, cause="finished"):
    writer = open_run(folder, header())
    for record in steps:
        writer.step(record)
    writer.close(cause)
    return folder / "run.mcap"


def chunk_ends(data: bytes) -> list[int]:
    """Offsets behind every chunk, by walking the records by hand (opcode, length, body)."""
    at, ends = 8, []
    while at + 9 <= len(data):
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + 9], "little")
        at += 9 + length
        if opcode == 0x06:
            ends.append(at)
        if opcode == 0x0F:
            break
    return ends


def test_what_was_written_is_read_back(tmp_path):
    steps = [step(k) for k in range(30)]
    write(tmp_path / "run", steps, "goal reached")
    run = read_run(tmp_path / "run")
    assert (run.header, list(run.steps), run.cause) == (header(), steps, "goal reached")
    assert read_run(tmp_path / "run" / "run.mcap") == run


def test_what_is_not_known_stays_not_known():
    record = step(0, object_pose=(math.nan,) * 3, pose_stamp_s=math.nan)
    text = to_json(record)
    assert "NaN" not in text
    back = step_from(text)
    assert all(math.isnan(v) for v in (*back.object_pose, back.pose_stamp_s))
    assert back.estimate_sigma == (math.inf,)


def test_arrays_in_a_record_are_written_as_numbers():
    record = step(0, action=np.float32([0.25, -1.0]), stamp_s=np.float64(100.0))
    assert step_from(to_json(record)) == step(0)


def test_any_program_can_read_the_messages_and_their_schemas(tmp_path):
    from mcap.reader import make_reader

    path = write(tmp_path / "run", [step(k) for k in range(30)])
    with path.open("rb") as file:
        reader = make_reader(file)
        messages = list(reader.iter_messages(topics=["/step"]))
        schemas = reader.get_summary().schemas.values()
    assert len(messages) == 30
    schema, channel, message = messages[3]
    assert (channel.message_encoding, schema.encoding) == ("json", "jsonschema")
    assert message.log_time == int(1.7e18) + int(1e9 * 3 * PERIOD)
    declared = json.loads(schema.data)["properties"]
    assert set(declared) == {f.name for f in fields(StepRecord)} == set(json.loads(message.data))
    assert {s.name for s in schemas} == {"p2r.RunHeader", "p2r.StepRecord", "p2r.End"}


def test_no_chunk_spans_a_second_of_the_run(tmp_path):
    from mcap.records import Chunk
    from mcap.stream_reader import StreamReader

    path = write(tmp_path / "run", [step(k) for k in range(200)])
    records = StreamReader(BytesIO(path.read_bytes()), emit_chunks=True).records
    spans = [c.message_end_time - c.message_start_time for c in records if isinstance(c, Chunk)]
    assert max(spans) <= 1e9 * CHUNK_S <= 1e9
    assert len(spans) > 15


def test_a_log_cut_at_any_byte_keeps_every_complete_chunk(tmp_path):
    steps = [step(k) for k in range(60)]
    data = write(tmp_path / "run", steps).read_bytes()
    ends = chunk_ends(data)
    assert len(ends) > 5
    cut = tmp_path / "cut.mcap"
    counts = []
    near_ends = {end + d for end in ends for d in (-1, 0, 1)}
    for size in sorted(near_ends | set(range(0, len(data), 41))):
        cut.write_bytes(data[:size])
        if size < ends[0]:
            with pytest.raises(RunError, match="no header"):
                read_run(cut)
            continue
        run = read_run(cut)
        complete = sum(end <= size for end in ends)
        counts.append((complete, len(run.steps)))
        assert list(run.steps) == steps[: len(run.steps)]
        assert run.cause == (KILLED if complete < len(ends) else "finished")
    per_chunk = dict(counts)
    assert all(per_chunk[complete] == got for complete, got in counts)
    assert per_chunk[len(ends)] == 60
    assert sorted(per_chunk.values()) == list(per_chunk.values())


def test_a_damaged_chunk_is_passed_over(tmp_path):
    steps = [step(k) for k in range(60)]
    path = write(tmp_path / "run", steps)
    data = bytearray(path.read_bytes())
    ends = chunk_ends(bytes(data))
    data[ends[2] + 400 : ends[2] + 500] = bytes(100)  # the power went before it was on disk
    path.write_bytes(data)
    run = read_run(path)
    numbers = [s.step for s in run.steps]
    (hole,) = np.flatnonzero(np.diff(numbers) > 1)
    assert len(numbers) >= 60 - 2 * CHUNK_S / PERIOD
    assert (numbers[0], numbers[-1], run.cause) == (0, 59, "finished")
    assert list(run.steps) == steps[: hole + 1] + steps[numbers[hole + 1] :]


def test_a_damaged_first_chunk_is_no_log_of_ours(tmp_path):
    path = write(tmp_path / "run", [step(k) for k in range(60)])
    data = bytearray(path.read_bytes())
    data[chunk_ends(bytes(data))[0] - 100] ^= 0xFF  # the chunk with the header and the channels
    path.write_bytes(data)
    with pytest.raises(RunError, match="no log of p2r deploy"):
        read_run(path)


def test_damage_anywhere_is_survived(tmp_path):
    steps = [step(k) for k in range(60)]
    data = write(tmp_path / "run", steps).read_bytes()
    first, rng, cut = chunk_ends(data)[0], np.random.default_rng(0), tmp_path / "cut.mcap"
    for _ in range(150):
        spoilt = bytearray(data)
        at, size = rng.integers(first, len(data)), rng.integers(1, 200)
        spoilt[at : at + size] = rng.bytes(min(size, len(data) - at))
        cut.write_bytes(spoilt)
        run = read_run(cut)
        assert all(s == steps[s.step] for s in run.steps)
        assert run.cause in (KILLED, "finished")


def test_an_open_log_is_readable_within_a_second(tmp_path):
    writer = open_run(tmp_path / "run", header())
    assert read_run(tmp_path / "run").steps == ()
    writer.step(step(0))
    time.sleep(2 * CHUNK_S)
    assert read_run(tmp_path / "run").steps == (step(0),)
    writer.close("finished")


def test_the_first_cause_counts(tmp_path):
    writer = open_run(tmp_path / "run", header())
    writer.close("lost the robot")
    writer.close("finished")
    assert read_run(tmp_path / "run").cause == "lost the robot"
    with pytest.raises(ValueError, match="closed"):
        writer.step(step(0))


def test_a_step_costs_the_loop_far_less_than_a_millisecond(tmp_path):
    writer = open_run(tmp_path / "run", header())
    took = []
    for k in range(300):
        start = time.perf_counter()
        writer.step(step(k))
        took.append(time.perf_counter() - start)
    writer.close("finished")
    assert np.median(took) < STEP_BUDGET_S / 10
    assert len(read_run(tmp_path / "run").steps) == 300


def test_a_full_disk_is_told_to_the_loop(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    writer = open_run(tmp_path / "run", header())
    monkeypatch.setattr("p2r_jax.deploy.record.mcap.os.fsync", full)
    writer.step(step(0))
    with pytest.raises(OSError, match=r"cannot be written.*No space left"):
        writer.close("finished")
    with pytest.raises(OSError, match="cannot be written"):
        writer.step(step(1))


def test_a_folder_in_use_is_refused(tmp_path):
    write(tmp_path / "run", [])
    with pytest.raises(FileExistsError, match="not empty"):
        open_run(tmp_path / "run", header())


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_run(tmp_path / "nowhere")


def test_without_mcap_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "run", [])
    monkeypatch.setitem(sys.modules, "mcap", None)
    with pytest.raises(ImportError, match=r"pip install 'p2r_jax\[deploy\]'"):
        read_run(path)
    with pytest.raises(ImportError, match=r"p2r_jax\[deploy\]"):
        open_run(tmp_path / "other", header())
    assert not (tmp_path / "other").exists()


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("p2r_jax.deploy.record.codec.RUN_SCHEMA", 99)
    write(tmp_path / "run", [])
    monkeypatch.undo()
    with pytest.raises(RunError, match="schema is 99"):
        read_run(tmp_path / "run")


KILL_ME = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_deploy_record import header, step
from p2r_jax.deploy.record import open_run
writer = open_run(Path({folder!r}), header())
start = time.monotonic()
for k in range(100000):
    writer.step(step(k))
    print(k, flush=True)
    time.sleep(max(start + 0.005 * (k + 1) - time.monotonic(), 0))
"""


def test_kill_9_loses_less_than_a_second(tmp_path):
    script = KILL_ME.format(folder=str(tmp_path / "run"), tests=os.path.dirname(__file__))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    written = []
    for line in process.stdout:
        written.append((int(line), time.monotonic()))
        if written[-1][1] - written[0][1] > 1.6:
            break
    os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    process.wait()
    run = read_run(tmp_path / "run")
    assert run.cause == KILLED
    assert [s.step for s in run.steps] == list(range(len(run.steps)))
    assert len(run.steps) >= sum(when < killed - 1.0 for _, when in written)
