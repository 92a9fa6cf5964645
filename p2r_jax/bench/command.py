"""The command: list, run, compare."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from p2r_jax.bench.history import Change, Run, append, compare, find, read_history, run_of
from p2r_jax.files import write_json

PAGE = "HISTORY.md"
SHOWN_ON_PAGE = 12  # figures of a benchmark


@dataclass(frozen=True)
class Benchmark:
    """Attributes: about (what it measures) and minutes (on two idle CPU cores)."""

    about: str
    minutes: float


BENCHMARKS = {
    "throughput": Benchmark("physics, control and training steps per second", 4),
    "first_call": Benchmark("seconds from start to the first result: compile times", 3),
    "start_up": Benchmark("import and command line", 0.5),
    "control_loop": Benchmark("the loop on a robot: milliseconds, jitter, missed deadlines", 14),
    "deploy_faults": Benchmark("unsafe commands under injected faults", 8),
    "apriltag_accuracy": Benchmark("pose error of tags in rendered images", 1),
    "parity": Benchmark("error of our dynamics against C MuJoCo", 8),
    "contact_tradeoff": Benchmark("speed and error of the contact solver's settings", 8),
    "prior_latency": Benchmark("a vision model's questions against a slow server", 0.5),
    "rasteriser": Benchmark("Gaussian splatting: forward and gradient", 3),
    "reconstruction": Benchmark("every step from pictures to an object, at a small size", 4),
    "evaluation": Benchmark("closed-loop trials per second", 1),
    "scaling": Benchmark("the training step on several virtual devices", 4),
    "sweep": Benchmark("a sweep against one process per seed", 15),
}


@dataclass(frozen=True)
class BenchConfig:
    """Run benchmarks of this checkout, or compare two of their runs.

    Attributes:
      names: benchmarks to run; without any, they are listed. ``all`` runs every one.
      compare: two runs, A and B: git revisions in the history, or JSON files.
      arguments: passed on to the benchmark, e.g. ``--arguments=--peers``; what it then
        measures is printed, and neither published nor kept.
      out: write the comparison to this JSON file as well.
    """

    names: Positional[tuple[str, ...]] = ()
    compare: Annotated[tuple[str, str] | None, tyro.conf.arg(metavar="A B")] = None
    arguments: tuple[str, ...] = ()
    out: Path | None = None


def bench(config: BenchConfig) -> None:
    """What the configuration asks for.

    Raises:
      FileNotFoundError: outside a checkout.
      ValueError: for an unknown name or revision, or a benchmark that fails.
    """
    results = checkout() / "benchmarks" / "results"
    if config.compare:
        show_comparison(config, results)
    elif not config.names:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:18} about {benchmark.minutes:4g} min  {benchmark.about}")
    else:
        for name in _checked(config.names):
            run = run_benchmark(name, config.arguments)
            if config.arguments:
                print("not kept in the history: it was run with other arguments")
                continue
            append(results, run)
            (results.parent / PAGE).write_text(page(read_history(results)))


def checkout() -> Path:
    """The checkout's root.

    Raises:
      FileNotFoundError: if the package was installed without its benchmarks.
    """
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "timing.py").is_file():
        raise FileNotFoundError(
            f"{root} has no benchmarks: they belong to the checkout; clone the repository and "
            "install it with `pip install -e .`"
        )
    return root


def run_benchmark(name: str, arguments: tuple[str, ...] = ()) -> Run:
    """Run one in a process of its own; what it wrote."""
    root = checkout()
    path = Path("benchmarks") / "results" / f"{name}.json"  # as the record's command names it
    if arguments:  # another measurement than the published one
        path = Path(tempfile.mkdtemp()) / path.name
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(path), *arguments]
    print(f"{name}: about {BENCHMARKS[name].minutes:g} min", flush=True)
    if code := subprocess.run(command, cwd=root, check=False).returncode:
        raise ValueError(f"benchmark {name} ended with status {code}; its output stands above")
    return run_of(name, json.loads((root / path).read_text()))


def show_comparison(config: BenchConfig, results: Path) -> None:
    """Print ratio and noise of every figure that both runs have."""
    before, after = (find(results, where, config.names) for where in config.compare)
    devices = {run.device for run in (*before, *after)}
    if len(devices) > 1:
        print(f"careful: different devices ({'; '.join(sorted(devices))})")
    changes = compare(before, after)
    if not any(changes.values()):
        raise ValueError(f"{config.compare[0]} and {config.compare[1]} share no figure")
    for name, rows in changes.items():
        print(f"{name}\n" + "\n".join(_line(row) for row in rows))
    if config.out:
        record = {name: [asdict(row) for row in rows] for name, rows in changes.items()}
        write_json(config.out, {"schema": 1, "compare": list(config.compare), "changes": record})


def _line(row: Change) -> str:
    return (
        f"  {row.before.median:12.4g} -> {row.after.median:12.4g}  x {row.ratio:5.2f} "
        f"± {row.noise:4.2f}  {row.verdict:6}  {row.name}"
    )


def page(history: list[Run]) -> str:
    """Markdown: the last run of every benchmark on every device, beside the one before it."""
    lines = ["# History of the benchmarks", "", "Written by `p2r bench NAME`. Ratios: to the run"]
    lines[-1] += " before on the same device; repeats say how noisy a figure is."
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in history:
        groups.setdefault((run.benchmark, run.device), []).append(run)
    for (name, device), runs in groups.items():
        last = runs[-1]
        lines += ["", f"## {name}", "", f"{last.date}, git {last.git}, {device}", ""]
        lines += ["| figure | median | repeats | ratio |", "| --- | --- | --- | --- |"]
        lines += _page_rows(last, runs[-2] if len(runs) > 1 else None)
    return "\n".join(lines) + "\n"


def _page_rows(last: Run, before: Run | None) -> list[str]:
    ratios = {}
    if before:
        ratios = {row.name: row for row in compare([before], [last])[last.benchmark]}
    rows = [
        f"| {f.name} | {f.median:.4g} | {f.low:.4g} to {f.high:.4g} | "
        f"{f'{ratios[f.name].ratio:.2f} ({ratios[f.name].verdict})' if f.name in ratios else '–'} |"
        for f in last.figures[:SHOWN_ON_PAGE]
    ]
    more = len(last.figures) - SHOWN_ON_PAGE
    return [*rows, f"| and {more} more | | | |"] if more > 0 else rows


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    if names == ("all",):
        return tuple(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    return names
