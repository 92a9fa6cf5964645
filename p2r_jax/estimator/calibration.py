"""Does the estimator know what it knows: error, likelihood and coverage over theta."""

import math
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

import numpy as np
from jaxtyping import Float

from p2r_jax.types import Gaussian

LEVELS = (0.5, 0.8, 0.95)
SINCE_CONTACT = ((0, 0), (1, 3), (4, 6), (7, 9), (10, 14), (15, 29), (30, 100))
IN_WINDOW = ((0, 0), (1, 3), (4, 6), (7, 9), (10, 10))


class Estimated(Protocol):
    """Episodes with what the estimator said in them; ``rollouts.Episodes`` is one.

    Attributes:
      theta: truth.
      estimate: Float[N, T, K] each.
      contact: the pusher touched the object between the observations t-1 and t.
    """

    theta: Float[np.ndarray, "n k"]
    estimate: Gaussian
    contact: Float[np.ndarray, "n t"]


def calibration_report(data: Estimated, history: int = 10, component: int = 0) -> dict:
    """Summaries of one component of theta, in centimetres.

    Rows by steps since the episode's first contact (0: none yet), by number of
    contact steps in the window, and by theta where contact lasted >= 10 steps.
    Each row: windows, RMSE, bias, mean sigma, NLL (nats, theta in cm) and
    coverage of the central 50, 80 and 95 % intervals.
    """
    truth = 100 * np.asarray(data.theta)[:, None, component]
    mean = 100 * np.asarray(data.estimate.mean)[..., component]
    sigma = 100 * np.sqrt(np.asarray(data.estimate.variance)[..., component])
    contact = np.asarray(data.contact) > 0
    touched = np.maximum.accumulate(contact, 1)
    since = np.cumsum(touched, 1)
    kernel = np.ones(history)
    in_window = np.stack([np.convolve(c, kernel)[: c.size] for c in contact])
    z = (mean - truth) / sigma

    def row(mask):
        if not mask.any():
            return {"windows": 0}
        error = (mean - truth)[mask]
        nll = 0.5 * np.log(2 * np.pi * sigma[mask] ** 2) + 0.5 * z[mask] ** 2
        quantiles = {p: NormalDist().inv_cdf(0.5 + p / 2) for p in LEVELS}
        return {
            "windows": int(mask.sum()),
            "rmse_cm": float(np.sqrt(np.mean(error**2))),
            "bias_cm": float(error.mean()),
            "sigma_cm": float(sigma[mask].mean()),
            "nll": float(nll.mean()),
            **{
                f"coverage_{int(100 * p)}": float(np.mean(np.abs(z[mask]) <= q))
                for p, q in quantiles.items()
            },
        }

    def between(x, bounds):
        return (x >= bounds[0]) & (x <= bounds[1])

    full = in_window >= history
    edges = np.quantile(truth, np.linspace(0, 1, 7))
    thetas = np.broadcast_to(truth, mean.shape)
    return {
        "episodes": int(truth.shape[0]),
        "since_contact": {f"{a}-{b}": row(between(since, (a, b))) for a, b in SINCE_CONTACT},
        "contact_steps_in_window": {
            f"{a}-{b}": row(between(in_window, (a, b))) for a, b in IN_WINDOW
        },
        "ten_contact_steps_by_theta_cm": {
            f"{a:.1f}..{b:.1f}": row(full & (thetas >= a) & (thetas < b))
            for a, b in pairwise(edges)
        },
    }


def after_contact(report: dict) -> dict[str, float]:
    """One row of the windows in the first 100 steps since contact; empty if there is none."""
    rows = [row for name, row in report["since_contact"].items() if name != "0-0"]
    rows = [row for row in rows if row["windows"]]
    if not rows:
        return {}
    total = sum(row["windows"] for row in rows)

    def mean(values):
        return sum(v * row["windows"] for v, row in zip(values, rows, strict=True)) / total

    others = {k: mean([row[k] for row in rows]) for k in rows[0] if k not in ("windows", "rmse_cm")}
    rmse = math.sqrt(mean([row["rmse_cm"] ** 2 for row in rows]))
    return {"windows": total, "rmse_cm": rmse} | others


def print_report(report: dict) -> None:
    """Print the report as aligned text tables."""
    for title in ("since_contact", "contact_steps_in_window", "ten_contact_steps_by_theta_cm"):
        print(f"\n{title.replace('_', ' ')}")
        print("            windows  RMSE cm  bias cm  sigma cm    NLL   50 %   80 %   95 %")
        for name, r in report[title].items():
            if r["windows"]:
                print(
                    f"{name:>11} {r['windows']:8d} {r['rmse_cm']:8.2f} {r['bias_cm']:8.2f} "
                    f"{r['sigma_cm']:9.2f} {r['nll']:6.2f} "
                    + " ".join(f"{r[f'coverage_{int(100 * p)}']:6.2f}" for p in LEVELS)
                )
