"""``p2r deploy``: a bundle, a robot, a tracker and a prior; one run, one folder."""

import math
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from p2r_jax.deploy.bundle import RobotBundle, load_bundle
from p2r_jax.deploy.check import CheckConfig, CheckReport, check
from p2r_jax.deploy.controller import Controller, Form, answer_promptly
from p2r_jax.deploy.protocols import Clock, DeviceError, Robot, Tracker
from p2r_jax.deploy.records import RunHeader
from p2r_jax.deploy.robots import RobotConfig, make_robot
from p2r_jax.deploy.runner import Runner, RunOptions, RunResult
from p2r_jax.deploy.safety import MEANING, Limits, SafetyConfig, limits_for
from p2r_jax.deploy.timing import WallClock
from p2r_jax.deploy.trackers import TrackerConfig, make_tracker
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.sim.asset import ASSET_ROOT
from p2r_jax.types import Gaussian

EXPECTED = (
    DeviceError,
    OSError,
    ImportError,
    KeyboardInterrupt,
)  # no traceback: their message says it


@dataclass(frozen=True)
class DeployConfig:
    """One run.

    Attributes:
      bundle: folder that ``p2r export`` wrote.
      out: new folder for the log and ``timing.json``; not needed with ``check``.
      robot, tracker: by name.
      prior: vision's belief: a file that ``p2r prior`` wrote, or a name; None: the
        training prior, which says nothing.
      goal: x, y (m) and yaw (rad) of the object; None: the bundle's.
      steps: at most; None: an episode of the task.
      success_hold_s: end when the object was at the goal for so long; None: do not.
      dry_run: everything but motion: a real arm is not even enabled, only read.
      check: test connection, frames, latency and rates instead of running.
      live: serve a page with the table from above and a stop button.
      live_port: of that page; 0: any free one.
      dataset: at the end, write the run as a LeRobot dataset into ``out/lerobot`` as well;
        ``p2r recover`` does it later.
      form: run the step compiled here, or a form that the bundle brings along.
      safety: limits, and which violations stop.
      robots, trackers: settings of each kind.
      checks: what ``check`` tries, and what counts as good.
    """

    bundle: Path
    out: Path | None = None
    robot: str = "sim"
    tracker: str = "sim"
    prior: str | None = None
    goal: tuple[float, float, float] | None = None
    steps: int | None = None
    success_hold_s: float | None = 2.0
    dry_run: bool = False
    check: bool = False
    live: bool = False
    live_port: int = 8808
    dataset: bool = False
    form: Form = "jax"
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    robots: RobotConfig = field(default_factory=RobotConfig)
    trackers: TrackerConfig = field(default_factory=TrackerConfig)
    checks: CheckConfig = field(default_factory=CheckConfig)

    def __post_init__(self):
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least one is needed")
        if self.goal is not None and not all(map(math.isfinite, self.goal)):
            raise ValueError(f"goal is {self.goal}; x, y and yaw must be numbers")
        if self.out is None and not self.check:
            raise ValueError("give a folder for the log: --out DIR")


def deploy_command(config: DeployConfig) -> None:
    """Run, or check; SystemExit(1) unless it went as it was meant to."""
    good = check_devices(config).ok if config.check else deploy(config).planned
    if not good:
        raise SystemExit(1)


def check_devices(config: DeployConfig) -> CheckReport:
    """Go through the checklist, printing as it goes; ``out`` gets ``check.json``.

    Raises:
      FileNotFoundError, KeyError, ValueError: as ``deploy``.
    """
    bundle = load_bundle(config.bundle)
    robot, tracker, clock = make_devices(config, bundle)
    report = check(robot, tracker, clock, bundle.task, config.checks, print)
    print("ready" if report.ok else "not ready")
    if config.out:
        config.out.mkdir(parents=True, exist_ok=True)
        write_json(config.out / "check.json", report.record() | {"provenance": provenance()})
    return report


def make_devices(config: DeployConfig, bundle: RobotBundle) -> tuple[Robot, Tracker, Clock]:
    """The robot, the tracker beside it, and the clock of both; nothing is connected."""
    robot = make_robot(config.robot, config.robots, bundle.task, still=config.dry_run)
    clock = getattr(robot, "clock", None) or WallClock()
    return robot, make_tracker(config.tracker, config.trackers, robot, clock), clock


