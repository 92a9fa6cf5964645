"""Packaging: does every extra resolve with the core, and do the lowest versions still work?

``resolve`` lets uv resolve the core with each extra of ``pyproject.toml`` for every Python
that is supported, and with ``all`` of them; ``lowest`` installs the lowest version that each
direct dependency allows into ``build/lowest`` and runs a few tests there. Both ask the package
index, neither touches this environment; the JSON says what was found and when.

    python -m benchmarks.packaging resolve
    python -m benchmarks.packaging lowest
"""

import json
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

SCHEMA_VERSION = 1
ROOT = Path(__file__).parent.parent
RESULT = Path("benchmarks/results/packaging.json")
# What the design asks to be installable side by side.
CARD = (
    "jax",
    "flax",
    "optax",
    "mujoco",
    "mujoco-mjx",
    "brax",
    "sam2",
    "gsplat",
    "pymeshlab",
    "google-generativeai",
)
PORTABLE = (
    "viz",
    "mesh",
    "reconstruct",
    "notebooks",
    "logs",
    "vlm",
    "deploy",
    "hardware",
    "onnx",
    "sweep",
    "docs",
    "dev",
)
TESTS = (
    "test_cli",
    "test_extending",
    "test_fusion",
    "test_ppo",
    "test_task_files",
    "test_mesh_asset",
    "test_pushlog",
    "test_prior_providers",
    "test_deploy_bundle",
    "test_deploy_record",
    "test_deploy_lerobot",
    "test_deploy_xarm",
    "test_frames",
    "test_reconstruct",
    "test_runs",
    "test_sweep",
)


@dataclass(frozen=True)
class Settings:
    """Settings of the packaging checks.

    Attributes:
      what: see the module.
      out: JSON file; each check replaces its own part of it.
      pythons: versions to resolve for; the first one is what ``lowest`` installs.
      extras: to resolve; empty for all of ``pyproject.toml``.
      lowest_extras: whose lower bounds are installed together; ``real2sim`` and
        ``vlm-legacy`` are large or need an environment of their own.
      tests: files that run with the lowest versions.
    """

    what: tyro.conf.Positional[Literal["resolve", "lowest"]]
    out: Path = RESULT
    pythons: tuple[str, ...] = ("3.11", "3.12")
    extras: tuple[str, ...] = ()
    lowest_extras: tuple[str, ...] = PORTABLE
    tests: tuple[str, ...] = field(default=TESTS)


def run(*command: str | Path) -> subprocess.CompletedProcess:
    """A process in the checkout, its output kept."""
    return subprocess.run(
        [str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def uv(*args: str | Path) -> subprocess.CompletedProcess:
    """uv, which the extra ``dev`` brings."""
    return run(sys.executable, "-m", "uv", *args)


def extras_of(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, list[str]]:
    """Requirements by extra."""
    return tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]


def compiled(extras: tuple[str, ...], python: str, lowest: bool = False) -> dict:
    """What uv makes of the core with these extras.

    Returns:
      ``ok``, ``packages`` (version by name) and, where it fails, what uv said.
    """
    flags = [f"--extra={name}" for name in extras]
    flags += ["--resolution=lowest-direct"] if lowest else []
    done = uv("pip", "compile", "-q", "pyproject.toml", f"--python-version={python}", *flags)
    pins = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", done.stdout, re.MULTILINE))
    said = {} if done.returncode == 0 else {"said": done.stderr[-2000:]}
    return {"ok": done.returncode == 0, "packages": pins} | said


def resolve(settings: Settings) -> list[dict]:
    """One row per extra and Python."""
    extras = settings.extras or tuple(extras_of())
    todo = [(name, python) for name in extras for python in settings.pythons]
    rows = []
    for name, python in tqdm(todo, desc="resolve"):
        found = compiled((name,), python)
        pins = found.pop("packages")
        kept = {package: pins[package] for package in CARD if package in pins}
        row = {"extra": name, "python": python, "count": len(pins), "versions": kept} | found
        if name == "all":
            row["missing"] = [package for package in CARD if package not in pins]
            row["ok"] = row["ok"] and not row["missing"]
        rows.append(row)
    return rows


def lowest(settings: Settings) -> dict:
    """Install the lowest versions and run the tests there.

    Raises:
      RuntimeError: with what uv said, if they cannot be resolved or installed.
    """
    python = settings.pythons[0]
    found = compiled(settings.lowest_extras, python, lowest=True)
    if not found["ok"]:
        raise RuntimeError(f"the lowest versions do not resolve:\n{found['said']}")
    folder = ROOT / "build" / "lowest"
    folder.mkdir(parents=True, exist_ok=True)
    pins = folder / "requirements.txt"
    pins.write_text("".join(f"{k}=={v}\n" for k, v in found["packages"].items()))
    interpreter = folder / "venv/bin/python"
    for step in (
        ("venv", "-q", "--clear", "--python", python, folder / "venv"),
        ("pip", "install", "-q", "--python", interpreter, "-r", pins),
        ("pip", "install", "-q", "--python", interpreter, "--no-deps", "-e", "."),
    ):
        done = uv(*step)
        if done.returncode:
            raise RuntimeError(f"uv {step[0]} failed:\n{done.stderr[-2000:]}")
    files = [f"tests/{name}.py" for name in settings.tests]
    done = run(interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    lines = done.stdout.splitlines()
    direct = {re.split(r"[\[<>=!~ ]", r)[0].lower() for r in _direct(settings.lowest_extras)}
    return {
        "ok": done.returncode == 0,
        "python": python,
        "extras": settings.lowest_extras,
        "versions": {k: v for k, v in found["packages"].items() if k in direct},
        "tests": files,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
    }


def _direct(extras: tuple[str, ...]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + [r for name in extras for r in extras_of()[name]]


def print_rows(rows: list[dict]) -> None:
    """One line per resolution."""
    for row in rows:
        said = row.get("said", "").strip().splitlines()
        state = "resolves" if row["ok"] else f"FAILS: {said[-1] if said else row.get('missing')}"
        print(f"{row['extra']:12} python {row['python']}: {state} ({row['count']} packages)")


def main(settings: Settings) -> int:
    """Run a check, print it, write its part of the JSON; 1 if something fails."""
    from p2r_jax.files import git_revision, write_json

    rows = resolve(settings) if settings.what == "resolve" else lowest(settings)
    record = json.loads(settings.out.read_text()) if settings.out.is_file() else {}
    made = {"date": time.strftime("%Y-%m-%d"), "git": git_revision()}
    made["uv"] = uv("--version").stdout.strip()
    part = made | ({"rows": rows} if settings.what == "resolve" else rows)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        settings.out,
        record | {"schema": SCHEMA_VERSION, "kind": "packaging", settings.what: part},
    )
    if settings.what == "resolve":
        print_rows(rows)
        return int(not all(row["ok"] for row in rows))
    print("\n".join([*rows["failed"], rows["summary"]]))
    return int(not rows["ok"])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
