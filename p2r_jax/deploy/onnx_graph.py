"""The step as an ONNX graph, written operator by operator.

A second implementation of features, window, ensemble, fusion and policy, hence also a
check of the first. Opset 17: any runtime since 2022 reads it.
"""

from collections.abc import Sequence

import numpy as np

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise ImportError("ONNX needs the package onnx: pip install 'p2r_jax[onnx]'") from error

from p2r_jax.deploy.bundle import LoopSpec
from p2r_jax.deploy.controller import StepInputs, empty_inputs
from p2r_jax.deploy.loop import EXPLORE_ABOVE, SWAY, SWAYS_PER_TURN
from p2r_jax.estimator.ensemble import LOG_VARIANCE_RANGE, Ensemble
from p2r_jax.fusion import VARIANCE_CAP, VARIANCE_FLOOR
from p2r_jax.policy.policy import Policy
from p2r_jax.sim.observation import POSITION_SCALE, REACH_SCALE

OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes and constants so far; values are named by strings."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs, **attributes) -> str:
        """Add an operator with one output; numbers and arrays become constants."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def constant(self, value) -> str:
        """A float32 constant; integer arrays stay int64 (shapes, indices)."""
        array = np.asarray(value)
        kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(kind), name))
        return name

    def cut(self, x: str, start: int, stop: int, axis: int) -> str:
        """``x[start:stop]`` along an axis."""
        bounds = (np.array([n]) for n in (start, stop, axis))
        return self.op("Slice", x, *bounds)

    def join(self, *parts: str, axis: int = -1) -> str:
        """Concatenate."""
        return self.op("Concat", *parts, axis=axis)

    def into_axes(self, cos: str, sin: str, v: str) -> str:
        """Rotate v (2 in the last axis) by minus the angle of (cos, sin)."""
        x, y = self.cut(v, 0, 1, -1), self.cut(v, 1, 2, -1)
        mul, add, sub = (lambda *a, k=k: self.op(k, *a) for k in ("Mul", "Add", "Sub"))
        return self.join(add(mul(cos, x), mul(sin, y)), sub(mul(cos, y), mul(sin, x)))

    def layers(self, x: str, kernels: Sequence, biases: Sequence) -> str:
        """A multilayer perceptron with SiLU between its layers."""
        for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            x = self.op("Add", self.op("MatMul", x, kernel), bias)
            if index < len(kernels) - 1:
                x = self.op("Mul", x, self.op("Sigmoid", x))
        return x


def step_model(spec: LoopSpec, policy: Policy, ensemble: Ensemble) -> onnx.ModelProto:
    """The whole step: ``StepInputs`` to ``StepOutputs``, by name.

    Raises:
      ValueError: for a policy, an estimator or a fusion rule that is not written out here.
    """
    _check(spec, policy, ensemble)
    g, names = Graph(), StepInputs(*StepInputs._fields)
    row = features(g, names)
    window = g.join(g.cut(names.features, 1, spec.history, 0), _as_row(g, row), axis=0)
    actions = g.join(g.cut(names.actions, 1, spec.history, 0), _as_row(g, names.sent), axis=0)
    moved = motions(g, window, actions, spec)
    estimate = moments(g, moved, ensemble)
    prior = names.prior_mean, names.prior_variance
    fused = fusion(g, prior, estimate)
    beliefs = {"given": prior, "estimate": estimate, "fused": fused}
    theta = told(g, names, spec, ensemble.contract.theta_std, beliefs)
    known = g.join(act(g, row, theta, moved, policy), theta, *estimate, *fused)
    past = {name: getattr(names, name) for name in StepInputs._fields[-2:]}  # as it was
    made = {"known": known, "features": window, "actions": actions, **past}
    return _model(g, made, spec)


def _check(spec: LoopSpec, policy: Policy, ensemble: Ensemble) -> None:
    if policy.contract.action_head != "gaussian":
        raise ValueError(
            "ONNX covers policies with a gaussian action head; this one is "
            f"{policy.contract.action_head}: export it with --stablehlo"
        )
    if policy.contract.sees_sigma:
        raise ValueError(
            "ONNX covers policies that hear theta alone; this one hears how sure it is, too: "
            "export it with --stablehlo"
        )
    contract = ensemble.contract
    if contract.network != "mlp" or contract.outline or not spec.rule.is_paper:
        raise ValueError(
            "ONNX covers MLP estimators that are not told about contact, and the paper's "
            f"fusion; this is {contract.network!r} with {spec.rule}: export it with --stablehlo"
        )


def told(g: Graph, names: StepInputs, spec: LoopSpec, std: Sequence, beliefs: dict) -> str:
    """``deploy.loop.told``; beliefs are mean and variance, ``std`` is theta's in training."""
    mean, variance = beliefs["fused" if spec.source == "explore" else spec.source]
    if spec.source != "explore":
        return mean
    limit, sigma = np.array(std), g.op("Sqrt", variance)
    turned = g.op("Mul", float(SWAYS_PER_TURN), g.cut(names.measurement, 2, 3, 0))
    phase = np.pi / 2 * np.arange(len(limit))
    aside = g.op("Mul", g.op("Min", sigma, limit), g.op("Sin", g.op("Add", turned, phase)))
    unsure = g.op("Cast", g.op("Greater", sigma, EXPLORE_ABOVE * limit), to=onnx.TensorProto.FLOAT)
    return g.op("Add", mean, g.op("Mul", SWAY, g.op("Mul", unsure, aside)))


