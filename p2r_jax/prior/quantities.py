"""What a model is asked about an object: each quantity with its unit and range.

Coordinates of the centre of mass are asked on a scale from -1 to +1 between two
edges of the object (Phys2Real, appendix II); other quantities in their SI unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2r_jax.prior.shape import ObjectShape

DENSITY_RANGE = (20.0, 12_000.0)  # kg/m^3: rigid foam to lead, over the object's volume
FRICTION_RANGE = (0.02, 2.0)  # Coulomb coefficients of dry, solid pairs


@dataclass(frozen=True)
class Quantity:
    """One component of theta, as it is asked and understood.

    Attributes:
      name: as in the task's theta.
      label: how an answer names it, in capitals.
      unit: SI unit.
      low, high: its range, in ``unit``; for a coordinate, the edges of the object.
      scaled: whether it is asked on the scale -1 (``low``) to +1 (``high``).
      question: what is to be estimated, for the prompt.
    """

    name: str
    label: str
    unit: str
    low: float
    high: float
    scaled: bool
    question: str

    @property
    def answer_range(self) -> tuple[float, float]:
        """Lowest and highest value an answer may give."""
        return (-1.0, 1.0) if self.scaled else (self.low, self.high)

    def to_unit(self, value: float, sigma: float) -> tuple[float, float]:
        """Mean and sigma of an answer, in ``unit``."""
        if not self.scaled:
            return value, sigma
        half = (self.high - self.low) / 2
        return (self.low + self.high) / 2 + half * value, half * sigma

    def from_unit(self, value: float) -> float:
        """A value in ``unit`` as an answer would give it."""
        if not self.scaled:
            return value
        return (2 * value - self.low - self.high) / (self.high - self.low)

    def problem(self, value: float, sigma: float) -> str | None:
        """Why an answer cannot be meant, None if it can."""
        low, high = self.answer_range
        if not np.isfinite(value) or not np.isfinite(sigma):
            return f"{self.label} is {value:g}, SIGMA {sigma:g}: not finite"
        if not low <= value <= high:
            return f"{self.label} is {value:g}, outside [{low:g}, {high:g}]"
        if sigma <= 0:
            return f"SIGMA of {self.label} is {sigma:g}, not positive"
        if sigma > high - low:
            return f"SIGMA of {self.label} is {sigma:g}, wider than the whole range"
        return None


def quantities_for(names: Sequence[str], shape: ObjectShape) -> tuple[Quantity, ...]:
    """The named components of theta for an object.

    Raises:
      ValueError: for a name that is not known, listing those that are, or given twice.
    """
    (x0, y0, _), (x1, y1, _) = shape.lower, shape.upper
    light, heavy = (shape.volume * density for density in DENSITY_RANGE)
    known = {
        q.name: q
        for q in (
            Quantity(
                "com_object_x", "COM", "m", x0, x1, True,
                "the position of the overall centre of mass along the red axis",
            ),
            Quantity(
                "com_object_y", "COM_ACROSS", "m", y0, y1, True,
                "the position of the overall centre of mass along the blue axis",
            ),
            Quantity(
                "mass", "MASS", "kg", light, heavy, False, "the mass of the object in kilograms"
            ),
            Quantity(
                "friction", "FRICTION", "1", *FRICTION_RANGE, False,
                "the coefficient of Coulomb friction between the object and the table under it",
            ),
        )
    }  # fmt: skip
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names) or not names:
        raise ValueError(f"theta {tuple(names)}: name each of {', '.join(known)} at most once")
    return tuple(known[name] for name in names)
