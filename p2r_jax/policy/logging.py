"""Training logs: console, CSV, TensorBoard; Weights & Biases if asked."""

import csv
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricLog:
    """Append rows of named numbers to ``metrics.csv`` and TensorBoard.

    The CSV's columns are those of its first row. A resumed run appends.
    """

    def __init__(self, folder: Path, wandb_project: str | None = None, config: dict | None = None):
        """Open the logs in ``folder``; W&B only if a project is named."""
        self._path = folder / "metrics.csv"
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"))
        self._wandb = None
        if wandb_project:
            import wandb

            self._wandb = wandb.init(
                project=wandb_project, dir=str(folder), config=config, resume="allow"
            )

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Log one row at ``step`` control steps."""
        row = {"step": step, **row}
        fresh = not self._path.exists()
        with self._path.open("a", newline="") as file:
            if fresh:
                csv.writer(file).writerow(row)
                columns = list(row)
            else:
                columns = next(csv.reader(self._path.open()))
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
