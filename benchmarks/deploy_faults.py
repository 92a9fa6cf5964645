"""Does the control loop stay safe when things go wrong, and does its log survive?

Most episodes run in simulated time in this process (``p2r_jax.deploy.faults``): poses are
dropped, delayed, duplicated, NaN or elsewhere, the robot lies or fails, the process stalls
or gets SIGINT. In the others the loop is a process of its own, in real time at 1 Hz,
connected to a simulated robot here, and dies of SIGKILL at a random moment; the robot's
watchdog has to stop the motion. They are fewer because each starts a process.

    python -m benchmarks.deploy_faults
"""

import multiprocessing
import re
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from p2r_jax.deploy.bundle import load_bundle
from p2r_jax.deploy.command import DeployConfig, header_of, limits_of, load_prior_for
from p2r_jax.deploy.controller import Controller
from p2r_jax.deploy.export import CHECKPOINT_ROOT, retimed, write_bundle
from p2r_jax.deploy.faults import Outcome, Watcher, faulted_episode
from p2r_jax.deploy.record import open_run, read_run
from p2r_jax.deploy.records import KILLED
from p2r_jax.deploy.robots.sim import SimRobot, SimRobotConfig
from p2r_jax.deploy.runner import Runner, RunOptions
from p2r_jax.deploy.trackers.sim import SimTracker
from p2r_jax.estimator.ensemble import load_ensemble
from p2r_jax.files import provenance, write_json
from p2r_jax.policy.policy import load_policy
from p2r_jax.tasks import Task, load_task

SCHEMA_VERSION = 1
WATCHDOG_TARGET_S = 0.5
MOVING_M_S = 2e-3  # a tip faster than this moves
LOOK_S, LOOKS = 0.01, 150  # at the tip after the loop's death
PING_S = 0.02
NUMBERS = re.compile(r":? \([-\d., a-z]*\),?")  # of places, in a cause
START_S = 120.0  # a process that has not moved by then is broken


@dataclass(frozen=True)
class Settings:
    """Settings of the fault benchmark.

    Attributes:
      out: JSON file.
      episodes: in all; ``killed`` of them die of SIGKILL.
      steps: per faulted episode.
      period_s: of the faulted episodes; the networks are the shipped ones, at that rate.
      seed: of the first episode.
      processes: killed at the same time.
    """

    out: Path = Path("benchmarks/results/deploy_faults.json")
    episodes: int = 1000
    killed: int = 50
    steps: int = 60
    period_s: float = 0.2
    seed: int = 0
    processes: int = 2


class Remote:
    """Robot, tracker and clock that live in the process at the other end of a pipe."""

    name = "sim"

    def __init__(self, pipe):
        self._pipe = pipe

    def _call(self, what: str, *args):
        self._pipe.send((what, args))
        return self._pipe.recv()

    @property
    def is_connected(self) -> bool:
        """Of the robot."""
        return True

    def connect(self) -> None:
        """Robot and tracker."""
        self._call("connect")

    def get_observation(self) -> dict[str, float]:
        """Of the robot."""
        return self._call("get_observation")

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """To the robot."""
        return self._call("send_action", action)

    def get_pose(self):
        """Of the tracker."""
        return self._call("get_pose")

    def stop(self) -> None:
        """The robot."""
        self._call("stop")

    def disconnect(self) -> None:
        """The robot."""
        self._call("disconnect")

    def now(self) -> float:
        """Of the robot's clock."""
        return self._call("now")

    def sleep_until(self, time_s: float) -> None:
        """Sleep here, and tell the robot now and then that the loop lives."""
        while (left := time_s - self.now()) > 0:
            time.sleep(min(left, PING_S))
            self._call("alive")


class Host:
    """The robot's side of the pipe: serves a loop until it dies.

    Attributes:
      robot, watcher: in real time.
      moving: set when the first command came.
    """

    def __init__(self, task: Task, seed: int, pipe):
        config = SimRobotConfig(seed=seed, real_time=True)
        self.robot = SimRobot.from_config(config, task)
        self.watcher, self.tracker = Watcher(self.robot, task), SimTracker(self.robot)
        self.moving = threading.Event()
        self._pipe = pipe
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the pipe is closed from the other end."""
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                what, args = self._pipe.recv()
                self._pipe.send(self._answer(what, args))
            except (EOFError, OSError):
                return

    def _answer(self, what: str, args: tuple):
        if what == "connect":
            self.tracker.connect()
        if what == "get_pose":
            return self.tracker.get_pose()
        if what == "now":
            return self.robot.clock.now()
        if what == "alive":
            return self.robot.clock.sleep_until(self.robot.clock.now())
        answer = getattr(self.watcher, what)(*args)
        if what == "send_action":
            self.moving.set()
        return answer


def loop_process(pipe, bundle: Path, folder: Path) -> None:
    """The loop at the other end: a bundle, and a robot behind a pipe."""
    loaded = load_bundle(bundle)
    config = DeployConfig(bundle, folder)
    controller = Controller(loaded, load_prior_for(loaded, "paper-top"))
    remote, limits = Remote(pipe), limits_of(config, loaded)
    header = header_of(config, controller, limits, ("sim", "sim"), remote)
    options = RunOptions(loaded.spec.episode_steps, success_hold_s=None)
    writer = open_run(folder, header)
    Runner(controller, limits, remote, remote, remote, writer, options).run()


def killed_episode(bundle: Path, task: Task, folder: Path, seed: int) -> dict:
    """SIGKILL at a random moment of the first seconds; what the robot and the log did."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=loop_process, args=(theirs, bundle, folder))
    process.start()
    theirs.close()
    host = Host(task, seed, ours)
    if not host.moving.wait(START_S):
        process.kill()
        raise RuntimeError(f"the loop sent no action within {START_S:g} s")
    time.sleep(np.random.default_rng([8, seed]).uniform(0.0, 2.5))
    process.kill()
    died_s = host.robot.clock.now()
    process.join()
    host.join()
    run = read_run(folder)
    return {
        "seed": seed,
        "cause": run.cause,
        "unsafe": host.watcher.unsafe,
        "commands": host.watcher.commands,
        "logged_steps": len(run.steps),
        "last_logged_before_death_s": died_s - run.steps[-1].stamp_s if run.steps else None,
        "moved_for_s": moved_for(host.robot, died_s),
    }


