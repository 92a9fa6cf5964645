"""Splats as ``.ply`` in the layout of 3D Gaussian Splatting, which viewers read.

Per vertex: x y z, nx ny nz, f_dc_0..2, f_rest_* (channel by channel), opacity (logit),
scale_0..2 (logarithms), rot_0..3 (wxyz), all float32.
"""

import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from p2r_jax.files import write_atomic
from p2r_jax.real2sim.splat.gaussians import COEFFICIENTS, Splat, shortest_axes

TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
KEPT = max(COEFFICIENTS.values())


def write_ply(path: Path, splat: Splat) -> None:
    """Write a splat, binary little endian; the normals are the Gaussians' shortest axes."""
    count = len(splat.means)
    rest = np.swapaxes(np.asarray(splat.sh)[:, 1:], 1, 2).reshape(count, -1)
    columns = _named("xyz", splat.means, "{}") | _named("xyz", shortest_axes(splat), "n{}")
    columns |= _named(range(3), splat.sh[:, 0], "f_dc_{}")
    columns |= _named(range(rest.shape[1]), rest, "f_rest_{}")
    columns |= {"opacity": np.asarray(splat.opacity_logits)}
    columns |= _named(range(3), splat.log_scales, "scale_{}")
    columns |= _named(range(4), splat.quats, "rot_{}")
    rows = np.zeros(count, [(name, "<f4") for name in columns])
    for name, values in columns.items():
        rows[name] = values
    properties = "".join(f"property float {name}\n" for name in columns)
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    )
    write_atomic(path, header.encode() + rows.tobytes())


def _named(suffixes, columns, pattern: str) -> dict[str, np.ndarray]:
    return {pattern.format(s): np.asarray(columns)[:, i] for i, s in enumerate(suffixes)}


def read_ply(path: Path) -> Splat:
    """Read a splat; harmonics above degree 1 are left out, with a warning.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no PLY, is cut short, or holds no splat; names what is missing.
    """
    data = Path(path).read_bytes()
    rows = _vertices(data, path)
    count = len([name for name in _names(rows) if name.startswith("f_rest_")])
    coefficients = 1 + count // 3
    names = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    sh = _columns(rows, [f"f_dc_{i}" for i in range(3)], path)[:, None, :]
    if names:
        rest = _columns(rows, names, path).reshape(len(rows), 3, coefficients - 1)
        sh = np.concatenate([sh, np.swapaxes(rest, 1, 2)], 1)
    if coefficients > KEPT:
        warnings.warn(
            f"{path}: harmonics above degree 1 are left out ({coefficients} coefficients "
            f"per colour, {KEPT} kept)",
            stacklevel=2,
        )
    leaves = (
        _columns(rows, ("x", "y", "z"), path),
        _columns(rows, [f"rot_{i}" for i in range(4)], path),
        _columns(rows, [f"scale_{i}" for i in range(3)], path),
        _columns(rows, ("opacity",), path)[:, 0],
        sh[:, :KEPT],
    )
    return Splat(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def _names(rows: np.ndarray) -> tuple[str, ...]:
    return rows.dtype.names or ()


def _columns(rows: np.ndarray, names, path: Path) -> np.ndarray:
    missing = [name for name in names if name not in _names(rows)]
    if missing:
        raise ValueError(f"{path} holds no splat: vertices have no {', '.join(missing)}")
    return np.stack([rows[name].astype(np.float32) for name in names], -1)


def _vertices(data: bytes, path: Path) -> np.ndarray:
    """The vertex element of a PLY as a structured array."""
    head, mark, body = data.partition(b"end_header\n")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not mark or lines[0] != ["ply"]:
        raise ValueError(f"{path} is no PLY file")
    encoding = next((line[1] for line in lines if line[:1] == ["format"]), "missing")
    elements = [i for i, line in enumerate(lines) if line[:1] == ["element"]]
    if not elements or lines[elements[0]][1] != "vertex":
        raise ValueError(f"{path} does not begin with vertices")
    count = int(lines[elements[0]][2])
    end = elements[1] if len(elements) > 1 else len(lines)
    fields = [line for line in lines[elements[0] : end] if line[:1] == ["property"]]
    if any(line[1] not in TYPES for line in fields):
        raise ValueError(f"{path}: vertices have lists or unknown types")
    types = np.dtype([(line[2], ORDERS.get(encoding, "=") + TYPES[line[1]]) for line in fields])
    if encoding == "ascii":
        table = np.array(body.split(), np.float64)[: count * len(fields)]
        return _checked(np.rec.fromarrays(table.reshape(-1, len(fields)).T, types), count, path)
    if encoding not in ORDERS:
        raise ValueError(f"{path}: format {encoding} is not understood")
    whole = min(count, len(body) // types.itemsize)
    return _checked(np.frombuffer(body, types, whole), count, path)


def _checked(rows: np.ndarray, count: int, path: Path) -> np.ndarray:
    if len(rows) != count:
        raise ValueError(f"{path} is cut short: {len(rows)} of {count} vertices")
    return rows
