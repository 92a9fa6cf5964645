"""The asset step: mesh and weight become a folder that trains."""

import io
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import trimesh
from PIL import Image

from p2r_jax.real2sim.asset.convex import ConvexConfig, boxes_around, convex_parts, overlap_error
from p2r_jax.real2sim.asset.densities import Slab, slab_mass_properties
from p2r_jax.real2sim.asset.manifold import as_manifold
from p2r_jax.real2sim.asset.step import AssetConfig, check_asset_config, make_asset
from p2r_jax.real2sim.asset.texture import baked, textured_files
from p2r_jax.sim.asset import load_asset
from p2r_jax.task_files import read_task

YAW = 0.4  # of the T in its capture, rad


@pytest.fixture(scope="module")
def tee() -> trimesh.Trimesh:
    """The paper's outline, 40 mm thick, on the table, turned, coloured by position."""
    bar = trimesh.creation.box((0.0476, 0.2, 0.04)).apply_translation((0.0762, 0, 0.02))
    stem = trimesh.creation.box((0.16, 0.05, 0.04)).apply_translation((-0.02, 0, 0.02))
    mesh = trimesh.boolean.union([bar, stem], engine="manifold").subdivide().subdivide()
    colors = np.clip(1000 * mesh.vertices + 128, 0, 255).astype(np.uint8)
    mesh.visual.vertex_colors = np.column_stack([colors, np.full(len(colors), 255, np.uint8)])
    return mesh.apply_transform(trimesh.transformations.rotation_matrix(YAW, (0, 0, 1)))


@pytest.fixture(scope="module")
def made(tee, tmp_path_factory):
    out = tmp_path_factory.mktemp("tee")
    tee.export(out / "mesh.ply")
    config = AssetConfig(name="tee", mass=0.2)
    return make_asset(config, out / "mesh.ply", (-np.sin(YAW), np.cos(YAW), 0.0), out), out


def test_the_mirror_plane_gives_the_axis_and_the_heavy_end_its_sign(made):
    result, _ = made
    np.testing.assert_allclose(result.asset.com_m, (0.0317, 0, 0), atol=1e-4)
    np.testing.assert_allclose(result.T_object_world[0, :2], (np.cos(YAW), np.sin(YAW)), atol=1e-6)
    assert [spec.name for spec in result.task.theta] == ["com_object_x"]


def test_the_folder_reads_back_as_asset_and_task(made):
    result, out = made
    assert load_asset(out / "asset") == result.asset
    assert read_task(out) == result.task


@pytest.mark.parametrize("variant", ["hull32", "boxes"])
def test_every_variant_rests_on_the_table(made, variant):
    _, out = made
    spec = mujoco.MjSpec.from_file(str(out / "asset" / f"object_{variant}.xml"))
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
    model = spec.compile()
    data = mujoco.MjData(model)
    for _ in range(500):
        mujoco.mj_step(model, data)
    np.testing.assert_allclose(data.qpos[:3], (0, 0, 0.02), atol=1e-3)
    np.testing.assert_allclose(np.abs(data.qpos[3]), 1.0, atol=1e-4)


def test_the_scene_for_the_viewer_compiles_with_the_texture(made):
    _, out = made
    model = mujoco.MjModel.from_xml_path(str(out / "asset" / "scene.xml"))
    assert model.ntex == 1
    assert model.body("object").mass == pytest.approx(0.2)


def test_hulls_stand_for_the_mesh_and_boxes_for_the_hulls(tee):
    turned_back = trimesh.transformations.rotation_matrix(-YAW, (0, 0, 1))
    tee = tee.copy().apply_transform(turned_back)  # CoACD cuts along the axes only
    hulls = convex_parts(tee, ConvexConfig())
    assert all(len(hull.vertices) <= 32 for hull in hulls)
    assert abs(overlap_error(hulls, tee)) < 0.01
    volume = sum(box.volume for box in boxes_around(hulls))
    assert volume == pytest.approx(tee.volume, rel=0.02)


