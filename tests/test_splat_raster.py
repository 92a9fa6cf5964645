"""The rasteriser against its dense twin: pictures, gradients, and what it counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p2r_jax.real2sim.splat.dense import render_dense
from p2r_jax.real2sim.splat.gaussians import Splat, rotation_matrices
from p2r_jax.real2sim.splat.projection import Camera, project
from p2r_jax.real2sim.splat.raster import render
from p2r_jax.real2sim.splat.surface import bend, facing_normals, median_depth
from p2r_jax.real2sim.splat.tiles import ALPHA_MIN, RasterSettings, tile_lists

WIDTH, HEIGHT = 44, 36  # neither is a multiple of the tile
GRADIENT = 1e-5  # relative to the largest entry: single precision, sums of some 1000 terms
ROUNDING = 5e-6
FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


def some_splat(count=150, seed=0, degree=1):
    rng = np.random.default_rng(seed)
    leaves = (
        rng.normal(0, 0.05, (count, 3)),
        rng.normal(size=(count, 4)),
        np.log(rng.uniform(0.002, 0.015, (count, 3))),
        rng.normal(0, 2, count),
        rng.normal(0, 0.5, (count, (degree + 1) ** 2, 3)),
    )
    return Splat(*(jnp.asarray(x, jnp.float32) for x in leaves))


def camera(width=WIDTH, height=HEIGHT):
    K = [[70.0, 0, 0.52 * width], [0, 75.0, 0.46 * height], [0, 0, 1]]
    R = np.asarray(rotation_matrices(jnp.array([0.9, 0.1, -0.3, 0.2])))
    T = np.block([[R, np.array([[0.01], [-0.02], [0.3]])], [np.zeros((1, 3)), np.ones((1, 1))]])
    return Camera(jnp.asarray(T, jnp.float32), jnp.asarray(K, jnp.float32), width, height)


def pose(x=0.01, yaw=0.3):
    c, s = jnp.cos(yaw), jnp.sin(yaw)
    return jnp.array([[c, -s, 0, x], [s, c, 0, 0.02], [0, 0, 1, 0.0], [0, 0, 0, 1]])


def error_of(renderer, splat, camera, T_world_object):
    """A scalar that depends on colour, depth and alpha of every pixel, and the picture."""
    seen = renderer(splat, camera, T_world_object)
    rng = np.random.default_rng(3)
    wanted = jnp.asarray(rng.uniform(size=(camera.height, camera.width, 3)), jnp.float32)
    found = seen.rgb + 0.3 * (1 - seen.alpha[..., None])
    return jnp.mean((found - wanted) ** 2) + 0.5 * jnp.mean(seen.depth * wanted[..., 0]), seen


def gradient_of(renderer):
    loss = partial(error_of, renderer)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


FAST, SLOW = gradient_of(render), gradient_of(render_dense)  # compiled once for all tests
PROJECT, MEDIAN = jax.jit(project), jax.jit(median_depth)
LISTS = jax.jit(tile_lists, static_argnums=(2, 3, 4))


@pytest.fixture(scope="module")
def twins():
    """Loss, picture and gradients of the fast and of the dense rasteriser."""
    arguments = some_splat(), camera(), pose()
    return FAST(*arguments), SLOW(*arguments)


def picture(splat, camera, T_world_object):
    (_, seen), _ = FAST(splat, camera, T_world_object)
    return seen


def test_pictures_equal_the_dense_twin(twins):
    ((_, fast), _), ((_, slow), _) = twins
    assert int(fast.dropped) == 0
    assert float(slow.alpha.max()) > 0.9
    for name in ("rgb", "depth", "alpha"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=ROUNDING)


def relative_error(found, expected):
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


@pytest.mark.parametrize("name", FIELDS)
def test_gradient_of_every_parameter_equals_the_dense_twin(twins, name):
    fast, slow = (getattr(gradient[0], name) for _, gradient in twins)
    assert float(jnp.abs(slow).max()) > 0
    assert relative_error(fast, slow) < GRADIENT


def test_gradients_of_camera_and_object_pose_equal_the_dense_twin(twins):
    (_, fast), (_, slow) = twins
    assert relative_error(fast[1].T_camera_world, slow[1].T_camera_world) < GRADIENT
    assert relative_error(fast[1].K, slow[1].K) < GRADIENT
    assert relative_error(fast[2], slow[2]) < GRADIENT


def test_rendering_a_moved_object_equals_moving_its_gaussians():
    splat, T = some_splat(), pose(yaw=0.3)
    splat = splat.replace(sh=splat.sh.at[:, 1:].set(0.0))  # harmonics turn with the object
    w, s = jnp.cos(0.15), jnp.sin(0.15)
    by_yaw = jnp.array([[w, 0, 0, -s], [0, w, -s, 0], [0, s, w, 0], [s, 0, 0, w]])
    moved = splat.replace(means=splat.means @ T[:3, :3].T + T[:3, 3], quats=splat.quats @ by_yaw.T)
    here, there = picture(splat, camera(), T), picture(moved, camera(), jnp.eye(4))
    np.testing.assert_allclose(here.rgb, there.rgb, atol=1e-4)


@pytest.mark.slow
def test_a_picture_is_differentiable_in_the_state_of_mjx():
    mjx, mujoco = pytest.importorskip("mujoco.mjx"), pytest.importorskip("mujoco")
    xml = """<mujoco><worldbody><body><joint type="slide" axis="1 0 0"/>
      <joint type="hinge" axis="0 0 1"/><geom size=".05"/></body></worldbody></mujoco>"""
    model = mjx.put_model(mujoco.MjModel.from_xml_string(xml))
    start, splat, cam = mjx.make_data(model), some_splat(), camera()

    def loss(renderer, qpos):
        data = mjx.kinematics(model, start.replace(qpos=qpos))
        T = jnp.eye(4).at[:3, :3].set(data.xmat[1]).at[:3, 3].set(data.xpos[1])
        return error_of(renderer, splat, cam, T)[0]

    qpos = jnp.array([0.01, 0.05])
    fast, slow = (jax.jit(jax.grad(partial(loss, r)))(qpos) for r in (render, render_dense))
    assert float(jnp.abs(slow).min()) > 0
    np.testing.assert_allclose(fast, slow, rtol=1e-4)


@pytest.mark.slow
def test_how_tiles_are_walked_does_not_change_the_picture(twins):
    (_, usual), _ = twins[0]
    settings = RasterSettings(tile=16, chunk=8, group=5)
    walked = jax.jit(partial(render, settings=settings))(some_splat(), camera(), pose())
    np.testing.assert_allclose(walked.rgb, usual.rgb, atol=ROUNDING)
    np.testing.assert_allclose(walked.depth, usual.depth, atol=ROUNDING)


def test_no_list_misses_a_gaussian_that_a_pixel_sees():
    splat, cam, settings = some_splat(), camera(), RasterSettings()
    p = jax.tree.map(np.asarray, PROJECT(splat, cam))
    lists = jax.tree.map(np.asarray, LISTS(p, splat.opacities, cam.width, cam.height, settings))
    y, x = np.mgrid[: cam.height, : cam.width]
    dx, dy = x[..., None] + 0.5 - p.means[:, 0], y[..., None] + 0.5 - p.means[:, 1]
    a, b, c = p.conics.T
    seen = (
        np.asarray(splat.opacities) * np.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)
        >= ALPHA_MIN
    )
    columns = -(-cam.width // settings.tile)
    for tile in range(len(lists.counts)):
        listed = lists.gaussians[lists.starts[tile] :][: lists.counts[tile]]
        row, column = divmod(tile, columns)
        rows = slice(row * settings.tile, (row + 1) * settings.tile)
        block = seen[rows, column * settings.tile : (column + 1) * settings.tile]
        assert set(np.nonzero(block.any((0, 1)))[0]) <= set(listed.tolist())
        assert (np.diff(p.depths[listed]) >= 0).all()


def test_pairs_beyond_the_budget_are_counted_and_lie_at_the_back():
    splat, cam = some_splat(), camera()
    p = PROJECT(splat, cam)

    def lists(pairs):
        settings = RasterSettings(pairs=pairs)
        return jax.tree.map(np.asarray, LISTS(p, splat.opacities, cam.width, cam.height, settings))

    whole, part = lists(None), lists(400)
    assert whole.dropped == 0
    assert part.dropped > 0
    assert part.counts.sum() <= 400
    for tile in range(len(whole.counts)):
        kept, front = (x.gaussians[x.starts[tile] :][: part.counts[tile]] for x in (part, whole))
        np.testing.assert_array_equal(kept, front)


def test_gaussians_behind_the_camera_are_invisible_and_harmless():
    splat = some_splat()
    behind = splat.replace(means=splat.means - 10 * camera().T_camera_world[2, :3])
    (value, seen), slopes = FAST(behind, camera(), jnp.eye(4))
    assert float(seen.alpha.max()) == 0
    assert np.isfinite(float(value))
    for leaf in jax.tree.leaves(slopes):
        np.testing.assert_array_equal(leaf, 0)


def plane(camera, normal, distance):
    """Depth of a plane, as the camera sees it."""
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T
    return distance * normal[2] / (rays @ normal)


def wall(camera, normal, distance, layers):
    """Wide flat Gaussians on planes, the first one nearest; returns the first one's depths."""
    side = np.linspace(-0.12, 0.12, 24)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    n = np.asarray(normal) / np.linalg.norm(normal)
    u = np.cross(n, [0.0, 1.0, 0.0])
    u /= np.linalg.norm(u)
    frame = np.stack([u, np.cross(n, u), n], -1)
    points = [grid @ frame[:, :2].T + [0, 0, distance + 0.01 * k] for k in range(layers)]
    means = np.concatenate(points)
    w = np.sqrt(1 + np.trace(frame)) / 2
    q = [w, *(np.array([frame[2, 1] - frame[1, 2], frame[0, 2] - frame[2, 0],
                        frame[1, 0] - frame[0, 1]]) / (4 * w))]  # fmt: skip
    count = len(means)
    leaves = (
        means, np.tile(q, (count, 1)), np.tile(np.log([0.008, 0.008, 2e-4]), (count, 1)),
        np.full(count, 1.0), np.zeros((count, 1, 3)),
    )  # fmt: skip
    depths = plane(camera, n, distance)
    return Splat(*(jnp.asarray(x, jnp.float32) for x in leaves)), depths


