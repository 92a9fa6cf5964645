"""``p2r recover RUN...``: runs, finished or killed, as one LeRobot dataset."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from p2r_jax.deploy.record.lerobot import write_dataset
from p2r_jax.deploy.record.mcap import Run, log_file, read_run
from p2r_jax.deploy.record.pushes import windows_of_run
from p2r_jax.estimator.logged import LoggedWindows, write_windows
from p2r_jax.tasks import load_task

DATASET, WINDOWS = "lerobot", "windows.npz"


@dataclass(frozen=True)
class RecoverConfig:
    """Which runs, and where to.

    Attributes:
      runs: folders of runs, or their ``.mcap``.
      out: folder of the dataset; by default ``lerobot`` in the folder of the only run.
      video: also draw the view from above.
      theta: of the object, where it is known (its own unit; m): then ``windows.npz``, for
        ``p2r train-estimator --logged``, is written as well.
      history: rows of those windows; None is the task's.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    video: bool = True
    theta: tuple[float, ...] | None = None
    history: int | None = None


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
    known = kept and config.theta is not None
    windows = _windows(kept, config.theta, config.history) if known else None
    write_dataset(kept, out, config.video)
    print(f"{out}: {len(kept)} episodes, LeRobot dataset")
    if windows is not None:
        write_windows(out / WINDOWS, kept[0].header.task, windows)
        print(f"{out / WINDOWS}: {len(windows.theta)} windows")
    return out


def _windows(runs: list[Run], theta: tuple[float, ...], history: int | None) -> LoggedWindows:
    """The windows of all runs, with the truth about the object that they pushed."""
    header = runs[0].header
    if len(theta) != len(header.theta):
        raise ValueError(f"--theta has {len(theta)} values; {header.task} has {header.theta}")
    rows = history or load_task(header.task).history
    windows = [windows_of_run(run, rows).window for run in runs]
    window = jax.tree.map(lambda *x: jnp.concatenate(x), *windows)
    truth = jnp.broadcast_to(jnp.array(theta, jnp.float32), (len(window.actions), len(theta)))
    return LoggedWindows(window, truth)
