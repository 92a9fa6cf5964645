"""Fusion of a visual prior with an interaction estimate.

``fuse`` is the paper's (Phys2Real eqs. 1-4): stateless, at every step the prior is fused
with the estimate of the current window; nothing is remembered.

The rest of the file mends what that leaves out, each on its own: ``evidence`` takes the
training prior out of an estimate, which eq. 4 counts as an observation; ``no_wider`` gives a
prior that says nothing the range of theta instead; ``remember`` accumulates what windows said,
without counting a transition once per window that it is in; ``doubting`` allows that the prior
is simply wrong. Other packages bring rules as entry points of the group
``p2r_jax.fusion_rules`` (``RULES``).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from flax import struct
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from p2r_jax.plugins import Origin, Registry, is_import_path
from p2r_jax.types import Gaussian

VARIANCE_FLOOR = 1e-12  # (1 micrometre)^2: two "certain" beliefs still have a mean
VARIANCE_CAP = 1e12
DOUBT = 0.5  # of the named rules; chosen by ``experiments/fusion_rules.py``


def ensemble_moments(
    means: Float[Array, "members *env k"], variances: Float[Array, "members *env k"]
) -> Gaussian:
    """Mean and total variance of an ensemble (eqs. 1-3).

    theta = mean_i mu_i; the variance is epistemic, mean_i (mu_i - theta)^2,
    plus aleatoric, mean_i sigma_i^2.
    """
    mean = jnp.mean(means, 0)
    epistemic = jnp.mean((means - mean) ** 2, 0)
    return Gaussian(mean, epistemic + jnp.mean(variances, 0))


def fuse(prior: Gaussian, estimate: Gaussian) -> Gaussian:
    """Inverse-variance weighting of two beliefs (eq. 4).

    Finite for every pair of variances: an infinite one contributes nothing,
    two zeros average, two infinities return the plain mean.

    >>> told = fuse(Gaussian(jnp.array(4.0), jnp.array(1.0)), Gaussian(jnp.array(6.0), jnp.inf))
    >>> float(told.mean), float(told.variance)
    (4.0, 1.0)
    """
    a = jnp.clip(prior.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    b = jnp.clip(estimate.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    weight = b / (a + b)  # = (1/a) / (1/a + 1/b), without overflow
    mean = weight * prior.mean + (1 - weight) * estimate.mean
    return Gaussian(mean, weight * a)


@struct.dataclass
class Evidence:
    """What interaction said about theta, beyond what was believed before training.

    A Gaussian likelihood in natural parameters, which add up; zeros say nothing.

    Attributes:
      precision: 1 / variance.
      information: mean / variance.
    """

    precision: Float[Array, "*env k"]
    information: Float[Array, "*env k"]

    @classmethod
    def none(cls, size: int) -> "Evidence":
        """Nothing seen yet, of ``size`` components."""
        return cls(jnp.zeros(size), jnp.zeros(size))


def evidence(estimate: Gaussian, training: Gaussian) -> Evidence:
    """The likelihood in an estimate: estimate / training prior.

    An ensemble trained by likelihood states a posterior under the distribution that theta
    was drawn from. Where it is no surer than that it saw nothing.
    """
    seen = 1 / jnp.maximum(estimate.variance, VARIANCE_FLOOR)
    before = 1 / training.variance
    precision = jnp.maximum(seen - before, 0.0)
    moved = jnp.where(precision > 0, seen * estimate.mean - before * training.mean, 0.0)
    return Evidence(precision, moved)


def remember(past: Evidence, window: Evidence, history: int) -> Evidence:
    """Add a window's evidence to what is remembered.

    A transition is in ``history`` - 1 consecutive windows, so a window counts as one part
    in so many: over its life a transition counts once.
    """
    share = 1.0 / (history - 1)
    return Evidence(
        past.precision + share * window.precision, past.information + share * window.information
    )


def at_least(seen: Evidence, sigma: float) -> Evidence:
    """Evidence no surer than ``sigma``: what all windows share, no number of them removes."""
    share = jnp.minimum(1.0, 1 / (sigma**2 * jnp.maximum(seen.precision, VARIANCE_FLOOR)))
    return Evidence(share * seen.precision, share * seen.information)


def no_wider(prior: Gaussian, training: Gaussian) -> Gaussian:
    """A prior that knows the range of theta: what it lacks in precision, training supplies.

    A prior surer than the training distribution stays as it is; one that says nothing
    becomes it. Without this a first trace of evidence could send the belief anywhere.
    """
    told = 1 / jnp.clip(prior.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    lacking = jnp.maximum(1 / training.variance - told, 0.0)
    total = told + lacking
    return Gaussian((told * prior.mean + lacking * training.mean) / total, 1 / total)


def update(prior: Gaussian, seen: Evidence) -> Gaussian:
    """Bayes' rule: ``prior`` times the likelihood in ``seen``."""
    precision = 1 / jnp.clip(prior.variance, VARIANCE_FLOOR, VARIANCE_CAP)
    total = precision + seen.precision
    return Gaussian((precision * prior.mean + seen.information) / total, 1 / total)