def test_median_depth_is_that_of_the_front_wall_although_others_shine_through():
    ahead = camera().replace(T_camera_world=jnp.eye(4))
    splat, truth = wall(ahead, [0.4, -0.2, 1.0], 0.3, layers=3)
    median = np.asarray(MEDIAN(splat, ahead))
    middle = slice(10, 26), slice(12, 32)
    assert np.abs(median - truth)[middle].max() < 1e-5


def test_median_depth_is_zero_where_nothing_is():
    ahead = camera().replace(T_camera_world=jnp.eye(4))
    splat, _ = wall(ahead, [0.4, -0.2, 1.0], 0.3, layers=3)
    away = ahead.replace(T_camera_world=jnp.eye(4).at[2, 3].set(-5.0))
    assert float(MEDIAN(splat, away).max()) == 0


def test_bend_is_zero_for_a_plane_and_one_less_the_cosine_of_an_angle_beyond():
    ahead = camera().replace(T_camera_world=jnp.eye(4))
    normal = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    depth = jnp.asarray(plane(ahead, normal, 0.3), jnp.float32)
    blended = jnp.broadcast_to(jnp.asarray(normal, jnp.float32), (HEIGHT, WIDTH, 3))
    solid = jnp.ones((HEIGHT, WIDTH))
    off = jax.jit(bend)
    assert float(off(blended, depth, solid, ahead)) == pytest.approx(0, abs=1e-4)
    towards = jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0]), blended.shape)
    assert float(off(towards, depth, solid, ahead)) == pytest.approx(1 + normal[2], abs=1e-4)
    assert float(off(towards, depth, 0.5 * solid, ahead)) == 0


def test_normals_face_the_camera():
    ahead = camera().replace(T_camera_world=jnp.eye(4))
    splat, _ = wall(ahead, [0.4, -0.2, 1.0], 0.3, layers=1)
    expected = -np.array([0.4, -0.2, 1.0]) / np.linalg.norm([0.4, -0.2, 1.0])
    np.testing.assert_allclose(
        jax.jit(facing_normals)(splat, ahead), np.tile(expected, (len(splat.means), 1)), atol=1e-5
    )
