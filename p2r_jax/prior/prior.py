"""A belief about theta from vision, on disk and in memory.

Whatever states the belief (a summary printed in the paper, a heuristic, a live
model) ends as one ``Prior`` record that says of which kind it is, so that a
table can never pass one off as another. Metres and radians, as everywhere.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p2r_jax.files import write_json
from p2r_jax.sim.asset import Asset
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian

SCHEMA_VERSION = 1
PAPER_SUMMARY = Path(__file__).parent / "data" / "paper_summary.json"
HEURISTIC = "heuristic"
KINDS = {
    "paper-summary": "mean and sigma as published, without the answers behind them",
    HEURISTIC: "computed from the footprint; no model was asked",
    "live": "a model was asked",
}


@dataclass(frozen=True)
class Prior:
    """Independent Gaussian beliefs about the components of theta.

    Attributes:
      theta: names of the components, in the task's order.
      mean: in ``unit``.
      sigma: standard deviations, in ``unit``; positive, may be infinite.
      unit: SI unit of every component.
      kind: one of ``KINDS``.
      source: where the numbers come from, for a person to read.
    """

    theta: tuple[str, ...]
    mean: tuple[float, ...]
    sigma: tuple[float, ...]
    unit: str
    kind: str
    source: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"prior of kind {self.kind!r}; kinds: {', '.join(KINDS)}")
        if not len(self.theta) == len(self.mean) == len(self.sigma):
            raise ValueError(
                f"prior for theta {self.theta} has {len(self.mean)} means and "
                f"{len(self.sigma)} sigmas; one of each per component is needed"
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

    Raises:
      KeyError: for a name that does not exist, listing those that do.
      ValueError: if the file or the named prior does not fit the task (other
        components, other unit) or lacks a field.
    """
    if path_or_name == HEURISTIC:
        return heuristic_prior(task.object, task)
    path = Path(path_or_name)
    if path.is_file():
        prior = _from_record(json.loads(path.read_text()), str(path))
    else:
        prior = _paper_summary(str(path_or_name), task)
    return _checked(prior, task, str(path_or_name))


def save_prior(path: Path, prior: Prior) -> None:
    """Write one prior as JSON."""
    write_json(path, {"schema": SCHEMA_VERSION, **asdict(prior)})


def prior_names() -> tuple[str, ...]:
    """Names that ``load_prior`` knows besides files."""
    return (*json.loads(PAPER_SUMMARY.read_text())["priors"], HEURISTIC)


def heuristic_prior(asset: Asset, task: Task) -> Prior:
    """What the outline alone says: the uniform-density centroid, with a wide sigma.

    The sigma is the standard deviation of a uniform distribution over the
    footprint's extent along the axis, extent / sqrt(12) (5.8 cm for the
    T-block): without having looked inside, all one knows is that the centre of
    mass lies somewhere within the outline. That is wider than the training
    distribution (3.1 cm), so any interaction outweighs it.

    Raises:
      ValueError: if theta has components that are no coordinates of the centre of mass.
    """
    lower, upper = asset.footprint_bounds
    axes = {"com_object_x": 0, "com_object_y": 1}
    names = tuple(t.name for t in task.theta)
    unknown = [n for n in names if n not in axes]
    if unknown:
        raise ValueError(f"no heuristic for theta {unknown}; it knows {', '.join(axes)}")
    index = [axes[n] for n in names]
    return Prior(
        theta=names,
        mean=tuple(float(asset.uniform_com[i]) for i in index),
        sigma=tuple(float((upper - lower)[i] / 12**0.5) for i in index),
        unit="m",
        kind=HEURISTIC,
        source=f"uniform-density centroid of {asset.name}'s footprint, sigma extent / sqrt(12)",
    )


def _paper_summary(name: str, task: Task) -> Prior:
    record = json.loads(PAPER_SUMMARY.read_text())
    if name not in record["priors"]:
        raise KeyError(f"no prior {name!r}: neither a file nor one of {', '.join(prior_names())}")
    entry = record["priors"][name]
    if entry["task"] != task.name:
        raise ValueError(f"prior {name!r} is about task {entry['task']!r}, not {task.name!r}")
    values = {k: entry[k] for k in ("mean", "sigma", "source")}
    common = {k: record[k] for k in ("schema", "theta", "unit", "kind")}
    return _from_record(common | values, name)


def _from_record(record: dict, where: str) -> Prior:
    if record.get("schema") != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: schema {record.get('schema')!r}, this version reads {SCHEMA_VERSION}"
        )
    missing = [f.name for f in fields(Prior) if f.name not in record]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    sequences = {k: tuple(record[k]) for k in ("theta", "mean", "sigma")}
    return Prior(**sequences, unit=record["unit"], kind=record["kind"], source=record["source"])


def _checked(prior: Prior, task: Task, where: str) -> Prior:
    """The prior, if it speaks about this task's theta in its unit."""
    names, units = tuple(t.name for t in task.theta), {t.unit for t in task.theta}
    if prior.theta != names:
        raise ValueError(f"{where} is about theta {prior.theta}, task {task.name!r} has {names}")
    if {prior.unit} != units:
        raise ValueError(
            f"{where} is in {prior.unit!r}, theta of {task.name!r} in {', '.join(sorted(units))}; "
            "convert it"
        )
    return prior
