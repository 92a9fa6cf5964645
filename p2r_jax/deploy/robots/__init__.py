"""Robots by name: whatever their own units are, metres and radians on our side."""

from dataclasses import dataclass, field, replace

from p2r_jax.deploy.protocols import Robot
from p2r_jax.deploy.robots.sim import SimRobot, SimRobotConfig
from p2r_jax.deploy.robots.xarm import XArmRobot
from p2r_jax.deploy.robots.xarm_config import XArmConfig
from p2r_jax.tasks import Task

ROBOTS = ("sim", "xarm")


@dataclass(frozen=True)
class RobotConfig:
    """Settings of every robot; the one that is chosen reads its own.

    Attributes:
      sim: the simulated gantry or arm.
      xarm: a UFACTORY xArm 6.
    """

    sim: SimRobotConfig = field(default_factory=SimRobotConfig)
    xarm: XArmConfig = field(default_factory=XArmConfig)


def make_robot(name: str, config: RobotConfig, task: Task, still: bool = False) -> Robot:
    """A robot for a task, not yet connected.

    Args:
      name: one of ``ROBOTS``.
      config: settings of every robot.
      task: what it is to do.
      still: a dry run: a real arm is read, but not even enabled.

    Raises:
      KeyError: for an unknown name, with all names.
      ValueError: for settings that the robot cannot have.
    """
    if name == "sim":
        return SimRobot.from_config(config.sim, task)
    if name == "xarm":
        return XArmRobot(replace(config.xarm, still=still or config.xarm.still), task)
    raise KeyError(f"no robot {name!r} (robots: {', '.join(ROBOTS)})")
