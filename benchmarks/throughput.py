"""Throughput: physics and control steps per second, and the ceiling of this machine.

Three things are timed, each by dynamics, batch size and substeps:

- ``dynamics``: alone. Every environment pushes its object back and forth
  (``pushes.sample_pushes``), so contact is active.
- ``environment``: observation, reward and honest resets (``TrainingEnv``), with uniformly
  random actions; ``environment, no resets`` leaves the reserves out.
- ``training``: a PPO update as ``p2r train`` runs it.

The ceiling is C MuJoCo stepping the ``contact`` scene on all cores
(``mujoco.rollout``) in the same run; ratios are to its best batch, per physics step and per
control step (a second of the task's time). On a GPU the batches go up to 65536 and
``contact mjx`` runs with MuJoCo Warp too; without one these rows are listed as not measured.
``--peers`` adds environments of Playground and Brax, without resets.

    python -m benchmarks.throughput --peers
"""

import gc
import json
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro
from tqdm import tqdm

from benchmarks.ceiling import rate_in_c
from benchmarks.pushes import sample_pushes
from benchmarks.throughput_peers import Peer, peers, start_peer
from benchmarks.throughput_plot import CEILING, plot
from benchmarks.timing import (
    Program,
    advancing,
    peak_memory_mb,
    random_actions,
    rate,
    repeated,
)
from p2r_jax.files import provenance, write_json
from p2r_jax.policy.ppo import PPO, PPOConfig
from p2r_jax.sim.push import PushEnv, make_dynamics
from p2r_jax.sim.support import support_points
from p2r_jax.sim.training_env import TrainingEnv
from p2r_jax.tasks import Task, load_task
from p2r_jax.types import PlanarPose

SCHEMA_VERSION = 2
FRICTION = 0.25
NO_RESETS = "environment, no resets"
Work = Literal["dynamics", "environment", "environment, no resets", "training"]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
      work: what is timed, see the module.
      dynamics: ``planar``, ``planar ellipsoid``, ``planar_mjx``, ``contact`` (its fused
        solver) or ``contact mjx``.
      batch: environments in parallel.
      substeps: physics steps per action; 0 takes the task's.
      actions: per environment in a timed call; training has its own.
      impl: MJX backend, of ``contact mjx``.
    """

    work: Work
    dynamics: str
    batch: int
    substeps: int = 0
    actions: int = 1
    impl: Literal["jax", "warp"] = "jax"


@dataclass(frozen=True)
class Settings:
    """Settings of the throughput benchmark.

    Attributes:
      out: JSON file; the plot goes next to it.
      task: registered task that gives object, action and numerical settings.
      batches: environments in parallel, ``planar``.
      slow_batches: likewise ``planar_mjx``, ``contact`` and C MuJoCo.
      env_batches: likewise of the full environment.
      substeps: per action, besides the task's own, ``planar`` at ``middle`` environments.
      slow_substeps: likewise ``contact`` at the first of ``slow_batches``.
      middle: environments of the sweeps over substeps and of the peers.
      gpu_batches: all of these on a GPU.
      repeats: timed samples; the median counts.
      threads: CPU threads of C MuJoCo; 0 takes every core.
      matmul_precision: of float32 matrix products, set before anything is compiled.
      peers: measure other projects' environments beside ours.
      parity: errors by substeps, for the third panel of the plot; left out if absent.
    """

    out: Path = Path("benchmarks/results/throughput.json")
    task: str = "push_tblock"
    batches: tuple[int, ...] = (64, 256, 1024, 4096, 16384)
    slow_batches: tuple[int, ...] = (256, 1024)
    env_batches: tuple[int, ...] = (256, 1024, 2048, 8192)
    substeps: tuple[int, ...] = (5, 20, 50, 100)
    slow_substeps: tuple[int, ...] = (50, 200)
    middle: int = 1024
    gpu_batches: tuple[int, ...] = (1024, 4096, 16384, 65536)
    repeats: int = 5
    threads: int = 0
    matmul_precision: Literal["highest", "high", "default"] = "highest"
    peers: bool = False
    parity: Path = Path("benchmarks/results/parity.json")


def cpu_cases(settings: Settings) -> list[Case]:
    """Rows of the table on a CPU."""
    slow, training = settings.slow_batches, PPOConfig().num_envs
    return [
        *(Case("dynamics", "planar", b, actions=8) for b in settings.batches),
        *(
            Case("dynamics", name, settings.middle, n, actions=8)
            for name in ("planar", "planar ellipsoid")
            for n in settings.substeps
        ),
        *(Case("dynamics", "planar_mjx", b) for b in slow),
        *(Case("dynamics", "contact", b) for b in slow),
        Case("dynamics", "contact mjx", slow[-1]),
        *(Case("dynamics", "contact", slow[0], n) for n in settings.slow_substeps),
        *(Case("environment", "planar", b, actions=25) for b in settings.env_batches),
        Case(NO_RESETS, "planar", training, actions=25),
        *(Case("environment", "planar", training, n, actions=25) for n in settings.substeps[:2]),
        Case("environment", "contact", slow[0]),
        Case("training", "planar", training),
    ]


def gpu_cases(settings: Settings) -> list[Case]:
    """Rows of the table on a GPU."""
    batches = settings.gpu_batches
    return [
        *(Case("dynamics", "planar", b, actions=8) for b in batches),
        *(Case("dynamics", "planar_mjx", b) for b in batches),
        *(Case("dynamics", "contact", b) for b in batches),
        *(
            Case("dynamics", "contact mjx", b, impl=impl)
            for impl in ("jax", "warp")
            for b in batches
        ),
        *(Case("environment", "planar", b, actions=25) for b in batches),
        Case(NO_RESETS, "planar", batches[-1], actions=25),
        *(Case("training", "planar", b) for b in batches),
    ]


def task_of(case: Case, settings: Settings) -> Task:
    """The task with the case's dynamics and substeps."""
    task, name = load_task(settings.task), case.dynamics
    if name == "planar ellipsoid":
        task = replace(task, planar=replace(task.planar, table_friction="ellipsoid"))
    if name == "contact mjx":
        task = replace(task, contact=replace(task.contact, solver="mjx", impl=case.impl))
    task = replace(task, dynamics=name.split()[0])
    if case.substeps:
        numbers = replace(getattr(task, task.dynamics), substeps=case.substeps)
        task = replace(task, **{task.dynamics: numbers})
    return task


