"""Real pushes replayed: six conditions of 50 pushes each by the CMU robot.

    python experiments/real_push_replay.py    # about 2 minutes on 2 cores, JSON and PNG

Every push starts at its measured pose; the tool follows its measured path; predicted
is the pose after it, 16 mm of tool travel later. The friction between tool and object
is fitted on half of the pushes and tested on the other half, both ways round, so every
push is tested once. Friction at the table is the authors'; the support points are those
of the condition. Tip radius and the tool's millimetre to the left (``cmu_pushes.py``)
take their values from CHOSEN_ON alone; the other three were on the screen by then, so
they are untuned, not unseen.
The centre of mass is the same in all of them, nominal, that of a uniform triangle.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import tyro
from cmu_pushes import CONDITIONS, DATA, TIP_RADIUS_M, Condition, load_condition
from tqdm import tqdm

from p2r_jax.evaluation.replay import METRICS, STILL, TRANSFORM, halves, summary
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.pushlog import PushLog
from p2r_jax.sim.contact import ContactConfig, ContactDynamics
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.replay import (
    apply_transform,
    fit_friction,
    fit_transform,
    pose_errors,
    replay,
    rest_physics,
)
from p2r_jax.sim.support import support_points
from p2r_jax.sim.triangles import triangle_150

SCHEMA_VERSION = 1
ASSET = triangle_150()
CHOSEN_ON = ("blackboard_10_130_10_10_10_130", "blackboard_patch", "wood_30_63_43_30_43_63")
Errors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
      out: JSON; the plot goes next to it.
      data: folder of the CMU data.
      seed: of the halves.
      period_s: of the resampled tool path.
      speed_up: replayed this much faster than recorded (2.5 mm/s); quasi-static.
      planar_substeps, contact_substeps: physics steps per period.
      patch_points: support points of the full face.
    """

    out: Path = Path(__file__).parent / "results" / "real_push_replay.json"
    data: Path = DATA
    seed: int = 0
    period_s: float = 0.2
    speed_up: float = 8.0
    planar_substeps: int = 10
    contact_substeps: int = 5
    patch_points: int = 24


@dataclass(frozen=True)
class Variant:
    """A replay that differs from the planar one in one thing.

    Attributes:
      planar: numerical settings, substeps apart.
      tip_left_m: None corrects the tool's frame; 0.0 takes the tool as recorded.
      tip_radius_m: of the tool.
      rim: let the full face rest on its rim.
      friction: None is fitted.
    """

    planar: PlanarConfig = field(default_factory=PlanarConfig)
    tip_left_m: float | None = None
    tip_radius_m: float = TIP_RADIUS_M
    rim: bool = False
    friction: float | None = None


VARIANTS = {
    "planar": Variant(),
    "load does not shift forward": Variant(planar=PlanarConfig(push_height=False)),
    "ellipsoidal limit surface": Variant(planar=PlanarConfig(table_friction="ellipsoid")),
    "full face rests on its rim": Variant(rim=True),
    "tool frame as recorded": Variant(tip_left_m=0.0),
    "tool of 5 mm radius": Variant(tip_radius_m=0.005),
    "friction 0.25, not fitted": Variant(friction=0.25),
}


def two_folds(log: PushLog, seed: int) -> list[tuple[PushLog, PushLog]]:
    """(fit on, test on), both ways round."""
    one, other = halves(log, seed)
    return [(one, other), (other, one)]


def cross_predict(log: PushLog, seed: int, predict: Callable) -> tuple[np.ndarray, list]:
    """Poses after all pushes, each predicted by what was fitted on the other half.

    Args:
      log: one condition.
      seed: of the halves.
      predict: (fit on, test on) -> (poses after, what was fitted).
    """
    after, fitted = np.zeros((len(log.pushes), 3)), []
    for fitting, testing in two_folds(log, seed):
        after[np.isin(log.pushes, testing.pushes)], value = predict(fitting, testing)
        fitted.append(value)
    return after, fitted


def by_dynamics(condition: Condition, make: Callable, settings: Settings, variant: Variant):
    """A predictor for ``cross_predict``: a dynamics, friction fitted unless given."""
    support = condition.support(settings.patch_points)
    if variant.rim and condition.feet_mm is None:
        support = support_points(ASSET, "rim", settings.patch_points)
    physics = rest_physics(ASSET, support, variant.friction or 0.5, condition.friction_table)
    dynamics = make(len(support), variant)

    def predict(fitting: PushLog, testing: PushLog):
        best = physics
        if variant.friction is None:
            best, _ = fit_friction(fitting, physics, dynamics, settings.period_s)
        final = replay(testing, best, dynamics, settings.period_s)[1]
        return final, round(float(best.friction_pusher), 3)

    return predict


def transform(fitting: PushLog, testing: PushLog):
    """The second baseline as a predictor for ``cross_predict``."""
    return apply_transform(testing, fit_transform(fitting)), None


