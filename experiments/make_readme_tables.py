"""Fill README.md from committed results and checkpoints: no number in it is typed by hand.

    python experiments/make_readme_tables.py           rewrite the tables in place
    python experiments/make_readme_tables.py --check   exit 1 if README.md is stale

A block between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->`` becomes what
``TABLES[NAME]`` makes of its files; while a file is missing it says where it comes from.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from p2r_jax.evaluation.report import markdown
from p2r_jax.policy.train import PHASES

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """How a block is made.

    Attributes:
      files: its sources, relative to the repository; all must be there and tracked.
      measure: command that makes them.
      make: from the contents (JSON, CSV) or paths (pictures) to Markdown.
    """

    files: tuple[str, ...]
    measure: str
    make: Callable[..., str]

    def render(self, root: Path) -> str:
        """Markdown of the block."""
        missing = [name for name in self.files if not _is_published(root, name)]
        if missing:
            return f"*Not measured yet: `{missing[0]}` comes from `{self.measure}`.*\n"
        return self.make(*(_load(root / name, name) for name in self.files))


def _is_published(root: Path, name: str) -> bool:
    """Whether a file is there and, in a git checkout, tracked: a clone must agree."""
    if not (root / name).is_file():
        return False
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", name]
    return (
        not (root / ".git").exists() or not subprocess.run(command, capture_output=True).returncode
    )


def _load(path: Path, name: str):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return json.loads(path.read_text()) if path.suffix == ".json" else name


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join(["---"] * len(head)), *(" | ".join(r) for r in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def results(record: dict) -> str:
    """The tables of ``p2r evaluate``, with the document's title as a line of text."""
    title, *body = markdown(record).splitlines()
    lines = [f"**{title.lstrip('# ')}**", *body]
    return "\n".join(re.sub(r"^## ", "#### ", line) for line in lines) + "\n"


def training(*runs: dict | list) -> str:
    """What training each phase took and how its policy does in its training dynamics."""
    rows = []
    for config, curve in zip(runs[::2], runs[1::2], strict=True):
        last = curve[-1]
        by_theta = (f"{100 * last[f'eval/success_theta_{k}']:.0f}" for k in ("low", "mid", "high"))
        rows.append([
            config["phase"], f"{last['step'] / 1e6:.1f} M", f"{_seconds(curve) / 60:.0f}",
            f"{100 * last['eval/success']:.0f}", " / ".join(by_theta), config["device"],
        ])  # fmt: skip
    head = (
        "phase", "control steps", "minutes", "strict pose at the end, %",
        "θ low / mid / high third, %", "device",
    )  # fmt: skip
    return _grid(head, rows)


def _seconds(curve: list[dict]) -> float:
    """Seconds of training; a resumed run starts its clock anew."""
    clock = [row["seconds"] for row in curve]
    return clock[-1] + sum(a for a, b in pairwise(clock) if b < a)


def estimator(report: dict) -> str:
    """Calibration on held-out episodes, by time since first contact and by contact seen."""
    tables = [
        _calibration(report["since_contact"], "steps since the episode's first contact"),
        _calibration(report["contact_steps_in_window"], "contact steps among the ten it sees"),
    ]
    return f"{report['episodes']} held-out episodes.\n\n" + "\n".join(tables)


def _calibration(by_steps: dict, label: str) -> str:
    rows = []
    for steps, r in by_steps.items():
        if r["windows"]:
            covered = [f"{100 * r[f'coverage_{level}']:.0f}" for level in (50, 80, 95)]
            first, last = steps.split("-")
            name = first if first == last else f"{first} to {last}"
            numbers = [f"{r[k]:.2f}" for k in ("rmse_cm", "sigma_cm", "nll")]
            rows.append([name, f"{r['windows']}", *numbers, " / ".join(covered)])
    head = (
        label, "windows", "RMSE cm", "mean σ cm", "NLL", "in the 50 / 80 / 95 % interval, %",
    )  # fmt: skip
    return _grid(head, rows)


def parity(record: dict) -> str:
    """Error of one push against C MuJoCo, by dynamics and support: median (95th percentile)."""
    supports = record["by_support"]
    rows = []
    for name in next(iter(supports.values())):
        cells = [name]
        for kind in supports:
            entry = supports[kind][name]
            p, y = entry["position_mm"], entry["yaw_deg"]
            cells.append(
                f"{p['median']:.2f} ({p['p95']:.2f}) mm, {y['median']:.2f} ({y['p95']:.2f})°"
            )
        rows.append(cells)
    s = record["settings"]
    note = (
        f"One {100 * s['push_m']:g} cm push at {100 * s['speed_mps']:g} cm/s, {s['pushes']} random "
        "pushes per support, error against C MuJoCo (free body, elliptic cones): median "
        "(95th percentile). `motion` is how far the object moved, `judge noise` what halving "
        "MuJoCo's own step changes.\n\n"
    )
    return note + _grid(("dynamics", *supports), rows)