def features(g: Graph, names: StepInputs) -> str:
    """``policy_features``."""
    xy, yaw, ee = (g.cut(names.measurement, *ends, 0) for ends in ((0, 2), (2, 3), (3, 5)))
    goal, error = g.cut(names.goal, 0, 2, 0), g.op("Sub", yaw, g.cut(names.goal, 2, 3, 0))
    cos, sin = g.op("Cos", yaw), g.op("Sin", yaw)
    parts = (
        (POSITION_SCALE, g.op("Sub", xy, goal)),
        (1.0, g.op("Cos", error)),
        (1.0, g.op("Sin", error)),
        (POSITION_SCALE, g.op("Sub", ee, goal)),
        (REACH_SCALE, g.into_axes(cos, sin, g.op("Sub", ee, xy))),
        (POSITION_SCALE, g.into_axes(cos, sin, g.op("Sub", goal, xy))),
        (1.0, names.sent),
    )
    return g.join(*(g.op("Mul", scale, part) for scale, part in parts))


def motions(g: Graph, window: str, actions: str, spec: LoopSpec) -> str:
    """``window_inputs``, as 1 x N; angles as pairs, since ONNX has no arctangent of two."""
    h = spec.history
    square = g.op("ReduceSum", g.op("Mul", *2 * [g.cut(window, 2, 4, 1)]), np.array([1]))
    exists = g.op("Cast", g.op("Greater", square, 0.5), to=onnx.TensorProto.FLOAT)
    length = g.op("Sqrt", g.op("Max", square, 1e-12))
    cos, sin = (g.op("Div", g.cut(window, i, i + 1, 1), length) for i in (2, 3))

    def before(x):
        return g.cut(x, 0, h - 1, 0)

    def after(x):
        return g.cut(x, 1, h, 0)

    def in_object(v):
        return g.into_axes(before(cos), before(sin), v)

    def step_of(start):
        place = g.cut(window, start, start + 2, 1)
        moved = g.op("Sub", after(place), before(place))
        return g.op("Div", in_object(moved), POSITION_SCALE * spec.action_scale_m)

    spin = g.op("Sub", g.op("Mul", after(sin), before(cos)), g.op("Mul", after(cos), before(sin)))
    rows = g.join(
        before(g.cut(window, 6, 8, 1)), step_of(4), in_object(after(actions)),
        g.op("Mul", step_of(0), 2.0), g.op("Div", spin, 0.15), np.ones((h - 1, 1)),
    )  # fmt: skip
    both = g.op("Mul", before(exists), after(exists))
    return g.op("Reshape", g.op("Mul", rows, both), np.array([1, -1]))


