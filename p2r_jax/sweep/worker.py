"""A worker: takes the next job that is missing until none is left.

Nothing is kept in its memory: killed at any moment, it leaves run folders that the next
worker goes on from, and a claim that nobody has to honour.
"""

import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2r_jax.files import as_record, read_record, write_json
from p2r_jax.runs.config_tree import read_config
from p2r_jax.runs.folder import KEY_METRIC, read_run, unknown_metric
from p2r_jax.sweep.claims import Claims, Process
from p2r_jax.sweep.interrupts import StopRequest, heeding
from p2r_jax.sweep.plan import (
    Job,
    Variant,
    changes_record,
    config_of,
    jobs,
    missing_runs,
    run_folder,
    variant_folder,
)
from p2r_jax.sweep.search import Study, objective
from p2r_jax.sweep.spec import Sweep

SWEEP_FILE, VARIANT_FILE, TRIAL_FILE = "sweep.json", "variant.json", "trial.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Worker:
    """What submitit starts; called, it works.

    Attributes:
      out: folder of the sweep.
      cores: of this machine, that it may use; None for all.
      launcher: process that it must not outlive and that may ask it to end; None on a cluster.
      environment: variables to set, or to unset (None), before jax looks for devices.
    """

    out: str
    cores: tuple[int, ...] | None = None
    launcher: Process | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def __call__(self) -> int:
        """Work; returns the number of jobs done."""
        from p2r_jax.compat import use_compilation_cache

        if self.cores:
            os.sched_setaffinity(0, self.cores)
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        use_compilation_cache()
        sweep = load_sweep(Path(self.out))
        claims = Claims(sweep.out / "jobs")
        request = StopRequest(claims.folder, self.launcher) if self.launcher else None
        with heeding(request):
            return sum(self._do(sweep, job, claims) for job in jobs(sweep))

    def checkpoint(self):
        """What submitit queues when a cluster takes the machine away: the same again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _do(self, sweep: Sweep, job: Job, claims: Claims) -> bool:
        """One job, unless it is done, failed before, or held by another worker."""
        if claims.failure(job.name) or is_done(sweep, job) or not claims.take(job.name):
            return False
        started = time.perf_counter()
        try:
            if is_done(sweep, job):  # by the worker that held it a moment ago
                return False
            with claims.beating(job.name):
                run_job(sweep, job)
            claims.ended(job.name, time.perf_counter() - started)
        except Exception as error:  # one job must not cost the others
            print(traceback.format_exc(), flush=True)
            text = f"{type(error).__name__}: {error.args[0] if error.args else error}"
            claims.failed(job.name, text, traceback.format_exc())
            return False
        finally:
            claims.release(job.name)
        return True


def save_sweep(sweep: Sweep) -> None:
    """Write ``sweep.json``, which workers read."""
    sweep.out.mkdir(parents=True, exist_ok=True)
    write_json(sweep.out / SWEEP_FILE, {"schema": SCHEMA_VERSION} | sweep_record(sweep))


def sweep_record(sweep: Sweep) -> dict:
    """A sweep as plain JSON values."""
    return {k: v for k, v in as_record(sweep).items() if v is not None}


def load_sweep(folder: Path) -> Sweep:
    """Read a sweep from its folder.

    Raises:
      FileNotFoundError: if there is none.
    """
    record = read_record(folder / SWEEP_FILE, SCHEMA_VERSION, "`p2r sweep FILE` makes one")
    del record["schema"]
    return read_config(Sweep, record | {"out": str(folder)}, str(folder / SWEEP_FILE))


def is_done(sweep: Sweep, job: Job) -> bool:
    """Whether all runs of a job are finished, and of a trial, its value told."""
    told = sweep.optuna is None or all("value" in read_trial(sweep, v) for v in job.variants)
    return told and not missing_runs(sweep, job)


def run_job(sweep: Sweep, job: Job) -> None:
    """Run the missing runs of a job."""
    changes = {variant.name: _changes(sweep, variant) for variant in job.variants}
    for variant in job.variants:
        check_variant(sweep, variant, changes[variant.name])
        folder = variant_folder(sweep, variant)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / VARIANT_FILE, {"changes": changes_record(changes[variant.name])})
    missing = missing_runs(sweep, job)
    print(f"== {job.name}: {len(missing)} runs", flush=True)
    if missing:
        sweep.program.run(
            [config_of(sweep, changes[v.name], run_folder(sweep, v, s), s) for v, s in missing]
        )
    if sweep.optuna is not None:
        _tell(sweep, job)


def _changes(sweep: Sweep, variant: Variant) -> dict[str, Any]:
    return _asked(sweep, variant) if variant.changes is None else variant.changes


def check_variant(sweep: Sweep, variant: Variant, changes: dict[str, Any]) -> None:
    """Refuse a folder that holds a variant of this name with other settings.

    Raises:
      ValueError: naming the folder and both settings.
    """
    path = variant_folder(sweep, variant) / VARIANT_FILE
    before = json.loads(path.read_text())["changes"] if path.is_file() else None
    if before is not None and before != (now := changes_record(changes)):
        raise ValueError(
            f"{path.parent} holds a variant with {before}, not {now}; give the variant another "
            "name, or the sweep another out"
        )


def read_trial(sweep: Sweep, variant: Variant) -> dict:
    """Number, changes and, once told, metric and objective of a trial; empty before it began."""
    path = variant_folder(sweep, variant) / TRIAL_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _metric_name(sweep: Sweep) -> str:
    asked = sweep.optuna.metric if sweep.optuna else None
    return asked or KEY_METRIC[sweep.command]


def _study(sweep: Sweep) -> Study:
    if sweep.optuna is None:
        raise ValueError(f"{sweep.out} is no sweep by Optuna")
    return Study(sweep.out, sweep.program.config, sweep.optuna, _metric_name(sweep))


def _asked(sweep: Sweep, variant: Variant) -> dict[str, Any]:
    """Changes of a trial: those it was started with, or new ones from Optuna."""
    trial = read_trial(sweep, variant)
    if not trial:
        number, changes = _study(sweep).ask(int(variant.name.rsplit("-", 1)[1]))
        trial = {"number": number, "changes": changes}
        folder = variant_folder(sweep, variant)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TRIAL_FILE, trial)
    return trial["changes"]


def _tell(sweep: Sweep, job: Job) -> None:
    """State the objective over the seeds; null in ``trial.json`` if the trial has failed.

    Raises:
      ValueError: if a run has no such metric.
    """
    metric, (variant,) = _metric_name(sweep), job.variants
    values = [_metric(run_folder(sweep, variant, seed), metric) for seed in job.seeds]
    value, trial = objective(sweep.optuna, metric, values), read_trial(sweep, variant)
    if value is None:
        print(f"{variant.name} has failed: {metric} of its seeds is {values}", flush=True)
    _study(sweep).tell(trial["number"], value)
    folder = variant_folder(sweep, variant)
    write_json(folder / TRIAL_FILE, trial | {"metric": metric, "value": value})


def _metric(folder: Path, name: str) -> float:
    metrics = read_run(folder).metrics
    if name not in metrics:
        raise unknown_metric(name, list(metrics))
    return metrics[name]
