"""The speed benchmarks: what their numbers mean, and what they say when they have none."""

import json
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import first_call, throughput, throughput_peers
from benchmarks.throughput import Case, Settings, gpu_cases, measure, measure_c, table, with_ratios
from benchmarks.throughput_plot import CEILING, plot
from benchmarks.timing import advancing, rate, repeated
from p2r_jax.tasks import load_task

QUICK = Settings(repeats=1, slow_batches=(4,))


def row(name, batch, control, substeps=10, work="dynamics"):
    rates = {"median": control, "min": control / 2, "max": control * 2}
    return {
        "work": work, "dynamics": name, "impl": "jax", "batch": batch, "substeps": substeps,
        "compile_s": 1.0, "memory_mb": 2.0, "control_steps_per_s": rates,
        "physics_steps_per_s": {k: v * substeps for k, v in rates.items()},
    }  # fmt: skip


def test_rate_counts_the_steps_of_all_calls_in_a_sample():
    found = rate(lambda: time.sleep(0.05), steps=10, repeats=2)
    assert found["min"] <= found["median"] <= found["max"] <= 10 / 0.05
    assert found["median"] > 10 / 0.05 / 10  # a loaded machine oversleeps
    assert found["repeats"] == 2


def test_advancing_program_goes_on_where_repeated_starts_anew():
    seen = []

    def note(x):
        seen.append(float(x))

    def count(x):
        jax.debug.callback(note, x, ordered=True)
        return x + 1

    again, onwards = repeated(count, jnp.zeros(())), advancing(count, jnp.zeros(()))
    for _ in range(3):
        again.call()
        onwards.call()
    assert sorted(seen) == [0, 0, 0, 0, 1, 2]
    assert min(again.compile_s, onwards.compile_s) > 0


def test_a_row_of_the_environment_has_rates_compile_time_and_memory():
    case = Case("environment", "planar", 4, substeps=2, actions=3)
    found = measure(case, QUICK)
    assert found["substeps"] == 2
    physics, control = (found[f"{k}_steps_per_s"]["median"] for k in ("physics", "control"))
    assert physics == pytest.approx(2 * control)
    assert control > 0
    assert found["compile_s"] > 0
    assert found["memory_mb"] > 0


def test_c_is_its_own_ceiling_and_others_are_ratios_to_it():
    c = measure_c(4, QUICK)
    assert c["substeps"] == load_task(QUICK.task).contact.substeps == 50
    slower = row("planar", 4, c["control_steps_per_s"]["median"] / 4, substeps=10)
    rows = with_ratios([c, slower])
    assert (rows[0]["physics_ratio"], rows[0]["control_ratio"]) == (1, 1)
    assert rows[1]["control_ratio"] == pytest.approx(1 / 4)
    assert rows[1]["physics_ratio"] == pytest.approx(1 / 20)


def test_without_a_gpu_its_rows_are_listed_as_not_measured(monkeypatch):
    monkeypatch.setattr(throughput, "cpu_cases", lambda settings: [])
    rows, skipped = throughput.measure_all(QUICK)
    assert {(r["dynamics"], r["impl"]) for r in skipped} >= {
        ("planar", "jax"),
        ("contact", "jax"),
        ("contact mjx", "warp"),
    }
    assert max(r["batch"] for r in skipped) == 65536
    assert table(with_ratios(rows), skipped).count("not measured: no GPU") == len(skipped)
    assert len(skipped) == len(gpu_cases(QUICK))


def test_a_row_that_fails_costs_only_itself(monkeypatch):
    def fails(case, settings):
        if case.batch == 2:
            raise MemoryError("too large")
        return row("planar", case.batch, 1.0)

    monkeypatch.setattr(throughput, "measure", fails)
    monkeypatch.setattr(
        throughput, "cpu_cases", lambda s: [Case("dynamics", "planar", b) for b in (1, 2, 4)]
    )
    rows, skipped = throughput.measure_all(QUICK)
    assert [r["batch"] for r in rows if r["dynamics"] == "planar"] == [1, 4]
    assert [r["reason"] for r in skipped if r["batch"] == 2] == ["MemoryError: too large"]


def test_every_cpu_case_names_a_task_that_can_be_built():
    for case in throughput.cpu_cases(Settings()) + gpu_cases(Settings()):
        task = throughput.task_of(case, Settings())
        assert case.dynamics.startswith(task.dynamics)
        if case.substeps:
            assert getattr(task, task.dynamics).substeps == case.substeps
        if case.dynamics == "contact mjx":
            assert task.contact.impl == case.impl


def test_peers_without_playground_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(ImportError, match=r"p2r_jax\[bench\]"):
        throughput_peers.peers()


@pytest.mark.parametrize("with_parity", [True, False])
def test_plot_draws_what_the_record_holds(with_parity, tmp_path):
    rows = [row("planar", b, 1e4 * b) for b in (64, 256)]
    rows += [row("planar", 64, 1e4, 20), row("contact", 64, 1e2, 100), row(CEILING, 64, 9e2, 100)]
    rows += [row("planar", 64, 3e4, work="environment"), row("Brax pusher", 64, 1e3, 5)]
    record = {"rows": rows, "provenance": {"device": "cpu", "cores": 2, "cpu": "test"}}
    errors = [{"substeps": n, "position_mm": {"median": 1.0 / n}} for n in (10, 20)]
    parity = {"by_substeps": {"planar points": errors}} if with_parity else None
    plot(record, parity, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_first_call_table_shows_medians_of_every_part():
    runs = [{"import": 1.0, "step": x, "process": 9.0} for x in (2.0, 4.0, 30.0)]
    rows = [first_call._row("environment", "planar", "cold", runs)]
    assert rows[0]["seconds"]["step"] == {"median": 4.0, "min": 2.0, "max": 30.0}
    assert "| environment | planar | cold | 1.0 | 4.0 | 9.0 |" in first_call.table(rows)


@pytest.mark.slow
def test_a_warm_cache_makes_the_first_step_cheaper(tmp_path):
    settings = first_call.Settings(batch=16)
    cold, warm = (
        first_call.fresh_process(settings, "environment", "planar", tmp_path) for _ in range(2)
    )
    assert warm["step"] < cold["step"]
    assert cold.keys() == {"import", "build", "reset", "step", "process"}


@pytest.mark.slow
def test_a_failing_fresh_process_says_why(tmp_path):
    settings = replace(first_call.Settings(), task="push_tblok")
    with pytest.raises(RuntimeError, match="did you mean 'push_tblock'"):
        first_call.fresh_process(settings, "environment", "planar", tmp_path)


def test_committed_throughput_states_its_device_versions_and_marks():
    record = json.loads(Settings().out.read_text())
    assert {"device", "versions", "cpu"} <= record["provenance"].keys()
    assert {r["dynamics"] for r in record["rows"]} >= {"planar", "contact", CEILING}