def moments(g: Graph, x: str, ensemble: Ensemble) -> tuple[str, str]:
    """Mean and variance of the ensemble, K each (Phys2Real eqs. 1-3)."""
    c, dense = ensemble.contract, ensemble.params["params"]
    k, (low, high), std = len(c.theta), LOG_VARIANCE_RANGE, np.array(c.theta_std)
    order = [dense[f"Dense_{i}"] for i in range(len(dense))]
    kernels, biases = zip(
        *((d["kernel"], np.expand_dims(d["bias"], 1)) for d in order), strict=True
    )
    out = g.layers(x, kernels, biases)  # members x 1 x 2 K
    raw = g.op("Sigmoid", g.op("Add", g.cut(out, k, 2 * k, 2), 2.7))
    log_variance = g.op("Add", g.op("Mul", raw, high - low), low)
    variances = g.op("Mul", g.op("Exp", log_variance), std**2)
    means = g.op("Add", g.op("Mul", g.cut(out, 0, k, 2), std), np.array(c.theta_mean))
    mean = g.op("ReduceMean", means, axes=[0], keepdims=0)
    off = g.op("Sub", means, mean)
    spread = g.op("ReduceMean", g.op("Mul", off, off), axes=[0], keepdims=0)
    noise = g.op("ReduceMean", variances, axes=[0], keepdims=0)
    total = g.op("Add", spread, noise)
    return tuple(g.op("Reshape", v, np.array([k])) for v in (mean, total))


def fusion(g: Graph, prior: tuple[str, str], estimate: tuple[str, str]) -> tuple[str, str]:
    """``fuse`` (Phys2Real eq. 4)."""
    a, b = (g.op("Clip", v, VARIANCE_FLOOR, VARIANCE_CAP) for v in (prior[1], estimate[1]))
    weight = g.op("Div", b, g.op("Add", a, b))
    rest = g.op("Sub", 1.0, weight)
    mean = g.op("Add", g.op("Mul", weight, prior[0]), g.op("Mul", rest, estimate[0]))
    return mean, g.op("Mul", weight, a)


def act(g: Graph, row: str, theta: str, moved: str, policy: Policy) -> str:
    """The policy's action."""
    c, hidden = policy.contract, policy.params["params"]
    scaled = g.op("Div", g.op("Sub", theta, np.array(c.theta_mean)), np.array(c.theta_std))
    if not c.sees_theta:
        scaled = g.op("Mul", scaled, 0.0)
    seen = [row, scaled]
    if c.history:
        seen.append(g.op("Reshape", moved, np.array([-1])))
    obs = g.op("Div", g.op("Sub", g.join(*seen), policy.mean), policy.std)
    order = [hidden[f"hidden_{i}"] for i in range(len(hidden))]
    out = g.layers(_as_row(g, obs), [d["kernel"] for d in order], [d["bias"] for d in order])
    loc = g.op("Reshape", g.cut(out, 0, 2, 1), np.array([2]))
    return g.op("Clip", g.op("Tanh", loc), -1.0, 1.0)


def _as_row(g: Graph, x: str) -> str:
    return g.op("Unsqueeze", x, np.array([0]))


def _model(g: Graph, made: dict[str, str], spec: LoopSpec) -> onnx.ModelProto:
    """The graph as a model; outputs are called ``new_*``, since inputs have the same names."""
    shapes = {name: x.shape for name, x in empty_inputs(spec)._asdict().items()}
    inputs = [_value(name, shape) for name, shape in shapes.items()]
    shapes["known"] = (2 + 5 * len(spec.theta),)
    outputs = []
    for name, value in made.items():
        g.nodes.append(helper.make_node("Identity", [value], [f"new_{name}"]))
        outputs.append(_value(f"new_{name}", shapes[name]))
    graph = helper.make_graph(g.nodes, "loop_step", inputs, outputs, g.constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="p2r_jax",
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(name: str, shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
