"""Outcomes kept in a JSON file as they come: a killed experiment goes on where it was."""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2r_jax.evaluation.methods import Checkpoints, load_checkpoints
from p2r_jax.files import new_folder, provenance, write_json
from p2r_jax.tasks import Task


@dataclass(frozen=True)
class CellsConfig:
    """What every experiment made of cells is told.

    Attributes:
      out: folder of the experiment.
      task: registered task.
      seeds: training seeds.
      checkpoints: holds ``TASK/seed-N``.
      publish: copy what the documentation is made from to ``experiments/results``.
      overwrite: forget the cells that are there.
    """

    out: Path
    task: str = "push_tblock_plus"
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoints: Path = Path(__file__).parent / "checkpoints"
    publish: bool = False
    overwrite: bool = False

    def of_seed(self, seed: int) -> Path:
        """Where what a training seed made lies."""
        return self.checkpoints / self.task / f"seed-{seed}"

    def load(self, seed: int, task: Task, methods: Sequence[str]) -> Checkpoints:
        """What the named methods need of a training seed."""
        return load_checkpoints(self.of_seed(seed), task, methods)


def refuse_other_settings(
    holder: Path, what: str, before: dict, settings: dict, fix: str = "pass --overwrite"
) -> None:
    """Raise ValueError, naming the first setting that differs, if ``what`` was made otherwise."""
    for name, value in settings.items():
        if before.get(name) != value:
            choices = " or ".join(("choose another --out", *([fix] if fix else ())))
            raise ValueError(
                f"{holder} holds {what} with {name} = {before.get(name)}, not {value}; {choices}"
            )


class Cells:
    """The cells of one experiment, each found once; one process at a time.

    Attributes:
      path: ``NAME.json`` in the experiment's folder.
      found: the cells so far, in the order in which they were found.
    """

    def __init__(self, path: Path, settings: dict, key: Sequence[str], overwrite: bool = False):
        """Read what is there.

        Args:
          path: of the file; its folder is made.
          settings: what every cell depends on besides its key; JSON types.
          key: fields that tell the cells apart.
          overwrite: forget the cells that are there.

        Raises:
          ValueError: if the file's cells were made with other settings.
          FileExistsError: if the folder holds something, but not this experiment.
        """
        self.path, self._key = path, tuple(key)
        self._settings = json.loads(json.dumps(settings))
        self.found: list[dict] = []
        keep = path.is_file() and not overwrite
        if keep:
            self.found = self._read()
        new_folder(path.parent, overwrite=keep or overwrite)
        self._done = {self._name(cell) for cell in self.found}
        if not keep:  # whatever else comes into the folder, the next start knows it
            self.write()

    def __contains__(self, key: tuple[Hashable, ...]) -> bool:
        """Whether the cell with these values of ``key`` was found."""
        return key in self._done

    def add(self, cell: dict) -> None:
        """Keep one more cell, on disk at once."""
        self.found.append(cell)
        self._done.add(self._name(cell))
        self.write()

    def write(self, **summary) -> dict:
        """Write settings, ``summary``, cells and provenance; returns all but the cells."""
        record = self._settings | summary | {"provenance": provenance()}
        write_json(self.path, record | {"cells": self.found})
        return record

    def _name(self, cell: dict) -> tuple[Hashable, ...]:
        return tuple(cell[field] for field in self._key)

    def _read(self) -> list[dict]:
        record = json.loads(self.path.read_text())
        refuse_other_settings(self.path, "cells", record, self._settings)
        return record["cells"]
