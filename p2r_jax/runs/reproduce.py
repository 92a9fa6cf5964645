"""``p2r reproduce``: run a run again from its folder, and say whether it is the same bit by bit.

The same seed on the same device with the same versions must give the same numbers. What can
differ is looked at in this order: versions, device, git revision, inputs, then the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import flax.serialization
import numpy as np
import tyro

from p2r_jax.files import (
    CONFIG_FILE,
    PATCH_FILE,
    digest,
    first_difference,
    new_folder,
    provenance,
    read_json,
    write_json,
)
from p2r_jax.policy.logging import METRICS_FILE, read_rows
from p2r_jax.runs.config_tree import read_config
from p2r_jax.runs.folder import (
    CALIBRATION_FILE,
    NO_SETTINGS,
    RESULTS_FILE,
    Kind,
    Run,
    read_run,
    split_record,
)
from p2r_jax.runs.programs import program

SCHEMA_VERSION = 1
CLOCKS = ("seconds", "steps_per_s", "wall_s")  # not expected to repeat
PARAMETERS: dict[Kind, tuple[str, ...]] = {
    "train": ("learner.msgpack", "policy/policy.msgpack"),
    "train-estimator": ("estimator/estimator.msgpack",),
    "evaluate": (),
}
REPORTS: dict[Kind, tuple[str, ...]] = {
    "train": (),
    "train-estimator": (CALIBRATION_FILE,),
    "evaluate": (RESULTS_FILE,),
}
PLACE = ("versions", "device", "device_count", "cpu", "cores")


@dataclass(frozen=True)
class ReproduceConfig:
    """Which run, and where it is run again.

    Attributes:
      run: folder of a finished run.
      out: new folder; holds ``again/`` and ``reproduce.json``.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes:
      what: dotted path, file and leaf, or row and column.
      before, now: both values.
    """

    what: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.before} before, {self.now} now"


def reproduce(config: ReproduceConfig) -> bool:
    """Run it again and compare; whether everything is bitwise the same.

    Raises:
      FileNotFoundError: if there is no run, or an input or a result of it is gone.
      ValueError: if the run is not finished, or its settings no longer fit this version.
      FileExistsError: if ``out`` is not empty.
    """
    run = read_run(config.run)
    settings = settings_of(run)
    new_folder(config.out)
    again = rerun(run, settings, config.out / "again")
    surroundings = surroundings_of(config.run, again)
    numbers = numbers_that_differ(run.kind, config.run, again)
    matched = not numbers
    record = {
        "schema": SCHEMA_VERSION,
        "run": str(config.run),
        "matched": matched,
        "surroundings": [vars(d) for d in surroundings],
        "numbers": [vars(d) for d in numbers],
        "provenance": provenance(),
    }
    write_json(config.out / "reproduce.json", record)
    print(verdict(config.run, surroundings, numbers))
    return matched


def settings_of(run: Run) -> Any:
    """The config dataclass of a finished run, all of whose inputs are there.

    Raises:
      FileNotFoundError, ValueError: see ``reproduce``.
    """
    record = read_json(run.folder / CONFIG_FILE, "it was written by an older version")
    if not run.finished:
        raise ValueError(f"{run.folder} is not finished; finish it with --resume first")
    for name in (*PARAMETERS[run.kind], *REPORTS[run.kind]):
        if not (run.folder / name).is_file():
            raise FileNotFoundError(
                f"{run.folder} holds no {name}, so there would be nothing to compare it with; "
                "copy the whole run folder from where the run was made"
            )
    whole = program(run.kind)
    config = read_config(whole.config, record, str(run.folder / CONFIG_FILE), strict=False)
    for path in whole.inputs(config):
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{run.folder} was made from {path}, which is not there; paths are as they were "
                "given, so start this in the same folder"
            )
    return config


def rerun(run: Run, config: Any, out: Path) -> Path:
    """Run with the same settings, and with the lanes that shared its program; its folder."""
    lanes = read_json(run.folder / CONFIG_FILE, "").get("one_program")
    if run.kind == "train-estimator" and lanes is None:
        from p2r_jax.estimator.train import train_estimator

        train_estimator(_fresh(config, out))
        return out
    if lanes is None or len(lanes) == 1:
        program(run.kind).run([_fresh(config, out)])
        return out
    from p2r_jax.runs.estimator_lanes import lanes_record, with_numbers

    configs = [with_numbers(config, lane) for lane in lanes]
    own = lanes_record([config], [path for path in lanes[0] if path != "seed"])[0]
    folders = [out / f"lane-{i}" for i in range(len(lanes))]
    program(run.kind).run([_fresh(c, f) for c, f in zip(configs, folders, strict=True)])
    return folders[lanes.index(own)]


def _fresh(config: Any, out: Path) -> Any:
    names = {"out": out, "resume": False, "overwrite": False, "wandb_project": None}
    return replace(config, **{k: v for k, v in names.items() if hasattr(config, k)})


def surroundings_of(before: Path, now: Path) -> list[Difference]:
    """What differs around two runs: versions, device, code, inputs, and how they went."""
    old, new = (split_record(read_json(f / CONFIG_FILE, ""))[1] for f in (before, now))
    known = [name for name in (*PLACE, "git") if name in old]  # an older run says less
    found = [first_difference(old[name], new.get(name), name) for name in known]
    patches = [digest(folder / PATCH_FILE) for folder in (before, now)]
    if patches[0] != patches[1]:
        found.append(("uncommitted changes (git.patch)", patches[0], patches[1]))
    found.append(first_difference(old.get("inputs", {}), new.get("inputs", {}), "inputs"))
    if stops := [entry["at"] for entry in old.get("resumed", [])]:
        found.append(("resumed at", stops, []))
    return [Difference(*each) for each in found if each]


def numbers_that_differ(kind: Kind, before: Path, now: Path) -> list[Difference]:
    """First difference of every file of numbers: parameters, metrics, reports."""
    found = [_parameters(before / name, now / name, name) for name in PARAMETERS[kind]]
    found.append(_rows(before / METRICS_FILE, now / METRICS_FILE))
    found += [_report(before / name, now / name, name) for name in REPORTS[kind]]
    return [difference for difference in found if difference]


def _parameters(before: Path, now: Path, name: str) -> Difference | None:
    """First leaf that is not bitwise the same."""
    old, new = (_leaves(flax.serialization.msgpack_restore(p.read_bytes())) for p in (before, now))
    if old.keys() != new.keys():
        return Difference(f"{name} leaves", len(old), len(new))
    for leaf, a in old.items():
        b = new[leaf]
        if a.shape != b.shape or a.dtype != b.dtype:
            return Difference(f"{name} {leaf}", f"{a.dtype}{a.shape}", f"{b.dtype}{b.shape}")
        if a.tobytes() != b.tobytes():
            at = np.unravel_index(np.argmax(_bits_differ(a, b)), a.shape)
            worst = np.nanmax(np.abs(a.astype(float) - b.astype(float)))
            where = f"{name} {leaf}{list(map(int, at))} (largest difference {worst:.3g})"
            return Difference(where, a[at].item(), b[at].item())
    return None


def _bits_differ(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = a.dtype.itemsize
    rows = (np.ascontiguousarray(x).view(np.uint8).reshape(*a.shape, size) for x in (a, b))
    return np.any(np.not_equal(*rows), -1)


def _leaves(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {prefix.rstrip("/"): np.asarray(tree)}
    return {k: v for name, x in tree.items() for k, v in _leaves(x, f"{prefix}{name}/").items()}


def _rows(before: Path, now: Path) -> Difference | None:
    """First number of ``metrics.csv`` that differs, clocks aside."""
    (columns, old), (others, new) = read_rows(before), read_rows(now)
    if not before.exists():
        return Difference(METRICS_FILE, "missing", f"{len(new)} rows")
    if columns != others or len(old) != len(new):
        return Difference(f"{METRICS_FILE} rows", len(old), len(new))
    for a, b in zip(old, new, strict=True):
        for name, x, y in zip(columns, a, b, strict=True):
            if name not in CLOCKS and x != y:
                return Difference(f"{METRICS_FILE} step {a[0]} {name}", x, y)
    return None


def _report(before: Path, now: Path, name: str) -> Difference | None:
    """First number of a JSON report that differs, clocks and provenance aside."""
    old, new = (_without_clocks(read_json(path, "")) for path in (before, now))
    found = first_difference(old, new, name)
    return Difference(*found) if found else None


def _without_clocks(value: Any) -> Any:
    """A JSON value with lists as objects, so that a difference is named by its place."""
    if isinstance(value, list):
        return {f"[{i}]": _without_clocks(x) for i, x in enumerate(value)}
    if isinstance(value, dict):
        skip = {*CLOCKS, *NO_SETTINGS, "provenance"}
        return {k: _without_clocks(v) for k, v in value.items() if k not in skip}
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def verdict(run: Path, surroundings: Sequence[Difference], numbers: Sequence[Difference]) -> str:
    """What the command says."""
    if not numbers:
        lines = [f"{run}: reproduced, bitwise the same parameters and metrics"]
        return "\n".join(lines + [f"  although {each}" for each in surroundings])
    lines = [f"{run}: NOT reproduced"]
    if not surroundings:
        lines.append("  versions, device, code and inputs are the same")
    lines += [f"  differs first: {each}" for each in surroundings[:1]]
    lines += [f"  also: {each}" for each in surroundings[1:]]
    return "\n".join(lines + [f"  numbers: {each}" for each in numbers])
