"""Train a policy: phases, checkpoints, resume, progress.

Phases (Phys2Real section III): ``privileged`` sees the true theta; ``noisy``
(phase 1.5) continues it with Gaussian noise on theta, constant per episode;
``dr`` never sees theta and gets the steps of both, the same network, critic
and curriculum; ``dr-history`` is ``dr`` that also sees what the estimator sees.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.files import check_same_run, load_pytree, note_resume, save_pytree, start_run
from p2r_jax.policy.devices import DeviceChoice, Devices
from p2r_jax.policy.logging import MetricLog
from p2r_jax.policy.policy import Phase, Policy, contract_of, policy_from_training, save_policy
from p2r_jax.policy.ppo import PPO, PPOConfig, TrainState
from p2r_jax.policy.watch import BlowupWatch
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.training_env import TrainingEnv
from p2r_jax.tasks import Task, load_task

THETA_INPUT = {
    "privileged": "true",
    "noisy": "noisy",
    "dr": "constant",
    "dr-history": "constant",
}
PHASES = tuple(THETA_INPUT)
RUN_FIELDS = ("task", "phase", "ppo")  # what a resumed run must share with its start
LEARNER = "learner.msgpack"
AfterCheckpoint = Callable[[int, Policy], None]  # of the control steps done, and the policy


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      task: the task; its ``theta_input`` is set by the phase.
      phase: see the module.
      ppo: hyper-parameters.
      out: run folder; holds ``state.msgpack`` (resume), ``policy/`` (use), logs.
      init: run folder of the phase to continue (``noisy`` needs one).
      evaluations: evaluations and checkpoints, evenly spaced.
      resume: continue the run in ``out`` exactly.
      overwrite: allow a folder that is not empty.
      wandb_project: log to Weights & Biases as well.
      max_dumps: episodes whose physics blew up that are kept in ``out/blowups``.
      devices: ``one``, all of this machine (``local``) or of all processes (``cluster``, one
        setting for SLURM); environments are split among them.
      video_every: control steps between films of an episode, taken at checkpoints into
        ``out/videos``; 0 for none. See ``runs.videos``, which a notebook passes itself.
    """

    task: Task
    phase: Phase
    ppo: PPOConfig
    out: Path
    init: Path | None = None
    evaluations: int = 20
    resume: bool = False
    overwrite: bool = False
    wandb_project: str | None = None
    max_dumps: int = 4
    devices: DeviceChoice = "one"
    video_every: int = 0


def default_ppo(phase: Phase) -> PPOConfig:
    """Hyper-parameters of a phase; ``dr`` policies get the steps of both others together."""
    first = PPOConfig()
    second = replace(
        first, total_steps=first.total_steps // 2, learning_rate=3e-4, entropy_cost=3e-3
    )
    both = replace(first, total_steps=first.total_steps + second.total_steps)
    return {"privileged": first, "noisy": second, "dr": both, "dr-history": both}[phase]


def default_train(task: str, phase: Phase, out: Path) -> TrainConfig:
    """The committed configuration of a phase of a registered task."""
    return TrainConfig(load_task(task), phase, default_ppo(phase), out)


def phase_task(task: Task, phase: Phase) -> Task:
    """The task as the phase's policy sees theta."""
    history = task.history if phase == "dr-history" else 0
    return replace(task, theta_input=THETA_INPUT[phase], actor_history=history)