def doubting(prior: Gaussian, training: Gaussian, seen: Evidence, doubt: float) -> Gaussian:
    """Bayes' rule for a prior that is wrong with probability ``doubt``.

    Wrong means that theta is drawn from the training distribution, whatever the prior says.
    Each component of theta is a mixture of two Gaussians, weighed by how well they
    predicted ``seen``; returned are its mean and variance.

    Args:
      prior: vision's belief.
      training: distribution of theta in training.
      seen: from interaction.
      doubt: in (0, 1).
    """
    told, alone = update(prior, seen), update(training, seen)
    # likelihood of the evidence under each, up to what both share
    where = seen.information / jnp.maximum(seen.precision, VARIANCE_FLOOR)
    spread = 1 / jnp.maximum(seen.precision, VARIANCE_FLOOR)
    log_told = norm.logpdf(where, prior.mean, jnp.sqrt(prior.variance + spread))
    log_alone = norm.logpdf(where, training.mean, jnp.sqrt(training.variance + spread))
    odds = jnp.log(doubt / (1 - doubt)) + log_alone - log_told
    wrong = jnp.where(seen.precision > 0, 1 / (1 + jnp.exp(-odds)), doubt)
    mean = (1 - wrong) * told.mean + wrong * alone.mean
    second = (1 - wrong) * (told.variance + told.mean**2) + wrong * (alone.variance + alone.mean**2)
    return Gaussian(mean, jnp.maximum(second - mean**2, VARIANCE_FLOOR))


@dataclass(frozen=True)
class FusionRule:
    """How prior and estimate become one belief; the default is the paper's eq. 4.

    Attributes:
      evidence: take the training prior out of the estimate before it counts.
      remember: accumulate evidence through the episode (implies ``evidence``).
      floor: remembered evidence is no surer than this, in standard deviations of theta
        in training.
      doubt: probability that the prior is wrong altogether (implies ``evidence``).
      function: import path of a function with the signature of ``believe`` that decides
        instead; of the other settings only ``remember`` then has a meaning: without it
        ``past`` is None.
    """

    evidence: bool = False
    remember: bool = False
    floor: float = 0.15
    doubt: float = 0.0
    function: str = ""

    def __post_init__(self):
        if not (0 <= self.doubt < 1 and self.floor > 0):
            raise ValueError(f"{self}: doubt lies in [0, 1), floor is positive")
        if self.function and not is_import_path(self.function):
            raise ValueError(f"{self}: function is an import path, such as my_package.rules:mine")
        if self.function and (self.evidence or self.doubt):
            raise ValueError(f"{self}: with a function, evidence and doubt have no meaning")

    @property
    def is_paper(self) -> bool:
        """Whether this is eq. 4."""
        return self == FusionRule(floor=self.floor)

    def believe(
        self,
        prior: Gaussian,
        estimate: Gaussian,
        training: Gaussian,
        past: Evidence | None,
        history: int,
    ) -> tuple[Gaussian, Evidence | None]:
        """The belief at a step, and what to remember.

        Args:
          prior: vision's.
          estimate: of the current window.
          training: distribution of theta in training.
          past: what is remembered; only ``remember`` looks at it.
          history: rows of a window.

        Raises:
          PluginError: if ``function`` cannot be imported, or returns something else.
        """
        if self.function:
            return _ask(self.function, prior, estimate, training, past, history)
        if self.is_paper:
            return fuse(prior, estimate), past
        prior, seen = no_wider(prior, training), evidence(estimate, training)
        if self.remember:
            past = remember(past, seen, history)
            seen = _surer(at_least(past, self.floor * jnp.sqrt(training.variance)), seen)
        if self.doubt:
            return doubting(prior, training, seen, self.doubt), past
        return update(prior, seen), past


def _from_outside(item: "FusionRule | Callable", origin: Origin) -> FusionRule:
    """A rule of another package: its settings, or the function that decides."""
    if isinstance(item, FusionRule):
        return item
    if not callable(item):
        raise origin.failure("it is neither a FusionRule nor a function")
    return FusionRule(function=origin.path)


PAPER = FusionRule()
RULES = Registry(
    ("no fusion rule", "rules"),
    "p2r_jax.fusion_rules",
    {
        "paper": PAPER,
        "evidence": FusionRule(evidence=True),
        "doubt": FusionRule(doubt=DOUBT),
        "remember": FusionRule(remember=True),
        "remember-doubt": FusionRule(remember=True, doubt=DOUBT),
    },
    _from_outside,
)


def rule_named(name: str | None) -> FusionRule:
    """A rule by name, the paper's for None; an unknown one raises KeyError with all names."""
    return RULES[name] if name else PAPER


def _ask(path: str, *args) -> tuple[Gaussian, Evidence | None]:
    """What a rule's function says."""
    origin = Origin(path)
    answer = origin.load()(*args)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], Gaussian)):
        raise origin.failure(f"it returns a {type(answer).__name__}, not (Gaussian, past)")
    return answer


def _surer(a: Evidence, b: Evidence) -> Evidence:
    """Per component the one of higher precision."""
    first = a.precision >= b.precision
    return Evidence(
        jnp.where(first, a.precision, b.precision), jnp.where(first, a.information, b.information)
    )
