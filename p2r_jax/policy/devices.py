"""One training over many devices: environments are split, networks are copied.

The program stays the one of ``ppo.py``. Its state is only laid out over a mesh of
devices (``NamedSharding``): whatever has an environment axis is split along it, all else
is replicated, and XLA adds the communication. So the mathematics is that of one device,
up to the order of sums. ``local`` takes the devices of this process, ``cluster`` those of
every process that ``jax.distributed`` finds, e.g. the tasks of a SLURM job.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
DeviceChoice = Literal["one", "local", "cluster"]
AXIS = "envs"


def join_cluster() -> None:
    """Meet the other processes; must come before anything touches a device.

    SLURM, MPI and cloud TPUs are recognised by jax; elsewhere the environment says who is
    who (``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES``, ``JAX_PROCESS_ID``).

    Raises:
      ValueError: if this process was not started as one of several; says how.
    """
    told = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    count, number = (int(value) if value else None for value in told)
    try:
        jax.distributed.initialize(num_processes=count, process_id=number)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "--devices cluster found no cluster: start one process per GPU with srun (SLURM), or "
            "set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. "
            f"jax.distributed says: {error}"
        ) from error


class Devices:
    """Where a training runs.

    Attributes:
      mesh: of all its devices, or None for a single one.
    """

    def __init__(self, choice: DeviceChoice, num_envs: int, num_minibatches: int):
        """Take the devices.

        Raises:
          ValueError: if the environments do not divide evenly among them.
        """
        if choice == "cluster" and not jax.distributed.is_initialized():
            join_cluster()
        devices = {"one": jax.local_devices()[:1], "local": jax.local_devices()}
        taken = devices.get(choice, jax.devices())
        count = len(taken)
        if num_envs % (count * num_minibatches):
            raise ValueError(
                f"ppo.num_envs {num_envs} does not divide among {count} devices x "
                f"{num_minibatches} minibatches; a multiple of {count * num_minibatches} does"
            )
        self.mesh = Mesh(np.array(taken), (AXIS,)) if choice != "one" else None

    @property
    def is_lead(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return jax.process_index() == 0

    @property
    def is_one_process(self) -> bool:
        """Whether every device belongs to this process."""
        return jax.process_count() == 1

    def lead_does(self, work: Callable[[], None]) -> None:
        """Let the first process do something; if it fails, every process stops.

        Raises:
          Whatever it raised in the first process; RuntimeError in the others.
        """
        error = None
        if self.is_lead:
            try:
                work()
            except Exception as raised:
                error = raised
        if not self.is_one_process:
            from jax.experimental import multihost_utils

            failed = np.int32(error is not None)
            if multihost_utils.broadcast_one_to_all(failed) and error is None:
                raise RuntimeError("the first process could not start the run; see its output")
        if error is not None:
            raise error

    def shardings(self, state: Tree, num_envs: int) -> Tree:
        """Of every leaf of a training state: split along a leading environment axis, or copied."""
        split = NamedSharding(self.mesh, PartitionSpec(AXIS))
        copied = NamedSharding(self.mesh, PartitionSpec())

        def of(leaf):
            return split if leaf.ndim and leaf.shape[0] == num_envs else copied

        copies = jax.tree.map(lambda _: copied, state)
        return copies.replace(env_state=jax.tree.map(of, state.env_state))

    def jit_init(self, init: Callable[..., Tree], num_envs: int, *args: Any) -> Tree:
        """``init(*args)``, its result laid out over the devices."""
        if self.mesh is None:
            return jax.jit(init)(*args)
        where = self.shardings(jax.eval_shape(init, *args), num_envs)
        return jax.jit(init, out_shardings=where)(*args)

    def jit_update(self, update: Callable, state: Tree, num_envs: int) -> Callable:
        """``update`` (state first in and first out), compiled for the state's layout."""
        if self.mesh is None:
            return jax.jit(update, donate_argnums=0)
        where = self.shardings(state, num_envs)
        return jax.jit(functools.partial(_constrained, update, where), donate_argnums=0)

    def place(self, tree: Tree, num_envs: int) -> Tree:
        """A state from disk, laid out over the devices."""
        if self.mesh is None:
            return tree
        return jax.tree.map(_put, tree, self.shardings(tree, num_envs))

    def gather(self, tree: Tree) -> Tree:
        """A state as whole arrays of this process; every process must call it."""
        return tree if self.mesh is None else jax.tree.map(_whole, tree)


def _constrained(update: Callable, where: Any, state: Any):
    new, *rest = update(state)
    return (jax.lax.with_sharding_constraint(new, where), *rest)


def _put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """The same value of every process as one array over all of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _whole(leaf: jax.Array) -> Any:
    from jax.experimental import multihost_utils

    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_whole(jax.random.key_data(leaf)))
    if leaf.is_fully_replicated or leaf.is_fully_addressable:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)
