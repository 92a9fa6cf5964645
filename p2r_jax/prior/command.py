"""``p2r prior``: from pictures of an object to ``prior.json``, with one command."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import tyro

from p2r_jax.files import provenance, write_atomic
from p2r_jax.prior.aggregate import count, summarize, to_prior
from p2r_jax.prior.ask import AskConfig, Asker, Outcome, Tally, first_request
from p2r_jax.prior.heuristic import load_fit
from p2r_jax.prior.photos import View, load_view, to_photo
from p2r_jax.prior.prior import Prior, heuristic_prior_at, heuristic_prior_of_shape, save_prior
from p2r_jax.prior.prompts import fill_prompt, load_prompt
from p2r_jax.prior.protocol import Photo, ProviderError
from p2r_jax.prior.providers import ModelConfig, Provider, make_client, settings_of, without_keys
from p2r_jax.prior.quantities import Quantity, quantities_for
from p2r_jax.prior.record import Record
from p2r_jax.prior.report import check_plotting, write_report
from p2r_jax.prior.shape import ObjectShape, mask_centroids, shape_of_asset
from p2r_jax.prior.views import RenderError, asset_scene, render_views
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.tasks import Task, load_task


@dataclass(frozen=True)
class PriorConfig:
    """One prior.

    Attributes:
      out: JSON file to write. Beside OUT.json go the record of requests and answers
        (OUT.jsonl), a report (OUT_report.png) and the photos as they were shown
        (OUT_shown/); an interrupted run goes on from the record when the same command is
        given again.
      images: photos of the object, each from another side.
      object: what the model is told the object is, e.g. "a wooden mallet"; the asset's name
        by default.
      axis_hint: what lies at the ends of the x axis, e.g. "from the handle to the head".
      axis_px: where this axis ends in the photos, as COLUMN,ROW,COLUMN,ROW of the bottom
        (-1) and the top (+1); once for all photos or once for each. By default it is the
        photo's vertical, between the edges of the object. Pixels of the photo at full
        size, upright as a viewer shows it.
      task: what the prior is for; gives theta.
      asset: the object, for its size; by default the task's.
      views: instead of photos, render this many views of the asset.
      weight_x_m: in rendered views, show the asset's weight at this place on the x axis.
      theta: components to ask for; by default the task's.
      provider: ``heuristic`` looks at the geometry and asks nobody.
      model: which model is asked, and how.
      prompt: shipped prompt or text file.
      ask: how often and how fast.
      min_usable: share of the queries that must give a usable answer.
      sigma_scale: multiplies the reported sigmas, e.g. as fitted by
        ``experiments/prior_calibration.py``.
      prices_usd: of a million input and a million output tokens, to state the cost.
    """

    out: Path
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    object: str = ""
    axis_hint: str = ""
    axis_px: tuple[str, ...] = ()
    task: str = "push_tblock"
    asset: str | None = None
    views: int = 0
    weight_x_m: float | None = None
    theta: tuple[str, ...] = ()
    provider: Provider = "heuristic"
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: str = "plain-v1"
    ask: AskConfig = field(default_factory=AskConfig)
    min_usable: float = 0.5
    sigma_scale: float = 1.0
    prices_usd: tuple[float, float] | None = None

    def __post_init__(self):
        if not 0 < self.min_usable <= 1:
            raise ValueError(f"min_usable is {self.min_usable}; it must lie in (0, 1]")
        if not 0 < self.sigma_scale < np.inf:
            raise ValueError(f"sigma_scale is {self.sigma_scale}; it must be positive and finite")
        if self.prices_usd and not min(self.prices_usd) >= 0:
            raise ValueError(f"prices_usd are {self.prices_usd}; they must not be negative")
        if self.out.suffix != ".json":
            raise ValueError(f"out is {self.out}; its name must end in .json")
        _check_pictures(self)
        if self.provider == "heuristic":
            _check_nobody_is_asked(self)

    @property
    def record(self) -> Path:
        """Requests and answers."""
        return self.out.with_suffix(".jsonl")

    @property
    def report(self) -> Path:
        """The picture for a person."""
        return self.out.with_name(f"{self.out.stem}_report.png")


def _check_pictures(config: PriorConfig) -> None:
    """Photos or views, with the settings of these and not of those; no photo is overwritten."""
    if config.images and config.views:
        raise ValueError("give photos or --views, not both")
    if config.weight_x_m is not None and not config.views:
        raise ValueError("weight_x_m is for rendered views; give --views, or leave it out")
    if config.axis_px and not config.images:
        raise ValueError("axis_px is for photos, and none is given; leave it out")
    for image in config.images:
        if image.resolve() == config.report.resolve():
            raise ValueError(f"{image} would be overwritten by the report; choose another --out")


def _check_nobody_is_asked(config: PriorConfig) -> None:
    """A model's settings without a model are a provider that was forgotten."""
    defaults = {f.name: f for f in fields(PriorConfig)}
    unused = [name for name in ("prompt", "sigma_scale", "prices_usd")
              if getattr(config, name) != defaults[name].default]  # fmt: skip
    unused += ["model"] if config.model != ModelConfig() else []
    unused += ["ask"] if config.ask != AskConfig() else []
    if unused:
        raise ValueError(
            f"provider 'heuristic' asks no model, but {', '.join(unused)} is set: "
            "choose a --provider, or leave that out"
        )


