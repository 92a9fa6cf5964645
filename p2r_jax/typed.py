"""Plain values (JSON, YAML) as what the types of a config dataclass say they are."""

import difflib
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
    dict: "a mapping",
}


def read_as(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the type of a config field: dataclasses, tuples, unions, literals.

    Raises:
      ValueError: naming the dotted path (``where`` is its start), what was found and what is
        expected; a misspelt setting with the closest there is.
    """
    origin, options = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in options:
            return None
        return read_as(next(k for k in options if k is not NoneType), value, where)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        return _read_tuple(options, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {value!r} ({_name(value)}), a mapping is expected")
        return {str(k): read_as(options[1], v, f"{where}.{k}") for k, v in value.items()}
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} is {value!r} ({_name(value)}), {PLAIN[kind]} is expected")
    return value


def _name(value: Any) -> str:
    return type(value).__name__


def _read_tuple(kinds: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is {value!r} ({_name(value)}), a list is expected")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where} has {len(value)} values, {len(kinds)} are expected")
    both = zip(kinds, value, strict=True)
    return tuple(read_as(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(both))


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r} ({_name(value)}), settings by name are expected")
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{where} has no setting {name!r}{hint} (there are: {', '.join(known)})"
            )
    for name, f in known.items():
        if name not in value and _required(f):
            raise ValueError(f"{where}.{name} is missing; give it")
    return kind(**{name: read_as(hints[name], v, f"{where}.{name}") for name, v in value.items()})


def _required(f: Field) -> bool:
    return f.default is MISSING and f.default_factory is MISSING