def moved_for(robot: SimRobot, died_s: float) -> float:
    """Seconds from the loop's death to the last motion of the tip; 0 if there was none."""
    moved_s, (_, before) = 0.0, robot.truth()
    for _ in range(LOOKS):
        robot.run_unattended(LOOK_S)
        _, tip = robot.truth()
        if np.linalg.norm(tip - before) > MOVING_M_S * LOOK_S:
            moved_s = max(robot.world.time_s - died_s, 0.0)
        before = tip
    return float(moved_s)


def main(settings: Settings) -> None:
    """Run every episode, print the verdict, write JSON."""
    task = load_task("push_tblock")
    root = CHECKPOINT_ROOT / task.name
    policy, ensemble = load_policy(root / "noisy", task), load_ensemble(root / "estimator", task)
    record = {"schema": SCHEMA_VERSION, "kind": "deploy_faults", "provenance": provenance()}
    with tempfile.TemporaryDirectory() as scratch:
        at_rate = retimed(task, policy, ensemble, settings.period_s)
        write_bundle(Path(scratch, "fast"), *at_rate)
        write_bundle(Path(scratch, "slow"), task, policy, ensemble)
        killed = run_killed(Path(scratch), task, settings)
        outcomes = run_faulted(Path(scratch), at_rate[0], settings)
    record |= {"settings": asdict(settings) | {"out": settings.out.name}}
    record |= {"faulted": summarize(outcomes), "killed": summarize_killed(killed)}
    met = not record["faulted"]["failures"] and record["killed"]["met"]
    for line in (*record["faulted"]["failures"][:10], *record["killed"]["failures"][:10]):
        print(line)
    print(f"{settings.episodes} episodes, unsafe or unreadable: none" if met else "NOT met")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(settings.out, record | {"met": met})
    print(f"written: {settings.out}")


def run_faulted(scratch: Path, task: Task, settings: Settings) -> list[Outcome]:
    """The episodes in simulated time."""
    bundle = load_bundle(scratch / "fast")
    controller = Controller(bundle, load_prior_for(bundle, "paper-top"))
    config = DeployConfig(bundle.folder, scratch)
    seeds = range(settings.seed, settings.seed + settings.episodes - settings.killed)
    return [
        faulted_episode(config, controller, task, scratch / f"{seed}", seed, settings.steps)
        for seed in tqdm(seeds, desc="faulted", mininterval=1.0)
    ]


def run_killed(scratch: Path, task: Task, settings: Settings) -> list[dict]:
    """The episodes whose loop is killed."""

    def run(seed: int) -> dict:
        return killed_episode(scratch / "slow", task, scratch / f"killed{seed}", seed)

    seeds = range(settings.seed, settings.seed + settings.killed)
    with ThreadPoolExecutor(settings.processes) as pool:
        return list(tqdm(pool.map(run, seeds), total=settings.killed, desc="killed"))


def summarize(outcomes: list[Outcome]) -> dict:
    """Counts over the faulted episodes."""
    faults, causes = Counter(), Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
        causes[NUMBERS.sub("", outcome.cause)] += 1
    failures = [f"episode {i}: {f}" for i, o in enumerate(outcomes) for f in o.failed]
    return {
        "episodes": len(outcomes),
        "commands": sum(o.commands for o in outcomes),
        "steps": sum(o.steps for o in outcomes),
        "faults": dict(faults.most_common()),
        "causes": dict(causes.most_common()),
        "unsafe_commands": sum(len(o.unsafe) for o in outcomes),
        "unreadable_logs": sum(o.logged is None for o in outcomes),
        "failures": failures,
    }


def summarize_killed(rows: list[dict]) -> dict:
    """Counts over the killed episodes, and how long the robot moved on."""
    moved = [row["moved_for_s"] for row in rows] or [0.0]
    failures = [f"killed {row['seed']}: {wrong}" for row in rows for wrong in row["unsafe"]]
    failures += [
        f"killed {row['seed']}: its log ends with {row['cause']!r}"
        for row in rows
        if row["cause"] != KILLED
    ]
    in_time = max(moved) <= WATCHDOG_TARGET_S
    return {
        "episodes": len(rows),
        "commands": sum(r["commands"] for r in rows),
        "still_moving_at_death": sum(m > 0 for m in moved),
        "moved_for_s": {"median": float(np.median(moved)), "max": max(moved)},
        "target_s": WATCHDOG_TARGET_S,
        "failures": failures,
        "met": in_time and not failures,
        "rows": rows,
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
