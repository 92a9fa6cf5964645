"""Logs of pushes: one form in memory, three file formats, checks that name row and column."""

from p2r_jax.pushlog.checks import Limits, Problem, check_log, tool_gap
from p2r_jax.pushlog.files import read_log, write_log
from p2r_jax.pushlog.log import (
    Exclusion,
    LogError,
    PushLog,
    resample,
    split_by_contact,
    split_windows,
)

__all__ = [
    "Exclusion",
    "Limits",
    "LogError",
    "Problem",
    "PushLog",
    "check_log",
    "read_log",
    "resample",
    "split_by_contact",
    "split_windows",
    "tool_gap",
    "write_log",
]
