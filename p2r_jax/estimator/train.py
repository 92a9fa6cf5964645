"""Train the ensemble on its own experience, round by round.

Every round rolls out fresh episodes with the frozen policy driven by the current
estimate (or straight pushes without a policy), then takes one pass of Gaussian-NLL
steps over them (Nix & Weigend 1994). Nothing is kept between rounds but the networks,
so training and held-out episodes never mix and a resumed run continues exactly.
``train_seeds`` trains several seeds of one configuration in one program.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.estimator.calibration import calibration_report, print_report
from p2r_jax.estimator.ensemble import (
    Ensemble,
    EstimatorContract,
    Network,
    check_network,
    init_ensemble,
    outline_of,
    save_ensemble,
    theta_net,
    transitions,
)
from p2r_jax.estimator.logged import read_windows
from p2r_jax.estimator.rollouts import Disturbances, Drive, Episodes, collect
from p2r_jax.estimator.straight_pushes import PushSource, StraightPushes
from p2r_jax.files import (
    check_same_run,
    git_revision,
    load_pytree,
    note_resume,
    provenance,
    save_pytree,
    start_run,
    write_json,
)
from p2r_jax.policy.logging import MetricLog
from p2r_jax.policy.policy import Policy, load_policy
from p2r_jax.sim.observation import FEATURES
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task


@dataclass(frozen=True)
class EstimatorConfig:
    """One estimator training.

    Attributes:
      task: the task.
      policy: folder of the frozen policy (the noisy one); None with ``pushes``.
      out: run folder; holds ``state.msgpack`` (resume), ``estimator/`` (use), report.
      members, layers: the ensemble; of a GRU the first layer is its state.
      network: an MLP of the whole window, or a GRU along it.
      contact: tell the networks whether the pusher touched the object.
      history: rows of the window; None is the task's.
      rounds: rounds of experience.
      episodes: episodes per round.
      steps: gradient steps per round.
      batch: windows per member and step.
      learning_rate: initial, cosine to zero.
      disturbances: noise and short steps in training and in the report.
      drive: what the frozen policy hears in training; in the report, the estimate.
      pushes: experience from straight pushes, for logs of a robot that pushes on its own.
      logged: windows of real runs of an object whose theta is known (``p2r recover``).
      logged_share: share of a batch that comes from them.
      test_episodes: held-out episodes from the real start for the report.
      seed: of everything.
      resume: continue the run in ``out`` exactly.
      overwrite: allow a folder that is not empty.
    """

    task: Task
    policy: Path | None
    out: Path
    members: int = 10
    layers: tuple[int, ...] = (128, 128)
    network: Network = "mlp"
    contact: bool = False
    history: int | None = None
    rounds: int = 24
    episodes: int = 4096
    steps: int = 500
    batch: int = 1024
    learning_rate: float = 1e-3
    disturbances: Disturbances = field(default_factory=Disturbances)
    drive: Drive = field(default_factory=Drive)
    pushes: StraightPushes | None = None
    logged: tuple[Path, ...] = ()
    logged_share: float = 0.25
    test_episodes: int = 2048
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self):
        if (self.policy is None) == (self.pushes is None):
            raise ValueError("estimator: give either a policy or pushes, the other is None")
        if self.history is not None and self.history < 2:
            raise ValueError(f"estimator: history is {self.history}; motion needs 2 rows or more")
        if not 0 < self.logged_share < 1:
            raise ValueError(f"estimator: logged_share is {self.logged_share}, not within 0 and 1")
        check_network(self.network)


STATE, REPORT = "state.msgpack", "calibration.json"
RUN_FIELDS = (
    "task",
    "members",
    "layers",
    "network",
    "contact",
    "history",
    "rounds",
    "episodes",
    "steps",
    "batch",
    "learning_rate",
    "disturbances",
    "drive",
    "pushes",
    "logged",
    "logged_share",
    "seed",
)


@struct.dataclass
class EstimatorState:
    """Everything a training is."""

    params: dict
    optimizer: optax.OptState
    key: Array
    round: Array


def contract_of(task: Task, config: EstimatorConfig) -> EstimatorContract:
    """The contract of an ensemble trained on ``task``."""
    return EstimatorContract(
        task=task.name,
        features=FEATURES,
        theta=tuple(t.name for t in task.theta),
        theta_mean=tuple(t.mean for t in task.theta),
        theta_std=tuple(t.std for t in task.theta),
        history=config.history or task.history,
        members=config.members,
        layers=config.layers,
        action_scale_m=task.action_scale_m,
        git=git_revision(),
        network=config.network,
        outline=outline_of(task) if config.contact else (),
        pusher_radius_m=task.pusher_radius_m if config.contact else 0.0,
    )


def gaussian_nll(
    mean: Float[Array, "*n k"], log_var: Float[Array, "*n k"], target: Float[Array, "*n k"]
) -> Float[Array, ""]:
    """Mean negative log-likelihood up to a constant."""
    return jnp.mean(0.5 * log_var + 0.5 * (target - mean) ** 2 * jnp.exp(-log_var))


class EstimatorTraining:
    """Pure functions of one training: ``init``, ``round``."""

    kind, loss_name = "estimator", "nll"  # on the console and in the log

    def __init__(self, task: Task, policy: Policy | None, config: EstimatorConfig):
        """Fix environment, networks and optimiser; without a policy ``config.pushes`` is used."""
        self.task, self.policy, self.config = task, policy, config
        self.contract = contract_of(task, config)
        self.net = theta_net(self.contract)
        schedule = optax.cosine_decay_schedule(config.learning_rate, config.rounds * config.steps)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
        self.logged = None
        if config.logged:
            logged = read_windows(config.logged, task, self.contract.history)
            self.logged = (transitions(logged.window, self.contract), self.scaled(logged.theta))

    def scaled(self, theta: Float[Array, "*n k"]) -> Float[Array, "*n k"]:
        """Theta in units of its training distribution: what the networks state."""
        return (theta - self.task.theta_mean) / self.task.theta_std

    def init(self, key: Array) -> EstimatorState:
        """Untrained ensemble: it says the training prior."""
        key_net, key = jax.random.split(key)
        params = init_ensemble(self.contract, key_net).params
        optimizer = jax.vmap(self.optimizer.init)(params)
        return EstimatorState(params, optimizer, key, jnp.zeros((), jnp.int32))

    def round(self, state: EstimatorState) -> tuple[EstimatorState, Float[Array, ""]]:
        """Collect with the current ensemble, then train on it; returns the mean NLL."""
        key_collect, key_train, key = jax.random.split(state.key, 3)
        ensemble = Ensemble(state.params, self.contract)
        data = self.collect(ensemble, key_collect, self.config.episodes)
        rows = self.episode_rows(data)

        def step(carry, key):
            keys = jax.random.split(key, self.config.members)
            members = jax.vmap(self.member_step, (0, 0, 0, None, None))
            params, optimizer, loss = members(*carry, keys, rows, data.theta)
            return (params, optimizer), loss

        keys = jax.random.split(key_train, self.config.steps)
        (params, optimizer), loss = jax.lax.scan(step, (state.params, state.optimizer), keys)
        return EstimatorState(params, optimizer, key, state.round + 1), jnp.mean(loss)

    def collect(
        self, ensemble: Ensemble, key: Array, episodes: int, test: bool = False
    ) -> Episodes:
        """Episodes of the configured source; held-out ones (``test``) from the real start.

        Straight pushes have one kind of start, and their ``estimate`` only in a test.
        """
        config, env = self.config, PushEnv(self.task, training=not test)
        if config.pushes is None:
            drive = Drive() if test else config.drive
            return collect(env, self.policy, ensemble, config.disturbances, drive, key, episodes)
        source = PushSource(env, config.pushes)
        return source.collect(ensemble if test else None, config.disturbances, key, episodes)

    def episode_rows(self, data: Episodes) -> Float[Array, "env t n"]:
        """What the networks read of whole episodes, which every window of them shares.

        The window at time t has rows t to t + history - 2: zeros precede an episode.
        """
        before = ((0, 0), (self.contract.history - 1, 0), (0, 0))
        padded = Window(jnp.pad(data.features, before), jnp.pad(data.sent, before))
        return transitions(padded, self.contract)

    def loss(
        self, params: dict, rows: Float[Array, "n t r"], target: Float[Array, "n k"]
    ) -> Float[Array, ""]:
        """NLL of scaled theta, given the rows of windows."""
        return gaussian_nll(*self.net.apply(params, rows), target)

    def member_step(self, params, optimizer, key, rows, theta):
        """One Adam step of one member on its own random windows.

        Args:
          params, optimizer: of the member.
          key: for the draw.
          rows: ``episode_rows``.
          theta: truth of the episodes, Float[env K].

        Returns:
          parameters, state of the optimiser, NLL before the step.
        """
        key_env, key_time, key_logged = jax.random.split(key, 3)
        size, width = self.config.batch, self.contract.history - 1
        episodes, length = rows.shape[0], rows.shape[1] - width + 1
        env = jax.random.randint(key_env, (size,), 0, episodes)
        t = jax.random.randint(key_time, (size,), 0, length)
        drawn = rows[env[:, None], t[:, None] + jnp.arange(width)]
        target = self.scaled(theta[env])
        if self.logged is not None:
            count = round(self.config.logged_share * size)
            pick = jax.random.randint(key_logged, (count,), 0, len(self.logged[0]))
            drawn = drawn.at[:count].set(self.logged[0][pick])
            target = target.at[:count].set(self.logged[1][pick])

        value, gradient = jax.value_and_grad(self.loss)(params, drawn, target)
        updates, optimizer = self.optimizer.update(gradient, optimizer)
        return optax.apply_updates(params, updates), optimizer, value


def load_training(config: EstimatorConfig) -> EstimatorTraining:
    """The training of a configuration, with its frozen policy."""
    policy = load_policy(config.policy, config.task) if config.policy else None
    return EstimatorTraining(config.task, policy, config)


def seed_keys(seed: int | Array) -> tuple[Array, Array]:
    """Keys of a run: for its training and for its held-out episodes."""
    key_train, key_test = jax.random.split(jax.random.key(seed))
    return key_train, key_test


def train_seeds(
    training: EstimatorTraining,
    seeds: Sequence[int],
    on_round: Callable[[Float[Array, " seed"]], object] | None = None,
) -> Ensemble:
    """Train several seeds in one program, each as ``train_estimator`` would.

    Nothing is written; memory grows with the number of seeds.

    Args:
      training: of any seed; ``config.seed`` is not used.
      seeds: of everything in a run.
      on_round: called after every round with the mean NLL of each seed.

    Returns:
      the ensembles, with a leading axis of seeds; ``jax.tree.map`` cuts one out.
    """
    keys, _ = jax.vmap(seed_keys)(jnp.array(seeds))
    state = jax.jit(jax.vmap(training.init))(keys)
    step = jax.jit(jax.vmap(training.round), donate_argnums=0)
    for _ in range(training.config.rounds):
        state, nll = step(state)
        if on_round:
            on_round(nll)
    return Ensemble(state.params, training.contract)


def train_estimator(config: EstimatorConfig) -> Ensemble:
    """Run or resume a training; returns the ensemble, also in ``out/estimator``.

    Writes ``calibration.json`` from held-out episodes. Ctrl-C loses at most
    the current round.
    """
    training = load_training(config)
    key_train, key_test = seed_keys(config.seed)
    state = run_rounds(training, key_train)
    ensemble = Ensemble(state.params, training.contract)
    report = heldout_report(training, ensemble, key_test)
    write_json(config.out / REPORT, report | provenance())
    print_report(report)
    return ensemble


def run_rounds(training: EstimatorTraining, key: Array) -> EstimatorState:
    """All rounds that are missing, with a checkpoint and a line after each."""
    config = training.config
    state = begin_run(config, jax.jit(training.init)(key))
    step = jax.jit(training.round, donate_argnums=0)
    started = time.perf_counter()
    first = int(state.round)
    if first == config.rounds:  # killed while it wrote its last round
        save_run(config, training, state)
    with contextlib.closing(MetricLog(config.out, after=first)) as log:
        for done in range(first + 1, config.rounds + 1):
            state, loss = step(state)
            seconds = time.perf_counter() - started
            log.write(done, {training.loss_name: float(loss), "seconds": seconds})
            save_run(config, training, state)
            print(round_line(training, done, float(loss), seconds / (done - first)), flush=True)
    return state


def begin_run(
    config: EstimatorConfig, start: EstimatorState, notes: dict | None = None
) -> EstimatorState:
    """Create the run folder, or read the state in it; returns the state to go on from."""
    if not config.resume:
        inputs = [path for path in (config.policy, *config.logged) if path is not None]
        start_run(config.out, config, config.overwrite, inputs, notes)
        return start
    check_same_run(config.out, config, RUN_FIELDS)
    state = load_pytree(config.out / STATE, start)
    note_resume(config.out, int(state.round), notes)
    return state


def save_run(config: EstimatorConfig, training: EstimatorTraining, state: EstimatorState) -> None:
    """Write what a resume and what a user needs."""
    save_pytree(config.out / STATE, state)
    save_ensemble(config.out / "estimator", Ensemble(state.params, training.contract))


def round_line(training: EstimatorTraining, done: int, loss: float, rate: float) -> str:
    """What the console says after a round that took ``rate`` seconds."""
    rounds, name = training.config.rounds, training.loss_name.upper()
    return (
        f"[{training.kind}] round {done}/{rounds} | {name} {loss:+.3f} | {rate:.1f} s/round | "
        f"ETA {rate * (rounds - done) / 60:.1f} min"
    )


def heldout_report(training: EstimatorTraining, ensemble: Ensemble, key: Array) -> dict:
    """Calibration on held-out episodes of the training's count."""
    count = training.config.test_episodes
    data = jax.jit(lambda e, k: training.collect(e, k, count, test=True))(ensemble, key)
    return report_of(data, ensemble.contract.theta)


def report_of(data: Episodes, names: Sequence[str]) -> dict:
    """Calibration of the first component of theta, and of all by name in ``components``."""
    reports = {name: calibration_report(data, component=i) for i, name in enumerate(names)}
    return reports[names[0]] | ({"components": reports} if len(names) > 1 else {})
