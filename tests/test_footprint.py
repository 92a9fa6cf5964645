"""Distances to parts against shapely and finite differences; assets made of polygons."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from p2r_jax.sim.asset import Asset, load_asset, save_asset, tblock, uniform_inertia
from p2r_jax.sim.contact import ContactConfig, ContactDynamics
from p2r_jax.sim.footprint import Box, Polygon, area_moments, grown, signed_distance
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.support import support_points
from p2r_jax.types import PhysicsParams, PlanarPose

shapely = pytest.importorskip("shapely", reason="the twin of the distances; extra viz")

BOX = Box((0.01, 0.02), (0.03, 0.05))
TRIANGLE = Polygon(((-0.075, -0.075), (0.075, -0.075), (-0.075, 0.075)))
HEXAGON = Polygon(tuple((0.05 * np.cos(a), 0.04 * np.sin(a)) for a in np.arange(6) * np.pi / 3))
POINTS = np.random.default_rng(0).uniform(-0.15, 0.15, (2000, 2))


def as_polygons(asset: Asset) -> Asset:
    """The same asset with every box written as a polygon."""
    parts = [Polygon(tuple(map(tuple, part.corners.tolist()))) for part in asset.parts]
    return replace(asset, parts=tuple(parts))


@pytest.mark.parametrize("part", [BOX, TRIANGLE, HEXAGON])
def test_signed_distance_is_that_of_shapely(part):
    shape = shapely.Polygon(part.corners)
    points = shapely.points(POINTS)
    expected = shapely.distance(shape.exterior, points)
    expected = np.where(shapely.contains(shape, points), -expected, expected)
    np.testing.assert_allclose(signed_distance([part], POINTS, np), expected, atol=1e-15)
    jitted = jax.jit(lambda p: signed_distance([part], p))
    np.testing.assert_allclose(jitted(jnp.float32(POINTS)), expected, atol=1e-7)


@pytest.mark.parametrize("part", [BOX, TRIANGLE, HEXAGON])
def test_normal_is_the_gradient_of_the_distance(part):
    nx, ny, _ = part.nearest(POINTS[:, 0], POINTS[:, 1], np)
    step = 1e-7
    slopes = [
        (signed_distance([part], POINTS + d, np) - signed_distance([part], POINTS - d, np)) / 2e-7
        for d in ((step, 0.0), (0.0, step))
    ]
    smooth = np.hypot(*slopes) > 0.9999  # not astride a bisector or a corner
    assert smooth.mean() > 0.99
    np.testing.assert_allclose(
        np.stack([nx, ny])[:, smooth], np.stack(slopes)[:, smooth], atol=1e-5
    )
    np.testing.assert_allclose(np.hypot(nx, ny), 1.0, atol=1e-12)


def test_area_moments_are_the_textbook_ones():
    area, center, second = area_moments(BOX)
    assert area == pytest.approx(0.06 * 0.10)
    np.testing.assert_allclose(center, BOX.center)
    np.testing.assert_allclose(second, np.diag([0.10 * 0.06**3, 0.06 * 0.10**3]) / 12, atol=1e-18)
    area, center, second = area_moments(TRIANGLE)
    assert area == pytest.approx(0.15**2 / 2)
    np.testing.assert_allclose(center, [-0.025, -0.025], atol=1e-15)
    np.testing.assert_allclose(second, 0.15**4 / 72 * np.array([[2, -1], [-1, 2]]), rtol=1e-9)


def test_inertia_of_a_prism_agrees_with_mujoco_for_boxes_and_for_polygons():
    asset = tblock()
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    for box in asset.parts:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, density=1.0, pos=[*box.center, 0],
            size=[*box.half, asset.height_m / 2],
        )  # fmt: skip
    model = spec.compile()
    for parts in (asset.parts, as_polygons(asset).parts):
        ours = uniform_inertia(parts, asset.height_m, float(model.body_mass[1]))
        np.testing.assert_allclose(
            np.sort(np.diag(ours)), np.sort(model.body_inertia[1]), rtol=1e-9
        )


@pytest.mark.parametrize(
    "corners",
    [
        ((0, 0), (0, 1), (1, 0)),  # clockwise
        ((0, 0), (1, 0), (0.1, 0.1), (0, 1)),  # a notch
        ((0, 0), (1, 0), (1, 0)),  # a corner twice
        ((0, 0), (1, 0)),
        ((0, 0), (2, 2), (2, 0), (0, 2), (-1, 1)),  # crosses itself
    ],
)
def test_a_polygon_that_is_not_convex_is_refused(corners):
    with pytest.raises(ValueError, match="polygon"):
        Polygon(corners)


def test_grown_part_keeps_its_distance():
    for part in (BOX, HEXAGON):
        wide = grown(part, 0.006)
        np.testing.assert_allclose(signed_distance([part], wide.corners, np) > 0.006, True)
        middle = (wide.corners + np.roll(wide.corners, -1, axis=0)) / 2
        np.testing.assert_allclose(signed_distance([part], middle, np), 0.006, atol=1e-12)


def test_an_asset_of_polygons_survives_its_folder(tmp_path):
    asset = replace(as_polygons(tblock()), name="blocky")
    save_asset(asset, tmp_path / "blocky")
    assert load_asset(tmp_path / "blocky") == asset
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "blocky" / "object.xml"))
    assert model.nmesh == 2
    assert model.body("object").mass == asset.mass_kg


@pytest.mark.parametrize("kind", ["patch", "rim", "feet"])
def test_support_does_not_depend_on_how_the_shape_is_written(kind):
    boxes, polygons = (support_points(a, kind, 12) for a in (tblock(), as_polygons(tblock())))
    np.testing.assert_allclose(boxes, polygons, atol=1e-12)


def test_pushes_do_not_depend_on_how_the_shape_is_written():
    """Boxes and polygons of one outline: planar exactly, MuJoCo closely."""
    support = jnp.float32(support_points(tblock(), "patch", 6))
    yaw = jnp.linspace(-3.0, 3.0, 7)
    moved = {}
    for name, asset in (("boxes", tblock()), ("polygons", as_polygons(tblock()))):
        physics = PhysicsParams(
            *(jnp.float32(v) for v in asset.with_weight(0.05)), 0.25, 0.25, support
        )
        planar = PlanarDynamics(asset, 0.0125, 1.0, PlanarConfig())
        contact = ContactDynamics(
            asset,
            0.0125,
            1.0,
            ContactConfig(
                solver="mjx", iterations=4, ls_iterations=6, substeps=50, support_count=6
            ),
        )

        def push(dynamics, yaw, physics=physics):
            start = dynamics.init(PlanarPose(jnp.zeros(2), yaw), jnp.array([0.16, 0.02]))
            cache = dynamics.derive(physics)
            for target in ([0.10, 0.01], [0.06, 0.0]):
                start = dynamics.advance(physics, cache, start, jnp.array(target))
            return jnp.append(start.pose.xy, start.pose.yaw)

        moved[name] = [jax.jit(jax.vmap(lambda y, d=d: push(d, y)))(yaw) for d in (planar, contact)]
    assert float(jnp.abs(moved["boxes"][0][:, :2]).max()) > 0.02
    np.testing.assert_allclose(moved["boxes"][0], moved["polygons"][0], atol=2e-5)
    np.testing.assert_allclose(moved["boxes"][1][:, :2], moved["polygons"][1][:, :2], atol=1e-3)
    np.testing.assert_allclose(moved["boxes"][1][:, 2], moved["polygons"][1][:, 2], atol=1e-2)
