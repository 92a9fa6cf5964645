"""A run of p2r deploy without p2r deploy: a trial of "reality", written down step by step."""

from functools import cache

import numpy as np

from p2r_jax.deploy.record import Run, open_run
from p2r_jax.deploy.records import RunHeader, StepRecord
from p2r_jax.evaluation.evaluate import make_world, run_cell
from p2r_jax.evaluation.figures import object_outline
from p2r_jax.evaluation.methods import condition, load_checkpoints
from p2r_jax.evaluation.trials import TrialRecord
from p2r_jax.prior.prior import load_prior
from p2r_jax.sim.reality import REALITY_DEV
from p2r_jax.sim.trials import draw_trials
from p2r_jax.tasks import Task, load_task

START_S = 5.0  # of the loop's clock
WHERE, METHOD = "top", "fused"


def header_of(task: Task, **changes) -> RunHeader:
    """What a deployment of a task writes before its first step."""
    layout = task.layout
    (x0, y0), (x1, y1) = layout.lower, layout.upper
    fields = {
        "task": task.name, "control_period_s": task.control_period_s,
        "action_scale_m": task.action_scale_m, "theta": tuple(t.name for t in task.theta),
        "goal": (*map(float, layout.goal_xy), float(layout.goal_yaw_rad)),
        "robot": "sim", "tracker": "sim",
        "outline": tuple(map(tuple, object_outline(task.object).vertices[:-1].tolist())),
        "workspace": ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), "started_unix_s": 1.7e9,
        "clock_start_s": START_S, "asset": task.object.name,
        "tool_radius_m": task.pusher_radius_m, "config": {"seed": 0},
    }  # fmt: skip
    return RunHeader(**fields | changes)


@cache
def recorded(seed: int = 0, method: str = METHOD) -> TrialRecord:
    """One trial of the shipped checkpoints, the weight at the top of the T."""
    task = load_task("push_tblock")
    trials = draw_trials(task, condition(WHERE).mass_properties(task.object), 1, seed)
    world = make_world("reality-dev", task, trials)
    prior = load_prior(condition(WHERE).prior, task)
    return run_cell(method, world, load_checkpoints(None, task, (method,)), task, prior)


def run_of(record: TrialRecord, task: Task, cause: str = "finished") -> Run:
    """The first trial of a record as a run."""
    period = task.control_period_s
    sent = np.clip(record.action[0], -1, 1)
    steps = []
    for k in range(sent.shape[0]):
        start = START_S + period * k
        action, ee = tuple(sent[k].tolist()), record.measured_ee[0, k]
        beliefs = {
            f"{who}_{what}": tuple(getattr(record, f"{who}_{what}")[0, k].tolist())
            for who in ("prior", "estimate", "fused")
            for what in ("mean", "sigma")
        }
        steps.append(StepRecord(
            step=k, stamp_s=start, object_pose=tuple(record.measured_pose[0, k].tolist()),
            pose_stamp_s=start - REALITY_DEV.latency_s, ee_xy=tuple(ee.tolist()),
            action=action, safe_action=action, sent_action=action,
            target_xy=tuple((ee + task.action_scale_m * sent[k]).tolist()),
            theta_used=tuple(record.theta_used[0, k].tolist()), **beliefs,
            ee_stamp_s=start - REALITY_DEV.latency_s,
            sections_s={"observe": 1e-4, "infer": 3e-4, "act": 1e-4, "log": 1e-5, "late": 1e-4},
        ))  # fmt: skip
    return Run(header_of(task), tuple(steps), cause)


def write_run(folder, run: Run) -> None:
    """Write a run's log, as the loop would."""
    writer = open_run(folder, run.header)
    for step in run.steps:
        writer.step(step)
    writer.close(run.cause)
