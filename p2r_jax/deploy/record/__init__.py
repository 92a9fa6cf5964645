"""What a run leaves behind: MCAP as it happens, a LeRobot dataset afterwards."""

from p2r_jax.deploy.record.codec import RunError
from p2r_jax.deploy.record.lerobot import write_dataset
from p2r_jax.deploy.record.mcap import LOG_NAME, McapRunWriter, Run, is_run, open_run, read_run
from p2r_jax.deploy.record.recover import RecoverConfig, recover

__all__ = [
    "LOG_NAME",
    "McapRunWriter",
    "RecoverConfig",
    "Run",
    "RunError",
    "is_run",
    "open_run",
    "read_run",
    "recover",
    "write_dataset",
]
