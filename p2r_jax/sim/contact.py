"""Pushing with real contacts: a free body on support points, MuJoCo's contact physics.

The reference for ``planar``: friction at the table and at the pusher comes from
MuJoCo's soft elliptic cones. The pusher is driven exactly (position and velocity
are written before every substep), so servo lag is no part of the physics.
Two solvers share this interface: ``fused``, the step written for this scene
(``contact_fused``), and ``mjx``, MuJoCo MJX itself, its slow trusted twin.
``push_in_c`` is the same scene in C MuJoCo, the judge of every dynamics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int
from mujoco import rollout

from p2r_jax.compat import import_mjx_quietly
from p2r_jax.sim import contact_fused
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.contact_fused import FusedScene, Softness
from p2r_jax.sim.footprint import signed_distance
from p2r_jax.sim.mjcf import SceneOptions, push_spec
from p2r_jax.sim.support import support_points
from p2r_jax.sim.warp_overflow import overflow_bits, warn_of_overflow
from p2r_jax.types import PhysicsParams, PlanarPose, rotate, to_object, wrap_angle

if TYPE_CHECKING:
    from mujoco import mjx
else:
    mjx = import_mjx_quietly()

SETTLE_S = 0.2  # time for the soft table contacts to take the weight


@dataclass(frozen=True)
class ContactConfig:
    """Numerical settings of the contact dynamics.

    The pushing speed follows from the action's length and the ``dt_s`` given to
    ``ContactDynamics``; the physics step is ``dt_s / substeps``.

    Attributes:
      solver: ``fused`` (elliptic cones only) or ``mjx``, its slow twin.
      substeps: physics steps per action.
      support_count: rows of ``PhysicsParams.support``; static.
      elliptic: elliptic friction cones; pyramids are faster and weaker at 45 deg.
      iterations, ls_iterations: Newton solver.
      impratio, table_solref, table_solimp, pusher_solref: see ``SceneOptions``.
      pusher_solimp: impedance between pusher and object. MuJoCo raises time constants
        below two physics steps, which softens this contact; a higher impedance than
        MuJoCo's own (0.9, 0.95) makes up for it.
      pusher_armature: kg; large, so that contact forces do not move the pusher
        within a substep.
      impl: MJX backend; ``warp`` needs ``solver="mjx"`` and an NVIDIA GPU.

    Raises:
      ValueError: for a combination that no solver can run.
    """

    solver: Literal["fused", "mjx"] = "fused"
    substeps: int = 50
    support_count: int = 12
    elliptic: bool = True
    iterations: int = 4
    ls_iterations: int = 4
    impratio: float = SceneOptions.impratio
    table_solref: tuple[float, float] = SceneOptions.table_solref
    table_solimp: tuple[float, ...] = SceneOptions.table_solimp
    pusher_solref: tuple[float, float] = SceneOptions.pusher_solref
    pusher_solimp: tuple[float, ...] = (0.95, 0.95, 0.001, 0.5, 2.0)
    pusher_armature: float = 100.0
    impl: Literal["jax", "warp"] = "jax"

    def __post_init__(self):
        if self.solver == "fused" and not self.elliptic:
            raise ValueError('elliptic=False needs solver="mjx"; fused knows elliptic cones only')
        if self.solver == "fused" and self.impl == "warp":
            raise ValueError('impl="warp" is a backend of MJX; set solver="mjx"')

    def scene(self, dt_s: float) -> SceneOptions:
        """The same settings as the options of an MJCF scene."""
        return SceneOptions(
            timestep_s=dt_s / self.substeps,
            elliptic=self.elliptic,
            iterations=self.iterations,
            ls_iterations=self.ls_iterations,
            impratio=self.impratio,
            table_solref=self.table_solref,
            table_solimp=self.table_solimp,
            pusher_solref=self.pusher_solref,
        )


@struct.dataclass
class ContactState:
    """Object and pusher between actions.

    Attributes:
      pose: object frame in the world.
      twist: (vx, vy, yaw rate) of the centre of mass, world axes, m/s and rad/s.
      ee_xy: pusher centre, m.
      contact: share of the last action's substeps with pusher contact.
      overflow: what MuJoCo Warp lost in the last action (bits of ``sim.warp_overflow``);
        zero with every other backend.
      qpos, qvel, qacc_warmstart: MuJoCo's state (free joint, then two slides).
    """

    pose: PlanarPose
    twist: Float[Array, "*env 3"]
    ee_xy: Float[Array, "*env 2"]
    contact: Float[Array, "*env"]
    overflow: Int[Array, "*env"]
    qpos: Float[Array, "*env 9"]
    qvel: Float[Array, "*env 8"]
    qacc_warmstart: Float[Array, "*env 8"]


class ContactDynamics:
    """Contact dynamics of one asset and a round pusher; interface of ``PlanarDynamics``."""

    def __init__(self, asset: Asset, pusher_radius: float, dt_s: float, config: ContactConfig):
        """Build the MJX model.

        Args:
          asset: the object; its parts are what the pusher touches.
          pusher_radius: m.
          dt_s: duration of one action, s.
          config: numerical settings.
        """
        self.asset, self.config = asset, config
        self.pusher_radius, self.dt_s = pusher_radius, dt_s
        support = support_points(asset, "patch", config.support_count)
        scene = config.scene(dt_s)
        self._mj_model = driven_scene(asset, support, pusher_radius, scene, config.pusher_armature)
        self._mj_model.pair_solimp[~_table_pairs(self._mj_model)] = config.pusher_solimp
        # no joint damping here, so Euler equals implicitfast and skips its derivatives
        self._mj_model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
        self._mj_model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
        self._rest_z = _rest_height(self._mj_model, asset)
        self.model = mjx.put_model(self._mj_model, impl=config.impl)
        self._fused = self._fused_scene()

    def init(self, pose: PlanarPose, ee_xy: Float[Array, " 2"]) -> ContactState:
        """State at rest on the table."""
        half, still = pose.yaw / 2, jnp.zeros(8)
        height = jnp.full((1,), self._rest_z)
        quat = jnp.stack([jnp.cos(half), jnp.zeros(()), jnp.zeros(()), jnp.sin(half)])
        qpos = jnp.concatenate([pose.xy, height, quat, ee_xy])
        zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
        return ContactState(pose, jnp.zeros(3), ee_xy, zero, none, qpos, still, still)

    def derive(self, physics: PhysicsParams) -> dict[str, Array]:
        """Model fields that follow from the physics, by name; the fused step needs none."""
        return {} if self.config.solver == "fused" else physics_fields(self.model, physics)

    def advance(
        self,
        physics: PhysicsParams,
        cache: dict[str, Array],
        state: ContactState,
        ee_target: Float[Array, " 2"],
    ) -> ContactState:
        """Move the pusher in a straight line at constant speed for one action."""
        run = self._run_fused if self.config.solver == "fused" else self._run_mjx
        velocity = (ee_target - state.ee_xy) / self.dt_s
        qpos, qvel, warmstart, touched, overflow = run(physics, cache, state, velocity)
        pose = _pose(qpos, state.pose.yaw)
        arm = rotate(pose.yaw, physics.com[:2])
        com_velocity = qvel[:2] + qvel[5] * jnp.stack([-arm[1], arm[0]])
        return ContactState(
            pose, jnp.append(com_velocity, qvel[5]), ee_target, touched, overflow,
            qpos.at[7:].set(ee_target), qvel, warmstart,
        )  # fmt: skip

    def _run_fused(self, physics, cache, state, velocity):
        """qpos, qvel, qacc after an action, share of the substeps with contact, overflow."""
        *moved, touched = contact_fused.advance(
            self._fused, physics, state.qpos[:7], state.qvel[:6], state.qacc_warmstart[:6],
            state.ee_xy, velocity,
        )  # fmt: skip
        pusher = (state.ee_xy, velocity, jnp.zeros(2))
        return *map(jnp.append, moved, pusher), touched, jnp.zeros((), jnp.int32)

    def _run_mjx(self, physics, cache, state, velocity):
        """The same with MJX, for the pusher too."""
        h = self.dt_s / self.config.substeps
        # Newton stops at a cost relative to the mean inertia: the pusher's armature, a hundred
        # times the object, would end it early
        model = self.model.tree_replace(cache | {"stat.meaninertia": physics.mass})
        blank = mjx.make_data(self._mj_model, impl=self.config.impl)

        def substep(carry, index):
            qpos, qvel, warmstart = carry
            ee = state.ee_xy + index * h * velocity
            data = blank.replace(
                qpos=qpos.at[7:].set(ee), qvel=qvel.at[6:].set(velocity), qacc_warmstart=warmstart
            )
            touching = pusher_gap(self.asset, _pose(qpos, state.pose.yaw), ee, self.pusher_radius)
            data = mjx.step(model, data)
            seen = touching < 0, overflow_bits(data)
            return (data.qpos, data.qvel, data.qacc_warmstart), seen

        start = (state.qpos, state.qvel, state.qacc_warmstart)
        moved, seen = jax.lax.scan(substep, start, jnp.arange(self.config.substeps))
        touched, overflow = seen[0].mean(dtype=jnp.float32), jnp.bitwise_or.reduce(seen[1])
        if self.config.impl == "warp":
            overflow = warn_of_overflow(overflow)
        return *moved, touched, overflow

    def _fused_scene(self) -> FusedScene:
        config, pusher = self.config, self._mj_model.body("pusher").id
        return FusedScene(
            parts=self.asset.parts,
            height_m=self.asset.height_m,
            pusher_radius=self.pusher_radius,
            pusher_invweight=float(self._mj_model.body_invweight0[pusher, 0]),
            table=Softness(config.table_solref, config.table_solimp),
            pusher=Softness(config.pusher_solref, config.pusher_solimp),
            impratio=config.impratio,
            iterations=config.iterations,
            ls_iterations=config.ls_iterations,
            step_s=self.dt_s / config.substeps,
            substeps=config.substeps,
        )


def _pose(qpos: Float[Array, " 9"], near_yaw: Float[Array, ""]) -> PlanarPose:
    """Pose of a free body; the yaw continues from ``near_yaw`` without wrapping."""
    w, x, y, z = qpos[3], qpos[4], qpos[5], qpos[6]
    yaw = jnp.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return PlanarPose(qpos[:2], near_yaw + wrap_angle(yaw - near_yaw))


def pusher_gap(
    asset: Asset, pose: PlanarPose, ee_xy: Float[Array, " 2"], pusher_radius: float
) -> Float[Array, ""]:
    """Distance between the pusher's surface and the object, m; negative inside."""
    return signed_distance(asset.parts, to_object(pose, ee_xy)) - pusher_radius


