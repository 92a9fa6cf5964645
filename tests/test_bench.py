"""Benchmarks under one command: figures, history, comparison."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2r_jax.bench import command
from p2r_jax.bench.command import BENCHMARKS, BenchConfig, bench, page
from p2r_jax.bench.figures import figures_of
from p2r_jax.bench.history import append, compare, find, read_history, run_of
from p2r_jax.real2sim.ledger import Ledger

RESULTS = Path("benchmarks/results")


def record(speed=100.0, spread=5.0, seconds=2.0, jitter=0.1, git="abc1234", device="cpu: 2 cores"):
    low, high = seconds - jitter, seconds + jitter
    return {
        "schema": 1,
        "provenance": {"git": git, "date": "2026-11-21", "device": device},
        "settings": {"repeats": {"median": 3}},
        "rows": [
            {
                "dynamics": "planar",
                "batch": 64,
                "steps_per_s": {"median": speed, "min": speed - spread, "max": speed + spread},
            },
            {
                "dynamics": "planar",
                "batch": 256,
                "seconds": {"median": seconds, "min": low, "max": high},
            },
        ],
    }


def test_a_figure_is_named_by_what_tells_its_row_from_the_others():
    fast, slow = figures_of(record())
    assert (fast.name, fast.better) == ("rows/planar batch=64/steps_per_s", "more")
    assert (slow.name, slow.better) == ("rows/planar batch=256/seconds", "less")
    assert fast.noise == pytest.approx(0.05)
    assert slow.noise == pytest.approx(0.05)


def test_rows_that_nothing_tells_apart_are_numbered():
    twice = {"rows": [{"s": {"median": 1.0}}, {"s": {"median": 2.0}}]}
    assert [f.name for f in figures_of(twice)] == ["rows/s", "rows/s #2"]


@pytest.mark.parametrize("name", ["throughput", "first_call", "prior_latency", "contact_tradeoff"])
def test_every_committed_result_has_figures_with_names_of_their_own(name):
    figures = figures_of(json.loads((RESULTS / f"{name}.json").read_text()))
    assert figures
    assert len({f.name for f in figures}) == len(figures)


def test_history_gives_back_what_was_appended(tmp_path):
    runs = [run_of("throughput", record()), run_of("sweep", record(git="def5678+"))]
    for run in runs:
        append(tmp_path, run)
    assert read_history(tmp_path) == runs
    assert find(tmp_path, "def5678") == [runs[1]]


def test_a_line_that_was_cut_short_is_named(tmp_path):
    append(tmp_path, run_of("throughput", record()))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"schema": 1, "bench')
    with pytest.raises(ValueError, match="line 2"):
        read_history(tmp_path)


def test_an_unknown_revision_lists_those_that_are_there(tmp_path):
    append(tmp_path, run_of("throughput", record()))
    with pytest.raises(ValueError, match="abc1234"):
        find(tmp_path, "0000000")


@pytest.mark.parametrize(
    ("speed", "verdict"), [(104.0, "same"), (120.0, "better"), (80.0, "worse")]
)
def test_more_steps_per_second_are_better_beyond_the_noise(speed, verdict):
    before, after = (run_of("throughput", record(speed=v)) for v in (100.0, speed))
    change = compare([before], [after])["throughput"][0]
    assert change.ratio == pytest.approx(speed / 100)
    assert change.verdict == verdict


def test_fewer_seconds_are_better():
    before, after = (run_of("throughput", record(seconds=v)) for v in (2.0, 1.0))
    assert compare([before], [after])["throughput"][1].verdict == "better"


def test_one_sample_is_no_verdict():
    before, after = (run_of("throughput", record(seconds=v, jitter=0)) for v in (2.0, 1.0))
    assert compare([before], [after])["throughput"][1].verdict == "one sample"


@pytest.mark.parametrize(
    ("key", "better"),
    [("steps_per_s", "more"), ("ratio", "more"), ("us_per_step", "less"), ("duration_s", "less")],
)
def test_the_end_of_a_key_says_which_way_is_better(key, better):
    assert figures_of({key: {"median": 1.0}})[0].better == better


def test_medians_named_by_their_unit_are_figures_too():
    figure = figures_of({"steps": [{"form": "jax", "median_ms": 0.1, "p99_ms": 0.2}]})[0]
    assert (figure.name, figure.median, figure.better) == ("steps/jax/ms", 0.1, "less")


def test_a_clean_revision_is_not_its_edited_one(tmp_path):
    for git, speed in (("abc1234", 100.0), ("abc1234+", 50.0)):
        append(tmp_path, run_of("throughput", record(speed=speed, git=git)))
    assert find(tmp_path, "abc1234")[0].figures[0].median == 100.0
    assert find(tmp_path, "abc1234+")[0].figures[0].median == 50.0


def test_two_files_are_compared_and_different_devices_are_said(tmp_path, capsys):
    files = []
    for name, device in (("a", "cpu"), ("b", "gpu")):
        files.append(str(tmp_path / f"{name}.json"))
        Path(files[-1]).write_text(json.dumps(record(device=device)))
    bench(BenchConfig(compare=tuple(files), out=tmp_path / "out.json"))
    said = capsys.readouterr().out
    assert "different devices (cpu; gpu)" in said
    assert "x  1.00" in said
    assert json.loads((tmp_path / "out.json").read_text())["changes"]["b"][0]["verdict"] == "same"


def test_a_reconstruction_is_timed_step_by_step_and_anew_every_time(tmp_path, monkeypatch):
    pytest.importorskip("trimesh", reason="needs pip install 'p2r_jax[reconstruct]'")
    from benchmarks import reconstruction as timed

    configs = []

    def fake(config):
        configs.append(config)
        config.out.mkdir()
        ledger = Ledger(config.out)
        for name in timed.STEPS:
            ledger.finished(name, "mark", 9.0 if len(configs) == 1 else len(configs))

    monkeypatch.setattr(timed, "render_capture", lambda config, out: out)
    monkeypatch.setattr(timed, "reconstruct", fake)
    settings = timed.Settings(repeats=3, size=64, iterations=5)
    rows = timed.measure(settings, tmp_path)
    assert [row["step"] for row in rows] == [*timed.STEPS, "whole"]
    assert rows[0]["first_s"] == 9.0
    assert rows[0]["seconds"] == {"median": 3.0, "min": 2.0, "max": 4.0, "repeats": 3}
    assert len({config.out for config in configs}) == 4
    assert (configs[0].splat.size, configs[0].splat.iterations) == (64, 5)
    assert figures_of({"rows": rows})[0].name == "rows/frames/seconds"


def test_a_run_is_remembered_and_shown_on_the_page(tmp_path, monkeypatch, capsys):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    runs = iter([run_of("sweep", record()), run_of("sweep", record(speed=200.0))])
    monkeypatch.setattr(command, "checkout", lambda: tmp_path)
    monkeypatch.setattr(command, "run_benchmark", lambda name, arguments: next(runs))
    for _ in range(2):
        bench(BenchConfig(names=("sweep",)))
    assert len(read_history(results)) == 2
    assert "| 2.00 (better) |" in (tmp_path / "benchmarks" / "HISTORY.md").read_text()


def test_devices_have_histories_of_their_own():
    here = run_of("sweep", record())
    text = page([here, replace(here, device="gpu")])
    assert text.count("## sweep") == 2
    assert "(same)" not in text


def test_the_list_holds_only_benchmarks_that_are_there(capsys):
    bench(BenchConfig())
    assert "throughput" in capsys.readouterr().out
    missing = [name for name in BENCHMARKS if not Path(f"benchmarks/{name}.py").is_file()]
    assert missing == []


def test_an_unknown_benchmark_is_refused_with_the_list():
    with pytest.raises(ValueError, match="throughput"):
        bench(BenchConfig(names=("troughput",)))