def test_slabs_weigh_what_two_bodies_weigh():
    handle = trimesh.creation.box((0.2, 0.02, 0.02)).apply_translation((-0.1, 0, 0))
    head = trimesh.creation.box((0.04, 0.08, 0.02)).apply_translation((0.02, 0, 0))
    whole = trimesh.boolean.union([handle, head], engine="manifold")
    weighed = slab_mass_properties(whole, 600.0, [Slab(0.0, 1.0, 7800.0)])
    masses = 600.0 * handle.volume, 7800.0 * head.volume
    com = (masses[0] * handle.center_mass + masses[1] * head.center_mass) / sum(masses)
    assert weighed.mass_kg == pytest.approx(sum(masses), rel=1e-5)
    np.testing.assert_allclose(weighed.com, com, atol=1e-6)
    expected = np.zeros((3, 3))
    for body, density, mass in ((handle, 600.0, masses[0]), (head, 7800.0, masses[1])):
        d = body.center_mass - com
        expected += density * body.moment_inertia + mass * (d @ d * np.eye(3) - np.outer(d, d))
    np.testing.assert_allclose(weighed.inertia, expected, rtol=1e-4, atol=1e-9)


def test_slabs_move_the_centre_of_mass_of_the_asset(tee, tmp_path):
    tee.export(tmp_path / "mesh.ply")
    config = AssetConfig(name="tee", mass=0.3, density=1.0, slabs=(Slab(0.05, 0.2, 3.0),))
    asset = make_asset(
        config, tmp_path / "mesh.ply", (-np.sin(YAW), np.cos(YAW), 0), tmp_path
    ).asset
    assert asset.mass_kg == 0.3
    assert asset.com_m[0] > 0.045


@pytest.mark.parametrize(
    ("slabs", "message"),
    [
        ((Slab(0.1, 0.0, 1.0),), "empty"),
        ((Slab(0.0, 0.1, -1.0),), "positive density"),
        ((Slab(1.0, 2.0, 1.0),), "misses the object"),
        ((Slab(-0.1, 0.05, 1.0), Slab(0.0, 0.1, 2.0)), "overlap"),
    ],
)
def test_slabs_that_cannot_be_are_refused(slabs, message):
    with pytest.raises(ValueError, match=message):
        slab_mass_properties(trimesh.creation.box((0.2, 0.1, 0.02)), 1.0, slabs)


def test_an_open_mesh_is_no_solid():
    box = trimesh.creation.box((0.1, 0.1, 0.1))
    box.update_faces(np.arange(len(box.faces)) > 1)
    with pytest.raises(ValueError, match="encloses no solid"):
        as_manifold(box)


def test_the_texture_shows_every_corner_in_its_colour():
    mesh = trimesh.creation.icosphere(2)
    colors = np.random.default_rng(0).integers(0, 255, (len(mesh.vertices), 3)).astype(np.uint8)
    uv, picture = baked(mesh, colors)
    at = np.stack([uv[..., 0], 1 - uv[..., 1]], -1) * len(picture) - 0.5
    low = np.floor(at).astype(int)
    x, y = np.moveaxis(at - low, -1, 0)[..., None]
    corner = [
        picture[low[..., 1] + j, low[..., 0] + i].astype(float) for j in (0, 1) for i in (0, 1)
    ]
    seen = (1 - y) * ((1 - x) * corner[0] + x * corner[1]) + y * (
        (1 - x) * corner[2] + x * corner[3]
    )
    wrong = np.abs(seen - colors[mesh.faces])
    assert np.median(wrong) < 1.0
    assert np.percentile(wrong, 95) < 25.0  # colours are clipped beyond a triangle's edge


def test_the_visual_files_name_each_other_correctly():
    files = textured_files(trimesh.creation.box(), np.full((8, 3), 200, np.uint8), "visual")
    assert np.asarray(Image.open(io.BytesIO(files["visual.png"]))).max() == 200
    lines = files["visual.obj"].decode().splitlines()
    assert sum(line.startswith("f ") for line in lines) == 12
    assert sum(line.startswith("vt ") for line in lines) == 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "--asset.mass"),
        ({"mass": -1.0}, "must be positive"),
        ({"mass": 1.0, "density": 700.0}, "not both"),
        ({"mass": 1.0, "slabs": (Slab(0.0, 0.1, 2.0),)}, "what the object weighs elsewhere"),
        ({"mass": 1.0, "base": "push_tee"}, "push_tblock"),
    ],
)
def test_what_pictures_do_not_tell_is_asked_for_before_anything_runs(change, message):
    with pytest.raises((ValueError, KeyError), match=message):
        check_asset_config(replace(AssetConfig(), **change))


def test_the_mirror_axis_of_an_object_without_one_is_refused(tee, tmp_path):
    tee.export(tmp_path / "mesh.ply")
    config = AssetConfig(name="tee", mass=0.2, axis="mirror")
    with pytest.raises(ValueError, match="no mirror plane"):
        make_asset(config, tmp_path / "mesh.ply", None, tmp_path)
