"""What a sweep saves: many small trainings in shared programs, against a process per seed.

    python -m benchmarks.sweep

Runs a committed sweep file with its local launcher from an empty compilation cache: every run
of it, start of the workers and compilation included. Then some of its variants, all seeds of
each, the other way: `p2r train-estimator` in a process per seed, as many at once as the sweep
has workers, each on its share of the cores, with the compilation cache that p2r uses, empty at
first. Both ways do the same work with the same settings (the losses of the last round are
compared); what is compared is seconds per run, and the record says how many runs each way had.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.runs.folder import find_runs, read_run
from p2r_jax.sweep.launch import sweep as run_sweep
from p2r_jax.sweep.plan import Job, Variant, changes_record, jobs, run_folder
from p2r_jax.sweep.spec import Sweep, read_sweep

SCHEMA_VERSION = 1
TARGET_MINUTES, TARGET_RATIO = 30.0, 3.0
CACHE = "JAX_COMPILATION_CACHE_DIR"
LOSS = "nll"


@dataclass(frozen=True)
class Settings:
    """Settings of the sweep benchmark.

    Attributes:
      out: JSON file.
      file: sweep file of estimator trainings, with a local launcher.
      per_program: variants of every group that shares a program, which are also run with a
        process per seed.
      work: folder for all runs; by default a temporary one.
    """

    out: Path = Path("benchmarks/results/sweep.json")
    file: Path = Path("experiments/sweeps/estimator_variants.yaml")
    per_program: int = 1
    work: Path | None = None


def time_sweep(settings: Settings, work: Path) -> tuple[Sweep, dict]:
    """Run the sweep file in a folder of its own; what was run and the seconds it took.

    Raises:
      RuntimeError: if a run is missing at the end.
    """
    file = work / "sweep.yaml"
    file.write_text(settings.file.read_text() + f"\nout: {work / 'sweep'}\n")
    sweep = read_sweep(file)
    os.environ[CACHE] = str(new_folder(work / "cache-sweep"))
    started = time.perf_counter()
    complete = run_sweep(file)
    seconds = time.perf_counter() - started
    runs = find_runs(sweep.out)
    if not complete or not all(run.finished for run in runs):
        raise RuntimeError(f"the sweep in {sweep.out} is not complete; see its logs")
    shared = jobs(sweep)
    return sweep, {
        "variants": sum(len(job.variants) for job in shared),
        "seeds": len(sweep.seeds),
        "runs": len(runs),
        "programs": len(shared),
        "workers": sweep.launcher.workers,
        "seconds": seconds,
        "minutes": seconds / 60,
        "seconds_per_run": seconds / len(runs),
    }


def time_processes(sweep: Sweep, picked: Sequence[Variant], work: Path) -> dict:
    """Run all seeds of some variants with a process each.

    Raises:
      RuntimeError: with the output of a process that failed.
    """
    workers = sweep.launcher.workers
    cores = sorted(os.sched_getaffinity(0))
    shares = [set(cores[i::workers]) or set(cores) for i in range(workers)]
    environment = os.environ | {CACHE: str(new_folder(work / "cache-processes"))}
    queue = [(variant, seed) for variant in picked for seed in sweep.seeds]

    def one(slot_and_run: tuple[int, tuple[Variant, int]]) -> None:
        slot, (variant, seed) = slot_and_run
        folder = work / "processes" / variant.name / f"seed-{seed}"
        command = [sys.executable, "-m", "p2r_jax.cli", *arguments(sweep, variant, folder, seed)]
        pin = f"import os; os.sched_setaffinity(0, {shares[slot]}); "
        pin += f"os.execv({sys.executable!r}, {command!r})"
        done = subprocess.run(
            [sys.executable, "-c", pin], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{variant.name} seed {seed}: {done.stderr[-2000:]}")

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(queue), unit="process") as bar:
        lots = [[(slot, run) for run in queue[slot::workers]] for slot in range(workers)]
        for finished in [pool.submit(_each, one, lot, bar) for lot in lots]:
            finished.result()
    seconds = time.perf_counter() - started
    return {
        "variants": [variant.name for variant in picked],
        "runs": len(queue),
        "at_once": workers,
        "seconds": seconds,
        "seconds_per_run": seconds / len(queue),
    }


def _each(function, lot: Sequence, bar: tqdm) -> None:
    for item in lot:
        function(item)
        bar.update()


def arguments(sweep: Sweep, variant: Variant, folder: Path, seed: int) -> list[str]:
    """Command line of one run, as a user without sweeps types it."""
    words = ["train-estimator", sweep.task, "--out", str(folder), "--seed", str(seed)]
    for path, value in (sweep.base | (variant.changes or {})).items():
        words += [f"--{path.replace('_', '-')}", *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    return [str(x) for x in (value if isinstance(value, list) else [value])]


def pick(work: Sequence[Job], per_program: int) -> list[Variant]:
    """Variants of every group, spread over it."""
    found = []
    for job in work:
        count = min(per_program, len(job.variants))
        found += [job.variants[(2 * i + 1) * len(job.variants) // (2 * count)]
                  for i in range(count)]  # fmt: skip
    return found


def losses_differ_by(sweep: Sweep, picked: Sequence[Variant], work: Path) -> float:
    """Largest difference of the last round's loss between the two ways, over the same runs."""
    gaps = []
    for variant in picked:
        for seed in sweep.seeds:
            ours = read_run(run_folder(sweep, variant, seed))
            other = read_run(work / "processes" / variant.name / f"seed-{seed}")
            gaps.append(abs(ours.metrics[LOSS] - other.metrics[LOSS]))
    return max(gaps)


