"""Is a prior as good as it says? Error, z-scores and a sigma scale on tools of known CoM.

    python experiments/prior_calibration.py --out runs/calibration
    python experiments/prior_calibration.py --out ... --fake
    python experiments/prior_calibration.py --out ... --provider gemini --model.name NAME
    python experiments/prior_calibration.py --out ... --provider replay --model.replay RECORDS

The tools are ../shared/data/workshop_tools (CAD geometry times catalogue density, not
weighed). The first line asks nobody: it scores what geometry alone says. ``--fake`` adds a
local server, asked through the real clients, whose answers are made up with a known error,
so that the fitted sigma scale can be checked, and a replay of them. ``--provider`` asks a
model with a key from the environment, or answers from the records of an earlier run
(``OUT/records/PROVIDER``); each prompt is a row. Interrupted, the same command goes on
from the records. ``--ship`` writes the heuristic that ``p2r_jax`` ships, fitted on all
the tools.
"""

import json
import re
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
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.prior.aggregate import TooFewAnswersError, count, summarize
from p2r_jax.prior.ask import AskConfig, Asker
from p2r_jax.prior.calibration import (
    LEVELS,
    Form,
    KnownObject,
    Source,
    as_row,
    constant_box,
    fit_sigma_scale,
    leave_one_out,
    load_workshop_tool,
    nested_leave_one_out,
)
from p2r_jax.prior.heuristic import CANDIDATES, DATA, fit_heuristic, fits_record
from p2r_jax.prior.photos import View, to_photo
from p2r_jax.prior.prompts import fill_prompt, load_prompt, prompt_names
from p2r_jax.prior.providers import ModelConfig, Provider, make_client, settings_of
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.record import Record
from p2r_jax.prior.shape import mask_centroids
from p2r_jax.prior.views import mesh_scene, render_views

ROOT = Path(__file__).resolve().parent.parent
FAKE_SERVER = ROOT / "tests" / "fake_vlm_server.py"
TRUE_SCALE = 2.0  # of the made-up answers: error 0.2 per object, stated sigma 0.1
NO_LIVE_MODEL = "No live model was called."
MADE_UP = (
    "Rows of kind 'synthetic' are answers of a local server that makes them up with known "
    "errors: they test this program and say nothing about any model."
)
CAVEAT = (
    "The two candidate centroids and the form of the heuristic were chosen by people who had "
    "seen these ten tools; leave-one-tool-out holds for its parameters only. The rows 'form "
    "chosen in the fold' also choose the form, from the menu below, without the tool that is "
    "scored: what the choice costs. The menu itself was still written after a look at the "
    "tools. A test on other objects has not been made."
)
MENU = {  # of forms of the heuristic, by what it looks at
    "mesh": [
        Form(("solid",), 0.0),
        *(
            Form((kind,), weight)
            for kind in ("solid", "hull", "shell")
            for weight in (None, 1, 0.5)
        ),
        Form(("solid", "hull")),
        Form(("solid", "hull", "shell")),
    ],
    "mask": [
        Form(("solid",), 0.0),
        *(Form((kind,), weight) for kind in CANDIDATES for weight in (None, 1, 0.5)),
        Form(CANDIDATES),
    ],
}


@dataclass(frozen=True)
class CalibrationConfig:
    """One calibration.

    Attributes:
      out: folder for ``calibration.json``, the figure and the records.
      tools: folder of the data set.
      provider, model: who is asked beside the geometry; ``heuristic`` is nobody. For
        ``replay``, ``--model.replay`` is a folder of records, PROMPT/TOOL.jsonl.
      fake: also ask the local server that makes its answers up.
      prompts: prompts to compare, each a row per provider.
      views: rendered views per tool.
      ask: queries per view, and so on.
      ship: also write the heuristic's fit into the package.
    """

    out: Path
    tools: Path = ROOT.parent / "shared" / "data" / "workshop_tools"
    provider: Provider = "heuristic"
    model: ModelConfig = field(default_factory=ModelConfig)
    fake: bool = False
    prompts: tuple[str, ...] = prompt_names()
    views: int = 5
    ask: AskConfig = field(default_factory=lambda: AskConfig(queries=5))
    ship: bool = False


