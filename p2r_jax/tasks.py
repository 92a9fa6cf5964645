"""What can be run: tasks as functions that return a frozen configuration.

A task owns its copy of everything (``dataclasses.replace`` makes variants);
nothing is decided by inheritance or at import. Other packages bring tasks as entry points
of the group ``p2r_jax.tasks``, or are named by import path (``plugins``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.plugins import Origin, Registry
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.contact import ContactConfig
from p2r_jax.sim.planar import PlanarConfig
from p2r_jax.sim.planar_mjx import PlanarMjxConfig


@dataclass(frozen=True)
class ThetaSpec:
    """One component of theta: the interpretable parameter that conditions the policy.

    Attributes:
      name: e.g. ``com_object_x``.
      unit: SI unit.
      low, high: range in training.
      mean, std: moments of the training distribution (the training prior).
    """

    name: str
    unit: str
    low: float
    high: float
    mean: float
    std: float


@dataclass(frozen=True)
class PhysicsRanges:
    """Uniform ranges drawn anew at every reset.

    The centre of mass varies in one of two ways: with a movable weight, or drawn
    itself (the mass distribution then moves as a whole: the inertia about the centre
    of mass stays).

    Attributes:
      weight_x_m: position of the movable weight, object frame; None without one.
      com_m: ranges of the centre of mass along the object's x and y; None with a weight.
      mass_scale: factor on the asset's mass and inertia.
      off_axis_m: the centre of mass of the weight's model lies off the x axis by up to this.
      friction: effective (product) coefficient, shared by table and pusher.
      friction_pusher: range of the pusher's own; None shares the table's.
      support: kind of support points, see ``sim.support``.
      support_count: number of support points.
      rim_share: an episode draws a share in this range, and so many of its support points
        move out to the rim of the footprint: nobody knows where a real object rests.
    """

    weight_x_m: tuple[float, float] | None = (-0.13, 0.13)
    com_m: tuple[tuple[float, float], tuple[float, float]] | None = None
    mass_scale: tuple[float, float] = (1.0, 1.0)
    off_axis_m: float = 0.0
    friction: tuple[float, float] = (0.15, 0.35)
    friction_pusher: tuple[float, float] | None = None
    support: Literal["patch", "rim", "corners", "feet"] = "patch"
    support_count: int = 12
    rim_share: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self):
        if (self.weight_x_m is None) == (self.com_m is None):
            raise ValueError("physics: give either weight_x_m or com_m, the other is None")
        if self.mass_scale[0] <= 0:
            raise ValueError(f"physics: mass_scale is {self.mass_scale}; it must be positive")
        if not 0 <= self.rim_share[0] <= self.rim_share[1] <= 1:
            raise ValueError(f"physics: rim_share is {self.rim_share}; give a range within 0 to 1")

    def com_corners(self, asset: Asset) -> Float[np.ndarray, "n 2"]:
        """Corners of the region in which the centre of mass lies, object frame, m."""
        if self.com_m is not None:
            return np.array([(x, y) for x in self.com_m[0] for y in self.com_m[1]])
        on_axis = np.array([asset.with_weight(x)[1][:2] for x in self.weight_x_m])
        aside = np.array([0.0, self.off_axis_m])
        return np.concatenate([on_axis - aside, on_axis + aside])


@dataclass(frozen=True)
class Layout:
    """Where things are, robot base frame, metres and radians.

    Attributes:
      start_xy: object at the start of an episode; its yaw is uniform.
      goal_xy, goal_yaw_rad: goal pose of the object.
      ee_start_xy: pusher at the start.
      lower, upper: corners of the workspace the pusher is kept in; the episode
        ends when the object's origin leaves it.
    """

    start_xy: tuple[float, float] = (0.30, 0.20)
    goal_xy: tuple[float, float] = (0.30, -0.20)
    goal_yaw_rad: float = 0.0
    ee_start_xy: tuple[float, float] = (0.30, 0.0)
    lower: tuple[float, float] = (0.05, -0.45)
    upper: tuple[float, float] = (0.55, 0.45)


@dataclass(frozen=True)
class Curriculum:
    """Training starts on the way to the goal; evaluation always uses the real start.

    Attributes:
      share: share of training episodes that start on the ray goal -> start.
      position_noise_m: half width of the uniform noise around the ray at its far end.
      ee_radius_m: the pusher starts on a circle of this radius around the object.
    """

    share: float = 0.8
    position_noise_m: float = 0.08
    ee_radius_m: float = 0.17


@dataclass(frozen=True)
class RewardWeights:
    """Weights of the named reward terms (``sim.push.REWARDS``), and their settings.

    Attributes:
      progress, near, success, stray, action_rate: weights.
      free_reach_m: distance between pusher and object's origin up to which ``stray``
        costs nothing.
      extra: name and weight of terms that are not ours, see ``sim.push.REWARD_TERMS``.
    """

    progress: float = 1.0
    near: float = 0.5
    success: float = 0.5
    stray: float = -0.2
    action_rate: float = -0.005
    free_reach_m: float = 0.12
    extra: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Success:
    """When a trial counts.

    Attributes:
      position_m, yaw_rad: strict criterion (training reward and strict tables).
      hardware_yaw_rad: the paper's hardware criterion, with the same position.
      rest_speed: m/s; "at rest" in the strict evaluation criterion.
      hold_s: how long before the end of a trial the criteria must have held.
    """

    position_m: float = 0.03
    yaw_rad: float = float(np.deg2rad(10))
    hardware_yaw_rad: float = float(np.deg2rad(20))
    rest_speed: float = 0.01
    hold_s: float = 0.0


@dataclass(frozen=True)
class Task:
    """A complete task; every field may be replaced, none is decided by import.

    Attributes:
      name: registered name.
      asset: shipped asset name or folder.
      theta: components of theta, in order.
      theta_input: what the policy sees as theta in training: ``true``, ``noisy``
        (plus per-episode Gaussian noise), ``belief`` (mean and sigma of an honest belief)
        or ``constant`` (the training mean, so the policy never sees theta).
      theta_noise_m: standard deviation of that noise.
      theta_noise_share: share of it that each component of theta gets; empty: all of it.
      actor_history: rows of history that the policy itself sees; 0 for none.
      dynamics: ``planar`` (fast), ``planar_mjx`` (its MJX twin) or ``contact``.
      control_period_s: one action per period.
      action_scale_m: an action of one moves the pusher by this much per axis.
      episode_length: actions per episode.
      history: length of the estimator's window.
      pusher_radius_m: ours; the paper does not give one.
      trial_friction: range of the friction in trials; None is the one of training. A task that
        trains in a wider world than another is judged in the same.
      fusion_rule: how its loop fuses prior and estimate, a name of ``fusion.RULES``; None is
        the paper's.
      planar, planar_mjx, contact: numerical settings, used by the chosen dynamics.
    """

    name: str
    asset: str
    theta: tuple[ThetaSpec, ...]
    theta_input: Literal["true", "noisy", "belief", "constant"] = "true"
    theta_noise_m: float = 0.015
    theta_noise_share: tuple[float, ...] = ()
    actor_history: int = 0
    dynamics: Literal["planar", "planar_mjx", "contact"] = "planar"
    control_period_s: float = 1.0
    action_scale_m: float = 0.03
    episode_length: int = 100
    history: int = 10
    pusher_radius_m: float = 0.0125
    trial_friction: tuple[float, float] | None = None
    fusion_rule: str | None = None
    layout: Layout = field(default_factory=Layout)
    physics: PhysicsRanges = field(default_factory=PhysicsRanges)
    curriculum: Curriculum = field(default_factory=Curriculum)
    reward: RewardWeights = field(default_factory=RewardWeights)
    success: Success = field(default_factory=Success)
    planar: PlanarConfig = field(default_factory=PlanarConfig)
    planar_mjx: PlanarMjxConfig = field(default_factory=PlanarMjxConfig)
    contact: ContactConfig = field(default_factory=ContactConfig)

    @cached_property
    def object(self) -> Asset:
        """The asset, loaded once per task object."""
        return load_asset(self.asset)

    @property
    def theta_mean(self) -> np.ndarray:
        """Training mean of theta: Float[K]."""
        return np.array([t.mean for t in self.theta], np.float32)

    @property
    def theta_std(self) -> np.ndarray:
        """Training standard deviation of theta: Float[K]."""
        return np.array([t.std for t in self.theta], np.float32)


_REGISTRY: dict[str, Callable[[], Task]] = {}


def register(make: Callable[[], Task]) -> Callable[[], Task]:
    """Register a task under its function's name; a duplicate raises ValueError."""
    if make.__name__ in _REGISTRY:
        raise ValueError(f"task {make.__name__!r} is registered twice")
    _REGISTRY[make.__name__] = make
    return make


