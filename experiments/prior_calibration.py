"""Is a prior as good as it says? Error, z-scores and a sigma scale on tools of known CoM.

    python experiments/prior_calibration.py --out runs/prior_calibration
    python experiments/prior_calibration.py --out ... --provider gemini --model.name NAME

The tools are ../shared/data/workshop_tools (CAD geometry times catalogue density, not
weighed). Without ``--provider`` no model is called: the sources are geometry alone, a
local server whose answers are made up (with a known error, so that the fitted sigma scale
can be checked) and a replay of its record. A live key adds its rows to the same table.
``--ship`` writes the heuristic that ``p2r_jax`` ships, fitted on all the tools.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from p2r_jax.evaluation.figures import DPI, RC
from p2r_jax.files import as_record, new_folder, provenance, write_json
from p2r_jax.prior.aggregate import count, summarize
from p2r_jax.prior.ask import AskConfig, Asker
from p2r_jax.prior.calibration import (
    LEVELS,
    KnownObject,
    as_row,
    constant_box,
    fit_sigma_scale,
    leave_one_out,
    load_workshop_tool,
    per_object,
    score,
)
from p2r_jax.prior.heuristic import CANDIDATES, DATA, fit_heuristic, fits_record
from p2r_jax.prior.photos import View, to_photo
from p2r_jax.prior.prompts import fill_prompt, load_prompt, prompt_names
from p2r_jax.prior.providers import ModelConfig, Provider, make_client
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.record import Record
from p2r_jax.prior.shape import mask_centroids
from p2r_jax.prior.views import mesh_scene, render_views

ROOT = Path(__file__).resolve().parent.parent
FAKE_SERVER = ROOT / "tests" / "fake_vlm_server.py"
TRUE_SCALE = 2.0  # of the made-up answers: error 0.2 per object, stated sigma 0.1
NO_LIVE_MODEL = (
    "No live model was called. Rows named 'synthetic' are answers of a local server that makes "
    "them up with known errors: they test this program and say nothing about any model."
)


@dataclass(frozen=True)
class CalibrationConfig:
    """One calibration.

    Attributes:
      out: folder for ``calibration.json``, the figure and the records.
      tools: folder of the data set.
      provider, model: a live model to add; by default none is called.
      prompts: prompts to compare, each a row per provider.
      views: rendered views per tool.
      ask: queries per view, and so on.
      ship: also write the heuristic's fit into the package.
    """

    out: Path
    tools: Path = ROOT.parent / "shared" / "data" / "workshop_tools"
    provider: Provider | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: tuple[str, ...] = prompt_names()
    views: int = 5
    ask: AskConfig = field(default_factory=lambda: AskConfig(queries=5))
    ship: bool = False


@dataclass(frozen=True)
class Source:
    """What somebody says about every tool: mean and sigma, shares of the length."""

    name: str
    mean: np.ndarray
    sigma: np.ndarray
    note: str
    spread: np.ndarray | None = None
    counts: dict | None = None
    live: bool = False


def main(config: CalibrationConfig) -> None:
    """Score every source and write table, JSON and figure."""
    if not config.tools.is_dir():
        raise SystemExit(f"{config.tools} is not there; name the data set's folder with --tools")
    new_folder(config.out)
    folders = sorted(path for path in config.tools.iterdir() if path.is_dir())
    tools = [load_workshop_tool(folder) for folder in tqdm(folders, desc="meshes")]
    views = [
        render_views(mesh_scene(tool.mesh), tool.shape, ["com_object_x"], config.views)
        for tool in tqdm(tools, desc="views")
    ]
    names, truth = [tool.name for tool in tools], np.array([tool.truth for tool in tools])
    centroids = {"mesh": _mesh_centroids(tools), "mask": _mask_centroids(views)}
    sources = [_heuristic(seen, values, truth, names) for seen, values in centroids.items()]
    sources += _uniform(centroids["mesh"]["solid"], truth)
    with _fake_server(config.out, tools) as url:
        sources += _synthetic(config, tools, views, url)
    if config.provider:
        sources += [
            _ask(config, config.provider, config.model, prompt, tools, views, config.provider)
            for prompt in config.prompts
        ]
    if config.ship:
        fits = {seen: fit_heuristic(values, truth, names) for seen, values in centroids.items()}
        write_json(DATA, fits_record(fits))
    _report(config, sources, truth, names)


def _mesh_centroids(tools: Sequence[KnownObject]) -> dict[str, np.ndarray]:
    return {kind: np.array([tool.centroid(kind) for tool in tools]) for kind in CANDIDATES}


def _mask_centroids(views: Sequence[Sequence[View]]) -> dict[str, np.ndarray]:
    """Mean over the views of the silhouette's centroids, shares of the length."""
    found: dict[str, list[float]] = {kind: [] for kind in CANDIDATES}
    for of_tool in views:
        marks = [(view.mask, view.axes["com_object_x"]) for view in of_tool]
        each = [mask_centroids(mask, mark[0], mark[-1]) for mask, mark in marks]
        for kind in CANDIDATES:
            found[kind].append(float(np.mean([centroids[kind] for centroids in each])) / 2)
    return {kind: np.array(values) for kind, values in found.items()}


