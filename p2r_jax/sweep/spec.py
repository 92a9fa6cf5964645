"""A sweep file: read, checked against the config dataclasses, before anything starts.

    command: train-estimator
    out: runs/sweeps/members
    base: {policy: p2r_jax/checkpoints/push_tblock/noisy, rounds: 8}
    grid: {members: [1, 5, 10], learning_rate: [1.0e-3, 3.0e-4]}
    seeds: [0, 1, 2, 3, 4]
    launcher: {cluster: local, workers: 2}

Dotted paths are those of the command line of ``command``; ``task`` may be named, and of a
policy training so may ``phase``.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from p2r_jax.runs.config_tree import check_value, read_config, type_at
from p2r_jax.runs.folder import BEST_WITHIN, SEED_PATH, Kind
from p2r_jax.runs.programs import Program, program

Cluster = Literal["local", "debug", "slurm"]
Direction = Literal["maximize", "minimize", "zero"]
WAYS = ("grid", "list", "random", "optuna")
RANGE_KEYS = ("low", "high", "log", "step")
RESERVED = ("out", "resume", "overwrite")


@dataclass(frozen=True)
class Launcher:
    """Where the workers run.

    Attributes:
      cluster: ``local`` processes, ``debug`` (in this process, one worker) or ``slurm``.
      workers: at once; locally they share the cores evenly.
      gpus: per worker; locally 0 leaves ``CUDA_VISIBLE_DEVICES`` as it is.
      timeout_min: of a worker; what it leaves is taken up by the next start.
      slurm: further parameters of the batch script by submitit's names, e.g. ``partition``;
        on another cluster they are not used.
    """

    cluster: Cluster = "local"
    workers: int = 1
    gpus: int = 0
    timeout_min: int = 24 * 60
    slurm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"launcher.workers is {self.workers}; at least one is needed")
        if self.gpus < 0:
            raise ValueError(f"launcher.gpus is {self.gpus}; give 0 or more")


@dataclass(frozen=True)
class Search:
    """A space and how much of it is tried.

    Attributes:
      space: by dotted path: a list of choices, or ``{low, high}`` with ``log`` or ``step``.
      trials: number of variants.
      seed: of the search.
      metric: what Optuna improves, as in ``p2r runs`` and ``p2r compare``; by default the
        key metric of the kind of run. The mean over the seeds counts; a trial in which it is
        not finite has failed, and the search goes on.
      direction: by default told from the metric's name. ``zero`` minimizes the mean over the
        seeds of the absolute value, and is the default of a bias.
    """

    space: dict[str, Any]
    trials: int
    seed: int = 0
    metric: str | None = None
    direction: Direction | None = None

    def __post_init__(self):
        if self.trials < 1:
            raise ValueError(f"trials is {self.trials}; at least one is needed")


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
      command: what is run: ``train``, ``train-estimator`` or ``evaluate``.
      out: folder of the sweep.
      task: registered task or task folder.
      phase: of a policy training.
      base: settings that all variants share, by dotted path.
      grid: lists by dotted path; every combination is a variant.
      list: variants one by one, each a mapping from dotted path to value; ``name`` names it.
      random: drawn from a space.
      optuna: searched in a space.
      seeds: every variant is run with each of them.
      lanes: most runs that share one program, where they can; memory grows with them.
      launcher: where.
    """

    command: Kind
    out: Path
    task: str = "push_tblock"
    phase: str = "privileged"
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] | None = None
    list: tuple[dict[str, Any], ...] | None = None
    random: Search | None = None
    optuna: Search | None = None
    seeds: tuple[int, ...] = (0,)
    lanes: int = 20
    launcher: Launcher = field(default_factory=Launcher)

    def __post_init__(self):
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(WAYS)}; {' and '.join(given)} are given")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give each once, at least one")

    @property
    def program(self) -> Program:
        """What is run."""
        return program(self.command)

    @property
    def search(self) -> Search | None:
        """The space that is searched, of either kind."""
        return self.random or self.optuna


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
      FileNotFoundError: if there is no such file.
      ImportError: naming the extra.
      ValueError: naming file, key and what is expected.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no sweep file {path}")
    yaml = _yaml()
    try:
        record = yaml.load(path.read_text(), Loader=_loader(yaml))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no settings by name")
    try:
        sweep = read_config(Sweep, {"out": f"runs/sweeps/{path.stem}", **record}, "sweep")
        check_sweep(sweep)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error.args[0]}") from error
    return sweep


