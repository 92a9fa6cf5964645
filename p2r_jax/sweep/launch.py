"""``p2r sweep``: start workers for what is missing, locally or on a cluster, and watch them."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from p2r_jax.sweep.claims import Claims, this_process
from p2r_jax.sweep.gpus import check_machine, environment_of, most_workers
from p2r_jax.sweep.interrupts import (
    LOOK_S,
    PATIENCE_S,
    StopRequest,
    deaf_children,
    sigterm_interrupts,
)
from p2r_jax.sweep.plan import check_variants, jobs, variants
from p2r_jax.sweep.search import import_optuna, mend_journal
from p2r_jax.sweep.spec import Cluster, Launcher, Sweep, read_sweep
from p2r_jax.sweep.status import print_status, state_of, sweep_status
from p2r_jax.sweep.worker import (
    SWEEP_FILE,
    Worker,
    check_variant,
    is_done,
    load_sweep,
    save_sweep,
    sweep_record,
)

POLL_S = 1.0
GRACE_S = 10.0  # for a worker to see that its time is over, and for submitit to see that it is
FIXED = ("command", "task", "phase", "base")  # of a sweep that is started again
FIXED_SEARCH = ("space", "seed", "metric", "direction")


def sweep(path: Path, cluster: Cluster | None = None) -> bool:
    """Run what is missing of a sweep file; whether all of it is there at the end, or queued.

    A cluster's workers are queued and left alone. Local ones end with this process; Ctrl-C and
    SIGTERM give them time to save what they have.

    Args:
      path: the sweep file.
      cluster: in place of the file's ``launcher.cluster``.

    Raises:
      ImportError: naming the extra.
      FileNotFoundError, ValueError: before anything starts, naming file, key and fix.
    """
    asked = read_sweep(path)
    submitit = import_submitit()
    if asked.optuna:
        import_optuna()
    if cluster:
        asked = replace(asked, launcher=launcher_for(cluster, asked.launcher))
    try:
        check_variants(asked)
        check_machine(asked.launcher)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    check_same_sweep(asked)
    claims, launcher = Claims(asked.out / "jobs"), asked.launcher
    if launcher.slurm and launcher.cluster != "slurm":
        print(f"launcher.slurm is not used: launcher.cluster is {launcher.cluster}")
    if launcher.cluster != "slurm":
        wait_for_others(claims)
    if not claims.held():
        mend_journal(asked.out)
    save_sweep(asked)
    claims.forget_failures()
    if launcher.cluster == "slurm":
        queued = ", ".join(_start(submitit, asked, w).job_id for w in make_workers(asked))
        print(f"queued: {queued or 'nothing'}; look with `p2r sweep status {asked.out}`")
        return True
    run_here(submitit, asked)
    status = sweep_status(asked)
    print_status(status)
    return status.counts["done"] == status.jobs


def launcher_for(cluster: Cluster, launcher: Launcher) -> Launcher:
    """The file's launcher on another cluster; locally with as many workers as there is room for."""
    launcher = replace(launcher, cluster=cluster)
    room = most_workers(launcher) if cluster == "local" else launcher.workers
    if not 1 <= room < launcher.workers:
        return launcher
    print(f"launcher.workers is {launcher.workers}; this machine has room for {room}")
    return replace(launcher, workers=room)


def wait_for_others(claims: Claims) -> None:
    """Wait for workers of an earlier start, which share the cores and end with their launcher."""
    if held := claims.held():
        print(f"waiting for {len(held)} workers of an earlier start, at {held[0]}", flush=True)
    while claims.held():
        time.sleep(POLL_S)


def make_workers(sweep: Sweep) -> list[Worker]:
    """Workers for the jobs that are not done; local ones share the cores."""
    launcher, out = sweep.launcher, str(sweep.out)
    count = min(launcher.workers, sum(not is_done(sweep, job) for job in jobs(sweep)))
    if launcher.cluster == "slurm":
        return [Worker(out)] * count
    if launcher.cluster == "debug":
        return [Worker(out)] * min(count, 1)
    cores = sorted(os.sched_getaffinity(0))
    shares = [tuple(cores[i::count]) if count > 1 else None for i in range(count)]
    return [
        Worker(out, share, this_process(), environment_of(launcher, i, count))
        for i, share in enumerate(shares)
    ]


