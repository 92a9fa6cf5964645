"""Config dataclasses as trees: plain values in and out, dotted paths checked against the types.

``files.as_record`` turns a config into JSON values; ``read_config`` turns them back. A dotted
path (``ppo.learning_rate``) means the same here, on the command line and in a sweep file.
"""

import difflib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from p2r_jax.typed import read_as


def read_config(kind: type, record: dict, where: str = "config", strict: bool = True) -> Any:
    """A config dataclass from plain values.

    Args:
      kind: the dataclass.
      record: values by field; missing ones take their default.
      where: name of the whole in messages.
      strict: refuse names that ``kind`` does not have at its top level; a run's
        ``config.json`` holds more than settings.

    Raises:
      ValueError: naming the dotted path, what was found and what is expected.
    """
    if not strict:
        known = {f.name for f in fields(kind)}
        record = {k: v for k, v in record.items() if k in known}
    return read_as(kind, record, where)


def set_path(record: dict, path: str, value: Any) -> None:
    """Write into nested dictionaries, in place; a level that is None becomes a dictionary."""
    *parents, last = path.split(".")
    for name in parents:
        if record.get(name) is None:
            record[name] = {}
        record = record[name]
    record[last] = value


def get_path(record: dict, path: str) -> Any:
    """Read from nested dictionaries; None where a level is missing."""
    here: Any = record
    for name in path.split("."):
        here = here.get(name) if isinstance(here, dict) else None
    return here


def flatten(record: dict, separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by joined path; a list is a leaf."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[prefix + name] = value
    return flat


def paths(kind: type, prefix: str = "") -> Iterator[str]:
    """All dotted paths of a config dataclass, branches before their leaves."""
    hints = get_type_hints(kind)
    for f in fields(kind):
        yield prefix + f.name
        inner = _dataclass_of(hints[f.name])
        if inner is not None:
            yield from paths(inner, f"{prefix}{f.name}.")


def type_at(kind: type, path: str) -> Any:
    """Type of the field at a dotted path.

    Raises:
      ValueError: naming the path and the closest ones there are.
    """
    here: Any = kind
    for name in path.split("."):
        branch = _dataclass_of(here)
        hints = get_type_hints(branch) if branch else {}
        if branch is None or name not in {f.name for f in fields(branch)}:
            raise ValueError(f"there is no setting {path!r}{_nearest(kind, path)}")
        here = hints[name]
    return here


def check_value(kind: type, path: str, value: Any) -> Any:
    """``value`` as the type of the field at ``path``; ValueError names both."""
    return read_as(type_at(kind, path), value, path)


def _nearest(kind: type, path: str) -> str:
    known = list(paths(kind))
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.7)
    leaf = path.rsplit(".", 1)[-1]
    near += [p for p in known if p.rsplit(".", 1)[-1] == leaf]
    near += difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    top = ", ".join(f.name for f in fields(kind))
    return f"; did you mean {near[0]!r}?" if near else f" (settings: {top})"


def _dataclass_of(kind: Any) -> type | None:
    """The dataclass a field holds, also where it may be None instead."""
    options = [k for k in (get_args(kind) or (kind,)) if k is not NoneType]
    union = get_origin(kind) in (Union, UnionType) or not get_args(kind)
    found = [k for k in options if isinstance(k, type) and is_dataclass(k)]
    return found[0] if union and len(found) == 1 else None
