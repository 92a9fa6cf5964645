"""The mesh step end to end on small captures: files, held-out views, mirroring, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh", reason="needs meshes: pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("skimage", reason="needs marching cubes: pip install 'p2r_jax[reconstruct]'")

from mesh_captures import depth_maps, photograph, ring, shell_of, t_block  # noqa: E402

from p2r_jax.real2sim.errors import CaptureError  # noqa: E402
from p2r_jax.real2sim.mesh.clean import CleanConfig  # noqa: E402
from p2r_jax.real2sim.mesh.hull import HullConfig  # noqa: E402
from p2r_jax.real2sim.mesh.level_set import LevelSetConfig  # noqa: E402
from p2r_jax.real2sim.mesh.metrics import mesh_errors  # noqa: E402
from p2r_jax.real2sim.mesh.step import (  # noqa: E402
    MeshConfig,
    make_mesh,
    read_mirror,
    split_views,
)
from p2r_jax.real2sim.mesh.symmetry import SymmetryConfig  # noqa: E402

SMALL = MeshConfig(hull=HullConfig(voxel_m=0.002), clean=CleanConfig(faces=8000))


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A T-block, 18 views of 128 px, and its depth as a splat sees it."""
    block = t_block(yaw=0.4)
    views = ring((0, 0, 0.015), 0.5, 18, (0.3, 0.7, 1.1), size=128, focal=300.0)
    views = photograph(block, views, tmp_path_factory.mktemp("t"))
    return block, views, depth_maps(block, views, bias=1.5e-3, noise=5e-4)


def hammer():
    """A handle with a head that reaches further to one side."""
    parts = [
        trimesh.creation.box((0.18, 0.024, 0.024)),
        trimesh.creation.box((0.03, 0.09, 0.03)).apply_translation((0.09, 0.02, 0.003)),
    ]
    return trimesh.boolean.union(parts, engine="manifold").apply_translation((0, 0, 0.012))


def test_a_t_becomes_a_closed_mirrored_mesh_and_says_how_good_it_is(capture, tmp_path):
    block, views, depths = capture
    result = make_mesh(SMALL, views, depths, None, tmp_path / "mesh")
    read = trimesh.load(tmp_path / "mesh" / "mesh.ply", process=False)
    record = json.loads((tmp_path / "mesh" / "mesh.json").read_text())
    errors = mesh_errors(read, block, samples=3000)
    assert errors.watertight
    assert record["watertight"]
    assert errors.com_plane_m < 1e-3
    assert abs(errors.volume) < 0.08
    assert errors.chamfer_m < 1e-3
    assert errors.footprint_iou > 0.9
    assert read.bounds[0, 2] == 0
    assert record["volume_m3"] == pytest.approx(read.volume, rel=1e-4)
    assert record["faces"] == len(read.faces) <= 8000
    assert result.mirrored
    assert record["symmetry"]["mirrored"]
    assert read_mirror(tmp_path / "mesh").yaw_rad == pytest.approx(0.4, abs=0.01)
    assert result.held_out == ("0004", "0012")
    iou = record["silhouette_iou"]
    assert set(iou["by_view"]) == {view.name for view in views}
    assert iou["held_out"]["mean"] > 0.93
    colours = read.visual.vertex_colors[:, :3]
    np.testing.assert_allclose(np.median(colours, axis=0), (200, 120, 40), atol=2)


def test_held_out_views_are_those_of_the_splat(capture):
    fit = pytest.importorskip("p2r_jax.real2sim.splat.fit")
    _, views, _ = capture
    assert split_views(views, 8) == fit.split_views(views, 8)
    assert split_views(views, 0) == (views, [])


def test_held_out_views_shape_nothing(capture, tmp_path):
    """A held-out mask may be ruined without changing the mesh."""
    from PIL import Image

    _, views, _ = capture
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(tmp_path / "empty.png")
    ruined = [*views[:4], replace(views[4], mask=tmp_path / "empty.png"), *views[5:]]
    config = replace(SMALL, unshrink=False)
    meshes = [make_mesh(config, v, None, None, tmp_path / n).mesh for v, n in
              ((views, "whole"), (ruined, "ruined"))]  # fmt: skip
    np.testing.assert_array_equal(meshes[0].vertices, meshes[1].vertices)


def test_a_symmetric_hammer_that_is_not_stops_with_score_threshold_and_picture(tmp_path):
    views = ring((0, 0, 0.012), 0.5, 10, (0.4, 0.9), size=128, focal=220.0)
    views = photograph(hammer(), views, tmp_path / "capture")
    out = tmp_path / "mesh"
    strict = replace(SMALL, symmetry=SymmetryConfig(mirror="yes"), unshrink=False)
    with pytest.raises(CaptureError, match=r"not symmetric.*score of 0\.\d+.*0\.02.*mirror no"):
        make_mesh(strict, views, None, None, out)
    assert (out / "asymmetry.png").is_file()
    assert not (out / "mesh.json").exists()
    result = make_mesh(replace(strict, symmetry=SymmetryConfig()), views, None, None, out)
    assert not result.mirrored
    assert "not mirrored" in result.record["notes"][0]
    assert result.mesh.is_watertight
    assert read_mirror(out) is None


def test_a_level_set_needs_no_views_but_a_splat(capture, tmp_path):
    block, views, _ = capture
    config = replace(SMALL, surface="level_set", level_set=LevelSetConfig(voxel_m=0.002))
    result = make_mesh(config, [], None, shell_of(block), tmp_path)
    assert result.mesh.is_watertight
    assert result.iou == {}
    assert abs(result.mesh.volume / block.volume - 1) < 0.2
    with pytest.raises(ValueError, match="level set is that of a splat"):
        make_mesh(config, views, None, None, tmp_path)


@pytest.mark.slow
def test_pymeshlab_backend_makes_a_closed_mesh_too(capture, tmp_path):
    pytest.importorskip("pymeshlab", reason="needs pip install 'p2r_jax[pymeshlab]'")
    block, views, depths = capture
    config = replace(SMALL, backend="pymeshlab", unshrink=False)
    result = make_mesh(config, views, depths, None, tmp_path)
    errors = mesh_errors(result.mesh, block, samples=3000)
    assert errors.watertight
    assert errors.chamfer_m < 1.5e-3


def test_depth_of_other_views_is_refused(capture, tmp_path):
    _, views, depths = capture
    others = [replace(d, view=replace(d.view, name="x" + d.view.name)) for d in depths[:2]]
    with pytest.raises(ValueError, match="none of the depth maps"):
        make_mesh(replace(SMALL, unshrink=False), views, others, None, tmp_path)
