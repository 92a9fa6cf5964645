"""Sweep files: what is read, refused, planned, launched, killed and taken up again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from sweep_fake import WORK_LOG, fake_program

from benchmarks import sweep as bench
from p2r_jax.estimator.train import EstimatorConfig
from p2r_jax.policy.train import TrainConfig
from p2r_jax.runs.config_tree import check_value, read_config
from p2r_jax.runs.folder import find_runs
from p2r_jax.sweep import gpus, launch, spec, worker
from p2r_jax.sweep.claims import CLAIM, STALE_S, Claims, this_process
from p2r_jax.sweep.command import StatusConfig, SweepConfig, status_command, sweep_command
from p2r_jax.sweep.interrupts import PATIENCE_S, StopRequest, heeding
from p2r_jax.sweep.plan import check_variants, config_of, jobs, run_folder, variants
from p2r_jax.sweep.spec import Launcher, read_sweep
from p2r_jax.sweep.status import sweep_status
from p2r_jax.sweep.worker import TRIAL_FILE, Worker, load_sweep, read_trial, save_sweep
from p2r_jax.tasks import load_task

pytest.importorskip("yaml", reason="needs PyYAML: pip install 'p2r_jax[sweep]'")
pytest.importorskip("submitit", reason="needs submitit: pip install 'p2r_jax[sweep]'")

ROOT = Path(__file__).parent.parent
HEAD = """
command: train-estimator
base: {policy: policy, rounds: 3}
launcher: {cluster: debug}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a sweep file whose policy is there; runs happen in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")

    def file(text, head=HEAD, name="s.yaml"):
        (tmp_path / name).write_text(head + textwrap.dedent(text))
        return tmp_path / name

    return file


@pytest.fixture
def fake(monkeypatch):
    made = fake_program()
    monkeypatch.setattr(spec, "program", lambda command: made)


def work_done(folder):
    return Counter((folder / WORK_LOG).read_text().splitlines())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {member: [1]}", "grid: there is no setting 'member'; did you mean 'members'"),
        ("grid: {fused_share: [1]}", "did you mean 'drive.fused_share'"),
        ("grid: {learning_rate: [fast]}", r"learning_rate is 'fast' \(str\), a number is expected"),
        ("grid: {members: [2.5]}", r"members is 2.5 \(float\), a whole number is expected"),
        ("grid: {layers: [64]}", r"layers is 64 \(int\), a list is expected"),
        ("grid: {members: 3}", "grid.members is 3; give a list"),
        ("grid: {seed: [1, 2]}", "list the seeds under `seeds`"),
        ("grid: {out: [a]}", "out is set by the sweep itself"),
        ("grid: {task.support: [rim]}", "did you mean 'task.physics.support'"),
        ("grid: {task.physics.support: [rimm]}", "not one of patch, rim, corners, feet"),
        ("sead: [1]", "sweep has no setting 'sead'; did you mean 'seeds'"),
        ("seeds: [0, 0]", "give each once"),
        ("grid: {members: [1]}\nlist: [{members: 2}]", "grid and list are given"),
        ("random: {space: {members: {low: 3, high: 1}}, trials: 2}", "goes from 3 to 1"),
        ("random: {space: {network: {low: 0, high: 1}}, trials: 2}", "a text is expected"),
        ("random: {space: {members: {low: 0, hi: 1}}, trials: 2}", "give a list of choices, or"),
        ("random: {space: {members: [1]}, trials: 0}", "trials is 0"),
        ("random: {space: {seed: [1]}, trials: 1}", "list the seeds under `seeds`"),
        (
            "optuna: {space: {members: [1]}, trials: 1, metric: after_contact/coverage_95}",
            "best neither high nor low; give optuna.direction",
        ),
        ("random: {space: {members: {low: 1, high: 2, step: 0}}, trials: 1}", "a positive one"),
        ("phase: dr", "phase is 'dr', but train-estimator has no phases"),
        ("grid: [", "is not YAML"),
    ],
)
def test_a_bad_file_names_file_key_and_fix(write, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_sweep(write(text))
    assert "s.yaml: " in str(caught.value) or "s.yaml is not YAML" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {history: [10, 1]}", "variant history=1: estimator: history is 1"),
        ("grid: {network: [lstm]}", "no estimator network 'lstm'"),
        ("grid: {members: [1, 1]}", "'members=1' stands there twice"),
        ("random: {space: {history: {low: 1, high: 4}}, trials: 2}", "low end: estimator: history"),
    ],
)
def test_a_variant_that_cannot_be_built_is_named_before_anything_starts(write, text, message):
    path = write(text)
    with pytest.raises(ValueError, match=message):
        launch.sweep(path)
    assert not Path("runs").exists()


