"""Projection of Gaussians: a twin in plain numpy, and gsplat's reference where torch is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_splat_raster import PROJECT, camera, some_splat

from p2r_jax.real2sim.splat.gaussians import Splat, initial_splat, shortest_axes
from p2r_jax.real2sim.splat.projection import BLUR_PX2, MARGIN, camera_of
from p2r_jax.real2sim.views import View

PIXELS, RELATIVE = 1e-4, 1e-5  # single precision


def rotation(q):
    w, x, y, z = q / np.linalg.norm(q)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * K + 2 * K @ K


def by_hand(splat, camera):
    """One Gaussian after the other: J R Sigma R' J' + blur, J at slopes within the margin."""
    T, K = np.asarray(camera.T_camera_world, float), np.asarray(camera.K, float)
    size = np.array([camera.width, camera.height])
    rows = []
    gaussians = (np.asarray(x, float) for x in (splat.means, splat.quats, splat.scales))
    for mean, quat, scale in zip(*gaussians, strict=True):
        x, y, z = T[:3, :3] @ mean + T[:3, 3]
        A = rotation(quat) * scale
        focal, middle = np.diag(K)[:2], K[:2, 2]
        edge = MARGIN * size / (2 * focal)
        u, v = np.clip([x / z, y / z], -middle / focal - edge, (size - middle) / focal + edge)
        J = np.array([[focal[0] / z, 0, -focal[0] * u / z], [0, focal[1] / z, -focal[1] * v / z]])
        M = J @ T[:3, :3] @ A
        covariance = M @ M.T + BLUR_PX2 * np.eye(2)
        share = np.sqrt(np.linalg.det(M @ M.T) / np.linalg.det(covariance))
        conic = np.linalg.inv(covariance)
        mean2 = focal * np.array([x / z, y / z]) + middle
        rows.append((mean2, conic[[0, 0, 1], [0, 1, 1]], z, np.sqrt(np.diag(covariance)), share))
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_projection_equals_the_formula_worked_by_hand():
    found = PROJECT(some_splat(), camera())
    for x, expected in zip(found, by_hand(some_splat(), camera()), strict=True):
        np.testing.assert_allclose(x, expected, rtol=RELATIVE, atol=PIXELS)


def gsplat_reference():
    reason = (
        "needs torch and gsplat: build/torch/bin/python -m pytest tests/test_splat_projection.py"
    )
    torch = pytest.importorskip("torch", reason=reason)
    return torch, pytest.importorskip("gsplat.cuda._torch_impl", reason=reason)


def test_projection_equals_gsplats_reference():
    torch, reference = gsplat_reference()
    splat, cam = some_splat(), camera()
    found = PROJECT(splat, cam)

    def tensor(x):
        return torch.tensor(np.asarray(x))

    quats = torch.nn.functional.normalize(tensor(splat.quats), dim=-1)
    covariances, _ = reference._quat_scale_to_covar_preci(
        quats, tensor(splat.scales), True, False, triu=False
    )
    radii, means, depths, conics, shares = reference._fully_fused_projection(
        tensor(splat.means), covariances, tensor(cam.T_camera_world)[None], tensor(cam.K)[None],
        cam.width, cam.height, eps2d=BLUR_PX2, calc_compensations=True,
    )  # fmt: skip
    np.testing.assert_allclose(found.means, means[0], atol=PIXELS)
    np.testing.assert_allclose(found.depths, depths[0], rtol=RELATIVE)
    np.testing.assert_allclose(found.conics, conics[0], rtol=RELATIVE, atol=PIXELS)
    np.testing.assert_allclose(found.shares, shares[0], rtol=1e-3, atol=1e-3)
    seen = np.asarray(radii[0]) > 0
    ours = np.ceil(3.33 * np.asarray(found.spreads))
    assert seen.any()
    assert np.abs(ours - np.asarray(radii[0]))[seen].max() <= 1  # rounding before the ceiling


def test_colours_equal_gsplats_spherical_harmonics():
    torch, reference = gsplat_reference()
    splat, eye = some_splat(), jnp.array([0.1, -0.3, 0.4])
    away = torch.tensor(np.asarray(splat.means - eye))
    harmonics = reference._spherical_harmonics(1, away, torch.tensor(np.asarray(splat.sh)))
    np.testing.assert_allclose(splat.colours(eye), (harmonics + 0.5).clamp(min=0), atol=1e-6)


def test_camera_of_a_view_projects_as_the_view_does():
    view = View("0001", 44, 36, np.asarray(camera().K), np.asarray(camera().T_camera_world))
    found = PROJECT(some_splat(), camera_of(view))
    expected = view.project(np.asarray(some_splat().means))
    np.testing.assert_allclose(found.means, expected[:, :2], atol=PIXELS)
    np.testing.assert_allclose(camera_of(view).position, view.position, atol=1e-6)


def sphere(count, radius=0.1):
    x = np.random.default_rng(0).normal(size=(count, 3))
    return radius * x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [300, 2500])
def test_first_gaussians_lie_flat_in_the_surface_of_the_points(count):
    points = sphere(1000)
    colours = np.tile([[0.2, 0.5, 0.9]], (1000, 1))
    splat = initial_splat(points, colours, count, degree=1)
    assert splat.means.shape == (count, 3)
    outward = np.asarray(splat.means) / np.linalg.norm(splat.means, axis=1, keepdims=True)
    along = np.abs(np.sum(outward * np.asarray(shortest_axes(splat)), -1))
    assert np.median(along) > 0.98
    assert np.abs(np.linalg.norm(splat.means, axis=1) - 0.1).max() < 0.02
    np.testing.assert_allclose(
        jax.jit(Splat.colours)(splat, jnp.ones(3)), np.tile(colours[:1], (count, 1)), atol=1e-6
    )


def test_a_handful_of_points_is_no_surface():
    with pytest.raises(ValueError, match="4 points are too few to start a splat from"):
        initial_splat(np.zeros((4, 3)), np.zeros((4, 3)), 10)
