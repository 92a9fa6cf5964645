"""Run folders: listed, compared with intervals, exported, and what every one of them keeps."""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from p2r_jax import files
from p2r_jax.estimator.train import EstimatorConfig
from p2r_jax.policy import logging
from p2r_jax.policy.logging import MetricLog, read_rows
from p2r_jax.policy.train import default_train, train
from p2r_jax.runs import videos
from p2r_jax.runs.compare import CompareConfig, compare
from p2r_jax.runs.folder import find_runs, higher_is_better, read_run
from p2r_jax.runs.listing import RunsConfig, list_runs
from p2r_jax.runs.mlflow import ExportConfig, export
from p2r_jax.tasks import load_task


def write_policy_run(folder, success, seed=0, steps=12_000_000, **ppo):
    """What a policy training leaves, as far as it is read."""
    config = default_train("push_tblock", "privileged", folder)
    config = replace(config, ppo=replace(config.ppo, seed=seed, **ppo))
    (folder / "policy").mkdir(parents=True)
    origin = {"git": "abc", "date": "2026-01-02", "versions": {"jax": "1"}}
    files.write_json(folder / "config.json", files.as_record(config) | origin)
    files.write_json(folder / "policy" / "policy.json", {"steps": steps})
    (folder / "state.msgpack").write_bytes(b"")
    rows = f"step,eval/success,seconds\n1000,0.5,1\n{steps},{success},2\n"
    (folder / "metrics.csv").write_text(rows)
    return folder


def write_estimator_run(folder, errors, seed=0, **changes):
    """What an estimator training leaves: RMSE and windows by steps since contact."""
    config = EstimatorConfig(load_task("push_tblock"), Path("policy"), folder, seed=seed, **changes)
    folder.mkdir(parents=True)
    files.write_json(folder / "config.json", files.as_record(config))
    rows = {name: {"windows": n, "rmse_cm": e} for name, (n, e) in errors.items()}
    report = {"since_contact": rows, "contact_steps_in_window": {}}
    files.write_json(folder / "calibration.json", report)
    return folder


def write_evaluation(folder):
    """``results.json`` as ``p2r evaluate`` writes it, without a ``config.json``."""
    folder.mkdir(parents=True)
    row = {"condition": "top", "method": "fused", "hardware": {"value": 0.75}}
    result = {
        "schema": 1, "complete": True, "task": "push_tblock", "dynamics": {"name": "reality-dev"},
        "trials": 4, "seed": 3, "conditions": {"top": {}}, "provenance": {"git": "abc"},
        "results": [row, row | {"method": "dr", "hardware": {"value": 0.25}}],
    }  # fmt: skip
    files.write_json(folder / "results.json", result)


