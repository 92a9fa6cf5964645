"""From a raw answer to numbers, or to the reason why it holds none.

An answer that leaves doubt is not repaired: asking again is cheap, and a number that
was not meant would go into a mean.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2r_jax.prior.protocol import Answer
from p2r_jax.prior.quantities import Quantity

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
# Markup that models put around numbers, and what may follow one: not a unit, a percent
# sign, a second number or a decimal comma.
_MARKUP = r"[\s*_`\[\](){}$]*"
_END = r"(?![\w%/])(?!\.\d)(?!,\d)(?!\s*[-–~]\s*\d)(?!\s*(?:to|cm|mm|m|g|percent)\b)"
_LABELLED = r"(?<!\w){label}{markup}[:=]{markup}(?P<{group}>{number}){end}"


class UnusableError(ValueError):
    """The answer holds no estimate; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """What one answer says about one quantity, as it was asked.

    Attributes:
      value: on the scale -1 to +1, or in the quantity's unit.
      sigma: the model's own standard deviation, likewise.
    """

    value: float
    sigma: float


def parse(answer: Answer, quantities: Sequence[Quantity]) -> dict[str, Estimate]:
    """Estimates by quantity, from JSON or from lines ``LABEL: x SIGMA: y``.

    Raises:
      UnusableError: if any quantity is missing, out of range or in words, if sigma is not
        positive, or if the answer was refused or cut off.
    """
    if answer.stop == "refused":
        raise UnusableError("refused")
    if answer.stop == "truncated":
        raise UnusableError("cut off at the token limit")
    fields = _json_object(answer.text)
    estimates = {}
    for quantity in quantities:
        if fields is None:
            estimate = _from_text(answer.text, quantity)
        else:
            estimate = _from_json(fields, quantity)
        problem = quantity.problem(estimate.value, estimate.sigma)
        if problem:
            raise UnusableError(problem)
        estimates[quantity.name] = estimate
    return estimates


def json_fields(quantity: Quantity) -> tuple[str, str]:
    """Names of a quantity's value and sigma in a structured answer."""
    name = quantity.label.lower()
    return name, f"{name}_sigma"


def answer_schema(quantities: Sequence[Quantity]) -> dict[str, Any]:
    """JSON schema of a structured answer.

    It states types only: providers reject numeric bounds, so ``parse`` checks them.
    """
    names = [name for quantity in quantities for name in json_fields(quantity)]
    return {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, **{n: {"type": "number"} for n in names}},
        "required": ["reasoning", *names],
        "additionalProperties": False,
    }


def _json_object(text: str) -> dict | None:
    """The answer as a JSON object, bare or in a code fence; None if it is not one."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _from_json(fields: Mapping[str, Any], quantity: Quantity) -> Estimate:
    values = []
    for name in json_fields(quantity):
        value = fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnusableError(f"{name} is {value!r}, not a number")
        values.append(float(value))
    return Estimate(*values)


def _from_text(text: str, quantity: Quantity) -> Estimate:
    """The last complete statement of a quantity counts; earlier ones are reasoning."""
    text = text.replace("−", "-").replace("±", " ")
    parts = [
        _LABELLED.format(label=label, markup=_MARKUP, group=group, number=_NUMBER, end=_END)
        for label, group in ((re.escape(quantity.label), "value"), ("(?:SIGMA|σ)", "sigma"))
    ]
    pattern = rf"{parts[0]}[\s*_`\[\](){{}}$,;.|]*{parts[1]}"
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    if not found:
        raise UnusableError(f"no line '{quantity.label}: number SIGMA: number'")
    return Estimate(float(found[-1]["value"]), float(found[-1]["sigma"]))
