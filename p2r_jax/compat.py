"""The one place that papers over version differences; empty it as upstream releases.

Brax 0.14.2 calls ``jax.device_put_replicated``, which jax 0.10 removed
(google/brax#671, fixed after 0.14.2). Only Brax's stock training loop needs it,
which we run as the slow twin of ours.
"""

import contextlib
import io

import jax
import jax.numpy as jnp


def import_mjx_quietly() -> None:
    """MJX 3.17 prints two lines at import when its optional Warp backend is absent."""
    with contextlib.redirect_stdout(io.StringIO()):
        import mujoco.mjx  # noqa: F401


def enable_stock_brax_training() -> None:
    """Give jax >= 0.10 the function that ``brax.training.agents.*.train`` calls."""
    try:
        jax.device_put_replicated  # noqa: B018  (a removed name raises on access)
    except AttributeError:
        jax.device_put_replicated = _device_put_replicated


def _device_put_replicated(tree, devices):
    """Stack a copy of ``tree`` per device along a new leading axis."""
    return jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * len(devices)), tree)