def make_prior(config: PriorConfig) -> Prior:
    """Look, ask, aggregate, and write ``config.out`` with what belongs to it.

    Raises:
      FileExistsError: if ``config.out`` exists.
      ValueError: for what cannot be asked or rendered, a provider that will not answer, or
        too few usable answers (with their raw text).
    """
    if config.out.exists():
        raise FileExistsError(f"{config.out} exists; choose another --out")
    check_plotting()
    _check_writable(config.out.parent)
    task = load_task(config.task)
    asset = load_asset(config.asset) if config.asset else task.object
    shape = shape_of_asset(asset)
    quantities = quantities_for(config.theta or [t.name for t in task.theta], shape)
    try:
        views = _views(config, task, asset, shape, quantities)
        if config.provider == "heuristic":
            return _from_geometry(config, shape, quantities, views)
        return _from_model(config, shape, quantities, views)
    except (ProviderError, RenderError) as error:
        raise ValueError(without_keys(str(error))) from None


def _check_writable(folder: Path) -> None:
    """Create the folder; raise ValueError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write into {folder} ({error.strerror}); choose another --out"
        ) from error


def _views(
    config: PriorConfig,
    task: Task,
    asset: Asset,
    shape: ObjectShape,
    quantities: Sequence[Quantity],
) -> list[View]:
    coordinates = [q.name for q in quantities if q.scaled]
    if config.views:
        scene = asset_scene(config.asset or task.asset, asset, config.weight_x_m)
        return render_views(scene, shape, coordinates, config.views)
    ends = _axis_ends(config.axis_px, len(config.images))
    names = _distinct_names(config.images)
    views = [
        load_view(path, coordinates, end) for path, end in zip(config.images, ends, strict=True)
    ]
    return [replace(view, name=name) for view, name in zip(views, names, strict=True)]


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many of their folders as it takes to tell them apart."""
    names: list[str] = []
    for depth in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _axis_ends(texts: Sequence[str], photos: int) -> list[np.ndarray | None]:
    if not texts:
        return [None] * photos
    if len(texts) not in (1, photos):
        raise ValueError(f"--axis-px is given {len(texts)} times for {photos} photos")
    ends: list[np.ndarray | None] = []
    for text in texts:
        try:
            ends.append(np.array([float(v) for v in text.split(",")]).reshape(2, 2))
        except ValueError as error:
            raise ValueError(f"--axis-px {text!r} is not COLUMN,ROW,COLUMN,ROW") from error
    return ends * photos if len(ends) == 1 else ends


def _from_geometry(
    config: PriorConfig, shape: ObjectShape, quantities: Sequence[Quantity], views: Sequence[View]
) -> Prior:
    """The heuristic: from the photos' silhouettes if there are any, else from the asset."""
    prior = heuristic_prior_of_shape(shape, [q.name for q in quantities])
    if config.images:
        fit = load_fit("mask")
        prior = heuristic_prior_at(
            {q.name: _mean_centroid(views, q.name, fit.centroid) for q in quantities},
            quantities, fit, shape.name, f"silhouette in {len(views)} photos",
        )  # fmt: skip
    write_report(config.report, views, prior, quantities)
    made = {"photos": {view.name: view.source for view in views}, "provenance": provenance()}
    save_prior(config.out, prior, made)
    _print(config, prior)
    return prior


