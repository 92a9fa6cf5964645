"""All of the physics of trials as the training dynamics names it, for methods that are told it."""

import jax.numpy as jnp
import mujoco
import numpy as np

from p2r_jax.evaluation.training_world import TrainingWorld
from p2r_jax.evaluation.trials import World
from p2r_jax.sim.reality import Reality
from p2r_jax.sim.support import support_points
from p2r_jax.types import PhysicsParams


def true_physics(world: World) -> PhysicsParams:
    """Physics of every trial, leaves Float[N, ...].

    Raises:
      TypeError: for a world that does not know its physics.
    """
    if isinstance(world, TrainingWorld):
        return world.physics
    if not isinstance(world, Reality):
        raise TypeError(f"a {type(world).__name__} does not say its physics")
    rows = [_of_model(model) for model in world.models]
    columns = [jnp.asarray(np.stack(column), jnp.float32) for column in zip(*rows, strict=True)]
    points = support_points(world.task.object, world.config.support, world.config.support_count)
    support = jnp.broadcast_to(jnp.asarray(points, jnp.float32), (len(rows), *points.shape))
    return PhysicsParams(*columns, support)


def _of_model(model: mujoco.MjModel) -> tuple[np.ndarray, ...]:
    """Mass, centre of mass, inertia in the object's axes, friction of table and of pusher."""
    body = model.body("object").id
    axes = np.zeros(9)
    mujoco.mju_quat2Mat(axes, model.body_iquat[body])
    axes = axes.reshape(3, 3)
    pairs = [(model.pair(i).name.startswith("table"), i) for i in range(model.npair)]
    table, pusher = (next(i for of_table, i in pairs if of_table == kind) for kind in (True, False))
    return (
        np.array(model.body_mass[body]),
        model.body_ipos[body].copy(),
        axes @ np.diag(model.body_inertia[body]) @ axes.T,
        np.array(model.pair_friction[table, 0]),
        np.array(model.pair_friction[pusher, 0]),
    )
