"""A simulated 6-DoF arm of the xArm 6's proportions, in the same "reality" as the gantry.

Link lengths and gains are published (papers.md 1.1); shapes and masses of the links are
ours, and only the tip touches anything. The joints follow inverse kinematics that hold
the tool straight down with its tip at the object's mid height.
"""

import mujoco
import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.robots.kinematics import XARM6, ArmGeometry, solve_ik, tip_position, tool_down
from p2r_jax.deploy.robots.reach import arm_reach
from p2r_jax.sim.mjcf import PAIR_FRICTION, SceneOptions, push_spec
from p2r_jax.sim.reality import PUSHER, RealityConfig, start_state, trial_models
from p2r_jax.sim.support import support_points
from p2r_jax.sim.trials import Trials
from p2r_jax.tasks import Task

STIFFNESS = (900.0, 2000.0, 2000.0, 600.0, 600.0, 400.0)  # N m / rad
DAMPING = (80.0, 300.0, 300.0, 20.0, 20.0, 20.0)  # N m s / rad
EFFORT = 100.0  # N m
LINK_MASS = (2.2, 2.0, 1.8, 1.2, 1.2, 0.3)  # kg, ours
LINK_RADIUS = (0.055, 0.05, 0.045, 0.04, 0.04, 0.035)  # m, ours
TOOL_MASS, TOOL_RADIUS = 0.2, 0.008  # kg, m; ours
ARMATURE = 0.05  # kg m^2, ours: the geared rotors
JOINTS = slice(8, 14)  # in MuJoCo's full physics state: after the time and the object


