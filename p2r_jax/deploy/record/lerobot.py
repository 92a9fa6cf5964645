"""Runs as a LeRobot dataset, format v3.0, for whatever trains on or looks at those.

One run is one episode. ``timestamp`` is the nominal ``frame / fps`` that the format looks
videos up by; when a step really began is ``p2r.stamp_s``. What a policy of theirs would
read (``observation.*``, ``action``) is in metres and radians; all else that the loop knew
is under ``p2r.``. What was not known stays NaN and is left out of the statistics. The
video is not from a camera: it is the table from above as the tracker saw it.

Layout::

    data/chunk-000/file-000.parquet            every frame of every episode, in order
    meta/info.json, stats.json, tasks.parquet
    meta/episodes/chunk-000/file-000.parquet   where each episode is, and its statistics
    videos/observation.images.top/chunk-000/file-000.mp4, file-001.mp4, ...
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from p2r_jax.deploy.protocols import EE_KEYS
from p2r_jax.deploy.record.codec import RunError, to_json
from p2r_jax.deploy.record.mcap import Run
from p2r_jax.files import new_folder, write_json
from p2r_jax.film import write_mp4

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
CAMERA = "observation.images.top"
VIDEO_SIZE = (320, 240)
VIDEO_QUALITY, KEYFRAMES = 23, 2
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
STILLS, STILL_STRIDE = 100, 4  # of a video, for its statistics
POSE_NAMES = ("x", "y", "yaw")
AXES = ("x", "y")
VECTORS = {  # name in the dataset: field of a step, names of its entries (None: theta's)
    "observation.state": ("ee_xy", EE_KEYS),
    "observation.environment_state": ("object_pose", POSE_NAMES),
    "action": ("target_xy", EE_KEYS),
    "p2r.action": ("action", AXES),
    "p2r.safe_action": ("safe_action", AXES),
    "p2r.sent_action": ("sent_action", AXES),
    "p2r.theta_used": ("theta_used", None),
    "p2r.prior_mean": ("prior_mean", None),
    "p2r.prior_sigma": ("prior_sigma", None),
    "p2r.estimate_mean": ("estimate_mean", None),
    "p2r.estimate_sigma": ("estimate_sigma", None),
    "p2r.fused_mean": ("fused_mean", None),
    "p2r.fused_sigma": ("fused_sigma", None),
}
INDICES = ("frame_index", "episode_index", "index", "task_index")
Columns = dict[str, np.ndarray | list[str]]


@dataclass(frozen=True)
class Feature:
    """One column of the dataset: dtype, shape, and names of the entries."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    def as_info(self) -> dict:
        """As ``info.json`` has it."""
        names = None if self.names is None else list(self.names)
        return {"dtype": self.dtype, "shape": list(self.shape), "names": names}


def write_dataset(runs: Sequence[Run], out: Path, video: bool = True) -> None:
    """Write runs as one dataset; a half-written one is never left under ``out``.

    Args:
      runs: at least one; each with a step, all of one control period and one theta.
      out: folder to make.
      video: also draw and encode the view from above.

    Raises:
      RunError: for runs that do not go together, or without a step.
      FileExistsError: if ``out`` is not empty.
      ImportError: without pyarrow or PyAV; names the extra to install.
    """
    _check(runs)
    new_folder(out).rmdir()  # refuses one in use
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(runs, partial, video)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def frames_per_second(run: Run) -> int | float:
    """Control rate, Hz; whole where it is whole."""
    fps = round(1 / run.header.control_period_s, 6)
    return int(fps) if fps == int(fps) else fps


def features_of(run: Run, video: bool) -> dict[str, Feature]:
    """Every column, in the order of the files."""
    theta = run.header.theta
    features = {}
    for name, (_, entries) in VECTORS.items():
        entries = theta if entries is None else entries
        features[name] = Feature("float32", (len(entries),), tuple(entries))
    features["p2r.goal"] = Feature("float32", (3,), POSE_NAMES)
    features["p2r.stamp_s"] = Feature("float64", (1,))
    features["p2r.pose_age_s"] = Feature("float32", (1,))
    features["p2r.safety"] = Feature("string", (1,))
    if video:
        width, height = VIDEO_SIZE
        names = ("height", "width", "channels")
        features[CAMERA] = Feature("video", (height, width, 3), names)
    features["timestamp"] = Feature("float32", (1,))
    return features | {name: Feature("int64", (1,)) for name in INDICES}


