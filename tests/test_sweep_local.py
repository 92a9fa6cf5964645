"""The local launcher with real processes: the launcher is killed, the sweep loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from p2r_jax.sweep.claims import Claims
from p2r_jax.sweep.spec import read_sweep
from p2r_jax.sweep.status import sweep_status

ROOT = Path(__file__).parent.parent
SWEEP = """
command: train-estimator
base: {policy: policy, rounds: 3}
grid: {members: [1, 2, 3, 4]}
seeds: [0, 1]
launcher: {cluster: local, workers: 2}
"""
FAKE = """
import sys
if any("submitit" in str(x) for x in sys.orig_argv):
    from sweep_fake import fake_program
    from p2r_jax.sweep import spec
    made = fake_program(0.4)
    spec.program = lambda command: made
"""  # the workers' interpreter reads it before it runs them
LAUNCH = "import sys; from pathlib import Path; from p2r_jax.sweep.launch import sweep; "
LAUNCH += "sys.exit(not sweep(Path('s.yaml')))"


def start(folder):
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH], cwd=folder, env=os.environ | {"PYTHONPATH": path}
    )


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_launcher_takes_its_workers_along_and_the_next_finishes(
    tmp_path, monkeypatch, sent
):
    pytest.importorskip("submitit", reason="needs submitit: pip install 'p2r_jax[sweep]'")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two local workers need two cores")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    (tmp_path / "s.yaml").write_text(SWEEP)
    (tmp_path / "sitecustomize.py").write_text(FAKE)
    sweep = read_sweep(Path("s.yaml"))
    log, claims = sweep.out / "work.log", Claims(sweep.out / "jobs")
    launcher = start(tmp_path)
    try:
        wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 4)
        assert len(claims.held()) == 2
    finally:
        launcher.send_signal(sent)
        launcher.wait()
    wait_for(lambda: not claims.held(), 30.0)
    before = sweep_status(sweep)
    assert before.finished_runs < 8
    assert start(tmp_path).wait() == 0
    assert sweep_status(sweep).finished_runs == 8
    counts = Counter(log.read_text().splitlines())
    assert len(counts) == 24
    assert sum(counts.values()) - len(counts) <= 2  # a round in each worker's hands
