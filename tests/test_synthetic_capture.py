"""Captures whose truth is known: what is filmed is what the truth says."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import tyro

pytest.importorskip("manifold3d", reason="needs pip install 'p2r_jax[reconstruct]'")
cv2 = pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[reconstruct]'")

import manifold3d  # noqa: E402
import trimesh  # noqa: E402

from p2r_jax.real2sim.synthetic import (  # noqa: E402
    SyntheticConfig,
    Truth,
    camera_poses,
    read_truth,
    render_capture,
)
from p2r_jax.real2sim.synthetic_object import known_object, one_solid  # noqa: E402
from p2r_jax.real2sim.synthetic_scene import place_tag  # noqa: E402
from p2r_jax.real2sim.views import read_views  # noqa: E402
from p2r_jax.sim.asset import load_asset  # noqa: E402
from p2r_jax.sim.mesh_solid import MeshError  # noqa: E402

HAMMER = Path("../shared/data/workshop_tools/Hammer/mesh.ply")
SMALL = SyntheticConfig(views=6, width=320, height=240, tag_size_m=0.06, masks=True)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Six small pictures of the T-block, with a tag."""
    return render_capture(SMALL, tmp_path_factory.mktemp("capture") / "t")


def silhouette(mesh: trimesh.Trimesh, view) -> np.ndarray:
    """The slow twin of the renderer's mask: every triangle filled on its own."""
    mask = np.zeros((view.height, view.width), np.uint8)
    pixels = view.project(np.asarray(mesh.vertices))[:, :2] - 0.5
    for face in mesh.faces:
        cv2.fillConvexPoly(mask, (16 * pixels[face]).round().astype(np.int32), 255, shift=4)
    return mask > 0


def test_the_truth_is_the_uniform_prism_in_the_world_frame(capture):
    truth, asset = read_truth(capture), load_asset("tblock")
    assert truth.volume == pytest.approx(asset.area * asset.height_m, rel=1e-6)
    c, s = np.cos(SMALL.yaw_rad), np.sin(SMALL.yaw_rad)
    expected = [*(np.array([[c, -s], [s, c]]) @ asset.uniform_com), asset.height_m / 2]
    np.testing.assert_allclose(truth.com, expected, atol=1e-6)
    assert truth.footprint.area == pytest.approx(asset.area, rel=1e-5)
    mesh = trimesh.load(truth.mesh, process=False)
    mesh.merge_vertices()
    assert mesh.is_watertight
    assert mesh.bounds[0][2] == pytest.approx(0, abs=1e-6)


def test_masks_show_the_true_mesh_through_the_true_cameras(capture):
    mesh = trimesh.load(read_truth(capture).mesh, process=False)
    views, _ = read_views(capture / "truth" / "cameras.json")
    assert len(views) == len(list((capture / "images").iterdir())) == SMALL.views
    for view in views:
        seen, expected = view.load_mask(), silhouette(mesh, view)
        assert (seen & expected).sum() / (seen | expected).sum() > 0.97
        rim = np.concatenate([seen[0], seen[-1], seen[:, 0], seen[:, -1]])
        assert not rim.any()  # the object is in the picture as a whole
        given = cv2.imread(str(capture / "masks" / f"{view.name}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(given > 127, seen)
        assert view.load_image().std() > 20  # there is texture to find features on


def test_the_tag_lies_where_the_truth_says(capture):
    truth = read_truth(capture)
    edges = np.diff(truth.tag_corners[[0, 1, 2, 3, 0]], axis=0)
    np.testing.assert_allclose(np.linalg.norm(edges, axis=1), SMALL.tag_size_m)
    assert not shapely.Polygon(truth.tag_corners[:, :2]).intersects(truth.footprint)
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    detector, found = cv2.aruco.ArucoDetector(family), 0
    for view in read_views(capture / "truth" / "cameras.json")[0]:
        corners, ids, _ = detector.detectMarkers(view.load_image())
        if ids is not None:
            assert ids.ravel().tolist() == [0]
            expected = view.project(truth.tag_corners)[:, :2] - 0.5
            assert np.abs(np.reshape(corners, (4, 2)) - expected).max() < 2.5
            found += 1
    assert found >= 2


def test_a_film_through_a_bent_lens_shows_the_bent_masks(tmp_path):
    pytest.importorskip("av", reason="needs pip install 'p2r_jax[reconstruct]'")
    config = SyntheticConfig(
        views=3, elevations_deg=(40.0,), width=160, height=120, distortion=-0.15, video_fps=5.0
    )
    out = render_capture(config, tmp_path / "film")
    assert (out / "video.mp4").stat().st_size > 1000
    assert not (out / "images").exists()
    mesh = trimesh.load(read_truth(out).mesh, process=False)
    for view in read_views(out / "truth" / "cameras.json")[0]:
        points = np.asarray(mesh.vertices) @ view.T_camera_world[:3, :3].T
        points = points + view.T_camera_world[:3, 3]
        lens = np.array([config.distortion, 0, 0, 0])
        pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), view.K, lens)
        rows, columns = np.nonzero(view.load_mask())
        low, high = pixels[:, 0].min(0), pixels[:, 0].max(0)
        np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1.5)
        np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], high, atol=1.5)


