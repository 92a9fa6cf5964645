"""Variants drawn from a space: at random, or by Optuna from what was found so far."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2r_jax.runs.config_tree import type_at
from p2r_jax.runs.folder import best_at_zero, higher_is_better
from p2r_jax.sweep.spec import Direction, Search

JOURNAL = "optuna.journal"
STUDY = "sweep"


def draw(kind: type, search: Search, trial: int) -> dict[str, Any]:
    """Random values of one trial; the same for the same seed and number.

    A range is uniform, of the logarithm with ``log``, on a grid from ``low`` with ``step``.
    """
    rng = np.random.default_rng([search.seed, trial])
    return {path: _draw_one(_is_whole(kind, path), space, rng)
            for path, space in search.space.items()}  # fmt: skip


def _draw_one(whole: bool, space: Any, rng: np.random.Generator) -> Any:
    if isinstance(space, list):
        return space[int(rng.integers(len(space)))]
    low, high = space["low"], space["high"]
    if step := space.get("step"):
        value = low + step * int(rng.integers(math.floor((high - low) / step + 1e-9) + 1))
    elif space.get("log"):
        value = math.exp(rng.uniform(math.log(low), math.log(high + whole)))
    elif whole:
        return int(rng.integers(low, high + 1))
    else:
        value = rng.uniform(low, high)
    return min(int(value), high) if whole else float(value)


def ends(kind: type, search: Search) -> dict[str, dict[str, Any]]:
    """Both ends of the space, whose configs must be sound."""

    def at(side: str) -> dict[str, Any]:
        pick = 0 if side == "low" else -1
        return {p: s[pick] if isinstance(s, list) else s[side] for p, s in search.space.items()}

    return {"low end": at("low"), "high end": at("high")}


def _is_whole(kind: type, path: str) -> bool:
    return type_at(kind, path) in (int, int | None)


def mend_journal(folder: Path) -> None:
    """Drop half a line that a killed worker left; nothing else may be writing."""
    path = folder / JOURNAL
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


class Study:
    """Optuna on a journal file: no server, and every worker may ask."""

    def __init__(self, folder: Path, kind: type, search: Search, metric: str):
        """Open or create the study of a sweep.

        Raises:
          ImportError: naming the extra.
        """
        optuna = import_optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
        self._optuna, self._kind, self._search = optuna, kind, search
        self._study = optuna.create_study(
            study_name=STUDY,
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize" if maximizes(search, metric) else "minimize",
            load_if_exists=True,
        )

    def ask(self, trial: int) -> tuple[int, dict[str, Any]]:
        """Number in the study and values for the sweep's ``trial``; its seed is the trial's."""
        seed = self._search.seed + trial
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        asked = self._study.ask()
        return asked.number, {p: self._suggest(asked, p, s) for p, s in self._search.space.items()}

    def tell(self, number: int, value: float | None) -> None:
        """State the objective of a trial, None for one that failed; the first time counts."""
        state = self._optuna.trial.TrialState.FAIL if value is None else None
        self._study.tell(number, value, state=state, skip_if_finished=True)

    def _suggest(self, asked, path: str, space: Any) -> Any:
        if isinstance(space, list):
            return json.loads(asked.suggest_categorical(path, [json.dumps(v) for v in space]))
        low, high, log, step = (space.get(k) for k in ("low", "high", "log", "step"))
        if _is_whole(self._kind, path):
            return asked.suggest_int(path, low, high, step=step or 1, log=bool(log))
        return asked.suggest_float(path, low, high, step=step, log=bool(log))


def direction_of(search: Search, metric: str) -> Direction:
    """Where a metric is best: as the search says, else by its name."""
    if search.direction or best_at_zero(metric):
        return search.direction or "zero"
    return "maximize" if higher_is_better(metric) else "minimize"


def maximizes(search: Search, metric: str) -> bool:
    """Whether the larger objective is the better."""
    return direction_of(search, metric) == "maximize"


def objective(search: Search, metric: str, values: Sequence[float]) -> float | None:
    """What a search improves, of the values of a trial's seeds; None if it is not finite."""
    if direction_of(search, metric) == "zero":
        values = [abs(value) for value in values]
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else None


def import_optuna():
    """The package, or an ImportError that names the extra."""
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as error:
        raise ImportError("Optuna is not installed: pip install 'p2r_jax[sweep]'") from error
    return optuna
