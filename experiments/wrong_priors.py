"""Confidently wrong priors where nothing was chosen: in ``reality-test``.

    python experiments/wrong_priors.py --out runs/wrong-priors --publish

Fusion rules and policies were chosen in the training dynamics (``fusion_rules.py``); here they
are judged, on the very trials of ``paper_tables.py --task push_tblock_plus``: methods that no
prior reaches have their rows there, and differences to them are paired by training seed.
Finished cells are kept, so a killed run goes on where it was.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from cells import Cells, CellsConfig
from fusion_rules import CASES, SURE, check_cases, judge_case
from published import RESULTS, publish

from p2r_jax.evaluation.evaluate import describe_checkpoints, describe_world
from p2r_jax.evaluation.methods import Checkpoints
from p2r_jax.evaluation.outcomes import as_json
from p2r_jax.evaluation.seeds import mean_over_seeds
from p2r_jax.tasks import Task, load_task

REFERENCES = ("privileged", "rma-only")  # neither hears the prior


@dataclass(frozen=True)
class WrongConfig(CellsConfig):
    """How much of it; see also ``CellsConfig``. The tables of ``task`` must be there.

    Attributes:
      cases: of ``fusion_rules``, by name.
      methods: by name.
      trials: per cell; those of the tables.
      tables: what ``paper_tables.py`` published, for the references.
    """

    cases: tuple[str, ...] = ("top, -8 cm",)
    methods: tuple[str, ...] = ("fused-paper", "fused", "belief")
    trials: int = 200
    tables: Path = RESULTS

    def __post_init__(self):
        check_cases(self.cases)


def references(config: WrongConfig, tables: dict, where: str) -> dict[str, dict[int, float]]:
    """Success of every reference by training seed, from the published tables.

    Raises:
      ValueError: if they lack a seed or the condition, or hold another number of trials.
    """
    rows = {
        row["method"]: dict(zip(tables["training_seeds"], row["hardware"]["per_seed"], strict=True))
        for row in tables["rows"]
        if row["condition"] == where and row["trials"] == config.trials
    }
    for name in REFERENCES:
        if missing := set(config.seeds) - set(rows.get(name, {})):
            raise ValueError(
                f"the tables of {config.task} lack {name} at {where} with {config.trials} trials "
                f"for training seeds {sorted(missing)}: run paper_tables.py first"
            )
    return {name: rows[name] for name in REFERENCES}


def table(config: WrongConfig, tables: dict, cells: list[dict]) -> list[dict]:
    """A row per case and method: success over seeds, and what it lacks to the references."""
    rates = {(c["case"], c["method"], c["seed"]): c for c in cells}
    rows = []
    for case, name in itertools.product(config.cases, config.methods):
        own = {seed: rates[case, name, seed]["hardware"]["value"] for seed in config.seeds}
        against = references(config, tables, CASES[case][0])
        rows.append({
            "case": case, "method": name, "per_seed": list(own.values()),
            "hardware": as_json(mean_over_seeds(list(own.values()))),
            "minus": {
                other: as_json(mean_over_seeds([own[s] - rate[s] for s in config.seeds]))
                for other, rate in against.items()
            },
        })  # fmt: skip
    return rows


def read_tables(config: WrongConfig, task: Task) -> dict:
    """The published tables of the task.

    Raises:
      ValueError: if they were made in a world of other settings, or lack a reference.
    """
    tables = json.loads((config.tables / f"tables_{config.task}.json").read_text())
    before = tables["dynamics"]
    if describe_world(before["name"], task) != before:
        raise ValueError(
            f"the tables of {config.task} were made in {before['name']} {before['version']}, "
            "whose settings have changed: run paper_tables.py again"
        )
    for case in config.cases:
        references(config, tables, CASES[case][0])
    return tables


def check_checkpoints(checkpoints: Checkpoints, tables: dict, seed: int) -> None:
    """Raise ValueError if a shared checkpoint is not the one that the tables were made with."""
    before = tables["checkpoints"][tables["training_seeds"].index(seed)]
    now = json.loads(json.dumps(describe_checkpoints(checkpoints)))
    for name in sorted(set(now) & set(before)):
        if now[name] != before[name]:
            raise ValueError(
                f"the tables were made with another {name} of seed {seed}: "
                "run paper_tables.py again"
            )


def main(config: WrongConfig) -> None:
    """Run what is missing, compare, publish."""
    task = load_task(config.task)
    tables = read_tables(config, task)
    dynamics = tables["dynamics"]["name"]
    settings = {"schema": 1, "task": task.name, "dynamics": tables["dynamics"],
                "trials": config.trials, "trial_seed": tables["trial_seed"],
                "sigma_m": SURE}  # fmt: skip
    keys = ("case", "method", "seed")
    cells = Cells(config.out / "wrong_priors.json", settings, keys, config.overwrite)
    for seed in config.seeds:
        checkpoints = config.load(seed, task, config.methods)
        check_checkpoints(checkpoints, tables, seed)
        for case, name in itertools.product(config.cases, config.methods):
            if (case, name, seed) not in cells:
                found = judge_case(
                    name, case, task, checkpoints, dynamics, config.trials, tables["trial_seed"]
                )
                cells.add({"case": case, "method": name, "seed": seed} | found)
                rate = 100 * found["hardware"]["value"]
                print(f"seed {seed} | {case:14} | {name:12} {rate:5.1f} %", flush=True)
    rows = table(config, tables, cells.found)
    record = cells.write(seeds=config.seeds, references=REFERENCES, rows=rows)
    for row in rows:
        gaps = ", ".join(
            f"{100 * gap['value']:+.1f} to {name}" for name, gap in row["minus"].items()
        )
        rate = 100 * row["hardware"]["value"]
        print(f"{row['case']:14} {row['method']:12} {rate:5.1f} %  ({gaps})")
    if config.publish:
        publish(record, "wrong_priors.json")


if __name__ == "__main__":
    main(tyro.cli(WrongConfig))
