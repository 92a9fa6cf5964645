"""``p2r sweep``: start workers for what is missing, locally or on a cluster, and watch them."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from p2r_jax.sweep.claims import Claims, this_process
from p2r_jax.sweep.plan import check_variants, jobs, variants
from p2r_jax.sweep.search import import_optuna, mend_journal
from p2r_jax.sweep.spec import Launcher, Sweep, read_sweep
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
FIXED = ("command", "task", "phase", "base")  # of a sweep that is started again
FIXED_SEARCH = ("space", "seed", "metric", "direction")


def sweep(path: Path) -> bool:
    """Run what is missing of a sweep file; whether all of it is there at the end, or queued.

    A cluster's workers are queued and left alone. Local ones end with this process.

    Raises:
      ImportError: naming the extra.
      FileNotFoundError, ValueError: before anything starts, naming file, key and fix.
    """
    asked = read_sweep(path)
    submitit = import_submitit()
    if asked.optuna:
        import_optuna()
    try:
        check_variants(asked)
        check_cores(asked.launcher)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    check_same_sweep(asked)
    claims = Claims(asked.out / "jobs")
    if asked.launcher.cluster != "slurm":
        wait_for_others(claims)
    if not claims.held():
        mend_journal(asked.out)
    save_sweep(asked)
    claims.forget_failures()
    workers = make_workers(asked)
    started = [_executor(submitit, asked, i).submit(w) for i, w in enumerate(workers)]
    if asked.launcher.cluster == "slurm":
        queued = ", ".join(job.job_id for job in started)
        print(f"queued: {queued or 'nothing'}; look with `p2r sweep status {asked.out}`")
        return True
    watch(asked, started)
    status = sweep_status(asked)
    print_status(status)
    return status.counts["done"] == status.jobs


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
    return [Worker(out, share, this_process()) for share in shares]


def check_cores(launcher: Launcher) -> None:
    """Refuse more local workers than there are cores.

    Raises:
      ValueError: naming both.
    """
    cores = len(os.sched_getaffinity(0))
    if launcher.cluster == "local" and launcher.workers > cores:
        raise ValueError(
            f"launcher.workers is {launcher.workers}, and this machine has {cores} cores; "
            f"at most {cores} local workers"
        )


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


def _executor(submitit, sweep: Sweep, index: int):
    """Submitit's executor for worker ``index``."""
    launcher = sweep.launcher
    executor = submitit.AutoExecutor(str(sweep.out / "logs"), cluster=launcher.cluster)
    more = {f"slurm_{key}": value for key, value in launcher.slurm.items()}
    if launcher.gpus:
        more["gpus_per_node"] = launcher.gpus
    if launcher.gpus and launcher.cluster == "local":
        first = index * launcher.gpus
        more["local_visible_gpus"] = list(range(first, first + launcher.gpus))
    name = f"p2r-{sweep.out.name}"
    executor.update_parameters(name=name, timeout_min=launcher.timeout_min, **more)
    return executor


def watch(sweep: Sweep, started: Sequence) -> None:
    """Wait for local workers, with a bar of jobs; Ctrl-C and errors stop them.

    Raises:
      KeyboardInterrupt: when the workers have stopped.
    """
    claims, left = Claims(sweep.out / "jobs"), jobs(sweep)
    try:
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
    except KeyboardInterrupt:
        stop(started)
        print(f"\nstopped; start it again to go on ({sweep.out})", file=sys.stderr)
        raise
    for job in started:
        if error := job.exception():
            print(f"a worker ended early: {str(error).splitlines()[-1]}", file=sys.stderr)


def stop(started: Sequence, patience_s: float = 30.0) -> None:
    """Interrupt workers, which save what they have, and wait until they are gone."""
    for job in started:
        job.cancel()
    end = time.monotonic() + patience_s
    while time.monotonic() < end and not all([job.done() for job in started]):
        time.sleep(0.2)
