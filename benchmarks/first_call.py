"""First-call latency: how long until something moves, and until a training learns.

Every number comes from a fresh process, cold (an empty compilation cache) and warm (the
cache that the run before filled). ``environment`` imports, builds the push environment,
compiles ``reset`` and ``step`` of a batch; ``training`` does what ``p2r train`` does up to
the end of the first update, and compiles the evaluation. Seconds include tracing,
compiling (or loading) and the first execution.

    python -m benchmarks.first_call
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

SCHEMA_VERSION = 1
TARGET_S = 90.0  # cold training compile on two cores
Stage = Literal["environment", "training"]


@dataclass(frozen=True)
class Settings:
    """Settings of the first-call benchmark.

    Attributes:
      out: JSON file.
      task: registered task.
      dynamics: of the environment stage; training runs the task's own.
      batch: environments of the environment stage.
      repeats: fresh processes, cold and warm each; the median counts.
      stage: measure this stage in this very process and print JSON (what the
        fresh processes are started with).
    """

    out: Path = Path("benchmarks/results/first_call.json")
    task: str = "push_tblock"
    dynamics: tuple[str, ...] = ("planar", "contact")
    batch: int = 1024
    repeats: int = 3
    stage: Stage | None = None


class Stopwatch:
    """Seconds between marks, by name."""

    def __init__(self):
        """Start."""
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        """Seconds since the last mark, under this name."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def environment(settings: Settings) -> dict[str, float]:
    """Seconds of import, build, reset and step of one dynamics."""
    watch = Stopwatch()
    import jax
    import jax.numpy as jnp

    from p2r_jax.compat import use_compilation_cache
    from p2r_jax.sim.push import PushEnv
    from p2r_jax.tasks import load_task

    watch.mark("import")
    use_compilation_cache()
    (dynamics,) = settings.dynamics
    env = PushEnv(replace(load_task(settings.task), dynamics=dynamics))
    watch.mark("build")
    keys = jax.random.split(jax.random.key(0), settings.batch)
    state = jax.block_until_ready(jax.jit(jax.vmap(env.reset))(keys))
    watch.mark("reset")
    action = jnp.zeros((settings.batch, env.action_size))
    jax.block_until_ready(jax.jit(jax.vmap(env.step))(state, action))
    watch.mark("step")
    return watch.seconds


def training(settings: Settings) -> dict[str, float]:
    """Seconds of import, build, initial state, first update and first evaluation."""
    watch = Stopwatch()
    import jax

    from p2r_jax.compat import use_compilation_cache
    from p2r_jax.policy.policy import contract_of, policy_from_training
    from p2r_jax.policy.ppo import PPO
    from p2r_jax.policy.train import default_train, evaluate_policy, phase_task
    from p2r_jax.sim.push import PushEnv
    from p2r_jax.sim.training_env import TrainingEnv

    watch.mark("import")
    use_compilation_cache()
    config = default_train(settings.task, "privileged", Path())
    task = phase_task(config.task, config.phase)
    ppo = PPO(TrainingEnv(PushEnv(task), task.episode_length), config.ppo)
    watch.mark("build")
    state = jax.block_until_ready(jax.jit(ppo.init)(jax.random.key(0)))
    watch.mark("initial state")
    update = jax.jit(ppo.update_and_record, donate_argnums=0)
    state = jax.block_until_ready(update(state)[0])
    watch.mark("first update")
    state = jax.block_until_ready(update(state)[0])
    watch.mark("second update")
    contract = contract_of(task, config.phase, config.ppo.policy_layers, 0)
    policy = policy_from_training(state.params, state.normalizer, contract)
    evaluate = jax.jit(lambda p, k: evaluate_policy(task, p, k))
    jax.block_until_ready(evaluate(policy, jax.random.key(1)))
    watch.mark("first evaluation")
    return watch.seconds


STAGES: dict[str, Callable[[Settings], dict[str, float]]] = {
    "environment": environment,
    "training": training,
}


def fresh_process(settings: Settings, stage: Stage, dynamics: str, cache: Path) -> dict[str, float]:
    """Seconds of a stage in a new process that keeps compiled programs in ``cache``.

    Raises:
      RuntimeError: with the end of what the process said, if it failed.
    """
    command = [sys.executable, "-m", "benchmarks.first_call", "--stage", stage]
    command += ["--task", settings.task, "--dynamics", dynamics, "--batch", f"{settings.batch}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"process": time.perf_counter() - start}


def measure(settings: Settings) -> list[dict]:
    """Rows: stage, dynamics, cold or warm, seconds by part."""
    todo: list[tuple[Stage, str]] = [("environment", name) for name in settings.dynamics]
    todo.append(("training", settings.dynamics[0]))
    rows = []
    bar = tqdm(total=2 * settings.repeats * len(todo), desc="first call")
    for stage, dynamics in todo:
        found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for _ in range(settings.repeats):
            with tempfile.TemporaryDirectory() as cache:
                for kind in found:
                    seconds = fresh_process(settings, stage, dynamics, Path(cache))
                    found[kind].append(seconds)
                    bar.update()
        rows += [_row(stage, dynamics, kind, runs) for kind, runs in found.items()]
    bar.close()
    return rows


def _row(stage: Stage, dynamics: str, cache: str, runs: list[dict[str, float]]) -> dict:
    parts = {
        name: {
            "median": float(np.median([r[name] for r in runs])),
            "min": min(r[name] for r in runs),
            "max": max(r[name] for r in runs),
        }
        for name in runs[0]
    }
    return {"stage": stage, "dynamics": dynamics, "cache": cache, "seconds": parts}


def table(rows: list[dict]) -> str:
    """Markdown table of the medians."""
    parts = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    lines = [("stage", "dynamics", "cache", *parts), ("---",) * (3 + len(parts))]
    for row in rows:
        seconds = row["seconds"]
        cells = (f"{seconds[p]['median']:.1f}" if p in seconds else "" for p in parts)
        lines.append((row["stage"], row["dynamics"], row["cache"], *cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(settings: Settings) -> None:
    """Measure in fresh processes, print the table, write JSON; or be such a process."""
    if settings.stage:
        print(json.dumps(STAGES[settings.stage](settings)))
        return
    from p2r_jax.files import provenance, write_json

    record = {"schema": SCHEMA_VERSION, "kind": "first_call", "provenance": provenance()}
    rows = measure(settings)
    print(table(rows))
    cold = next(r for r in rows if (r["stage"], r["cache"]) == ("training", "cold"))["seconds"]
    until = sum(cold[p]["median"] for p in ("initial state", "first update"))
    verdict = {"cold_training_s": until, "target_s": TARGET_S, "met": until <= TARGET_S}
    print(f"cold training compile: {until:.1f} s (mark {TARGET_S:g} s)")
    chosen = asdict(settings) | {"out": settings.out.name}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record | {"settings": chosen, "rows": rows} | verdict)
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
