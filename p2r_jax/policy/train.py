"""Train a policy: phases, checkpoints, resume, progress.

Phases (Phys2Real section III): ``privileged`` sees the true theta; ``noisy``
(phase 1.5) continues it with Gaussian noise on theta, constant per episode;
``belief`` is told how sure theta is, too, anything from certain to unknown, and gets the
steps of both; ``dr`` never sees theta and gets the steps of both, the same network, critic
and curriculum; ``dr-history`` is ``dr`` that also sees what the estimator sees,
``dr-recurrent`` is ``dr`` with a memory (``policy.actor``). ``latent`` is told an encoding
of all physics, which it learns on the way, in the place of theta (``policy.latent``).
"""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.files import (
    CONFIG_FILE,
    check_same_run,
    load_pytree,
    note_resume,
    read_json,
    save_pytree,
    start_run,
)
from p2r_jax.policy.devices import DeviceChoice, Devices
from p2r_jax.policy.latent import Encoder, PhysicsEnv, cut_apart, save_encoder
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
    "belief": "belief",
    "dr": "constant",
    "dr-history": "constant",
    "dr-recurrent": "constant",
    "latent": "constant",
}
PHASES = tuple(THETA_INPUT)
RECURRENT = "dr-recurrent"  # the one phase whose actor has a memory
MEMORY = 64
LATENT = "latent"
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
    by_phase = {"privileged": first, "noisy": second, RECURRENT: replace(both, memory=MEMORY)}
    return by_phase.get(phase, both)


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
      ValueError: for a ``noisy`` run without ``init``, a memory where the phase has none (or
        none where it has one), or a resume of another run.
      FileExistsError: if ``out`` holds something and neither resume nor overwrite is set.
    """
    task = phase_task(config.task, config.phase)
    if config.phase == "noisy" and config.init is None:
        raise ValueError("phase noisy continues a privileged policy: give its run folder as --init")
    check_memory(config.phase, config.ppo)
    if config.phase == LATENT and config.video_every:
        raise ValueError("phase latent has no films: a film shows theta, not an encoding")
    devices = Devices(config.devices, config.ppo.num_envs, config.ppo.num_minibatches)
    env = (PhysicsEnv if config.phase == LATENT else PushEnv)(task)
    ppo = PPO(TrainingEnv(env, task.episode_length), config.ppo)
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
    return _policy(config, task, ppo, devices.gather(state))[0]


def check_memory(phase: Phase, ppo: PPOConfig) -> None:
    """Raise ValueError unless exactly the recurrent phase has a memory."""
    if phase == RECURRENT and not ppo.memory:
        raise ValueError(f"phase {phase} needs a memory: give ppo.memory, e.g. {MEMORY}")
    if phase != RECURRENT and ppo.memory:
        raise ValueError(f"ppo.memory is {ppo.memory}, but only phase {RECURRENT} has a memory")


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
    check_same_run(config.out, _without_news(config), RUN_FIELDS)
    template = jax.jit(ppo.init)(jax.random.key(config.ppo.seed))
    state = load_pytree(config.out / "state.msgpack", template)
    if devices.is_lead:
        note_resume(config.out, int(state.update) * config.ppo.steps_per_update)
    return devices.place(state, config.ppo.num_envs)


def _without_news(config: TrainConfig) -> TrainConfig:
    """The config without those defaults of ``ppo`` that are younger than the run in ``out``."""
    path = config.out / CONFIG_FILE
    if not path.is_file():
        return config
    known = read_json(path, "").get("ppo", {})
    news = [f for f in fields(PPOConfig) if f.default and f.name not in known]
    unused = {f.name: None for f in news if getattr(config.ppo, f.name) == f.default}
    return replace(config, ppo=replace(config.ppo, **unused))


def _learner(state: TrainState) -> dict:
    """What a later phase continues from."""
    return {"params": state.params, "normalizer": state.normalizer}


def _save(config: TrainConfig, task: Task, ppo: PPO, state: TrainState) -> None:
    save_pytree(config.out / "state.msgpack", state)
    save_pytree(config.out / LEARNER, _learner(state))
    policy, encoder = _policy(config, task, ppo, state)
    save_policy(config.out / "policy", policy)
    if encoder is not None:
        save_encoder(config.out / "policy", encoder)


def _policy(
    config: TrainConfig, task: Task, ppo: PPO, state: TrainState
) -> tuple[Policy, Encoder | None]:
    """The policy, and the encoder of what it is told if it has one."""
    steps = int(state.update) * config.ppo.steps_per_update
    chosen = config.ppo
    contract = contract_of(
        task, config.phase, chosen.policy_layers, steps, chosen.action_head, chosen.memory
    )
    if config.phase == LATENT:
        return cut_apart(state.params, state.normalizer, contract)
    return policy_from_training(state.params, state.normalizer, contract), None


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
        self.evaluate = jax.jit(functools.partial(evaluate_policy, task))
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
        policy, encoder = _policy(config, self.task, self.ppo, state)
        same = policy.replace(contract=replace(policy.contract, steps=0))  # one trace for all
        row = metrics | jax.device_get(self.evaluate(same, self.key, encoder=encoder))
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
    task: Task, policy: Policy, key: Array, episodes: int = 512, encoder: Encoder | None = None
) -> dict[str, Float[Array, ""]]:
    """Deterministic episodes from the real start in the training dynamics.

    Theta is what the phase's policy sees in training, ``encoder``'s answer to the physics if
    there is one. Success is strict (position and yaw) and judged at the end of the episode.
    """
    env = PushEnv(task, training=False)
    state = jax.vmap(env.reset)(jax.random.split(key, episodes))
    width = len(policy.contract.features)

    def step(state_and_memory, _):
        state, memory = state_and_memory
        obs = state.obs["state"]
        inner = state.pipeline_state
        told = inner.theta_input if encoder is None else encoder(inner.physics)
        action, memory = policy.act(obs[:, :width], told, inner.window, memory)
        state = jax.vmap(env.step)(state, action)
        seen = state.metrics["success"], state.reward, state.metrics["position_error"]
        return (state, memory), seen

    start = state, policy.empty_memory(episodes)
    _, (success, reward, position) = jax.lax.scan(step, start, None, task.episode_length)
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
