"""What was measured when: one line per run of a benchmark, appended, never rewritten."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from p2r_jax.bench.figures import Figure, figures_of

HISTORY = "history.jsonl"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A benchmark's run.

    Attributes:
      benchmark: its name.
      git, date, device: from the record's provenance.
      figures: what it measured.
    """

    benchmark: str
    git: str
    date: str
    device: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Change:
    """A figure in two runs.

    Attributes:
      name: of the figure.
      before, after: of A and of B.
      ratio: B's median over A's.
      noise: of the ratio, relative: the larger of both spreads.
      verdict: ``same`` within the noise, else ``better`` or ``worse``; ``one sample`` where
        a side has no repeats.
    """

    name: str
    before: Figure
    after: Figure
    ratio: float
    noise: float
    verdict: str


def run_of(benchmark: str, record: dict) -> Run:
    """The line of a record that a benchmark wrote."""
    made = record.get("provenance", {})
    where = (str(made.get(key, "unknown")) for key in ("git", "date", "device"))
    return Run(benchmark, *where, tuple(figures_of(record)))


def append(folder: Path, run: Run) -> None:
    """Add a run to ``folder/history.jsonl``."""
    line = json.dumps({"schema": SCHEMA_VERSION, **asdict(run)})
    with (folder / HISTORY).open("a") as file:
        file.write(line + "\n")


def read_history(folder: Path) -> list[Run]:
    """All runs, oldest first; none where there is no history.

    Raises:
      ValueError: naming the line that cannot be read.
    """
    path = folder / HISTORY
    if not path.is_file():
        return []
    return [_parse(line, path, n) for n, line in enumerate(path.read_text().splitlines(), 1)]


def _parse(line: str, path: Path, number: int) -> Run:
    try:
        record = json.loads(line)
        if record.pop("schema") != SCHEMA_VERSION:
            raise ValueError(f"its schema is not {SCHEMA_VERSION}")
        figures = tuple(Figure(**figure) for figure in record.pop("figures"))
        return Run(**record, figures=figures)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def find(folder: Path, where: str, benchmarks: Sequence[str] = ()) -> list[Run]:
    """The runs that ``where`` names: a JSON file, or a git revision in the history.

    Of several runs of a benchmark at a revision, the last one.

    Raises:
      ValueError: if nothing is there; lists the revisions that are.
    """
    path = Path(where)
    if path.suffix == ".json" and path.is_file():
        return [run_of(path.stem, json.loads(path.read_text()))]
    history = read_history(folder)
    exact = [run for run in history if run.git == where]
    same = exact or [run for run in history if run.git.rstrip("+") == where]
    hits = {run.benchmark: run for run in same}
    if benchmarks:
        hits = {name: run for name, run in hits.items() if name in benchmarks}
    if not hits:
        known = ", ".join(dict.fromkeys(run.git for run in history)) or "none yet"
        raise ValueError(f"no run at {where!r}; give a JSON file or a revision of: {known}")
    return list(hits.values())


def compare(before: Sequence[Run], after: Sequence[Run]) -> dict[str, list[Change]]:
    """Changes of the figures that both sides have, by benchmark."""
    old = {run.benchmark: run for run in before}
    if len(before) == len(after) == 1:  # two files may have any names
        old = {after[0].benchmark: before[0]}
    return {
        run.benchmark: _changes(old[run.benchmark], run) for run in after if run.benchmark in old
    }


def _changes(a: Run, b: Run) -> list[Change]:
    known = {figure.name: figure for figure in a.figures}
    return [
        _change(known[f.name], f) for f in b.figures if f.name in known and known[f.name].median
    ]


def _change(a: Figure, b: Figure) -> Change:
    ratio, noise = b.median / a.median, max(a.noise, b.noise)
    if ratio != 1 and not (a.noise and b.noise):
        verdict = "one sample"  # nothing says how much it varies
    elif abs(ratio - 1) <= noise:
        verdict = "same"
    else:
        verdict = "better" if (ratio > 1) == (b.better == "more") else "worse"
    return Change(b.name, a, b, ratio, noise, verdict)
