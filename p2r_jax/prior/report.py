"""One picture beside ``prior.json``: what was shown, what was answered, what came of it."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from p2r_jax.prior.aggregate import Counts, Summary
from p2r_jax.prior.ask import Outcome
from p2r_jax.prior.photos import View, draw_axes
from p2r_jax.prior.prior import Prior
from p2r_jax.prior.providers import missing_package
from p2r_jax.prior.quantities import Quantity

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#777777"
LETTERS_PER_INCH = 13  # of the 9 point text
IN_PRINT = {"m": (100.0, "cm")}  # SI inside, centimetres where something is printed


def check_plotting() -> None:
    """Raise ImportError, naming the extra, before anything is paid for."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise missing_package("matplotlib", "vlm") from error


def write_report(
    path: Path,
    views: Sequence[View],
    prior: Prior,
    quantities: Sequence[Quantity],
    outcomes: Sequence[Outcome] = (),
    summaries: Sequence[Summary] = (),
    counts: Counts | None = None,
) -> None:
    """Draw the contact sheet as PNG.

    Args:
      path: file to write.
      views: what was looked at; none for a prior from geometry alone.
      prior: what came of it.
      quantities: what was asked, in the prior's order.
      outcomes, summaries, counts: of the model's answers; empty for a heuristic.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(len(views), 5))
    rows = -(-len(views) // columns)
    heights = [2.1] * rows + [0.7 + (0.25 * len(views) if outcomes else 0.3)] * len(quantities)
    width = 2.6 * max(columns, 3)
    figure = Figure(figsize=(width, sum(heights) + 1.2), layout="constrained")
    letters = int(LETTERS_PER_INCH * width)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for index, view in enumerate(views):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        axes.imshow(draw_axes(view))
        axes.set_title(view.name, fontsize=8)
        axes.set_axis_off()
    names = [view.name for view in views]
    for row, quantity in enumerate(quantities):
        axes = figure.add_subplot(grid[rows + row, :])
        _draw_answers(axes, quantity, prior, row, names, outcomes)
        sentence = fill(_sentence(quantity, prior, row, summaries), letters)
        axes.set_title(sentence, fontsize=9, loc="left")
    heading = "\n".join(fill(line, letters) for line in _heading(prior, counts).splitlines())
    figure.suptitle(heading, fontsize=9, ha="left", x=0.01)
    figure.savefig(path, dpi=150, format="png")


def _draw_answers(axes, quantity: Quantity, prior: Prior, index: int, names, outcomes) -> None:
    """Every usable answer with its own sigma, a row per photo, and the prior behind them."""
    scale, unit = IN_PRINT.get(quantity.unit, (1.0, quantity.unit))
    mean, sigma = scale * prior.mean[index], scale * prior.sigma[index]
    axes.axvspan(mean - sigma, mean + sigma, color=BLUE, alpha=0.15, lw=0)
    axes.axvline(mean, color=BLUE, lw=1.8)
    low, high = scale * quantity.low, scale * quantity.high
    queries = 1 + max((o.query for o in outcomes), default=0)
    for outcome in outcomes:
        place = names.index(outcome.photo) + 0.7 * ((outcome.query + 0.5) / queries - 0.5)
        if outcome.estimates is None:
            axes.plot(low, place, "x", color=GREY, ms=5, clip_on=False)
            continue
        estimate = outcome.estimates[quantity.name]
        value, own = quantity.to_unit(estimate.value, estimate.sigma)
        axes.errorbar(scale * value, place, xerr=scale * own, fmt="o", ms=3, lw=0.8, color=ORANGE)
    rows = len(names) if outcomes else 0
    axes.set(xlim=_limits(low, high, mean, sigma, quantity.scaled), ylim=(max(rows, 1) - 0.5, -0.5))
    axes.set_yticks(range(rows), names[:rows], fontsize=7)
    axes.set_xlabel(f"{quantity.name} ({unit})", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(low: float, high: float, mean: float, sigma: float, scaled: bool):
    """The whole object for a coordinate; what the answers need for other quantities."""
    if scaled:
        return low, high
    return max(low, mean - 5 * sigma), min(high, mean + 5 * sigma)


def _sentence(quantity: Quantity, prior: Prior, index: int, summaries: Sequence[Summary]) -> str:
    scale, unit = IN_PRINT.get(quantity.unit, (1.0, quantity.unit))
    text = f"prior {scale * prior.mean[index]:.3g} ± {scale * prior.sigma[index]:.3g} {unit}"
    if not summaries:
        return text
    summary = summaries[index]
    return (
        f"{text}: mean of {summary.count} answers, mean of their own sigmas "
        f"{scale * summary.sigma:.2g}; spread of answers {scale * summary.spread:.2g}, "
        f"between photos {scale * summary.between:.2g} {unit}"
    )


def _heading(prior: Prior, counts: Counts | None) -> str:
    text = f"{prior.object}: {prior.kind} prior. {prior.source}"
    if counts is None:
        return text
    cost = "" if counts.cost_usd is None else f", ${counts.cost_usd:.2f}"
    return (
        f"{text}\n{counts.usable} of {counts.queries} queries usable"
        f"{' (others: x)' if counts.excluded else ''}, "
        f"{counts.retried} unusable answers; {counts.input_tokens} + {counts.output_tokens} "
        f"tokens{cost}"
    )
