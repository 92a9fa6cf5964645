"""The learned ensemble on the CMU robot's continuous pushes: estimate, sigma, coverage.

    python experiments/ensemble_on_real_pushes.py    # about a minute on 2 cores, JSON and PNG

The ensemble was trained in simulation (``experiments/triangle_ensemble.py``) and meets
six real runs of 37 to 65 s. No setting was chosen by what it says on them. The centre of
mass is the same in all of them, fixed, nominal, the centroid of a uniform triangle; what
the triangle stands on is not recorded. Windows of one run overlap and share its errors:
six runs are nearer to six independent answers than to three hundred.

Beside the real runs stand their simulated twins: the same tool path, replayed open loop
in the training dynamics with the nominal centre of mass, on other supports and with other
friction. Where the twin does well and the real run does not, it is the gap between the
two worlds; ``gap`` says how far the object strays within ten seconds of replay.

A push through an edge turns the object by its lever arm: it shows where along that edge
the centre of mass lies, and hardly how far behind it. Errors are therefore also told
along and behind the edge that the tool is at, beside those of the training mean; this
split was added after a first look at the picture.
"""

import textwrap
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import tyro
from cmu_pushes import CONTINUOUS, DATA, load_continuous

from p2r_jax.estimator.ensemble import Ensemble, load_ensemble
from p2r_jax.estimator.log_windows import LogWindows, windows_of
from p2r_jax.evaluation.methods import CHECKPOINT_ROOT, ESTIMATOR
from p2r_jax.files import as_record, provenance, write_json
from p2r_jax.pushlog import PushLog, resample, split_windows
from p2r_jax.sim.observation import REACH_SCALE
from p2r_jax.sim.planar import PlanarDynamics
from p2r_jax.sim.replay import pose_errors, replay, rest_physics
from p2r_jax.sim.support import support_points
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import Gaussian

SCHEMA_VERSION = 1
TASK = "push_triangle_101"
TRUTH = "nominal: centroid of a uniform triangle; the same in every run"
CHI2 = {"68": 2.279, "95": 5.991}  # of two dimensions
NORMAL = {"68": 0.9945, "95": 1.96}
MOVED_M, MOVED_RAD = 1e-3, np.radians(0.5)  # before the object moved, no window can know
TWIN_PERIOD_S = 0.2
TWIN_POINTS = 24
GAP_WINDOW_S = 10.0


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Attributes:
      out: JSON; the plot goes next to it.
      data: folder of the CMU data.
      checkpoint: folder of the ensemble.
    """

    out: Path = Path(__file__).parent / "results" / "ensemble_on_real_pushes.json"
    data: Path = DATA
    checkpoint: Path = CHECKPOINT_ROOT / TASK / ESTIMATOR


@dataclass(frozen=True)
class Twin:
    """What a simulated twin stands on and how its tool grips.

    Attributes:
      support: kind of support points.
      points: how many; repeated up to TWIN_POINTS, so that twins share a compilation.
      shrink: support points lie at this share of the way from the centre of mass.
      friction_pusher: coefficient.
    """

    support: str = "patch"
    points: int = TWIN_POINTS
    shrink: float = 1.0
    friction_pusher: float = 0.4


TWINS = {
    "full face": Twin(),
    "three feet by the corners": Twin("corners", 3),
    "full face drawn in to half": Twin(shrink=0.5),
    "slippery tool, friction 0.15": Twin(friction_pusher=0.15),
    "rough tool, friction 0.7": Twin(friction_pusher=0.7),
}


@dataclass(frozen=True)
class Run:
    """A run and what the ensemble says of it; n control steps.

    Attributes:
      windows: what it was asked.
      belief: its answers, Float[n, 2].
      phase: of every step, one of PHASES.
      normal: outward normal of the edge that is nearest to the tool, object axes.
    """

    windows: LogWindows
    belief: Gaussian
    phase: np.ndarray
    normal: np.ndarray


PHASES = {
    "before": "before the object moved",
    "pushing": "after, with contact in the window",
    "away": "after, no contact in the window",
}


def ask(log: PushLog, task: Task, ensemble: Ensemble) -> Run:
    """The ensemble's answers at every control step of a log."""
    windows = windows_of(log, task)
    belief = jax.tree.map(np.asarray, jax.jit(lambda w: ensemble(w))(windows.window))
    tool = np.asarray(windows.window.features[:, -1, 6:8]) / REACH_SCALE
    nearest = task.object.parts[0].nearest(*tool.T, np)  # a triangle is one part
    return Run(windows, belief, phases(windows, task.history), np.stack(nearest[:2], -1))


