"""The end of an episode that blew up, as one file: written in training, looked at later.

    p2r play --dump runs/train/privileged/blowups/update_000012_env_00345.npz --out seen.mp4

The file is a plain npz: ``states/*`` and ``actions`` (what the dynamics were in and what
was sent, oldest first), ``physics/*``, ``theta_input``, and ``meta``, JSON with the whole
task, the scene as MJCF and where in the training it happened.
"""

import io
import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Float

from p2r_jax.files import write_atomic
from p2r_jax.sim.health import blowups
from p2r_jax.sim.mjcf import SceneOptions, push_spec
from p2r_jax.sim.push import PushEnv, make_dynamics
from p2r_jax.tasks import Task
from p2r_jax.types import PhysicsParams, PlanarPose

SCHEMA_VERSION = 1
STATES = 100  # at most, before the blow-up


@dataclass(frozen=True)
class Dump:
    """The last states of an episode, up to the action that blew up.

    Attributes:
      task: as it was trained on.
      physics: of the episode.
      theta_input: theta as the policy saw it.
      states: of the dynamics before each action, oldest first; leaves [n, ...], n <=
        ``STATES``, fewer when the episode was younger.
      actions: sent in these states, in [-1, 1]; the last one blew up.
      update, env: where in the training it happened.
      model: the scene as MJCF text, with the object's own mass and CoM.
      git: revision that wrote it.
    """

    task: Task
    physics: PhysicsParams
    theta_input: Float[np.ndarray, " k"]
    states: Any
    actions: Float[np.ndarray, "n 2"]
    update: int
    env: int
    model: str
    git: str


@dataclass(frozen=True)
class Replay:
    """What simulating a dump again shows.

    Attributes:
      deviation: largest difference between a recorded state and one action from the
        recorded state before it (positions in m, angles in rad); NaN if there is no pair.
      reasons: what is wrong after the last action; empty if nothing is.
      after: state of the dynamics after the last action.
    """

    deviation: float
    reasons: tuple[str, ...]
    after: Any


def scene_xml(task: Task, physics: PhysicsParams) -> str:
    """The scene as MJCF, on the support points of an episode."""
    spec = push_spec(
        task.object, np.asarray(physics.support), task.pusher_radius_m, SceneOptions(), servo=None
    )
    spec.compile()
    return spec.to_xml()


def save_dump(path: Path, dump: Dump) -> None:
    """Write a dump; the folder is made."""
    trees = {"states": dump.states, "physics": dump.physics}
    arrays = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(trees), sep="/")
    meta = {"schema": SCHEMA_VERSION, "kind": "blowup", "task": asdict(dump.task)}
    meta |= {name: getattr(dump, name) for name in ("update", "env", "model", "git")}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        meta=json.dumps(meta),
        actions=dump.actions,
        theta_input=dump.theta_input,
        **jax.device_get(arrays),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def load_dump(path: Path) -> Dump:
    """Read what ``save_dump`` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not such a dump.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        meta = json.loads(str(arrays.pop("meta")))
        if (meta["kind"], meta["schema"]) != ("blowup", SCHEMA_VERSION):
            raise ValueError(f"kind {meta['kind']}, schema {meta['schema']}")
        task = _from_record(Task, meta["task"])
        trees = flax.traverse_util.unflatten_dict(arrays, sep="/")
        states = flax.serialization.from_state_dict(_state_like(task), trees["states"])
        physics = PhysicsParams(**trees["physics"])
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} is no blow-up dump of schema {SCHEMA_VERSION}: {error}"
        ) from error
    return Dump(
        task, physics, arrays["theta_input"], states, arrays["actions"],
        *(meta[name] for name in ("update", "env", "model", "git")),
    )  # fmt: skip


def replay(dump: Dump, env: PushEnv | None = None) -> Replay:
    """Take every recorded action again from its recorded state.

    One action at a time, since a pushed object amplifies the last bit of rounding that
    two compiled programs differ in.

    Args:
      dump: as loaded.
      env: whose dynamics to use; by default those of the dump's task.
    """
    env = env or PushEnv(dump.task, training=False)

    @jax.jit
    @jax.vmap
    def act(state, action):
        target = env.pusher_target(state, action)
        return env.dynamics.advance(dump.physics, env.dynamics.derive(dump.physics), state, target)

    after = jax.device_get(act(dump.states, dump.actions))
    last = jax.tree.map(lambda x: x[-1], after)
    wrong = blowups(last, dump.physics, dump.task.layout)
    pairs = zip(*(jax.tree.leaves((s.pose, s.ee_xy)) for s in (after, dump.states)), strict=True)
    differences = [np.abs(a[:-1] - b[1:]).ravel() for a, b in pairs]
    apart = np.concatenate(differences)
    return Replay(
        float(apart.max()) if apart.size else float("nan"),
        tuple(reason for reason, holds in wrong.items() if bool(holds)),
        last,
    )


def _state_like(task: Task) -> Any:
    """Structure of a state of the task's dynamics."""
    numbers = jax.ShapeDtypeStruct((2,), np.float32), jax.ShapeDtypeStruct((), np.float32)
    return jax.eval_shape(make_dynamics(task).init, PlanarPose(*numbers), numbers[0])


def _from_record(kind: Any, value: Any) -> Any:
    """The inverse of ``asdict`` and JSON for nested dataclasses, tuples and ``... | None``."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)} & set(value)
        return kind(**{name: _from_record(hints[name], value[name]) for name in known})
    if isinstance(value, list):
        return tuple(_from_record(get_args(kind)[0], x) for x in value)
    return value