def physics_fields(model: mjx.Model, physics: PhysicsParams) -> dict[str, Array]:
    """Every field of the model that the physics changes, derived constants included.

    MJX has no ``mj_setConst``, so what it would recompute (``body_subtreemass``,
    ``body_invweight0``, ``dof_invweight0``, ``dof_M0``) follows here in closed form,
    for an object on a free joint or on two slides and a hinge at its centre of mass.

    Args:
      model: a scene whose object is body 1, the first dofs its own.
      physics: one environment; vmap for a batch.

    Raises:
      ValueError: when the number of support points is not the model's.
    """
    mass, com, inertia = physics.mass, physics.com, physics.inertia
    moments, axes = jnp.linalg.eigh(inertia)
    axes = axes.at[:, 0].mul(jnp.linalg.det(axes))
    steiner = (com @ com) * jnp.eye(3) - jnp.outer(com, com)
    free = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    if free:
        inverse = (axes / moments) @ axes.T
        turn = jnp.trace(inverse) / 3
        slide = 1 / mass + jnp.sum(inverse * steiner) / 3
        body_weight = jnp.stack([1 / mass, turn])
        dof_weight = jnp.stack([slide, slide, slide, turn, turn, turn])
        diagonal = jnp.concatenate([jnp.full(3, mass), jnp.diag(inertia + mass * steiner)])
    else:
        body_weight = jnp.stack([2 / mass, 1 / inertia[2, 2]]) / 3
        dof_weight = jnp.stack([1 / mass, 1 / mass, 1 / inertia[2, 2]])
        diagonal = jnp.stack([mass, mass, inertia[2, 2]])
    body_mass = model.body_mass.at[1].set(mass)
    table = _table_pairs(model)
    friction = jnp.where(table, physics.friction_table, physics.friction_pusher)
    dofs = dof_weight.shape[0]
    fields = {
        "body_mass": body_mass,
        "body_subtreemass": model.body_subtreemass.at[0].set(body_mass.sum()).at[1].set(mass),
        "body_ipos": model.body_ipos.at[1].set(com),
        "body_inertia": model.body_inertia.at[1].set(moments),
        "body_iquat": model.body_iquat.at[1].set(_quaternion(axes)),
        "body_invweight0": model.body_invweight0.at[1].set(body_weight),
        "dof_invweight0": model.dof_invweight0.at[:dofs].set(dof_weight),
        "dof_M0": model.dof_M0.at[:dofs].set(diagonal + model.dof_armature[:dofs]),
        "pair_friction": model.pair_friction.at[:, :2].set(friction[:, None]),
    }
    if not free:
        fields["jnt_pos"] = model.jnt_pos.at[2].set(com)
        return fields
    feet = np.maximum(model.pair_geom1, model.pair_geom2)[table]
    if physics.support.shape[-2] != feet.size:
        raise ValueError(
            f"{physics.support.shape[-2]} support points for a model with {feet.size}; "
            "set ContactConfig.support_count"
        )
    return fields | {"geom_pos": model.geom_pos.at[feet, :2].set(physics.support)}


