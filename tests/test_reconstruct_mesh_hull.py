"""Visual hulls against a per-node loop, known shapes, bad masks; the z-buffer against rays."""

from dataclasses import replace

import numpy as np
import pytest

trimesh = pytest.importorskip("trimesh", reason="needs meshes: pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("skimage", reason="needs marching cubes: pip install 'p2r_jax[reconstruct]'")

from mesh_captures import MIDDLE, photograph, ring, t_block  # noqa: E402
from PIL import Image  # noqa: E402

from p2r_jax.real2sim.errors import CaptureError  # noqa: E402
from p2r_jax.real2sim.mesh.hull import (  # noqa: E402
    HullConfig,
    carve,
    hull_field,
    silhouette,
    surface_points,
)
from p2r_jax.real2sim.mesh.render import depth_of, silhouette_iou  # noqa: E402
from p2r_jax.real2sim.mesh.volume import box_grid, sample, zero_surface  # noqa: E402


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """A turned T-block, 24 views of 160 px at three elevations."""
    block = t_block(yaw=0.4)
    views = ring(MIDDLE, 0.5, 24, (0.15, 0.6, 1.1), size=160, focal=380.0)
    return block, photograph(block, views, tmp_path_factory.mktemp("capture"))


def slow_distance(view, point) -> float:
    """Metric silhouette distance of one point: every mask pixel looked at, no grid, no blur."""
    q = view.T_camera_world[:3, :3] @ point + view.T_camera_world[:3, 3]
    u, v = (view.K @ q)[:2] / q[2]
    mask = view.load_mask()
    rows, columns = np.indices(mask.shape) + 0.5
    apart = np.hypot(rows - v, columns - u)
    inside = mask[int(v), int(u)]
    return (-1 if inside else 1) * (apart[mask != inside].min() - 0.5) * q[2] / view.K[0, 0]


def test_field_is_that_of_a_loop_over_nodes_and_views(capture):
    """Twin: within half a pixel (the loop has no sub-pixel sampling and no blur)."""
    _, views = capture
    views = views[::6]
    nodes = np.random.default_rng(0).uniform([-0.08, -0.08, 0.0], [0.08, 0.08, 0.05], (40, 3))
    fast = hull_field(nodes, [silhouette(view) for view in views], HullConfig())
    slow = [max(*(slow_distance(view, node) for view in views), -node[2]) for node in nodes]
    pixel = 0.5 / 380
    assert np.abs(fast - slow).max() < 0.8 * pixel
    assert np.ptp(slow) > 20 * pixel


def test_coarse_to_fine_equals_the_field_at_every_node(capture):
    """Same sign everywhere, same value at the nodes beside the surface."""
    _, views = capture
    config = HullConfig(voxel_m=0.0015)
    hull = carve(views, config)
    assert max(hull.grid.shape) > 80
    full = hull_field(hull.grid.nodes(), hull.silhouettes, config).reshape(hull.grid.shape)
    assert ((hull.field < 0) == (full < 0)).all()
    near = np.abs(full) < hull.grid.voxel
    np.testing.assert_array_equal(hull.field[near], full[near])


def test_hull_is_exact_in_the_plane_and_encloses_the_object(capture):
    block, views = capture
    mesh = carve(views, HullConfig(voxel_m=0.0015)).mesh()
    assert mesh.is_watertight
    assert np.abs((mesh.center_mass - block.center_mass)[:2]).max() < 3e-4
    assert 1.0 < mesh.volume / block.volume < 1.2
    assert mesh.bounds[0, 2] == pytest.approx(0, abs=1e-5)
    assert min(silhouette_iou(mesh, view, view.load_mask()) for view in views) > 0.95


def test_pixel_width_sets_the_voxel_and_resolution_limits_it(capture):
    _, views = capture
    assert carve(views[:6]).grid.voxel == pytest.approx(0.5 / 380, rel=0.1)
    assert max(carve(views[:6], HullConfig(resolution=40)).grid.shape) < 50


def test_dissent_forgives_a_wrong_mask(capture, tmp_path):
    block, views = capture
    shifted = np.roll(views[3].load_mask(), 25, axis=1)
    Image.fromarray(np.uint8(255) * shifted).save(tmp_path / "shifted.png")
    views = [*views[:3], replace(views[3], mask=tmp_path / "shifted.png"), *views[4:]]
    strict = carve(views, HullConfig(voxel_m=0.002)).mesh()
    robust = carve(views, HullConfig(voxel_m=0.002, dissent=1)).mesh()
    assert strict.volume < 0.85 * block.volume
    assert 1.0 < robust.volume / block.volume < 1.3
    assert np.abs((robust.center_mass - block.center_mass)[:2]).max() < 1e-3


def test_views_that_contradict_are_named(capture):
    _, views = capture
    moved = views[5].T_camera_world.copy()
    moved[0, 3] += 0.15
    views = [*views[:5], replace(views[5], T_camera_world=moved), *views[6:]]
    with pytest.raises(CaptureError, match=r"no volume in common.*leave them out.*\[0005\]"):
        carve(views, HullConfig(voxel_m=0.002))


def test_poses_without_a_common_point_are_told_from_bad_masks(capture):
    _, views = capture
    turned = [replace(v, T_camera_world=views[0].T_camera_world) for v in views[:1]]
    for i, view in enumerate(views[1:12]):
        T = view.T_camera_world.copy()
        T[:2, 3] += 0.1 * np.array([np.cos(2.4 * i), np.sin(2.4 * i)])
        turned.append(replace(view, T_camera_world=T))
    with pytest.raises(CaptureError, match="poses or the world frame"):
        carve(turned, HullConfig(voxel_m=0.002))


def test_empty_mask_and_too_few_views_are_refused(capture, tmp_path):
    _, views = capture
    Image.fromarray(np.zeros((160, 160), np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(CaptureError, match=r"covers 0 pixels.*\[0000\]"):
        carve([replace(views[0], mask=tmp_path / "empty.png"), *views[1:]])
    with pytest.raises(CaptureError, match="1 views cannot be carved; give at least 2"):
        carve(views[:1])


def test_surface_points_lie_on_the_surface_and_have_the_objects_colour(capture):
    _, views = capture
    hull = carve(views, HullConfig(voxel_m=0.002))
    points, normals, colours = surface_points(hull, views, 300, seed=1)
    assert points.shape == normals.shape == colours.shape == (300, 3)
    assert np.abs(hull.signed_distance(points)).max() < 0.7 * hull.grid.voxel
    step = hull.signed_distance(points + 0.003 * normals)
    assert (step > 0).mean() > 0.97
    np.testing.assert_allclose(colours * 255, np.tile((200, 120, 40), (300, 1)), atol=1)
    again, _, _ = surface_points(hull, views, 300, seed=1)
    np.testing.assert_array_equal(points, again)


def test_zero_surface_of_a_ball_is_closed_and_has_its_volume():
    grid = box_grid(np.full(3, -0.03), np.full(3, 0.03), 0.002)
    field = np.linalg.norm(grid.nodes(), axis=1).reshape(grid.shape) - 0.02
    mesh = zero_surface(field, grid)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.02**3, rel=0.01)
    assert sample(field, grid, np.array([[0.01, 0.0, 0.0]]))[0] == pytest.approx(-0.01)
    with pytest.raises(ValueError, match="nowhere negative"):
        zero_surface(np.abs(field) + 1, grid)


def slow_depth(mesh, view, u, v) -> float:
    """Nearest hit of one pixel's ray with every triangle in turn (Moeller-Trumbore)."""
    direction = np.linalg.solve(view.K @ view.T_camera_world[:3, :3], [u, v, 1.0])
    start, best = view.position, np.inf
    for a, b, c in mesh.triangles:
        e1, e2 = b - a, c - a
        p = np.cross(direction, e2)
        det = e1 @ p
        if abs(det) < 1e-15:
            continue
        s = (start - a) @ p / det
        q = np.cross(start - a, e1)
        t, distance = direction @ q / det, e2 @ q / det
        if s >= 0 and t >= 0 and s + t <= 1 and distance > 0:
            best = min(best, distance)
    return best


def test_depth_is_that_of_rays_through_pixel_centres():
    block = t_block(yaw=0.3)
    view = ring(MIDDLE, 0.4, 1, (0.6,), size=24, focal=54.0)[0]
    slow = [[slow_depth(block, view, u + 0.5, v + 0.5) for u in range(24)] for v in range(24)]
    depth = depth_of(block, view)
    assert (np.isfinite(depth) == np.isfinite(slow)).mean() > 0.999
    both = np.isfinite(depth) & np.isfinite(slow)
    assert both.sum() > 40
    np.testing.assert_allclose(depth[both], np.array(slow)[both], atol=1e-9)