def train(config: TrainConfig, after_checkpoint: AfterCheckpoint | None = None) -> Policy:
    """Run or resume a training; returns the policy, which is also in ``out/policy``.

    Ctrl-C saves a checkpoint before it stops.

    Args:
      config: the run.
      after_checkpoint: called whenever one has been written.

    Raises:
      ValueError: for a ``noisy`` run without ``init``, or a resume of another run.
      FileExistsError: if ``out`` holds something and neither resume nor overwrite is set.
    """
    task = phase_task(config.task, config.phase)
    if config.phase == "noisy" and config.init is None:
        raise ValueError("phase noisy continues a privileged policy: give its run folder as --init")
    devices = Devices(config.devices, config.ppo.num_envs, config.ppo.num_minibatches)
    ppo = PPO(TrainingEnv(PushEnv(task), task.episode_length), config.ppo)
    state = (_restore if config.resume else _start)(config, ppo, devices)
    steps = int(state.update) * config.ppo.steps_per_update
    log = None  # only the first process keeps records
    if devices.is_lead:
        log = MetricLog(config.out, config.wandb_project, asdict(config), after=steps)
    try:
        state = _loop(config, task, ppo, state, devices, log, after_checkpoint)
    finally:
        if log:
            log.close()
    return _policy(config, task, ppo, devices.gather(state))


def _start(config: TrainConfig, ppo: PPO, devices: Devices) -> TrainState:
    inputs = [] if config.init is None else [config.init / LEARNER]
    devices.lead_does(lambda: start_run(config.out, config, config.overwrite, inputs))
    key = jax.random.key(config.ppo.seed)
    if config.init is None:
        return devices.jit_init(ppo.init, config.ppo.num_envs, key)
    source = load_pytree(config.init / LEARNER, _learner(jax.eval_shape(ppo.init, key)))
    warm = source["params"], source["normalizer"]
    return devices.jit_init(ppo.init, config.ppo.num_envs, key, *warm)


def _restore(config: TrainConfig, ppo: PPO, devices: Devices) -> TrainState:
    check_same_run(config.out, config, RUN_FIELDS)
    template = jax.jit(ppo.init)(jax.random.key(config.ppo.seed))
    state = load_pytree(config.out / "state.msgpack", template)
    if devices.is_lead:
        note_resume(config.out, int(state.update) * config.ppo.steps_per_update)
    return devices.place(state, config.ppo.num_envs)


def _learner(state: TrainState) -> dict:
    """What a later phase continues from."""
    return {"params": state.params, "normalizer": state.normalizer}


def _save(config: TrainConfig, task: Task, ppo: PPO, state: TrainState) -> None:
    save_pytree(config.out / "state.msgpack", state)
    save_pytree(config.out / LEARNER, _learner(state))
    save_policy(config.out / "policy", _policy(config, task, ppo, state))


def _policy(config: TrainConfig, task: Task, ppo: PPO, state: TrainState) -> Policy:
    steps = int(state.update) * config.ppo.steps_per_update
    contract = contract_of(task, config.phase, config.ppo.policy_layers, steps)
    return policy_from_training(state.params, state.normalizer, contract)


