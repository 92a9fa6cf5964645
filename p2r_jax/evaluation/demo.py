"""The whole loop from one command: prior, policies, estimator, fusion, "reality", pictures."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2r_jax.evaluation.evaluate import EvaluateConfig, Records, evaluate, load_records
from p2r_jax.evaluation.figures import overlay_figure, success_figure, theta_figure
from p2r_jax.evaluation.methods import METHODS, condition_title
from p2r_jax.evaluation.outcomes import judge
from p2r_jax.evaluation.trials import TrialRecord
from p2r_jax.evaluation.video import render_video
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import Gaussian


@dataclass(frozen=True)
class DemoConfig:
    """What the demo shows.

    Attributes:
      out: folder for the table, figures and videos.
      task: registered task with shipped checkpoints.
      dynamics: a reality by name; the demo looks at ``reality-dev`` only.
      conditions: weight positions.
      trials: per method and condition.
      video_condition: the condition that is filmed, one video per method.
      checkpoints: folder of checkpoints; by default the shipped ones.
      overwrite: allow a folder that is not empty.
    """

    out: Path = Path("runs/demo")
    task: str = "push_tblock"
    dynamics: str = "reality-dev"
    conditions: tuple[str, ...] = ("top", "bottom", "bare")
    trials: int = 24
    video_condition: str = "top"
    checkpoints: Path | None = None
    overwrite: bool = False


def demo(config: DemoConfig) -> None:
    """Evaluate every method, then draw and film; prints the table and where the files are."""
    if config.video_condition not in config.conditions:
        raise ValueError(
            f"video_condition {config.video_condition!r} is not among the conditions "
            f"{', '.join(config.conditions)}"
        )
    started = time.perf_counter()
    task = load_task(config.task)
    evaluate(
        EvaluateConfig(
            out=config.out,
            task=config.task,
            dynamics=config.dynamics,
            conditions=config.conditions,
            trials=config.trials,
            checkpoints=config.checkpoints,
            overwrite=config.overwrite,
        )
    )
    records = load_records(config.out)
    draw_figures(config, task, records)
    film(config, task, records)
    print((config.out / "results.md").read_text())
    print(f"{time.perf_counter() - started:.0f} s; files in {config.out}:")
    for path in sorted(config.out.iterdir()):
        print(f"  {path.name}")


def draw_figures(config: DemoConfig, task: Task, records: Records) -> None:
    """Theta through one fused episode per condition, success over time, one path."""
    times = task.control_period_s * np.arange(task.episode_length)
    for condition in config.conditions:
        record, trial = records[condition, "fused"], 0
        for index, theta in enumerate(task.theta):
            suffix = f"_{theta.name}" if index else ""
            theta_figure(
                config.out / f"theta_{condition}{suffix}.png",
                times,
                float(record.theta_true[trial, index]),
                belief(record, "prior", trial, index),
                belief(record, "estimate", trial, index),
                belief(record, "fused", trial, index),
                record.contact[trial],
                title=f"{condition_title(condition)}: one episode in {config.dynamics}",
                ylabel=f"centre of mass along {theta.name[-1]} (cm)",
            )
    success_figure(
        config.out / "success.png",
        {
            c: {m: judge(records[c, m], task).hardware for m in METHODS if (c, m) in records}
            for c in config.conditions
        },
        period_s=task.control_period_s,
        title=f"{task.name} in {config.dynamics}, {config.trials} trials per line",
    )
    record = records[config.video_condition, "fused"]
    overlay_figure(
        config.out / "episode.png",
        record.object_pose[0],
        record.ee_xy[0],
        task.object,
        goal_pose(task),
        period_s=task.control_period_s,
        pusher_radius_m=task.pusher_radius_m,
        com_object_m=np.append(record.theta_true[0], 0.0)[:2],
        title=f"fused, {condition_title(config.video_condition)}",
    )


def film(config: DemoConfig, task: Task, records: Records) -> None:
    """One mp4 per method: the same trial of ``video_condition``."""
    for name in METHODS:
        record = records[config.video_condition, name]
        met = judge(record, task).hardware[0, -1]
        verdict = "reaches the goal" if met else "misses the goal"
        told = None if name == "dr" else record.theta_used[0]
        render_video(
            config.out / f"{name}.mp4",
            task.object,
            record.object_pose[0],
            record.ee_xy[0],
            goal_pose(task),
            period_s=task.control_period_s,
            caption=(f"{name}: {METHODS[name].text}",
                     f"{condition_title(config.video_condition)}, {config.dynamics}: {verdict}"),
            theta_told=told,
            theta_truth=record.theta_true[0],
            pusher_radius_m=task.pusher_radius_m,
        )  # fmt: skip


def belief(record: TrialRecord, name: str, trial: int, component: int = 0) -> Gaussian:
    """One belief about one component of theta through one trial: Float[T]."""
    sigma = getattr(record, f"{name}_sigma")[trial, :, component]
    return Gaussian(getattr(record, f"{name}_mean")[trial, :, component], sigma**2)


def goal_pose(task: Task) -> np.ndarray:
    """Goal x, y (m), yaw (rad)."""
    return np.array([*task.layout.goal_xy, task.layout.goal_yaw_rad])