def _mean_centroid(views: Sequence[View], name: str, centroid: str) -> float:
    found = []
    for view in views:
        if view.mask is None:
            raise ValueError(f"{view.name}: the heuristic needs the outline; leave out --axis-px")
        marks = view.axes[name]
        found.append(mask_centroids(view.mask, marks[0], marks[-1])[centroid])
    return float(np.mean(found))


def _from_model(
    config: PriorConfig, shape: ObjectShape, quantities: Sequence[Quantity], views: Sequence[View]
) -> Prior:
    """V views times Q queries to a model."""
    if not views:
        raise ValueError(f"provider {config.provider!r} needs photos, or --views to render some")
    photos = [to_photo(view) for view in views]
    prompt = fill_prompt(
        load_prompt(config.prompt),
        config.object or shape.name,
        config.axis_hint,
        quantities,
        json=config.ask.structured,
    )
    outcomes, tally = _ask(config, photos, prompt, quantities)
    summaries = summarize(outcomes, quantities, int(np.ceil(config.min_usable * len(outcomes))))
    counts = count(outcomes, config.prices_usd)
    prior = to_prior(summaries, quantities, outcomes, shape.name, config.sigma_scale)
    write_report(config.report, views, prior, quantities, outcomes, summaries, counts)
    made = {
        "settings": settings_of(config.provider, config.model),
        "described_as": {"object": config.object or shape.name, "axis_hint": config.axis_hint},
        "prompt": {"name": config.prompt, "sha256": sha256(prompt.encode()).hexdigest()},
        "photos": {photo.name: photo.digest for photo in photos},
        "summaries": [asdict(summary) for summary in summaries],
        "counts": asdict(counts),
        "requests": {"sent": tally.sent, "reused": tally.reused, "failed": tally.failures},
        "provenance": provenance(),
    }
    save_prior(config.out, prior, made)
    _print(config, prior)
    return prior


def _ask(
    config: PriorConfig, photos: Sequence[Photo], prompt: str, quantities: Sequence[Quantity]
) -> tuple[list[Outcome], Tally]:
    """Ask, with photos and record on disk; a replay has its record already."""
    client = make_client(config.provider, config.model)
    if config.provider == "replay":
        asker = Asker(client, None, config.ask)
        return asker.ask_all(photos, prompt, quantities), asker.tally
    folder = config.out.with_name(f"{config.out.stem}_shown")
    folder.mkdir(exist_ok=True)
    for photo in photos:
        write_atomic(folder / f"{Path(photo.name).stem}-{photo.digest[:12]}.png", photo.png)
    record = Record(config.record, settings_of(config.provider, config.model))
    try:
        first = {
            first_request(config.ask, photo, query, prompt, quantities).key
            for photo in photos
            for query in range(config.ask.queries)
        }
        _say_what_is_there(record, first)
        asker = Asker(client, record, config.ask)
        return asker.ask_all(photos, prompt, quantities), asker.tally
    except KeyboardInterrupt:
        print(f"\ninterrupted: {record.path} keeps the answers; the same command goes on from it")
        raise
    finally:
        record.close()


def _say_what_is_there(record: Record, asked: set[str]) -> None:
    """Print how far an earlier run got; raise ValueError if it asked about something else."""
    answered = record.contents.answers.keys()
    if answered and not answered & asked:
        raise ValueError(
            f"{record.path} holds answers to other questions: photos, axis, prompt or theta "
            "differ; choose another --out, or ask the same to go on"
        )
    if record.contents.requested:
        print(
            f"{record.path}: going on from {len(answered)} answers; "
            f"{len(record.contents.unanswered)} requests got none and are sent again"
        )


def _print(config: PriorConfig, prior: Prior) -> None:
    for name, mean, sigma, unit in zip(
        prior.theta, prior.mean, prior.sigma, prior.unit, strict=True
    ):
        print(f"{name} {mean:+.4f} ± {sigma:.4f} {unit} ({prior.kind})")
    print(f"{config.out}, {config.report.name}: {prior.source}")