def _from_outside(make: Callable[[], Task], origin: Origin) -> Callable[[], Task]:
    """A task function of another package; what it returns must be a task of its name."""

    def checked() -> Task:
        try:
            task = make()
        except Exception as error:
            raise origin.failure(f"{type(error).__name__}: {error}") from error
        if not isinstance(task, Task):
            raise origin.failure(f"it returns a {type(task).__name__}, not a Task")
        if task.name != origin.short_name:
            raise origin.failure(f"its task has name={task.name!r}, not {origin.short_name!r}")
        return task

    return checked


TASKS = Registry(("no task", "tasks"), "p2r_jax.tasks", _REGISTRY, _from_outside)


def task_names() -> tuple[str, ...]:
    """Names of all registered tasks, those of other packages included."""
    return tuple(sorted(TASKS))


def load_task(name: str) -> Task:
    """A fresh task by name, by import path, or from a folder.

    Raises:
      KeyError: for an unknown name; lists all.
      PluginError: if a task of another package cannot be used, or has a name twice.
    """
    if Path(name, "task.json").is_file():
        from p2r_jax.task_files import read_task

        return read_task(name)
    return TASKS[name]()


@register
def push_tblock() -> Task:
    """The paper's T-block: 40 cm and any rotation, 3 cm actions at 1 Hz, CoM unknown."""
    asset = load_asset("tblock")
    weight_range = PhysicsRanges().weight_x_m
    low, high = (float(asset.with_weight(x)[1][0]) for x in weight_range)
    com = ThetaSpec(
        "com_object_x", "m", low, high, mean=(low + high) / 2, std=(high - low) / 12**0.5
    )
    return Task(name="push_tblock", asset="tblock", theta=(com,))