def phases(windows: LogWindows, history: int) -> np.ndarray:
    """Phase of every control step: names of PHASES."""
    away = windows.object_pose - windows.object_pose[0]
    moved = np.hypot(*away[:, :2].T) > MOVED_M
    moved |= np.abs(away[:, 2]) > MOVED_RAD
    moved = np.maximum.accumulate(moved)
    recent = np.convolve(windows.contact, np.ones(history))[: moved.size] > 0
    return np.where(~moved, "before", np.where(recent, "pushing", "away"))


def score(belief: Gaussian, truth: np.ndarray) -> dict:
    """Errors (mm) and coverage of steps; ``{"steps": 0}`` if there are none."""
    error, variance = np.asarray(belief.mean) - truth, np.asarray(belief.variance)
    if not len(error):
        return {"steps": 0}
    distance, z = 1000 * np.linalg.norm(error, axis=-1), np.abs(error) / np.sqrt(variance)
    return {
        "steps": len(error),
        "median_error_mm": float(np.median(distance)),
        "rms_error_mm": float(np.sqrt(np.mean(distance**2))),
        "mean_error_mm": (1000 * error.mean(0)).tolist(),
        "mean_sigma_mm": (1000 * np.sqrt(variance).mean(0)).tolist(),
        "region": {p: float(np.mean((z**2).sum(-1) <= q)) for p, q in CHI2.items()},
        "axis": {p: (z <= q).mean(0).tolist() for p, q in NORMAL.items()},
    }


def pooled(runs: list[Run], truth: np.ndarray) -> dict:
    """Scores by phase over runs, and of everything after the object moved."""
    phase = np.concatenate([run.phase for run in runs])
    mean = np.concatenate([run.belief.mean for run in runs])
    variance = np.concatenate([run.belief.variance for run in runs])

    def only(mask):
        return score(Gaussian(mean[mask], variance[mask]), truth)

    return {name: only(phase == name) for name in PHASES} | {"after": only(phase != "before")}


def surest(run: Run, truth: np.ndarray) -> dict:
    """The answer with the smallest sigma, which a user without the truth would read off."""
    at = run.belief.variance.sum(-1).argmin(keepdims=True)
    return {"t_s": float(run.windows.t[at[0]])} | score(
        Gaussian(run.belief.mean[at], run.belief.variance[at]), truth
    )


def by_direction(runs: list[Run], task: Task, truth: np.ndarray) -> dict:
    """Root mean square errors along and behind the pushed edge, while pushing, mm."""
    parts = [
        (run.belief.mean[used] - truth, run.normal[used])
        for run in runs
        for used in [run.phase == "pushing"]
    ]
    error, behind = (np.concatenate(x) for x in zip(*parts, strict=True))
    along = behind[:, ::-1] * [-1.0, 1.0]
    off = task.theta_mean - truth

    def rms(values, direction):
        return float(1000 * np.sqrt(np.mean((values * direction).sum(-1) ** 2)))

    return {
        name: {"ensemble_mm": rms(error, direction), "training_mean_mm": rms(off, direction)}
        for name, direction in (("along", along), ("behind", behind))
    }


@cache
def make_dynamics(task: Task) -> PlanarDynamics:
    """The training dynamics at the period of the replays; one object, compiled once."""
    return PlanarDynamics(task.object, task.pusher_radius_m, TWIN_PERIOD_S, task.planar)