def main(config: CalibrationConfig) -> None:
    """Score every source and write table, JSON and figure."""
    _check(config)
    config.out.mkdir(parents=True, exist_ok=True)
    folders = sorted(path for path in config.tools.iterdir() if path.is_dir())
    tools = [load_workshop_tool(folder) for folder in tqdm(folders, desc="meshes")]
    views = [
        render_views(mesh_scene(tool.mesh), tool.shape, ["com_object_x"], config.views)
        for tool in tqdm(tools, desc="views")
    ]
    names, truth = [tool.name for tool in tools], np.array([tool.truth for tool in tools])
    centroids = {"mesh": _mesh_centroids(tools), "mask": _mask_centroids(views)}
    shipped = {
        seen: {kind: values[kind] for kind in CANDIDATES} for seen, values in centroids.items()
    }
    sources = [_heuristic(seen, values, truth, names) for seen, values in shipped.items()]
    sources += [_nested(seen, values, truth, names) for seen, values in centroids.items()]
    sources += _uniform(centroids["mesh"]["solid"], truth)
    if config.fake:
        with _fake_server(config.out, tools) as url:
            sources += _synthetic(config, tools, views, url)
    if config.provider != "heuristic":
        records = config.out / "records" / config.provider
        sources += [
            _ask(config, config.provider, config.model, prompt, tools, views, records)
            for prompt in config.prompts
        ]
    if config.ship:
        fits = {seen: fit_heuristic(values, truth, names) for seen, values in shipped.items()}
        write_json(DATA, fits_record(fits))
    _report(config, sources, truth, names)


def _check(config: CalibrationConfig) -> None:
    """What would fail later is refused before anything is rendered or asked."""
    if not config.tools.is_dir():
        raise SystemExit(f"{config.tools} is not there; name the data set's folder with --tools")
    if (config.out / "calibration.json").exists():
        raise SystemExit(f"{config.out} holds a finished calibration; choose another --out")
    if config.provider == "replay":
        folder = config.model.replay
        if folder is None or not all((folder / prompt).is_dir() for prompt in config.prompts):
            raise SystemExit(
                f"--provider replay reads --model.replay FOLDER/PROMPT/TOOL.jsonl for the prompts "
                f"{', '.join(config.prompts)}; {folder} is not such a folder"
            )
    elif config.provider != "heuristic":
        make_client(config.provider, config.model)


def _mesh_centroids(tools: Sequence[KnownObject]) -> dict[str, np.ndarray]:
    """Of the solid, its hull and its surface (``shell``), shares of the length."""
    found = {kind: np.array([tool.centroid(kind) for tool in tools]) for kind in CANDIDATES}
    shell = [float(tool.mesh.centroid[0]) / tool.length for tool in tools]
    return found | {"shell": np.array(shell)}


def _mask_centroids(views: Sequence[Sequence[View]]) -> dict[str, np.ndarray]:
    """Mean over the views of the silhouette's centroids, shares of the length."""
    found: dict[str, list[float]] = {kind: [] for kind in CANDIDATES}
    for of_tool in views:
        marks = [(view.mask, view.axes["com_object_x"]) for view in of_tool]
        each = [mask_centroids(m, mark[0], mark[-1]) for m, mark in marks if m is not None]
        for kind in CANDIDATES:
            found[kind].append(float(np.mean([centroids[kind] for centroids in each])) / 2)
    return {kind: np.array(values) for kind, values in found.items()}


def _heuristic(seen: str, centroids: dict, truth: np.ndarray, names: list[str]) -> Source:
    mean, sigma, fits = leave_one_out(centroids, truth, names)
    chosen = ", ".join(f"{kind} {sum(f.centroid == kind for f in fits)}x" for kind in CANDIDATES)
    note = f"leave-one-tool-out of the parameters; centroid: {chosen}"
    return Source(f"heuristic, {seen}", "heuristic", mean, sigma, note)


def _nested(seen: str, centroids: dict, truth: np.ndarray, names: list[str]) -> Source:
    mean, sigma, forms = nested_leave_one_out(centroids, truth, names, MENU[seen])
    words = [str(form) for form in forms]
    chosen = "; ".join(f"{word} {words.count(word)}x" for word in dict.fromkeys(words))
    note = f"leave-one-tool-out of parameters and form, of {len(MENU[seen])}; chosen: {chosen}"
    return Source(f"heuristic, {seen}, form chosen in the fold", "heuristic", mean, sigma, note)