def check_sweep(sweep: Sweep) -> None:
    """Paths, types and ranges; the variants themselves are checked by ``plan.variants``.

    Raises:
      ValueError: naming the key.
    """
    kind = sweep.program.config
    for where, changes in _changes(sweep):
        for path, value in changes.items():
            _check_one(sweep.command, kind, where, path, value)
    if sweep.search:
        for path, space in sweep.search.space.items():
            _check_free(sweep.command, "space", path)
            _check_space(kind, f"space.{path}", path, space)
    if sweep.optuna:
        _check_direction(sweep.optuna)
    phases = sweep.program.phases
    if phases and sweep.phase not in phases:
        raise ValueError(f"phase is {sweep.phase!r}, not one of {', '.join(phases)}")
    if not phases and sweep.phase != Sweep.phase:
        raise ValueError(f"phase is {sweep.phase!r}, but {sweep.command} has no phases")


def _changes(sweep: Sweep):
    """Every path with one value, and where it stands."""
    yield "base", sweep.base
    for path, values in (sweep.grid or {}).items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{path} is {values!r}; give a list of values")
        for value in values:
            yield "grid", {path: value}
    for index, entry in enumerate(sweep.list or ()):
        yield f"list[{index}]", {k: v for k, v in entry.items() if k != "name"}


def _check_free(command: Kind, where: str, path: str) -> None:
    """Refuse the settings that the sweep sets."""
    if path in RESERVED:
        raise ValueError(f"{where}.{path} is set by the sweep itself; leave it out")
    if path == SEED_PATH[command]:
        raise ValueError(f"{where}.{path}: list the seeds under `seeds` instead")


def _check_one(command: Kind, kind: type, where: str, path: str, value: Any) -> None:
    _check_free(command, where, path)
    if path == "task" and isinstance(value, str):
        return
    try:
        check_value(kind, path, value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_space(kind: type, where: str, path: str, space: Any) -> None:
    type_at(kind, path)
    if isinstance(space, list) and space:
        for value in space:
            check_value(kind, path, value)
        return
    if not isinstance(space, dict) or not {"low", "high"} <= set(space):
        raise ValueError(f"{where} is {space!r}; give a list of choices, or low and high")
    if unknown := sorted(set(space) - set(RANGE_KEYS)):
        raise ValueError(f"{where} has no {unknown[0]!r} (there are: {', '.join(RANGE_KEYS)})")
    low, high = (check_value(kind, path, space[k]) for k in ("low", "high"))
    if not isinstance(low, int | float) or isinstance(low, bool):
        raise ValueError(f"{where}: a range needs a number, {path} takes none; give choices")
    if not low < high or (space.get("log") and low <= 0):
        raise ValueError(f"{where} goes from {low} to {high}; low < high, and 0 < low with log")
    if "step" in space and (space.get("log") or not space["step"] > 0):
        raise ValueError(f"{where}: step is {space['step']}; give a positive one, without log")


def _check_direction(search: Search) -> None:
    metric = search.metric or ""
    if search.direction is None and any(word in metric for word in BEST_WITHIN):
        raise ValueError(
            f"optuna.metric is {metric!r}, which is best neither high nor low; give "
            "optuna.direction, or search another metric (nll rewards a sigma that is right)"
        )


def _yaml():
    try:
        import yaml
    except ImportError as error:
        raise ImportError("PyYAML is not installed: pip install 'p2r_jax[sweep]'") from error
    return yaml


def _loader(yaml):
    """``SafeLoader`` that also takes 1e-3 for a number, as YAML 1.2 and every reader do."""

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    number = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return loader
