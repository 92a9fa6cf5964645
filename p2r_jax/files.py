"""Small file habits: atomic writes, pytrees on disk, provenance, no silent overwriting."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import flax.serialization
import jax

Tree = TypeVar("Tree")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx", "numpy")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old or the new one, never half."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_json(path: Path, record: dict) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())


def read_record(path: Path, schema: int, hint: str) -> dict:
    """Read a JSON object that states its schema.

    Args:
      path: the file.
      schema: the version that is understood.
      hint: what to do if there is no such file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no JSON, or of another schema.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {path.name}; {hint}")
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = record.get("schema") if isinstance(record, dict) else None
    if found != schema:
        raise ValueError(f"{path} has schema {found}, this version reads {schema}")
    return record


def save_pytree(path: Path, tree: Any) -> None:
    """Save arrays (typed keys included) as MessagePack."""
    raw = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)
    write_atomic(path, flax.serialization.to_bytes(jax.device_get(raw)))


def load_pytree(path: Path, template: Tree) -> Tree:
    """Load what ``save_pytree`` wrote into the structure of ``template``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file does not fit the template.
    """
    raw = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, template)
    try:
        loaded = flax.serialization.from_bytes(raw, Path(path).read_bytes())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not fit what is being loaded: {error}") from error

    def restore(like, x):
        expected = jax.numpy.shape(jax.random.key_data(like) if _is_key(like) else like)
        if jax.numpy.shape(x) != expected:
            raise ValueError(f"{path}: shape {jax.numpy.shape(x)} found, {expected} expected")
        return jax.random.wrap_key_data(x) if _is_key(like) else x

    return jax.tree.map(restore, template, loaded)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def new_folder(path: Path, overwrite: bool = False) -> Path:
    """Create an output folder; refuse one that already holds something.

    Raises:
      FileExistsError: naming the folder and the two ways out.
    """
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{path} is not empty; choose another --out or pass --overwrite to write into it"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def as_record(config: Any) -> dict:
    """A config dataclass as plain JSON values (paths become strings)."""
    return json.loads(json.dumps(asdict(config), default=str))


def check_same_run(folder: Path, config: Any, fields: Sequence[str]) -> None:
    """Before a resume: the run in ``folder`` must have been started with these fields.

    Raises:
      FileNotFoundError: if there is no run to resume.
      ValueError: naming the first setting that differs, and both values.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no run to resume (no config.json)")
    old, new = json.loads((folder / "config.json").read_text()), as_record(config)
    for name in fields:
        difference = _first_difference(old.get(name), new[name], name)
        if difference:
            path, before, now = difference
            raise ValueError(f"{folder} was started with {path} = {before}, not {now}")


def _first_difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            found = _first_difference(old.get(key), new.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return None if old == new else (path, old, new)


def provenance() -> dict:
    """Where a result comes from: git revision, date, versions, device, command."""
    device = jax.devices()[0]
    return {
        "git": git_revision(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "device": f"{device.platform}: {device.device_kind}, {os.cpu_count()} cores",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _cpu_name() -> str:
    """Model name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_revision() -> str:
    """Short revision of the checkout this package runs from, ``+`` if it is modified."""
    here = Path(__file__).parent

    def git(*args):
        return subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + dirty
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