def _loop(
    config: TrainConfig,
    task: Task,
    ppo: PPO,
    state: TrainState,
    devices: Devices,
    log: MetricLog | None,
    after_checkpoint: AfterCheckpoint | None,
) -> TrainState:
    update = devices.jit_update(ppo.update_and_record, state, config.ppo.num_envs)
    watch = BlowupWatch(config.out / "blowups", task, config.ppo.unroll_length, config.max_dumps)
    total, first = config.ppo.num_updates, int(state.update)
    every = max(total // config.evaluations, 1)
    keeper = _Keeper(config, task, ppo, log, after_checkpoint, first)
    if first == total:  # killed while it wrote its last checkpoint
        whole = devices.gather(state)
        if devices.is_lead:
            _save(config, task, ppo, whole)
    try:
        for done in range(first + 1, total + 1):
            state, metrics, record = update(state)
            if devices.is_one_process:  # it can look at every environment
                watch.add(done, metrics["sim/nan_envs"], record)
            keeper.start_clock(metrics)
            if done % every and done != total:
                continue
            whole = devices.gather(state)
            if devices.is_lead:
                blown = watch.take_count() if devices.is_one_process else None
                keeper.checkpoint(whole, jax.device_get(metrics), blown)
    except KeyboardInterrupt:
        if not devices.is_one_process:  # the others may be elsewhere: no way to gather
            print("\nstopped; continue from the last checkpoint with --resume")
            raise
        _save(config, task, ppo, devices.gather(state))
        watch.read()
        print(f"\nstopped at {int(state.update)} updates; continue with --resume")
        raise
    return state


class _Keeper:
    """Evaluates, logs, saves and reports at every checkpoint."""

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        ppo: PPO,
        log: MetricLog | None,
        after_checkpoint: AfterCheckpoint | None,
        first: int,
    ):
        self.config, self.task, self.ppo, self.log = config, task, ppo, log
        self.after_checkpoint, self.first = after_checkpoint, first
        self.evaluate = jax.jit(lambda policy, key: evaluate_policy(task, policy, key))
        self.key = jax.random.key(config.ppo.seed + 1)
        self.started: float | None = None

    def start_clock(self, metrics: dict) -> None:
        """Once, after the update that compiled."""
        if self.started is None:
            jax.block_until_ready(metrics)
            self.started = time.perf_counter()

    def checkpoint(self, state: TrainState, metrics: dict, blown: int | None) -> None:
        """Of a whole state; ``blown``: environments that blew up since the last one, if known."""
        config, done = self.config, int(state.update)
        policy = _policy(config, self.task, self.ppo, state)
        same = policy.replace(contract=replace(policy.contract, steps=0))  # one trace for all
        row = metrics | jax.device_get(self.evaluate(same, self.key))
        elapsed = time.perf_counter() - self.started
        per_update = config.ppo.steps_per_update
        rate = (done - self.first - 1) * per_update / max(elapsed, 1e-9)
        row = {k: float(v) for k, v in row.items()} | {"steps_per_s": rate, "seconds": elapsed}
        if blown is not None:
            row["sim/nan_envs"] = blown
        self.log.write(done * per_update, row)
        _save(config, self.task, self.ppo, state)
        if self.after_checkpoint:
            self.after_checkpoint(done * per_update, policy)
        eta = (config.ppo.num_updates - done) * per_update / max(rate, 1.0)
        print(
            f"[{config.phase}] {done * per_update / 1e6:6.1f} M steps | {rate / 1e3:5.1f} k/s | "
            f"ETA {eta / 60:4.1f} min | strict success {row['eval/success']:.3f} | "
            f"reward {row['eval/reward']:.1f}",
            flush=True,
        )


def evaluate_policy(
    task: Task, policy: Policy, key: Array, episodes: int = 512
) -> dict[str, Float[Array, ""]]:
    """Deterministic episodes from the real start in the training dynamics.

    Theta is what the phase's policy sees in training. Success is strict
    (position and yaw) and judged at the end of the episode.
    """
    env = PushEnv(task, training=False)
    state = jax.vmap(env.reset)(jax.random.split(key, episodes))
    width = len(policy.contract.features)

    def step(state, _):
        obs = state.obs["state"]
        inner = state.pipeline_state
        action = policy(obs[:, :width], inner.theta_input, inner.window)
        state = jax.vmap(env.step)(state, action)
        return state, (state.metrics["success"], state.reward, state.metrics["position_error"])

    _, (success, reward, position) = jax.lax.scan(step, state, None, task.episode_length)
    theta = state.pipeline_state.physics.com[:, 0]
    thirds = jnp.digitize(theta, jnp.quantile(theta, jnp.array([1 / 3, 2 / 3])))
    by_third = {
        f"eval/success_theta_{name}": jnp.sum((thirds == i) * success[-1]) / jnp.sum(thirds == i)
        for i, name in enumerate(("low", "mid", "high"))
    }
    return {
        "eval/success": jnp.mean(success[-1]),
        "eval/reward": jnp.mean(jnp.sum(reward, 0)),
        "eval/ever": jnp.mean(jnp.max(success, 0)),
        "eval/position_cm": 100 * jnp.median(position[-1]),
        **by_third,
    }
