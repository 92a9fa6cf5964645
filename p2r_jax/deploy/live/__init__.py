"""A small local page that shows a run as it happens, with a stop button."""

from p2r_jax.deploy.live.server import LiveView

__all__ = ["LiveView"]
