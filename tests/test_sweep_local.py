"""The local launcher with real processes: however it is stopped, the sweep loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from sweep_fake import SAVED_LOG, WORK_LOG

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
    made = fake_program(0.4, save_s=SAVE_S)
    spec.program = lambda command: made
"""  # the workers' interpreter reads it before it runs them
LAUNCH = "import sys; from pathlib import Path; from p2r_jax.sweep.launch import sweep; "
LAUNCH += "sys.exit(not sweep(Path('s.yaml')))"


def start(folder):
    """A launcher in a process group of its own, as a shell would start it."""
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a sweep of two local workers can be started; its workers take so long to save."""
    pytest.importorskip("submitit", reason="needs submitit: pip install 'p2r_jax[sweep]'")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two local workers need two cores")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    (tmp_path / "s.yaml").write_text(SWEEP)
    return tmp_path


def started_and_busy(folder, save_s):
    """A launcher both of whose workers have done something; the sweep, and its log of work."""
    (folder / "sitecustomize.py").write_text(FAKE.replace("SAVE_S", str(save_s)))
    sweep = read_sweep(Path("s.yaml"))
    log, launcher = sweep.out / WORK_LOG, start(folder)
    try:
        wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 4)
        wait_for(lambda: len(Claims(sweep.out / "jobs").held()) == 2)
    except AssertionError:
        launcher.kill()
        raise
    return launcher, sweep, log


def press_ctrl_c(launcher):
    os.killpg(launcher.pid, signal.SIGINT)


STOPS = {
    "Ctrl-C": press_ctrl_c,
    "SIGTERM": lambda launcher: launcher.send_signal(signal.SIGTERM),
    "SIGKILL": lambda launcher: launcher.send_signal(signal.SIGKILL),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPS)
def test_however_a_launcher_ends_its_workers_save_first_and_the_next_one_finishes(folder, how):
    launcher, sweep, log = started_and_busy(folder, save_s=3.0)
    STOPS[how](launcher)
    assert launcher.wait(60) != 0
    claims = Claims(sweep.out / "jobs")
    if how != "SIGKILL":
        assert not claims.held()  # it waited for them
        assert not list(claims.folder.glob("*.stop"))
    wait_for(lambda: not claims.held(), 30.0)
    assert len((sweep.out / SAVED_LOG).read_text().splitlines()) == 2
    assert sweep_status(sweep).finished_runs < 8
    assert start(folder).wait() == 0
    assert sweep_status(sweep).finished_runs == 8
    counts = Counter(log.read_text().splitlines())
    assert len(counts) == 24
    assert sum(counts.values()) - len(counts) <= 2  # a round in each worker's hands


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_what_is_being_saved(folder):
    launcher, sweep, _ = started_and_busy(folder, save_s=300.0)
    press_ctrl_c(launcher)
    wait_for(lambda: list((sweep.out / "jobs").glob("*.stop")))
    time.sleep(2.0)
    press_ctrl_c(launcher)
    assert launcher.wait(30) != 0
    assert not Claims(sweep.out / "jobs").held()
    assert not (sweep.out / SAVED_LOG).exists()
