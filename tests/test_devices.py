"""Training on several devices equals training on one; two processes train together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from p2r_jax.policy.devices import Devices

PROGRAM = Path(__file__).parent / "several_devices.py"
# float32 sums over environments in another order, through a few updates of Adam
SAME = 2e-3


def run(
    *args, devices: int = 1, env: dict | None = None, program: Path = PROGRAM
) -> subprocess.Popen:
    """The small training of ``several_devices.py`` in a process of its own."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | (env or {})
    command = [sys.executable, str(program), *map(str, args)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Parameters and curve of the training on one device."""
    out = tmp_path_factory.mktemp("one")
    finished(run("one", out))
    return outcome(out)


def outcome(out: Path):
    with np.load(out / "params.npz") as arrays:
        params = [arrays[key] for key in arrays.files]
    return params, json.loads((out / "curve.json").read_text())


def assert_same_training(a, b):
    for x, y in zip(a[0], b[0], strict=True):
        np.testing.assert_allclose(x, y, atol=SAME)
    np.testing.assert_allclose(a[1], b[1], atol=SAME)
    assert np.ptp(a[1]) > 10 * SAME  # the curve moves


def test_four_devices_learn_what_one_learns(one, tmp_path):
    said = finished(run("local", tmp_path, devices=4))
    assert "environments on 4 devices" in said
    assert_same_training(one, outcome(tmp_path))


def places() -> list[dict]:
    """Environments of two processes that find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cluster = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [cluster | {"JAX_PROCESS_ID": str(i)} for i in range(2)]


def test_two_processes_learn_what_one_learns(one, tmp_path):
    both = [run("cluster", tmp_path / str(i), env=env) for i, env in enumerate(places())]
    said = [finished(process) for process in both]
    assert all("environments on 2 devices" in text for text in said)
    assert_same_training(one, outcome(tmp_path / "0"))


@pytest.mark.slow
def test_a_run_over_two_processes_is_written_once_and_never_hangs(tmp_path):
    out, program = tmp_path / "run", PROGRAM.with_name("train_in_a_cluster.py")

    def together(*args):
        started = [run(out, *args, env=env, program=program) for env in places()]
        return [process.communicate(timeout=280)[0] for process in started], started

    said, _ = together()
    assert all("trained" in text for text in said)
    assert sum("strict success" in text for text in said) == 1  # the first process reports
    assert (out / "policy" / "policy.json").is_file()
    said, _ = together("--resume")  # of a run that is finished
    assert all("trained" in text for text in said)
    said, refused = together()  # the folder is not empty
    assert [process.returncode != 0 for process in refused] == [True, True]
    assert any("is not empty" in text for text in said)


def test_environments_that_do_not_divide_are_refused_with_a_number_that_does():
    count = len(jax.local_devices())
    with pytest.raises(ValueError, match=f"a multiple of {6 * count} does"):
        Devices("local", num_envs=16, num_minibatches=6)


def test_a_cluster_of_nobody_says_how_to_start_one():
    process = run("cluster", "unused")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "srun" in said


def test_the_bytes_of_collectives_are_read_from_the_compiled_program():
    from benchmarks.scaling import collective_bytes

    hlo = """
      %all-reduce.3 = f32[128,18]{1,0} all-reduce(f32[128,18]{1,0} %x), channel_id=1
      %gathered = (f32[4]{0}, pred[3,2]{1,0}) all-gather-start(f32[2]{0} %y)
      %sum = f32[8]{0} add(f32[8]{0} %a, f32[8]{0} %b)
    """
    assert collective_bytes(hlo) == {
        "all-reduce": {"count": 1, "bytes": 4 * 128 * 18},
        "all-gather": {"count": 1, "bytes": 4 * 4 + 6},
    }