def dynamics_alone(task: Task, case: Case) -> Program:
    """Pushes back and forth."""
    dynamics, pushes = make_dynamics(task), sample_pushes(task, case.batch)
    points = support_points(task.object, task.physics.support, task.physics.support_count)
    physics, pushes = pushes.physics(points), jax.tree.map(jnp.float32, pushes)
    cache = jax.jit(jax.vmap(dynamics.derive))(physics)
    poses = PlanarPose(jnp.zeros_like(pushes.ee_xy), pushes.yaw)
    state = jax.jit(jax.vmap(dynamics.init))(poses, pushes.ee_xy)
    ahead = pushes.ee_xy + task.action_scale_m * pushes.direction

    def act(physics, cache, state):
        def one(state, index):
            target = jnp.where(index % 2 == 0, ahead, pushes.ee_xy)
            return jax.vmap(dynamics.advance)(physics, cache, state, target), None

        return jax.lax.scan(one, state, jnp.arange(case.actions))[0]

    return repeated(act, physics, cache, state)


def environment(task: Task, case: Case) -> Program:
    """Random actions in the full environment, with honest resets or with none."""
    bare = PushEnv(task)
    env = TrainingEnv(bare, task.episode_length)
    keys = jax.random.split(jax.random.key(0), case.batch)
    if case.work == "environment":
        return random_actions(env.step, jax.jit(env.reset)(keys), 2, case.actions, env.refill)
    state = jax.jit(jax.vmap(bare.reset))(keys)
    return random_actions(jax.vmap(bare.step), state, 2, case.actions)


def training(task: Task, case: Case) -> Program:
    """PPO updates of the default configuration, but for the number of environments."""
    config = replace(PPOConfig(), num_envs=case.batch)
    ppo = PPO(TrainingEnv(PushEnv(task), task.episode_length), config)
    state = jax.jit(ppo.init)(jax.random.key(0))
    return advancing(lambda s: ppo.update_and_record(s)[0], state)


PROGRAMS = {
    "dynamics": dynamics_alone,
    "environment": environment,
    NO_RESETS: environment,
    "training": training,
}


def measure(case: Case, settings: Settings) -> dict:
    """One row: compile seconds, memory and rates."""
    task = task_of(case, settings)
    substeps = getattr(task, task.dynamics).substeps
    actions = PPOConfig().unroll_length if case.work == "training" else case.actions
    program = PROGRAMS[case.work](task, case)
    control = rate(program.call, case.batch * actions, settings.repeats)
    return _row(asdict(case) | {"substeps": substeps, "actions": actions}, program, control)


def _row(what: dict, program: Program | None, control: dict) -> dict:
    costs = {"compile_s": 0.0, "memory_mb": 0.0}
    if program:
        costs = {"compile_s": program.compile_s, "memory_mb": program.memory_mb}
    physics = {k: control[k] * what["substeps"] for k in ("median", "min", "max")}
    return what | costs | {"control_steps_per_s": control, "physics_steps_per_s": physics}


