"""The fused contact step: what it refuses, and against its slow twins, MJX and C MuJoCo."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from p2r_jax.sim import contact_fused
from p2r_jax.sim.asset import Asset, load_asset, tblock
from p2r_jax.sim.contact import ContactConfig, ContactDynamics, driven_scene
from p2r_jax.sim.contact_fused import Softness
from p2r_jax.sim.contact_scalars import solve
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.mjcf import write_physics
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

    config = ContactConfig(substeps=SUBSTEPS, iterations=4, ls_iterations=4, pusher_armature=1e5)
    fast = pushed(config)
    slow = pushed(replace(config, solver="mjx", iterations=10, ls_iterations=20))
    moved = np.linalg.norm(slow.pose.xy, axis=-1)
    assert np.all(moved > TRAVEL / 3)
    assert np.all(np.isfinite(fast.qpos))
    assert np.all(fast.contact > 0)
    assert np.max(np.abs(fast.pose.xy - slow.pose.xy)) <= 1e-3 * TWIN_MM
    assert np.degrees(np.max(np.abs(fast.pose.yaw - slow.pose.yaw))) <= TWIN_DEG


def beside(asset: Asset) -> np.ndarray:
    """Pusher half a millimetre from the object, come from +x."""
    ee = np.array([0.3, 0.012])
    for _ in range(200):
        ee[0] -= signed_distance(asset.parts, ee, np) - RADIUS - 5e-4
    return ee


def states_of_a_push(asset: Asset, kind: str, config: ContactConfig) -> tuple:
    """A push in C MuJoCo, solved to the end: support, state before each step, acceleration."""
    support = np.unique(support_points(asset, kind, config.support_count), axis=0)
    model = driven_scene(asset, support, RADIUS, config.scene(DURATION), config.pusher_armature)
    model.pair_solimp[model.npair - len(asset.parts) :] = config.pusher_solimp
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    model.opt.iterations, model.opt.ls_iterations = 200, 100
    model.opt.tolerance, model.stat.meaninertia = 1e-12, asset.mass_kg
    write_physics(model, asset.mass_kg, asset.com_m, np.array(asset.inertia), 0.3, 0.4)
    data = mujoco.MjData(model)
    data.qpos[:] = [0, 0, asset.height_m / 2, 1, 0, 0, 0, *beside(asset)]
    mujoco.mj_step(model, data, nstep=40)
    velocity, states = np.array([-0.06, -0.02]), []
    for _ in range(40):
        data.qvel[6:] = velocity
        before = (data.qpos[:7], data.qvel[:6], data.qacc_warmstart[:6], data.qpos[7:])
        before = tuple(x.copy() for x in before)
        mujoco.mj_step(model, data)
        states.append((*before, velocity, data.qacc[:6].copy()))
    *states, wanted = (np.stack(column) for column in zip(*states, strict=True))
    return support, [jnp.float32(x) for x in states], wanted


@pytest.mark.parametrize("name", ["tblock", "hammer", "triangle_101"])
def test_converged_step_accelerates_as_c_mujoco_does(name):
    """Boxes, polygons and both: the contacts and costs are MuJoCo's own, state by state."""
    asset = load_asset(name)
    config = ContactConfig(
        substeps=20, support_count=6, iterations=30, ls_iterations=15, pusher_armature=1e6
    )
    scene = replace(ContactDynamics(asset, RADIUS, DURATION, config)._fused, substeps=1)
    step = jax.jit(
        jax.vmap(functools.partial(contact_fused.advance, scene), in_axes=(None, *[0] * 5))
    )
    for kind in ("patch", "rim", "corners", "feet"):
        if kind == "feet" and name == "triangle_101":
            continue  # its centre of mass is outside: the triangle tips over
        support, states, wanted = states_of_a_push(asset, kind, config)
        mass = (asset.mass_kg, asset.com_m, asset.inertia, 0.3, 0.4, support)
        _, _, got, touched = step(PhysicsParams(*(jnp.float32(x) for x in mass)), *states)
        assert 2 <= float(touched.sum()) < 40
        arm = np.array([1, 1, 1, 0.05, 0.05, 0.05])  # m; angular to linear
        error = np.linalg.norm((got - wanted) * arm, axis=-1)
        steady = np.diff(touched, append=touched[-1:]) == 0  # float32 decides the first touch
        assert np.max(error[steady]) <= 2e-3 * np.max(np.linalg.norm(wanted * arm, axis=-1)), kind


def test_default_iterations_end_where_a_full_solution_ends():
    """A push near the stem's corner in 50 ms steps, which 3/2 iterations miss by 34 mm."""
    asset, physics_of = tblock(), tblock().with_weight(0.05)
    support = support_points(asset, "patch", 6)
    physics = PhysicsParams(*(jnp.float32(x) for x in (*physics_of, 0.25, 0.25, support)))
    ends = []
    for exact in ({}, {"iterations": 20, "ls_iterations": 15}):
        config = ContactConfig(substeps=20, support_count=6, **exact)
        dynamics = ContactDynamics(asset, RADIUS, 1.0, config)

        @jax.jit
        def push(yaw, dynamics=dynamics):
            state = dynamics.init(PlanarPose(jnp.zeros(2), yaw), jnp.array([0.16, 0.02]))
            for target in ([0.10, 0.01], [0.06, 0.0]):
                state = dynamics.advance(physics, {}, state, jnp.array(target))
            return state.pose.xy

        ends.append(np.array(push(jnp.float32(3.0))))
    assert np.linalg.norm(ends[1]) > 0.05
    np.testing.assert_allclose(*ends, atol=1e-3)
