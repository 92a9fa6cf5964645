"""Shared fixtures: the task, small and fast copies of it."""

import os
from dataclasses import replace

import jax
import pytest

from p2r_jax.tasks import load_task


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile identical programs once per test session, over all of its processes."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def task():
    """The paper's task as registered."""
    return load_task("push_tblock")


@pytest.fixture
def small_task(task):
    """Short episodes and few substeps: for plumbing, not for physics."""
    return replace(task, episode_length=6, planar=replace(task.planar, substeps=2))
