"""The last control steps, as estimators (and policies with a history) read them."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.sim.observation import FEATURES, POSITION_SCALE
from p2r_jax.types import rotate


@struct.dataclass
class Window:
    """The last ``history`` control steps, oldest first, zero before the reset.

    Attributes:
      features: policy features without theta, o[t-H+1..t].
      actions: actions sent, a[t-H..t-1].
    """

    features: Float[Array, "*env h f"]
    actions: Float[Array, "*env h 2"]

    @classmethod
    def empty(cls, history: int) -> "Window":
        """The window after a reset."""
        return cls(jnp.zeros((history, len(FEATURES))), jnp.zeros((history, 2)))

    def push(self, features: Float[Array, " f"], sent: Float[Array, " 2"]) -> "Window":
        """Append the current features and the action that was sent before them."""
        return Window(
            jnp.concatenate([self.features[1:], features[None]]),
            jnp.concatenate([self.actions[1:], sent[None]]),
        )


def window_size(history: int) -> int:
    """Length of ``window_inputs`` of a window with ``history`` rows."""
    return 10 * (history - 1)


def window_inputs(window: Window, action_scale_m: float) -> Float[Array, "*env n"]:
    """What the networks read: the window's motions in the object's own frame.

    A push moves the object by millimetres while raw positions span decimetres,
    so differences between consecutive rows, rotated into the object's axes,
    are computed before the network instead of being left to it. Each of the
    H-1 transitions gives: pusher relative to the object, its displacement, the
    action sent, the object's displacement and rotation, and whether both rows
    exist.
    """
    f = window.features
    exists = (f[..., 2] ** 2 + f[..., 3] ** 2) > 0.5
    yaw = jnp.arctan2(f[..., 3], f[..., 2])
    turn = yaw[..., :-1]
    both = (exists[..., :-1] & exists[..., 1:]).astype(f.dtype)[..., None]

    def in_object(v):
        return rotate(-turn, v)

    object_step = in_object(f[..., 1:, 0:2] - f[..., :-1, 0:2]) / POSITION_SCALE
    ee_step = in_object(f[..., 1:, 4:6] - f[..., :-1, 4:6]) / POSITION_SCALE
    action = in_object(window.actions[..., 1:, :])
    spin = jnp.sin(yaw[..., 1:] - turn)[..., None]
    rows = jnp.concatenate(
        [
            f[..., :-1, 6:8],
            ee_step / action_scale_m,
            action,
            object_step / (0.5 * action_scale_m),
            spin / 0.15,
            jnp.ones_like(spin),
        ],
        -1,
    )
    return (rows * both).reshape(*rows.shape[:-2], -1)
