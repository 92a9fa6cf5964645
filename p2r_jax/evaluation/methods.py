"""What is compared, by name: which policy, told which theta, in which conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from p2r_jax.deploy.loop import Bundle, ThetaSource
from p2r_jax.estimator.adaptor import Adaptor, load_adaptor
from p2r_jax.estimator.ensemble import Ensemble, EstimatorContract, init_ensemble, load_ensemble
from p2r_jax.estimator.online import window_sysid
from p2r_jax.files import git_revision
from p2r_jax.fusion import RULES, rule_named
from p2r_jax.plugins import is_import_path
from p2r_jax.policy.latent import Encoder, latent_names, load_encoder
from p2r_jax.policy.policy import Phase, Policy, load_policy
from p2r_jax.prior.prior import Prior, gaussian_for
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.observation import FEATURES
from p2r_jax.tasks import Task
from p2r_jax.types import Gaussian, PhysicsParams, PlanarPose

CHECKPOINT_ROOT = Path(__file__).parent.parent / "checkpoints"
ESTIMATOR = "estimator"  # folder of the ensemble, beside those of the policies
ADAPTOR = "adaptor"


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
      policy: folder of its policy, named after its phase of training.
      source: which theta the loop tells the policy.
      given: what stands for the loop's prior: vision's ``prior``, the ``truth``,
        the ``training-mean`` (a policy that never sees theta) or the ``encoding`` of the
        true physics.
      text: one line for a legend.
      estimator: what reads the window: the trained ``ensemble``, ``sysid``, or the ``adaptor``
        of a latent policy.
      rule: how prior and estimate are fused, a name of ``fusion.RULES``; None is the task's.
    """

    policy: Phase
    source: ThetaSource
    given: Literal["prior", "truth", "training-mean", "encoding"]
    text: str
    estimator: Literal["ensemble", "sysid", "adaptor"] = "ensemble"
    rule: str | None = None


METHODS: dict[str, Method] = {
    "privileged": Method("privileged", "given", "truth", "privileged policy, true theta"),
    "privileged-noisy": Method("noisy", "given", "truth", "noisy policy, true theta"),
    "fused": Method("noisy", "fused", "prior", "noisy policy, prior fused with interaction"),
    "vlm-only": Method("noisy", "given", "prior", "noisy policy, prior alone"),
    "rma-only": Method("noisy", "estimate", "prior", "noisy policy, interaction alone"),
    "dr": Method("dr", "given", "training-mean", "policy that never sees theta"),
}
OTHER_METHODS: dict[str, Method] = {  # run by name; no row of the published table
    "belief": Method("belief", "fused", "prior", "policy told the fused theta and its sigma"),
    "belief-prior": Method("belief", "given", "prior", "policy told the prior and its sigma"),
    "belief-estimate": Method(
        "belief", "estimate", "prior", "policy told the estimate and its sigma"
    ),
    "belief-truth": Method("belief", "given", "truth", "policy told the truth as certain"),
    "dr-history": Method(
        "dr-history", "given", "training-mean", "policy that sees the window, never theta"
    ),
    "dr-recurrent": Method(
        "dr-recurrent", "given", "training-mean", "policy with a memory that never sees theta"
    ),
    "rma-latent": Method(
        "latent",
        "estimate",
        "prior",
        "latent policy, encoding from interaction",
        "adaptor",
        rule="paper",
    ),
    "latent-privileged": Method(
        "latent", "given", "encoding", "latent policy, true encoding", rule="paper"
    ),
    "sysid-fused": Method(
        "noisy", "fused", "prior", "noisy policy, prior fused with identification", "sysid"
    ),
    "fused-explore": Method(
        "noisy", "explore", "prior", "noisy policy, fused belief displaced until it is sure"
    ),
    "sysid-only": Method("noisy", "estimate", "prior", "noisy policy, identification", "sysid"),
}


