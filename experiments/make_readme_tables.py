"""Fill the README files from committed results: no number in them is typed by hand.

    python experiments/make_readme_tables.py           rewrite the tables in place
    python experiments/make_readme_tables.py --check   exit 1 if one is stale

A block between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->`` becomes what
``TABLES[NAME]`` makes of its files; while a file is missing it says where it comes from.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import readme_ablations
import readme_deploy
import readme_machines
import readme_paper
import readme_policy_ablations
import readme_reconstruction
import readme_tables as make

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "benchmarks/README.md", "experiments/README.md")
BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """How a block is made.

    Attributes:
      files: its sources, relative to the repository; all must be there and tracked.
      measure: command that makes them.
      make: from the contents (JSON, CSV) or paths (pictures) to Markdown.
    """

    files: tuple[str, ...]
    measure: str
    make: Callable[..., str]

    def render(self, root: Path, page: str) -> str:
        """Markdown of the block on ``page``, whose pictures are linked from where it lies."""
        missing = [name for name in self.files if not _is_published(root, name)]
        if missing:
            return f"*Not measured yet: `{missing[0]}` comes from `{self.measure}`.*\n"
        return self.make(*(_load(root, name, page) for name in self.files))


def _is_published(root: Path, name: str) -> bool:
    """Whether a file is there and, in a git checkout, tracked: a clone must agree."""
    if not (root / name).is_file():
        return False
    command = ["git", "-C", str(root), "ls-files", "--error-unmatch", name]
    return (
        not (root / ".git").exists() or not subprocess.run(command, capture_output=True).returncode
    )


def _load(root: Path, name: str, page: str):
    path = root / name
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return os.path.relpath(name, Path(page).parent)


RESULTS, SHIPPED = "experiments/results", "p2r_jax/checkpoints/push_tblock"
TRAINED = ("privileged", "noisy", "dr")  # the policies whose training is shown
BENCHMARKS = "benchmarks/results"
THROUGHPUT, TIME = f"{BENCHMARKS}/throughput.json", "python -m benchmarks.throughput --peers"
PAPER = "python experiments/paper_tables.py --out runs/tables"
PAPER_PLUS = (
    "python experiments/paper_tables.py --out runs/tables-plus --task push_tblock_plus "
    "--methods privileged fused belief rma-only dr"
)
PARITY, COMPARE = f"{BENCHMARKS}/parity.json", "python -m benchmarks.parity"
TRADE = "python -m benchmarks.contact_tradeoff"
REPLAY = "python experiments/real_push_replay.py"
READ_RUNS = "python experiments/ensemble_on_real_pushes.py"
IDENTIFY = f"{RESULTS}/com_from_real_pushes"
RUN = "python experiments/com_from_real_pushes.py"
CALIBRATE = "python experiments/prior_calibration.py --fake"
ABLATE = "python experiments/estimator_ablations.py --out runs/estimator-ablations --publish"
POLICY_ABLATE = "python experiments/policy_ablations.py --out runs/policy-ablations --publish"
TOOLS = "python experiments/workshop_tool_tasks.py"
TABLES = {
    "picture": Table(
        (f"{RESULTS}/episode_push_tblock_plus.png", f"{RESULTS}/theta_top_push_tblock_plus.png"),
        PAPER_PLUS,
        make.pictures,
    ),
    "paper": Table((f"{RESULTS}/tables_push_tblock.json",), PAPER, readme_paper.paper_tables),
    "paper-picture": Table((f"{RESULTS}/tables_push_tblock.png",), PAPER, make.pictures),
    "theta-picture": Table((f"{RESULTS}/theta_top_push_tblock.png",), PAPER, make.pictures),
    "plus": Table(
        (f"{RESULTS}/tables_push_tblock_plus.json",), PAPER_PLUS, readme_paper.paper_tables
    ),
    "plus-picture": Table((f"{RESULTS}/tables_push_tblock_plus.png",), PAPER_PLUS, make.pictures),
    "hammer": Table(
        (f"{RESULTS}/tables_push_hammer.json",),
        "python experiments/paper_tables.py --out runs/tables-hammer --task push_hammer "
        "--conditions hammer",
        readme_paper.paper_tables,
    ),
    "hammer-picture": Table(
        (f"{RESULTS}/tables_push_hammer.png",),
        "python experiments/paper_tables.py --out runs/tables-hammer --task push_hammer "
        "--conditions hammer",
        make.pictures,
    ),
    "hammer-training": Table(
        (f"{RESULTS}/tables_push_hammer_training.json",),
        "python experiments/paper_tables.py --out runs/tables-hammer-training --task push_hammer "
        "--conditions hammer --dynamics training --full",
        readme_paper.paper_tables,
    ),
    "prior-quality": Table(
        (f"{RESULTS}/prior_quality_push_tblock.json",),
        "python experiments/prior_quality.py --out runs/table-iv",
        readme_paper.prior_quality,
    ),
    "costs": Table((f"{RESULTS}/costs.json",), "python experiments/costs.py", readme_paper.costs),
    "wrong-priors": Table(
        (f"{RESULTS}/wrong_priors.json",),
        "python experiments/wrong_priors.py --out runs/wrong-priors --publish",
        readme_paper.wrong_priors,
    ),
    "estimator-coverage": Table(
        (f"{RESULTS}/estimator_coverage.json",),
        "python experiments/estimator_coverage.py",
        readme_paper.estimator_coverage,
    ),
    "prior-quality-picture": Table(
        (f"{RESULTS}/prior_quality_push_tblock.png",),
        "python experiments/prior_quality.py --out runs/table-iv",
        make.pictures,
    ),
    "fusion-rules": Table(
        (f"{RESULTS}/fusion_rules_fused.json",),
        "python experiments/fusion_rules.py --out runs/fusion-rules --trials 200 --publish",
        readme_paper.fusion_rules,
    ),
    "belief-rules": Table(
        (f"{RESULTS}/fusion_rules_belief.json",),
        "python experiments/fusion_rules.py --out runs/belief-rules --method belief --publish",
        readme_paper.fusion_rules,
    ),
    "quality-grid": Table(
        (f"{RESULTS}/quality_grid.json", f"{RESULTS}/quality_grid.png"),
        "python experiments/quality_grid.py --out runs/quality-grid --publish",
        readme_paper.quality_grid,
    ),
    "robustness-picture": Table(
        (f"{RESULTS}/robustness_push_tblock_plus.png",),
        "python experiments/robustness.py --out runs/robustness --publish",
        make.pictures,
    ),
    "training-curves-picture": Table(
        (f"{RESULTS}/training_curves.png",),
        "python experiments/training_curves.py",
        make.pictures,
    ),
    "factors": Table(
        (f"{RESULTS}/factors_push_tblock.json",),
        "python experiments/reality_factors.py --out runs/factors --publish",
        readme_paper.factors,
    ),
    "factors-hammer": Table(
        (f"{RESULTS}/factors_push_hammer.json",),
        "python experiments/reality_factors.py --out runs/factors-hammer --task push_hammer "
        "--where hammer --trials 60 --publish",
        readme_paper.factors,
    ),
    "training": Table(
        tuple(f"{SHIPPED}/{p}/{f}" for p in TRAINED for f in ("config.json", "metrics.csv")),
        "p2r train",
        make.training,
    ),
    "estimator": Table(
        (f"{SHIPPED}/estimator/calibration.json",), "p2r train-estimator", make.estimator
    ),
    "headline": Table((THROUGHPUT,), TIME, make.throughput_headline),
    "throughput": Table((THROUGHPUT,), TIME, make.throughput),
    "throughput-picture": Table((f"{BENCHMARKS}/throughput.png",), TIME, make.pictures),
    "parity-support": Table((PARITY,), COMPARE, make.parity_by_support),
    "parity-task": Table((PARITY,), COMPARE, make.parity_by_task),
    "parity-picture": Table((f"{BENCHMARKS}/parity.png",), COMPARE, make.pictures),
    "tradeoff": Table((f"{BENCHMARKS}/contact_tradeoff.json",), TRADE, make.tradeoff),
    "tradeoff-picture": Table((f"{BENCHMARKS}/contact_tradeoff.png",), TRADE, make.pictures),
    "prior-latency": Table(
        (f"{BENCHMARKS}/prior_latency.json",),
        "python -m benchmarks.prior_latency",
        make.prior_latency,
    ),
    "first-call": Table(
        (f"{BENCHMARKS}/first_call.json",), "python -m benchmarks.first_call", make.first_call
    ),
    "replay": Table((f"{RESULTS}/real_push_replay.json",), REPLAY, make.replay),
    "replay-picture": Table((f"{RESULTS}/real_push_replay.png",), REPLAY, make.pictures),
    "identify-force": Table((f"{IDENTIFY}.json",), f"{RUN} force", make.identification),
    "identify-force-picture": Table((f"{IDENTIFY}.png",), f"{RUN} force", make.pictures),
    "identify-motion": Table((f"{IDENTIFY}_motion.json",), f"{RUN} motion", make.identification),
    "informative": Table(
        (f"{RESULTS}/informative_pushes.json",),
        f"python experiments/informative_pushes.py --out {RESULTS}/informative_pushes.json",
        make.informative,
    ),
    "sysid-loop": Table(
        (f"{RESULTS}/sysid_in_the_loop.json",),
        "p2r evaluate --methods fused rma-only sysid-fused sysid-only vlm-only --trials 32",
        make.results,
    ),
    "ensemble": Table((f"{RESULTS}/ensemble_on_real_pushes.json",), READ_RUNS, make.ensemble),
    "ensemble-picture": Table(
        (f"{RESULTS}/ensemble_on_real_pushes.png",), READ_RUNS, make.pictures
    ),
    "prior": Table((f"{RESULTS}/prior_calibration.json",), CALIBRATE, make.prior),
    "prior-picture": Table((f"{RESULTS}/prior_calibration.png",), CALIBRATE, make.pictures),
    "tools": Table((f"{RESULTS}/workshop_tools.json",), TOOLS, make.tools),
    "tools-picture": Table((f"{RESULTS}/workshop_tools.png",), TOOLS, make.pictures),
    "estimator-ablations": Table(
        (f"{RESULTS}/estimator_ablations.json",),
        ABLATE,
        readme_ablations.estimator_ablations,
    ),
    "estimator-ablations-picture": Table(
        (f"{RESULTS}/estimator_ablations.png",),
        ABLATE,
        make.pictures,
    ),
    "policy-ablations": Table(
        (f"{RESULTS}/policy_ablations.json",),
        POLICY_ABLATE,
        readme_policy_ablations.policy_ablations,
    ),
    "policy-ablations-picture": Table(
        (f"{RESULTS}/policy_ablations.png",), POLICY_ABLATE, make.pictures
    ),
    "reconstruction": Table(
        (f"{RESULTS}/reconstruction.json",),
        "python experiments/reconstruction.py",
        readme_reconstruction.reconstruction,
    ),
    "reconstruction-picture": Table(
        (f"{RESULTS}/reconstruction.png",),
        "python experiments/reconstruction_picture.py",
        make.pictures,
    ),
    "train-on-reconstruction": Table(
        (f"{RESULTS}/train_on_reconstruction.json",),
        "python experiments/train_on_reconstruction.py",
        readme_reconstruction.train_on_reconstruction,
    ),
    "real-clip": Table(
        (f"{RESULTS}/real_clip.json",),
        "python experiments/real_clip.py",
        readme_reconstruction.real_clip,
    ),
    "tblock-from-splat": Table(
        (f"{RESULTS}/tblock_from_splat.json",),
        "python experiments/tblock_from_splat.py",
        readme_reconstruction.tblock_from_splat,
    ),
    "rasteriser": Table(
        (f"{BENCHMARKS}/rasteriser.json",),
        "python -m benchmarks.rasteriser",
        readme_reconstruction.rasteriser,
    ),
    "scaling": Table(
        (f"{BENCHMARKS}/scaling.json",), "python -m benchmarks.scaling", readme_machines.scaling
    ),
    "evaluation": Table(
        (f"{BENCHMARKS}/evaluation.json",),
        "python -m benchmarks.evaluation",
        readme_machines.evaluation,
    ),
    "small-reconstruction": Table(
        (f"{BENCHMARKS}/reconstruction.json",),
        "python -m benchmarks.reconstruction",
        readme_machines.reconstruction,
    ),
    "packaging": Table(
        (f"{BENCHMARKS}/packaging.json",), "make test-package", readme_machines.packaging
    ),
    "sweep": Table(
        (f"{BENCHMARKS}/sweep.json",), "python -m benchmarks.sweep", readme_machines.sweep
    ),
    "start-up": Table(
        (f"{BENCHMARKS}/start_up.json",), "python -m benchmarks.start_up", readme_machines.start_up
    ),
    "control-loop": Table(
        (f"{BENCHMARKS}/control_loop.json",),
        "python -m benchmarks.control_loop",
        readme_deploy.control_loop,
    ),
    "deploy-faults": Table(
        (f"{BENCHMARKS}/deploy_faults.json",),
        "python -m benchmarks.deploy_faults",
        readme_deploy.deploy_faults,
    ),
    "apriltag": Table(
        (f"{BENCHMARKS}/apriltag_accuracy.json",),
        "python -m benchmarks.apriltag_accuracy",
        readme_deploy.apriltag,
    ),
}


def fill(text: str, root: Path, page: str = "README.md") -> tuple[str, list[str]]:
    """Text of a page with every block made anew, and the names of the blocks that changed.

    Raises:
      ValueError: for an unknown block or a marker without its partner.
    """
    names = [m[2] for m in BLOCK.finditer(text)]
    if len(names) != len(re.findall(r"<!-- /?table:", text)) / 2:
        raise ValueError(f"{page}: a table marker has no partner")
    unknown = sorted(set(names) - set(TABLES))
    if unknown:
        raise ValueError(f"{page}: no table {unknown[0]!r} (tables: {', '.join(TABLES)})")
    stale = []

    def replace(match: re.Match) -> str:
        made = TABLES[match[2]].render(root, page)
        if made != match[3]:
            stale.append(match[2])
        return match[1] + made + match[4]

    return BLOCK.sub(replace, text), stale


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check, status = parser.parse_args(args).check, 0
    for page in PAGES:
        file = ROOT / page
        text, stale = fill(file.read_text(), ROOT, page)
        if not stale:
            continue
        if check:
            print(f"{page} is stale ({', '.join(stale)}): run {Path(__file__).name}")
            status = 1
        else:
            file.write_text(text)
            print(f"{page}: rewrote {', '.join(stale)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
