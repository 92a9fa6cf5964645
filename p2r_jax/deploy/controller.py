"""The compiled step: one call from a measurement to an action and everything known.

Compiled ahead of time and warmed before any robot is connected. The networks are
constants of the program; the memory stays on the device from step to step, and one small
array comes back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.deploy.bundle import LoopSpec, RobotBundle
from p2r_jax.deploy.loop import Bundle, Memory, loop_step
from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.fusion import Evidence
from p2r_jax.policy.policy import Policy
from p2r_jax.sim.window import Window
from p2r_jax.types import Gaussian, Measurement, PlanarPose

Form = Literal["jax", "stablehlo", "onnx"]
BELIEFS = ("estimate", "fused")
FORM_FILES = {"stablehlo": "step.stablehlo", "onnx": "step.onnx"}


class StepInputs(NamedTuple):
    """Arguments of a flat step, float32.

    Attributes:
      features, actions: the window, oldest row first, H x F and H x 2.
      sent: action that was really sent last, 2.
      measurement: object x, y, yaw and tip x, y: 5.
      goal: x, y, yaw.
      prior_mean, prior_variance: K each.
      past_precision, past_information: evidence so far, K each; zeros where the fusion
        rule remembers nothing.
    """

    features: Float[Array, "h f"]
    actions: Float[Array, "h 2"]
    sent: Float[Array, " 2"]
    measurement: Float[Array, " 5"]
    goal: Float[Array, " 3"]
    prior_mean: Float[Array, " k"]
    prior_variance: Float[Array, " k"]
    past_precision: Float[Array, " k"]
    past_information: Float[Array, " k"]


class StepOutputs(NamedTuple):
    """Results of a flat step.

    Attributes:
      known: action, theta told to the policy, then mean and variance of the estimate and
        of the fused belief: 2 + 5 K.
      features, actions, past_precision, past_information: the memory after the step.
    """

    known: Float[Array, " n"]
    features: Float[Array, "h f"]
    actions: Float[Array, "h 2"]
    past_precision: Float[Array, " k"]
    past_information: Float[Array, " k"]


REMEMBERED = StepOutputs._fields[1:]  # which the next step's inputs have under the same name


class Decision(NamedTuple):
    """What a step says, in plain floats; beliefs as mean and standard deviation."""

    action: tuple[float, float]
    theta: tuple[float, ...]
    estimate_mean: tuple[float, ...]
    estimate_sigma: tuple[float, ...]
    fused_mean: tuple[float, ...]
    fused_sigma: tuple[float, ...]


def flat_step(policy: Policy, ensemble: Ensemble, spec: LoopSpec) -> Callable:
    """``loop_step`` as a function of ``StepInputs``, fit for ``jit`` and ``jax.export``."""

    def step(inputs: StepInputs) -> StepOutputs:
        prior = Gaussian(inputs.prior_mean, inputs.prior_variance)
        goal = PlanarPose(inputs.goal[:2], inputs.goal[2])
        seen = inputs.measurement
        before = Evidence(inputs.past_precision, inputs.past_information)
        window = Window(inputs.features, inputs.actions)
        action, memory, found = loop_step(
            Bundle(policy, ensemble, prior, goal, spec.source, spec.rule),
            Memory(window, inputs.sent, before if spec.rule.remember else None),
            Measurement(PlanarPose(seen[:2], seen[2]), seen[3:]),
        )
        beliefs = [getattr(found, name) for name in BELIEFS]
        parts = [action, found.theta, *(x for b in beliefs for x in (b.mean, b.variance))]
        known, window, past = jnp.concatenate(parts), memory.window, memory.past or before
        return StepOutputs(known, window.features, window.actions, past.precision, past.information)

    return step


def empty_inputs(spec: LoopSpec) -> StepInputs:
    """Zeros in the shapes of a step."""
    k, h = len(spec.theta), spec.history
    shapes = ((h, len(spec.features)), (h, 2), (2,), (5,), (3,), *4 * ((k,),))
    return StepInputs(*(np.zeros(shape, np.float32) for shape in shapes))


class Controller:
    """A bundle's step with its memory, compiled and warm.

    Attributes:
      bundle: what runs; ``spec`` is the loop's part of it.
      goal: x, y, yaw.
      prior_mean, prior_sigma: vision's belief, K each.
    """

    def __init__(
        self,
        bundle: RobotBundle,
        prior: Gaussian,
        goal: tuple[float, float, float] | None = None,
        form: Form = "jax",
    ):
        """Compile and call once.

        Args:
          bundle: what runs.
          prior: vision's belief about theta.
          goal: of the object; default the bundle's.
          form: the program to run: compiled here, or one that the bundle brings along.

        Raises:
          FileNotFoundError: if the bundle was exported without that form.
        """
        self.bundle, self.spec, self.goal = bundle, bundle.spec, goal or bundle.spec.goal
        mean, variance = (np.asarray(x, np.float32) for x in (prior.mean, prior.variance))
        self.prior_mean = tuple(map(float, mean))
        self.prior_sigma = tuple(map(float, np.sqrt(variance)))
        self._blank = empty_inputs(self.spec)._replace(
            goal=np.array(self.goal, np.float32), prior_mean=mean, prior_variance=variance
        )
        self._step = compile_step(bundle, form)
        self.forget()
        for _ in range(3):
            self.propose((0.0,) * 3, (0.0, 0.0))

    def forget(self) -> None:
        """Empty the window, as at the start of an episode."""
        self._state = self._next = self._blank

    def propose(self, pose: tuple[float, float, float], ee: tuple[float, float]) -> Decision:
        """The step on a measurement; ``commit`` makes it count, else it is forgotten."""
        inputs = self._state._replace(measurement=np.array([*pose, *ee], np.float32))
        out = self._step(inputs)
        known, *memory = out
        self._next = self._state._replace(**dict(zip(REMEMBERED, memory, strict=True)))
        return unpack(np.asarray(known), len(self.spec.theta))

    def commit(self, sent: tuple[float, float]) -> None:
        """The proposed step happened, and this action was really sent."""
        self._state = self._next._replace(sent=np.array(sent, np.float32))


def unpack(known: Float[np.ndarray, " n"], k: int) -> Decision:
    """``StepOutputs.known`` with names."""
    values = known.tolist()
    action, rest = tuple(values[:2]), values[2:]
    theta, est_mean, est_var, fused_mean, fused_var = (
        tuple(rest[i * k : (i + 1) * k]) for i in range(5)
    )
    return Decision(action, theta, est_mean, _roots(est_var), fused_mean, _roots(fused_var))


def compile_step(bundle: RobotBundle, form: Form = "jax") -> Callable[[StepInputs], StepOutputs]:
    """The step as a program for the CPU; FileNotFoundError if the bundle lacks the form."""
    if form == "jax":
        return compile_for_cpu(flat_step(bundle.policy, bundle.ensemble, bundle.spec), bundle.spec)
    path = bundle.folder / FORM_FILES[form]
    if not path.is_file():
        raise FileNotFoundError(f"{bundle.folder} holds no {path.name}; export it with --{form}")
    from p2r_jax.deploy import exported

    return exported.LOADERS[form](path, bundle.spec)


def compile_for_cpu(step: Callable, spec: LoopSpec) -> Callable[[StepInputs], StepOutputs]:
    """Compile a flat step ahead of time; the CPU answers sooner than any accelerator."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.jit(step).lower(empty_inputs(spec)).compile()


def answer_promptly() -> None:
    """Let the CPU compute in the thread that asks, instead of waking another one.

    To be called before JAX is used: afterwards it has no effect.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def step_file(folder: Path, form: str) -> Path:
    """Where a bundle keeps an exported form."""
    return folder / FORM_FILES[form]


def _roots(variances: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(v**0.5 if v >= 0 else float("nan") for v in variances)