def _fused_by(rule: str) -> Method:
    return Method("noisy", "fused", "prior", f"noisy policy, fused by the rule {rule!r}", rule=rule)


OTHER_METHODS |= {f"fused-{rule}": _fused_by(rule) for rule in RULES}
REFERENCE = "privileged"  # what the others are compared with, trial by trial


@dataclass(frozen=True)
class Condition:
    """An object to push and where its prior comes from.

    Attributes:
      weight_x_m: position of the weight on the object's +x; None is the bare object.
      prior: name or file for ``prior.load_prior``.
      asset: the object it is about; None for any.
      com_x_m: centre of mass on the object's x axis, of an object without a weight; the mass
        distribution moves there as a whole.
    """

    weight_x_m: float | None
    prior: str
    asset: str | None = "tblock"
    com_x_m: float | None = None

    def mass_properties(self, asset: Asset) -> tuple:
        """Mass, centre of mass and inertia; another object than ``asset`` raises ValueError."""
        if self.asset not in (None, asset.name):
            raise ValueError(
                f"condition {self} is about {self.asset!r}, the task pushes {asset.name!r}"
            )
        if self.com_x_m is not None:
            return asset.with_com((self.com_x_m, 0.0))
        return asset.with_weight(self.weight_x_m)


CONDITIONS: dict[str, Condition] = {
    "top": Condition(0.095, "paper-top"),
    "bottom": Condition(-0.065, "paper-bottom"),
    "bare": Condition(None, "heuristic", asset=None),
    "middle": Condition(0.0, "heuristic"),
    # the paper does not say where its hammer's mass is: ours is off by the prior's sigma
    "hammer": Condition(None, "paper-hammer", "hammer", com_x_m=0.077),
}
TABLE_IV = ("6-1", "4-2", "2-4", "0-6", "-2-8")  # mean and sigma of the prior, cm
CONDITIONS |= {f"top-prior-{x}": Condition(0.095, f"paper-iv-{x}") for x in TABLE_IV}


def method(name: str) -> Method:
    """A method by name; an unknown one raises KeyError that lists what exists.

    ``fused-package.module:rule`` fuses by a rule of another package.
    """
    known = METHODS | OTHER_METHODS
    if (rule := name.removeprefix("fused-")) != name and is_import_path(rule):
        return _fused_by(rule)
    if name not in known:
        raise KeyError(f"no method {name!r} (methods: {', '.join(known)})")
    return known[name]


def condition(name: str) -> Condition:
    """A condition by name; an unknown one raises KeyError that lists what exists."""
    if name not in CONDITIONS:
        raise KeyError(f"no condition {name!r} (conditions: {', '.join(CONDITIONS)})")
    return CONDITIONS[name]


def condition_title(name: str) -> str:
    """A condition in the words of a figure."""
    return name if condition(name).weight_x_m is None else f"weight at {name}"


@dataclass(frozen=True)
class Checkpoints:
    """What was trained.

    Attributes:
      policies: by folder name.
      ensemble: the estimator, ``uninformed_ensemble`` if none was needed or there.
      informed: whether ``ensemble`` was trained.
      encoder, adaptor: of the latent policy; None if no method needs them.
    """

    policies: Mapping[str, Policy]
    ensemble: Ensemble
    informed: bool = True
    encoder: Encoder | None = None
    adaptor: Adaptor | None = None


