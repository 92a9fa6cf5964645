"""The figures in a benchmark's JSON, whichever benchmark it is.

A figure is an object with a ``median`` and, mostly, ``min`` and ``max`` of its repeats. Its
name is made of the keys that lead there and of what tells its row from the others
(strings, booleans and whole numbers beside it).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

EXTREMES = (("min", "max"), ("low", "high"))
SKIPPED = ("provenance", "settings", "versions", "marks", "met", "not_measured")
RATES = re.compile(r"(^|_)(per_s|ratio|speedup|rate|rate_hz)$")  # keys of which more is better


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
      name: unique within its benchmark.
      median: in the unit that the name says.
      low, high: extremes of the repeats; the median where there were none.
      better: which direction is.
    """

    name: str
    median: float
    low: float
    high: float
    better: Literal["more", "less"]

    @property
    def noise(self) -> float:
        """Half the spread of the repeats, relative to the median."""
        return abs(self.high - self.low) / 2 / abs(self.median) if self.median else 0.0


def figures_of(record: dict) -> list[Figure]:
    """Every figure in a benchmark's record, in order; a name that comes twice is numbered."""
    seen: dict[str, int] = {}
    found = []
    for name, values in _walk(record, ()):
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name} #{seen[name]}"
        found.append(_figure(unique, values))
    return found


def _figure(name: str, values: dict) -> Figure:
    median = float(values["median"])
    low, high = median, median
    for a, b in EXTREMES:
        if isinstance(values.get(a), int | float) and isinstance(values.get(b), int | float):
            low, high = float(values[a]), float(values[b])
    key = re.sub(r" #\d+$", "", name.rsplit("/", 1)[-1])
    more = RATES.search(key) is not None
    return Figure(name, median, low, high, "more" if more else "less")


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    if isinstance(value, list):
        for entry in value:
            label = _label(entry) if isinstance(entry, dict) else ""
            yield from _walk(entry, (*path, label) if label else path)
    elif isinstance(value, dict):
        if isinstance(value.get("median"), int | float):
            yield "/".join(path), value
            return
        for key, entry in value.items():
            if key.startswith("median_") and isinstance(entry, int | float):
                yield "/".join((*path, key.removeprefix("median_"))), {"median": entry}
            elif key not in SKIPPED:
                yield from _walk(entry, (*path, key))


def _label(row: dict) -> str:
    """What tells a row from its neighbours."""
    told = [v if isinstance(v, str) else f"{k}={v}" for k, v in row.items() if _tells(k, v)]
    return " ".join(told)


def _tells(key: str, value: Any) -> bool:
    if isinstance(value, str):
        return len(value) < 40
    return isinstance(value, int) and key not in ("seed", "repeats")