def test_files_that_runs_read_must_be_there(write):
    with pytest.raises(FileNotFoundError, match=r"variant policy=gone reads gone.policy.json"):
        launch.sweep(write("grid: {policy: [gone]}"))
    with pytest.raises(FileNotFoundError, match="no sweep file"):
        read_sweep(Path("none.yaml"))
    with pytest.raises(ValueError, match=r"base.policy is missing|config.policy is missing"):
        launch.sweep(write("grid: {members: [1]}", head="command: train-estimator\n"))


def test_more_local_workers_than_cores_are_refused(write):
    many = len(os.sched_getaffinity(0)) + 1
    head = HEAD.replace("cluster: debug", f"cluster: local, workers: {many}")
    with pytest.raises(ValueError, match=f"workers is {many}, and this machine has {many - 1}"):
        launch.sweep(write("grid: {members: [1]}", head=head))


def test_values_are_read_as_their_fields_types(write):
    sweep = read_sweep(write("grid: {learning_rate: [1e-3, 2], layers: [[64, 32]]}"))
    first, second = variants(sweep)
    assert (first.name, second.name) == ("learning_rate=0.001,layers=64x32",
                                         "learning_rate=2,layers=64x32")  # fmt: skip
    config = config_of(sweep, first.changes, Path("out"), 7)
    assert (config.learning_rate, config.layers, config.seed) == (1e-3, (64, 32), 7)
    assert (config.policy, config.rounds, config.out) == (Path("policy"), 3, Path("out"))
    assert isinstance(config_of(sweep, second.changes, Path("out"), 7).learning_rate, float)


def test_a_plan_starts_nothing(write, capsys):
    assert sweep_command(SweepConfig(write("grid: {members: [1, 2]}\nseeds: [0, 1]"), plan=True))
    assert "members=2: 2 runs\n2 jobs, 4 runs in runs/sweeps/s" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_a_policy_sweep_takes_phase_task_and_a_path_per_seed(write):
    head = "command: train\nphase: noisy\nbase: {init: 'first/seed-{seed}'}\n"
    sweep = read_sweep(write("grid: {task: [push_tblock, push_hammer]}\nseeds: [3, 4]", head))
    config = config_of(sweep, variants(sweep)[1].changes, Path("out"), 4)
    assert isinstance(config, TrainConfig)
    assert (config.task.name, config.phase, config.init) == (
        "push_hammer", "noisy", Path("first/seed-4"))  # fmt: skip
    assert (config.ppo.seed, config.ppo.learning_rate) == (4, 3e-4)  # the phase's own default
    assert [job.seeds for job in jobs(sweep)] == [(3,), (4,)] * 2
    with pytest.raises(ValueError, match="phase is 'loud', not one of privileged"):
        read_sweep(write("", head.replace("noisy", "loud")))


def test_runs_that_differ_in_numbers_share_a_program_up_to_the_lanes(write):
    text = "grid: {members: [1, 2], learning_rate: [1e-3, 2e-3, 3e-3]}\nseeds: [0, 1]\nlanes: 5"
    sweep = read_sweep(write(text))
    found = [[v.changes["learning_rate"] for v in job.variants] for job in jobs(sweep)]
    assert found == [[1e-3, 2e-3], [3e-3]] * 2
    assert len({job.name for job in jobs(sweep)}) == 4
    assert sum(len(job.runs) for job in jobs(sweep)) == 12


