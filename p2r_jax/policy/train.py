"""Train a policy: phases, checkpoints, resume, progress.

Phases (Phys2Real section III): ``privileged`` sees the true theta; ``noisy``
(phase 1.5) continues it with Gaussian noise on theta, constant per episode;
``dr`` never sees theta and gets the steps of both, the same network, critic
and curriculum; ``dr-history`` is ``dr`` that also sees what the estimator sees.
"""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from p2r_jax.files import (
    as_record,
    check_same_run,
    load_pytree,
    new_folder,
    provenance,
    save_pytree,
    write_json,
)
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


def train(config: TrainConfig) -> Policy:
    """Run or resume a training; returns the policy, which is also in ``out/policy``.

    Ctrl-C saves a checkpoint before it stops.

    Raises:
      ValueError: for a ``noisy`` run without ``init``, or a resume of another run.
      FileExistsError: if ``out`` holds something and neither resume nor overwrite is set.
    """
    task = phase_task(config.task, config.phase)
    if config.phase == "noisy" and config.init is None:
        raise ValueError("phase noisy continues a privileged policy: give its run folder as --init")
    ppo = PPO(TrainingEnv(PushEnv(task), task.episode_length), config.ppo)
    state = _restore(config, ppo) if config.resume else _start(config, ppo)
    log = MetricLog(config.out, config.wandb_project, asdict(config))
    try:
        state = _loop(config, task, ppo, state, log)
    finally:
        log.close()
    return _policy(config, task, ppo, state)


def _start(config: TrainConfig, ppo: PPO) -> TrainState:
    new_folder(config.out, config.overwrite)
    write_json(config.out / "config.json", as_record(config) | provenance())
    key = jax.random.key(config.ppo.seed)
    if config.init is None:
        return jax.jit(ppo.init)(key)
    source = load_pytree(config.init / "learner.msgpack", _learner(jax.eval_shape(ppo.init, key)))
    return jax.jit(ppo.init)(key, source["params"], source["normalizer"])


def _restore(config: TrainConfig, ppo: PPO) -> TrainState:
    check_same_run(config.out, config, ("task", "phase", "ppo"))
    template = jax.jit(ppo.init)(jax.random.key(config.ppo.seed))
    return load_pytree(config.out / "state.msgpack", template)


def _learner(state: TrainState) -> dict:
    """What a later phase continues from."""
    return {"params": state.params, "normalizer": state.normalizer}


def _save(config: TrainConfig, task: Task, ppo: PPO, state: TrainState) -> None:
    save_pytree(config.out / "state.msgpack", state)
    save_pytree(config.out / "learner.msgpack", _learner(state))
    save_policy(config.out / "policy", _policy(config, task, ppo, state))


def _policy(config: TrainConfig, task: Task, ppo: PPO, state: TrainState) -> Policy:
    steps = int(state.update) * config.ppo.steps_per_update
    contract = contract_of(task, config.phase, config.ppo.policy_layers, steps)
    return policy_from_training(state.params, state.normalizer, contract)


def _loop(config: TrainConfig, task: Task, ppo: PPO, state: TrainState, log: MetricLog):
    update = jax.jit(ppo.update_and_record, donate_argnums=0)
    watch = BlowupWatch(config.out / "blowups", task, config.ppo.unroll_length, config.max_dumps)
    evaluate = jax.jit(lambda p, k: evaluate_policy(task, p, k))
    total, first = config.ppo.num_updates, int(state.update)
    every = max(total // config.evaluations, 1)
    key_eval, started = jax.random.key(config.ppo.seed + 1), None
    try:
        for done in range(first + 1, total + 1):
            state, metrics, record = update(state)
            watch.add(done, metrics["sim/nan_envs"], record)
            if started is None:  # the clock starts after compilation
                jax.block_until_ready(metrics)
                started = time.perf_counter()
            if done % every and done != total:
                continue
            policy = _policy(config, task, ppo, state)
            row = jax.device_get(metrics | evaluate(policy, key_eval))
            elapsed = time.perf_counter() - started
            rate = (done - first - 1) * config.ppo.steps_per_update / max(elapsed, 1e-9)
            row = {k: float(v) for k, v in row.items()} | {"steps_per_s": rate, "seconds": elapsed}
            row["sim/nan_envs"] = watch.take_count()  # of all updates since the last row
            steps = done * config.ppo.steps_per_update
            log.write(steps, row)
            _save(config, task, ppo, state)
            eta = (total - done) * config.ppo.steps_per_update / max(rate, 1.0)
            print(
                f"[{config.phase}] {steps / 1e6:6.1f} M steps | {rate / 1e3:5.1f} k/s | "
                f"ETA {eta / 60:4.1f} min | strict success {row['eval/success']:.3f} | "
                f"reward {row['eval/reward']:.1f}",
                flush=True,
            )
    except KeyboardInterrupt:
        _save(config, task, ppo, state)
        watch.read()
        print(f"\nstopped at {int(state.update)} updates; continue with --resume")
        raise
    return state


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
