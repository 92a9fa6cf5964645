"""Make a bundle out of trained networks: ``p2r export``."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from p2r_jax.deploy.bundle import (
    BUNDLE_FILE,
    SCHEMA_VERSION,
    LoopSpec,
    RobotBundle,
    check_networks,
    list_files,
    load_bundle,
)
from p2r_jax.deploy.loop import ThetaSource
from p2r_jax.deploy.polygon import Point
from p2r_jax.estimator.ensemble import Ensemble, load_ensemble, save_ensemble
from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.fusion import FusionRule, rule_named
from p2r_jax.policy.policy import Phase, Policy, load_policy, save_policy
from p2r_jax.sim.asset import ASSET_ROOT, Asset
from p2r_jax.sim.observation import FEATURES
from p2r_jax.task_files import write_task
from p2r_jax.tasks import Task, load_task

CHECKPOINT_ROOT = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class ExportConfig:
    """One bundle.

    Attributes:
      out: its folder.
      task: registered task, or a task folder.
      checkpoints: folder with the policy and ``estimator``; by default the shipped ones.
      policy: which policy of that folder.
      source: which theta the policy is told: the prior fused with the estimate, the
        estimate alone, what is given as the prior, or, with ``explore``, the fused belief
        displaced until it is sure.
      rule: how prior and estimate are fused, a name of ``fusion.RULES``; None is the task's.
      stablehlo, onnx: also write the step itself in this form, checked against JAX.
      overwrite: allow a folder that is not empty.
    """

    out: Path
    task: str = "push_tblock"
    checkpoints: Path | None = None
    policy: Phase = "noisy"
    source: ThetaSource = "fused"
    rule: str | None = None
    stablehlo: bool = False
    onnx: bool = False
    overwrite: bool = False


def export(config: ExportConfig) -> RobotBundle:
    """Write a bundle and load it again.

    Raises:
      KeyError: for an unknown task or rule, with all names.
      FileNotFoundError: naming the checkpoint that is missing.
      ValueError: for a checkpoint of another task, or a form that deviates from the step.
      FileExistsError: if ``out`` is not empty.
    """
    task = load_task(config.task)
    rule = rule_named(config.rule or task.fusion_rule)
    root = config.checkpoints or CHECKPOINT_ROOT / task.name
    policy = load_policy(root / config.policy, task)
    ensemble = load_ensemble(root / "estimator", task)
    forms = tuple(form for form in ("stablehlo", "onnx") if getattr(config, form))
    spec = loop_spec(task, config.source, rule)
    bundle = write_bundle(config.out, task, policy, ensemble, spec, forms, config.overwrite)
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    print(f"{config.out}: {task.name}, {config.policy} policy, {size / 1e6:.1f} MB")
    for form, deviation in bundle.parity.items():
        print(f"  {form}: within {deviation:.1e} of the step")
    return bundle


def write_bundle(
    folder: Path,
    task: Task,
    policy: Policy,
    ensemble: Ensemble,
    spec: LoopSpec | None = None,
    forms: tuple[str, ...] = (),
    overwrite: bool = False,
) -> RobotBundle:
    """Write networks and task; ``bundle.json`` comes last, so half a bundle is none.

    ``spec`` is the task's by default.
    """
    spec = spec or loop_spec(task)
    check_networks(spec, policy, ensemble, f"task {task.name!r}")
    new_folder(folder, overwrite)
    (folder / BUNDLE_FILE).unlink(missing_ok=True)
    save_policy(folder / "policy", policy)
    save_ensemble(folder / "estimator", ensemble)
    _copy_asset(task, folder / "asset")
    write_task(replace(task, asset=str(folder / "asset")), folder)
    parity = {}
    if forms:
        from p2r_jax.deploy.exported import write_form

        parity = {form: write_form(form, folder, spec, policy, ensemble) for form in forms}
    record = {"schema": SCHEMA_VERSION, "loop": asdict(spec), "parity": parity,
              "files": list_files(folder), "made": provenance()}  # fmt: skip
    write_json(folder / BUNDLE_FILE, record)
    return load_bundle(folder, task)


def loop_spec(
    task: Task, source: ThetaSource = "fused", rule: FusionRule | None = None
) -> LoopSpec:
    """What the loop needs of a task, whose fusion rule is the default."""
    (low_x, low_y), (high_x, high_y) = task.layout.lower, task.layout.upper
    return LoopSpec(
        task=task.name,
        source=source,
        rule=rule or rule_named(task.fusion_rule),
        control_period_s=task.control_period_s,
        action_scale_m=task.action_scale_m,
        history=task.history,
        features=FEATURES,
        theta=tuple(t.name for t in task.theta),
        theta_unit=tuple(t.unit for t in task.theta),
        goal=(*task.layout.goal_xy, task.layout.goal_yaw_rad),
        workspace=((low_x, low_y), (high_x, low_y), (high_x, high_y), (low_x, high_y)),
        success_position_m=task.success.position_m,
        success_yaw_rad=task.success.yaw_rad,
        episode_steps=task.episode_length,
        object=task.object.name,
        outline=outline(task.object),
    )


def outline(asset: Asset) -> tuple[Point, ...]:
    """Corners around the union of the asset's parts, counter-clockwise, m; holes are left out.

    Raises:
      ImportError: if there are several parts and shapely is missing.
    """
    if len(asset.parts) == 1:
        return _points(asset.parts[0].corners)
    try:
        import shapely
    except ImportError as error:
        raise ImportError(
            "the outline of an object of several parts needs shapely: pip install 'p2r_jax[viz]'"
        ) from error
    # rounding closes the hair-wide gaps that float corners leave between touching parts
    union = shapely.union_all([shapely.Polygon(np.round(p.corners, 9)) for p in asset.parts])
    whole = union if union.geom_type == "Polygon" else union.convex_hull
    ring = shapely.geometry.polygon.orient(whole).exterior.simplify(1e-9)
    return _points(np.array(ring.coords)[:-1])


def retimed(
    task: Task, policy: Policy, ensemble: Ensemble, period_s: float
) -> tuple[Task, Policy, Ensemble]:
    """The same networks at another rate and the same speed, for timing and fault tests.

    What they do at that rate is not what they were trained for.
    """
    scale_m = task.action_scale_m * period_s / task.control_period_s
    timing = {"control_period_s": period_s, "action_scale_m": scale_m}
    return (
        replace(task, **timing),
        policy.replace(contract=replace(policy.contract, **timing)),
        ensemble.replace(contract=replace(ensemble.contract, action_scale_m=scale_m)),
    )


def _points(corners: np.ndarray) -> tuple[Point, ...]:
    return tuple((float(x), float(y)) for x, y in corners)


def _copy_asset(task: Task, to: Path) -> None:
    given = Path(task.asset)
    source = given if (given / "asset.json").is_file() else ASSET_ROOT / task.asset
    shutil.copytree(source, to, dirs_exist_ok=True)
