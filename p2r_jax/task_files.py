"""Tasks as folders: ``task.json`` beside the asset; reading gives back what was written.

A folder can be moved or handed on: an asset inside it is stored by its relative path.
"""

from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from p2r_jax.files import read_record, write_json
from p2r_jax.tasks import Task

TASK_FILE = "task.json"
SCHEMA_VERSION = 1


def is_task_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a task in it."""
    return (Path(path) / TASK_FILE).is_file()


def write_task(task: Task, folder: Path, made: dict | None = None) -> None:
    """Write ``folder/task.json``.

    Args:
      task: the task; its asset may lie inside ``folder``, elsewhere, or be a shipped one.
      folder: must exist.
      made: how it was made, kept beside the task and not read back.
    """
    folder = Path(folder).resolve()
    asset = Path(task.asset)
    if asset.is_dir():
        asset = asset.resolve()
        inside = asset.is_relative_to(folder)
        stored = f"./{asset.relative_to(folder)}" if inside else str(asset)
        task = replace(task, asset=stored)
    record = {"schema": SCHEMA_VERSION, "task": asdict(task), "made": made or {}}
    write_json(folder / TASK_FILE, record)


def read_task(folder: str | Path) -> Task:
    """The task in a folder, equal to the one that was written.

    Raises:
      FileNotFoundError: if there is no task, or its asset is not there.
      ValueError: for another schema, or a field that does not fit; names it.
    """
    folder = Path(folder).resolve()
    path = folder / TASK_FILE
    record = read_record(path, SCHEMA_VERSION, "`p2r task new` makes one")
    try:
        task = _read(Task, record.get("task"), "task")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if task.asset.startswith("./"):
        task = replace(task, asset=str(folder / task.asset))
        if not Path(task.asset).is_dir():
            raise FileNotFoundError(f"{path}: there is no asset folder {task.asset}")
    return task


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as the type of a config field; ValueError names ``where``."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in options:
            return None
        return _read(next(k for k in options if k is not NoneType), value, where)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        return _read_tuple(options, value, where)
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    number = kind is float and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not kind and not number:
        raise ValueError(f"{where} is {value!r}, a {kind.__name__} is expected")
    return value


def _read_tuple(kinds: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {value!r}, a list is expected")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where} has {len(value)} values, {len(kinds)} are expected")
    return tuple(
        _read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _read_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, an object with fields is expected")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise ValueError(f"{where} has no field {unknown[0]!r} (fields: {', '.join(known)})")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}.{name} is missing")
    return kind(**{name: _read(hints[name], v, f"{where}.{name}") for name, v in value.items()})
