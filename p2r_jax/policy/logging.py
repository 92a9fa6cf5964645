"""Training logs: CSV and TensorBoard; Weights & Biases if asked."""

import csv
import uuid
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from p2r_jax.files import write_atomic

METRICS_FILE, WANDB_FILE = "metrics.csv", "wandb_id"


class MetricLog:
    """Append rows of named numbers to ``metrics.csv`` and TensorBoard.

    The CSV's columns are those of its first row. A resumed run goes on after the step it was
    saved at: later rows, which it will write again, and half a row are dropped.
    """

    def __init__(
        self,
        folder: Path,
        wandb_project: str | None = None,
        config: dict | None = None,
        after: int = 0,
    ):
        """Open the logs in ``folder``.

        Args:
          folder: of the run.
          wandb_project: log to this Weights & Biases project as well.
          config: settings for it.
          after: last step that is kept of an earlier log; 0 starts anew.

        Raises:
          ImportError: if a project is named and wandb is not there.
        """
        self._wandb = None
        if wandb_project:
            self._wandb = _start_wandb(wandb_project, folder, config, fresh=not after)
        self._path = folder / METRICS_FILE
        _drop_rows(self._path, after)
        purge = after + 1 if after else None
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Log one row at ``step`` (control steps of a policy, rounds of an estimator)."""
        row = {"step": step, **row}
        fresh = not self._path.exists()
        columns = list(row) if fresh else read_rows(self._path)[0]
        with self._path.open("a", newline="") as file:
            if fresh:
                csv.writer(file).writerow(columns)
            csv.writer(file).writerow([row.get(c, "") for c in columns])
        for name, value in row.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(row, step=step)

    def close(self) -> None:
        """Flush everything."""
        self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and complete rows of a ``metrics.csv``; nothing of one that is not there."""
    if not path.is_file():
        return [], []
    with path.open(newline="") as file:
        columns, *rows = [*csv.reader(file)] or [[]]
    return columns, [row for row in rows if len(row) == len(columns)]


def _drop_rows(path: Path, after: int) -> None:
    columns, rows = read_rows(path)
    kept = [row for row in rows if float(row[0]) <= after]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(path.read_text().splitlines()) - 1:
        text = "".join(",".join(row) + "\n" for row in [columns, *kept])
        write_atomic(path, text.encode())


def _start_wandb(project: str, folder: Path, config: dict | None, fresh: bool):
    """The W&B run of a folder: a resumed run goes on in the one it began."""
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            "Weights & Biases is not installed: pip install 'p2r_jax[wandb]'"
        ) from error
    name = folder / WANDB_FILE
    if fresh or not name.is_file():
        write_atomic(name, uuid.uuid4().hex[:12].encode())
    return wandb.init(
        project=project, dir=str(folder), config=config, id=name.read_text(), resume="allow"
    )
