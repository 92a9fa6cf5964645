"""An asset and a task of every workshop tool: table, contact sheet, rollouts, one training.

    python experiments/workshop_tool_tasks.py    # about 10 minutes on 2 cores

The true centre of mass in the data set has several densities, ours is at uniform
density; both are reported. Needs ``../shared/data/workshop_tools``.
"""

import ast
import csv
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.mesh_task import NewTaskConfig, new_task
from p2r_jax.policy.train import default_train, train
from p2r_jax.sim.mesh_asset import MeshAsset
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.support import support_points
from p2r_jax.task_files import read_task
from p2r_jax.tasks import Task

MENDED = ("intersects itself", "closed ", "shared by more", "turned", "inside out")


@dataclass(frozen=True)
class ToolsConfig:
    """What to make.

    Attributes:
      out: JSON file; the contact sheet goes next to it.
      tasks: new folder for the tasks and the training run.
      data: the data set.
      train: tool whose task is trained with the true theta, to show that it can be.
      steps: of that training.
      environments, actions: size of the rollouts with random actions.
      seed: of the rollouts.
    """

    out: Path = Path(__file__).parent / "results" / "workshop_tools.json"
    tasks: Path = Path("runs/workshop_tools")
    data: Path = Path("../shared/data/workshop_tools")
    train: str | None = "Rubber_Mallet"
    steps: int = 8_000_000
    environments: int = 64
    actions: int = 30
    seed: int = 0


def truth(folder: Path) -> dict:
    """Mass (kg), centre of mass (m) and inertia (kg m^2) in the mesh frame."""
    lines = (folder / "Inertia.yaml").read_text().splitlines()
    return {
        k.strip(): ast.literal_eval(v) for k, v in (x.split(": ", 1) for x in lines if ": " in x)
    }


def rollout(task: Task, config: ToolsConfig) -> dict:
    """Random actions: is everything finite, does the pusher touch, does the object move?"""
    env = PushEnv(task)

    @jax.jit
    def run(key):
        key_reset, key_act = jax.random.split(key)
        state = jax.vmap(env.reset)(jax.random.split(key_reset, config.environments))
        shape = (config.actions, config.environments, 2)

        def step(state, action):
            state = jax.vmap(env.step)(state, action)
            inner = state.pipeline_state.dynamics
            return state, (state.obs["state"], inner.contact, state.metrics["nan_envs"])

        actions = jax.random.uniform(key_act, shape, minval=-1.0, maxval=1.0)
        return jax.lax.scan(step, state, actions)[1]

    obs, contact, nan = run(jax.random.key(config.seed))
    return {
        "finite": bool(jnp.isfinite(obs).all()),
        "contact_share": float((contact > 0).mean()),
        "nan_envs": float(nan.sum()),
    }


def learn(config: ToolsConfig) -> dict:
    """Train one tool's policy; success with the true theta after each evaluation."""
    folder = config.tasks / config.train.lower()
    run = default_train(str(folder), "privileged", config.tasks / "run")
    run = replace(run, ppo=replace(run.ppo, total_steps=config.steps), evaluations=8)
    train(run)
    with (run.out / "metrics.csv").open(newline="") as file:
        curve = list(csv.DictReader(file))
    columns = {"steps": "step", "success": "eval/success", "position_cm": "eval/position_cm"}
    found = {name: [float(row[key]) for row in curve] for name, key in columns.items()}
    return {"tool": config.train, "seed": run.ppo.seed, **found}