def makers(settings: Settings) -> tuple[Callable, Callable]:
    """(planar, contact): number of support points and variant -> dynamics, made once each."""
    dt_s = settings.period_s / settings.speed_up

    @cache
    def planar(points: int, variant: Variant) -> PlanarDynamics:
        config = replace(variant.planar, substeps=settings.planar_substeps)
        return PlanarDynamics(ASSET, variant.tip_radius_m, dt_s, config)

    @cache
    def contact(points: int, variant: Variant) -> ContactDynamics:
        config = ContactConfig(substeps=settings.contact_substeps, support_count=points)
        return ContactDynamics(ASSET, variant.tip_radius_m, dt_s, config)

    return planar, contact


def open_condition(name: str, settings: Settings, variant: Variant) -> PushLog:
    """The log of a condition as a variant sees it."""
    left = {} if variant.tip_left_m is None else {"tip_left_m": variant.tip_left_m}
    return load_condition(name, settings.data, variant.tip_radius_m, **left)


def friction_from_force(log: PushLog) -> float:
    """95th percentile of |tangential / normal| force over the end of each push.

    An upper end of what the fitted friction should be: where the tool slides it is the
    coefficient, where it sticks it is less.
    """
    ratios = []
    after = log.poses_after()
    for i, push in enumerate(log.pushes):
        rows = log.rows(push)
        force, tip = log.force_xy[rows][-40:].mean(0), log.tool_xy[rows][-1]
        cos, sin = np.cos(after[i, 2]), np.sin(after[i, 2])
        inwards = np.array([[cos, sin], [-sin, cos]])
        x, y = inwards @ (tip - after[i, :2])
        nx, ny, _ = ASSET.parts[0].nearest(x, y, np)
        fx, fy = inwards @ force
        normal, tangential = -(fx * nx + fy * ny), fx * ny - fy * nx
        ratios.append(abs(tangential) / max(normal, 1e-6))
    return float(np.percentile(ratios, 95))


def rest_noise(log: PushLog) -> dict[str, float]:
    """Median difference between a pose after a push and before the next: nothing happened."""
    errors = pose_errors(ASSET, log.poses_before()[1:], log.poses_after()[:-1])
    return {name: float(np.median(values)) for name, values in errors.items()}


def measure(settings: Settings) -> dict:
    """Everything the JSON holds but where it comes from."""
    planar, contact = makers(settings)
    errors: dict[str, dict[str, Errors]] = {}
    fitted: dict[str, dict[str, list]] = {}
    variants: dict[str, dict[str, Errors]] = {name: {} for name in VARIANTS}
    described = {}
    bar = tqdm(total=len(CONDITIONS) * (len(VARIANTS) + 1), unit="replay")
    for name, condition in CONDITIONS.items():
        for label, variant in VARIANTS.items():
            log = open_condition(name, settings, variant)
            predict = by_dynamics(condition, planar, settings, variant)
            poses, values = cross_predict(log, settings.seed, predict)
            variants[label][name] = pose_errors(ASSET, poses, log.poses_after())
            if label == "planar":
                fitted[name] = {"planar": values}
            bar.update()
        log = open_condition(name, settings, Variant())
        predict = by_dynamics(condition, contact, settings, Variant())
        poses, fitted[name]["contact"] = cross_predict(log, settings.seed, predict)
        moved, _ = cross_predict(log, settings.seed, transform)
        after = log.poses_after()
        errors[name] = {
            "planar": variants["planar"][name],
            "contact": pose_errors(ASSET, poses, after),
            STILL: pose_errors(ASSET, log.poses_before(), after),
            TRANSFORM: pose_errors(ASSET, moved, after),
        }
        described[name] = describe(condition, log, fitted[name])
        bar.update()
    bar.close()
    return {
        "conditions": described,
        "errors": {n: summaries(e) for n, e in errors.items()} | pooled(errors),
        "variants": {
            label: {"all": summary(stack(rows.values())),
                    "not chosen on": summary(stack(v for k, v in rows.items()
                                                   if k not in CHOSEN_ON))}
            for label, rows in variants.items()
        },
        "by_push": {n: {k: {m: np.round(v, 3).tolist() for m, v in e.items()}
                        for k, e in rows.items()} for n, rows in errors.items()},
    }  # fmt: skip


def describe(condition: Condition, log: PushLog, fitted: dict) -> dict:
    """What a condition was, what was fitted in its halves, and two checks of the data."""
    return {
        "surface": condition.surface, "feet_mm_from_corner": condition.feet_mm,
        "pushes": len(log.pushes), "chosen_on": condition.name in CHOSEN_ON,
        "friction_table": round(condition.friction_table, 4), "friction_pusher": fitted,
        "friction_from_force_p95": round(friction_from_force(log), 3),
        "rest_noise": rest_noise(log),
    }  # fmt: skip


