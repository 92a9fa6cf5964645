"""A bundle: everything the loop needs, in one folder that can be handed on.

``bundle.json`` says what it is and lists the SHA-256 of every other file; beside it lie
``policy/``, ``estimator/``, ``task.json`` with its ``asset/``, and, if asked for, the step
itself as StableHLO or ONNX (``deploy.exported``). Nothing that trained it is needed.
"""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from p2r_jax.deploy.loop import ThetaSource
from p2r_jax.deploy.polygon import Point
from p2r_jax.estimator.ensemble import Ensemble, load_ensemble
from p2r_jax.files import read_record
from p2r_jax.fusion import FusionRule
from p2r_jax.policy.policy import Policy, load_policy
from p2r_jax.tasks import Task

BUNDLE_FILE = "bundle.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LoopSpec:
    """What the loop needs to know of the task; SI units, radians, world frame.

    Attributes:
      task: its registered name.
      source: which theta the policy is told.
      rule: how prior and estimate are fused.
      control_period_s: one action per period.
      action_scale_m: an action of one moves the pusher by this much per axis.
      history: rows of the estimator's window.
      features: order of a window row and of the policy's observation, without theta.
      theta, theta_unit: components of theta.
      goal: x, y, yaw of the object.
      workspace: corners of the polygon that the tip stays in, counter-clockwise.
      success_position_m, success_yaw_rad: how near the goal the object must come.
      episode_steps: actions of an episode in training and evaluation.
      object: name of the asset.
      outline: corners of its footprint, object frame.
    """

    task: str
    source: ThetaSource
    rule: FusionRule
    control_period_s: float
    action_scale_m: float
    history: int
    features: tuple[str, ...]
    theta: tuple[str, ...]
    theta_unit: tuple[str, ...]
    goal: tuple[float, float, float]
    workspace: tuple[Point, ...]
    success_position_m: float
    success_yaw_rad: float
    episode_steps: int
    object: str
    outline: tuple[Point, ...]


@dataclass(frozen=True)
class RobotBundle:
    """A bundle in memory.

    Attributes:
      folder: where it was loaded from.
      spec: of the loop.
      policy, ensemble: the networks.
      made: versions, git revision, date and command of the export.
      parity: largest deviation of the exported forms from the step, by name.
    """

    folder: Path
    spec: LoopSpec
    policy: Policy
    ensemble: Ensemble
    made: dict
    parity: dict[str, float]

    @cached_property
    def task(self) -> Task:
        """The whole task, for the simulated robot and for checking a prior."""
        from p2r_jax.task_files import read_task

        return read_task(self.folder)


def load_bundle(folder: str | Path, task: Task | None = None) -> RobotBundle:
    """Load what ``export`` wrote and refuse what does not fit together.

    Args:
      folder: the bundle.
      task: if given, the bundle must be of it.

    Raises:
      FileNotFoundError: if the folder holds no (complete) bundle.
      ValueError: for another schema, task or feature order, networks that contradict the
        bundle, or a file that is not the one that was exported; names both sides.
    """
    folder = Path(folder)
    record = read_record(folder / BUNDLE_FILE, SCHEMA_VERSION, "`p2r export` makes a bundle")
    _check_files(folder, record["files"])
    loop = {k: _as_tuples(v) for k, v in record["loop"].items()}
    spec = LoopSpec(**loop | {"rule": FusionRule(**loop["rule"])})
    if task is not None and task.name != spec.task:
        raise ValueError(f"{folder} is a bundle of task {spec.task!r}, not of {task.name!r}")
    policy, ensemble = load_policy(folder / "policy"), load_ensemble(folder / "estimator")
    check_networks(spec, policy, ensemble, str(folder))
    return RobotBundle(folder, spec, policy, ensemble, record["made"], record["parity"])


def check_networks(spec: LoopSpec, policy: Policy, ensemble: Ensemble, where: str) -> None:
    """Raise ValueError, naming both sides, unless both networks are for this loop."""
    wanted = asdict(spec)
    common = ("task", "features", "theta", "action_scale_m")
    for kind, contract, names in (
        ("policy", policy.contract, (*common, "control_period_s")),
        ("estimator", ensemble.contract, (*common, "history")),
    ):
        for name in names:
            if (found := getattr(contract, name)) != wanted[name]:
                raise ValueError(
                    f"{where}: the {kind} has {name} = {found!r}, the loop {wanted[name]!r}"
                )
    if policy.contract.memory:
        raise ValueError(
            f"{where}: the policy is recurrent, and no bundle carries a policy's memory; "
            "`p2r evaluate` runs it"
        )
    if policy.contract.history not in (0, spec.history):
        raise ValueError(
            f"{where}: the policy reads {policy.contract.history} rows of history, the loop "
            f"keeps {spec.history}"
        )


def list_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle but ``bundle.json``, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != BUNDLE_FILE
    }


def _check_files(folder: Path, expected: dict[str, str]) -> None:
    """Every listed file must be there, as it was exported."""
    found = list_files(folder)
    for name, digest in expected.items():
        if name not in found:
            raise FileNotFoundError(f"{folder} lacks {name}; export the bundle again")
        if found[name] != digest:
            raise ValueError(f"{folder / name} was changed after the export; export again")


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
