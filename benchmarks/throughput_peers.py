"""Environments of other projects beside ours: what a user would otherwise train on.

Playground's ``FingerSpin`` and ``ReacherEasy`` (MJX, impl jax; its manipulation tasks
download robot models) and Brax's ``pusher``: vmapped ``step`` under the same random
actions as ours, without any resets, which costs them nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

from benchmarks.timing import Program, random_actions

PLAYGROUND = ("FingerSpin", "ReacherEasy")


class Peer(NamedTuple):
    """An environment of another project.

    Attributes:
      name: with the project.
      reset, step: of one environment.
      action_size: its width.
      substeps: physics steps per control step.
      actions: control steps per timed call.
    """

    name: str
    reset: Callable
    step: Callable
    action_size: int
    substeps: int
    actions: int


def peers() -> list[Peer]:
    """All of them.

    Raises:
      ImportError: naming the extra, if Playground is not installed.
    """
    import mujoco
    from brax import envs

    if not hasattr(mujoco.MjSpec, "find_body"):  # Playground 0.2 calls it by its former name
        mujoco.MjSpec.find_body = mujoco.MjSpec.body
    try:
        from mujoco_playground import registry
    except ImportError as error:
        raise ImportError("--peers needs Playground: pip install 'p2r_jax[bench]'") from error
    found = []
    for name in PLAYGROUND:
        env = registry.load(name, config_overrides={"impl": "jax"})
        found.append(
            Peer(f"Playground {name}", env.reset, env.step, env.action_size, env.n_substeps, 10)
        )
    pusher = envs.get_environment("pusher")
    substeps = pusher._n_frames  # Brax has no public name for it
    found.append(Peer("Brax pusher", pusher.reset, pusher.step, pusher.action_size, substeps, 1))
    return found


def start_peer(peer: Peer, batch: int) -> Program:
    """A batch of it under random actions, compiled."""
    state = jax.jit(jax.vmap(peer.reset))(jax.random.split(jax.random.key(0), batch))
    return random_actions(jax.vmap(peer.step), state, peer.action_size, peer.actions)