def load_checkpoints(root: Path | None, task: Task, methods: Sequence[str]) -> Checkpoints:
    """What the named methods need, from ``root/{privileged,noisy,dr,estimator}``.

    Args:
      root: folder; None is the shipped one of the task.
      task: every checkpoint must have been trained on it.
      methods: names; a method that does not estimate runs without an estimator.

    Raises:
      FileNotFoundError: naming the folder that is missing.
      ValueError: for a checkpoint of another task, phase, action scale or period.
    """
    root = root or CHECKPOINT_ROOT / task.name
    chosen = [method(name) for name in methods]
    policies: dict[str, Policy] = {}
    for folder in sorted({m.policy for m in chosen}):
        policies[folder] = load_policy(root / folder, task)
        check_contract(policies[folder], folder, task)
    latent = {}
    if any(m.given == "encoding" for m in chosen):
        latent["encoder"] = load_encoder(root / "latent", task)
    if any(m.estimator == "adaptor" for m in chosen):
        latent["adaptor"] = load_adaptor(root / ADAPTOR, task)
    needs_estimate = any(m.source != "given" and m.estimator == "ensemble" for m in chosen)
    if needs_estimate or (root / ESTIMATOR / "estimator.json").is_file():
        return Checkpoints(policies, load_ensemble(root / ESTIMATOR, task), **latent)
    return Checkpoints(policies, uninformed_ensemble(task), informed=False, **latent)


def check_contract(policy: Policy, phase: str, task: Task) -> None:
    """Raise ValueError, naming both sides, if the policy is not for this use."""
    wanted = {"phase": phase, "action_scale_m": task.action_scale_m,
              "control_period_s": task.control_period_s,
              "theta": latent_names() if phase == "latent" else tuple(t.name for t in task.theta)
              }  # fmt: skip
    for name, value in wanted.items():
        found = getattr(policy.contract, name)
        if found != value:
            raise ValueError(f"policy has {name} = {found!r}, {value!r} is needed here")


def uninformed_ensemble(task: Task) -> Ensemble:
    """An estimator that answers the training prior to every window: its weights are zero."""
    contract = EstimatorContract(
        task=task.name, features=FEATURES, theta=tuple(t.name for t in task.theta),
        theta_mean=tuple(t.mean for t in task.theta), theta_std=tuple(t.std for t in task.theta),
        history=task.history, members=1, layers=(1,), action_scale_m=task.action_scale_m,
        git=git_revision(),
    )  # fmt: skip
    ensemble = init_ensemble(contract, jax.random.key(0))
    return ensemble.replace(params=jax.tree.map(jnp.zeros_like, ensemble.params))


def make_bundle(
    name: str,
    checkpoints: Checkpoints,
    task: Task,
    prior: Prior | Gaussian,
    theta: Float[np.ndarray, "n k"],
    physics: PhysicsParams | None = None,
) -> Bundle:
    """The bundle of a method for N trials.

    Args:
      name: of the method.
      checkpoints: with the policy of the method.
      task: goal and training mean.
      prior: vision's belief, Float[K]; a ``Prior`` about another object, axis or unit
        raises ValueError.
      theta: the truth per trial; only privileged methods look at it.
      physics: all of the truth per trial, for the method that is told its encoding.
    """
    chosen = method(name)
    prior = gaussian_for(prior, task)
    truth = jnp.asarray(theta, jnp.float32)
    if chosen.given == "encoding":
        truth = checkpoints.encoder(physics)
    given = {
        "prior": prior,
        "truth": Gaussian(truth, jnp.zeros_like(truth)),
        "training-mean": Gaussian(jnp.array(task.theta_mean), jnp.array(task.theta_std) ** 2),
        "encoding": Gaussian(truth, jnp.zeros_like(truth)),
    }[chosen.given]
    estimators = {
        "ensemble": lambda: checkpoints.ensemble,
        "sysid": lambda: window_sysid(task),
        "adaptor": lambda: checkpoints.adaptor,
    }
    layout = task.layout
    return Bundle(
        policy=checkpoints.policies[chosen.policy],
        ensemble=estimators[chosen.estimator](),
        prior=jax.tree.map(lambda x: jnp.broadcast_to(x, truth.shape), given),
        goal=PlanarPose(jnp.array(layout.goal_xy), jnp.array(layout.goal_yaw_rad)),
        source=chosen.source,
        rule=rule_named(chosen.rule or task.fusion_rule),
    )
