"""How fast is the control loop, and how well does it keep its pace?

Inference: the compiled step (10-member ensemble, fusion, policy, and the way from and to
plain floats) on one core, in every form of the bundle. Loading: from the folder to the
first action in a fresh process. Pace: ``p2r deploy`` against the simulated robot in real
time, at 20 Hz and at 100 Hz, with the shipped networks at that rate and the task's speed.

    python -m benchmarks.control_loop                 # with 10 minutes at 20 Hz
    python -m benchmarks.control_loop --minutes 0.5   # a look
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.command import DeployConfig, deploy
from p2r_jax.deploy.controller import Controller, answer_promptly
from p2r_jax.deploy.export import CHECKPOINT_ROOT, retimed, write_bundle
from p2r_jax.deploy.exported import random_next, random_start
from p2r_jax.deploy.robots import RobotConfig
from p2r_jax.deploy.robots.sim import SimRobotConfig
from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.files import provenance, write_json
from p2r_jax.policy.policy import load_policy
from p2r_jax.tasks import load_task
from p2r_jax.types import Gaussian

SCHEMA_VERSION = 1
TASK = "push_tblock"
FORMS = ("jax", "stablehlo", "onnx")
MARKS = {"step_median_ms": 0.5, "step_p99_ms": 2.0, "load_s": 5.0, "jitter_p99_ms": 5.0}
WARM_UP = 200
FIRST_ACTION = """
import json, sys, time
start = time.perf_counter()
import jax
jax.config.update("jax_enable_compilation_cache", False)
from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.command import load_prior_for
from p2r_jax.deploy.controller import Controller
imported = time.perf_counter()
bundle = load_bundle(sys.argv[1])
controller = Controller(bundle, load_prior_for(bundle, None), form=sys.argv[2])
controller.propose((0.3, 0.2, 0.0), (0.3, 0.0))
print(json.dumps({"import_s": imported - start, "load_s": time.perf_counter() - imported}))
"""


@dataclass(frozen=True)
class Settings:
    """Settings of the control-loop benchmark.

    Attributes:
      out: JSON file.
      minutes: at 20 Hz; 100 Hz gets a tenth, at most one.
      calls, paced_calls: of the step, per form, one after the other and at 20 Hz.
      loads: fresh processes, per form.
      seed: of the motions and of the simulated trial.
    """

    out: Path = Path("benchmarks/results/control_loop.json")
    minutes: float = 10.0
    calls: int = 5000
    paced_calls: int = 500
    loads: int = 3
    seed: int = 0


def pin(cores: set[int]) -> None:
    """Keep every thread of this process, XLA's too, on these cores."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def measure_step(bundle, form: str, rate_hz: float | None, settings: Settings) -> dict:
    """Milliseconds of a step, measurement to action in plain floats, on one core.

    At a rate the core sleeps in between, as in the loop, and comes back with cold caches.
    """
    calls = settings.calls if rate_hz is None else settings.paced_calls
    cores = os.sched_getaffinity(0)
    pin({min(cores)})
    try:
        prior = Gaussian(jnp.full(1, 0.02), jnp.full(1, 1e-4))
        controller = Controller(bundle, prior, form=form)
        rng = np.random.default_rng(settings.seed)
        inputs, seconds = random_start(bundle.spec, rng), []
        for _ in range(WARM_UP + calls):
            time.sleep(1 / rate_hz if rate_hz else 0)
            inputs = random_next(inputs, inputs, rng)
            seen = inputs.measurement.tolist()
            start = time.perf_counter()
            decision = controller.propose(tuple(seen[:3]), tuple(seen[3:]))
            controller.commit(decision.action)
            seconds.append(time.perf_counter() - start)
    finally:
        pin(cores)
    ms = 1e3 * np.array(seconds[WARM_UP:])
    return {"form": form, "rate_hz": rate_hz, "calls": len(ms), "median_ms": float(np.median(ms)),
            "p99_ms": float(np.percentile(ms, 99)), "max_ms": float(ms.max())}  # fmt: skip