def write_physics_mjx(model: mjx.Model, physics: PhysicsParams) -> mjx.Model:
    """The model with this physics; twin of ``mjcf.write_physics``."""
    return model.tree_replace(physics_fields(model, physics))


def _table_pairs(model: mjx.Model | mujoco.MjModel) -> np.ndarray:
    """Which contact pairs are table-support: Bool[npair]."""
    types = np.stack([model.geom_type[model.pair_geom1], model.geom_type[model.pair_geom2]])
    return np.any(types == mujoco.mjtGeom.mjGEOM_PLANE, axis=0)


def _quaternion(matrix: Float[Array, "3 3"]) -> Float[Array, " 4"]:
    """Rotation matrix -> (w, x, y, z), from the largest of the four components."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    rows = jnp.array([
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ])  # fmt: skip
    row = rows[jnp.argmax(jnp.diag(rows))]
    return row / jnp.linalg.norm(row)


def driven_scene(
    asset: Asset,
    support: np.ndarray,
    pusher_radius: float,
    options: SceneOptions,
    pusher_armature: float,
) -> mujoco.MjModel:
    """``push_spec`` without servo; the pusher keeps the velocity it is given."""
    spec = push_spec(asset, support, pusher_radius, options, servo=None)
    for name in ("pusher_x", "pusher_y"):
        spec.joint(name).armature = pusher_armature
    model = spec.compile()
    # the compiled shortcut "inertial frame = body frame" is void once the mass moves
    model.body_sameframe[model.body("object").id] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE
    return model


def _rest_height(model: mujoco.MjModel, asset: Asset) -> float:
    """Height of the object's frame when the table carries it, m."""
    data = mujoco.MjData(model)
    data.qpos[7:] = asset.footprint_bounds[1] + 1.0  # the pusher is elsewhere
    mujoco.mj_step(model, data, nstep=int(np.ceil(SETTLE_S / model.opt.timestep)))
    return float(data.qpos[2])


