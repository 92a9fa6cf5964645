"""A belief about theta from vision, on disk and in memory.

Whatever states the belief (a summary printed in the paper, a heuristic, a live
model) ends as one ``Prior`` record that says of which kind it is, so that a
table can never pass one off as another. SI units, as everywhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from p2r_jax.files import write_json
from p2r_jax.prior.heuristic import HeuristicFit, load_fit
from p2r_jax.prior.quantities import Quantity, quantities_for
from p2r_jax.prior.shape import ObjectShape, shape_of_asset
from p2r_jax.sim.asset import Asset
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian

SCHEMA_VERSION = 2
PAPER_SUMMARY = Path(__file__).parent / "data" / "paper_summary.json"
HEURISTIC = "heuristic"
KINDS = {
    "paper-summary": "mean and sigma as published, without the answers behind them",
    HEURISTIC: "computed from the geometry; no model was asked",
    "live": "a model was asked",
    "synthetic": "answers made up for a test; no model was asked",
}
EDGE_TOLERANCE = 0.02  # of the object's length: how well two measurements of it agree


@dataclass(frozen=True)
class Prior:
    """Independent Gaussian beliefs about the components of theta.

    Attributes:
      theta: names of the components, in the task's order.
      mean: in ``unit``.
      sigma: standard deviations, in ``unit``; positive, may be infinite.
      unit: SI unit of each component.
      kind: one of ``KINDS``.
      source: where the numbers come from, for a person to read.
      object: name of the asset that was looked at.
      ends: lowest and highest value of each component, in ``unit``; of a coordinate,
        the object's edges in the object frame. They fix the axis: origin, direction, length.
    """

    theta: tuple[str, ...]
    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    unit: tuple[str, ...]
    kind: str
    source: str
    object: str
    ends: tuple[tuple[float, float], ...]

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"prior of kind {self.kind!r}; kinds: {', '.join(KINDS)}")
        lengths = {name: len(getattr(self, name)) for name in ("mean", "sigma", "unit", "ends")}
        if set(lengths.values()) != {len(self.theta)}:
            counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise ValueError(
                f"prior for theta {self.theta} has {counts}; one of each per component is needed"
            )
        for name, mean, sigma in zip(self.theta, self.mean, self.sigma, strict=True):
            if not np.isfinite(mean):
                raise ValueError(f"prior of {name}: mean is {mean}; it must be finite")
            if not sigma > 0:
                raise ValueError(f"prior of {name}: sigma is {sigma}; it must be positive")

    def to_gaussian(self) -> Gaussian:
        """Mean and variance: Float[K] each."""
        mean, sigma = jnp.array(self.mean, jnp.float32), jnp.array(self.sigma, jnp.float32)
        return Gaussian(mean, sigma**2)


def load_prior(path_or_name: str | Path, task: Task) -> Prior:
    """A prior by name (``prior_names()``) or from a JSON file that ``save_prior`` wrote.

    Components of theta that it says nothing about get the training prior (``completed``).

    Raises:
      KeyError: for a name that does not exist, listing those that do.
      ValueError: if the file or the named prior does not fit the task
        (``check_prior``) or lacks a field.
    """
    if path_or_name == HEURISTIC:
        return heuristic_prior(task.object, task)
    path = Path(path_or_name)
    found = _from_file(path) if path.is_file() else _paper_summary(str(path_or_name))
    prior = completed(found, task)
    check_prior(prior, task, str(path_or_name))
    return prior


def save_prior(path: Path, prior: Prior, made: Mapping[str, Any] | None = None) -> None:
    """Write one prior as JSON; ``made`` says how, for a person or a table."""
    write_json(
        path, {"schema": SCHEMA_VERSION, **asdict(prior), **({"made": made} if made else {})}
    )


def completed(prior: Prior, task: Task) -> Prior:
    """``prior`` with the task's training prior for components of theta that it lacks.

    Its ``source`` says so. A prior that lacks nothing, or speaks about something that the
    task's theta does not have, is returned as it is.
    """
    names = tuple(t.name for t in task.theta)
    if not set(prior.theta) < set(names):
        return prior
    columns = (prior.mean, prior.sigma, prior.unit, prior.ends)
    told = dict(zip(prior.theta, zip(*columns, strict=True), strict=True))
    rows = [
        told.get(spec.name, (spec.mean, spec.std, spec.unit, (quantity.low, quantity.high)))
        for spec, quantity in zip(
            task.theta, quantities_for(names, shape_of_asset(task.object)), strict=True
        )
    ]
    mean, sigma, unit, ends = zip(*rows, strict=True)
    lacking = ", ".join(name for name in names if name not in told)
    source = f"{prior.source}; {lacking}: the training prior of {task.name}"
    return replace(prior, theta=names, mean=mean, sigma=sigma, unit=unit, ends=ends, source=source)


def check_prior(prior: Prior, task: Task, where: str = "this prior") -> None:
    """Raise ValueError, naming both sides, unless the prior speaks about this task's theta.

    Compared are the components, their units, the object, and the axis: the edges that the
    prior's scale ran between must be the object's, to ``EDGE_TOLERANCE`` of its length.
    """
    names, units = tuple(t.name for t in task.theta), tuple(t.unit for t in task.theta)
    if prior.theta != names:
        raise ValueError(f"{where} is about theta {prior.theta}, task {task.name!r} has {names}")
    if prior.unit != units:
        raise ValueError(
            f"{where} is in {_list(prior.unit)}, theta of {task.name!r} in {_list(units)}; "
            "convert it"
        )
    if prior.object != task.object.name:
        raise ValueError(
            f"{where} is about object {prior.object!r}, {task.name!r} pushes {task.object.name!r}"
        )
    for quantity, (low, high) in zip(
        quantities_for(names, shape_of_asset(task.object)), prior.ends, strict=True
    ):
        slack = EDGE_TOLERANCE * (quantity.high - quantity.low)
        if quantity.scaled and max(abs(low - quantity.low), abs(high - quantity.high)) > slack:
            raise ValueError(
                f"{where} has the axis of {quantity.name} from {low:g} to {high:g}, the edges of "
                f"{task.object.name!r} are {quantity.low:g} and {quantity.high:g} {quantity.unit}: "
                "another axis, size or origin"
            )


def gaussian_for(prior: Prior | Gaussian, task: Task) -> Gaussian:
    """The belief that a bundle of this task may hold; a ``Prior`` is completed and checked.

    Raises:
      ValueError: as ``check_prior``.
    """
    if isinstance(prior, Prior):
        prior = completed(prior, task)
        check_prior(prior, task)
        return prior.to_gaussian()
    return prior


def prior_off_by(task: Task, truth: np.ndarray, offset_m: float, sigma_m: float) -> Gaussian:
    """A made-up belief, Float[K]: off along theta's first component, and that sure of it.

    Args:
      task: whose theta; the other components get its training prior.
      truth: Float[K].
      offset_m: mean minus truth.
      sigma_m: standard deviation; may be infinite.
    """
    mean = np.array([truth[0] + offset_m, *task.theta_mean[1:]], np.float32)
    variance = np.array([sigma_m**2, *(float(std) ** 2 for std in task.theta_std[1:])], np.float32)
    return Gaussian(jnp.array(mean), jnp.array(variance))


def prior_names() -> tuple[str, ...]:
    """Names that ``load_prior`` knows besides files."""
    return (*json.loads(PAPER_SUMMARY.read_text())["priors"], HEURISTIC)


def heuristic_prior(asset: Asset, task: Task) -> Prior:
    """What the outline alone says about theta; see ``heuristic`` for mean and sigma.

    Raises:
      ValueError: if theta has components that are no coordinates of the centre of mass.
    """
    return heuristic_prior_of_shape(shape_of_asset(asset), [t.name for t in task.theta])


def heuristic_prior_of_shape(shape: ObjectShape, theta: Sequence[str]) -> Prior:
    """``heuristic_prior`` for any object whose geometry is known."""
    axes = {"com_object_x": 0, "com_object_y": 1}
    unknown = [name for name in theta if name not in axes]
    if unknown:
        raise ValueError(f"no heuristic for theta {unknown}; it knows {', '.join(axes)}")
    fit, quantities = load_fit("mesh"), quantities_for(theta, shape)
    centroid = shape.centroids[fit.centroid]
    scaled = {q.name: q.from_unit(centroid[axes[q.name]]) for q in quantities}
    return heuristic_prior_at(scaled, quantities, fit, shape.name, "shape")


def heuristic_prior_at(
    centroids: Mapping[str, float],
    quantities: Sequence[Quantity],
    fit: HeuristicFit,
    object_name: str,
    seen: str,
) -> Prior:
    """The heuristic prior for an object whose uniform centroid is known.

    Args:
      centroids: by coordinate, on the scale -1 to +1 between the object's edges.
      quantities: the coordinates, in the order of theta.
      fit: how far the centroid is to be trusted.
      object_name: of the asset.
      seen: what the centroid was taken from, for a person to read.
    """
    guesses = [q.to_unit(fit.weight * centroids[q.name], 2 * fit.sigma) for q in quantities]
    return Prior(
        theta=tuple(q.name for q in quantities),
        mean=tuple(mean for mean, _ in guesses),
        sigma=tuple(sigma for _, sigma in guesses),
        unit=tuple(q.unit for q in quantities),
        kind=HEURISTIC,
        source=f"{fit.weight:.2f} x uniform centroid of {object_name}'s {seen} ({fit.centroid}), "
        f"sigma {100 * fit.sigma:.0f}% of its length, as fitted on {len(fit.objects)} hand tools",
        object=object_name,
        ends=tuple((q.low, q.high) for q in quantities),
    )


def _paper_summary(name: str) -> Prior:
    record = json.loads(PAPER_SUMMARY.read_text())
    if name not in record["priors"]:
        raise KeyError(f"no prior {name!r}: neither a file nor one of {', '.join(prior_names())}")
    common = {k: record[k] for k in ("schema", "theta", "unit", "kind", "object", "ends")}
    return _from_record(common | record["priors"][name])


def _from_file(path: Path) -> Prior:
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file, hence no prior: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a JSON {type(record).__name__}, not a prior's fields")
    try:
        return _from_record(record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _from_record(record: dict) -> Prior:
    if record.get("schema") != SCHEMA_VERSION:
        raise ValueError(f"schema {record.get('schema')!r}, this version reads {SCHEMA_VERSION}")
    missing = [f.name for f in fields(Prior) if f.name not in record]
    if missing:
        raise ValueError(f"the prior lacks {', '.join(missing)}")
    return Prior(
        theta=tuple(record["theta"]),
        mean=tuple(map(float, record["mean"])),
        sigma=tuple(map(float, record["sigma"])),
        unit=tuple(record["unit"]),
        kind=record["kind"],
        source=record["source"],
        object=record["object"],
        ends=tuple((float(low), float(high)) for low, high in record["ends"]),
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
