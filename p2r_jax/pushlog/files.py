"""Logs of pushes on disk: ``.npz``, ``.parquet`` and ``.csv`` with the same columns.

Columns (SI units, radians, world frame; one row per instant):

- ``t``: s, increasing within a push;
- ``object_x``, ``object_y``, ``object_yaw``: pose of the object frame (centre of the
  footprint's bounding box); empty or NaN where the object was not observed;
- ``tool_x``, ``tool_y``: centre of the round tool; empty or NaN only in rows that hold an
  observation of the object: these are filled by linear interpolation between tool rows
  at most ``MAX_GAP_S`` apart, so streams of different rates can be interleaved by time;
- ``push`` (optional): integer; without it the whole log is push 0;
- ``force_x``, ``force_y`` (optional): force of the tool on the object, N.

Further columns are ignored. Metadata ``name``, ``asset`` and ``tool_radius_m`` (all
optional): scalar arrays in ``.npz``; schema metadata with the prefix ``p2r.`` in
``.parquet``; lines ``# key = value`` before the header in ``.csv``.
"""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from p2r_jax.files import write_atomic
from p2r_jax.pushlog.checks import POSE_COLUMNS, TOOL_COLUMNS, Limits, check_log
from p2r_jax.pushlog.log import MAX_GAP_S, Exclusion, LogError, PushLog
from p2r_jax.sim.asset import Asset

REQUIRED = ("t", *POSE_COLUMNS, *TOOL_COLUMNS)
FORCE_COLUMNS = ("force_x", "force_y")
COLUMNS = (*REQUIRED, "push", *FORCE_COLUMNS)
METADATA = ("name", "asset", "tool_radius_m")
Columns = dict[str, np.ndarray]


def read_log(
    path: str | Path,
    asset: Asset | None = None,
    on_bad: Literal["raise", "exclude"] = "raise",
    limits: Limits | None = None,
) -> PushLog:
    """Read and check a log.

    Args:
      path: ``.npz``, ``.parquet`` or ``.csv``.
      asset: with it, the checks include whether the tool meets the object.
      on_bad: ``raise`` at the first bad push, or ``exclude`` bad pushes; what was left
        out, and why, is in ``PushLog.excluded``.
      limits: what counts as impossible.

    Raises:
      FileNotFoundError: if there is no such file.
      LogError: naming file, row and column; with ``exclude`` only for what concerns the
        whole file (columns, units) or when no push is left.
    """
    path = Path(path)
    columns, metadata = _load(path)
    try:
        return _checked(_to_log(columns, metadata, path.stem), asset, on_bad, limits)
    except LogError as error:
        raise LogError(f"{path}: {error}") from None


def write_log(path: str | Path, log: PushLog) -> None:
    """Write a log; the file's ending chooses the format.

    Raises:
      LogError: for another ending.
    """
    path = Path(path)
    columns = {"push": log.push, "t": log.t}
    columns |= dict(zip(POSE_COLUMNS, log.object_pose.T, strict=True))
    columns |= dict(zip(TOOL_COLUMNS, log.tool_xy.T, strict=True))
    if log.force_xy is not None:
        columns |= dict(zip(FORCE_COLUMNS, log.force_xy.T, strict=True))
    metadata = {key: getattr(log, key) for key in METADATA if getattr(log, key) is not None}
    write_atomic(path, _format(path, _WRITERS)(columns, metadata))


def _checked(log: PushLog, asset: Asset | None, on_bad: str, limits: Limits | None) -> PushLog:
    problems = check_log(log, asset, limits)
    fatal = [p for p in problems if p.push is None]
    if problems and (fatal or on_bad == "raise"):
        first = (fatal or problems)[0]
        where = "" if first.push is None else f"push {first.push}: "
        raise LogError(where + first.message)
    bad = {p.push for p in problems}
    kept = [push for push in log.pushes if push not in bad]
    if not kept:
        raise LogError(f"all {len(bad)} pushes are bad; push {problems[0].push}: "
                       f"{problems[0].message}")  # fmt: skip
    excluded = tuple(Exclusion(p.push, p.message) for p in problems)
    log = log.select(kept) if bad else log
    return replace(_unwrapped(log), excluded=excluded)


def _unwrapped(log: PushLog) -> PushLog:
    pose, seen = log.object_pose.copy(), np.flatnonzero(log.observed)
    for push in log.pushes:
        rows = seen[log.push[seen] == push]
        pose[rows, 2] = np.unwrap(pose[rows, 2])
    return replace(log, object_pose=pose)


def _to_log(columns: Columns, metadata: dict, stem: str) -> PushLog:
    _check_columns(columns)
    t = columns["t"]
    push = columns.get("push", np.zeros(t.size))
    if not np.array_equal(push, np.round(push)):
        row = int(np.flatnonzero(push != np.round(push))[0])
        raise LogError(f"row {row}, column push: {push[row]:g} is not a whole number")
    pose = np.stack([columns[name] for name in POSE_COLUMNS], -1)
    tool = np.stack([columns[name] for name in TOOL_COLUMNS], -1)
    force = [columns[name] for name in FORCE_COLUMNS if name in columns]
    log = PushLog(
        name=str(metadata.get("name", stem)), asset=metadata.get("asset"),
        tool_radius_m=_radius(metadata.get("tool_radius_m")), push=push.astype(int), t=t,
        object_pose=pose, tool_xy=tool, force_xy=np.stack(force, -1) if force else None,
    )  # fmt: skip
    return replace(log, tool_xy=_fill_tool(log))


