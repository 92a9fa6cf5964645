"""The whole chain on a small synthetic capture, its restarts, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from p2r_jax import cli
from p2r_jax.real2sim import pipeline
from p2r_jax.real2sim.cameras.scale import ScaleConfig
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import FramesConfig
from p2r_jax.real2sim.ledger import Ledger, capture_fingerprint, fingerprint
from p2r_jax.real2sim.mesh.hull import HullConfig
from p2r_jax.real2sim.pipeline import STEPS, Step, preset_config, reconstruct
from p2r_jax.real2sim.synthetic import SyntheticConfig, read_truth, render_capture
from p2r_jax.sim.asset import load_asset
from p2r_jax.task_files import read_task


@pytest.fixture
def photos(tmp_path):
    """A capture that no step looks at."""
    folder = tmp_path / "capture"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Every step replaced by one that says its name; the calls so far."""
    calls = []

    def step(name):
        return Step(
            lambda config, done: calls.append(name) or name,
            lambda config, done: f"{name} from disk",
        )

    monkeypatch.setattr(pipeline, "STEPS", {name: step(name) for name in STEPS})
    monkeypatch.setattr(pipeline, "write_report", lambda out, stopped: out / "report.html")
    return calls


def run_of(photos, **changes):
    base = preset_config("portable", photos, photos.parent / "out")
    return replace(base, asset=replace(base.asset, mass=0.2), **changes)


def test_every_step_runs_once_and_is_skipped_when_started_again(photos, counted):
    first = reconstruct(run_of(photos))
    assert counted == list(STEPS)
    again = reconstruct(run_of(photos))
    assert counted == list(STEPS)
    assert first.asset == "asset"
    assert again.asset == "asset from disk"


def test_another_setting_redoes_its_step_and_those_after_it(photos, counted):
    reconstruct(run_of(photos))
    counted.clear()
    config = run_of(photos)
    reconstruct(replace(config, mesh=replace(config.mesh, held_out=4)))
    assert counted == ["mesh", "asset"]


def test_another_capture_redoes_everything(photos, counted):
    reconstruct(run_of(photos))
    counted.clear()
    (photos / "b.png").write_bytes(b"22")
    reconstruct(run_of(photos))
    assert counted == list(STEPS)


def test_redo_does_a_step_again_with_the_same_settings(photos, counted):
    reconstruct(run_of(photos))
    counted.clear()
    reconstruct(run_of(photos, redo="splat"))
    assert counted == ["splat", "mesh", "asset"]


def test_a_redo_that_stops_early_leaves_nothing_old_for_done(photos, counted):
    reconstruct(run_of(photos))
    reconstruct(run_of(photos, redo="masks", until="masks"))
    counted.clear()
    reconstruct(run_of(photos))
    assert counted == ["cameras", "splat", "mesh", "asset"]


def test_a_redo_after_the_last_step_is_refused(photos, counted):
    with pytest.raises(ValueError, match="--redo mesh comes after --until masks"):
        reconstruct(run_of(photos, redo="mesh", until="masks"))


def test_a_capture_and_an_output_in_each_other_are_refused(photos, counted):
    for capture, out in ((photos, photos / "out"), (photos / "frames", photos)):
        capture.mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="choose another --out"):
            reconstruct(replace(run_of(photos), capture=capture, out=out))
    assert (photos / "a.png").is_file()
    assert counted == []


def test_files_that_settings_name_count(photos, counted):
    poses = photos.parent / "transforms.json"
    poses.write_text("1")
    config = run_of(photos)
    config = replace(config, cameras=replace(config.cameras, poses=poses))
    reconstruct(config)
    counted.clear()
    poses.write_text("22")
    reconstruct(config)
    assert counted == ["cameras", "splat", "mesh", "asset"]


def test_masks_beside_the_images_count(photos, counted):
    images = photos.rename(photos.parent / "images")
    config = run_of(images)
    reconstruct(config)
    counted.clear()
    (images.parent / "masks").mkdir()
    (images.parent / "masks" / "a.png").write_bytes(b"1")
    reconstruct(config)
    assert counted == list(STEPS)


def test_where_the_splat_starts_counts(photos, counted):
    reconstruct(run_of(photos))
    counted.clear()
    config = run_of(photos)
    hull = replace(config.mesh.hull, dissent=1)
    reconstruct(replace(config, mesh=replace(config.mesh, hull=hull)))
    assert counted == ["splat", "mesh", "asset"]


def test_a_step_whose_files_are_gone_is_done_again(photos, counted, monkeypatch):
    reconstruct(run_of(photos))
    counted.clear()

    def gone(config, done):
        raise FileNotFoundError("no frames.json")

    steps = dict(pipeline.STEPS)
    monkeypatch.setitem(pipeline.STEPS, "masks", steps["masks"]._replace(read=gone))
    reconstruct(run_of(photos))
    assert counted == list(STEPS)[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": {"segmenter": "sam2"}}, r"--masks\.sam2\.checkpoint"),
        ({"splat": {"backend": "gsplat"}}, "gsplat"),
    ],
)
def test_tools_that_are_not_there_are_missed_before_anything_runs(photos, counted, change, message):
    config = run_of(photos)
    changes = {name: replace(getattr(config, name), **new) for name, new in change.items()}
    with pytest.raises((FileNotFoundError, ImportError), match=message):
        reconstruct(replace(config, **changes))
    assert counted == []