def twin_physics(task: Task, twin: Twin):
    """The nominal centre of mass on the twin's support, friction at the table 0.3."""
    com = np.array(task.object.com_m[:2])
    points = support_points(task.object, twin.support, twin.points)
    support = com + twin.shrink * np.resize(points - com, (TWIN_POINTS, 2))
    return rest_physics(task.object, support, twin.friction_pusher, 0.3)


def twins_of(logs: list[PushLog], task: Task, twin: Twin) -> list[PushLog]:
    """The same tool paths, with the object where the training dynamics puts it."""
    spans = [np.flatnonzero(log.observed)[[0, -1]] for log in logs]
    inner = [log.take(slice(a, b + 1)) for log, (a, b) in zip(logs, spans, strict=True)]
    together = joined(inner)
    poses, _ = replay(together, twin_physics(task, twin), make_dynamics(task), TWIN_PERIOD_S)
    regular = [resample(log, TWIN_PERIOD_S) for log in inner]
    return [
        replace(log, object_pose=pose[: log.t.size], force_xy=None)
        for log, pose in zip(regular, poses, strict=True)
    ]


def joined(logs: list[PushLog]) -> PushLog:
    """Runs as the pushes 0, 1, ... of one log, so that they are replayed in one batch."""
    return replace(
        logs[0], name="all runs", force_xy=None,
        push=np.concatenate([np.full(log.t.size, i) for i, log in enumerate(logs)]),
        t=np.concatenate([log.t for log in logs]),
        object_pose=np.concatenate([log.object_pose for log in logs]),
        tool_xy=np.concatenate([log.tool_xy for log in logs]),
    )  # fmt: skip


def reality_gap(logs: list[PushLog], task: Task, twin: Twin) -> dict:
    """Ten seconds of replay from measured poses: how far the object ends from where it did."""
    parts = split_windows(joined(logs), GAP_WINDOW_S)
    final = replay(parts, twin_physics(task, twin), make_dynamics(task), TWIN_PERIOD_S)[1]
    after = parts.poses_after()
    off = pose_errors(task.object, final, after)["outline_mm"]
    still = pose_errors(task.object, parts.poses_before(), after)["outline_mm"]
    moved = still > 1000 * MOVED_M
    return {
        "windows": int(moved.sum()),
        "median_mm": float(np.median(off[moved])),
        "median_motion_mm": float(np.median(still[moved])),
    }


def main(settings: Settings) -> dict:
    """Ask the ensemble about every run and its twins; write JSON and plot."""
    task = load_task(TASK)
    ensemble = load_ensemble(settings.checkpoint, task)
    truth = np.array(task.object.com_m[:2])
    logs = [load_continuous(name, settings.data, task.pusher_radius_m) for name in CONTINUOUS]
    runs = {log.name: ask(log, task, ensemble) for log in logs}
    record = {
        "schema": SCHEMA_VERSION,
        "kind": "ensemble_on_real_pushes",
        "truth": TRUTH,
        "truth_mm": (1000 * truth).tolist(),
        "training_mean_error_mm": float(1000 * np.linalg.norm(task.theta_mean - truth)),
        "settings": as_record(settings) | {k: Path(getattr(settings, k)).name
                                           for k in ("out", "data", "checkpoint")},
        "provenance": provenance(),
        "ensemble": as_record(ensemble.contract),
        "runs": {
            name: pooled([run], truth) | {
                "surest": surest(run, truth),
                "skipped_steps": run.windows.skipped,
                "largest_action": float(np.abs(run.windows.window.actions).max()),
            }
            for name, run in runs.items()
        },
        "pooled": pooled(list(runs.values()), truth),
        "direction": by_direction(list(runs.values()), task, truth),
        "twins": {},
    }  # fmt: skip
    for name, twin in TWINS.items():
        asked = [ask(log, task, ensemble) for log in twins_of(logs, task, twin)]
        record["twins"][name] = {
            "pooled": pooled(asked, truth),
            "direction": by_direction(asked, task, truth),
            "gap": reality_gap(logs, task, twin),
        }
    write_json(settings.out, record)
    report(record)
    plot(settings.out.with_suffix(".png"), runs, task)
    return record


