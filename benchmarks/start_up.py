"""Start-up: seconds until ``import p2r_jax`` returns, and until ``p2r --help`` has answered.

Every number is the wall time of a fresh process with warm file caches; an import counts
beyond the same process that imports jax alone. Kinds take turns, so that a busy moment
hits all of them. Marks: ``import p2r_jax`` 0.5 s, ``p2r --help`` 1 s.

    python -m benchmarks.start_up
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

SCHEMA_VERSION = 1
IMPORT_MARK_S, HELP_MARK_S = 0.5, 1.0
MODULES = (
    "p2r_jax",
    "p2r_jax.tasks",
    "p2r_jax.sim.push",
    "p2r_jax.evaluation.methods",
    "p2r_jax.policy.train",
)
COMMANDS = ("--help", "tasks", "train push_tblock dr --help", "evaluate --help")


@dataclass(frozen=True)
class Settings:
    """Settings of the start-up benchmark.

    Attributes:
      out: JSON file.
      repeats: fresh processes per kind, after one that warms the file caches.
    """

    out: Path = Path("benchmarks/results/start_up.json")
    repeats: int = 7


def kinds() -> dict[str, list[str]]:
    """What is started, by name."""
    python = [sys.executable, "-c"]
    imports = {f"import {name}": [*python, f"import jax, {name}"] for name in MODULES}
    commands = {f"p2r {c}": [sys.executable, "-m", "p2r_jax.cli", *c.split()] for c in COMMANDS}
    return {"import jax": [*python, "import jax"]} | imports | commands


def seconds_of(command: list[str]) -> float:
    """Wall time of a process.

    Raises:
      RuntimeError: with the end of what it said, if it failed.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of every start of every kind, in turns; the first round is not kept."""
    commands = kinds()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in tqdm(range(repeats + 1), desc="start-up"):
        for name, command in commands.items():
            seconds[name].append(seconds_of(command))
    return {name: values[1:] for name, values in seconds.items()}


def rows_of(seconds: dict[str, list[float]]) -> list[dict]:
    """Median, least and greatest by kind; imports also beyond jax, round by round."""
    jax_alone = np.array(seconds["import jax"])
    rows = []
    for name, values in seconds.items():
        row = {"what": name, "seconds": _summary(np.array(values))}
        if name.startswith("import p2r_jax"):
            row["beyond_jax"] = _summary(np.array(values) - jax_alone)
        rows.append(row)
    return rows


def _summary(values: np.ndarray) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def marks(rows: list[dict]) -> list[dict]:
    """The two marks, what was measured, and whether they are met."""
    by_name = {row["what"]: row for row in rows}
    found = {
        "import p2r_jax beyond jax": (
            by_name["import p2r_jax"]["beyond_jax"]["median"],
            IMPORT_MARK_S,
        ),
        "p2r --help": (by_name["p2r --help"]["seconds"]["median"], HELP_MARK_S),
    }
    return [
        {"what": name, "seconds": value, "mark": mark, "met": value <= mark}
        for name, (value, mark) in found.items()
    ]


def table(rows: list[dict]) -> str:
    """Markdown table of the medians."""
    lines = ["| what | seconds | beyond jax |", "|---|---|---|"]
    for row in rows:
        beyond = f"{row['beyond_jax']['median']:.2f}" if "beyond_jax" in row else ""
        lines.append(f"| {row['what']} | {row['seconds']['median']:.2f} | {beyond} |")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Measure, print the table and the marks, write JSON."""
    from p2r_jax.files import as_record, provenance, write_json

    rows = rows_of(measure(settings.repeats))
    print(table(rows))
    for mark in marks(rows):
        word = "met" if mark["met"] else "not met"
        print(f"{mark['what']}: {mark['seconds']:.2f} s (mark {mark['mark']:g} s: {word})")
    record = {"schema": SCHEMA_VERSION, "kind": "start_up", "provenance": provenance()}
    chosen = as_record(settings) | {"out": settings.out.name}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record | {"settings": chosen, "rows": rows, "marks": marks(rows)})
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
