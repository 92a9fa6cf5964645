"""What several devices cost: rate and communication of the training step.

    python -m benchmarks.scaling

Every number of devices is a process of its own with that many CPU devices. They share this
machine's cores, so nothing gets faster here; what is measured is the price of splitting: the
rate against the first number of devices, and what one execution of each of XLA's collectives
moves, which is the same on real devices. Those of a gradient run once per gradient step.
"""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from p2r_jax.files import as_record, provenance, write_json

SCHEMA_VERSION = 1
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
SHAPE = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")
BYTES = {"pred": 1, "bf16": 2}


@dataclass(frozen=True)
class Settings:
    """Settings of the scaling benchmark.

    Attributes:
      out: JSON file.
      devices: how many, one process each.
      task: registered task.
      num_envs: over all devices.
      updates: timed, after one that compiles.
      worker: measure this many devices in this process and print JSON (internal).
    """

    out: Path = Path("benchmarks/results/scaling.json")
    devices: tuple[int, ...] = (1, 2, 4, 8)
    task: str = "push_tblock"
    num_envs: int = 2048
    updates: int = 5
    worker: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(internal)")] = None


def measure(settings: Settings) -> dict:
    """Rate and communication with the devices of this process."""
    from p2r_jax.policy.devices import Devices
    from p2r_jax.policy.ppo import PPO, PPOConfig
    from p2r_jax.policy.train import phase_task
    from p2r_jax.sim.push import PushEnv
    from p2r_jax.sim.training_env import TrainingEnv
    from p2r_jax.tasks import load_task

    count = len(jax.devices())
    config = PPOConfig(num_envs=settings.num_envs)
    devices = Devices("one" if count == 1 else "local", config.num_envs, config.num_minibatches)
    task = phase_task(load_task(settings.task), "privileged")
    ppo = PPO(TrainingEnv(PushEnv(task), task.episode_length), config)
    state = devices.jit_init(ppo.init, config.num_envs, jax.random.key(0))
    start = time.perf_counter()
    update = devices.jit_update(ppo.update, state, config.num_envs).lower(state).compile()
    compile_s = time.perf_counter() - start
    moved = collective_bytes(update.as_text())
    state, _ = jax.block_until_ready(update(state))
    seconds = []
    for _ in range(settings.updates):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(update(state))
        seconds.append(time.perf_counter() - start)
    rates = config.steps_per_update / np.array(seconds)
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    return {
        "devices": count,
        "num_envs": config.num_envs,
        "parameters": int(sum(sizes)),
        "gradient_steps": config.num_minibatches * config.num_epochs,
        "compile_s": compile_s,
        "control_steps_per_s": {
            "median": float(np.median(rates)),
            "min": float(rates.min()),
            "max": float(rates.max()),
        },
        "collectives": moved,
    }


def collective_bytes(hlo: str) -> dict[str, dict[str, int]]:
    """Collectives in a compiled program by kind: how many, and bytes of their results.

    A collective inside a loop counts once; its trip count is not in the text.
    """
    found = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for line in hlo.splitlines():
        match = re.search(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(", line)
        if match:
            found[match[2]]["count"] += 1
            found[match[2]]["bytes"] += sum(_size(*shape) for shape in SHAPE.findall(match[1]))
    return {kind: row for kind, row in found.items() if row["count"]}


def _size(kind: str, dimensions: str) -> int:
    width = BYTES.get(kind) or int(re.sub(r"\D", "", kind)) // 8
    return width * int(np.prod([int(d) for d in dimensions.split(",") if d], initial=1))


def run_worker(settings: Settings, count: int) -> dict:
    """``measure`` in a process with ``count`` CPU devices."""
    arguments = ["--worker", str(count), "--task", settings.task]
    arguments += ["--num-envs", str(settings.num_envs), "--updates", str(settings.updates)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *arguments],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(count)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(settings: Settings) -> None:
    """Measure every number of devices and write the JSON."""
    if settings.worker is not None:
        print(json.dumps(measure(settings)))
        return
    rows = []
    for count in settings.devices:
        rows.append(run_worker(settings, count))
        rate = rows[-1]["control_steps_per_s"]["median"]
        rows[-1]["ratio_to_one"] = rate / rows[0]["control_steps_per_s"]["median"]
        print(f"{count} devices: {rate:8.0f} control steps/s", flush=True)
    record = {"schema": SCHEMA_VERSION, "kind": "scaling", "provenance": provenance()}
    write_json(settings.out, record | {"settings": as_record(settings), "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Settings))
