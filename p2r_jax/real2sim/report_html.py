"""Small pieces of the report's HTML."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple


def bars(seconds: dict[str, float]) -> str:
    """Where the time went."""
    total = sum(seconds.values())
    if not total:
        return ""
    each = "".join(
        f'<span class="{step}" style="flex:{max(value, 0.01 * total):.2f}" '
        f'title="{step}: {value:.1f} s"><b>{step}</b> {value:.0f} s</span>'
        for step, value in seconds.items()
    )
    return f'<div class="bars">{each}</div>'


class Fact(NamedTuple):
    """A number on a card: what it is, its text, and whether it is as it should be."""

    name: str
    text: str
    good: bool | None = None


def cards(facts: Sequence[Fact | None]) -> str:
    """Facts side by side."""
    marks = {True: "good", False: "bad", None: ""}
    each = "".join(
        f'<div class="card {marks[fact.good]}"><span>{escape(fact.name)}</span>'
        f"<b>{escape(fact.text)}</b></div>"
        for fact in facts
        if fact is not None
    )
    return f'<div class="cards">{each}</div>' if each else ""


def fact(name: str, value: Any, form: Callable[[Any], str], good=None) -> Fact | None:
    """A fact, or None where the record does not have it."""
    return None if value is None else Fact(name, form(value), good)


def mm(lengths: Sequence[float]) -> str:
    """Lengths in m as text in mm."""
    return ", ".join(f"{1e3 * length:.1f}" for length in lengths) + " mm"


def mean_min(values: dict) -> str:
    """Mean and least value of a record of scores."""
    return f"{values['mean']:.3f}, least {values['min']:.3f}"


def image(address: str, kind: str, caption: str = "") -> str:
    """A picture; ``kind`` is its class in the style sheet."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    picture = f'<img src="{address}" alt="{escape(caption or kind)}">'
    return f'<figure class="{kind}">{picture}{below}</figure>'


def group(title: str, pictures: str) -> str:
    """Pictures in a grid under a title; nothing without pictures."""
    return f'<h3>{escape(title)}</h3><div class="grid">{pictures}</div>' if pictures else ""


def notes(lines: Sequence[str]) -> str:
    """A list of remarks."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines if line)
    return f"<ul>{items}</ul>" if items else ""
