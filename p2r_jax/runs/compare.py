"""``p2r compare``: runs grouped by what differs in their settings, with intervals over seeds."""

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.evaluation.statistics import NOTHING, Interval, bootstrap
from p2r_jax.files import new_folder, provenance, write_atomic, write_json
from p2r_jax.runs.config_tree import flatten
from p2r_jax.runs.folder import KEY_METRIC, SEED_PATH, Run, expand, unknown_metric

SCHEMA_VERSION = 1
NOT_COMPARED = ("out", "resume", "overwrite", "wandb_project", "video_every", "max_dumps")
UNKNOWN = "unknown"
SEED, MOST_FORMS = "{seed}", 64
FEW = 3  # fewest values that are resampled
Interval_ = Literal["student", "bootstrap"]


@dataclass(frozen=True)
class CompareConfig:
    """One comparison.

    Attributes:
      runs: run folders, or folders of them (a sweep's).
      metrics: by name, as in ``metrics.csv`` or the report; by default the key metric.
      interval: over seeds: Student's, or a percentile bootstrap.
      out: folder for ``compare.json``, ``compare.md`` and ``compare.png``; None only prints.
      overwrite: allow a folder that is not empty.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    metrics: tuple[str, ...] = ()
    interval: Interval_ = "student"
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only.

    Attributes:
      label: what is special about them among the groups.
      settings: the settings in which the groups differ.
      runs: by seed.
    """

    label: str
    settings: dict[str, Any]
    runs: dict[int, Run]


