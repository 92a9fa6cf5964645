"""What holds over training seeds: means with intervals, differences paired by seed.

A training seed is the unit that a claim about a method generalises over; a thousand trials
of one trained policy say nothing about the next one.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from p2r_jax.evaluation.outcomes import CRITERIA, as_json
from p2r_jax.evaluation.statistics import NOTHING, Interval, wilson

SCHEMA_VERSION = 1


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """Mean with Student's 95 % interval; one value has none (NaN), an empty list nothing."""
    values = np.asarray(values, float)
    if values.size == 0:
        return NOTHING
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return Interval(mean, mean - float(half), mean + float(half))


def each_and_mean(values: Sequence[float]) -> dict:
    """Every seed's value, and ``mean_over_seeds``, for a file."""
    return {"per_seed": list(values), "mean": as_json(mean_over_seeds(values))}


def merge(results: Sequence[dict]) -> list[dict]:
    """One row per condition and method from the ``results.json`` of every training seed.

    Args:
      results: of ``evaluate`` with the same trials, one per training seed.

    Returns:
      rows with, per success criterion, the rate of each seed, its mean with an interval over
      seeds, the pooled rate with Wilson's interval over trials, and the difference to every
      other method, paired by seed; errors and times as means over seeds.

    Raises:
      ValueError: if the seeds did not meet the same trials, or lack a cell.
    """
    first = results[0]
    for other in results[1:]:
        for name in ("task", "dynamics", "trials", "seed"):
            if other[name] != first[name]:
                raise ValueError(
                    f"training seeds met different trials: {name} is {other[name]!r} "
                    f"and {first[name]!r}; evaluate them with the same settings"
                )
    cells = [(row["condition"], row["method"]) for row in first["results"]]
    by_seed = [{(r["condition"], r["method"]): r for r in one["results"]} for one in results]
    for index, rows in enumerate(by_seed):
        if missing := [c for c in cells if c not in rows]:
            raise ValueError(f"training seed {index} lacks {missing[0]}; finish its evaluation")
    return [_row(cell, by_seed) for cell in cells]


def _row(cell: tuple[str, str], by_seed: list[dict]) -> dict:
    condition, method = cell
    own = [rows[cell] for rows in by_seed]
    row: dict = {"condition": condition, "method": method, "seeds": len(own), "trials": own[0]["n"]}
    for name in CRITERIA:
        rates = [r[name]["value"] for r in own]
        pooled = wilson(sum(r[name]["successes"] for r in own), sum(r["n"] for r in own))
        row[name] = each_and_mean(rates) | {"pooled": as_json(pooled)}
        row[name]["minus"] = {
            other: as_json(mean_over_seeds(
                [a - rows[condition, other][name]["value"]
                 for a, rows in zip(rates, by_seed, strict=True)]
            ))
            for where, other in by_seed[0] if where == condition and other != method
        }  # fmt: skip
    for name in ("position_error_m", "yaw_error_rad"):
        row[name] = as_json(mean_over_seeds([r[name]["mean"]["value"] for r in own]))
    times = [r["first_success_s"]["value"] for r in own if r["first_success_s"]["value"]]
    row["first_success_s"] = as_json(mean_over_seeds(times))
    told = [r["theta_rmse_m"]["used"] for r in own]
    row["theta_rmse_m"] = None if None in told else as_json(mean_over_seeds(told))
    return row
