"""Tables from ``results.json``, in Markdown; centimetres and degrees only here."""

import numpy as np

from p2r_jax.evaluation.methods import REFERENCE

COLUMNS = (
    "method", "success %", "strict %", "ever %", "first success s", "position cm", "yaw deg",
    "theta RMSE cm", f"success minus {REFERENCE}",
)  # fmt: skip


def markdown(results: dict) -> str:
    """Tables of all conditions of a ``results.json``."""
    world = results["dynamics"]
    lines = [
        f"# {results['task']} in {world['name']} (version {world['version']})", "",
        f"{results['trials']} trials per method, seed {results['seed']}, the same starts, "
        f"frictions and noise for every method; git {results['provenance']['git']}.", "",
        "Success: 3 cm and 20 deg at the end of the trial; strict: 3 cm, 10 deg, at rest; ever: "
        "success at any step. Brackets: 95% intervals (Wilson; differences in points, paired, "
        "Newcombe; medians and means, bootstrap). First success: median over the trials that "
        "had one. Errors: mean at the end. theta RMSE: of what the policy was told, whole trial.",
    ]  # fmt: skip
    if not results["complete"]:
        lines += ["", "**Not complete: the evaluation was still running.**"]
    for name, about in results["conditions"].items():
        rows = [r for r in results["results"] if r["condition"] == name]
        if rows:
            lines += ["", f"## {name}: {_about(about)}", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def _about(condition: dict) -> str:
    truth = ", ".join(f"{100 * v:.2f}" for v in condition["theta_true_m"])
    prior = condition["prior"]
    belief = ", ".join(
        f"{100 * m:.2f} ± {100 * s:.2f}" for m, s in zip(prior["mean"], prior["sigma"], strict=True)
    )
    return f"CoM {truth} cm, prior {belief} cm ({prior['kind']})"


def _table(rows: list[dict]) -> list[str]:
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return head + ["| " + " | ".join(_row(r)) + " |" for r in rows]


def _row(r: dict) -> list[str]:
    versus, told = r["paired_to_reference"], r["theta_rmse_m"]["used"]
    return [
        r["method"], _interval(r["hardware"], 100), _interval(r["strict"], 100),
        _interval(r["ever"], 100), _interval(r["first_success_s"], 1),
        _interval(r["position_error_m"]["mean"], 100, 1),
        _interval(r["yaw_error_rad"]["mean"], np.rad2deg(1.0), 1),
        "–" if told is None else f"{100 * told:.2f}",
        "–" if versus is None else _interval(versus["hardware"], 100, sign="+"),
    ]  # fmt: skip


def _interval(x: dict, scale: float, digits: int = 0, sign: str = "") -> str:
    if x["value"] is None:
        return "–"
    value, low, high = (f"{scale * x[k]:{sign}.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