def compare(config: CompareConfig) -> dict:
    """Print the table; returns what ``compare.json`` holds.

    Raises:
      FileNotFoundError: if something given holds no run.
      ValueError: for runs of several kinds, none that is finished, two of the same settings
        and seed, or a metric that no run has.
    """
    found = expand(config.runs)
    finished = [run for run in found if run.finished]
    for run in found:
        if not run.finished:
            print(f"left out, not finished: {run.folder}")
    groups = group_runs(finished)
    metrics = config.metrics or (KEY_METRIC[finished[0].kind],)
    check_metrics(finished, metrics)
    rows = [row_of(group, groups[0], metrics, config.interval) for group in groups]
    record = {
        "schema": SCHEMA_VERSION,
        "kind": finished[0].kind,
        "metrics": list(metrics),
        "interval": config.interval,
        "differs": list(groups[0].settings),
        "groups": rows,
        "left_out": [str(run.folder) for run in found if not run.finished],
    }
    print(text_table(record))
    if config.out:
        new_folder(config.out, config.overwrite)
        write_json(config.out / "compare.json", record | {"provenance": provenance()})
        write_atomic(config.out / "compare.md", (text_table(record) + "\n").encode())
        draw(record, config.out / "compare.png")
        print(f"{config.out}/compare.json, compare.md, compare.png")
    return record


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups by settings: that of the first run, then the others sorted by their settings.

    Settings that belong to the seed do not separate: the seed itself, ``seed-N`` in a text, and
    a run's own seed in a text that is the same for another seed but for that number.

    Raises:
      ValueError: see ``compare``.
    """
    if not runs:
        raise ValueError("none of the runs is finished; nothing to compare")
    if kinds := sorted({run.kind for run in runs} - {runs[0].kind}):
        raise ValueError(f"runs of {runs[0].kind} and {kinds[0]} cannot be compared")
    flat = _seedless([_settings(run) for run in runs], [run.seed for run in runs])
    names = sorted(set().union(*flat))
    values = {name: [_value(one, name) for one in flat] for name in names}
    differs = [n for n, found in values.items() if len({_key(v) for v in found} - {UNKNOWN}) > 1]
    members: dict[str, Group] = {}
    for run, one in zip(runs, flat, strict=True):
        settings = {name: one.get(name) for name in differs}
        group = members.setdefault(_key(settings), Group(label_of(settings), settings, {}))
        if run.seed in group.runs:
            other = group.runs[run.seed].folder
            raise ValueError(f"{other} and {run.folder} have the same settings and seed; give one")
        group.runs[run.seed] = run
    first, *others = members.values()
    return [first, *sorted(others, key=lambda group: _order(group.settings))]


def _order(settings: dict[str, Any]) -> list[tuple]:
    """Sorts numbers by size and everything else by its text."""
    number = (int, float)
    return [(0, v, "") if isinstance(v, number) else (1, 0, _key(v)) for v in settings.values()]


def label_of(settings: dict[str, Any]) -> str:
    """Settings in short, each by the last part of its path where that is enough."""
    if not settings:
        return "all"
    return ", ".join(f"{_short(name, settings)}={_text(v)}" for name, v in settings.items())


def _short(name: str, settings: dict) -> str:
    leaf = name.rsplit(".", 1)[-1]
    unique = sum(other.rsplit(".", 1)[-1] == leaf for other in settings) == 1
    return leaf if unique else name


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _settings(run: Run) -> dict[str, Any]:
    flat = flatten(run.config)
    drop = {SEED_PATH[run.kind], *NOT_COMPARED}
    return {k: _numbered(v) for k, v in flat.items() if k not in drop}


def _value(flat: dict[str, Any], name: str) -> Any:
    """A setting; of a branch that is None, None; ``UNKNOWN`` of a run older than the setting."""
    if name in flat:
        return flat[name]
    if any(other.startswith(f"{name}.") for other in flat):
        return "given"
    parents = (name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))
    return None if any(parent in flat for parent in parents) else UNKNOWN


def _numbered(value: Any) -> Any:
    return re.sub(r"seed-\d+", "seed-N", value) if isinstance(value, str) else value


def _seedless(flat: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Settings with a run's own seed written ``SEED``, in texts that other seeds have as well.

    What a number in a path means is told by comparison only: ``a/7`` of seed 7 is ``a/{seed}``
    if there is an ``a/8`` of seed 8, but not if seed 8 has an ``a/7``, too.
    """
    forms = [
        {name: _forms(value, seed) for name, value in one.items() if isinstance(value, str)}
        for one, seed in zip(flat, seeds, strict=True)
    ]
    met: dict[tuple[str, str], set[int]] = {}
    for one, seed in zip(forms, seeds, strict=True):
        for name, text in ((name, text) for name, texts in one.items() for text in texts):
            met.setdefault((name, text), set()).add(seed)

    def chosen(name: str, texts: Sequence[str]) -> str:
        counts = [len(met[name, text]) for text in texts]
        best = counts.index(max(counts))
        return texts[best if counts[0] == 1 else 0]

    return [
        one | {name: chosen(name, texts) for name, texts in own.items()}
        for one, own in zip(flat, forms, strict=True)
    ]


def _forms(value: str, seed: int) -> list[str]:
    """A text as it is, then with the seed written ``SEED`` at any choice of its places."""
    parts = re.split(rf"(?<!\d){seed}(?!\d)", value)
    choices = itertools.product((str(seed), SEED), repeat=len(parts) - 1)
    return [_joined(parts, joints) for joints in itertools.islice(choices, MOST_FORMS)]


def _joined(parts: Sequence[str], joints: Sequence[str]) -> str:
    return "".join(itertools.chain(*zip(parts, joints, strict=False), parts[-1:]))


def _key(value: Any) -> str:
    return value if value == UNKNOWN else json.dumps(value, sort_keys=True)


def check_metrics(runs: Sequence[Run], metrics: Sequence[str]) -> None:
    """Raise ValueError for a metric that no run has, naming those there are."""
    known = sorted(set().union(*(run.metrics for run in runs)))
    for metric in metrics:
        if metric not in known:
            raise unknown_metric(metric, known)