def test_random_trials_lie_in_the_space_and_more_of_them_keep_the_first(write):
    text = """
    random:
      space:
        members: {low: 2, high: 20, log: true}
        history: {low: 4, high: 10, step: 2}
        learning_rate: {low: 1e-4, high: 1e-2, log: true}
        network: [mlp, gru]
      trials: TRIALS
      seed: 3
    """
    few, many = (
        [v.changes for v in variants(read_sweep(write(text.replace("TRIALS", n))))]
        for n in ("5", "200")
    )
    assert many[:5] == few
    assert {one["history"] for one in many} == {4, 6, 8, 10}
    assert {one["network"] for one in many} == {"mlp", "gru"}
    assert {2, 20} <= {one["members"] for one in many} <= set(range(2, 21))
    rates = [one["learning_rate"] for one in many]
    assert 1e-4 <= min(rates) < max(rates) <= 1e-2
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130  # half of a log range
    check_variants(read_sweep(write(text.replace("TRIALS", "2"))))


def test_a_sweep_runs_once_and_then_only_what_was_added(write, fake, capsys):
    assert launch.sweep(write("grid: {members: [1, 2]}\nseeds: [0, 1]"))
    out = Path("runs/sweeps/s")
    first = work_done(out)
    assert len(first) == 12
    assert set(first.values()) == {1}
    assert launch.sweep(write("grid: {members: [1, 2, 4]}\nseeds: [0, 1, 2]"))
    assert "3 done, 0 running, 0 failed, 0 missing; 9 of 9 runs" in capsys.readouterr().out
    assert len(work_done(out)) == 27
    assert set(work_done(out).values()) == {1}
    assert len(find_runs(out)) == 9


def test_a_changed_sweep_is_refused_where_runs_would_mix(write, fake):
    assert launch.sweep(write("list: [{name: small, members: 1}]"))
    with pytest.raises(ValueError, match=r"with base.rounds = 3, not 4; choose another out"):
        launch.sweep(write("list: [{name: small, members: 1}]", HEAD.replace("3}", "4}")))
    head = HEAD.replace("rounds: 3", "rounds: 3, contact: false")
    with pytest.raises(ValueError, match=r'with base.contact = "unset", not false'):
        launch.sweep(write("list: [{name: small, members: 1}]", head))
    with pytest.raises(ValueError, match=r"holds a variant with .'members': 1., not .'members': 2"):
        launch.sweep(write("list: [{name: small, members: 2}]"))


def test_a_job_that_fails_costs_only_itself_is_told_and_tried_again(write, monkeypatch, capsys):
    path = write("grid: {members: [1, 2]}")
    bad, good = fake_program(fail="members=1"), fake_program()
    monkeypatch.setattr(spec, "program", lambda command: bad)
    assert not launch.sweep(path)
    status = sweep_status(load_sweep(Path("runs/sweeps/s")))
    assert status.counts == {"done": 1, "running": 0, "failed": 1, "missing": 0}
    assert status.last_error == "members=1: RuntimeError: no luck with seed-0"
    assert "tried again when the sweep is started again" in capsys.readouterr().out
    monkeypatch.setattr(spec, "program", lambda command: good)
    assert launch.sweep(path)
    assert set(work_done(Path("runs/sweeps/s")).values()) == {1}
    capsys.readouterr()
    status_command(StatusConfig(Path("runs/sweeps/s"), json=True))
    told = json.loads(capsys.readouterr().out)
    assert (told["counts"]["done"], told["last_error"]) == (2, None)
    with pytest.raises(FileNotFoundError, match="`p2r sweep FILE` makes one"):
        status_command(StatusConfig(Path("runs")))