def draw(ax, made: MeshAsset, task: Task, true_com: np.ndarray) -> None:
    """Outline, parts, support points and both centres of mass, cm."""
    for ring in (made.outline.exterior, *made.outline.interiors):
        ax.plot(*100 * np.array(ring.coords).T, color="black", lw=0.8)
    for part in made.asset.parts:
        ax.fill(*100 * part.corners.T, alpha=0.3, ec="tab:red", lw=0.6)
    for part in made.asset.contact or ():
        ax.fill(*100 * part.corners.T, color="tab:green", alpha=0.35, lw=0)
    points = support_points(made.asset, task.physics.support, task.physics.support_count)
    ax.plot(*100 * points.T, ".", color="black", ms=4)
    x = task.theta[0]
    ax.plot([100 * x.low, 100 * x.high], [100 * made.asset.com_m[1]] * 2, color="tab:blue", lw=2)
    ax.plot(*100 * np.array(made.asset.com_m[:2]), "o", color="tab:blue", ms=6)
    ax.plot(*100 * true_com[:2], "*", color="tab:orange", ms=9)
    ax.set_title(f"{made.asset.name}: {made.report.parts} parts", fontsize=9)
    ax.set_aspect("equal")


def main(config: ToolsConfig) -> None:
    """Make every tool's task and write table and picture."""
    folders = sorted(p.parent for p in config.data.glob("*/mesh.ply"))
    if not folders:
        raise SystemExit(f"no workshop tools in {config.data}; pass --data")
    new_folder(config.tasks)
    figure = Figure(figsize=(18, 10), layout="constrained")
    axes = figure.subplots(3, 4).ravel()
    rows = []
    for folder, ax in zip(folders, axes, strict=False):
        started, true = time.perf_counter(), truth(folder)
        target = config.tasks / folder.name.lower()
        task, made = new_task(NewTaskConfig(folder / "mesh.ply", true["MASS"], target))
        seconds = time.perf_counter() - started
        com = (made.T_object_mesh @ [*true["COM_WRT_MESH"], 1.0])[:3]
        turn = made.T_object_mesh[:3, :3]
        izz = float((turn @ np.array(true["INERTIA_WRT_COM"]) @ turn.T)[2, 2])
        asset = made.asset
        row = {
            "tool": folder.name,
            "seconds": seconds,
            **asdict(made.report),
            "size_m": np.subtract(*reversed(asset.footprint_bounds)).tolist(),
            "height_m": asset.height_m,
            "com_uniform_m": list(asset.com_m),
            "com_true_m": com.tolist(),
            "izz_uniform": asset.inertia[2][2],
            "izz_true": izz,
            "theta_m": [task.theta[0].low, task.theta[0].high],
            "true_com_in_theta": bool(task.theta[0].low <= com[0] <= task.theta[0].high),
            "mended": [line for line in asset.provenance if any(w in line for w in MENDED)],
            "read_back_equal": read_task(target) == task,
            **rollout(task, config),
        }
        rows.append(row)
        draw(ax, made, task, com)
    for ax in axes[len(rows) :]:
        ax.set_axis_off()
    FigureCanvasAgg(figure).print_png(config.out.with_suffix(".png"))
    print(table(rows))
    record = {"schema": 2, "provenance": provenance(), "seed": config.seed, "rows": rows}
    record |= {"training": learn(config) if config.train else None}
    write_json(config.out, record)
    print(f"written: {config.out} and {config.out.with_suffix('.png').name}")


def table(rows: list[dict]) -> str:
    """A line per tool."""
    lines = [
        f"{'tool':18} parts corners   area  pusher       size cm  CoM x: uniform  true cm  contact"
    ]
    for r in rows:
        lines.append(
            f"{r['tool']:18} {r['parts']:5} {r['corners']:7} {100 * r['area_error']:+5.1f}% "
            f"{1e3 * r['pusher_error_m']:4.1f} mm  {100 * r['size_m'][0]:4.1f} x "
            f"{100 * r['size_m'][1]:4.1f}   {100 * r['com_uniform_m'][0]:+14.2f} "
            f"{100 * r['com_true_m'][0]:+8.2f} {100 * r['contact_share']:6.1f} %"
            f"{'' if r['finite'] else '  NOT FINITE'}{'  mended' if r['mended'] else ''}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(ToolsConfig))