def row_of(group: Group, first: Group, metrics: Sequence[str], interval: Interval_) -> dict:
    """Values by seed with their mean; the difference to the first group, paired by seed."""
    row: dict = {"label": group.label, "settings": group.settings, "seeds": sorted(group.runs)}
    row["runs"] = [str(group.runs[seed].folder) for seed in row["seeds"]]
    for metric in metrics:
        every = _by_seed(group, metric)
        values = _finite(every)
        cell = {
            "per_seed": values,
            "diverged": sorted(set(every) - set(values)),
            "mean": as_json(over_seeds(list(values.values()), interval)),
        }
        if group is not first:
            against = _finite(_by_seed(first, metric))
            gaps = [v - against[seed] for seed, v in values.items() if seed in against]
            cell["minus_first"] = as_json(over_seeds(gaps, interval)) | {"pairs": len(gaps)}
        row[metric] = cell
    return row


def _by_seed(group: Group, metric: str) -> dict[int, float]:
    found = {seed: group.runs[seed].metrics.get(metric) for seed in sorted(group.runs)}
    return {seed: v for seed, v in found.items() if v is not None}


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {seed: v for seed, v in values.items() if math.isfinite(v)}


def over_seeds(values: Sequence[float], interval: Interval_) -> Interval:
    """Mean over seeds with its interval; without one where there are too few seeds."""
    if interval == "student":
        return mean_over_seeds(values)
    if len(values) < FEW:
        value = sum(values) / len(values) if values else NOTHING.value
        return Interval(value, float("nan"), float("nan"))
    return bootstrap(np.asarray(values, float))


def text_table(record: dict) -> str:
    """Markdown, a row per group; intervals at 95 %."""
    metrics = record["metrics"]
    heads = ["group", "seeds", *metrics, *(f"{m}, minus first" for m in metrics)]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in record["groups"]:
        cells = [_interval(row[m]["mean"]) + _lost(row[m]["diverged"]) for m in metrics]
        gaps = [_interval(row[m].get("minus_first"), "+") for m in metrics]
        line = [row["label"], str(len(row["seeds"])), *cells, *gaps]
        lines.append("| " + " | ".join(line) + " |")
    kind = "Student's t" if record["interval"] == "student" else "percentile bootstrap"
    return "\n".join([*lines, "", f"Means over seeds with 95 % intervals ({kind})."])


def _lost(seeds: Sequence[int]) -> str:
    """That a mean leaves seeds out, said beside it."""
    return f" (diverged: seed {', '.join(map(str, seeds))})" if seeds else ""


def _interval(cell: dict | None, sign: str = "") -> str:
    if cell is None or cell["value"] is None:
        return "–"
    value = f"{cell['value']:{sign}.4g}"
    if cell["low"] is None:
        return value
    return f"{value} [{cell['low']:{sign}.4g}, {cell['high']:{sign}.4g}]"


def draw(record: dict, path: Path) -> None:
    """Mean and interval of every group, and each seed as a dot, a panel per metric."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the plot needs matplotlib: pip install 'p2r_jax[viz]'") from error
    rows, metrics = record["groups"], record["metrics"]
    width = 1.5 + 3.6 * len(metrics) + 0.06 * max(len(row["label"]) for row in rows)
    figure = Figure(figsize=(width, 1.1 + 0.34 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for metric, axis in zip(metrics, axes, strict=True):
        for at, row in enumerate(rows):
            seeds, mean = list(row[metric]["per_seed"].values()), row[metric]["mean"]
            axis.plot(seeds, [at] * len(seeds), "o", ms=3.5, color="0.35", mew=0, zorder=3)
            if mean["low"] is not None:
                axis.plot([mean["low"], mean["high"]], [at, at], color="#0072B2", lw=1.6)
            if mean["value"] is not None:
                axis.plot([mean["value"]], [at], "D", ms=5, color="#0072B2")
        axis.set(xlabel=metric, yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="x", color="0.9", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticklabels([row["label"] for row in rows], fontsize=8)
    figure.suptitle("mean over seeds, 95 % interval; dots are seeds", fontsize=9)
    figure.savefig(path)
