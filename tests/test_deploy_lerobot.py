"""Runs as a LeRobot dataset: the layout of format v3.0, the values, what is not known.

The facts about the format (paths, keys, types, shapes) were taken from lerobot 0.4.4,
which also opened such a dataset; where lerobot is installed, it does so again here.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from test_deploy_record import header, step, write

from p2r_jax.deploy.record import RecoverConfig, Run, RunError, recover, write_dataset
from p2r_jax.deploy.record.lerobot import CAMERA, QUANTILES, VECTORS, statistics_of

pa = pytest.importorskip("pyarrow", reason="pyarrow (p2r_jax[logs]) is not installed")
pq = pytest.importorskip("pyarrow.parquet")
av = pytest.importorskip("av", reason="PyAV (p2r_jax[viz]) is not installed")

INFO_KEYS = {
    "codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks",
    "chunks_size", "data_files_size_in_mb", "video_files_size_in_mb", "fps", "splits",
    "data_path", "video_path", "features",
}  # fmt: skip
DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64",
            "index": "int64", "task_index": "int64"}  # fmt: skip
EPISODE_KEYS = {
    "episode_index", "tasks", "length", "data/chunk_index", "data/file_index",
    "dataset_from_index", "dataset_to_index", "meta/episodes/chunk_index",
    "meta/episodes/file_index", f"videos/{CAMERA}/chunk_index", f"videos/{CAMERA}/file_index",
    f"videos/{CAMERA}/from_timestamp", f"videos/{CAMERA}/to_timestamp",
}  # fmt: skip
STATS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
FPS = 20


def some_run(count: int, seed: int, **changes) -> Run:
    rng = np.random.default_rng(seed)

    def moved(k):
        x, y, yaw, ex, ey = rng.uniform(-0.1, 0.1, 5)
        return step(k, object_pose=(0.6 + x, y, yaw), ee_xy=(0.5 + ex, ey), action=(ex, ey),
                    estimate_sigma=(0.02,), theta_used=(float(rng.normal()),))  # fmt: skip

    steps = tuple(moved(k) for k in range(count))
    return Run(header(**changes), steps, "finished")


@pytest.fixture(scope="module")
def runs():
    return [some_run(24, 0), some_run(15, 1, task="push_hammer")]


@pytest.fixture(scope="module")
def dataset(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "dataset"
    write_dataset(runs, root)
    return root


def info_of(root):
    return json.loads((root / "meta/info.json").read_text())


def test_the_files_are_where_the_format_has_them(dataset):
    files = {str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.is_file()}
    assert files == {
        "data/chunk-000/file-000.parquet", "meta/info.json", "meta/stats.json",
        "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
        f"videos/{CAMERA}/chunk-000/file-000.mp4", f"videos/{CAMERA}/chunk-000/file-001.mp4",
    }  # fmt: skip


def test_info_says_what_readers_ask_for(dataset):
    info = info_of(dataset)
    assert set(info) == INFO_KEYS
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", FPS, "sim")
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 39, 2)
    assert info["splits"] == {"train": "0:2"}
    data = info["data_path"].format(chunk_index=0, file_index=0)
    video = info["video_path"].format(video_key=CAMERA, chunk_index=0, file_index=1)
    assert (dataset / data).is_file()
    assert (dataset / video).is_file()
    features = info["features"]
    assert {name: features[name]["dtype"] for name in DEFAULTS} == DEFAULTS
    assert all(features[name]["shape"] == [1] for name in DEFAULTS)
    assert features["observation.state"] == {
        "dtype": "float32", "shape": [2], "names": ["ee.x", "ee.y"],
    }  # fmt: skip
    assert features["action"]["names"] == ["ee.x", "ee.y"]
    assert features["observation.environment_state"]["shape"] == [3]
    camera = features[CAMERA]
    assert (camera["dtype"], camera["shape"]) == ("video", [240, 320, 3])
    assert camera["names"] == ["height", "width", "channels"]


def test_every_column_has_the_declared_type_and_length(dataset):
    features = info_of(dataset)["features"]
    schema = pq.read_schema(dataset / "data/chunk-000/file-000.parquet")
    assert set(schema.names) == set(features) - {CAMERA}
    for field in schema:
        feature = features[field.name]
        if feature["shape"] == [1]:  # the format stores single values as plain columns
            assert field.type == getattr(pa, feature["dtype"])()
        else:
            assert field.type == pa.list_(pa.float32(), feature["shape"][0])


def test_values_survive_the_round_trip(dataset, runs):
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    for name, (field, _) in VECTORS.items():
        found = np.array(table[name].to_pylist(), float).reshape(39, -1)
        wanted = np.concatenate([run.column(field) for run in runs])
        np.testing.assert_array_equal(found, wanted.astype(np.float32), err_msg=name)
    assert table["episode_index"].to_pylist() == [0] * 24 + [1] * 15
    assert table["frame_index"].to_pylist() == [*range(24), *range(15)]
    assert table["index"].to_pylist() == list(range(39))
    assert table["task_index"].to_pylist() == [0] * 24 + [1] * 15
    np.testing.assert_allclose(table["timestamp"][24:].to_numpy(), np.arange(15) / FPS, rtol=1e-6)
    np.testing.assert_allclose(table["p2r.stamp_s"][:24].to_numpy(), runs[0].time_s)
    assert set(table["p2r.safety"].to_pylist()) == {"step limit"}


def test_an_episode_is_found_by_its_row(dataset, runs):
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert set(rows[0]) >= EPISODE_KEYS
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, 24), (24, 39)]
    assert [r["tasks"] for r in rows] == [["push_tblock"], ["push_hammer"]]
    assert [r["length"] for r in rows] == [24, 15]
    where = f"videos/{CAMERA}/"
    assert [r[where + "file_index"] for r in rows] == [0, 1]
    assert rows[1][where + "to_timestamp"] == pytest.approx(15 / FPS)
    assert rows[0]["p2r/cause"] == "finished"
    mean = rows[1]["stats/observation.state/mean"]
    np.testing.assert_allclose(mean, runs[1].column("ee_xy").mean(0))
    assert {k.split("/")[-1] for k in rows[0] if k.startswith("stats/action/")} == STATS


def test_tasks_are_indexed_by_their_text(dataset):
    table = pq.read_table(dataset / "meta/tasks.parquet")
    pandas = json.loads(table.schema.metadata[b"pandas"])
    (index,) = pandas["index_columns"]
    assert table[index].to_pylist() == ["push_tblock", "push_hammer"]
    assert table["task_index"].to_pylist() == [0, 1]
    assert {c["field_name"] for c in pandas["columns"]} == set(table.column_names)


def test_statistics_are_over_all_frames(dataset, runs):
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert set(stats) == set(info_of(dataset)["features"]) - {"p2r.safety"}
    assert all(set(row) == STATS for row in stats.values())
    ee = np.concatenate([run.column("ee_xy") for run in runs])
    np.testing.assert_allclose(stats["observation.state"]["std"], ee.std(0))
    np.testing.assert_allclose(stats["observation.state"]["q10"], np.quantile(ee, 0.1, axis=0))
    assert stats["observation.state"]["count"] == stats[CAMERA]["count"] == [39]
    colors = np.array(stats[CAMERA]["mean"])
    assert colors.shape == (3, 1, 1)
    assert ((colors > 0) & (colors < 1)).all()


def test_every_frame_of_the_video_stands_where_its_timestamp_says(dataset):
    with av.open(str(dataset / f"videos/{CAMERA}/chunk-000/file-001.mp4")) as film:
        stream = film.streams.video[0]
        times = [frame.time for frame in film.decode(stream)]
        assert (stream.width, stream.height) == (320, 240)
        assert stream.codec_context.name == "h264"
    np.testing.assert_allclose(times, np.arange(15) / FPS, atol=1e-4)  # lerobot's tolerance


def test_the_video_shows_the_object_where_it_was(dataset, runs):
    with av.open(str(dataset / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as film:
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
    found, wanted = [], []
    for frame, one in zip(frames, runs[0].steps, strict=True):
        rows, columns = np.nonzero(frame[..., 0].astype(int) - frame[..., 2] > 90)  # orange
        found.append((columns.mean(), rows.mean()))
        wanted.append(one.object_pose[:2])
    (y, x), (px, py) = np.array(wanted).T[::-1], np.array(found).T
    assert np.corrcoef(px, -y)[0, 1] > 0.95  # +y to the left; the tip hides a part
    assert np.corrcoef(py, -x)[0, 1] > 0.95  # +x up


def test_what_was_never_known_is_nan_in_the_data_and_harmless_in_the_statistics(tmp_path):
    lost = [step(k, object_pose=(math.nan,) * 3) for k in range(3)]
    root = tmp_path / "dataset"
    write_dataset([Run(header(), tuple(lost), "stale pose")], root, video=False)
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert np.isnan(table["observation.environment_state"].to_pylist()).all()
    stats = json.loads((root / "meta/stats.json").read_text(), parse_constant=pytest.fail)
    assert stats["observation.environment_state"]["mean"] == [0.0, 0.0, 0.0]
    assert stats["p2r.estimate_sigma"]["max"] == [0.0]  # it was infinite throughout
    assert info_of(root)["video_path"] is None


def test_statistics_leave_out_what_is_not_known():
    values = np.array([[1.0, math.nan], [3.0, math.inf], [math.nan, 7.0]])
    stats = statistics_of(values)
    assert (stats["mean"], stats["min"], stats["max"]) == ([2.0, 7.0], [1.0, 7.0], [3.0, 7.0])
    assert {f"q{round(100 * q):02d}" for q in QUANTILES} < set(stats)
    assert stats["count"] == [3]


def test_a_killed_run_is_recovered(tmp_path, capsys):
    path = write(tmp_path / "run", [step(k) for k in range(40)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    out = recover(RecoverConfig((tmp_path / "run",), video=False))
    assert out == tmp_path / "run" / "lerobot"
    assert "ended: killed" in capsys.readouterr().out
    count = info_of(out)["total_frames"]
    assert 10 <= count < 40
    (row,) = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert (row["p2r/cause"], row["length"]) == ("killed", count)


def test_a_run_without_a_step_is_left_out_and_named(tmp_path, capsys):
    write(tmp_path / "empty", [], "tracker lost")
    write(tmp_path / "full", [step(k) for k in range(3)])
    out = tmp_path / "dataset"
    recover(RecoverConfig((tmp_path / "empty", tmp_path / "full"), out, video=False))
    assert "0 steps, ended: tracker lost; left out" in capsys.readouterr().out
    assert info_of(out)["total_episodes"] == 1
    with pytest.raises(RunError, match="no run to make a dataset of"):
        recover(RecoverConfig((tmp_path / "empty",), tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"control_period_s": 0.1}, "one control_period_s; there are 0.05 and 0.1"),
     ({"theta": ("mass",)}, "one theta")],
)  # fmt: skip
def test_runs_that_do_not_go_together_are_refused(tmp_path, runs, change, message):
    other = replace(runs[1], header=replace(runs[1].header, **change))
    with pytest.raises(RunError, match=message):
        write_dataset([runs[0], other], tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_several_runs_need_a_place(tmp_path):
    with pytest.raises(ValueError, match="--out"):
        recover(RecoverConfig((tmp_path / "a", tmp_path / "b")))


def test_a_dataset_is_not_overwritten(dataset, runs):
    with pytest.raises(FileExistsError, match="not empty"):
        write_dataset(runs, dataset)


def test_a_dataset_that_breaks_off_leaves_nothing(tmp_path, runs, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("p2r_jax.deploy.record.lerobot.write_mp4", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(runs, tmp_path / "dataset")
    assert list(tmp_path.iterdir()) == []


def test_lerobot_itself_reads_it(dataset, runs):
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="no lerobot here")
    found = module.LeRobotDataset("local/p2r", root=dataset, video_backend="pyav")
    assert (found.num_episodes, len(found)) == (2, 39)
    last = found[38]
    np.testing.assert_allclose(last["action"], runs[1].steps[-1].target_xy, rtol=1e-6)
    assert last["task"] == "push_hammer"
    assert last[CAMERA].shape == (3, 240, 320)