def measure_load(folder: Path, form: str, settings: Settings) -> dict:
    """Seconds of import, and from the folder to the first action, in fresh processes."""
    runs = [
        json.loads(subprocess.run(
            [sys.executable, "-c", FIRST_ACTION, str(folder), form],
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()[-1])
        for _ in range(settings.loads)
    ]  # fmt: skip
    found = {key: [run[key] for run in runs] for key in ("import_s", "load_s")}
    return {"form": form, "loads": len(runs)} | {
        key: {"median": float(np.median(x)), "max": max(x)} for key, x in found.items()
    }


def measure_pace(scratch: Path, rate_hz: float, minutes: float, settings: Settings) -> dict:
    """One run of ``p2r deploy`` against the simulated robot in real time."""
    task = load_task(TASK)
    root = CHECKPOINT_ROOT / TASK
    policy, ensemble = load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)
    folder, out = scratch / f"bundle{rate_hz:g}", scratch / f"run{rate_hz:g}"
    write_bundle(folder, *retimed(task, policy, ensemble, 1 / rate_hz))
    steps = round(60 * minutes * rate_hz)
    robot = SimRobotConfig(seed=settings.seed, real_time=True)
    config = DeployConfig(
        folder, out, prior="paper-top", steps=steps, success_hold_s=None,
        robots=replace(RobotConfig(), sim=robot),
    )  # fmt: skip
    result = deploy(config)
    log_mb = sum(path.stat().st_size for path in out.glob("*.mcap")) / 1e6
    return {"asked_hz": rate_hz, "minutes": minutes, "cause": result.cause,
            "log_mb": log_mb, **asdict(result.timing)}  # fmt: skip


def verdict(record: dict) -> dict:
    """Which marks are met; the slow forms are there to compare, the marks are about ``jax``."""
    steps, load = record["steps"][:2], record["loads"][0]
    slow, fast = record["paces"]
    return {
        "step": within(steps[0]),
        "step_at_20_hz": within(steps[1]),
        "load": load["load_s"]["max"] <= MARKS["load_s"],
        "pace_20_hz": kept(slow) and 1e3 * slow["jitter"]["p99_s"] <= MARKS["jitter_p99_ms"],
        "pace_100_hz": kept(fast),
    }


def within(step: dict) -> bool:
    """Whether a step is as fast as it has to be."""
    median, p99 = step["median_ms"], step["p99_ms"]
    return median <= MARKS["step_median_ms"] and p99 <= MARKS["step_p99_ms"]


def kept(pace: dict) -> bool:
    """Whether a run came to its planned end at its rate, without a missed deadline."""
    on_rate = abs(pace["rate_hz"] / pace["asked_hz"] - 1) < 1e-3
    return pace["cause"] == "steps" and on_rate and pace["missed"] == 0


def main(settings: Settings) -> None:
    """Measure, print, write JSON."""
    answer_promptly()
    record = {"schema": SCHEMA_VERSION, "kind": "control_loop", "provenance": provenance()}
    task = load_task(TASK)
    root = CHECKPOINT_ROOT / TASK
    policy, ensemble = load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "bundle")
        bundle = write_bundle(folder, task, policy, ensemble, forms=FORMS[1:])
        record["parity"] = bundle.parity
        record["members"] = ensemble.contract.members
        record["steps"] = [
            measure_step(load_bundle(folder), form, rate_hz, settings)
            for form in FORMS
            for rate_hz in (None, 20.0)
        ]
        record["loads"] = [measure_load(folder, form, settings) for form in FORMS]
        record["paces"] = [
            measure_pace(Path(scratch), 20.0, settings.minutes, settings),
            measure_pace(Path(scratch), 100.0, min(settings.minutes / 10, 1.0), settings),
        ]
    for row in record["steps"]:
        how = f"at {row['rate_hz']:g} Hz" if row["rate_hz"] else "one after the other"
        found = f"median {row['median_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms"
        print(f"step {row['form']}, {how}: {found}")
    for row in record["loads"]:
        seconds = row["load_s"]["median"], row["import_s"]["median"]
        print(f"load {row['form']}: {seconds[0]:.2f} s after {seconds[1]:.2f} s of imports")
    record |= {"marks": MARKS, "met": verdict(record)}
    print(f"met: {record['met']}")
    record |= {"settings": asdict(settings) | {"out": settings.out.name}}
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record)
    print(f"written: {settings.out}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