def episode_columns(run: Run, episode: int, first: int, task: int) -> Columns:
    """The rows of one episode, float64 as yet.

    Args:
      run: one run.
      episode: its number.
      first: index of its first frame in the dataset.
      task: number of its task.
    """
    count = len(run.steps)
    frame = np.arange(count)
    columns: Columns = {name: run.column(field) for name, (field, _) in VECTORS.items()}
    return columns | {
        "p2r.goal": np.tile(run.header.goal, (count, 1)),
        "p2r.stamp_s": run.time_s,
        "p2r.pose_age_s": run.column("stamp_s") - run.column("pose_stamp_s"),
        "p2r.safety": ["; ".join(step.safety) for step in run.steps],
        "timestamp": frame / frames_per_second(run),
        "frame_index": frame,
        "episode_index": np.full(count, episode),
        "index": first + frame,
        "task_index": np.full(count, task),
    }


def statistics_of(values: np.ndarray) -> dict[str, list]:
    """Statistics of a column over its rows, entry by entry, of the finite values only.

    An entry that was never known has zeros, so that the file stays plain JSON.
    """
    rows = np.asarray(values, float)
    rows = rows.reshape(len(rows), -1)
    rows = np.where(np.isfinite(rows), rows, np.nan)
    rows[:, np.isnan(rows).all(0)] = 0.0
    found: dict[str, Callable] = {
        "min": np.nanmin,
        "max": np.nanmax,
        "mean": np.nanmean,
        "std": np.nanstd,
    }
    stats = {name: of(rows, axis=0).tolist() for name, of in found.items()}
    for q in QUANTILES:
        stats[f"q{round(100 * q):02d}"] = np.nanquantile(rows, q, axis=0).tolist()
    return stats | {"count": [len(rows)]}


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise RunError("there is no run to make a dataset of")
    for run in runs:
        if not run.steps:
            raise RunError(f"the run of {run.header.task} that ended with {run.cause!r} "
                           "has no step; leave it out")  # fmt: skip
        for what in ("control_period_s", "theta"):
            mine, first = getattr(run.header, what), getattr(runs[0].header, what)
            if mine != first:
                raise RunError(f"runs of one dataset need one {what}; there are {first} and {mine}")


def _write(runs: Sequence[Run], root: Path, video: bool) -> None:
    pa, pq = _pyarrow()
    features = features_of(runs[0], video)
    tasks = list(dict.fromkeys(run.header.task for run in runs))
    schema = pa.schema([(n, _arrow_type(pa, f)) for n, f in features.items() if n != CAMERA])
    data = root / DATA_PATH.format(chunk_index=0, file_index=0)
    data.parent.mkdir(parents=True)
    episodes, everything, stills = [], [], []
    with pq.ParquetWriter(data, schema, compression="snappy") as writer:
        for k, run in enumerate(runs):
            first = sum(len(r.steps) for r in runs[:k])
            columns = episode_columns(run, k, first, tasks.index(run.header.task))
            writer.write_table(_table(pa, schema, features, columns))
            seen = _film(run, root, k) if video else None
            everything.append(columns)
            stills.append(seen)
            episodes.append(_episode_row(run, k, first, columns, seen))
    meta = root / "meta"
    (root / EPISODES_PATH).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), root / EPISODES_PATH)
    pq.write_table(_tasks_table(pa, tasks), meta / "tasks.parquet")
    write_json(meta / "stats.json", _all_statistics(everything, stills))
    write_json(meta / "info.json", _info(runs, features, len(tasks), video))


def _info(runs: Sequence[Run], features: dict[str, Feature], tasks: int, video: bool) -> dict:
    fps = frames_per_second(runs[0])
    described = {name: feature.as_info() for name, feature in features.items()}
    if video:
        width, height = VIDEO_SIZE
        described[CAMERA]["info"] = {
            "video.height": height, "video.width": width, "video.codec": "h264",
            "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps,
            "video.channels": 3, "has_audio": False,
        }  # fmt: skip
    return {
        "codebase_version": VERSION,
        "robot_type": ", ".join(dict.fromkeys(run.header.robot for run in runs)),
        "total_episodes": len(runs),
        "total_frames": sum(len(run.steps) for run in runs),
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(runs)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if video else None,
        "features": described,
    }


def _episode_row(run: Run, k: int, first: int, columns: Columns, seen: np.ndarray | None) -> dict:
    """One row of ``meta/episodes``; its last columns are ours."""
    count = len(run.steps)
    row = {
        "episode_index": k, "tasks": [run.header.task], "length": count,
        "data/chunk_index": 0, "data/file_index": 0,
        "dataset_from_index": first, "dataset_to_index": first + count,
    }  # fmt: skip
    if seen is not None:
        chunk, file = divmod(k, FILES_PER_CHUNK)
        where = {"chunk_index": chunk, "file_index": file, "from_timestamp": 0.0,
                 "to_timestamp": count / frames_per_second(run)}  # fmt: skip
        row |= {f"videos/{CAMERA}/{name}": value for name, value in where.items()}
    for name, stats in _statistics(columns, seen, count).items():
        row |= {f"stats/{name}/{key}": value for key, value in stats.items()}
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    return row | {"p2r/cause": run.cause, "p2r/header": to_json(run.header)}


