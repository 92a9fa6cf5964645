"""Watch a training for physics that blows up: count it, dump the first few episodes."""

import math
from collections import deque
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from p2r_jax.files import git_revision
from p2r_jax.sim.dump import STATES, Dump, save_dump, scene_xml
from p2r_jax.sim.training_env import UnrollRecord
from p2r_jax.tasks import Task


class BlowupWatch:
    """Counts blow-ups and writes dumps into a folder, one update behind the training.

    Records stay on the device until one is needed, and the count of an update is read
    when the next has been queued, so the training never waits for its watcher.
    """

    def __init__(self, folder: Path, task: Task, unroll_length: int, max_dumps: int):
        """Watch a training of ``task``; at most ``max_dumps`` files lie in ``folder``."""
        self._folder, self._task, self._max_dumps = folder, task, max_dumps
        self._records: deque[UnrollRecord] = deque(maxlen=math.ceil(STATES / unroll_length) + 1)
        self._unread: tuple[int, Float[Array, ""]] | None = None
        self._count = 0.0

    def add(self, update: int, count: Float[Array, ""], record: UnrollRecord) -> None:
        """One update: its number, its count of blow-ups and its record."""
        self.read()
        self._records.append(record)
        self._unread = update, count

    def read(self) -> None:
        """Look at the update added last; waits until it is done."""
        if self._unread is None:
            return
        (update, count), self._unread = self._unread, None
        self._count += float(count)
        if float(count) > 0:
            self._dump(update)

    def take_count(self) -> float:
        """Blow-ups since the last call."""
        self.read()
        count, self._count = self._count, 0.0
        return count

    def _dump(self, update: int) -> None:
        room = self._max_dumps - len(list(self._folder.glob("update_*.npz")))
        blown = np.argwhere(np.asarray(self._records[-1].blown))
        for time, env in blown[: max(room, 0)].tolist():
            path = self._folder / f"update_{update:06d}_env_{env:05d}_step_{time:03d}.npz"
            save_dump(path, last_states(self._task, list(self._records), time, env, update))
            print(f"physics blew up; its last states: {path} (film: p2r play --dump)", flush=True)


def last_states(task: Task, records: list[UnrollRecord], time: int, env: int, update: int) -> Dump:
    """The dump of ``env``, whose physics blew up at ``time`` of the last record.

    Goes back through the episode as far as the records and ``STATES`` reach.
    """
    pieces, stop = [], time + 1
    for record in reversed(records):
        ends = np.flatnonzero(np.asarray(record.done[: stop - (record is records[-1]), env]))
        begin = int(ends[-1]) + 1 if ends.size else 0
        own = (record.dynamics, record.action)
        pieces.insert(0, jax.tree.map(lambda x, b=begin, s=stop: np.asarray(x)[b:s, env], own))
        stop = record.done.shape[0]
        if ends.size:
            break
    states, actions = jax.tree.map(lambda *x: np.concatenate(x)[-STATES:], *pieces)
    episode = jax.device_get(records[-1].episode(time, env))
    physics, model = episode.physics, scene_xml(task, episode.physics)
    return Dump(
        task, physics, episode.theta_input, states, np.clip(actions, -1.0, 1.0), update, env,
        model, git_revision(),
    )  # fmt: skip
