"""What is shipped: package data in the wheel, a clean environment that runs it, the checks."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from benchmarks import packaging, start_up

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXAMPLE = Path(__file__).parent / "example_package"


def package_files():
    """Files of the package that git knows or would add, relative to ``p2r_jax``."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run([*command, "p2r_jax"], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout: what belongs to the package is not known")
    files = [Path(line) for line in done.stdout.splitlines()]
    return [file.relative_to("p2r_jax") for file in files if (ROOT / file).is_file()]


def test_every_file_of_the_package_that_is_not_python_is_declared_as_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["p2r_jax"]
    globs = [p.replace("**/*", "*") for p in patterns]  # fnmatch's * crosses folders
    left = [str(f) for f in package_files() if f.suffix != ".py" and not _matches(f, globs)]
    assert left == []


def _matches(file, globs):
    return any(fnmatch(str(file), pattern) for pattern in globs)


def test_every_folder_with_modules_is_a_package():
    folders = {f.parent for f in package_files() if f.suffix == ".py"}
    assert [str(d) for d in folders if not (ROOT / "p2r_jax" / d / "__init__.py").is_file()] == []


def test_errors_name_extras_that_exist():
    extras = set(packaging.extras_of())
    for file in (ROOT / "p2r_jax").rglob("*.py"):
        for named in file.read_text().split("p2r_jax[")[1:]:
            name = named.partition("]")[0]
            assert name in extras or "{" in name, f"{file.name} names the extra {name!r}"


def test_start_up_counts_an_import_beyond_jax_round_by_round():
    seconds = {"import jax": [1.0, 3.0], "import p2r_jax": [1.2, 3.1], "p2r --help": [0.2, 1.5]}
    rows = start_up.rows_of(seconds)
    assert rows[1]["beyond_jax"]["median"] == pytest.approx(0.15)
    assert "beyond_jax" not in rows[2]
    marks = start_up.marks(rows)
    assert [m["met"] for m in marks] == [True, True]
    assert not start_up.marks(start_up.rows_of(seconds | {"p2r --help": [1.1, 1.5]}))[1]["met"]


def test_a_resolution_that_fails_is_told_with_what_uv_said(monkeypatch):
    def refused(*args):
        return subprocess.CompletedProcess(args, 1, "", "no version of sam2 fits")

    monkeypatch.setattr(packaging, "uv", refused)
    rows = packaging.resolve(packaging.Settings("resolve", extras=("viz",), pythons=("3.11",)))
    assert (rows[0]["ok"], rows[0]["said"]) == (False, "no version of sam2 fits")
    with pytest.raises(RuntimeError, match="do not resolve:\nno version of sam2 fits"):
        packaging.lowest(packaging.Settings("lowest"))


def test_all_resolves_only_with_every_package_of_the_card(monkeypatch):
    pins = "".join(f"{name}==1.0\n" for name in packaging.CARD if name != "sam2")
    monkeypatch.setattr(
        packaging, "uv", lambda *args: subprocess.CompletedProcess(args, 0, pins, "")
    )
    rows = packaging.resolve(packaging.Settings("resolve", extras=("all", "viz")))
    assert [row["ok"] for row in rows] == [False, False, True, True]
    assert rows[0]["missing"] == ["sam2"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, the wheel made from the sdist, of a copy of the package."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("build is not installed: pip install 'p2r_jax[dev]'")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for file in package_files():
        target = source / "p2r_jax" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "p2r_jax" / file, target)
    run(sys.executable, "-m", "build", "--outdir", out, source)
    return out


def run(*command, **kwargs):
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_made_from_the_sdist_holds_every_file_of_the_package(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert [str(f) for f in package_files() if f"p2r_jax/{f}" not in names] == []
    assert sdist.stat().st_size > 100_000  # the checkpoints alone are more


@pytest.mark.slow
def test_a_clean_environment_runs_the_wheel_and_a_package_that_extends_it(built, tmp_path):
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed: pip install 'p2r_jax[dev]'")
    (wheel,), uv = built.glob("*.whl"), (sys.executable, "-m", "uv")
    venv, example = tmp_path / "venv", tmp_path / "example"
    shutil.copytree(EXAMPLE, example)
    run(*uv, "venv", "-q", "--python", sys.executable, venv)
    install = (*uv, "pip", "install", "-q", "--python", venv / "bin/python")
    run(*install, wheel)
    run(*install, "--no-deps", example)
    p2r, clean = venv / "bin/p2r", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert "train-estimator" in run(p2r, "--help", cwd=tmp_path, env=clean)
    assert "push_on_ice" in run(p2r, "tasks", cwd=tmp_path, env=clean)
    command = "evaluate --task push_tblock --dynamics training --methods dr fused fused-intersect"
    command += " --conditions bottom --trials 2 --out told"
    run(p2r, *command.split(), cwd=tmp_path, env=clean)
    assert "fused-intersect" in (tmp_path / "told/results.md").read_text()