def started_worker(out, seconds):
    command = [sys.executable, str(ROOT / "tests" / "sweep_fake.py"), str(out), str(seconds)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_killed_worker_is_replaced_and_no_finished_round_is_done_twice(write):
    sweep = read_sweep(write("grid: {members: [1, 2, 3]}\nseeds: [0, 1]"))
    save_sweep(sweep)
    log = sweep.out / WORK_LOG
    worker = started_worker(sweep.out, 0.25)
    try:
        wait_for(lambda: log.is_file() and len(log.read_text().splitlines()) >= 8)
        status = sweep_status(sweep)
        assert status.counts["running"] == 1
        assert status.running[0].startswith("members=2 seed 0: ")
        assert 0 < status.eta_s < 60
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert sweep_status(sweep).counts["running"] == 0  # its claim died with it
    second = started_worker(sweep.out, 0.0)
    assert second.wait(60) == 0
    counts = work_done(sweep.out)
    assert len(counts) == 18  # every round of every run
    assert sum(counts.values()) - len(counts) <= 1  # the one it was killed in
    assert sweep_status(sweep).finished_runs == 6
    for run in find_runs(sweep.out):
        rows = (run.folder / "metrics.csv").read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3]


def test_claims_are_exclusive_and_die_with_their_worker(tmp_path):
    claims = Claims(tmp_path)
    assert claims.take("a")
    assert not claims.take("a")
    assert claims.held() == ["a"]
    record = json.loads((tmp_path / f"a{CLAIM}").read_text())
    gone = record | {"born": record["born"] - 1}  # the number, but not the process
    (tmp_path / f"a{CLAIM}").write_text(json.dumps(gone))
    assert claims.take("a")
    far = tmp_path / f"b{CLAIM}"
    far.write_text(json.dumps(record | {"host": "another"}))
    assert not claims.take("b")
    os.utime(far, (time.time() - 2 * STALE_S,) * 2)
    assert claims.take("b")
    claims.release("a")
    assert claims.held() == ["b"]


def test_a_second_start_waits_for_the_workers_of_the_first(write, fake, monkeypatch, capsys):
    path = write("grid: {members: [1]}")
    claims = Claims(read_sweep(path).out / "jobs")
    claims.take("members=1")
    monkeypatch.setattr(launch.time, "sleep", lambda s: claims.release("members=1"))
    assert launch.sweep(path)
    assert "waiting for 1 workers of an earlier start, at members=1" in capsys.readouterr().out
    claims.take("members=1")
    with pytest.raises(ValueError, match=r"still at members=1; stop them or let them end"):
        launch.sweep(write("grid: {members: [1, 2]}"))


