"""Planar pushing in MuJoCo MJX: the slow trusted twin of ``planar`` (ellipsoid).

The object slides along x and y and turns on a hinge at its centre of mass; there
is no gravity, only the pusher touches it. Table friction is the ellipsoidal limit
surface: with f = mu m g, friction radius r and S = sqrt(vx^2 + vy^2 + (r w)^2 + eps^2)
it is the damping matrix D = f / S diag(1, 1, r^2). MuJoCo's own implicit damping
enters only after contact is solved, which lets the pusher sink in; writing D as
``dof_damping`` and h D as ``dof_armature`` instead gives (M + h D) a = J' lambda - D v,
the same implicit step with contact forces that know about it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.compat import import_mjx_quietly
from p2r_jax.sim.asset import Asset, add_object
from p2r_jax.sim.contact import physics_fields, pusher_gap
from p2r_jax.sim.mjcf import SceneOptions
from p2r_jax.sim.planar import GRAVITY
from p2r_jax.sim.support import friction_radius
from p2r_jax.types import PhysicsParams, PlanarPose, rotate, to_world

if TYPE_CHECKING:
    from mujoco import mjx
else:
    mjx = import_mjx_quietly()


@dataclass(frozen=True)
class PlanarMjxConfig:
    """Numerical settings of the planar scene in MJX.

    Attributes:
      substeps: physics steps per action.
      slip_speed: m/s below which Coulomb friction at the table becomes viscous.
      iterations, ls_iterations: Newton solver.
      elliptic: elliptic friction cone at the pusher (else pyramidal).
      impratio, pusher_solref: see ``SceneOptions``.
      pusher_armature: kg; large, so that contact forces do not move the pusher
        within a substep.
    """

    substeps: int = 100
    slip_speed: float = 2e-4
    iterations: int = 4
    ls_iterations: int = 6
    elliptic: bool = True
    impratio: float = SceneOptions.impratio
    pusher_solref: tuple[float, float] = SceneOptions.pusher_solref
    pusher_armature: float = 100.0


@struct.dataclass
class PlanarMjxState:
    """Object and pusher between actions.

    Attributes:
      pose: object frame in the world.
      twist: (vx, vy, yaw rate) of the centre of mass, world axes, m/s and rad/s.
      ee_xy: pusher centre, m.
      contact: share of the last action's substeps with pusher contact.
      qacc_warmstart: MuJoCo's solver start.
    """

    pose: PlanarPose
    twist: Float[Array, "*env 3"]
    ee_xy: Float[Array, "*env 2"]
    contact: Float[Array, "*env"]
    qacc_warmstart: Float[Array, "*env 5"]


@struct.dataclass
class PlanarMjxCache:
    """What the substeps need of the physics, derived once per episode.

    Attributes:
      radius: friction radius of the ellipsoid, m.
      fields: model fields by name.
    """

    radius: Float[Array, "*env"]
    fields: dict[str, Array]


class PlanarMjxDynamics:
    """Planar dynamics of one asset in MJX; interface of ``PlanarDynamics``."""

    def __init__(self, asset: Asset, pusher_radius: float, dt_s: float, config: PlanarMjxConfig):
        """Build the MJX model.

        Args:
          asset: the object; its parts are what the pusher touches.
          pusher_radius: m.
          dt_s: duration of one action, s.
          config: numerical settings.
        """
        self.asset, self.config = asset, config
        self.pusher_radius, self.dt_s = pusher_radius, dt_s
        self._mj_model = planar_spec(asset, pusher_radius, dt_s, config).compile()
        self.model = mjx.put_model(self._mj_model, impl="jax")

    def init(self, pose: PlanarPose, ee_xy: Float[Array, " 2"]) -> PlanarMjxState:
        """State at rest."""
        return PlanarMjxState(pose, jnp.zeros(3), ee_xy, jnp.zeros(()), jnp.zeros(5))

    def derive(self, physics: PhysicsParams) -> PlanarMjxCache:
        """Quantities that change only with the physics."""
        radius = friction_radius(physics.support, physics.com[:2])
        return PlanarMjxCache(radius, physics_fields(self.model, physics))

    def advance(
        self,
        physics: PhysicsParams,
        cache: PlanarMjxCache,
        state: PlanarMjxState,
        ee_target: Float[Array, " 2"],
    ) -> PlanarMjxState:
        """Move the pusher in a straight line at constant speed for one action."""
        h, com = self.dt_s / self.config.substeps, physics.com[:2]
        velocity = (ee_target - state.ee_xy) / self.dt_s
        model = self.model.tree_replace(cache.fields)
        blank = mjx.make_data(self._mj_model, impl="jax")
        force = physics.friction_table * physics.mass * GRAVITY

        def pose_at(qpos):
            # the slides move the hinge, which sits at the centre of mass
            return PlanarPose(qpos[:2] + com - rotate(qpos[2], com), qpos[2])

        def substep(carry, index):
            qpos, twist, warmstart = carry
            ee = state.ee_xy + index * h * velocity
            data = blank.replace(
                qpos=jnp.concatenate([qpos, ee]),
                qvel=jnp.concatenate([twist, velocity]),
                qacc_warmstart=warmstart,
            )
            touching = pusher_gap(self.asset, pose_at(qpos), ee, self.pusher_radius)
            slip = jnp.sqrt(
                jnp.sum(twist[:2] ** 2) + (cache.radius * twist[2]) ** 2 + self.config.slip_speed**2
            )
            drag = force / slip
            data = mjx.step(self._with_drag(model, drag, cache.radius, h), data)
            return (data.qpos[:3], data.qvel[:3], data.qacc_warmstart), touching < 0

        slides = to_world(state.pose, com) - com
        start = (jnp.append(slides, state.pose.yaw), state.twist, state.qacc_warmstart)
        (qpos, twist, warmstart), touched = jax.lax.scan(
            substep, start, jnp.arange(self.config.substeps)
        )
        return PlanarMjxState(
            pose_at(qpos), twist, ee_target, touched.mean(dtype=jnp.float32), warmstart
        )

    @staticmethod
    def _with_drag(model: mjx.Model, drag, radius, h: float) -> mjx.Model:
        """The model with table friction as an implicit damper; contact softness follows."""
        damping = drag * jnp.stack([jnp.ones(()), jnp.ones(()), radius**2])
        weight = 2 / (3 * (model.body_mass[1] + h * drag))
        return model.replace(
            dof_damping=model.dof_damping.at[:3].set(damping),
            dof_armature=model.dof_armature.at[:3].set(h * damping),
            body_invweight0=model.body_invweight0.at[1, 0].set(weight),
        )


def planar_spec(
    asset: Asset, pusher_radius: float, dt_s: float, config: PlanarMjxConfig
) -> mujoco.MjSpec:
    """Scene with ``object`` on slides and hinge (qpos 0:3), pusher on slides (qpos 3:5)."""
    spec = mujoco.MjSpec()
    spec.modelname = f"planar_{asset.name}"
    opt = spec.option
    opt.timestep = dt_s / config.substeps
    opt.gravity = np.zeros(3)
    opt.iterations, opt.ls_iterations = config.iterations, config.ls_iterations
    opt.impratio = config.impratio
    opt.cone = (
        mujoco.mjtCone.mjCONE_ELLIPTIC if config.elliptic else mujoco.mjtCone.mjCONE_PYRAMIDAL
    )
    opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
    opt.disableflags = mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    body = add_object(spec, asset)
    ee = spec.worldbody.add_body(name="pusher", pos=[0, 0, asset.height_m / 2])
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    for name, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
        body.add_joint(name=f"object_{name}", type=slide, axis=axis)
        joint = ee.add_joint(name=f"pusher_{name}", type=slide, axis=axis)
        joint.armature = config.pusher_armature
    body.add_joint(name="object_yaw", type=hinge, axis=[0, 0, 1])
    ee.add_geom(
        name="pusher", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[pusher_radius, 0, 0], mass=1.0,
        contype=0, conaffinity=0,
    )  # fmt: skip
    for index in range(len(asset.parts)):
        spec.add_pair(
            name=f"pusher_part{index}", geomname1="pusher", geomname2=f"part{index}", condim=3,
            solref=config.pusher_solref, friction=[0.25, 0.25, 0.005, 1e-4, 1e-4],
        )  # fmt: skip
    return spec
