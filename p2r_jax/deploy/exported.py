"""The step in forms that need none of our code: StableHLO (``jax.export``) and ONNX.

Both take ``StepInputs`` in order and by name, and answer ``StepOutputs``. Each is
compared with the step itself when it is written.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from p2r_jax.deploy.bundle import LoopSpec
from p2r_jax.deploy.controller import (
    REMEMBERED,
    StepInputs,
    StepOutputs,
    compile_for_cpu,
    empty_inputs,
    flat_step,
    step_file,
)
from p2r_jax.estimator.ensemble import Ensemble
from p2r_jax.policy.policy import Policy

PARITY = 1e-5  # largest deviation from the step: action, theta (m), sigma (m), window
EPISODES, EPISODE_STEPS = 8, 16  # of random motions that the forms are compared on
NAMES = StepInputs._fields


def write_form(
    form: str, folder: Path, spec: LoopSpec, policy: Policy, ensemble: Ensemble
) -> float:
    """Write ``step.stablehlo`` or ``step.onnx`` and load it again.

    Returns:
      its largest deviation from the step.

    Raises:
      ValueError: if that is more than ``PARITY``.
      ImportError: without the packages of the form; names the extra to install.
    """
    path = step_file(folder, form)
    WRITERS[form](path, spec, policy, ensemble)
    reference = compile_for_cpu(flat_step(policy, ensemble, spec), spec)
    deviation = parity(reference, LOADERS[form](path, spec), spec)
    if not deviation <= PARITY:
        raise ValueError(f"{path} deviates from the step by {deviation:.1e}, allowed is {PARITY}")
    return deviation


def parity(
    reference: Callable[[StepInputs], StepOutputs],
    other: Callable[[StepInputs], StepOutputs],
    spec: LoopSpec,
) -> float:
    """Largest deviation on random motions: action, theta, sigma and the window."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(EPISODES):
        inputs = random_start(spec, rng)
        for _ in range(EPISODE_STEPS):
            expected, found = reference(inputs), other(inputs)
            pairs = zip(_comparable(expected, spec), _comparable(found, spec), strict=True)
            worst = max(worst, *(float(np.abs(a - b).max()) for a, b in pairs))
            inputs = random_next(inputs, expected, rng)
    return worst


def random_start(spec: LoopSpec, rng: np.random.Generator) -> StepInputs:
    """The first step of an episode: poses in the workspace, any prior."""
    corners = np.array(spec.workspace)
    place, turn = rng.uniform(corners.min(0), corners.max(0)), rng.uniform(-np.pi, np.pi)
    k = len(spec.theta)
    return _float32(empty_inputs(spec)._replace(
        measurement=np.array([*place, turn, *(place + rng.normal(0, 0.1, 2))]),
        goal=np.array(spec.goal) + rng.normal(0, 0.05, 3),
        prior_mean=rng.normal(0, 0.03, k),
        prior_variance=10.0 ** rng.uniform(-6, -2, k),
    ))  # fmt: skip


def random_next(inputs: StepInputs, out: StepOutputs, rng: np.random.Generator) -> StepInputs:
    """The next step: the memory as it came out, an action sent, some motion."""
    motion = rng.normal(0, [0.01, 0.01, 0.1, 0.02, 0.02])
    memory = {name: getattr(out, name) for name in REMEMBERED}
    return _float32(inputs._replace(
        **memory,
        sent=rng.uniform(-1, 1, 2),
        measurement=inputs.measurement + motion,
    ))  # fmt: skip


def _float32(inputs: StepInputs) -> StepInputs:
    return StepInputs(*(np.asarray(x, np.float32) for x in inputs))


def _comparable(out: StepOutputs, spec: LoopSpec) -> tuple[np.ndarray, ...]:
    """Outputs with standard deviations in the place of variances."""
    known, k = np.array(out.known), len(spec.theta)
    for start in (2 + 2 * k, 2 + 4 * k):
        known[start : start + k] = np.sqrt(known[start : start + k])
    return known, *map(np.asarray, out[1:])


def write_stablehlo(path: Path, spec: LoopSpec, policy: Policy, ensemble: Ensemble) -> None:
    """Serialise the step with ``jax.export``, for the CPU; arguments in order."""
    step = flat_step(policy, ensemble, spec)
    exported = jax.export.export(
        jax.jit(lambda *inputs: tuple(step(StepInputs(*inputs)))), platforms=("cpu",)
    )
    path.write_bytes(exported(*empty_inputs(spec)).serialize())


def load_stablehlo(path: Path, spec: LoopSpec) -> Callable[[StepInputs], StepOutputs]:
    """Compile a serialised step."""
    call = jax.export.deserialize(bytearray(path.read_bytes())).call
    return compile_for_cpu(lambda inputs: StepOutputs(*call(*inputs)), spec)


def write_onnx(path: Path, spec: LoopSpec, policy: Policy, ensemble: Ensemble) -> None:
    """Write the step as an ONNX graph."""
    from p2r_jax.deploy.onnx_graph import step_model

    path.write_bytes(step_model(spec, policy, ensemble).SerializeToString())


def load_onnx(path: Path, spec: LoopSpec) -> Callable[[StepInputs], StepOutputs]:
    """A session of onnxruntime on one thread."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX needs onnxruntime: pip install 'p2r_jax[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [f"new_{name}" for name in StepOutputs._fields]

    def step(inputs: StepInputs) -> StepOutputs:
        return StepOutputs(*session.run(outputs, dict(zip(NAMES, inputs, strict=True))))

    return step


WRITERS = {"stablehlo": write_stablehlo, "onnx": write_onnx}
LOADERS = {"stablehlo": load_stablehlo, "onnx": load_onnx}
