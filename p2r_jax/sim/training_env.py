"""A batch of environments whose episodes really start anew.

Brax's auto-reset replays the first reset for ever: same physics, same yaw,
every episode. Resetting under ``where`` at every step would pay for a reset
per step. Here each environment holds one fresh episode in reserve; reserves
are redrawn once per unroll (``refill``), which costs 1/unroll of a reset per
step. An environment that ends twice within one unroll takes a neighbour's
reserve; ``info["reserve_reuse"]`` counts those.
"""

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State, Wrapper
from flax import struct
from jaxtyping import Array, Bool, Float

from p2r_jax.types import tree_where


@struct.dataclass
class UnrollRecord:
    """What the environments went through in one unroll, for a post-mortem.

    Attributes:
      start: their state when it began, leaves [env, ...].
      reserve: the fresh episodes they held then.
      dynamics: state of the dynamics before each step, leaves [time, env, ...].
      action: as given to ``step``, not yet clipped.
      done: whether the episode ended with the step.
      blown: whether it ended because physics blew up.
    """

    start: struct.PyTreeNode
    reserve: struct.PyTreeNode
    dynamics: struct.PyTreeNode
    action: Float[Array, "time env 2"]
    done: Bool[Array, "time env"]
    blown: Bool[Array, "time env"]

    def episode(self, time: int, env: int) -> struct.PyTreeNode:
        """State from which the episode of ``env`` at ``time`` came: ``start`` or a reserve."""
        ends = int(self.done[:time, env].sum())
        if not ends:
            return jax.tree.map(lambda x: x[env], self.start)
        index = (env + ends - 1) % self.done.shape[1]
        return jax.tree.map(lambda x: x[index], self.reserve)


class TrainingEnv(Wrapper):
    """Vectorised environment with honest resets; pass it to ``policy.ppo``."""

    def __init__(self, env: Env, episode_length: int):
        """Wrap ``env``; ``episode_length`` only staggers the first episodes."""
        super().__init__(env)
        self.episode_length = episode_length

    def reset(self, rng: Array) -> State:
        """Fresh episodes for a batch of keys, at staggered points of their time limit."""
        state = jax.vmap(self.env.reset)(rng)
        count = state.done.shape[0]
        age = jnp.arange(count) * self.episode_length // count
        inner = state.pipeline_state.replace(step=age.astype(jnp.float32))
        state = state.replace(pipeline_state=inner)
        return self.refill(state, jax.random.fold_in(rng[0], 1))

    def refill(self, state: State, key: Array) -> State:
        """Draw a new reserve episode for every environment."""
        count = state.done.shape[0]
        reserve = jax.vmap(self.env.reset)(jax.random.split(key, count))
        info = {k: v for k, v in state.info.items() if k != "reserve"}
        info |= {
            "reserve": (reserve.pipeline_state, reserve.obs),
            "uses": jnp.zeros(count),
            "reserve_reuse": jnp.zeros(count),
        }
        return state.replace(info=info)

    def step(self, state: State, action: Array) -> State:
        """Step the batch; where an episode ended, continue with a reserve."""
        own = ("reserve", "uses", "reserve_reuse")
        kept = {k: state.info[k] for k in own}
        bare = state.replace(info={k: v for k, v in state.info.items() if k not in own})
        new = jax.vmap(self.env.step)(bare, action)
        done = new.done > 0
        again = done & (kept["uses"] > 0)
        reserve = jax.lax.cond(
            jnp.any(again), lambda r: self._shift(r, kept["uses"]), lambda r: r, kept["reserve"]
        )
        inner = tree_where(done, reserve[0], new.pipeline_state)
        obs = tree_where(done, reserve[1], new.obs)
        info = {
            **new.info,
            "reserve": kept["reserve"],
            "uses": kept["uses"] + done,
            "reserve_reuse": kept["reserve_reuse"] + again,
        }
        return new.replace(pipeline_state=inner, obs=obs, info=info)

    @staticmethod
    def _shift(reserve, uses):
        """Reserve of the neighbour ``uses`` places away."""
        count = uses.shape[0]
        index = (jnp.arange(count) + uses.astype(jnp.int32)) % count
        return jax.tree.map(lambda x: x[index], reserve)