def measure_c(batch: int, settings: Settings) -> dict:
    """C MuJoCo on the contact scene with the step of ``contact``: the first action, all cores."""
    task = load_task(settings.task)
    physics = (*task.object.with_weight(0.0), FRICTION, FRICTION)
    pushes = sample_pushes(task, batch)
    found = rate_in_c(task, pushes, physics, settings.repeats, settings.threads)
    control = found.pop("control_steps_per_s")
    what = {"work": "dynamics", "dynamics": CEILING, "impl": "C", "batch": batch, "actions": 1}
    return _row(what | found, None, control)


def measure_peer(peer: Peer, settings: Settings) -> dict:
    """Another project's environment under random actions, without resets."""
    batch = settings.middle
    program = start_peer(peer, batch)
    control = rate(program.call, batch * peer.actions, settings.repeats)
    case = Case(NO_RESETS, peer.name, batch, peer.substeps, peer.actions)
    return _row(asdict(case), program, control)


def measure_all(settings: Settings) -> tuple[list[dict], list[dict]]:
    """Rows, and what was not measured with the reason; Ctrl-C leaves the rest unmeasured."""
    gpu = jax.default_backend() == "gpu"
    rows = [measure_c(batch, settings) for batch in settings.slow_batches]
    skipped = [] if gpu else [asdict(c) | {"reason": "no GPU"} for c in gpu_cases(settings)]
    cases = gpu_cases(settings) if gpu else cpu_cases(settings)
    for done, case in enumerate(tqdm(cases, desc="throughput")):
        try:
            rows.append(measure(case, settings))
        except KeyboardInterrupt:
            skipped += [asdict(c) | {"reason": "interrupted"} for c in cases[done:]]
            break
        except Exception as error:  # a row that fails must not cost the others
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            skipped.append(asdict(case) | {"reason": reason})
        gc.collect()
    return rows, skipped


def with_ratios(rows: list[dict]) -> list[dict]:
    """Rows with their rates relative to the best of C MuJoCo."""
    kinds = ("physics", "control")
    ceiling = [r for r in rows if r["dynamics"] == CEILING]
    best = {k: max(r[f"{k}_steps_per_s"]["median"] for r in ceiling) for k in kinds}
    return [
        r | {f"{k}_ratio": r[f"{k}_steps_per_s"]["median"] / best[k] for k in kinds} for r in rows
    ]


def table(rows: list[dict], skipped: list[dict]) -> str:
    """Markdown table of the medians; what was not measured stands below."""
    head = (
        "what", "dynamics", "impl", "batch", "substeps", "compile s", "memory MB",
        "physics steps/s", "control steps/s", "physics / C", "control / C",
    )  # fmt: skip
    lines = [head, ("---",) * len(head)]
    for r in rows:
        lines.append((
            r["work"], r["dynamics"], r["impl"], f"{r['batch']}", f"{r['substeps']}",
            f"{r['compile_s']:.1f}", f"{r['memory_mb']:.0f}",
            *(f"{r[f'{k}_steps_per_s']['median']:,.0f}" for k in ("physics", "control")),
            *(f"{r[f'{k}_ratio']:.2f}" for k in ("physics", "control")),
        ))  # fmt: skip
    for r in skipped:
        cells = r["work"], r["dynamics"], r["impl"], f"{r['batch']}", "", "", ""
        lines.append((*cells, f"not measured: {r['reason']}", "", "", ""))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(settings: Settings) -> None:
    """Measure, print the table, write JSON and plot."""
    jax.config.update("jax_default_matmul_precision", settings.matmul_precision)
    jax.config.update("jax_enable_compilation_cache", False)  # compile seconds are of compiling
    others, started = peers() if settings.peers else [], time.perf_counter()
    record = {"schema": SCHEMA_VERSION, "kind": "throughput", "provenance": provenance()}
    packages = ("brax", "playground") if others else ("brax",)
    record["provenance"]["versions"] |= {p: version(p) for p in packages}
    rows, skipped = measure_all(settings)
    rows += [measure_peer(p, settings) for p in tqdm(others, desc="peers", disable=not others)]
    rows = with_ratios(rows)
    print(table(rows, skipped))
    record |= {
        "settings": asdict(settings) | {"out": settings.out.name, "parity": str(settings.parity)},
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory_mb(),
        "rows": rows,
        "not_measured": skipped,
    }
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    errors = json.loads(settings.parity.read_text()) if settings.parity.is_file() else None
    plot(record, errors, settings.out.with_suffix(".png"))
    print(f"written: {settings.out} and {settings.out.with_suffix('.png')}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
