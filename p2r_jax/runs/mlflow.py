"""Run folders in MLflow's file layout (``mlruns``), written without MLflow.

    p2r runs export --mlflow mlruns runs/sweeps/members
    MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri mlruns

(MLflow 3 wants to be asked for files; ``mlflow migrate-filestore`` moves them to a database.)
An experiment per kind and task; of every run its settings as parameters, all rows of
``metrics.csv`` and the last values as metrics, where it comes from as tags.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from p2r_jax.files import write_atomic
from p2r_jax.policy.logging import METRICS_FILE, read_rows
from p2r_jax.runs.config_tree import flatten
from p2r_jax.runs.folder import Run, find_runs

PARAMETER_LENGTH = 6000  # MLflow's limit on a parameter's value
FINISHED, RUNNING = 3, 1  # MLflow's RunStatus
LOCAL_SOURCE = 4  # MLflow's SourceType
ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")


@dataclass(frozen=True)
class ExportConfig:
    """What is exported.

    Attributes:
      folder: runs in and below it.
      mlflow: folder for MLflow's files; runs that are there are written anew.
    """

    mlflow: Path
    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")


def export(config: ExportConfig) -> int:
    """Write all runs below a folder; returns how many.

    Raises:
      FileNotFoundError: if there is no run.
    """
    runs = find_runs(config.folder)
    if not runs:
        raise FileNotFoundError(f"{config.folder} holds no run")
    (config.mlflow / ".trash").mkdir(parents=True, exist_ok=True)
    for run in runs:
        export_run(run, config.folder, config.mlflow)
    command = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {config.mlflow}"
    print(f"{len(runs)} runs in {config.mlflow}; {command}")
    return len(runs)


def export_run(run: Run, root: Path, store: Path) -> Path:
    """Write one run; returns its folder in the store."""
    name = f"{run.kind} {run.task}"
    experiment = store / _number(name)
    ours = time.time_ns() // 1_000_000
    _write_yaml(experiment, {
        "artifact_location": experiment.resolve().as_uri(), "creation_time": ours,
        "experiment_id": experiment.name, "last_update_time": ours,
        "lifecycle_stage": "active", "name": name,
    })  # fmt: skip
    run_id = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:32]
    folder = experiment / run_id
    for part in ("artifacts", "metrics", "params", "tags"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    began, ended = _times(run)
    relative = run.folder.relative_to(root).as_posix() if run.folder != root else root.name
    _write_yaml(folder, {
        "artifact_uri": (folder / "artifacts").resolve().as_uri(), "end_time": ended,
        "entry_point_name": "", "experiment_id": experiment.name, "lifecycle_stage": "active",
        "run_id": run_id, "run_name": relative, "run_uuid": run_id, "source_name": "",
        "source_type": LOCAL_SOURCE, "source_version": "", "start_time": began,
        "status": FINISHED if run.finished else RUNNING, "tags": [], "user_id": "p2r",
    })  # fmt: skip
    for key, value in flatten(run.config).items():
        _write(folder / "params" / _key(key), _text(value)[:PARAMETER_LENGTH])
    for key, value in flatten(run.origin).items():
        _write(folder / "tags" / _key(f"p2r.{key}"), _text(value))
    _write(folder / "tags" / "mlflow.runName", relative)
    _write(folder / "tags" / "p2r.folder", str(run.folder.resolve()))
    for key, rows in _metrics(run).items():
        lines = (f"{began} {value!r} {step}\n" for value, step in rows)
        _write(folder / "metrics" / _key(key), "".join(lines))
    return folder


def _metrics(run: Run) -> dict[str, list[tuple[float, int]]]:
    """(value, step) of every metric: the training's rows, then what only the end has."""
    columns, rows = read_rows(run.folder / METRICS_FILE)
    found: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        step = int(float(row[0]))
        for name, text in zip(columns[1:], row[1:], strict=True):
            if text:
                found.setdefault(name, []).append((float(text), step))
    last = {k: v for k, v in run.metrics.items() if k not in found and k != "step"}
    return found | {k: [(float(v), run.done or 0)] for k, v in last.items() if math.isfinite(v)}


def _times(run: Run) -> tuple[int, int | None]:
    """Start and end in milliseconds, by the files' own times."""
    files = [p for p in _stamps(run.folder)]
    began, ended = min(files), max(files)
    return int(1000 * began), int(1000 * ended) if run.finished else None


def _stamps(folder: Path) -> Iterator[float]:
    yield folder.stat().st_mtime
    for path in folder.iterdir():
        yield path.stat().st_mtime


def _number(name: str) -> str:
    """Experiment number of a name: the same in every export."""
    return str(int(hashlib.sha256(name.encode()).hexdigest()[:15], 16))


def _key(name: str) -> str:
    return "".join(c if c in ALLOWED else "-" for c in name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def _write_yaml(folder: Path, values: dict[str, Any]) -> None:
    """``meta.yaml``: JSON's scalars are YAML's."""
    lines: Sequence[str] = [f"{key}: {json.dumps(value)}\n" for key, value in values.items()]
    _write(folder / "meta.yaml", "".join(lines))
