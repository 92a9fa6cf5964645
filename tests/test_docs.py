"""The site: every command parses, every example runs, every listing exists, and it builds."""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

from p2r_jax import cli, fusion, plugins
from p2r_jax.sweep.plan import variants
from p2r_jax.sweep.spec import read_sweep
from p2r_jax.task_files import write_task
from p2r_jax.tasks import load_task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLE = Path(__file__).parent / "example_package"


def page_id(page):
    return str(page.relative_to(DOCS))


def blocks(language):
    """(page, title, text) of every fenced block of a language."""
    return [
        (page, match[2], match[3])
        for page in PAGES
        for match in FENCE.finditer(page.read_text())
        if match[1] == language
    ]


def commands(first):
    """Words of every command line in the pages that starts with ``first``, without repeats."""
    lines = {
        line.strip(): None
        for _, _, text in blocks("bash")
        for line in text.replace("\\\n", " ").splitlines()
    }
    split = [shlex.split(line, comments=True) for line in lines if line]
    return [words for words in split if words[:1] == [first]]


class ParsedError(Exception):
    """The command line was understood; nothing was run."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder as a reader of the pages has it by then: two tasks, a module, a package."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("mug", "tool"):
        (folder / "runs" / name).mkdir(parents=True)
        write_task(load_task("push_tblock"), folder / "runs" / name)
    for _, title, text in blocks("python"):
        if title:
            (folder / title).write_text(text)
    shutil.copytree(EXAMPLE / "p2r_example", folder / "p2r_example")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = folder / "p2r_example-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: p2r-example\nVersion: 0.1\n")
    points = [
        f"[{group}]\n" + "\n".join(f"{name} = {path}" for name, path in paths.items())
        for group, paths in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    return folder


@pytest.mark.parametrize("words", commands("p2r"), ids=" ".join)
def test_every_command_of_the_pages_is_understood(words, reader, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    monkeypatch.syspath_prepend(reader)
    monkeypatch.setattr("p2r_jax.deploy.record.is_run", lambda p: str(p) == "runs/first")
    understand = tyro.cli

    def stop(*args, **kwargs):
        raise ParsedError(understand(*args, **kwargs))

    monkeypatch.setattr(tyro, "cli", stop)
    if words == ["p2r", "tasks"]:
        assert cli.main(words[1:]) == 0
        return
    try:
        status = cli.main(words[1:])
    except ParsedError:
        status = 0
    except SystemExit as refused:
        status = refused.code
    said = capsys.readouterr()
    assert status == 0, f"{' '.join(words)}\n{said.out}{said.err}"


WORDS = {
    "train": ["push_tblock", "privileged"],
    "train-estimator": ["push_tblock"],
    "task": ["new"],
}


def test_every_option_in_the_text_exists(capsys):
    known = set()
    for name in cli.COMMANDS:
        with contextlib.suppress(SystemExit):
            cli.main([name, *WORDS.get(name, []), "--help"])
        known |= set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    for page in PAGES:
        inline = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        spans = re.findall(r"`([^`\n]*)`", inline)
        named = {word for span in spans for word in re.findall(r"(?<!\S)--[a-z][\w.-]*", span)}
        assert named <= known, f"{page_id(page)}: {named - known}"


def test_make_targets_and_extras_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in commands("make")} <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    text = (DOCS / "how-to/install.md").read_text()
    listed = set(re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE))
    assert extras <= listed, f"the page on installing lacks {extras - listed}"
    for page in PAGES:
        named = re.findall(r"(?:p2r_jax|\.)\[([a-z0-9,-]+)\]", page.read_text())
        assert {name for names in named for name in names.split(",")} <= extras, page_id(page)


@pytest.mark.parametrize(("page", "title", "code"), blocks("python"))
def test_python_on_the_pages_names_what_exists(page, title, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("p2r_jax"):
            module = importlib.import_module(node.module)
            missing = [a.name for a in node.names if not hasattr(module, a.name)]
            assert missing == [], f"{page_id(page)}: {node.module} has no {missing}"


@pytest.mark.parametrize(("page", "title", "text"), blocks("yaml"))
def test_sweep_files_on_the_pages_are_sound(page, title, text, tmp_path):
    pytest.importorskip("yaml", reason="sweep files need pip install 'p2r_jax[sweep]'")
    (tmp_path / title).write_text(text)
    assert variants(read_sweep(tmp_path / title))


def test_the_entry_points_on_the_page_are_those_of_the_example_package():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shown = [tomllib.loads(text)["project"]["entry-points"] for _, _, text in blocks("toml")]
    assert shown == [project["entry-points"]]


@pytest.mark.parametrize("page", [p for p in PAGES if ">>>" in p.read_text()], ids=page_id)
def test_examples_on_the_pages_say_what_they_say(page):
    found = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("module", [fusion, plugins], ids=lambda m: m.__name__)
def test_examples_in_docstrings_say_what_they_say(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_listing_is_read_from_the_source_as_it_stands(hooks):
    named = [m.groups() for page in PAGES for m in hooks.SOURCE.finditer(page.read_text())]
    assert len(named) > 20
    for file, name in named:
        code = hooks.listing(file, name)
        assert code.startswith(f'```python title="{file}, from line ')
        assert name.rpartition(".")[2] in code
    fuse = hooks.listing("p2r_jax/fusion.py", "fuse")
    assert "weight = b / (a + b)" in fuse
    assert "Finite for every pair" not in fuse  # that is the docstring
    source = (ROOT / "p2r_jax/fusion.py").read_text().splitlines()
    line = int(re.search(r"from line (\d+)", fuse)[1])
    assert source[line - 1].startswith("def fuse(")


def test_a_listing_of_what_is_gone_stops_the_build(hooks):
    with pytest.raises(ValueError, match=r"p2r_jax/fusion\.py defines no fused"):
        hooks.on_page_markdown("text\n\n::source p2r_jax/fusion.py fused\n")


def test_the_reference_names_modules_that_exist():
    for page in (DOCS / "reference").glob("*.md"):
        for module in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            assert importlib.util.find_spec(module), f"{page_id(page)}: {module}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'p2r_jax[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_site_builds_without_warnings_and_fetches_nothing(site):
    text = {str(p.relative_to(site)): p.read_text() for p in site.rglob("*.html")}
    assert len(text) == len(PAGES) + 1  # and 404
    for name, html in text.items():
        fetched = re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(https?:[^\">]*)", html)
        fetched += re.findall(r"<link[^>]*href=\"?(https?:[^\">]*)[^>]*stylesheet", html)
        assert fetched == [], name
        assert "::source" not in html, name
    equations = text["explanation/equations.html"]
    assert equations.count("<math ") >= 7
    assert "def ensemble_moments" in re.sub(r"<[^>]*>", "", equations)
    assert "p2r_jax.fusion.FusionRule" in text["reference/fusion.html"]
