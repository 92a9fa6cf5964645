"""A run folder as one record: what ran, how far it is, and its numbers.

Three kinds are known by what lies in them: a policy training (``p2r train``), an estimator
training (``p2r train-estimator``) and an evaluation (``p2r evaluate``).
"""

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2r_jax.estimator.calibration import after_contact
from p2r_jax.files import CONFIG_FILE, read_json
from p2r_jax.policy.logging import METRICS_FILE, read_rows
from p2r_jax.runs.config_tree import flatten, get_path

Kind = Literal["train", "train-estimator", "evaluate"]
RESULTS_FILE, CALIBRATION_FILE, STATE_FILE = "results.json", "calibration.json", "state.msgpack"
SIGNS: dict[Kind, tuple[str, ...]] = {  # settings that only this kind has
    "train": ("phase", "ppo"),
    "train-estimator": ("members", "rounds"),
    "evaluate": ("methods", "conditions"),
}
SEED_PATH: dict[Kind, str] = {"train": "ppo.seed", "train-estimator": "seed", "evaluate": "seed"}
KEY_METRIC: dict[Kind, str] = {
    "train": "eval/success",
    "train-estimator": "after_contact/rmse_cm",
    "evaluate": "hardware",
}
UNITS: dict[Kind, str] = {"train": "steps", "train-estimator": "rounds", "evaluate": "cells"}
SHOWN = 20  # metrics that an error lists
LOWER_IS_BETTER = ("error", "rmse", "nll", "loss", "sigma", "seconds", "position_cm")
BEST_AT_ZERO = ("bias",)
BEST_WITHIN = ("coverage",)  # at a value that the name does not tell
CALIBRATION_ROWS = ("since_contact", "contact_steps_in_window")  # the same for every run
NO_SETTINGS = (  # of ``config.json``: where a run comes from, not what it is
    "git", "date", "cpu", "cores", "versions", "device", "device_count", "command",
    "git_changes", "inputs", "resumed", "one_program",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
      folder: where it lies.
      kind: of run.
      config: its settings, without where they come from.
      origin: git revision, date, versions, device, command; as far as known.
      done: steps, rounds or cells (condition and method) that are there; None if unknown.
      total: of a finished run.
      finished: whether everything is there.
      resumable: whether it can go on from where it stopped.
      metrics: last values by name.
    """

    folder: Path
    kind: Kind
    config: dict
    origin: dict
    done: int | None
    total: int
    finished: bool
    resumable: bool
    metrics: dict[str, float]

    @property
    def seed(self) -> int:
        """Seed of everything in it."""
        return get_path(self.config, SEED_PATH[self.kind])

    @property
    def task(self) -> str:
        """Name of the task."""
        task = self.config.get("task")
        return task["name"] if isinstance(task, dict) else str(task)

    @property
    def key_metric(self) -> float | None:
        """The number that a list shows."""
        return self.metrics.get(KEY_METRIC[self.kind])


def kind_of(record: dict) -> Kind | None:
    """Kind of run by the settings in its ``config.json``; None for something else."""
    return next((k for k, names in SIGNS.items() if all(n in record for n in names)), None)


def higher_is_better(metric: str) -> bool:
    """Direction of a metric, by its name."""
    return not any(word in metric for word in LOWER_IS_BETTER)


def best_at_zero(metric: str) -> bool:
    """Whether a metric is better the nearer it is to zero, by its name."""
    return any(word in metric for word in BEST_AT_ZERO)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
      FileNotFoundError: if there is no run in it.
      ValueError: naming a file that cannot be read.
    """
    record = _read_json(folder / CONFIG_FILE)
    kind = kind_of(record) if record else None
    if kind is None:
        return _read_evaluation(folder, None)
    if kind == "evaluate":
        return _read_evaluation(folder, record)
    settings, origin = split_record(record)
    read = _training_progress if kind == "train" else _estimator_progress
    done, total, finished, metrics = read(folder, settings)
    resumable = not finished and (folder / STATE_FILE).is_file()
    return Run(folder, kind, settings, origin, done, total, finished, resumable, metrics)


def split_record(record: dict) -> tuple[dict, dict]:
    """``config.json`` in two: settings, and where they come from."""
    settings = {k: v for k, v in record.items() if k not in NO_SETTINGS}
    return settings, {k: v for k, v in record.items() if k in NO_SETTINGS}


def find_runs(root: Path) -> list[Run]:
    """All runs in and below a folder, by path; nothing is looked for inside a run.

    Raises:
      FileNotFoundError: if there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    return list(_walk(root))


def expand(given: Sequence[Path]) -> list[Run]:
    """Runs of what a command line names: run folders, and folders of them, without repetition.

    Raises:
      FileNotFoundError: naming what holds no run.
      ValueError: if nothing is named.
    """
    if not given:
        raise ValueError("name run folders, or folders of them")
    found: dict[Path, Run] = {}
    for root in given:
        runs = find_runs(Path(root))
        if not runs:
            raise FileNotFoundError(f"{root} holds no run ({CONFIG_FILE} or {RESULTS_FILE})")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def unknown_metric(name: str, known: Sequence[str]) -> ValueError:
    """The error for a metric that is not there: the nearest one, and the first that are."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    more = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    first = ", ".join(sorted(known)[:SHOWN])
    return ValueError(f"there is no metric {name!r}{hint} (metrics: {first}{more})")


def _walk(root: Path) -> Iterator[Run]:
    for path, folders, files in os.walk(root):
        folders.sort()
        if CONFIG_FILE in files or RESULTS_FILE in files:
            with contextlib.suppress(FileNotFoundError):  # another folder with such a file
                yield read_run(Path(path))
                folders.clear()


def _read_json(path: Path) -> dict:
    """An object; empty if there is no such file, or if it is something else."""
    record = read_json(path, "") if path.is_file() else {}
    return record if isinstance(record, dict) else {}


def _training_progress(folder: Path, settings: dict):
    contract = _read_json(folder / "policy" / "policy.json")
    done, total = contract.get("steps", 0), settings["ppo"]["total_steps"]
    return done, total, done >= total, _last_row(folder)


def _last_row(folder: Path) -> dict[str, float]:
    columns, rows = read_rows(folder / METRICS_FILE)
    if not rows:
        return {}
    return {k: float(v) for k, v in zip(columns, rows[-1], strict=True) if v}


def _estimator_progress(folder: Path, settings: dict):
    report, total = _read_json(folder / CALIBRATION_FILE), settings["rounds"]
    last = _last_row(folder)
    done = total if report else int(last["step"]) if last else None
    metrics = {k: v for k, v in last.items() if k != "step"}
    if report:
        for name in CALIBRATION_ROWS:
            metrics |= flatten(report[name], "/", f"{name}/") if report[name] else {}
        metrics = {k: v for k, v in metrics.items() if not k.endswith("/windows")}
        after = {k: v for k, v in after_contact(report).items() if k != "windows"}
        metrics |= {f"after_contact/{k}": v for k, v in after.items()}
    return done, total, bool(report), metrics


def _read_evaluation(folder: Path, record: dict | None) -> Run:
    results = _read_json(folder / RESULTS_FILE)
    if record is None and not {"results", "dynamics", "trials"} <= set(results):
        raise FileNotFoundError(f"{folder} holds no run ({CONFIG_FILE} or {RESULTS_FILE})")
    settings, origin = split_record(record) if record else _evaluation_settings(results)
    rows, complete = results.get("results", []), bool(results.get("complete"))
    total = len(settings["methods"]) * len(settings["conditions"])
    metrics = _success_rates(rows)
    return Run(folder, "evaluate", settings, origin, len(rows), total, complete, False, metrics)


def _evaluation_settings(results: dict) -> tuple[dict, dict]:
    """Settings and origin of an evaluation that left nothing but its results."""
    rows = results["results"]
    settings = {
        "task": results["task"],
        "dynamics": results["dynamics"]["name"],
        "trials": results["trials"],
        "seed": results["seed"],
        "methods": list(dict.fromkeys(row["method"] for row in rows)),
        "conditions": list(results["conditions"]),
    }
    return settings, results.get("provenance", {})


def _success_rates(rows: Sequence[dict]) -> dict[str, float]:
    """Rates by criterion: of every cell, of a method over the conditions, and of all cells."""
    found: dict[str, list[float]] = {}
    for row in rows:
        where, method = row["condition"], row["method"]
        for name in ("hardware", "strict", "strict_pose"):
            if name in row:
                for key in (f"{where}/{method}/{name}", f"{method}/{name}", name):
                    found.setdefault(key, []).append(row[name]["value"])
    return {key: sum(values) / len(values) for key, values in found.items()}
