"""RMA's second phase: a network reads the policy's latent from the window (Kumar et al. 2021).

As the ensemble it is trained on its own experience: the frozen policy hears the adaptor. The
loss is the squared error of the encoding; nothing is said about how sure it is. Networks,
rounds and files are the ensemble's (``estimator.train``), with one member.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from p2r_jax.estimator.ensemble import Ensemble, load_ensemble, theta_net
from p2r_jax.estimator.rollouts import Drive, Episodes, collect
from p2r_jax.estimator.train import (
    REPORT,
    EstimatorConfig,
    EstimatorTraining,
    run_rounds,
    seed_keys,
)
from p2r_jax.files import provenance, write_json
from p2r_jax.policy.latent import Encoder, load_encoder
from p2r_jax.policy.policy import Policy, load_policy
from p2r_jax.sim.push import PushEnv
from p2r_jax.sim.window import Window
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian


@struct.dataclass
class Adaptor(Ensemble):
    """An ensemble of one that states the encoding and claims to be sure of it."""

    def __call__(self, window: Window) -> Gaussian:
        """The encoding as mean, without variance."""
        mean = self.members(window)[0][0]
        return Gaussian(mean, jnp.zeros_like(mean))


class AdaptorTraining(EstimatorTraining):
    """The ensemble's training with the encoding in the place of theta."""

    kind, loss_name = "adaptor", "mse"

    def __init__(self, task: Task, policy: Policy, encoder: Encoder, config: EstimatorConfig):
        """Of a frozen policy of phase ``latent`` and the encoder it was trained with."""
        super().__init__(task, policy, config)
        told = policy.contract
        self.encoder = encoder
        self.contract = replace(
            self.contract, theta=told.theta, theta_mean=told.theta_mean, theta_std=told.theta_std
        )
        self.net = theta_net(self.contract)

    def scaled(self, theta: Float[Array, "*n z"]) -> Float[Array, "*n z"]:
        """An encoding is what the network states."""
        return theta

    def loss(self, params: dict, rows: Float[Array, "n t r"], target: Float[Array, "n z"]):
        """Mean squared error."""
        return jnp.mean((self.net.apply(params, rows)[0] - target) ** 2)

    def collect(
        self, ensemble: Ensemble, key: Array, episodes: int, test: bool = False
    ) -> Episodes:
        """Episodes driven by the adaptor; their ``theta`` is the encoding of their physics."""
        env = PushEnv(self.task, training=not test)
        adaptor = Adaptor(ensemble.params, self.contract)
        config = self.config
        return collect(
            env, self.policy, adaptor, config.disturbances, Drive(), key, episodes, self.encoder
        )


def load_adaptor_training(config: EstimatorConfig) -> AdaptorTraining:
    """The training of a configuration, with its frozen policy and encoder.

    Raises:
      ValueError: if the policy is not of phase ``latent``, or for settings of an ensemble.
    """
    if config.policy is None or config.members != 1 or config.logged:
        raise ValueError("an adaptor needs a policy, one member, and no logged windows")
    policy = load_policy(config.policy, config.task)
    if policy.contract.phase != "latent":
        raise ValueError(
            f"{config.policy} is a policy of phase {policy.contract.phase}; an adaptor needs one "
            "of phase latent"
        )
    encoder = load_encoder(config.policy, config.task)
    return AdaptorTraining(config.task, policy, encoder, config)


def default_adaptor(task: Task, policy: Path, out: Path) -> EstimatorConfig:
    """The ensemble's budget and sizes for one network."""
    return EstimatorConfig(task, policy, out, members=1)


def train_adaptor(config: EstimatorConfig) -> Adaptor:
    """Run or resume a training; returns the adaptor, also in ``out/estimator``.

    Writes ``calibration.json`` with the error on held-out episodes. Ctrl-C loses at most
    the current round.

    Raises:
      ValueError: see ``load_adaptor_training``, or for a resume of another run.
    """
    training = load_adaptor_training(config)
    key_train, key_test = seed_keys(config.seed)
    state = run_rounds(training, key_train)
    adaptor = Adaptor(state.params, training.contract)
    write_json(config.out / REPORT, heldout_error(training, adaptor, key_test) | provenance())
    return adaptor


def heldout_error(training: AdaptorTraining, adaptor: Adaptor, key: Array) -> dict:
    """Squared error by time on held-out episodes, beside that of always saying the mean."""
    count = training.config.test_episodes
    data = jax.jit(lambda e, k: training.collect(e, k, count, test=True))(adaptor, key)
    truth = np.asarray(data.theta)[:, None]
    error = np.mean((np.asarray(data.estimate.mean) - truth) ** 2, (0, 2))
    return {
        "episodes": count,
        "mse": float(error.mean()),
        "mse_of_the_mean": float(np.mean(np.var(truth, 0))),
        "mse_by_step": error.tolist(),
    }


def load_adaptor(folder: str | Path, task: Task | None = None) -> Adaptor:
    """Load an adaptor from its folder; if ``task`` is given it must match.

    Raises:
      FileNotFoundError, ValueError: as ``load_ensemble``; if it is no adaptor.
    """
    found = load_ensemble(folder, task)
    if not found.contract.theta[0].startswith("z_"):
        raise ValueError(f"{folder} estimates {found.contract.theta}; an adaptor is needed here")
    return Adaptor(found.params, found.contract)
