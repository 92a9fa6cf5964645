"""Which GPUs local workers see: what the user shows them, shared out.

submitit sets ``CUDA_VISIBLE_DEVICES`` of its processes from numbers alone, to nothing if no GPU
is asked for. What the user said is put back by the worker, before jax looks for devices.
"""

import itertools
import os
import shutil
import subprocess

from p2r_jax.sweep.spec import Launcher

VISIBLE, FRACTION = "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"
MEMORY_SETTINGS = (FRACTION, "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")
JAX_TAKES = 0.75  # of a GPU's memory, unless it is told otherwise
HIDDEN = ("", "-1", "NoDevFiles")  # of a list, such a name ends what CUDA sees


def visible_gpus() -> int | None:
    """How many GPUs there are to share out; None if that cannot be told without touching them."""
    if (named := _named()) is not None:
        return len(named)
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "-L"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _named() -> list[str] | None:
    """GPUs by the names that ``CUDA_VISIBLE_DEVICES`` gives them; None if it is not set."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    return list(itertools.takewhile(lambda name: name not in HIDDEN, names))


def most_workers(launcher: Launcher) -> int:
    """Local workers that the cores and, as far as known, the GPUs of this machine allow."""
    cores, gpus = len(os.sched_getaffinity(0)), visible_gpus() if launcher.gpus else None
    return cores if gpus is None else min(cores, gpus // launcher.gpus)


def check_machine(launcher: Launcher) -> None:
    """Refuse local workers that this machine has no cores or GPUs for.

    Raises:
      ValueError: naming what is asked for and what is there.
    """
    if launcher.cluster != "local" or launcher.workers <= most_workers(launcher):
        return
    cores = len(os.sched_getaffinity(0))
    if launcher.workers > cores:
        raise ValueError(
            f"launcher.workers is {launcher.workers}, and this machine has {cores} cores; "
            f"at most {cores} local workers"
        )
    shown = f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
    raise ValueError(
        f"launcher.gpus x launcher.workers is {launcher.gpus} x {launcher.workers}, and "
        f"{visible_gpus()} GPUs are visible{shown}; give fewer workers, or gpus: 0 to "
        "let them share what is there"
    )


def environment_of(launcher: Launcher, index: int, count: int) -> dict[str, str | None]:
    """Variables of local worker ``index`` of ``count``; None unsets one.

    With ``launcher.gpus`` it gets GPUs of its own. Without, it sees those the user sees, and
    as jax takes most of a GPU's memory at start, workers take equal shares of that.
    """
    if launcher.gpus:
        first, last = index * launcher.gpus, (index + 1) * launcher.gpus
        named = _named()
        names = [str(i) for i in range(last)] if named is None else named
        return {VISIBLE: ",".join(names[first:last])}
    given = {VISIBLE: os.environ.get(VISIBLE)}
    if count > 1 and not any(name in os.environ for name in MEMORY_SETTINGS):
        given[FRACTION] = f"{JAX_TAKES / count:.3f}"
    return given