class Arm:
    """Body of a simulated robot (see ``sim_world.Body``) with six driven joints.

    Attributes:
      reach: where the tip can be sent.
    """

    def __init__(self, config: RealityConfig, task: Task, trials: Trials):
        """Build the scene with the tip over the task's start.

        Raises:
          ValueError: if the arm cannot hold its tool there.
        """
        layout, self.tip_height_m = task.layout, task.object.height_m / 2
        self.geometry = XARM6
        self.reach = arm_reach(self.geometry, self.tip_height_m, layout.lower, layout.upper)
        self.reach.require(layout.ee_start_xy)
        self.start_xy = np.array(layout.ee_start_xy, float)
        self.model = trial_models(arm_scene(config, task), config, trials)[0]
        target, self._joints = tool_down(self.geometry, self._lifted(self.start_xy[None]))
        self._joints, _ = solve_ik(self.geometry, target, self._joints)
        self._tip = self.start_xy
        object_start = start_state(task, trials)[0, : PUSHER.start]
        at_rest = np.zeros(self.model.nv)
        self.start = np.concatenate([object_start, self._joints[0], at_rest])

    def controls(self, tips: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 6"]:
        """Joint targets, by inverse kinematics from where the last ones ended."""
        if np.all(tips == self._tip):
            return np.broadcast_to(self._joints[-1], (len(tips), self._joints.shape[-1]))
        target, _ = tool_down(self.geometry, self._lifted(tips))
        guess = np.broadcast_to(self._joints[-1], (len(tips), self._joints.shape[-1]))
        joints, reached = solve_ik(self.geometry, target, guess)
        if not reached.all():
            raise ValueError(f"no joints hold the tool at {tips[~reached][0].tolist()}")
        self._joints, self._tip = joints, tips[-1]
        return joints

    def tips(self, states: Float[np.ndarray, "*n s"]) -> Float[np.ndarray, "*n 2"]:
        """Where the tip is over the table."""
        return tip_position(self.geometry, states[..., JOINTS])[..., :2]

    def height(self, state: Float[np.ndarray, " s"]) -> float:
        """How high the tip is over the table, m."""
        return float(tip_position(self.geometry, state[JOINTS])[2])

    def within_reach(self, xy: Float[np.ndarray, " 2"]) -> Float[np.ndarray, " 2"]:
        """The workspace, less what is too near to the base or too far from it."""
        return self.reach.nearest(xy)

    def _lifted(self, tips: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        return np.concatenate([tips, np.full((len(tips), 1), self.tip_height_m)], -1)


def arm_scene(config: RealityConfig, task: Task) -> mujoco.MjModel:
    """The scene of ``Reality`` with the arm in the place of the gantry."""
    asset = task.object
    support = support_points(asset, config.support, config.support_count)
    spec = push_spec(asset, support, task.pusher_radius_m, config.scene, servo=None)
    spec.delete(spec.body("pusher"))
    spec.compiler.degree = False
    flange = add_arm(spec, XARM6)
    add_tool(flange, XARM6, task.pusher_radius_m)
    for index in range(len(asset.parts)):
        add_tip_pair(spec, f"part{index}", config.scene)
    return spec.compile()


def add_arm(spec: mujoco.MjSpec, arm: ArmGeometry) -> mujoco.MjsBody:
    """Driven joints and the capsules between them; returns the body of the flange."""
    body = spec.worldbody
    for joint, mass in enumerate(LINK_MASS):
        body = body.add_body(name=f"link{joint + 1}", **link_placement(arm, joint), gravcomp=1.0)
        name = f"joint{joint + 1}"
        body.add_joint(
            name=name,
            axis=[0, 0, 1],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=[arm.lower[joint], arm.upper[joint]],
            armature=ARMATURE,
        )
        end = link_end(arm, joint)
        add_capsule(body, f"link{joint + 1}", end, LINK_RADIUS[joint], mass)
        actuator = spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            forcelimited=mujoco.mjtLimited.mjLIMITED_TRUE,
            forcerange=[-EFFORT, EFFORT],
        )
        actuator.set_to_position(kp=STIFFNESS[joint], kv=DAMPING[joint])
    return body


def link_placement(arm: ArmGeometry, joint: int) -> dict:
    """Position and quaternion of a link's body, in its parent, at zero joint angle."""
    alpha, offset, d = arm.alpha[joint], arm.offset[joint], arm.d[joint]
    about_x = np.array([np.cos(alpha / 2), np.sin(alpha / 2), 0, 0])
    about_z = np.array([np.cos(offset / 2), 0, 0, np.sin(offset / 2)])
    quat = np.zeros(4)
    mujoco.mju_mulQuat(quat, about_x, about_z)
    return {"pos": [arm.a[joint], -d * np.sin(alpha), d * np.cos(alpha)], "quat": quat}


def link_end(arm: ArmGeometry, joint: int) -> Float[np.ndarray, " 3"]:
    """Where a link's capsule ends: the next joint's origin; for the flange, just behind it."""
    if joint + 1 == len(arm.a):
        return np.array([0.0, 0.0, -0.03])
    return np.array(link_placement(arm, joint + 1)["pos"])


def add_capsule(
    body: mujoco.MjsBody, name: str, end: Float[np.ndarray, " 3"], radius: float, mass: float
) -> None:
    """A capsule from the body's origin to ``end``, or a sphere there; it touches nothing."""
    point = np.linalg.norm(end) < 1e-6
    kind = mujoco.mjtGeom.mjGEOM_SPHERE if point else mujoco.mjtGeom.mjGEOM_CAPSULE
    shape = {} if point else {"fromto": [0, 0, 0, *end]}
    body.add_geom(
        name=name,
        type=kind,
        size=[radius, 0, 0],
        mass=mass,
        contype=0,
        conaffinity=0,
        rgba=[0.82, 0.83, 0.85, 1],
        **shape,
    )


def add_tool(flange: mujoco.MjsBody, arm: ArmGeometry, tip_radius: float) -> None:
    """A rod with the pusher, a sphere, at its end."""
    add_capsule(flange, "tool", np.array([0, 0, arm.tool_m]), TOOL_RADIUS, TOOL_MASS)
    flange.add_geom(
        name="pusher",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[tip_radius, 0, 0],
        pos=[0, 0, arm.tool_m],
        mass=0.0,
        contype=0,
        conaffinity=0,
        rgba=[0.25, 0.35, 0.75, 1],
    )


def add_tip_pair(spec: mujoco.MjSpec, part: str, options: SceneOptions) -> None:
    """Contact between the tip and a part of the object, as the gantry has it."""
    spec.add_pair(
        name=f"pusher_{part}",
        geomname1="pusher",
        geomname2=part,
        condim=3,
        solref=options.pusher_solref,
        friction=PAIR_FRICTION,
    )
