"""``p2r identify LOG``: from a file to a posterior, or to an error that names row and column."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from p2r_jax.cli import main
from p2r_jax.estimator.quasistatic import push_along
from p2r_jax.pushlog import PushLog, write_log
from p2r_jax.sim.asset import load_asset

TRUE_COM, RADIUS, FRICTION, TOOL = np.array([-0.03, -0.015]), 0.05, 0.25, 0.005
ROWS, PUSHES = 16, 10
QUICK = ["--sysid.motion-sampler.particles", "96", "--sysid.motion-sampler.moves", "1"]


@pytest.fixture(scope="module")
def log() -> PushLog:
    """Pushes of the triangle on its sides; the object is seen before and after each."""
    asset = load_asset("triangle_150")
    corners, rng, paths = asset.parts[0].corners, np.random.default_rng(1), []
    for i in range(PUSHES):
        a, b = corners[i % 3], corners[(i + 1) % 3]
        along = (b - a) / np.linalg.norm(b - a)
        normal = np.array([along[1], -along[0]])
        touch = a + rng.uniform(0.15, 0.85) * (b - a) + TOOL * normal
        paths.append(touch + np.linspace(0.002, -0.015, ROWS)[:, None] * normal)
    paths = np.array(paths, np.float32)

    def end(path):
        return push_along(
            asset.parts, TOOL, TRUE_COM, RADIUS, FRICTION, np.zeros(3, np.float32), path
        )

    pose = np.full((PUSHES, ROWS, 3), np.nan)
    pose[:, 0], pose[:, -1] = 0.0, np.asarray(jax.jit(jax.vmap(end))(paths))
    return PushLog(
        name="synthetic", asset="triangle_150", tool_radius_m=TOOL,
        push=np.repeat(np.arange(PUSHES), ROWS), t=np.tile(0.1 * np.arange(ROWS), PUSHES),
        object_pose=pose.reshape(-1, 3), tool_xy=paths.reshape(-1, 2).astype(float),
    )  # fmt: skip


def test_a_log_gives_theta_a_file_and_a_picture(tmp_path, log, capsys):
    file, out = tmp_path / "log.npz", tmp_path / "out"
    write_log(file, log)
    assert main(["identify", str(file), "--out", str(out), *QUICK]) == 0
    assert f"{PUSHES} segments of {PUSHES} pushes, from motion" in capsys.readouterr().out
    record = json.loads((out / "identified.json").read_text())
    theta = record["theta"]
    found = np.array([theta[f"com_object_{axis}"]["mean"] for axis in "xy"])
    sigma = np.array([theta[f"com_object_{axis}"]["sigma"] for axis in "xy"])
    assert np.abs(found - TRUE_COM).max() < 0.008
    assert (np.abs(found - TRUE_COM) < 2.5 * sigma).all()
    assert (out / "posterior.png").stat().st_size > 5000


def _changed(log: PushLog, field: str, row: int, value: float, column=None) -> PushLog:
    values = getattr(log, field).copy()
    values[(row,) if column is None else (row, column)] = value
    return replace(log, **{field: values})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: _changed(g, "t", 20, 0.0), "row 20, column t: the clock runs backwards"),
        (lambda g: _changed(g, "tool_xy", 20, 1.0, 0), "row 20, column tool_x: a jump of"),
        (lambda g: replace(g, tool_xy=g.tool_xy + 0.4), "columns tool_x, tool_y: the tool never"),
        (lambda g: replace(g, object_pose=1000 * g.object_pose, tool_xy=1000 * g.tool_xy),
         "are these millimetres? The format is in metres"),
    ],
)  # fmt: skip
def test_a_bad_log_is_refused_with_row_and_column_before_anything_is_written(
    tmp_path, log, capsys, spoil, message
):
    file, out = tmp_path / "log.npz", tmp_path / "out"
    write_log(file, spoil(log))
    assert main(["identify", str(file), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_missing_columns_are_named(tmp_path, capsys):
    file = tmp_path / "log.csv"
    file.write_text("t,object_x,object_y,tool_x,tool_y\n0,0,0,0,0\n")
    assert main(["identify", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "object_yaw" in capsys.readouterr().err


def test_a_log_without_an_asset_asks_for_one(tmp_path, log, capsys):
    file = tmp_path / "log.npz"
    write_log(file, replace(log, asset=None))
    assert main(["identify", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "--asset NAME_OR_FOLDER" in capsys.readouterr().err


def test_a_bad_push_of_a_parquet_log_is_left_out_and_gaps_in_force_are_told(tmp_path, log, capsys):
    pytest.importorskip("pyarrow", reason="parquet logs need pip install 'p2r_jax[logs]'")
    file, out = tmp_path / "log.parquet", tmp_path / "out"
    felt = replace(log, force_xy=np.where(log.push[:, None] == 3, np.nan, np.ones((log.t.size, 2))))
    write_log(file, _changed(felt, "t", 20, 0.0))
    args = ["identify", str(file), "--out", str(out), "--on-bad", "exclude", *QUICK]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "left out push 1: row 20, column t" in printed
    assert "force (force_x, force_y) has gaps in pushes 3: not used" in printed
    record = json.loads((out / "identified.json").read_text())
    (left_out,) = record["excluded"]
    assert left_out["push"] == 1
    assert record["pushes_with_gaps_in_force"] == [3]
    assert record["evidence"] == "motion"