def _uniform(solid: np.ndarray, truth: np.ndarray) -> list[Source]:
    """What the heuristic is measured against, each with the best constant sigma in hindsight."""
    zero = np.zeros_like(truth)
    best = {"bounding-box centre": zero, "uniform centroid": solid}
    return [
        Source(name, "reference", mean, zero + np.sqrt(np.mean((mean - truth) ** 2)),
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
    servers: dict[Provider, str] = {"gemini": url, "openai": f"{url}/v1"}
    sources = []
    for provider, base_url in servers.items():
        records = config.out / "synthetic" / provider
        for prompt in config.prompts:
            model = ModelConfig(name=f"synthetic-{provider}-{prompt}", base_url=base_url)
            sources.append(_ask(config, provider, model, prompt, tools, views, records))
    replay = ModelConfig(replay=config.out / "synthetic" / "gemini")
    again = _ask(config, "replay", replay, config.prompts[0], tools, views, config.out)
    if not np.array_equal(again.mean, sources[0].mean):
        raise RuntimeError("the replay differs from what was recorded")
    return [*sources, again]


def _ask(
    config: CalibrationConfig,
    provider: Provider,
    model: ModelConfig,
    prompt: str,
    tools: Sequence[KnownObject],
    views: Sequence[Sequence[View]],
    records: Path,
) -> Source:
    """One provider and prompt about every tool; answers go to ``records``/prompt/tool.jsonl."""
    template = load_prompt(prompt)
    belief = np.full((len(tools), 3), np.nan)
    outcomes = []
    for index, tool in enumerate(tqdm(tools, desc=f"{provider}, {prompt}")):
        quantities = quantities_for(["com_object_x"], tool.shape)
        text = fill_prompt(template, tool.name, "", quantities, json=config.ask.structured)
        photos = [to_photo(view) for view in views[index]]
        file = Path(_slug(prompt)) / f"{_slug(tool.name)}.jsonl"
        if provider == "replay":
            assert model.replay is not None
            client = make_client(provider, ModelConfig(replay=model.replay / file))
            asked = Asker(client, None, config.ask).ask_all(photos, text, quantities)
        else:
            record = Record(records / file, settings_of(provider, model))
            try:
                asker = Asker(make_client(provider, model), record, config.ask)
                asked = asker.ask_all(photos, text, quantities)
            finally:
                record.close()
        outcomes += asked
        try:
            (row,) = summarize(asked, quantities, len(asked) // 2)
        except TooFewAnswersError as error:
            print(f"{tool.name} is left out: {str(error).splitlines()[0]}")
            continue
        belief[index] = np.array([row.mean, row.sigma, row.spread]) / tool.length
    answers = [answer for outcome in outcomes for answer in outcome.answers]
    made_up = any(answer.synthetic for answer in answers)
    models = ", ".join(sorted({answer.model for answer in answers}))
    return Source(
        f"{'synthetic, ' if made_up else ''}{provider}, {prompt}",
        "synthetic" if made_up else "live",
        belief[:, 0],
        belief[:, 1],
        f"answers of {models}; sigma: mean of the reported ones",
        belief[:, 2],
        as_record(count(outcomes)),
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "_", Path(text).stem.lower())


def _report(config, sources: Sequence[Source], truth: np.ndarray, names: list[str]) -> None:
    print(f"\n{len(names)} tools; errors and sigmas in % of the length\n")
    print(f"{'source':40} {'MAE':>5} {'RMSE':>5} {'sigma':>5} {'NLL':>6}  sigma scale [95%]")
    rows = [as_row(source, truth, names) for source in sources if len(source.scored)]
    for row in rows:
        low, high = row["sigma_scale_interval"]
        print(
            f"{row['source']:40} {100 * row['mae']:5.1f} {100 * row['rmse']:5.1f} "
            f"{100 * row['mean_sigma']:5.1f} {row['nll']:6.2f}  "
            f"{row['sigma_scale']:.2f} [{low:.2f}, {high:.2f}]"
        )
    made_up = _pooled(sources, truth)
    box = constant_box(truth).nll
    gains = {row["source"]: box - row["nll"] for row in rows if row["kind"] == "heuristic"}
    print(f"\nNLL below the best constant-sigma box, in nats: {_list(gains)}")
    print(f"\n{_statement(sources)}")
    record = {
        "schema": 2,
        "statement": _statement(sources),
        "caveat": CAVEAT,
        "menu": {seen: [str(form) for form in forms] for seen, forms in MENU.items()},
        "truth": "CAD geometry x catalogue density (Workshop Tools, MIT licence); not weighed",
        "sample": f"{len(names)} objects: every interval is wide, and no class of objects "
        "outside hand tools is covered",
        "best_constant_box_nll": box,
        "gain_over_best_constant_box": gains,
        "check_on_synthetic": _check_scale(made_up) if len(made_up) else None,
        "config": as_record(config) | {"out": config.out.name, "tools": config.tools.name},
        "rows": rows,
        "provenance": provenance(),
    }
    _figure(config.out / "calibration.png", sources, truth, names, made_up)
    write_json(config.out / "calibration.json", json.loads(json.dumps(record)))
    print(f"{config.out}/calibration.json, calibration.png")


def _list(gains: dict[str, float]) -> str:
    return "; ".join(f"{name} {gain:+.2f}" for name, gain in gains.items())


def _pooled(sources: Sequence[Source], truth: np.ndarray) -> np.ndarray:
    """z of all made-up answers that were asked for, not replayed."""
    made_up = [s for s in sources if s.kind == "synthetic" and "replay" not in s.name]
    return np.concatenate([((s.mean - truth) / s.sigma)[s.scored] for s in made_up] or [[]])


def _check_scale(z: np.ndarray) -> dict:
    """The sigma scale fitted on all made-up answers, beside the one they were made with."""
    scale, low, high = fit_sigma_scale(z)
    print(
        f"\nsynthetic answers, all {len(z)}: sigma scale {scale:.2f} [{low:.2f}, {high:.2f}], "
        f"made with {TRUE_SCALE:g}"
    )
    return {"true_scale": TRUE_SCALE, "fitted": scale, "interval": [low, high], "count": len(z)}


def _statement(sources: Sequence[Source]) -> str:
    live = [source.name for source in sources if source.kind == "live"]
    statement = f"Answers of live models: {'; '.join(live)}." if live else NO_LIVE_MODEL
    made_up = any(source.kind == "synthetic" for source in sources)
    return f"{statement} {MADE_UP}" if made_up else statement


def believed(sources: Sequence[Source]) -> list[Source]:
    """Sources that say something about the tools; made-up answers do not."""
    return [source for source in sources if source.kind != "synthetic"]


def _figure(path: Path, sources: Sequence[Source], truth, names: list[str], made_up) -> None:
    """Left: beliefs about each tool. Right: stated against observed coverage.

    Made-up answers show only on the right, as the test of the program that they are.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = believed(sources)
    colors = ["#0072B2", "#56B4E9", "#009E73", "#8FD0B5", "#777777", "#BBBBBB", "#E69F00",
              "#D55E00", "#CC79A7", "#F0E442"]  # fmt: skip
    with mpl.rc_context(RC):
        figure = Figure(figsize=(10.4, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=[1.45, 1])
        for index, source in enumerate(shown):
            color = colors[index % len(colors)]
            place = np.arange(len(names)) + 0.8 * ((index + 0.5) / len(shown) - 0.5)
            left.errorbar(100 * (source.mean - truth), place, xerr=100 * source.sigma, fmt="o",
                          ms=2.5, lw=0.9, color=color, label=source.name)  # fmt: skip
            _reliability(right, ((source.mean - truth) / source.sigma)[source.scored], color=color)
        if len(made_up):
            _reliability(
                right,
                made_up,
                color="#D55E00",
                ls=":",
                label=f"made-up answers, σ half of what it should be, n = {len(made_up)}",
            )
        left.axvline(0, color="black", lw=1)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set(xlabel="error of the mean ± σ, % of the length", title="Beliefs about each tool")
        _dress_reliability(right, len(truth))
        figure.legend(loc="outside lower center", ncols=2)
        figure.savefig(path, dpi=DPI)


def _reliability(axes, z: np.ndarray, **style) -> None:
    """Share of truths inside the central interval of every stated level."""
    from scipy import stats

    inside = np.sort(2 * stats.norm.cdf(np.abs(z)) - 1)  # the level at which each comes in
    share = np.arange(len(z) + 1) / len(z)
    axes.step([0, *inside, 1], [*share, 1], where="post", lw=1.4, **style)


def _dress_reliability(axes, count: int) -> None:
    from scipy import stats

    levels = np.linspace(0, 1, 101)
    band = [stats.binom.interval(0.95, count, level) for level in levels[1:-1]]
    axes.fill_between(levels[1:-1], *(np.array(band).T / count), color="#EEEEEE", lw=0, zorder=0,
                      label=f"95% of calibrated sources, n = {count}")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="black", lw=1, ls=(0, (6, 2)))
    for level in LEVELS:
        axes.axvline(level, color="#DDDDDD", lw=0.6, zorder=0)
    axes.set(xlabel="stated level of the interval", ylabel="share of truths inside",
             xlim=(0, 1), ylim=(0, 1.02), title="Reliability")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(CalibrationConfig))
