"""Windows of real runs of an object whose theta is known, as experience beside the simulated.

A file of them is what ``p2r recover RUN... --theta ...`` writes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.files import write_atomic
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task


@struct.dataclass
class LoggedWindows:
    """What an estimator was asked, and the answer.

    Attributes:
      window: leaves [n, H, ...].
      theta: truth, in theta's own unit.
    """

    window: Window
    theta: Float[Array, "n k"]


def write_windows(path: Path, task: str, windows: LoggedWindows) -> None:
    """Write windows of one task as ``.npz``."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, task=task, names=np.array(FEATURES), features=windows.window.features,
        actions=windows.window.actions, theta=windows.theta,
    )  # fmt: skip
    write_atomic(path, buffer.getvalue())


def read_windows(paths: Sequence[Path], task: Task, history: int) -> LoggedWindows:
    """Read files of windows into one.

    Args:
      paths: what ``write_windows`` wrote.
      task: that the estimator is for.
      history: rows of its windows.

    Raises:
      FileNotFoundError: for a file that is not there.
      ValueError: for windows of another task, other observations or another length.
    """
    read = [_read(Path(path), task, history) for path in paths]
    features, actions, theta = (jnp.concatenate(column) for column in zip(*read, strict=True))
    return LoggedWindows(Window(features, actions), theta)


def _read(path: Path, task: Task, history: int) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as file:
        missing = {"task", "names", "features", "actions", "theta"} - set(file.files)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; p2r recover writes it")
        found, names = str(file["task"]), tuple(file["names"].tolist())
        arrays = tuple(np.float32(file[k]) for k in ("features", "actions", "theta"))
    if found != task.name:
        raise ValueError(f"{path} holds windows of task {found!r}, not of {task.name!r}")
    if names != FEATURES:
        raise ValueError(f"{path} has features {names}, this version has {FEATURES}")
    rows, size = arrays[0].shape[1], arrays[2].shape[1]
    if rows != history:
        raise ValueError(
            f"{path} has windows of {rows} rows, the estimator reads {history}: "
            "p2r recover ... --history"
        )
    if size != len(task.theta):
        raise ValueError(f"{path} knows {size} components of theta, {task.name!r} has "
                         f"{len(task.theta)}")  # fmt: skip
    return arrays
