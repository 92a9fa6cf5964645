"""From a sweep to its runs: variants, their names, their configs, and jobs for workers."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2r_jax.runs.config_tree import read_config, set_path
from p2r_jax.runs.folder import SEED_PATH, read_run
from p2r_jax.sweep.search import draw, ends
from p2r_jax.sweep.spec import Sweep

NAME_LENGTH = 80


@dataclass(frozen=True)
class Variant:
    """What differs from ``base``, and the name of its folder.

    Attributes:
      name: unique in the sweep.
      changes: value by dotted path; None of an Optuna trial that has not been asked for.
    """

    name: str
    changes: dict[str, Any] | None


@dataclass(frozen=True)
class Job:
    """What one worker does at a time: these seeds of these variants.

    Attributes:
      variants, seeds: every combination is a run.
      whole: whether these are all seeds.
    """

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    whole: bool

    @property
    def name(self) -> str:
        """File name of its claim."""
        first, others = self.variants[0].name, len(self.variants) - 1
        name = f"{first}+{others}" if others else first
        return name if self.whole else f"{name}.seed-{self.seeds[0]}"

    @property
    def runs(self) -> list[tuple[Variant, int]]:
        """Variant and seed of every run."""
        return [(variant, seed) for variant in self.variants for seed in self.seeds]


def variants(sweep: Sweep) -> list[Variant]:
    """All variants, in the order in which they are run.

    Raises:
      ValueError: if two are the same.
    """
    if sweep.optuna:
        return [Variant(trial_name(i), None) for i in range(sweep.optuna.trials)]
    if sweep.random:
        kind, search = sweep.program.config, sweep.random
        return [Variant(trial_name(i), draw(kind, search, i)) for i in range(search.trials)]
    if sweep.list is not None:
        named = [(dict(entry), entry.get("name")) for entry in sweep.list]
        found = [({k: v for k, v in x.items() if k != "name"}, name) for x, name in named]
    else:
        keys, values = (sweep.grid or {}).keys(), (sweep.grid or {}).values()
        found = [(dict(zip(keys, row, strict=True)), None) for row in itertools.product(*values)]
    short = _short_names([path for changes, _ in found for path in changes])
    made = [Variant(_safe(str(n)) if n else label(x, short), x) for x, n in found]
    for name in {variant.name for variant in made}:
        if sum(variant.name == name for variant in made) > 1:
            raise ValueError(f"variant {name!r} stands there twice; leave one out or name it")
    return made


def trial_name(index: int) -> str:
    """Folder of a trial of a search."""
    return f"trial-{index:03d}"


def jobs(sweep: Sweep) -> list[Job]:
    """All work, whether it is done or not.

    Runs that can share a program are one job, up to ``lanes`` of them but never part of a
    variant. The trials of Optuna are whole as well: their value is known when all seeds are
    done. Seeds that run in turn are one job, or as many as keep every worker busy.
    """
    program = sweep.program
    if sweep.optuna is not None:
        return [Job((variant,), sweep.seeds, True) for variant in variants(sweep)]
    if not program.together:
        size = _seeds_in_turn(sweep) if program.in_turn else 1
        shares = [sweep.seeds[i : i + size] for i in range(0, len(sweep.seeds), size)]
        pairs = itertools.product(variants(sweep), shares)
        return [Job((variant,), own, len(own) == len(sweep.seeds) > 1) for variant, own in pairs]
    alike: dict[str, list[Variant]] = {}
    for variant in variants(sweep):
        rest = {k: v for k, v in (variant.changes or {}).items() if k not in program.numbers}
        alike.setdefault(json.dumps(rest, sort_keys=True, default=str), []).append(variant)
    size = max(sweep.lanes // len(sweep.seeds), 1)
    parts = (group[i : i + size] for group in alike.values() for i in range(0, len(group), size))
    return [Job(tuple(part), sweep.seeds, True) for part in parts]


def _seeds_in_turn(sweep: Sweep) -> int:
    """Seeds of a variant that one job takes, so that there is a job for every worker."""
    workers = 1 if sweep.launcher.cluster == "debug" else sweep.launcher.workers
    per_variant = math.ceil(workers / max(len(variants(sweep)), 1))
    return math.ceil(len(sweep.seeds) / per_variant)


def run_folder(sweep: Sweep, variant: Variant, seed: int) -> Path:
    """Where a run lies."""
    return variant_folder(sweep, variant) / f"seed-{seed}"


def variant_folder(sweep: Sweep, variant: Variant) -> Path:
    """Where the runs of a variant lie."""
    return sweep.out / "runs" / variant.name


def missing_runs(sweep: Sweep, job: Job) -> list[tuple[Variant, int]]:
    """Variant and seed of the runs of a job that are not finished."""
    return [(v, s) for v, s in job.runs if not is_finished(run_folder(sweep, v, s))]


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds everything a run leaves."""
    try:
        return read_run(folder).finished
    except FileNotFoundError:
        return False


