"""The options of ``p2r sweep FILE`` and ``p2r sweep status FOLDER``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2r_jax.sweep.launch import sweep
from p2r_jax.sweep.plan import check_variants, jobs
from p2r_jax.sweep.spec import Cluster, read_sweep
from p2r_jax.sweep.status import Status, print_status, sweep_status
from p2r_jax.sweep.worker import load_sweep


@dataclass(frozen=True)
class SweepConfig:
    """Which sweep.

    Attributes:
      file: YAML, see ``sweep.spec``.
      plan: check it and list its jobs, but start nothing.
      cluster: where, in place of the file's ``launcher.cluster``.
    """

    file: Annotated[Path, tyro.conf.Positional]
    plan: bool = False
    cluster: Cluster | None = None


@dataclass(frozen=True)
class StatusConfig:
    """Which sweep's status.

    Attributes:
      folder: of the sweep.
      json: print JSON.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    json: bool = False


def sweep_command(config: SweepConfig) -> bool:
    """Run what is missing, or list it; whether nothing is wrong."""
    if not config.plan:
        return sweep(config.file, config.cluster)
    planned = read_sweep(config.file)
    check_variants(planned)
    for job in jobs(planned):
        print(f"{job.name}: {len(job.runs)} runs")
    print(f"{len(jobs(planned))} jobs, {sum(len(job.runs) for job in jobs(planned))} runs "
          f"in {planned.out}")  # fmt: skip
    return True


def status_command(config: StatusConfig) -> Status:
    """Print the status of the sweep in a folder.

    Raises:
      FileNotFoundError: if there is no sweep.
    """
    status = sweep_status(load_sweep(config.folder))
    if config.json:
        print(json.dumps(asdict(status), indent=2, default=str))
    else:
        print_status(status)
    return status