def throughput(record: dict) -> str:
    """Steps per second by dynamics and batch size, medians."""
    rows = []
    for r in record["rows"]:
        physics, control = (
            np.array(r[f"{k}_steps_per_s"]["median"]) for k in ("physics", "control")
        )
        rows.append([
            r["dynamics"], f"{r['batch']}", f"{r['substeps']}", f"{physics / 1e3:.0f} k",
            f"{control / 1e3:.1f} k",
        ])  # fmt: skip
    head = ("dynamics", "batch", "substeps", "physics steps/s", "control steps/s")
    p = record["provenance"]
    return f"{p['cores']} cores, {p['cpu']}, {p['device']}.\n\n" + _grid(head, rows)


def factors(record: dict) -> str:
    """Success at the end by factor and method, with 95% Wilson intervals."""
    methods = list(dict.fromkeys(r["method"] for r in record["rows"]))
    cells: dict[str, dict[str, str]] = {}
    for r in record["rows"]:
        value, low, high = (100 * r["hardware"][k] for k in ("value", "low", "high"))
        cells.setdefault(r["factor"], {})[r["method"]] = f"{value:.0f} [{low:.0f}, {high:.0f}]"
    rows = [[name, *(row.get(m, "") for m in methods)] for name, row in cells.items()]
    note = (
        f"Success %, weight at {record['where']}, {record['trials']} trials a cell: `reality-dev` "
        "with one factor as in `reality-test`.\n\n"
    )
    return note + _grid(("factor", *methods), rows)


def pictures(*names: str) -> str:
    """The pictures under each other, each with its stem as alternative text."""
    return "".join(f"![{Path(name).stem}]({name})\n\n" for name in names).rstrip("\n") + "\n"


RESULTS, SHIPPED = "experiments/results", "p2r_jax/checkpoints/push_tblock"
TABLES = {
    "picture": Table(
        (f"{RESULTS}/episode.png", f"{RESULTS}/theta_top.png"),
        "python experiments/tblock_reality_test.py --out runs/reality-test",
        pictures,
    ),
    "results": Table(
        (f"{RESULTS}/reality-test.json",),
        "python experiments/tblock_reality_test.py --out runs/reality-test",
        results,
    ),
    "success": Table(
        (f"{RESULTS}/success.png",),
        "python experiments/tblock_reality_test.py --out runs/reality-test",
        pictures,
    ),
    "factors": Table(
        (f"{RESULTS}/factors.json",),
        "python experiments/reality_factors.py --out runs/factors",
        factors,
    ),
    "training": Table(
        tuple(f"{SHIPPED}/{p}/{f}" for p in PHASES for f in ("config.json", "metrics.csv")),
        "p2r train",
        training,
    ),
    "estimator": Table(
        (f"{SHIPPED}/estimator/calibration.json",), "p2r train-estimator", estimator
    ),
    "parity": Table(("benchmarks/results/parity.json",), "python -m benchmarks.parity", parity),
    "throughput": Table(
        ("benchmarks/results/throughput.json",), "python -m benchmarks.throughput", throughput
    ),
}


def fill(text: str, root: Path) -> tuple[str, list[str]]:
    """Text with every block made anew, and the names of the blocks that changed.

    Raises:
      ValueError: for an unknown block or a marker without its partner.
    """
    names = [m[2] for m in BLOCK.finditer(text)]
    if len(names) != len(re.findall(r"<!-- /?table:", text)) / 2:
        raise ValueError("README.md: a table marker has no partner")
    unknown = sorted(set(names) - set(TABLES))
    if unknown:
        raise ValueError(f"README.md: no table {unknown[0]!r} (tables: {', '.join(TABLES)})")
    stale = []

    def replace(match: re.Match) -> str:
        made = TABLES[match[2]].render(root)
        if made != match[3]:
            stale.append(match[2])
        return match[1] + made + match[4]

    return BLOCK.sub(replace, text), stale


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args(args).check
    readme = ROOT / "README.md"
    text, stale = fill(readme.read_text(), ROOT)
    if check and stale:
        print(f"README.md is stale ({', '.join(stale)}): run {Path(__file__).name}")
        return 1
    if stale:
        readme.write_text(text)
        print(f"README.md: rewrote {', '.join(stale)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
