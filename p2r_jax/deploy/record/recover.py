"""``p2r recover RUN...``: runs, finished or killed, as one LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from p2r_jax.deploy.record.lerobot import write_dataset
from p2r_jax.deploy.record.mcap import log_file, read_run

DATASET = "lerobot"


@dataclass(frozen=True)
class RecoverConfig:
    """Which runs, and where to.

    Attributes:
      runs: folders of runs, or their ``.mcap``.
      out: folder of the dataset; by default ``lerobot`` in the folder of the only run.
      video: also draw the view from above.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    video: bool = True


def recover(config: RecoverConfig) -> Path:
    """Write the dataset, say what was in each run, and return the dataset's folder.

    A run without a single step is named and left out.

    Raises:
      FileNotFoundError: if a run is not there.
      RunError: if a run cannot be read, none has a step, or they do not go together.
      ValueError: for several runs without ``out``.
      FileExistsError: if the dataset's folder is not empty.
    """
    if not config.runs:
        raise ValueError("p2r recover: name at least one run")
    if config.out is None and len(config.runs) > 1:
        raise ValueError(f"{len(config.runs)} runs make one dataset; say where with --out")
    out = config.out or log_file(config.runs[0]).parent / DATASET
    kept = []
    for path in config.runs:
        run = read_run(path)
        print(f"{path}: {len(run.steps)} steps, ended: {run.cause}"
              + ("" if run.steps else "; left out"))  # fmt: skip
        kept += [run] if run.steps else []
    write_dataset(kept, out, config.video)
    print(f"{out}: {len(kept)} episodes, LeRobot dataset")
    return out
