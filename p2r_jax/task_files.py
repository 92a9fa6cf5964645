"""Tasks as folders: ``task.json`` beside the asset; reading gives back what was written.

A folder can be moved or handed on: an asset inside it is stored by its relative path.
"""

from dataclasses import asdict, replace
from pathlib import Path

from p2r_jax.files import read_record, write_json
from p2r_jax.tasks import Task
from p2r_jax.typed import read_as

TASK_FILE = "task.json"
SCHEMA_VERSION = 1


def is_task_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a task in it."""
    return (Path(path) / TASK_FILE).is_file()


def write_task(task: Task, folder: Path, made: dict | None = None) -> None:
    """Write ``folder/task.json``.

    Args:
      task: the task; its asset may lie inside ``folder``, elsewhere, or be a shipped one.
      folder: must exist.
      made: how it was made, kept beside the task and not read back.
    """
    folder = Path(folder).resolve()
    asset = Path(task.asset)
    if asset.is_dir():
        asset = asset.resolve()
        inside = asset.is_relative_to(folder)
        stored = f"./{asset.relative_to(folder)}" if inside else str(asset)
        task = replace(task, asset=stored)
    record = {"schema": SCHEMA_VERSION, "task": asdict(task), "made": made or {}}
    write_json(folder / TASK_FILE, record)


def read_task(folder: str | Path) -> Task:
    """The task in a folder, equal to the one that was written.

    Raises:
      FileNotFoundError: if there is no task, or its asset is not there.
      ValueError: for another schema, or a field that does not fit; names it.
    """
    folder = Path(folder).resolve()
    path = folder / TASK_FILE
    record = read_record(path, SCHEMA_VERSION, "`p2r task new` makes one")
    try:
        task = read_as(Task, record.get("task"), "task")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if task.asset.startswith("./"):
        task = replace(task, asset=str(folder / task.asset))
        if not Path(task.asset).is_dir():
            raise FileNotFoundError(f"{path}: there is no asset folder {task.asset}")
    return task
