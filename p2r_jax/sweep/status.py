"""``p2r sweep status``: how far a sweep is, how fast it goes, and what went wrong."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2r_jax.runs.folder import UNITS, Run, read_run
from p2r_jax.sweep.claims import Claims
from p2r_jax.sweep.plan import Job, Variant, jobs, run_folder, variants
from p2r_jax.sweep.search import direction_of, maximizes
from p2r_jax.sweep.spec import Sweep
from p2r_jax.sweep.worker import is_done, read_trial

State = Literal["done", "running", "failed", "missing"]
STATES: tuple[State, ...] = ("done", "running", "failed", "missing")


@dataclass(frozen=True)
class Status:
    """A sweep at one moment.

    Attributes:
      out: its folder.
      jobs, runs: how many there are; a job has one seed or several.
      counts: jobs by state.
      finished_runs: runs that are finished.
      running: what the runs of running jobs are at, a line each.
      seconds_per_job: mean of the finished ones; None before the first.
      jobs_per_hour: at the number of workers that run now; None without either.
      eta_s: until the last job ends at that rate.
      last_error: job and message of the latest failure.
      best: of Optuna's trials: name, metric and value, changes.
    """

    out: Path
    jobs: int
    runs: int
    counts: dict[str, int]
    finished_runs: int
    running: tuple[str, ...]
    seconds_per_job: float | None
    jobs_per_hour: float | None
    eta_s: float | None
    last_error: str | None
    best: str | None


def state_of(sweep: Sweep, job: Job, claims: Claims) -> State:
    """What a job is doing."""
    if claims.holder(job.name):
        return "running"
    if is_done(sweep, job):
        return "done"
    return "failed" if claims.failure(job.name) else "missing"


def sweep_status(sweep: Sweep) -> Status:
    """Read the state of all jobs from the sweep's folder."""
    claims, work = Claims(sweep.out / "jobs"), jobs(sweep)
    states = {job.name: state_of(sweep, job, claims) for job in work}
    counts = Counter(states.values())
    runs = [(job, v, seed, _run(sweep, v, seed)) for job in work for v, seed in job.runs]
    endings = [e for job in work if (e := claims.ending(job.name))]
    seconds = sum(e["seconds"] for e in endings) / len(endings) if endings else None
    rate = counts["running"] / seconds if seconds and counts["running"] else None
    left = counts["running"] + counts["missing"]
    failures = [
        (f["time"], job.name, f["error"]) for job in work if (f := claims.failure(job.name))
    ]
    return Status(
        out=sweep.out,
        jobs=len(work),
        runs=len(runs),
        counts={state: counts[state] for state in STATES},
        finished_runs=sum(run is not None and run.finished for *_, run in runs),
        running=tuple(
            f"{variant.name} seed {seed}: {_progress(run)}"
            for job, variant, seed, run in runs
            if states[job.name] == "running"
        ),
        seconds_per_job=seconds,
        jobs_per_hour=3600 * rate if rate else None,
        eta_s=left / rate if rate else None,
        last_error="{1}: {2}".format(*max(failures)) if failures else None,
        best=best_trial(sweep),
    )


def best_trial(sweep: Sweep) -> str | None:
    """The best of the trials that are done; None without any."""
    if sweep.optuna is None:
        return None
    found = [(v.name, read_trial(sweep, v)) for v in variants(sweep)]
    done = [(n, trial) for n, trial in found if trial.get("value") is not None]
    if not done:
        return None
    metric = done[0][1]["metric"]
    best = max if maximizes(sweep.optuna, metric) else min
    name, trial = best(done, key=lambda each: each[1]["value"])
    what = f"|{metric}|" if direction_of(sweep.optuna, metric) == "zero" else metric
    return f"{name}: {what} {trial['value']:.4g} with {json.dumps(trial['changes'])}"


def print_status(status: Status) -> None:
    """A few lines for people."""
    states = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    print(f"{status.out}: {status.jobs} jobs: {states}; {status.finished_runs} of "
          f"{status.runs} runs finished")  # fmt: skip
    for line in status.running:
        print(f"  running  {line}")
    if status.seconds_per_job is not None:
        print(f"  {status.seconds_per_job:.0f} s per job{_rate(status)}")
    if status.best:
        print(f"  best  {status.best}")
    if status.last_error:
        print(f"  last error  {status.last_error}")
        print("  failed jobs are tried again when the sweep is started again")


def _rate(status: Status) -> str:
    if status.jobs_per_hour is None or status.eta_s is None:
        return ""
    return f", {status.jobs_per_hour:.1f} jobs/h, ETA {status.eta_s / 60:.1f} min"


def _run(sweep: Sweep, variant: Variant, seed: int) -> Run | None:
    try:
        return read_run(run_folder(sweep, variant, seed))
    except FileNotFoundError:
        return None


def _progress(run: Run | None) -> str:
    if run is None:
        return "starting"
    return f"{run.done or 0} of {run.total} {UNITS[run.kind]}"