@register
def push_tblock_plus() -> Task:
    """``push_tblock`` in a world that is less known: what the ``plus`` policies train in.

    The paper varies weight, friction and yaw. Here also where the block rests (from its
    area to its rim), where its mass lies across the axis, and the pusher's own friction. A
    real block differs in these, and so does ``reality-test``; its values chose none of ours.
    Trials are those of ``push_tblock``. Prior and estimate are fused by a rule that
    ``experiments/fusion_rules.py`` found safe.
    """
    base = push_tblock()
    physics = replace(
        base.physics,
        off_axis_m=0.01,
        friction=(0.1, 0.5),
        friction_pusher=(0.1, 0.5),
        rim_share=(0.0, 1.0),
    )
    planar = replace(base.planar, contact_sweeps=4)  # converged: no order of contacts to learn
    return replace(
        base,
        name="push_tblock_plus",
        physics=physics,
        planar=planar,
        trial_friction=base.physics.friction,
        fusion_rule="doubt",
    )


@register
def push_tblock_xy() -> Task:
    """``push_tblock_plus`` whose policy is told the centre of mass in x and y.

    The world is the same; where the mass lies across the axis is no nuisance here but the
    second component of theta. The noise of phase 1.5 is scaled to each range.
    """
    base = push_tblock_plus()
    (along,), side = base.theta, base.physics.off_axis_m
    _, across = _com_xy((along.low, along.high), (-side, side))
    return replace(
        base,
        name="push_tblock_xy",
        theta=(along, across),
        theta_noise_share=(1.0, round(across.std / along.std, 3)),
    )