def config_of(sweep: Sweep, changes: dict[str, Any], folder: Path, seed: int) -> Any:
    """The config of one run; ``{seed}`` in a text becomes the seed.

    Raises:
      KeyError: for an unknown task.
      ValueError: naming the path of a value that does not fit.
    """
    values = {path: _with_seed(v, seed) for path, v in (sweep.base | changes).items()}
    task = values.pop("task", sweep.task)
    if not isinstance(task, str):
        raise ValueError(f"task is {task!r}; name one, and change it by paths as task.history")
    phase = values.pop("phase", sweep.phase) if sweep.program.phases else ""
    record = sweep.program.base(task, phase)
    for path, value in values.items():
        set_path(record, path, value)
    set_path(record, SEED_PATH[sweep.command], seed)
    record["out"] = str(folder)
    return read_config(sweep.program.config, record)


def check_variants(sweep: Sweep) -> None:
    """Build every config that the sweep will run, and look for the files they read.

    Raises:
      FileNotFoundError, ValueError: naming the variant and what does not fit.
    """
    search = sweep.search
    found = variants(sweep) if not sweep.optuna else []
    if search:
        corners = ends(sweep.program.config, search)
        found += [Variant(f"space at its {name}", x) for name, x in corners.items()]
    for variant in found:
        for seed in sweep.seeds:
            folder = run_folder(sweep, variant, seed)
            try:
                config = config_of(sweep, variant.changes or {}, folder, seed)
                if seed == sweep.seeds[0]:
                    sweep.program.check(config)
            except (ValueError, KeyError) as error:
                raise ValueError(f"variant {variant.name}: {error.args[0]}") from error
            for path in sweep.program.inputs(config):
                if not Path(path).exists():
                    raise FileNotFoundError(f"variant {variant.name} reads {path}: not there")


def label(changes: dict[str, Any], short: dict[str, str]) -> str:
    """Name of a variant from what it changes; a digest where that is not enough."""
    if not changes:
        return "base"
    text = ",".join(f"{short[path]}={_value(v)}" for path, v in changes.items())
    return _safe(text, json.dumps(changes, sort_keys=True, default=str))


def _safe(text: str, exact: str | None = None) -> str:
    clean = re.sub(r"[^A-Za-z0-9=,._+-]", "-", text).strip(".") or "variant"
    if clean == text and len(clean) <= NAME_LENGTH:
        return clean
    return f"{clean[:NAME_LENGTH]}-{hashlib.sha256((exact or text).encode()).hexdigest()[:6]}"


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Last part of every path, or the whole where the last is not unique."""
    distinct = dict.fromkeys(paths)
    last = [path.rsplit(".", 1)[-1] for path in distinct]
    return {p: x if last.count(x) == 1 else p for p, x in zip(distinct, last, strict=True)}


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return "x".join(_value(v) for v in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def _with_seed(value: Any, seed: int) -> Any:
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else value


def changes_record(changes: dict[str, Any]) -> dict:
    """Changes as plain JSON values."""
    return json.loads(json.dumps(changes, default=str))
