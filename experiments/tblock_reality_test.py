"""The published T-block table: every method in ``reality-test``, with its figures.

    python experiments/tblock_reality_test.py --out runs/reality-test

Results and figures are copied to ``experiments/results`` for the README.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from p2r_jax.evaluation.demo import DemoConfig, draw_figures
from p2r_jax.evaluation.evaluate import EvaluateConfig, evaluate, load_records
from p2r_jax.tasks import load_task

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class TableConfig:
    """How much of it.

    Attributes:
      out: folder of the run.
      trials: per method and condition.
      conditions: weight positions.
      checkpoints: folder; by default the shipped ones.
      publish: copy what the README shows to ``experiments/results``.
    """

    out: Path
    trials: int = 200
    conditions: tuple[str, ...] = ("top", "bottom")
    checkpoints: Path | None = None
    publish: bool = True


def main(config: TableConfig) -> None:
    """Evaluate, draw, publish."""
    common = {
        "out": config.out,
        "dynamics": "reality-test",
        "conditions": config.conditions,
        "trials": config.trials,
        "checkpoints": config.checkpoints,
    }
    evaluate(EvaluateConfig(**common))
    records = load_records(config.out)
    draw_figures(replace(DemoConfig(), **common), load_task("push_tblock"), records)
    print((config.out / "results.md").read_text())
    if config.publish:
        RESULTS.mkdir(exist_ok=True)
        shutil.copy(config.out / "results.json", RESULTS / "reality-test.json")
        for name in ("success.png", "episode.png", f"theta_{config.conditions[0]}.png"):
            shutil.copy(config.out / name, RESULTS / name)


if __name__ == "__main__":
    main(tyro.cli(TableConfig))