@register
def push_hammer() -> Task:
    """The paper's hammer: 5 cm actions at 10 Hz (up to 50 cm/s), CoM anywhere along it.

    Ours: the outline (``sim.asset.hammer``), the curriculum's circle and the free
    reach, which follow its length. ``contact`` takes twice the default's steps, with
    MuJoCo's own impedance at the pusher: the default misses the parity mark at 50 cm/s
    (``benchmarks.contact_tradeoff``). So does ``planar``, which knows no soft contact: it
    is there for speed, and what it trained deserves a look in ``contact``.
    """
    base = push_tblock()
    low, high = -0.13, 0.13
    com = ThetaSpec("com_object_x", "m", low, high, mean=0.0, std=(high - low) / 12**0.5)
    return replace(
        base,
        name="push_hammer",
        asset="hammer",
        theta=(com,),
        control_period_s=0.1,
        action_scale_m=0.05,
        layout=replace(base.layout, goal_yaw_rad=float(np.pi / 4)),
        physics=PhysicsRanges(
            weight_x_m=None,
            com_m=((low, high), (0.0, 0.0)),
            mass_scale=(0.8, 1.2),
            friction=(0.5, 1.2),
            support="corners",  # the cells of a patch lie in a row along the handle: it would roll
        ),
        curriculum=replace(base.curriculum, ee_radius_m=0.20),
        reward=replace(base.reward, free_reach_m=0.18),
        success=replace(base.success, hold_s=2.0),
        contact=replace(base.contact, substeps=100, pusher_solimp=(0.9, 0.95, 0.001, 0.5, 2.0)),
    )


@register
def push_triangle() -> Task:
    """The CMU triangle of 150 mm on three feet by its corners: CoM unknown in x and y.

    1 cm actions at 1 Hz: the robot of the recorded pushes moves at 3 to 8 mm/s. The middle
    of the range lies 17.7 mm from the real centre of mass, so an estimator that learned
    nothing is that wrong. Friction is wider than what the experimenters quote for their
    tables (0.28, 0.34), and at its highest no push at mid height tips the triangle over.

    Ours: layout and episode length, for the shorter actions; the tool's 5 mm radius.
    """
    base = push_tblock()
    com = (-0.057, -0.018)
    return replace(
        base,
        name="push_triangle",
        asset="triangle_150",
        theta=_com_xy(com),
        theta_noise_m=0.008,
        action_scale_m=0.01,
        episode_length=150,
        pusher_radius_m=0.005,
        layout=replace(
            base.layout,
            start_xy=(0.30, 0.08),
            goal_xy=(0.30, -0.08),
            ee_start_xy=(0.14, 0.0),
        ),
        physics=PhysicsRanges(
            weight_x_m=None,
            com_m=(com, com),
            friction=(0.15, 0.65),
            support="corners",
            support_count=3,
        ),
        curriculum=replace(base.curriculum, position_noise_m=0.04, ee_radius_m=0.13),
    )


@register
def push_triangle_101() -> Task:
    """The smaller CMU triangle, 101 x 99 mm of wood, of the continuous runs.

    The middle of its range lies 16 mm from the real centre of mass, which leaves 4 mm
    between the ends of the range and the edges: where friction is high, such a triangle
    would tip over in three dimensions. Meant for ``planar``. The tool is the pointed finger
    of the logs.
    """
    base = push_triangle()
    com_x, com_y = (-0.0455, -0.0115), (-0.0445, -0.0105)
    return replace(
        base,
        name="push_triangle_101",
        asset="triangle_101",
        theta=_com_xy(com_x, com_y),
        theta_noise_m=0.005,
        pusher_radius_m=0.001,
        physics=replace(base.physics, com_m=(com_x, com_y)),
    )


def _com_xy(
    x: tuple[float, float], y: tuple[float, float] | None = None
) -> tuple[ThetaSpec, ThetaSpec]:
    """Both components of the centre of mass, uniform in these ranges (y as x by default), m."""
    return tuple(
        ThetaSpec(
            f"com_object_{axis}", "m", low, high, mean=(low + high) / 2, std=(high - low) / 12**0.5
        )
        for axis, (low, high) in (("x", x), ("y", y or x))
    )
