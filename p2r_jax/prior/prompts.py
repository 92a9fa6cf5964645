"""Prompts: versioned text files, filled in with the object, its axis and the questions.

A file is never edited once answers to it exist; a change is a new version beside it.
The wording is ours; what it asks for follows the paper (Phys2Real, Fig. 4).
"""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from p2r_jax.prior.parse import json_fields
from p2r_jax.prior.quantities import Quantity

FOLDER = Path(__file__).parent / "prompts"
AXIS_COLORS = {"com_object_x": "red", "com_object_y": "blue"}
SLOTS = ("object", "axes", "questions", "ending")


def prompt_names() -> tuple[str, ...]:
    """Names of the shipped prompts."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))


def load_prompt(name_or_path: str) -> str:
    """A prompt's template: a shipped one by name, or any text file with the same slots.

    Raises:
      FileNotFoundError: listing the shipped prompts.
      ValueError: if a slot is missing or unknown.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = FOLDER / f"{name_or_path}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"no prompt {name_or_path!r}: neither a file nor one of {', '.join(prompt_names())}"
        )
    template = path.read_text(encoding="utf-8", errors="replace")
    slots = set(Template(template).get_identifiers())
    if slots != set(SLOTS) or not Template(template).is_valid():
        raise ValueError(f"prompt {path}: it needs the slots ${', $'.join(SLOTS)} and no other $")
    return template


def fill_prompt(
    template: str, object_name: str, axis_hint: str, quantities: Sequence[Quantity], *, json: bool
) -> str:
    """The text that a model gets.

    Args:
      template: from ``load_prompt``.
      object_name: what the model is told the object is, e.g. "a wooden mallet".
      axis_hint: what lies at the ends of the x axis, e.g. "from the handle to the head".
      quantities: what is asked.
      json: whether the answer is structured (``parse.answer_schema``).
    """
    return Template(template).substitute(
        object=object_name,
        axes=" ".join(_axis_text(q, axis_hint) for q in quantities if q.scaled) or axis_hint,
        questions=_list_text([q.question for q in quantities]),
        ending=_json_ending(quantities) if json else _text_ending(quantities),
    )


def _axis_text(quantity: Quantity, axis_hint: str) -> str:
    color = AXIS_COLORS[quantity.name]
    along = f", {axis_hint}," if quantity.name == "com_object_x" and axis_hint else ""
    return (
        f"The {color} line drawn on the photo is an axis of the object{along} with a scale: "
        f"-1 is the edge of the object at the end marked -1, +1 is the edge at the end marked +1, "
        "and 0 is the midpoint between these edges."
    )


def _list_text(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])}, and {items[-1]}"


def _text_ending(quantities: Sequence[Quantity]) -> str:
    lines = "\n".join(f"{q.label}: [number] SIGMA: [number]" for q in quantities)
    return f"End your answer with exactly this, plain numbers in place of the brackets:\n{lines}"


def _json_ending(quantities: Sequence[Quantity]) -> str:
    fields = ", ".join(name for quantity in quantities for name in json_fields(quantity))
    return f"Answer with one JSON object with the fields reasoning, {fields}; numbers as numbers."
