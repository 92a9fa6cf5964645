"""Small file habits: atomic writes, pytrees on disk, run folders, no silent overwriting."""

import hashlib
import json
import os
import platform
import socket
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
# What a run leaves behind; not ``learner.msgpack``, which --init may name in the same folder.
RESULTS = (
    "state.msgpack",
    "policy/policy.json",
    "calibration.json",
    "results.json",
    "metrics.csv",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx", "numpy")
PATCH_LIMIT = 1_000_000  # bytes of uncommitted changes that a run folder keeps
UNTRACKED_LIMIT = 50  # names
CONFIG_FILE, PATCH_FILE = "config.json", "git.patch"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old or the new one, never half."""
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_json(path: Path, record: dict) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_atomic(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path: Path, hint: str) -> Any:
    """Read JSON; ``hint`` says what to do if there is no such file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {path.name}; {hint}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


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
    record = read_json(path, hint)
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


def start_run(
    folder: Path,
    config: Any,
    overwrite: bool = False,
    inputs: Sequence[Path] = (),
    notes: dict | None = None,
) -> None:
    """Create a run folder: ``config.json`` and, of a modified checkout, ``git.patch``.

    Args:
      folder: of the run.
      config: dataclass of settings; ``config.json`` holds it with ``provenance()``.
      overwrite: allow a folder that is not empty.
      inputs: files or folders the run reads; their digests are kept.
      notes: more of ``config.json``.

    Raises:
      FileExistsError: if ``folder`` holds something and ``overwrite`` is not set.
    """
    new_folder(folder, overwrite)
    for name in RESULTS:  # of an earlier run: they must not pass for this one's
        (folder / name).unlink(missing_ok=True)
    patch = git_patch()
    kept = bool(patch) and len(patch) <= PATCH_LIMIT
    (folder / PATCH_FILE).unlink(missing_ok=True)
    if kept:
        write_atomic(folder / PATCH_FILE, patch)
    changes = {"bytes": len(patch), "kept": kept, "untracked": untracked_files()}
    began = {"git_changes": changes, "inputs": {str(p): digest(p) for p in inputs}}
    write_json(folder / CONFIG_FILE, as_record(config) | provenance() | began | (notes or {}))


def note_resume(folder: Path, at: int, notes: dict | None = None) -> None:
    """Add to ``config.json`` that the run went on from ``at`` (steps or rounds), and under what."""
    path = folder / CONFIG_FILE
    record = json.loads(path.read_text())
    entry = {"at": at} | provenance() | (notes or {})
    write_json(path, record | {"resumed": [*record.get("resumed", []), entry]})


def digest(path: Path) -> str | None:
    """SHA-256 of a file, or of all files in a folder by name; None if there is nothing."""
    path = Path(path)
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        total.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def check_same_run(folder: Path, config: Any, fields: Sequence[str]) -> None:
    """Before a resume: the run in ``folder`` must have been started with these fields.

    Raises:
      FileNotFoundError: if there is no run to resume.
      ValueError: naming the first setting that differs, and both values.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no run to resume (no {CONFIG_FILE})")
    old, new = json.loads((folder / CONFIG_FILE).read_text()), as_record(config)
    for name in fields:
        difference = first_difference(old.get(name), new[name], name)
        if difference:
            path, before, now = difference
            raise ValueError(f"{folder} was started with {path} = {before}, not {now}")


def first_difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any] | None:
    """Where two JSON values first differ: dotted path and both values; None if nowhere."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if key not in old and not new[key]:
                continue  # a setting that came later, and is not used
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return None if old == new else (path, old, new)


def provenance() -> dict:
    """Where a result comes from: git revision, date, versions, devices, command."""
    devices = jax.devices()
    device = devices[0]
    return {
        "git": git_revision(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "device": f"{device.platform}: {device.device_kind}, {os.cpu_count()} cores",
        "device_count": len(devices),  # of all processes; ``devices`` is a setting of trainings
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
    try:
        dirty = "+" if _git("status", "--porcelain", "--untracked-files=no").strip() else ""
        return _git("rev-parse", "--short", "HEAD").decode().strip() + dirty
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git_patch() -> bytes:
    """Uncommitted changes of tracked files, for ``git apply``; empty outside a checkout."""
    try:
        return _git("diff", "HEAD", "--binary", "--no-ext-diff", "--no-color")
    except (OSError, subprocess.CalledProcessError):
        return b""


def untracked_files() -> list[str]:
    """First names of files that git neither tracks nor ignores: a patch does not hold them."""
    try:
        names = _git("ls-files", "--others", "--exclude-standard", "--full-name", ":/")
    except (OSError, subprocess.CalledProcessError):
        return []
    return names.decode(errors="replace").splitlines()[:UNTRACKED_LIMIT]


def _git(*args: str) -> bytes:
    """Output of git in the checkout this package runs from.

    Raises:
      CalledProcessError: also where the package is merely installed inside another's checkout.
    """
    command = ["git", "-C", str(Path(__file__).parent)]
    ours = [*command, "ls-files", "--error-unmatch", Path(__file__).name]
    subprocess.run(ours, capture_output=True, check=True)
    return subprocess.run([*command, *args], capture_output=True, check=True).stdout