def deploy(config: DeployConfig) -> RunResult:
    """Load, compile, connect, run; prints how it went and writes it down.

    Raises:
      FileNotFoundError, KeyError, ValueError: for a bundle, name or prior that does not
        fit, before anything is connected.
      FileExistsError: if ``out`` is not empty.
    """
    if config.out.exists() and any(config.out.iterdir()):
        raise FileExistsError(f"{config.out} is not empty; every run gets a folder: choose --out")
    answer_promptly()
    bundle = load_bundle(config.bundle)
    prior = load_prior_for(bundle, config.prior)
    robot, tracker, clock = make_devices(config, bundle)
    limits = limits_of(config, bundle)
    controller = Controller(bundle, prior, config.goal, config.form)
    return _run(config, controller, limits, robot, tracker, clock)


def load_prior_for(bundle: RobotBundle, prior: str | None) -> Gaussian:
    """Vision's belief, checked against the bundle's task; None: the training prior."""
    if prior is None:
        return bundle.ensemble.contract.training_prior
    from p2r_jax.prior.prior import gaussian_for, load_prior

    return gaussian_for(load_prior(prior, bundle.task), bundle.task)


def limits_of(config: DeployConfig, bundle: RobotBundle) -> Limits:
    """The safety limits of a run."""
    spec = bundle.spec
    return limits_for(config.safety, spec.workspace, spec.control_period_s, spec.action_scale_m)


def header_of(
    config: DeployConfig,
    controller: Controller,
    limits: Limits,
    names: tuple[str, str],
    clock: Clock,
) -> RunHeader:
    """What is known before the first step; ``names`` are the robot's and the tracker's."""
    bundle, spec = controller.bundle, controller.spec
    shipped = (ASSET_ROOT / spec.object).is_dir()
    return RunHeader(
        task=spec.task,
        control_period_s=spec.control_period_s,
        action_scale_m=spec.action_scale_m,
        theta=spec.theta,
        goal=tuple(map(float, controller.goal)),
        robot=names[0],
        tracker=names[1],
        outline=spec.outline,
        workspace=limits.workspace,
        started_unix_s=time.time(),
        clock_start_s=clock.now(),
        asset=spec.object if shipped else str(bundle.task.asset),
        tool_radius_m=bundle.task.pusher_radius_m,
        config=as_record(config),
        provenance=provenance() | {"bundle": bundle.made},
    )


def _run(
    config: DeployConfig,
    controller: Controller,
    limits: Limits,
    robot: Robot,
    tracker: Tracker,
    clock: Clock,
) -> RunResult:
    from p2r_jax.deploy.record import RecoverConfig, open_run, recover

    header = header_of(config, controller, limits, (robot.name, tracker.name), clock)
    steps = config.steps or controller.spec.episode_steps
    options = RunOptions(steps, config.success_hold_s, config.dry_run)
    view = _live_view(header, config.live_port) if config.live else None
    try:
        writer = open_run(config.out, header)
    except Exception:
        if view:
            view.close()
        raise
    with tqdm(total=steps, unit="step", mininterval=1.0, disable=None) as bar:
        result = Runner(
            controller, limits, robot, tracker, clock, writer, options, view,
            on_step=lambda record: bar.update(),
        ).run()  # fmt: skip
    write_json(
        config.out / "timing.json",
        {"cause": result.cause, "success": result.success, **asdict(result.timing)},
    )
    tell(result, config.out)
    if config.dataset:
        recover(RecoverConfig((config.out,)))
    return result


def tell(result: RunResult, out: Path) -> None:
    """Print how a run ended; a bug with its traceback."""
    if result.error is not None and not isinstance(result.error, EXPECTED):
        traceback.print_exception(result.error)
    print(f"ended: {result.cause}; the robot was told to stop", file=sys.stderr)
    for cause in result.safety:
        print(f"  {cause}: {MEANING[cause]}", file=sys.stderr)
    print(result.timing.describe())
    print(f"written: {out}")


def _live_view(header: RunHeader, port: int):
    from p2r_jax.deploy.live import LiveView

    view = LiveView(header, port)
    print(f"live view: {view.url}")
    return view
