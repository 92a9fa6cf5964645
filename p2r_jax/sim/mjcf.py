"""MuJoCo scenes of the push task: object on support points, gantry pusher, table.

One builder serves "reality" (C MuJoCo), the ``contact`` dynamics (MJX) and the
pictures. Friction acts only through explicit contact pairs that carry the
product coefficients, since MuJoCo itself combines two geoms by maximum.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from p2r_jax.sim.asset import Asset, add_object

SUPPORT_RADIUS = 2e-3  # m; the spheres that touch the table
PAIR_FRICTION = (0.25, 0.25, 0.005, 1e-4, 1e-4)  # until ``write_physics`` sets the first two


@dataclass(frozen=True)
class PusherServo:
    """Position servo of the gantry pusher.

    Attributes:
      stiffness: N/m.
      lag_s: time constant of the first-order lag behind the commanded position.
      mass_kg: moving mass.
    """

    stiffness: float = 2e4
    lag_s: float = 0.05
    mass_kg: float = 1.0

    @property
    def damping(self) -> float:
        """N s/m; the lag of an overdamped servo is damping / stiffness."""
        return self.stiffness * self.lag_s


@dataclass(frozen=True)
class SceneOptions:
    """Solver settings of a scene.

    Attributes:
      timestep_s: physics step.
      elliptic: elliptic friction cones (else pyramidal).
      iterations, ls_iterations: Newton solver. With 10 line-search steps some pushes
        do not converge and end millimetres off; 50 cost no more time.
      impratio: ratio of friction to normal impedance; high values slip less.
      table_solref, table_solimp: the soft contacts under the object. Stiffer ones
        chatter: at MuJoCo's default impedance a pushed T-block rocks on its
        support at 3 cm/s, which moves the result of a push by millimetres.
      pusher_solref: the contact between pusher and object.
    """

    timestep_s: float = 0.002
    elliptic: bool = True
    iterations: int = 20
    ls_iterations: int = 50
    impratio: float = 10.0
    table_solref: tuple[float, float] = (0.02, 1.0)
    table_solimp: tuple[float, ...] = (0.3, 0.9, 0.003, 0.5, 2.0)
    pusher_solref: tuple[float, float] = (0.01, 1.0)


def push_spec(
    asset: Asset,
    support: np.ndarray,
    pusher_radius: float,
    options: SceneOptions,
    servo: PusherServo | None,
) -> mujoco.MjSpec:
    """Scene with free body ``object`` (qpos 0:7) and a pusher on two slides (qpos 7:9).

    Args:
      asset: the object.
      support: Float[P, 2], object frame, m; duplicate rows become one contact.
      pusher_radius: m; a sphere at the object's mid height.
      options: solver settings.
      servo: position servo of the pusher; None leaves it without actuators.
    """
    spec = mujoco.MjSpec()
    spec.modelname = f"push_{asset.name}"
    _set_options(spec, options)
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[2, 2, 0.1],
        contype=0,
        conaffinity=0,
        rgba=[0.85, 0.85, 0.87, 1],
    )
    body = add_object(spec, asset)
    body.add_freejoint()
    _add_support(spec, body, asset, support, options)
    _add_pusher(spec, asset, pusher_radius, options, servo)
    return spec


def _set_options(spec: mujoco.MjSpec, options: SceneOptions) -> None:
    opt = spec.option
    opt.timestep = options.timestep_s
    opt.cone = (
        mujoco.mjtCone.mjCONE_ELLIPTIC if options.elliptic else mujoco.mjtCone.mjCONE_PYRAMIDAL
    )
    opt.iterations, opt.ls_iterations = options.iterations, options.ls_iterations
    opt.impratio = options.impratio
    opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST


def _add_support(
    spec: mujoco.MjSpec,
    body: mujoco.MjsBody,
    asset: Asset,
    support: np.ndarray,
    options: SceneOptions,
) -> None:
    """Small spheres under the object, each with its contact pair to the table."""
    foot_z = SUPPORT_RADIUS - asset.height_m / 2
    for index, (x, y) in enumerate(np.unique(np.round(support, 9), axis=0)):
        body.add_geom(
            name=f"support{index}",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[SUPPORT_RADIUS, 0, 0],
            pos=[x, y, foot_z],
            mass=0.0,
            contype=0,
            conaffinity=0,
            group=3,
        )
        spec.add_pair(
            name=f"table_support{index}",
            geomname1="table",
            geomname2=f"support{index}",
            condim=3,
            solref=options.table_solref,
            solimp=options.table_solimp,
            friction=PAIR_FRICTION,
        )


def _add_pusher(
    spec: mujoco.MjSpec,
    asset: Asset,
    pusher_radius: float,
    options: SceneOptions,
    servo: PusherServo | None,
) -> None:
    """A sphere on two slides at the object's mid height, its contact pairs and its servo."""
    ee = spec.worldbody.add_body(name="pusher", pos=[0, 0, asset.height_m / 2])
    mass = servo.mass_kg if servo else 1.0
    for name, axis in (("pusher_x", [1, 0, 0]), ("pusher_y", [0, 1, 0])):
        ee.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    ee.add_geom(
        name="pusher",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[pusher_radius, 0, 0],
        mass=mass,
        contype=0,
        conaffinity=0,
        rgba=[0.25, 0.35, 0.75, 1],
    )
    for index in range(len(asset.parts)):
        spec.add_pair(
            name=f"pusher_part{index}",
            geomname1="pusher",
            geomname2=f"part{index}",
            condim=3,
            solref=options.pusher_solref,
            friction=PAIR_FRICTION,
        )
    if servo:
        for name in ("pusher_x", "pusher_y"):
            actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            actuator.set_to_position(kp=servo.stiffness, kv=servo.damping)


def write_physics(
    model: mujoco.MjModel,
    mass: float,
    com: np.ndarray,
    inertia: np.ndarray,
    friction_table: float,
    friction_pusher: float,
) -> None:
    """Set the object's mass properties and friction of a compiled scene, in place.

    Derived constants (``body_invweight0`` and friends) are recomputed, as they
    go stale when the centre of mass moves.
    """
    body = model.body("object").id
    moments, axes = np.linalg.eigh(inertia)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.flatten())
    model.body_mass[body], model.body_ipos[body] = mass, com
    model.body_inertia[body], model.body_iquat[body] = moments, quat
    for index in range(model.npair):
        table = model.pair(index).name.startswith("table")
        model.pair_friction[index, :2] = friction_table if table else friction_pusher
    mujoco.mj_setConst(model, mujoco.MjData(model))