def stack(errors) -> Errors:
    """Errors of several conditions as one sample."""
    errors = list(errors)
    return {metric: np.concatenate([e[metric] for e in errors]) for metric in METRICS}


def summaries(errors: dict[str, Errors]) -> dict:
    """Summary by predictor."""
    return {who: summary(values) for who, values in errors.items()}


def pooled(errors: dict[str, dict[str, Errors]]) -> dict:
    """Summaries over all conditions, and over those that nothing was chosen on."""
    groups = {"all": list(errors), "not chosen on": [n for n in errors if n not in CHOSEN_ON]}
    who = next(iter(errors.values()))
    return {
        f"pooled, {label}": summaries({k: stack(errors[n][k] for n in names) for k in who})
        for label, names in groups.items()
    }


def table(result: dict) -> str:
    """Markdown: medians by condition and predictor."""
    lines = ["| condition | | " + " | ".join(METRICS.values()) + " |", "|---|---|---|---|---|"]
    for name, rows in result["errors"].items():
        for who, row in rows.items():
            cells = (f"{row[m]['value']:.2f} [{row[m]['low']:.2f}, {row[m]['high']:.2f}]"
                     for m in METRICS)  # fmt: skip
            lines.append(f"| {name} | {who} | " + " | ".join(cells) + " |")
    lines += ["", "| planar, one thing changed | " + " | ".join(METRICS.values()) + " |",
              "|---|---|---|---|"]  # fmt: skip
    for who, rows in result["variants"].items():
        cells = (f"{rows['all'][m]['value']:.2f} (p95 {rows['all'][m]['p95']:.1f})"
                 for m in METRICS)  # fmt: skip
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(result: dict, file: Path) -> None:
    """Errors by condition, pooled distribution, and what each modelling choice is worth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    names = [n for n in result["errors"] if not n.startswith("pooled")]
    who = list(result["errors"][names[0]])
    colors = dict(zip(who, ("#0072B2", "#D55E00", "#999999", "#E69F00"), strict=True))
    for axis, metric in zip(axes[0], ("position_mm", "yaw_deg"), strict=True):
        for i, k in enumerate(who):
            rows = [result["errors"][n][k][metric] for n in names]
            x = np.arange(len(names)) + (i - 1.5) * 0.2
            value = np.array([r["value"] for r in rows])
            low, high = ([r[e] for r in rows] for e in ("low", "high"))
            axis.bar(x, value, 0.19, color=colors[k], label=k)
            axis.errorbar(x, value, [value - low, high - value], fmt="none", ecolor="k", lw=0.8)
        labels = [n.replace("_", " ", 1).replace("_", ",") for n in names]
        labels = [f"{a}*" if n in CHOSEN_ON else a for a, n in zip(labels, names, strict=True)]
        axis.set_xticks(range(len(names)), labels, rotation=20, ha="right", fontsize=8)
        axis.set_title(f"median error: {METRICS[metric]} (* settings chosen on)", fontsize=10)
    axes[0, 0].set_ylim(0, 15)
    axes[0, 0].legend(fontsize=8, ncols=2)
    for k in who:
        values = np.sort(np.concatenate([result["by_push"][n][k]["outline_mm"] for n in names]))
        axes[1, 0].step(values, np.arange(1, values.size + 1) / values.size, color=colors[k],
                        label=k, where="post")  # fmt: skip
    axes[1, 0].set(
        xlabel="outline error, mm", ylabel="share of all 300 pushes", xlim=0, ylim=(0, 1)
    )
    axes[1, 0].grid(alpha=0.3)
    labels = list(result["variants"])
    rows = [result["variants"][k]["all"]["outline_mm"] for k in labels]
    axes[1, 1].barh(labels, [r["value"] for r in rows], color="#0072B2")
    axes[1, 1].plot([r["p95"] for r in rows], labels, "k|", ms=12)
    axes[1, 1].invert_yaxis()
    axes[1, 1].set_title("planar, one change: outline mm (tick: p95)",
                         fontsize=10)  # fmt: skip
    figure.suptitle("300 real pushes (16 mm of tool travel): predicted against measured final pose")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(settings: Settings) -> None:
    """Measure, print the tables, write JSON and plot."""
    record = {"schema": SCHEMA_VERSION, "kind": "real_push_replay",
              "settings": as_record(replace(settings, out=Path(settings.out.name),
                                            data=Path(settings.data.name))),
              "provenance": provenance()}  # fmt: skip
    result = record | measure(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, result)
    plot(result, settings.out.with_suffix(".png"))
    print(table(result))
    for name, row in result["conditions"].items():
        print(f"{name}: friction fitted {row['friction_pusher']}, "
              f"from force up to {row['friction_from_force_p95']}, rest noise "
              f"{row['rest_noise']['outline_mm']:.3f} mm")  # fmt: skip
    print(f"written: {settings.out} and {settings.out.with_suffix('.png').name}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