def test_runs_of_every_kind_are_listed_with_their_state(tmp_path, capsys):
    write_policy_run(tmp_path / "a", 0.9)
    write_policy_run(tmp_path / "b" / "c", 0.4, seed=1, steps=600_000)
    write_estimator_run(tmp_path / "e", {"0-0": (5, 9.0), "1-3": (1, 1.0), "4-6": (3, 3.0)})
    write_evaluation(tmp_path / "v")
    (tmp_path / "other").mkdir()
    files.write_json(tmp_path / "other" / "config.json", {"something": "else"})
    runs = list_runs(RunsConfig(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert [run.folder.name for run in runs] == ["a", "c", "e", "v"]
    assert "12.0 M of 12.0 M steps  eval/success 0.900" in lines[1]
    assert lines[1].endswith("2026-01-02  abc  finished")
    assert "0.6 M of 12.0 M steps" in lines[2]
    assert lines[2].endswith("resumable")
    pooled = math.sqrt((1 * 1.0 + 3 * 9.0) / 4)
    assert f"24 of 24 rounds         after_contact/rmse_cm {pooled:.3f}" in lines[3]
    assert "2 of 2 cells" in lines[4]
    assert runs[3].metrics["top/fused/hardware"] == 0.75
    assert runs[3].metrics["hardware"] == 0.5
    list_runs(RunsConfig(tmp_path, json=True))
    rows = json.loads(capsys.readouterr().out)
    assert [(r["kind"], r["seed"], r["state"]) for r in rows] == [
        ("train", 0, "finished"), ("train", 1, "resumable"), ("train-estimator", 0, "finished"),
        ("evaluate", 3, "finished"),
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_runs(tmp_path / "none")


def test_metrics_say_which_way_is_better():
    assert higher_is_better("eval/success")
    assert not higher_is_better("after_contact/rmse_cm")


def test_groups_differ_in_settings_and_intervals_are_students_over_seeds(tmp_path, capsys):
    for rate, successes in ((5e-4, (0.1, 0.2, 0.3)), (1e-3, (0.4, 0.5, 0.9))):
        for seed, success in enumerate(successes):
            write_policy_run(tmp_path / f"{rate}" / f"seed-{seed}", success, seed,
                             learning_rate=rate)  # fmt: skip
    write_policy_run(tmp_path / "cut", 0.1, seed=7, steps=1000)
    record = compare(CompareConfig((tmp_path,), out=tmp_path / "out"))
    out = capsys.readouterr().out
    assert f"left out, not finished: {tmp_path / 'cut'}" in out
    slow, fast = record["groups"]
    assert (slow["label"], fast["label"]) == ("learning_rate=0.0005", "learning_rate=0.001")
    half = 4.302653 * 0.1 / 3**0.5  # t(0.975, 2) times s.d. over root n
    found = [slow["eval/success"]["mean"][k] for k in ("value", "low", "high")]
    np.testing.assert_allclose(found, (0.2, 0.2 - half, 0.2 + half), rtol=1e-6)
    gaps = np.array([0.3, 0.3, 0.6])  # paired by seed
    half = 4.302653 * gaps.std(ddof=1) / 3**0.5
    cell = fast["eval/success"]["minus_first"]
    assert cell["pairs"] == 3
    found = [cell[k] for k in ("value", "low", "high")]
    np.testing.assert_allclose(found, (0.4, 0.4 - half, 0.4 + half), rtol=1e-6)
    kept = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert kept["groups"][0]["seeds"] == [0, 1, 2]
    assert "versions" in kept["provenance"]
    assert "learning_rate=0.001 | 3 |" in (tmp_path / "out" / "compare.md").read_text()
    assert (tmp_path / "out" / "compare.png").stat().st_size > 5000
    boot = compare(CompareConfig((tmp_path,), interval="bootstrap"))["groups"][0]["eval/success"]
    assert 0.1 <= boot["mean"]["low"] < 0.2 < boot["mean"]["high"] <= 0.3


def test_what_cannot_be_compared_is_named(tmp_path):
    write_policy_run(tmp_path / "a", 0.5)
    write_policy_run(tmp_path / "b", 0.6)
    with pytest.raises(ValueError, match=r"a and .*b have the same settings and seed"):
        compare(CompareConfig((tmp_path,)))
    write_policy_run(tmp_path / "c", 0.6, steps=10)
    with pytest.raises(ValueError, match="none of the runs is finished"):
        compare(CompareConfig((tmp_path / "c",)))
    with pytest.raises(ValueError, match="no metric 'eval/sucess'; did you mean 'eval/success'"):
        compare(CompareConfig((tmp_path / "a",), metrics=("eval/sucess",)))
    write_estimator_run(tmp_path / "e", {"1-3": (1, 1.0)})
    with pytest.raises(ValueError, match="runs of train and train-estimator cannot be compared"):
        compare(CompareConfig((tmp_path / "a", tmp_path / "e")))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no run"):
        compare(CompareConfig((tmp_path / "nothing",)))


def test_seeds_of_one_setting_stay_together_though_paths_and_versions_differ(tmp_path):
    for seed in (0, 1):
        folder = write_policy_run(tmp_path / f"seed-{seed}", 0.5, seed)
        record = json.loads((folder / "config.json").read_text())
        record["init"] = f"first/seed-{seed}/privileged"
        if seed:
            del record["task"]["planar"]["push_height"]  # a setting that is newer than the run
        files.write_json(folder / "config.json", record)
    (group,) = compare(CompareConfig((tmp_path,)))["groups"]
    assert (group["label"], group["seeds"]) == ("all", [0, 1])


def groups_by_init(root, inits):
    """Seeds of each group that compare makes of runs by (seed, what they start from)."""
    for i, (seed, init) in enumerate(inits):
        folder = write_policy_run(root / f"run{i}", 0.5, seed)
        record = json.loads((folder / "config.json").read_text())
        files.write_json(folder / "config.json", record | {"init": init})
    found = compare(CompareConfig((root,)))["groups"]
    return {row["label"]: row["seeds"] for row in found}


def test_a_seed_in_any_form_of_path_does_not_separate_its_runs(tmp_path):
    paths = [(seed, f"runs/2/first_{seed}_of_10/s{seed:d}") for seed in (2, 1, 10)]
    assert groups_by_init(tmp_path / "a", paths) == {"all": [1, 2, 10]}
    two = [(seed, f"{name}/{seed}") for name in ("eager", "calm") for seed in (0, 1)]
    assert groups_by_init(tmp_path / "b", two) == {
        "init=eager/{seed}": [0, 1], "init=calm/{seed}": [0, 1]}  # fmt: skip


def test_numbers_in_paths_that_are_not_the_seed_separate_runs(tmp_path):
    every = [(seed, f"first/{number}") for seed in (0, 1) for number in (0, 1)]
    assert groups_by_init(tmp_path / "a", every) == {
        "init=first/0": [0, 1], "init=first/1": [0, 1]}  # fmt: skip
    mixed = [(seed, path) for seed in (0, 1) for path in (f"own/{seed}", "shared/0")]
    assert groups_by_init(tmp_path / "b", mixed) == {
        "init=own/{seed}": [0, 1], "init=shared/0": [0, 1]}  # fmt: skip


def test_a_branch_that_is_there_or_none_separates_groups(tmp_path):
    from p2r_jax.estimator.straight_pushes import StraightPushes

    errors = {"1-3": (1, 1.0)}
    write_estimator_run(tmp_path / "a", errors)
    folder = write_estimator_run(tmp_path / "b", errors)
    record = json.loads((folder / "config.json").read_text())
    record |= {"policy": None, "pushes": files.as_record(StraightPushes())}
    files.write_json(folder / "config.json", record)
    groups = compare(CompareConfig((tmp_path,)))["groups"]
    assert len(groups) == 2
    assert groups[0]["settings"]["policy"] == "policy"


def test_mlflow_layout_holds_settings_rows_and_last_values(tmp_path):
    write_policy_run(tmp_path / "runs" / "a", 0.9)
    write_estimator_run(tmp_path / "runs" / "e", {"1-3": (1, 2.0)})
    store = tmp_path / "mlruns"
    assert export(ExportConfig(store, tmp_path / "runs")) == 2
    assert export(ExportConfig(store, tmp_path / "runs")) == 2  # the same runs, written anew
    experiments = [p for p in store.iterdir() if p.name != ".trash"]
    assert len(experiments) == 2
    folders = {p.parent.name: p.parent for e in experiments for p in e.glob("*/params")}
    assert len(folders) == 2
    names = {(f / "tags" / "mlflow.runName").read_text(): f for f in folders.values()}
    assert (names["a"] / "params" / "ppo.learning_rate").read_text() == "0.0005"
    assert (names["a"] / "tags" / "p2r.git").read_text() == "abc"
    lines = (names["a"] / "metrics" / "eval" / "success").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [["0.5", "1000"], ["0.9", "12000000"]]
    error = (names["e"] / "metrics" / "after_contact" / "rmse_cm").read_text().split()
    assert error[1:] == ["2.0", "24"]
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install 'p2r_jax[sweep]'")
    meta = yaml.safe_load((names["a"] / "meta.yaml").read_text())
    assert (meta["run_name"], meta["status"], meta["lifecycle_stage"]) == ("a", 3, "active")
    assert meta["end_time"] >= meta["start_time"] > 0


def test_mlflow_itself_reads_the_export(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    reason = "needs mlflow-skinny, e.g. by --target build/mlflow and PYTHONPATH"
    tracking = pytest.importorskip("mlflow.tracking", reason=reason)
    write_policy_run(tmp_path / "runs" / "a", 0.9)
    export(ExportConfig(tmp_path / "mlruns", tmp_path / "runs"))
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (experiment,) = client.search_experiments()
    assert experiment.name == "train push_tblock"
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("a", "FINISHED")
    assert run.data.params["ppo.num_envs"] == "2048"
    history = client.get_metric_history(run.info.run_id, "eval/success")
    assert [(m.step, m.value) for m in history] == [(1000, 0.5), (12_000_000, 0.9)]


@dataclass(frozen=True)
class Plain:
    size: int = 1


def test_a_run_folder_keeps_uncommitted_changes_and_digests_of_its_inputs(tmp_path, monkeypatch):
    said = {"diff": b"diff --git a/x b/x\n", "ls-files": b"new.py\nother.py\n", "status": b" M x\n",
            "rev-parse": b"abc\n"}  # fmt: skip
    monkeypatch.setattr(files, "_git", lambda *args: said[args[0]])
    source = tmp_path / "policy"
    source.mkdir()
    (source / "policy.json").write_text("{}")
    before = files.digest(source)
    run = tmp_path / "run"
    files.start_run(run, Plain(), inputs=[source], notes={"more": 1})
    record = json.loads((run / "config.json").read_text())
    assert (run / "git.patch").read_bytes() == said["diff"]
    assert record["git"] == "abc+"
    assert record["git_changes"] == {"bytes": 19, "kept": True, "untracked": ["new.py", "other.py"]}
    assert record["inputs"] == {str(source): before}
    assert (record["size"], record["more"]) == (1, 1)
    (source / "policy.json").write_text("[]")
    assert files.digest(source) != before
    assert files.digest(tmp_path / "none") is None
    with pytest.raises(FileExistsError, match="overwrite"):
        files.start_run(run, Plain())
    said["diff"] = b"x" * (files.PATCH_LIMIT + 1)
    files.start_run(run, Plain(), overwrite=True)
    record = json.loads((run / "config.json").read_text())
    assert not (run / "git.patch").exists()
    assert record["git_changes"]["kept"] is False
    files.note_resume(run, 5)
    files.note_resume(run, 9)
    resumed = json.loads((run / "config.json").read_text())["resumed"]
    assert [(entry["at"], entry["git"]) for entry in resumed] == [(5, "abc+"), (9, "abc+")]


def test_a_resumed_log_drops_what_will_be_written_again(tmp_path):
    log = MetricLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"x": step / 10})
    log.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("40")  # killed while it wrote
    log = MetricLog(tmp_path, after=20)
    log.write(30, {"x": 7.0})
    log.close()
    assert read_rows(tmp_path / "metrics.csv") == (
        ["step", "x"], [["10", "1.0"], ["20", "2.0"], ["30", "7.0"]])  # fmt: skip
    MetricLog(tmp_path).close()  # a run that starts anew
    assert not (tmp_path / "metrics.csv").exists()


def test_wandb_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'p2r_jax\[wandb\]'"):
        MetricLog(tmp_path, "project")


def test_a_resumed_run_goes_on_in_its_wandb_run(tmp_path, monkeypatch):
    began = []

    def init(**options):
        began.append(options["id"])
        return SimpleNamespace(log=lambda row, step: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for after in (0, 20, 40, 0):
        MetricLog(tmp_path, "project", after=after).close()
    assert began[0] == began[1] == began[2] != began[3]


def test_wandb_logs_offline(tmp_path, monkeypatch):
    reason = "needs W&B: pip install --target build/wandb wandb; PYTHONPATH=build/wandb"
    pytest.importorskip("wandb", reason=reason)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    log = MetricLog(tmp_path, "project", {"size": 1})
    log.write(1, {"x": 2.0})
    log.close()
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.stat().st_size > 0
    assert logging.read_rows(tmp_path / "metrics.csv")[1] == [["1", "2.0"]]


def test_videos_are_made_at_the_first_checkpoint_of_every_interval(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(videos, "film", lambda path, *rest: made.append((path.name, rest[-1])))
    config = replace(default_train("push_tblock", "dr", tmp_path), video_every=1000)
    hook = videos.episode_videos(config)
    for steps in (400, 800, 1200, 1600, 2000, 3500, 3900):
        hook(steps, None)
    assert [int(name[6:15]) for name, _ in made] == [1200, 2000, 3500]
    assert made[0][1] == "after 1,200 steps"
    assert videos.episode_videos(replace(config, video_every=0)) is None
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "steps_000003500.mp4").touch()
    again = videos.episode_videos(config)  # a resumed run
    again(3900, None)
    assert len(made) == 3


def test_a_film_that_fails_costs_no_training(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no display")

    monkeypatch.setattr(videos, "film", broken)
    config = replace(default_train("push_tblock", "dr", tmp_path), video_every=1)
    videos.episode_videos(config)(5, None)
    assert "no video after 5 steps: no display" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_films_its_checkpoints(tmp_path, small_task):
    pytest.importorskip("av", reason="needs pip install 'p2r_jax[viz]'")
    from test_ppo import SMALL

    config = replace(default_train("push_tblock", "privileged", tmp_path / "a"), task=small_task,
                     ppo=SMALL, evaluations=2, video_every=1)  # fmt: skip
    train(config, videos.episode_videos(config))
    films = sorted((tmp_path / "a" / "videos").iterdir())
    assert len(films) == 2
    assert min(film.stat().st_size for film in films) > 1000


def test_a_metric_file_that_is_no_json_is_named(tmp_path):
    folder = write_estimator_run(tmp_path / "e", {"1-3": (1, 2.0)})
    (folder / "calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"calibration.json is not JSON"):
        read_run(folder)


def test_seeds_that_diverged_are_named_beside_the_mean(tmp_path):
    runs = [
        write_policy_run(tmp_path / f"a{seed}", success, seed=seed)
        for seed, success in enumerate((0.8, 0.9, float("nan")))
    ]
    record = compare(CompareConfig(tuple(runs), metrics=("eval/success",), out=tmp_path / "out"))
    cell = record["groups"][0]["eval/success"]
    assert cell["diverged"] == [2]
    assert cell["mean"]["value"] == pytest.approx(0.85)
    assert "(diverged: seed 2)" in (tmp_path / "out" / "compare.md").read_text()


def test_results_of_an_overwritten_run_do_not_pass_for_the_new_ones(tmp_path):
    run = write_policy_run(tmp_path / "run", 0.9)
    files.start_run(run, default_train("push_tblock", "privileged", run), overwrite=True)
    assert not (run / "state.msgpack").exists()
    assert not (run / "policy" / "policy.json").exists()
    assert not (run / "metrics.csv").exists()