def test_the_hand_shakes_the_same_way_for_the_same_seed():
    known = known_object("tblock", 0.0)
    poses = [camera_poses(SyntheticConfig(seed=seed), known) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(poses[0], poses[1])
    assert np.abs(poses[0] - poses[2]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.det(poses[0][:, :3, :3]), 1.0)
    assert len(poses[0]) == SyntheticConfig().views


def test_touching_bodies_become_one_solid_without_slits_and_voids():
    box, edge, slit = manifold3d.Manifold.cube, 0.03, 5e-5
    void = box((0.01, 0.01, 0.01)).translate((0.01, 0.01, 0.01))
    cut = box((slit, 0.02, 0.04)).translate((0.04, 0.02, -0.005))  # a saw cut, open to outside
    left = (box((edge, edge, edge)) - void).to_mesh()
    right = (box((edge, edge, edge)).translate((edge, 0, 0)) - cut).to_mesh()
    vertices = np.concatenate([left.vert_properties[:, :3], right.vert_properties[:, :3]])
    faces = np.concatenate([left.tri_verts, right.tri_verts + len(left.vert_properties)])
    solid, _ = one_solid(trimesh.Trimesh(vertices, faces, process=False))
    assert solid.is_watertight
    assert len(solid.split()) == 1
    assert solid.volume == pytest.approx(2 * edge**3, rel=2e-3)
    assert solid.area == pytest.approx(10 * edge**2, rel=5e-3)  # neither void nor cut nor joint
    open_box = trimesh.creation.box((edge, edge, edge))
    open_box.update_faces(np.arange(len(open_box.faces)) > 0)
    with pytest.raises(MeshError, match="does not close"):
        one_solid(open_box)


@pytest.mark.slow
@pytest.mark.skipif(not HAMMER.is_file(), reason=f"no {HAMMER}: the shared data are not here")
def test_the_hammer_is_mended_and_lies_on_the_table():
    known = known_object(str(HAMMER), 0.4)
    assert known.mesh.is_watertight
    assert known.volume == pytest.approx(208.5e-6, rel=5e-3)  # of its maker: Inertia.txt
    assert known.mesh.bounds[0][2] == pytest.approx(0, abs=1e-9)
    assert len(known.mesh.split()) == 1
    assert any("mending changed the volume" in note for note in known.notes)
    assert len(np.unique(known.colors, axis=0)) == 3


def test_bad_input_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="neither an asset nor a mesh"):
        render_capture(SyntheticConfig(object="spoon"), tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        render_capture(SMALL, tmp_path / "full")
    with pytest.raises(ValueError, match="2 views"):
        SyntheticConfig(views=2)
    with pytest.raises(ValueError, match="between 0 and 89"):
        SyntheticConfig(elevations_deg=(95.0,))
    with pytest.raises(FileNotFoundError, match="only synthetic captures"):
        read_truth(tmp_path)
    with pytest.raises(ValueError, match="no place for a tag"):
        place_tag(shapely.box(-9, -9, 9, 9), 0, 0.05, 0.01)
    monkeypatch.setenv("MUJOCO_GL", "no_such_library")
    with pytest.raises(RuntimeError, match="no OpenGL to render views with"):
        render_capture(replace(SMALL, width=64, height=48), tmp_path / "b")


def test_filming_leaves_the_environment_alone(capture):
    assert isinstance(read_truth(capture), Truth)
    assert "MUJOCO_GL" not in os.environ


def test_the_command_line_is_the_config():
    assert tyro.cli(SyntheticConfig, args=[]) == SyntheticConfig()
    args = ["--views", "9", "--shadows", "--elevations-deg", "30", "60"]
    assert tyro.cli(SyntheticConfig, args=args).elevations_deg == (30.0, 60.0)