def _heuristic(seen: str, centroids: dict, truth: np.ndarray, names: list[str]) -> Source:
    mean, sigma, fits = leave_one_out(centroids, truth, names)
    chosen = ", ".join(f"{kind} {sum(f.centroid == kind for f in fits)}x" for kind in CANDIDATES)
    return Source(f"heuristic, {seen}", mean, sigma, f"leave-one-tool-out; centroid: {chosen}")


def _uniform(solid: np.ndarray, truth: np.ndarray) -> list[Source]:
    """What the heuristic is measured against, each with the best constant sigma in hindsight."""
    zero = np.zeros_like(truth)
    best = {"bounding-box centre": zero, "uniform centroid": solid}
    return [
        Source(name, mean, zero + np.sqrt(np.mean((mean - truth) ** 2)),
               "sigma is the RMS error of these very tools: the best constant")
        for name, mean in best.items()
    ]  # fmt: skip


@contextmanager
def _fake_server(out: Path, tools: Sequence[KnownObject]) -> Iterator[str]:
    truth = out / "truth.json"
    write_json(truth, {tool.name: 2 * tool.truth for tool in tools})
    command = [sys.executable, str(FAKE_SERVER), "--truth", str(truth)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def _synthetic(config, tools, views, url: str) -> list[Source]:
    """Both wire formats through their real clients, and a replay of the first record."""
    servers = {"gemini": url, "openai": f"{url}/v1"}
    sources = []
    for provider, base_url in servers.items():
        for prompt in config.prompts:
            model = ModelConfig(name=f"synthetic-{provider}-{prompt}", base_url=base_url)
            label = f"synthetic, {provider}"
            sources.append(_ask(config, provider, model, prompt, tools, views, label))
    prompt = config.prompts[0]
    record = config.out / "records" / _slug(f"synthetic, gemini, {prompt}")
    again = _ask(config, "replay", record, prompt, tools, views, "synthetic, replay")
    if not np.array_equal(again.mean, sources[0].mean):
        raise RuntimeError("the replay differs from what was recorded")
    return [*sources, again]


def _ask(config, provider, model, prompt: str, tools, views, label: str) -> Source:
    """One provider and prompt about every tool; ``model`` is a folder of records for a replay."""
    name = f"{label}, {prompt}"
    template = load_prompt(prompt)
    records = config.out / "records" / _slug(name)
    rows, outcomes = [], []
    for tool, of_tool in zip(tqdm(tools, desc=name), views, strict=True):
        quantities = quantities_for(["com_object_x"], tool.shape)
        text = fill_prompt(template, tool.name, "", quantities, json=config.ask.structured)
        file = f"{_slug(tool.name)}.jsonl"
        settings = ModelConfig(replay=model / file) if provider == "replay" else model
        client = make_client(provider, settings)
        record = None
        if provider != "replay":
            record = Record(records / file, {"provider": provider, "model": model.name})
        asked = Asker(client, record, config.ask).ask_all(
            [to_photo(view) for view in of_tool], text, quantities
        )
        outcomes += asked
        rows.append(summarize(asked, quantities, len(asked) // 2)[0])
    lengths = np.array([tool.length for tool in tools])
    counts = as_record(count(outcomes))
    models = sorted({answer.model for outcome in outcomes for answer in outcome.answers})
    return Source(
        name,
        np.array([row.mean for row in rows]) / lengths,
        np.array([row.sigma for row in rows]) / lengths,
        f"answers of {', '.join(models)}; sigma: mean of the reported ones",
        np.array([row.spread for row in rows]) / lengths,
        counts,
        live=not any(answer.synthetic for outcome in outcomes for answer in outcome.answers),
    )


def _slug(text: str) -> str:
    return text.lower().replace(", ", "_").replace(" ", "_")


def _report(config, sources: Sequence[Source], truth: np.ndarray, names: list[str]) -> None:
    rows = []
    print(f"\n{len(names)} tools; errors and sigmas in % of the length\n")
    print(f"{'source':38} {'MAE':>5} {'RMSE':>5} {'sigma':>5} {'NLL':>6}  sigma scale [95%]")
    for source in sources:
        result = score(source.mean, source.sigma, truth)
        low, high = result.sigma_scale_interval
        print(
            f"{source.name:38} {100 * result.mae:5.1f} {100 * result.rmse:5.1f} "
            f"{100 * result.mean_sigma:5.1f} {result.nll:6.2f}  "
            f"{result.sigma_scale:.2f} [{low:.2f}, {high:.2f}]"
        )
        spread = None if source.spread is None else float(source.spread.mean())
        rows.append(
            {"source": source.name, "note": source.note, **as_row(result), "mean_spread": spread,
             "counts": source.counts,
             "objects": per_object(names, source.mean, source.sigma, truth)}
        )  # fmt: skip
    print(f"\n{_statement(sources)}")
    record = {
        "schema": 1,
        "statement": _statement(sources),
        "truth": "CAD geometry x catalogue density (Workshop Tools, MIT licence); not weighed",
        "sample": f"{len(names)} objects: every interval is wide, and no class of objects "
        "outside hand tools is covered",
        "best_constant_box_nll": constant_box(truth).nll,
        "check_on_synthetic": _check(sources, truth),
        "config": as_record(config),
        "rows": rows,
        "provenance": provenance(),
    }
    write_json(config.out / "calibration.json", json.loads(json.dumps(record)))
    _figure(config.out / "calibration.png", sources, truth, names)
    print(f"{config.out}/calibration.json, calibration.png")


def _check(sources: Sequence[Source], truth: np.ndarray) -> dict:
    """The sigma scale fitted on all made-up answers, beside the one they were made with."""
    made_up = [s for s in sources if s.name.startswith("synthetic") and "replay" not in s.name]
    z = np.concatenate([(source.mean - truth) / source.sigma for source in made_up])
    scale, low, high = fit_sigma_scale(z)
    check = {"true_scale": TRUE_SCALE, "fitted": scale, "interval": [low, high], "count": len(z)}
    print(
        f"\nsynthetic answers, all {len(z)}: sigma scale {scale:.2f} [{low:.2f}, {high:.2f}], "
        f"made with {TRUE_SCALE:g}"
    )
    return check


def _statement(sources: Sequence[Source]) -> str:
    live = [source.name for source in sources if source.live]
    return f"Answers of live models: {'; '.join(live)}." if live else NO_LIVE_MODEL


def _figure(path: Path, sources: Sequence[Source], truth: np.ndarray, names: list[str]) -> None:
    """Left: beliefs about each tool. Right: stated against observed coverage."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy import stats

    made_up = [source for source in sources if source.name.startswith("synthetic")]
    shown = [source for source in sources if source not in made_up[1:]]
    colors = [
        "#0072B2",
        "#56B4E9",
        "#777777",
        "#BBBBBB",
        "#E69F00",
        "#D55E00",
        "#CC79A7",
        "#F0E442",
    ]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=[1.45, 1])
        for index, source in enumerate(shown):
            place = np.arange(len(names)) + 0.75 * ((index + 0.5) / len(shown) - 0.5)
            error, sigma = 100 * (source.mean - truth), 100 * source.sigma
            left.errorbar(
                error,
                place,
                xerr=sigma,
                fmt="o",
                ms=3,
                lw=1,
                color=colors[index % len(colors)],
                label=source.name,
            )
        left.axvline(0, color="black", lw=1)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set(xlabel="error of the mean ± σ, % of the length", title="Beliefs about each tool")
        levels = np.linspace(0.02, 0.99, 60)
        for index, source in enumerate(shown):
            z = np.abs(source.mean - truth) / source.sigma
            observed = [np.mean(z <= stats.norm.ppf((1 + level) / 2)) for level in levels]
            right.plot(levels, observed, color=colors[index % len(colors)], lw=1.4)
        n = len(truth)
        band = [stats.binom.interval(0.95, n, level) for level in levels]
        right.fill_between(
            levels, *(np.array(band).T / n), color="#EEEEEE", lw=0, zorder=0,
            label=f"95% of calibrated sources, n = {n}",
        )  # fmt: skip
        right.plot([0, 1], [0, 1], color="black", lw=1, ls=(0, (6, 2)))
        for level in LEVELS:
            right.axvline(level, color="#DDDDDD", lw=0.6, zorder=0)
        right.set(xlabel="stated level of the interval", ylabel="share of truths inside",
                  xlim=(0, 1), ylim=(0, 1.02), title="Reliability")  # fmt: skip
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(path, dpi=DPI)


if __name__ == "__main__":
    main(tyro.cli(CalibrationConfig))