def report(record: dict) -> None:
    """Print the table of the record."""
    print(f"centre of mass {record['truth']}")
    print(f"the training mean is {record['training_mean_error_mm']:.1f} mm off")
    print(f"{'':42} steps  median mm  rms mm  sigma mm   68 %   95 %")
    rows = {name: row["after"] for name, row in record["runs"].items()}
    rows |= {f"all runs, {text}": record["pooled"][key] for key, text in PHASES.items()}
    rows |= {f"surest step of {name}": row["surest"] for name, row in record["runs"].items()}
    rows |= {f"twin: {name}": row["pooled"]["after"] for name, row in record["twins"].items()}
    for name, r in rows.items():
        if r["steps"]:
            print(
                f"{name[:42]:42} {r['steps']:5d} {r['median_error_mm']:7.1f} "
                f"{r['rms_error_mm']:8.1f} {np.mean(r['mean_sigma_mm']):8.1f} "
                f"{r['region']['68']:8.2f} {r['region']['95']:6.2f}"
            )
    for where, row in record["direction"].items():
        print(
            f"rms {where} the pushed edge: {row['ensemble_mm']:.1f} mm, "
            f"training mean {row['training_mean_mm']:.1f} mm"
        )
    for name, row in record["twins"].items():
        gap = row["gap"]
        print(
            f"10 s of replay, {name}: off by {gap['median_mm']:.1f} mm of "
            f"{gap['median_motion_mm']:.1f} mm, {gap['windows']} windows"
        )


def plot(path: Path, runs: dict[str, Run], task: Task) -> None:
    """Estimate and sigma of both components through every run, and where the answers lie."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(runs), 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(runs), squeeze=False)
    truth, prior = 1000 * np.array(task.object.com_m[:2]), 1000 * task.theta_mean
    lower, upper = (1000 * bound for bound in task.object.footprint_bounds)
    first = next(iter(runs))
    for column, (name, run) in zip(grid.T, runs.items(), strict=True):
        t = run.windows.t
        mean, sigma = 1000 * run.belief.mean, 1000 * np.sqrt(run.belief.variance)
        for axis, label in enumerate("xy"):
            panel = column[axis]
            for (start, end), contact in zip(pairwise(t), run.windows.contact[1:], strict=True):
                if contact:
                    panel.axvspan(start, end, color="0.93", lw=0)
            panel.fill_between(t, (mean - sigma)[:, axis], (mean + sigma)[:, axis],
                               color="#E69F00", alpha=0.3, lw=0)  # fmt: skip
            panel.plot(t, mean[:, axis], color="#E69F00", label="ensemble ± σ")
            panel.axhline(truth[axis], color="k", ls="--", lw=1, label="truth (nominal)")
            panel.axhline(prior[axis], color="#0072B2", ls=":", lw=1.2, label="training mean")
            panel.set(ylim=(lower[axis], 5), xlabel="s")
            panel.set_ylabel(f"centre of mass {label}, mm" if name == first else "")
        column[0].set_title(name)
        board = column[2]
        for part in task.object.parts:
            board.fill(*(1000 * part.corners.T), facecolor="0.92", edgecolor="0.5")
        dots = board.scatter(*mean.T, c=t, s=9, cmap="viridis")
        board.plot(*truth, "k+", ms=12, mew=2)
        board.plot(*prior, "x", color="#0072B2", ms=8, mew=2)
        board.set(aspect="equal", xlabel="x, mm", xlim=(lower[0] - 4, upper[0] + 4))
    grid[2, 0].set_ylabel("y, mm (object frame)")
    figure.colorbar(dots, ax=grid[2, -1], label="s")
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=min(3, len(runs)))
    told = "Ensemble trained in simulation, on real pushes (grey: tool at the object). "
    told += "The truth is the centroid of a uniform triangle, the same in every run."
    figure.suptitle(textwrap.fill(told, 40 * len(runs)), fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(tyro.cli(Settings))