def _check_columns(columns: Columns) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if len([name for name in FORCE_COLUMNS if name in columns]) == 1:
        missing += [name for name in FORCE_COLUMNS if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise LogError(f"missing column {', '.join(missing)} (columns found: {found})")
    rows = {name: column.size for name, column in columns.items()}
    for name, count in rows.items():
        if count != rows["t"]:
            raise LogError(f"column {name} has {count} rows, column t {rows['t']}")


def _radius(value) -> float | None:
    if value is None:
        return None
    try:
        radius = float(value)
    except ValueError:
        raise LogError(f"tool_radius_m is {value!r}, which is not a number") from None
    if not 0 <= radius < 0.5:
        raise LogError(f"tool_radius_m is {radius:g}; a radius in metres is expected")
    return radius


def _fill_tool(log: PushLog) -> np.ndarray:
    """Tool between its own rows, in rows that hold only the object; see the module."""
    tool, known = log.tool_xy.copy(), np.isfinite(log.tool_xy).all(axis=1)
    empty = np.isnan(log.tool_xy).all(axis=1) & log.observed & np.isfinite(log.t)
    for push in np.unique(log.push[empty]):
        here = np.flatnonzero((log.push == push) & known)
        want = np.flatnonzero((log.push == push) & empty)
        if here.size < 2 or np.any(np.diff(log.t[here]) <= 0):
            continue
        after = np.searchsorted(log.t[here], log.t[want])
        inner = (after > 0) & (after < here.size)
        want, after = want[inner], after[inner]
        near = log.t[here[after]] - log.t[here[after - 1]] <= MAX_GAP_S
        for column in range(2):
            tool[want[near], column] = np.interp(
                log.t[want[near]], log.t[here], log.tool_xy[here, column]
            )
    return tool


def _format(path: Path, table: dict):
    if path.suffix not in table:
        known = ", ".join(table)
        raise LogError(f"{path}: logs end in {known}; {path.suffix or 'no ending'} is not known")
    return table[path.suffix]


def _load(path: Path) -> tuple[Columns, dict]:
    reader = _format(path, _READERS)
    if not path.is_file():
        raise FileNotFoundError(f"there is no log {path}")
    try:
        return reader(path)
    except LogError as error:
        raise LogError(f"{path}: {error}") from None


def _read_npz(path: Path) -> tuple[Columns, dict]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files if key in (*COLUMNS, *METADATA)}
    except (ValueError, OSError) as error:
        raise LogError(f"this is not a readable .npz file ({error})") from None
    metadata = {key: arrays.pop(key).item() for key in METADATA if key in arrays}
    for name, column in arrays.items():
        if column.ndim != 1:
            raise LogError(f"column {name} has shape {column.shape}; one value per row is expected")
    return {name: _numbers(name, column) for name, column in arrays.items()}, metadata


def _write_npz(columns: Columns, metadata: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns, **{k: np.array(v) for k, v in metadata.items()})
    return buffer.getvalue()


def _read_csv(path: Path) -> tuple[Columns, dict]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    comments = [line[1:].partition("=") for line in lines if line.startswith("#")]
    metadata = {k.strip(): v.strip() for k, _, v in comments if k.strip() in METADATA}
    table = list(csv.reader(line for line in lines if line.strip() and not line.startswith("#")))
    if not table:
        raise LogError("the file is empty")
    header, body = [name.strip() for name in table[0]], table[1:]
    for row, cells in enumerate(body):
        if len(cells) != len(header):
            raise LogError(f"row {row} has {len(cells)} cells, the header {len(header)}")
    cells = {name: [line[i] for line in body] for i, name in enumerate(header) if name in COLUMNS}
    return {name: _numbers(name, column) for name, column in cells.items()}, metadata


def _write_csv(columns: Columns, metadata: dict) -> bytes:
    lines = [f"# {key} = {value}" for key, value in metadata.items()] + [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(",".join("" if np.isnan(v) else repr(v.item()) for v in row))
    return ("\n".join(lines) + "\n").encode()


def _numbers(name: str, column) -> np.ndarray:
    """Column as floats; an empty cell is NaN."""
    if not isinstance(column, list):
        column = np.asarray(column)
        if column.dtype.kind not in "iufb":
            raise LogError(f"row 0, column {name}: {column.dtype} values are not numbers")
        return column.astype(float)
    values = np.full(len(column), np.nan)
    for row, cell in enumerate(column):
        try:
            values[row] = float(cell) if cell.strip() else np.nan
        except ValueError:
            raise LogError(f"row {row}, column {name}: {cell!r} is not a number") from None
    return values


def _pyarrow():
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise LogError("parquet logs need pyarrow: pip install 'p2r_jax[logs]'") from None
    return pa, pq


def _read_parquet(path: Path) -> tuple[Columns, dict]:
    pa, pq = _pyarrow()
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(f"this is not a readable .parquet file ({error})") from None
    stored = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    metadata = {key: stored[f"p2r.{key}"] for key in METADATA if f"p2r.{key}" in stored}
    names = [name for name in table.column_names if name in COLUMNS]
    columns = {}
    for name in names:
        column = table.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise LogError(f"row 0, column {name}: {column.type} values are not numbers")
        columns[name] = column.to_numpy().astype(float)
    return columns, metadata


def _write_parquet(columns: Columns, metadata: dict) -> bytes:
    pa, pq = _pyarrow()
    table = pa.table(columns).replace_schema_metadata(
        {f"p2r.{key}": str(value) for key, value in metadata.items()}
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


_READERS = {".npz": _read_npz, ".parquet": _read_parquet, ".csv": _read_csv}
_WRITERS = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}
