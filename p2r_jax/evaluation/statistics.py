"""Intervals for what a table states: rates, paired differences, means and medians.

All intervals are two-sided at 95%.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A value with its 95% interval; NaN where there is nothing to state."""

    value: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def wilson(successes: int, count: int) -> Interval:
    """A rate with Wilson's score interval (Wilson 1927).

    Raises:
      ValueError: unless 0 <= successes <= count and count > 0.
    """
    if not (0 <= successes <= count and count > 0):
        raise ValueError(f"{successes} successes of {count} is no rate")
    rate, z2 = successes / count, Z95**2
    center = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * np.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2))
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == count else center + half
    return Interval(rate, float(low), float(high))


def paired_difference(a: Bool[np.ndarray, " n"], b: Bool[np.ndarray, " n"]) -> Interval:
    """Rate of ``a`` minus rate of ``b`` over the same trials.

    Newcombe's square-and-add interval for paired proportions (Newcombe 1998,
    method 10). It stays honest where a bootstrap collapses: when both methods
    agree on every trial, the interval still has a width.

    Raises:
      ValueError: if the two do not pair up.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"outcomes of shape {a.shape} and {b.shape} do not pair up")
    n = a.size
    both, only_a, only_b, neither = (int(np.sum(x)) for x in (a & b, a & ~b, ~a & b, ~a & ~b))
    rate_a, low_a, high_a = wilson(both + only_a, n)
    rate_b, low_b, high_b = wilson(both + only_b, n)
    phi = _correlation(both, only_a, only_b, neither)

    def root(x, y):
        return np.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    difference = rate_a - rate_b
    low = difference - root(rate_a - low_a, high_b - rate_b)
    high = difference + root(high_a - rate_a, rate_b - low_b)
    return Interval(difference, float(low), float(high))


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Phi coefficient with Newcombe's continuity correction; zero for an empty margin."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(product - (both + only_a + only_b + neither) / 2, 0.0)
    return product / np.sqrt(margins)


def bootstrap(
    values: Float[np.ndarray, " n"],
    statistic: Callable = np.mean,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of a sample with its percentile-bootstrap interval.

    Args:
      values: the sample; may be empty, which states nothing (NaN).
      statistic: takes ``axis``, e.g. ``np.mean`` or ``np.median``.
      resamples: number of resamples.
      seed: of the resampling; the same sample always gives the same interval.
    """
    values = np.asarray(values, float)
    if values.size == 0:
        return NOTHING
    index = np.random.default_rng(seed).integers(0, values.size, (resamples, values.size))
    low, high = np.percentile(statistic(values[index], axis=1), [2.5, 97.5])
    return Interval(float(statistic(values)), float(low), float(high))
