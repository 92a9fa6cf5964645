"""What MuJoCo Warp lost for want of room: its overflow flags as a metric, never silent.

Warp reserves space for contacts and constraint rows when data is made. What does not
fit is left out of the physics, and one bit per kind is set in ``overflow``, one
integer per environment.
"""

import warnings
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int

from p2r_jax.compat import import_mjx_quietly

if TYPE_CHECKING:
    from mujoco import mjx
else:
    mjx = import_mjx_quietly()

# bits of mujoco_warp's OverflowType that mean lost contacts or rows; a solver that stops at
# its iteration limit (ITERATIONS, LS_ITERATIONS) is what our settings ask for
LOST = {
    "NEFC": 1 << 0,
    "NJMAX_NNZ": 1 << 1,
    "BROADPHASE": 1 << 2,
    "NARROWPHASE": 1 << 3,
    "CCD": 1 << 4,
    "HFIELD": 1 << 5,
    "CONTACT_MATCH": 1 << 6,
    "NVMAX": 1 << 7,
    "EPA_HORIZON": 1 << 8,
    "TACTILE": 1 << 11,
}
LOST_MASK = sum(LOST.values())


def overflow_bits(data: mjx.Data) -> Int[Array, ""]:
    """Bits of ``LOST`` that the last step set; zero for backends that cannot overflow."""
    flags = getattr(data._impl, "overflow", None)
    if flags is None:
        return jnp.zeros((), jnp.int32)
    return jnp.bitwise_or.reduce(jnp.ravel(jnp.asarray(flags, jnp.int32))) & LOST_MASK


def overflow_names(bits: int) -> tuple[str, ...]:
    """Names in mujoco_warp's ``OverflowType`` of the bits that are set."""
    return tuple(name for name, bit in LOST.items() if int(bits) & bit)


@custom_vmap
def warn_of_overflow(bits: Int[Array, ""]) -> Int[Array, ""]:
    """The same bits; a RuntimeWarning on the host names them when any is set.

    Under ``vmap`` the batch is looked at as one, so that a step costs one callback.
    """
    jax.debug.callback(_warn, bits)
    return bits


@warn_of_overflow.def_vmap
def _(axis_size, in_batched, bits):
    """One warning for a whole batch."""
    del axis_size
    warn_of_overflow(jnp.bitwise_or.reduce(bits, axis=0) if in_batched[0] else bits)
    return bits, in_batched[0]


def _warn(bits: np.ndarray) -> None:
    names = overflow_names(int(bits))
    if names:
        warnings.warn(
            f"MuJoCo Warp ran out of room ({', '.join(names)}): contacts or constraint rows "
            "are missing from this step. Make room (naconmax, njmax in mjx.make_data) or run "
            'ContactConfig(solver="fused")',
            RuntimeWarning,
            stacklevel=2,
        )