def push_in_c(
    models: Sequence[mujoco.MjModel],
    pose: PlanarPose,
    ee_xy: np.ndarray,
    ee_velocity: np.ndarray,
    duration_s: float,
    threads: int = 2,
) -> PlanarPose:
    """Straight pushes in C MuJoCo, in parallel: settle, then push at constant velocity.

    Args:
      models: one ``driven_scene`` per push, physics written, heavy pusher (the
        velocity is given once and kept).
      pose: before the push, Float[N, ...].
      ee_xy: Float[N, 2], m, not yet touching the object.
      ee_velocity: Float[N, 2], m/s.
      duration_s: of the push.
      threads: CPU threads.

    Returns:
      Pose after the push; the yaw continues from the one before.
    """
    count = len(models)
    timestep = models[0].opt.timestep
    workers = [mujoco.MjData(models[0]) for _ in range(min(threads, count))]
    yaw = np.asarray(pose.yaw)
    state = np.zeros((count, 1 + 9 + 8))  # time, qpos, qvel
    state[:, 1:3], state[:, 3] = pose.xy, models[0].body("object").pos[2]
    state[:, 4], state[:, 7] = np.cos(yaw / 2), np.sin(yaw / 2)
    state[:, 8:10] = ee_xy

    def run(seconds):
        steps = round(seconds / timestep)
        return rollout.rollout(list(models), workers, state, nstep=steps)[0][:, -1]

    state = run(SETTLE_S)
    state[:, 16:18] = ee_velocity
    state = run(duration_s)
    w, x, y, z = state[:, 4:8].T
    turned = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)) - yaw
    return PlanarPose(state[:, 1:3], yaw + wrap_angle(turned))