def test_local_workers_share_the_cores_and_no_more_start_than_there_is_work(write, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    sweep = read_sweep(write("grid: {members: [1, 2]}"))
    sweep = replace(sweep, launcher=Launcher(workers=4))
    workers = launch.make_workers(sweep)
    assert [w.cores for w in workers] == [(0, 2, 4), (1, 3)]
    assert all(w.launcher.alive for w in workers)


def test_slurm_gets_its_parameters_from_the_same_file(write, tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("sbatch", "srun"):
        (bin_folder / name).write_text('#!/bin/sh\necho "Submitted batch job 12"\n')
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    head = HEAD.replace("{cluster: debug}", "{cluster: slurm, workers: 2, gpus: 1, "
                        "timeout_min: 90, slurm: {partition: gpu, mem: 16GB}}")  # fmt: skip
    assert launch.sweep(write("grid: {members: [1, 2, 3]}", head))
    scripts = list(Path("runs/sweeps/s/logs").glob("*submission*.sh"))
    assert scripts
    text = scripts[0].read_text()
    for line in ("--partition=gpu", "--mem=16GB", "--gpus-per-node=1", "--time=90"):
        assert f"#SBATCH {line}" in text


def test_one_file_serves_every_cluster(write, fake, monkeypatch, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    head = HEAD.replace("{cluster: debug}", "{cluster: slurm, workers: 8, slurm: {partition: a}}")
    path = write("grid: {members: [1]}", head)
    assert sweep_command(SweepConfig(path, cluster="debug"))
    assert "launcher.slurm is not used: launcher.cluster is debug" in capsys.readouterr().out
    local = launch.launcher_for("local", read_sweep(path).launcher)
    assert (local.cluster, local.workers) == ("local", 2)
    assert "launcher.workers is 8; this machine has room for 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tyro.cli(SweepConfig, args=[str(path), "--cluster", "cloud"])


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets what the user shows CUDA, or how many GPUs nvidia-smi lists."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name in (gpus.VISIBLE, *gpus.MEMORY_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def use(visible=None, listed=None):
        if visible is not None:
            monkeypatch.setenv(gpus.VISIBLE, visible)
        if listed is not None:
            lines = "\n".join(f"GPU {i}: A card (UUID: GPU-{i})" for i in range(listed))
            smi = tmp_path / "nvidia-smi"
            smi.write_text(f"#!/bin/sh\n/bin/cat <<END\n{lines}\n  MIG 1g.5gb\nEND\n")
            smi.chmod(0o755)

    return use


def test_local_workers_get_gpus_of_their_own_among_those_the_user_shows(machine):
    machine(visible="6, 2,GPU-abc,0,-1,5")
    two = Launcher(workers=2, gpus=2)
    gpus.check_machine(two)
    found = [gpus.environment_of(two, i, 2) for i in range(2)]
    assert found == [{gpus.VISIBLE: "6,2"}, {gpus.VISIBLE: "GPU-abc,0"}]
    with pytest.raises(ValueError, match=r"2 x 3, and 4 GPUs are visible .*=6, 2,GPU-abc"):
        gpus.check_machine(replace(two, workers=3))
    gpus.check_machine(Launcher(cluster="slurm", workers=30, gpus=2))


@pytest.mark.parametrize(("listed", "visible", "room"), [(3, None, 3), (3, "", 0), (None, None, 8)])
def test_gpus_are_counted_without_touching_them(machine, listed, visible, room):
    machine(visible, listed)
    assert gpus.most_workers(Launcher(gpus=1)) == room
    if room < 8:
        with pytest.raises(ValueError, match=f"1 x 4, and {room} GPUs are visible"):
            gpus.check_machine(Launcher(workers=4, gpus=1))
    assert gpus.environment_of(Launcher(gpus=1), 1, 2)[gpus.VISIBLE] == ("" if room == 0 else "1")


def test_without_gpus_asked_for_workers_see_what_the_user_sees_and_share_its_memory(
    machine, monkeypatch
):
    assert gpus.environment_of(Launcher(), 0, 1) == {gpus.VISIBLE: None}
    machine(visible="2,3")
    shared = {gpus.VISIBLE: "2,3", gpus.FRACTION: "0.375"}
    assert gpus.environment_of(Launcher(workers=2), 1, 2) == shared
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert gpus.environment_of(Launcher(workers=2), 1, 2) == {gpus.VISIBLE: "2,3"}


def test_a_worker_undoes_what_submitit_did_to_the_devices(write, fake, monkeypatch):
    sweep = read_sweep(write("grid: {members: [1]}"))
    save_sweep(sweep)
    monkeypatch.setenv(gpus.VISIBLE, "")  # as submitit does
    Worker(str(sweep.out), environment={gpus.VISIBLE: "2,3"})()
    assert os.environ[gpus.VISIBLE] == "2,3"
    Worker(str(sweep.out), environment={gpus.VISIBLE: None})()
    assert gpus.VISIBLE not in os.environ


def test_a_request_to_end_interrupts_the_work_and_waits_for_it_to_be_saved(tmp_path):
    request = StopRequest(tmp_path, this_process())
    saved = []

    def work():
        try:
            while True:
                time.sleep(0.01)
        finally:
            time.sleep(1.5)  # longer than submitit would wait
            saved.append(True)

    threading.Timer(0.2, request.ask, [60.0]).start()
    with pytest.raises(KeyboardInterrupt), heeding(request):
        work()
    assert saved == [True]
    request.withdraw()
    assert request.patience_s() is None


def test_a_worker_whose_launcher_is_gone_has_a_while_to_save_and_is_ended_after_it(tmp_path):
    gone = replace(this_process(), born=1)
    assert StopRequest(tmp_path, gone).patience_s() == PATIENCE_S
    script = """
        import sys, time
        from pathlib import Path
        from p2r_jax.sweep.claims import Process
        from p2r_jax.sweep.interrupts import StopRequest, heeding
        request = StopRequest(Path(sys.argv[1]), Process("here", 1, 1))
        request.ask(1.0)
        with heeding(request):
            try:
                time.sleep(0.1), [time.sleep(0.01) for _ in range(1000)]
            except KeyboardInterrupt:
                time.sleep(60)  # saves for ever
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "not done 1 s after the request to end" in done.stderr


def test_seeds_of_an_evaluation_are_one_job_unless_workers_would_be_idle(write):
    head = "command: evaluate\nlauncher: {cluster: CLUSTER, workers: WORKERS}\n"
    text = "grid: {trials: [2, 3]}\nseeds: [0, 1, 2]"

    def planned(workers, cluster="slurm"):
        asked = head.replace("WORKERS", str(workers)).replace("CLUSTER", cluster)
        sweep = read_sweep(write(text, asked))
        return [(job.name, job.seeds) for job in jobs(sweep)]

    assert planned(2) == [("trials=2", (0, 1, 2)), ("trials=3", (0, 1, 2))]
    assert planned(3)[:2] == [("trials=2.seed-0", (0, 1)), ("trials=2.seed-2", (2,))]
    assert len(planned(16)) == 6
    assert len(planned(16, "debug")) == 2  # one worker, whatever the file says


OPTUNA = """
optuna:
  space:
    learning_rate: {low: 1e-3, high: 1e-2, log: true}
    members: {low: 1, high: 4}
    layers: [[8], [16, 8]]
  trials: 6
  seed: 1
seeds: [0, 1]
"""


def test_optuna_searches_in_a_journal_and_goes_on_with_the_trial_it_was_in(write, monkeypatch):
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'p2r_jax[sweep]'")
    made, calls = fake_program(), []

    def interrupted(configs):
        calls.append(configs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        made.run(configs)

    broken = replace(made, run=interrupted)
    monkeypatch.setattr(spec, "program", lambda command: broken)
    sweep = read_sweep(write(OPTUNA))
    save_sweep(sweep)
    with pytest.raises(KeyboardInterrupt):
        Worker(str(sweep.out))()
    third = json.loads((sweep.out / "runs" / "trial-002" / TRIAL_FILE).read_text())
    with (sweep.out / "optuna.journal").open("a") as file:
        file.write('{"half a li')  # what a kill leaves
    assert launch.sweep(Path("s.yaml"))
    backend = optuna.storages.journal.JournalFileBackend(str(sweep.out / "optuna.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 6
    best = min(study.trials, key=lambda trial: trial.value).number
    told = sweep_status(sweep).best
    assert told.startswith(f"trial-00{best}: after_contact/rmse_cm {study.best_value:.4g} with")
    again = json.loads((sweep.out / "runs" / "trial-002" / TRIAL_FILE).read_text())
    assert again["changes"] == third["changes"]
    for trial in study.trials:
        error = abs(trial.params["learning_rate"] - 3e-3) + trial.params["members"]
        assert trial.value == pytest.approx(error + 0.5e-3)  # the mean over both seeds
    config = config_of(sweep, again["changes"], run_folder(sweep, variants(sweep)[2], 0), 0)
    assert config.layers in ((8,), (16, 8))


@pytest.mark.parametrize("metric", ["after_contact/bias_cm", "after_contact/rmse_cm"])
def test_a_bias_is_searched_towards_zero_and_a_trial_that_is_not_finite_has_failed(
    write, monkeypatch, metric
):
    optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'p2r_jax[sweep]'")
    values = {"trial-000": (-5.0, 5.0), "trial-001": (float("nan"), 0.0),
              "trial-002": (-1.0, -1.5), "trial-003": (float("-inf"), 0.0)}  # fmt: skip
    monkeypatch.setattr(spec, "program", lambda command: fake_program())
    monkeypatch.setattr(
        worker, "_metric", lambda folder, name: values[folder.parent.name][folder.name == "seed-1"]
    )
    text = OPTUNA.replace("trials: 6", f"trials: 4\n  metric: {metric}")
    assert launch.sweep(write(text))
    assert launch.sweep(Path("s.yaml"))  # and what has failed is not tried for ever
    sweep = load_sweep(Path("runs/sweeps/s"))
    told = [read_trial(sweep, variant)["value"] for variant in variants(sweep)]
    backend = optuna.storages.journal.JournalFileBackend(str(sweep.out / "optuna.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert set(work_done(sweep.out).values()) == {1}
    if "bias" in metric:
        assert told == [5.0, None, 1.25, None]
        assert sweep_status(sweep).best.startswith("trial-002: |after_contact/bias_cm| 1.25 with")
    else:
        assert told == [0.0, None, -1.25, None]
        assert sweep_status(sweep).best.startswith("trial-002: after_contact/rmse_cm -1.25 with")


def test_a_metric_that_runs_do_not_have_is_told_with_the_nearest(write, fake):
    pytest.importorskip("optuna", reason="needs Optuna: pip install 'p2r_jax[sweep]'")
    text = OPTUNA.replace("seed: 1", "seed: 1\n  metric: after_contact/rmse")
    assert not launch.sweep(write(text.replace("trials: 6", "trials: 1")))
    status = sweep_status(load_sweep(Path("runs/sweeps/s")))
    assert "no metric 'after_contact/rmse'; did you mean 'after_con" in status.last_error


def test_a_config_comes_back_from_its_record(task):
    from p2r_jax.files import as_record
    from p2r_jax.policy.train import default_train

    config = replace(default_train("push_tblock", "noisy", Path("a/b")), init=Path("c"))
    assert read_config(TrainConfig, as_record(config)) == config
    record = as_record(config) | {"git": "abc"}
    assert read_config(TrainConfig, record, strict=False) == config
    with pytest.raises(ValueError, match="config has no setting 'git'"):
        read_config(TrainConfig, record)
    del record["out"]
    with pytest.raises(ValueError, match=r"config.out is missing"):
        read_config(TrainConfig, record, strict=False)
    assert check_value(TrainConfig, "ppo.learning_rate", 1) == 1.0


@pytest.mark.parametrize("file", sorted((ROOT / "experiments" / "sweeps").glob("*.yaml")),
                         ids=lambda file: file.stem)  # fmt: skip
def test_committed_sweeps_are_sound(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(file)
    assert sweep.out == Path("runs/sweeps") / file.stem
    check_variants(sweep)
    assert jobs(sweep)


def test_the_benchmark_types_what_the_sweep_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(ROOT / "experiments" / "sweeps" / "estimator_variants.yaml")
    assert len(variants(sweep)) == 32
    picked = bench.pick(jobs(sweep), 2)
    assert len({variant.name for variant in picked}) == 2 * len(jobs(sweep))
    for variant in picked:
        command, task, *args = bench.arguments(sweep, variant, Path("out"), 4)
        assert command == "train-estimator"
        default = EstimatorConfig(load_task(task), tyro.MISSING, tyro.MISSING)
        typed = tyro.cli(EstimatorConfig, default=default, args=args)
        assert typed == config_of(sweep, variant.changes, Path("out"), 4)
