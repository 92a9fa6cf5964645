"""Headers and steps as JSON that any program reads, and back.

Strict JSON has no NaN and no infinity: what is not known is ``null``, an infinite
number is the string ``"Infinity"`` or ``"-Infinity"`` (as in Protocol Buffers' JSON).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, get_origin

import numpy as np

from p2r_jax.deploy.records import RUN_SCHEMA, RunHeader, StepRecord

NUMBER = {"type": ["number", "string", "null"], "description": "null: not known"}


class RunError(ValueError):
    """A run that cannot be read or made into something else; the message says why."""


def to_json(record: RunHeader | StepRecord | dict) -> str:
    """One record as one line of strict JSON."""
    values = record if isinstance(record, dict) else _as_dict(record)
    try:
        return json.dumps(values, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):  # NaN, infinity, an array, a path: rare, and slower
        return json.dumps(_strict(values), allow_nan=False, separators=(",", ":"))


def header_from(data: bytes | str) -> RunHeader:
    """A header from its JSON.

    Raises:
      RunError: for a schema of another version, or a field that is missing.
    """
    values = json.loads(data)
    schema = values.pop("schema", None)
    if schema != RUN_SCHEMA:
        raise RunError(f"its schema is {schema}, this version of p2r_jax reads {RUN_SCHEMA}")
    return _from_dict(RunHeader, values)


def step_from(data: bytes | str) -> StepRecord:
    """A step from its JSON.

    Raises:
      RunError: if a field is missing.
    """
    return _from_dict(StepRecord, json.loads(data))


def schema_of(cls: type) -> dict:
    """JSON schema of a record class, for programs that plot without knowing it."""
    properties = {f.name: _schema_of_type(f.type) for f in fields(cls)}
    return {"title": f"p2r.{cls.__name__}", "type": "object", "properties": properties}


def _as_dict(record: RunHeader | StepRecord) -> dict:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {"schema": RUN_SCHEMA} | values if isinstance(record, RunHeader) else values


def _strict(value: Any) -> Any:
    """The same value without anything that strict JSON has no word for."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_strict(v) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _strict(np.asarray(value)) if hasattr(value, "__array__") else str(value)


def _from_dict(cls: type, values: dict):
    missing = [
        f.name for f in fields(cls)
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]  # fmt: skip
    if missing:
        raise RunError(f"a {cls.__name__} lacks {', '.join(missing)}")
    known = {f.name: f.type for f in fields(cls) if f.name in values}
    return cls(**{name: _revive(values[name], kind) for name, kind in known.items()})


def _revive(value: Any, kind: Any) -> Any:
    """A JSON value as the type that the field declares."""
    if kind is float:
        return math.nan if value is None else float(value)
    if get_origin(kind) is tuple:
        inner = kind.__args__[0]
        return tuple(_revive(v, inner) for v in value)
    if kind == dict[str, float]:
        return {k: _revive(v, float) for k, v in value.items()}
    return value


def _schema_of_type(kind: Any) -> dict:
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema_of_type(kind.__args__[0])}
    simple: dict[Any, dict] = {int: {"type": "integer"}, str: {"type": "string"}, float: NUMBER}
    return simple.get(kind, {"type": "object"})
