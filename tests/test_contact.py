"""The fused contact step: what it refuses, and against its slow twin, MJX."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.sim.asset import tblock
from p2r_jax.sim.contact import ContactConfig, ContactDynamics
from p2r_jax.sim.contact_fused import Softness
from p2r_jax.sim.contact_scalars import solve
from p2r_jax.sim.support import support_points
from p2r_jax.types import PhysicsParams, PlanarPose

RADIUS, TRAVEL, DURATION, SUBSTEPS = 0.0125, 0.006, 0.2, 20  # m, m, s: 3 cm/s in 10 ms steps
TWIN_MM, TWIN_DEG = 0.1, 0.1  # three against ten Newton iterations, in float32


def test_combinations_no_solver_can_run_are_errors():
    with pytest.raises(ValueError, match="elliptic"):
        ContactConfig(elliptic=False)
    with pytest.raises(ValueError, match="warp"):
        ContactConfig(impl="warp")
    with pytest.raises(ValueError, match="time constant"):
        Softness((-100.0, -10.0), (0.9, 0.95, 0.001, 0.5, 2.0))


def test_scalar_cholesky_solves_what_numpy_solves():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(6, 6))
    matrix, right = half @ half.T + np.eye(6), rng.normal(size=6)
    lower = [[jnp.float32(matrix[i, j]) for j in range(i + 1)] for i in range(6)]
    got = jax.jit(solve)(lower, tuple(jnp.float32(right)))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, right), rtol=1e-3, atol=1e-4)


def test_fused_push_ends_where_the_mjx_push_ends():
    asset = tblock()
    support = jnp.float32(support_points(asset, "patch", 12))
    ee = jnp.array([[-0.1 - RADIUS - 5e-4, y] for y in (-0.01, 0.0, 0.015)])

    def pushed(config):
        dynamics = ContactDynamics(asset, RADIUS, DURATION, config)

        @jax.jit
        @jax.vmap
        def run(ee):
            mass, com, inertia = (jnp.float32(x) for x in asset.with_weight(0.05))
            friction = jnp.float32(0.25)
            physics = PhysicsParams(mass, com, inertia, friction, friction, support)
            state = dynamics.init(PlanarPose(jnp.zeros(2), jnp.zeros(())), ee)
            target = ee + jnp.array([TRAVEL, 0.0])
            return dynamics.advance(physics, dynamics.derive(physics), state, target)

        return jax.device_get(run(ee))

    config = ContactConfig(substeps=SUBSTEPS, pusher_armature=1e5)
    fast = pushed(config)
    slow = pushed(replace(config, solver="mjx", iterations=10, ls_iterations=20))
    moved = np.linalg.norm(slow.pose.xy, axis=-1)
    assert np.all(moved > TRAVEL / 3)
    assert np.all(np.isfinite(fast.qpos))
    assert np.all(fast.contact > 0)
    assert np.max(np.abs(fast.pose.xy - slow.pose.xy)) <= 1e-3 * TWIN_MM
    assert np.degrees(np.max(np.abs(fast.pose.yaw - slow.pose.yaw))) <= TWIN_DEG
