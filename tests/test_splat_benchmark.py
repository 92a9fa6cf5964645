"""The rasteriser's benchmark: what a row holds, and what it says without CUDA."""

import json
from dataclasses import replace

import jax.numpy as jnp
import pytest

from benchmarks import rasteriser
from benchmarks.rasteriser import Settings, main, measure, measure_all
from p2r_jax.real2sim.splat.raster import Rendered

TINY = Settings(gaussians=(30,), sizes=(16,), repeats=1)


def row(name, count, size, settings):
    timing = {"ms": 1.0, "ms_best": 0.5, "compile_s": 2.0}
    return {
        "renderer": name, "gaussians": count, "size": size, "dropped_pairs": 0,
        "forward": timing, "forward_and_gradient": timing,
    }  # fmt: skip


def one_grey(splat, camera):
    """A renderer that compiles at once."""
    rgb = jnp.full((camera.height, camera.width, 3), 0.1) + splat.sh.mean()
    return Rendered(rgb, rgb[..., 0], rgb[..., 0], jnp.array(7))


def test_a_row_has_times_of_a_picture_and_of_its_gradient_and_compile_seconds_apart(monkeypatch):
    monkeypatch.setitem(rasteriser.RENDERERS, "grey", one_grey)
    found = measure("grey", 30, 16, TINY)
    assert found["dropped_pairs"] == 7
    for what in ("forward", "forward_and_gradient"):
        assert 0 < found[what]["ms_best"] <= found[what]["ms"]
        assert found[what]["compile_s"] > 0


def no_cuda(*arguments):
    raise RuntimeError("needs an NVIDIA GPU")


def test_without_cuda_gsplat_is_listed_as_not_measured(monkeypatch):
    monkeypatch.setattr(rasteriser, "measure", row)
    monkeypatch.setattr(rasteriser, "measure_gsplat", no_cuda)
    rows, skipped = measure_all(replace(TINY, gaussians=(30, 40)))
    assert [(r["renderer"], r["gaussians"]) for r in rows] == [
        ("ours", 30), ("dense", 30), ("ours", 40), ("dense", 40),
    ]  # fmt: skip
    assert [r["why"] for r in skipped] == 2 * ["not measured: needs an NVIDIA GPU"]


def test_the_benchmark_writes_rows_with_their_provenance(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(rasteriser, "measure", row)
    monkeypatch.setattr(rasteriser, "measure_gsplat", no_cuda)
    main(replace(TINY, out=tmp_path / "deep" / "r.json"))
    record = json.loads((tmp_path / "deep" / "r.json").read_text())
    assert (record["schema"], record["kind"]) == (1, "rasteriser")
    assert record["rows"][0]["forward"]["ms"] == pytest.approx(1.0)
    assert {"git", "device", "versions"} <= record["provenance"].keys()
    assert "gsplat not measured: needs an NVIDIA GPU" in capsys.readouterr().out