def _all_statistics(episodes: Sequence[Columns], stills: Sequence[np.ndarray | None]) -> dict:
    names = [name for name in episodes[0] if name != "p2r.safety"]
    columns: Columns = {name: np.concatenate([e[name] for e in episodes]) for name in names}
    seen = [s for s in stills if s is not None]
    count = len(columns["index"])
    return _statistics(columns, np.concatenate(seen) if seen else None, count)


def _statistics(columns: Columns, seen: np.ndarray | None, count: int) -> dict[str, dict]:
    """Statistics by column; colours of a video in [0, 1], as [channel][1][1]."""
    stats = {n: statistics_of(v) for n, v in columns.items() if isinstance(v, np.ndarray)}
    if seen is not None:
        colors = statistics_of(seen.reshape(-1, 3) / 255)
        stats[CAMERA] = {n: [[[v]] for v in x] for n, x in colors.items() if n != "count"}
        stats[CAMERA]["count"] = [count]
    return stats


def _film(run: Run, root: Path, episode: int) -> np.ndarray:
    """Write an episode's video; returns coarse stills of it, UInt8[n, h, w, 3]."""
    chunk, file = divmod(episode, FILES_PER_CHUNK)
    path = root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=chunk, file_index=file)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(run.steps)
    wanted = set(np.linspace(0, count - 1, min(count, STILLS)).astype(int).tolist())
    stills = []

    def frames() -> Iterator[np.ndarray]:
        for i, frame in enumerate(tqdm(_views(run), f"episode {episode}", count, leave=False)):
            if i in wanted:
                stills.append(frame[::STILL_STRIDE, ::STILL_STRIDE])
            yield frame

    write_mp4(path, frames(), frames_per_second(run), VIDEO_QUALITY, KEYFRAMES)
    return np.stack(stills)


def _views(run: Run) -> Iterator[np.ndarray]:
    """Frames from a place that depends on the set-up alone, as a camera's would."""
    from p2r_jax.deploy.top_view import TopView

    reach = np.linalg.norm(np.array(run.header.outline, float), axis=1).max()
    table = np.array([*run.header.workspace, run.header.goal[:2]], float)
    around = np.stack([table.min(0) - reach, table.max(0) + reach])
    view, none = TopView(run.header, VIDEO_SIZE, around), np.zeros((0, 2))
    for pose, tip in zip(run.column("object_pose"), run.column("ee_xy"), strict=True):
        yield view.frame(pose, tip, none)


def _arrow_type(pa, feature: Feature):
    """Entries of a vector have a fixed length; a single one is no vector."""
    kind = pa.string() if feature.dtype == "string" else getattr(pa, feature.dtype)()
    return kind if feature.shape == (1,) else pa.list_(kind, feature.shape[0])


def _table(pa, schema, features: dict[str, Feature], columns: Columns):
    arrays = []
    for field in schema:
        values, feature = columns[field.name], features[field.name]
        if isinstance(values, np.ndarray):
            flat = pa.array(values.astype(feature.dtype).reshape(-1))
            wide = feature.shape != (1,)
            arrays.append(
                pa.FixedSizeListArray.from_arrays(flat, feature.shape[0]) if wide else flat
            )
        else:
            arrays.append(pa.array(values, pa.string()))
    return pa.Table.from_arrays(arrays, schema=schema)


def _tasks_table(pa, tasks: Sequence[str]):
    """Task numbers, indexed by the task's text the way pandas reads an index back."""
    index = "__index_level_0__"
    number = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
              "numpy_type": "int64", "metadata": None}  # fmt: skip
    text = {"name": None, "field_name": index, "pandas_type": "unicode",
            "numpy_type": "object", "metadata": None}  # fmt: skip
    header = {"name": None, "field_name": None, "pandas_type": "unicode",
              "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}  # fmt: skip
    pandas = {"index_columns": [index], "column_indexes": [header], "columns": [number, text],
              "creator": {"library": "p2r_jax"}, "pandas_version": "2.2.0"}  # fmt: skip
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _pyarrow():
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError("LeRobot datasets need pyarrow: pip install 'p2r_jax[logs]'") from None
    return pa, pq