def check_same_sweep(sweep: Sweep) -> None:
    """A sweep started again must be the one in its folder; variants and seeds may be added.

    Raises:
      ValueError: naming what differs, and both values.
    """
    if not (sweep.out / SWEEP_FILE).is_file():
        return
    old, new = sweep_record(load_sweep(sweep.out)), sweep_record(sweep)
    if old != new and (held := Claims(sweep.out / "jobs").held()):
        raise ValueError(
            f"workers of {sweep.out} are still at {held[0]}; stop them or let them end before the "
            "sweep is changed"
        )
    for name in FIXED:
        _refuse_change(sweep, name, old.get(name), new.get(name))
    for way in ("random", "optuna"):
        for name in FIXED_SEARCH if way in old and way in new else ():
            _refuse_change(sweep, f"{way}.{name}", old[way].get(name), new[way].get(name))
    for variant in variants(sweep) if not sweep.optuna else ():
        check_variant(sweep, variant, variant.changes or {})


def _refuse_change(sweep: Sweep, path: str, before: Any, now: Any) -> None:
    """Raise for two values that are not the same, naming the first entry that is not."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            _refuse_change(sweep, f"{path}.{key}", before.get(key, "unset"), now.get(key, "unset"))
    elif before != now:
        raise ValueError(
            f"{sweep.out} holds a sweep with {path} = {json.dumps(before)}, not "
            f"{json.dumps(now)}; choose another out"
        )


def import_submitit():
    """The package, or an ImportError that names the extra."""
    try:
        import submitit
    except ImportError as error:
        raise ImportError("submitit is not installed: pip install 'p2r_jax[sweep]'") from error
    return submitit


def _start(submitit, sweep: Sweep, worker: Worker):
    """Hand a worker to submitit; its job."""
    launcher = sweep.launcher
    executor = submitit.AutoExecutor(str(sweep.out / "logs"), cluster=launcher.cluster)
    more = {f"slurm_{key}": value for key, value in launcher.slurm.items()}
    if launcher.gpus and launcher.cluster == "slurm":
        more["gpus_per_node"] = launcher.gpus
    name = f"p2r-{sweep.out.name}"
    executor.update_parameters(name=name, timeout_min=launcher.timeout_min, **more)
    return executor.submit(worker)


def run_here(submitit, sweep: Sweep) -> None:
    """Start workers on this machine and wait for them.

    Raises:
      KeyboardInterrupt: for Ctrl-C and SIGTERM, when the workers have ended.
    """
    started: list = []
    with sigterm_interrupts():
        try:
            for worker in make_workers(sweep):
                with deaf_children():
                    started.append(_start(submitit, sweep, worker))
            watch(sweep, started)
        except KeyboardInterrupt:
            if sweep.launcher.cluster == "local":
                stop(sweep, started)
            print(f"\nstopped; start it again to go on ({sweep.out})", file=sys.stderr)
            raise
    for job in started:
        if error := job.exception():
            print(f"a worker ended early: {str(error).splitlines()[-1]}", file=sys.stderr)


def watch(sweep: Sweep, started: Sequence) -> None:
    """Wait for workers, with a bar of jobs."""
    claims, left = Claims(sweep.out / "jobs"), jobs(sweep)
    with tqdm(total=len(left), unit="job", desc=sweep.out.name) as bar:
        shown = None
        while True:
            over = all([job.done() for job in started])
            states = [state_of(sweep, job, claims) for job in left]
            left = [job for job, s in zip(left, states, strict=True) if s != "done"]
            counts = {name: states.count(name) for name in ("running", "failed")}
            if (len(left), counts) != shown:
                shown = len(left), counts
                bar.n = bar.total - len(left)
                bar.set_postfix(counts)
            if over:
                break
            time.sleep(POLL_S)


def stop(sweep: Sweep, started: Sequence, patience_s: float = PATIENCE_S) -> None:
    """Ask workers to save what they have and end, and wait; a second Ctrl-C ends them at once."""
    request = StopRequest(sweep.out / "jobs", this_process())
    try:
        print("\nwaiting for the workers to save what they have; Ctrl-C again ends them at once",
              file=sys.stderr)  # fmt: skip
        request.ask(patience_s)
        _wait(started, patience_s + GRACE_S)
    except KeyboardInterrupt:
        request.ask(0.0)
        _wait(started, GRACE_S)
    finally:
        request.withdraw()


def _wait(started: Sequence, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all([job.done() for job in started]):
        time.sleep(LOOK_S)
