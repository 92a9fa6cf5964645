"""The one place that papers over version differences; empty it as upstream releases.

Brax 0.14.2 calls ``jax.device_put_replicated``, which jax 0.10 removed
(google/brax#671, fixed after 0.14.2). Only Brax's stock training loop needs it,
which we run as the slow twin of ours.
"""

import contextlib
import hashlib
import io
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

CPUINFO = Path("/proc/cpuinfo")


def import_mjx_quietly() -> Any:
    """The module ``mujoco.mjx``, imported without the two lines it prints to stdout.

    MJX 3.17 prints them when its optional Warp backend is absent, and whoever pipes
    our output into another program would read them as results.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        import mujoco.mjx
    return mujoco.mjx


def use_compilation_cache() -> None:
    """Keep compiled programs between runs; ``JAX_COMPILATION_CACHE_DIR`` is honoured.

    One folder per kind of processor, since compiled code must not wander to another.
    """
    if jax.config.jax_compilation_cache_dir is None:
        kind = CPUINFO.read_text().split("\n\n")[0] if CPUINFO.is_file() else ""
        lines = [x for x in kind.splitlines() if x.startswith(("model name", "flags"))]
        name = hashlib.sha256("\n".join([platform.machine(), *lines]).encode()).hexdigest()[:12]
        cache = Path.home() / ".cache" / "p2r_jax" / "xla" / name
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def enable_stock_brax_training() -> None:
    """Give jax >= 0.10 the function that ``brax.training.agents.*.train`` calls."""
    try:
        jax.device_put_replicated  # noqa: B018  (a removed name raises on access)
    except AttributeError:
        jax.device_put_replicated = _device_put_replicated


def _device_put_replicated(tree, devices):
    """Stack a copy of ``tree`` per device along a new leading axis."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * len(devices)), tree)
