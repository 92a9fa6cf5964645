"""A task: a function that returns a frozen configuration and carries its name."""

from dataclasses import replace

from p2r_jax.tasks import Task, load_task


def push_on_ice() -> Task:
    """``push_tblock`` on a slippery table, paid for not turning the block needlessly."""
    base = load_task("push_tblock")
    return replace(
        base,
        name="push_on_ice",
        physics=replace(base.physics, friction=(0.03, 0.1)),
        reward=replace(base.reward, extra=(("turning", -0.05),)),
    )
