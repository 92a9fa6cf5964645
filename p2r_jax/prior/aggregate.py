"""From answers to a prior, as in the paper (Phys2Real, appendix II)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2r_jax.prior.ask import Outcome
from p2r_jax.prior.prior import Prior
from p2r_jax.prior.quantities import Quantity


@dataclass(frozen=True)
class Summary:
    """What all usable answers say about one quantity, in its unit.

    Attributes:
      name, unit: of the quantity.
      mean: of the estimates.
      sigma: mean of the sigmas that the model reported, which is the prior's.
      spread: standard deviation of the estimates, which the paper found over-confident.
      between: standard deviation of the means of the photos.
      count: usable answers.
    """

    name: str
    unit: str
    mean: float
    sigma: float
    spread: float
    between: float
    count: int


@dataclass(frozen=True)
class Counts:
    """What became of the queries and what they cost.

    Attributes:
      queries, usable, excluded: of them.
      retried: unusable answers, the last one of an excluded query included.
      reasons: how often an answer was unusable, by reason.
      input_tokens, output_tokens: as far as the server counts them.
      cost_usd: at the given prices; None without prices.
    """

    queries: int
    usable: int
    excluded: int
    retried: int
    reasons: dict[str, int]
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class TooFewAnswersError(ValueError):
    """Too few answers could be used to make a prior of them."""


def summarize(
    outcomes: Sequence[Outcome], quantities: Sequence[Quantity], minimum: int
) -> tuple[Summary, ...]:
    """One summary per quantity.

    Raises:
      TooFewAnswersError: with the raw text of what came instead, if fewer than ``minimum``
        queries gave a usable answer.
    """
    usable = [o for o in outcomes if o.estimates is not None]
    if len(usable) < max(minimum, 1):
        texts = [f"  {o.photo}, query {o.query}: {reason}: {text[:500]!r}"
                 for o in outcomes for reason, text in o.unusable]  # fmt: skip
        raise TooFewAnswersError(
            f"{len(usable)} of {len(outcomes)} queries gave a usable answer, {minimum} are "
            "needed. Unusable answers:\n" + "\n".join(texts)
        )
    return tuple(_summary(usable, quantity) for quantity in quantities)


def _summary(usable: Sequence[Outcome], quantity: Quantity) -> Summary:
    by_photo: dict[str, list[tuple[float, float]]] = {}
    for outcome in usable:
        assert outcome.estimates is not None
        estimate = outcome.estimates[quantity.name]
        in_unit = quantity.to_unit(estimate.value, estimate.sigma)
        by_photo.setdefault(outcome.photo, []).append(in_unit)
    values = np.array([pair for pairs in by_photo.values() for pair in pairs])
    return Summary(
        name=quantity.name,
        unit=quantity.unit,
        mean=float(values[:, 0].mean()),
        sigma=float(values[:, 1].mean()),
        spread=_deviation(values[:, 0]),
        between=_deviation([float(np.mean([m for m, _ in pairs])) for pairs in by_photo.values()]),
        count=len(values),
    )


def _deviation(values: Sequence[float] | np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def count(outcomes: Sequence[Outcome], prices: tuple[float, float] | None = None) -> Counts:
    """Bookkeeping; ``prices`` are US dollars per million input and output tokens."""
    answers = [answer for outcome in outcomes for answer in outcome.answers]
    reasons: dict[str, int] = {}
    for outcome in outcomes:
        for reason, _ in outcome.unusable:
            reasons[reason] = reasons.get(reason, 0) + 1
    tokens_in = sum(a.input_tokens or 0 for a in answers)
    tokens_out = sum(a.output_tokens or 0 for a in answers)
    cost = (tokens_in * prices[0] + tokens_out * prices[1]) / 1e6 if prices else None
    usable = sum(o.estimates is not None for o in outcomes)
    return Counts(
        queries=len(outcomes),
        usable=usable,
        excluded=len(outcomes) - usable,
        retried=sum(reasons.values()),
        reasons=reasons,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cost_usd=cost,
    )


def to_prior(
    summaries: Sequence[Summary],
    quantities: Sequence[Quantity],
    outcomes: Sequence[Outcome],
    object_name: str,
    sigma_scale: float = 1.0,
) -> Prior:
    """The prior: mean, mean sigma times ``sigma_scale``; synthetic if any answer was."""
    answers = [answer for outcome in outcomes for answer in outcome.answers]
    models = sorted({answer.model for answer in answers})
    scale = "" if sigma_scale == 1 else f", sigma x {sigma_scale:g}"
    return Prior(
        theta=tuple(s.name for s in summaries),
        mean=tuple(s.mean for s in summaries),
        sigma=tuple(sigma_scale * s.sigma for s in summaries),
        unit=tuple(s.unit for s in summaries),
        kind="synthetic" if any(a.synthetic for a in answers) else "live",
        source=f"{', '.join(models)}: mean of {summaries[0].count} answers about "
        f"{len({o.photo for o in outcomes})} photos{scale}",
        object=object_name,
        ends=tuple((q.low, q.high) for q in quantities),
    )
