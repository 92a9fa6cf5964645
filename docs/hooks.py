"""What the pages need beyond Markdown: equations as MathML, and code read from the source.

A fence of the language ``math`` holds LaTeX; browsers draw MathML without any script.
A line ``::source FILE NAME`` becomes the code of a function, class or constant as it
stands in FILE now, without its docstring; a name that is gone stops the build.
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SOURCE = re.compile(r"^::source (\S+) (\S+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_) -> str:
    """Called by mkdocs for every page."""
    with_math = MATH.sub(lambda m: mathml(m[1]), markdown)
    return SOURCE.sub(lambda m: listing(m[1], m[2]), with_math)


def mathml(latex: str) -> str:
    """A displayed equation."""
    from latex2mathml.converter import convert

    return f"\n<div>{convert(' '.join(latex.split()), display='block')}</div>\n"


def listing(file: str, name: str) -> str:
    """A fenced block with the code of ``name`` (``function`` or ``Class.method``) in ``file``.

    Raises:
      ValueError: if the file defines no such name.
    """
    text = (ROOT / file).read_text()
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if part in _names(child)]
        if not found:
            raise ValueError(f"docs: {file} defines no {name}")
        node = found[0]
    lines = text.splitlines()
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    skipped = _docstring_lines(node)
    kept = [lines[i - 1] for i in range(first, node.end_lineno + 1) if i not in skipped]
    code = textwrap.dedent("\n".join(kept))
    return f'```python title="{file}, from line {first}"\n{code}\n```'


def _names(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return tuple(t.id for t in targets if isinstance(t, ast.Name))


def _docstring_lines(node: ast.AST) -> range:
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        text = node.body[0]
        return range(text.lineno, text.end_lineno + 1)
    return range(0)
