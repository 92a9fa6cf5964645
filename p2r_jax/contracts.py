"""What a trained network expects of the world it runs in: written beside it, checked at load."""

from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from p2r_jax.files import read_record, write_json
from p2r_jax.sim.observation import FEATURES
from p2r_jax.tasks import Task

Contract = TypeVar("Contract")
SCHEMA_VERSION = 1


def write_contract(path: Path, contract) -> None:
    """Write a contract dataclass as JSON."""
    write_json(path, {"schema": SCHEMA_VERSION, **asdict(contract)})


def read_contract(path: Path, kind: type[Contract], task: Task | None) -> Contract:
    """Read what ``write_contract`` wrote and refuse what does not fit.

    Args:
      path: the JSON file, ``policy.json`` or ``estimator.json``.
      kind: its dataclass, with fields ``task`` and ``features``.
      task: if given, the network must have been trained on it.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: for another schema, another task, or other observations.
    """
    folder = path.parent
    record = read_record(path, SCHEMA_VERSION, "is it the right folder?")
    del record["schema"]
    contract = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})
    if task is not None and contract.task != task.name:
        raise ValueError(
            f"{folder} was trained on task {contract.task!r}, not on {task.name!r}; "
            "give a checkpoint of that task"
        )
    if contract.features != FEATURES:
        raise ValueError(
            f"{folder} expects features {contract.features}, this version has {FEATURES}"
        )
    return contract