def test_until_stops_early_and_asks_for_no_mass(photos, counted):
    config = preset_config("portable", photos, photos.parent / "out")
    reconstruct(replace(config, until="cameras"))
    assert counted == ["frames", "masks", "cameras"]


def test_a_failed_step_is_named_and_the_finished_ones_are_kept(photos, counted, monkeypatch):
    def fail(config, done):
        raise CaptureError("the mask is empty", ["0003"])

    steps = dict(pipeline.STEPS)
    monkeypatch.setitem(pipeline.STEPS, "cameras", Step(fail, fail))
    with pytest.raises(CaptureError, match=r"cameras: .* \[0003\] .*kept: frames, masks"):
        reconstruct(run_of(photos))
    counted.clear()
    monkeypatch.setitem(pipeline.STEPS, "cameras", steps["cameras"])
    reconstruct(run_of(photos))
    assert counted == ["cameras", "splat", "mesh", "asset"]


def test_an_interrupted_step_is_not_taken_for_done(photos, counted, monkeypatch):
    reconstruct(run_of(photos))

    def interrupted(config, done):
        raise KeyboardInterrupt

    monkeypatch.setitem(pipeline.STEPS, "splat", Step(interrupted, interrupted))
    with pytest.raises(KeyboardInterrupt):
        reconstruct(run_of(photos, redo="splat"))
    steps = json.loads((photos.parent / "out" / "steps.json").read_text())["steps"]
    assert "splat" not in steps
    assert "cameras" in steps


def test_what_pictures_do_not_tell_is_asked_for_first(photos, counted):
    with pytest.raises(ValueError, match=r"--asset\.mass"):
        reconstruct(preset_config("portable", photos, photos.parent / "out"))
    assert counted == []


def test_the_command_says_what_is_missing(photos, capsys):
    out = str(photos.parent / "out")
    assert cli.main(["reconstruct", str(photos / "none"), "--out", out, "--asset.mass", "1"]) == 2
    assert "no capture" in capsys.readouterr().err
    assert cli.main(["reconstruct", str(photos), "--out", out, "--preset", "papre"]) == 2
    assert "portable" in capsys.readouterr().err


def test_presets_choose_the_tools(photos):
    paper = preset_config("paper", photos, photos)
    assert (paper.masks.segmenter, paper.splat.backend) == ("sam2", "gsplat")
    assert (paper.mesh.surface, paper.mesh.backend) == ("level_set", "pymeshlab")
    assert paper.mesh.symmetry.mirror == "yes"


def test_fingerprints_follow_settings_and_what_came_before(photos):
    settings = FramesConfig()
    assert fingerprint("a", settings) == fingerprint("a", FramesConfig())
    assert fingerprint("a", settings) != fingerprint("b", settings)
    assert fingerprint("a", settings) != fingerprint("a", FramesConfig(count=20))
    assert capture_fingerprint(photos) == capture_fingerprint(photos)


def test_the_ledger_remembers_across_processes(tmp_path):
    Ledger(tmp_path).finished("frames", "abc", 1.0)
    again = Ledger(tmp_path)
    assert again.is_done("frames", "abc")
    assert not again.is_done("frames", "other")
    again.forget(["frames", "masks"])
    assert not Ledger(tmp_path).is_done("frames", "abc")


@pytest.mark.slow
def test_pictures_become_an_object_that_trains(tmp_path):
    """Coarse settings, true poses: the whole chain in a minute."""
    capture = tmp_path / "capture"
    render_capture(SyntheticConfig(views=24, width=320, height=240, seed=1), capture)
    base = preset_config("portable", capture, tmp_path / "tee")
    config = replace(
        base,
        cameras=replace(
            base.cameras,
            poses=capture / "truth" / "cameras.json",
            scale=ScaleConfig(metric=True),
        ),
        splat=replace(base.splat, size=96, gaussians=1500, iterations=200),
        mesh=replace(base.mesh, hull=HullConfig(voxel_m=2e-3)),
        asset=replace(base.asset, mass=0.2),
    )
    made = reconstruct(config)
    truth = trimesh.load(read_truth(capture).mesh)
    mesh = trimesh.load(made.out / "mesh" / "mesh.ply")
    assert mesh.is_watertight
    assert abs(mesh.volume / truth.volume - 1) < 0.1
    assert np.linalg.norm((mesh.center_mass - truth.center_mass)[:2]) < 3e-3
    assert "data:image" in made.report.read_text()
    assert read_task(made.out).object == load_asset(made.out / "asset")
    assert made.asset.asset.com_m[0] == pytest.approx(0.0317, abs=3e-3)