def measure(settings: Settings, work: Path) -> dict:
    """Both ways, one after the other."""
    sweep, together = time_sweep(settings, work)
    picked = pick(jobs(sweep), settings.per_program)
    apart = time_processes(sweep, picked, work)
    ratio = apart["seconds_per_run"] / together["seconds_per_run"]
    return {
        "sizes": changes_record({k: v for k, v in sweep.base.items() if k != "policy"}),
        "sweep": together,
        "process_per_seed": apart,
        "faster_by": ratio,
        "compared": f"seconds per run: {together['runs']} runs by the sweep, {apart['runs']} of "
        "them with a process per seed",
        "largest_loss_difference": losses_differ_by(sweep, picked, work),
        "targets": {"minutes": TARGET_MINUTES, "faster_by": TARGET_RATIO},
        "reached": together["minutes"] <= TARGET_MINUTES and ratio >= TARGET_RATIO,
    }


def report(record: dict) -> str:
    """What the command prints."""
    ours, other = record["sweep"], record["process_per_seed"]
    return (
        f"{ours['variants']} variants x {ours['seeds']} seeds in {ours['programs']} programs, "
        f"{ours['workers']} workers: {ours['minutes']:.1f} min, "
        f"{ours['seconds_per_run']:.1f} s per run\n"
        f"a process per seed, {other['runs']} of {ours['runs']} runs, {other['at_once']} at once: "
        f"{other['seconds'] / 60:.1f} min, {other['seconds_per_run']:.1f} s per run\n"
        f"the sweep is {record['faster_by']:.1f} times faster per run; losses of the last round "
        f"differ by at most {record['largest_loss_difference']:.1e}"
    )


def main(settings: Settings) -> None:
    """Measure, print, write JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        work = new_folder(settings.work) if settings.work else Path(temporary)
        measured = measure(settings, work.resolve())
    record = {"schema": SCHEMA_VERSION, "kind": "sweep", "provenance": provenance()}
    record |= {"file": str(settings.file)} | measured
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    print(report(record))


if __name__ == "__main__":
    main(tyro.cli(Settings))
