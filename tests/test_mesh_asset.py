"""Meshes as assets: mass properties, outline, contact, and what happens to bad ones."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import trimesh

from p2r_jax.sim.asset import check_asset, load_asset, save_asset, uniform_inertia
from p2r_jax.sim.footprint import Box, Polygon, depth_inside, inside
from p2r_jax.sim.support import check_support, support_points

shapely = pytest.importorskip("shapely", reason="outlines need shapely; extra mesh")

from p2r_jax.sim.mesh_asset import MeshOptions, asset_from_mesh, light_mesh  # noqa: E402
from p2r_jax.sim.mesh_outline import (  # noqa: E402
    MAX_VERTICES,
    as_part,
    convex_parts,
    decompose,
    reachable,
)
from p2r_jax.sim.mesh_solid import MeshError, _by_columns, load_mesh, weigh  # noqa: E402

L_SHAPE = [(0, 0), (0.16, 0), (0.16, 0.04), (0.04, 0.04), (0.04, 0.10), (0, 0.10)]


def prism(corners, height=0.03) -> trimesh.Trimesh:
    """Upright prism of a simple polygon, m."""
    polygon = shapely.orient_polygons(shapely.Polygon(corners))
    ring = np.array(polygon.exterior.coords)[:-1]
    count = len(ring)
    number = {tuple(xy): i for i, xy in enumerate(ring.tolist())}
    flat = [
        [number[xy] for xy in shapely.orient_polygons(t).exterior.coords[:-1]]
        for t in shapely.get_parts(shapely.constrained_delaunay_triangles(polygon))
    ]
    top = [[a + count, b + count, c + count] for a, b, c in flat]
    sides = [
        face
        for i, j in zip(range(count), np.roll(range(count), -1).tolist(), strict=True)
        for face in ([i, j, j + count], [i, j + count, i + count])
    ]
    vertices = np.concatenate([np.insert(ring, 2, z, axis=1) for z in (0.0, height)])
    return trimesh.Trimesh(vertices, [f[::-1] for f in flat] + top + sides, process=False)


def saved(tmp_path, mesh, name="tool.ply"):
    mesh.export(tmp_path / name)
    return tmp_path / name


def made(tmp_path, mesh, mass=0.4, **options):
    return asset_from_mesh(saved(tmp_path, mesh), "tool", mass, MeshOptions(**options))


def mallet() -> trimesh.Trimesh:
    """Handle and head as two boxes that share a piece of space."""
    handle = trimesh.creation.box((0.20, 0.03, 0.03))
    head = trimesh.creation.box((0.04, 0.10, 0.03))
    return trimesh.util.concatenate([handle, head.apply_translation((0.09, 0.0, 0.0))])


def star(radius=0.08, height=0.03) -> trimesh.Trimesh:
    """One connected surface that winds twice around its middle: a pentagram."""
    angle = 2 * np.pi * np.arange(5) / 5
    ring = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    flat = np.concatenate([ring, [[0.0, 0.0]]])
    vertices = np.concatenate([np.insert(flat, 2, z, axis=1) for z in (0.0, height)])
    faces = []
    for i in range(5):
        j = (i + 2) % 5
        faces += [[5, j, i], [11, i + 6, j + 6], [i, j, j + 6], [i, j + 6, i + 6]]
    return trimesh.Trimesh(vertices, faces, process=False)


def test_a_box_becomes_one_box_with_its_textbook_mass_properties(tmp_path):
    asset = made(tmp_path, trimesh.creation.box((0.05, 0.12, 0.03))).asset
    (part,) = asset.parts
    assert isinstance(part, Box)
    np.testing.assert_allclose(part.half, [0.06, 0.025], atol=1e-6)
    assert asset.height_m == pytest.approx(0.03)
    np.testing.assert_allclose(asset.com_m, 0.0, atol=1e-6)
    np.testing.assert_allclose(
        asset.inertia, uniform_inertia(asset.parts, 0.03, 0.4), rtol=1e-6, atol=1e-12
    )
    assert any("unit m, guessed" in line for line in asset.provenance)


def test_prism_of_an_l_has_the_mass_properties_of_its_parts(tmp_path):
    """The mesh's volume integral against the plane moments of the parts."""
    result = made(tmp_path, prism(L_SHAPE))
    asset = result.asset
    assert len(asset.parts) == 2
    assert asset.area == pytest.approx(shapely.Polygon(L_SHAPE).area, rel=1e-5)
    np.testing.assert_allclose(asset.com_m[:2], asset.uniform_com, atol=1e-6)
    np.testing.assert_allclose(
        asset.inertia, uniform_inertia(asset.parts, 0.03, 0.4), rtol=1e-4, atol=1e-9
    )
    assert result.report.pusher_error_m < 1e-4


def test_heavier_end_is_ahead_and_the_frame_is_the_middle_of_the_outline(tmp_path):
    result = made(tmp_path, prism(L_SHAPE))
    lower, upper = result.asset.footprint_bounds
    np.testing.assert_allclose(lower, -upper, atol=2e-6)
    np.testing.assert_allclose(upper, [0.08, 0.05], atol=2e-6)
    assert result.asset.com_m[0] > 0.01
    corner = result.T_object_mesh @ [0.0, 0.0, 0.0, 1.0]  # where the arms meet
    np.testing.assert_allclose(np.abs(corner[:3]), [0.08, 0.05, 0.015], atol=2e-6)
    assert corner[0] > 0


def test_asset_does_not_depend_on_how_the_mesh_lies_in_its_file(tmp_path):
    first = made(tmp_path, prism(L_SHAPE)).asset
    turned = prism(L_SHAPE)
    turned.apply_transform(trimesh.transformations.rotation_matrix(1.1, [0.3, -0.7, 0.6]))
    turned.apply_translation([0.3, 0.1, -0.2])
    turned.apply_scale(1000.0)
    second = made(tmp_path, turned).asset
    assert second.height_m == pytest.approx(first.height_m, abs=1e-6)
    assert second.area == pytest.approx(first.area, rel=1e-4)
    assert second.com_m[0] == pytest.approx(first.com_m[0], abs=1e-5)
    assert abs(second.com_m[1]) == pytest.approx(abs(first.com_m[1]), abs=1e-5)  # may lie turned
    np.testing.assert_allclose(
        np.linalg.eigvalsh(second.inertia), np.linalg.eigvalsh(first.inertia), rtol=1e-5
    )
    assert any("unit mm, guessed" in line for line in second.provenance)


def test_overlapping_bodies_count_their_common_space_once(tmp_path):
    asset = made(tmp_path, mallet()).asset
    common = 0.03 * 0.03 * 0.03  # m^3
    volumes = np.array([0.20 * 0.03 * 0.03, 0.04 * 0.10 * 0.03, -common])
    expected = volumes @ [0.0, 0.09, 0.085] / volumes.sum() - 0.005  # box from -0.10 to 0.11
    assert asset.com_m[0] == pytest.approx(expected, abs=2e-4)
    assert any("intersects itself" in line for line in asset.provenance)


def test_a_surface_that_intersects_itself_is_weighed_once():
    ring = star().vertices[:5, :2]
    edges = [shapely.Polygon([*ring[[i, (i + 2) % 5]], (0.0, 0.0)]) for i in range(5)]
    solid = weigh(star())
    assert solid.volume == pytest.approx(0.03 * shapely.union_all(edges).area, rel=5e-3)
    assert any("more than once" in note for note in solid.notes)
    np.testing.assert_allclose(solid.com, [0.0, 0.0, 0.015], atol=2e-4)


@pytest.mark.parametrize(
    "mesh",
    [
        trimesh.creation.icosphere(3, 0.05),
        trimesh.creation.torus(0.06, 0.02),
        prism(L_SHAPE),
        trimesh.creation.annulus(0.03, 0.05, 0.02),
    ],
)
def test_columns_agree_with_the_surface_integrals(mesh):
    volume, com, inertia, shares = _by_columns(mesh)
    assert volume == pytest.approx(mesh.volume, rel=3e-3)
    np.testing.assert_allclose(com, mesh.center_mass, atol=1e-4)
    np.testing.assert_allclose(inertia, mesh.moment_inertia / mesh.volume, rtol=1e-2, atol=1e-6)
    assert max(shares) < 1e-6


def test_wrongly_wound_and_inside_out_surfaces_are_turned():
    box = trimesh.creation.box((0.2, 0.1, 0.04))
    faces = np.array(box.faces)
    faces[[1, 4, 7]] = faces[[1, 4, 7]][:, ::-1]
    for mesh, word in (
        (trimesh.Trimesh(box.vertices, faces, process=False), "turned 3 faces"),
        (trimesh.Trimesh(box.vertices, box.faces[:, ::-1], process=False), "inside out"),
    ):
        solid = weigh(mesh)
        assert solid.volume == pytest.approx(box.volume)
        assert any(word in note for note in solid.notes)


def test_a_small_opening_is_closed_and_a_large_one_refused(tmp_path):
    ball = trimesh.creation.icosphere(4, 0.05)
    holed = trimesh.Trimesh(ball.vertices, ball.faces[3:], process=False)
    solid = weigh(holed)
    assert solid.volume == pytest.approx(ball.volume, rel=1e-3)
    assert any("closed" in note and "openings" in note for note in solid.notes)
    box = trimesh.creation.box((0.12, 0.08, 0.03))
    upwards = box.face_normals[:, 2] > 0.5
    open_box = trimesh.Trimesh(box.vertices, box.faces[~upwards], process=False)
    with pytest.raises(MeshError, match=r"120.0 x 80.0 x 0.0 mm.*--mass-from footprint"):
        made(tmp_path, open_box)
    asset = made(tmp_path, open_box, mass_from="footprint").asset
    np.testing.assert_allclose(asset.com_m, 0.0, atol=1e-6)
    assert any("uniform prism of the parts" in line for line in asset.provenance)


def test_faces_at_a_non_manifold_edge_are_named():
    box = trimesh.creation.box((0.12, 0.08, 0.03))
    fin = len(box.vertices)
    vertices = np.concatenate([box.vertices, [[0.0, 0.0, 0.1]]])
    faces = np.concatenate([box.faces, [[box.faces[0][0], box.faces[0][1], fin]]])
    with pytest.raises(MeshError, match="1 edges are shared by more than two faces"):
        weigh(trimesh.Trimesh(vertices, faces, process=False))


def test_a_notch_is_filled_only_if_the_pusher_cannot_get_in(tmp_path):
    notch = [(0, 0), (0.12, 0), (0.12, 0.08), (0.07, 0.08), (0.07, 0.03), (0.05, 0.03)]
    mesh = prism([*notch, (0.05, 0.08), (0, 0.08)])  # 2 cm wide
    whole = made(tmp_path, mesh, pusher_radius_m=0.06)  # dips 0.8 mm into the mouth
    (part,) = whole.asset.parts
    assert isinstance(part, Box)
    assert whole.report.pusher_error_m < 1e-3
    kept = made(tmp_path, mesh, pusher_radius_m=0.004).asset
    assert len(kept.parts) == 3
    assert kept.area == pytest.approx(0.12 * 0.08 - 0.02 * 0.05, rel=1e-4)


def test_parts_of_random_outlines_are_convex_few_and_within_tolerance():
    rng = np.random.default_rng(0)
    for _ in range(6):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 40))
        radius = rng.uniform(0.05, 0.08, 40)
        region = shapely.Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1))
        closed = reachable(region, 0.0125)
        cut = decompose(region, closed, 2e-3)
        shapes = [shapely.Polygon(part.corners) for part in cut.parts]
        union = shapely.union_all(shapes)
        assert len(cut.parts) <= 12
        assert max(len(part.corners) for part in cut.parts) <= MAX_VERTICES
        assert sum(s.area for s in shapes) == pytest.approx(union.area, rel=1e-4)  # no overlap
        wide = cut.tolerance_m + 1e-5
        assert union.buffer(wide).covers(region)
        assert closed.buffer(wide).covers(union)


def test_an_outline_that_needs_too_many_parts_says_so():
    angle, radius = np.arange(16) * np.pi / 8, np.resize([0.08, 0.02], 16)
    region = shapely.Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1))
    with pytest.raises(MeshError, match=r"convex parts even when .* 3 are allowed"):
        decompose(region, region, 1e-3, max_parts=3)


def test_convex_parts_of_a_triangle_and_a_rectangle():
    (triangle,) = convex_parts(shapely.Polygon([(0, 0), (0.1, 0), (0, 0.1)]))
    assert isinstance(triangle, Polygon)
    (box,) = convex_parts(shapely.box(0, 0, 0.1, 0.05))
    assert box == as_part(np.array([[0, 0], [0.1, 0], [0.1, 0.05], [0, 0.05]]))


def test_an_object_on_legs_rests_on_its_legs(tmp_path):
    slab = trimesh.creation.box((0.16, 0.10, 0.02))
    legs = []
    for x in (-0.07, 0.07):
        for y in (-0.04, 0.04):
            leg = trimesh.creation.box((0.012, 0.012, 0.03))
            legs.append(leg.apply_translation((x, y, -0.025)))
    table = made(tmp_path, trimesh.util.concatenate([slab, *legs]), up="z").asset
    assert len(table.contact) == 4
    points = support_points(table, "patch", 12)
    assert np.all(np.abs(np.abs(points) - [0.07, 0.04]) < 0.007)
    check_support(points, np.array([[0.05, 0.03], [-0.05, -0.03]]), "table")
    flat = made(tmp_path, trimesh.util.concatenate([slab, *legs])).asset
    assert any("mesh direction (-0.000, -0.000, -1.000) up" in line for line in flat.provenance)


@pytest.mark.parametrize(("gap", "within"), [(0.0005, "1 mm"), (0.0015, "2 mm"), (0.006, None)])
def test_legs_that_are_a_little_short_carry_if_the_object_would_tip_without(tmp_path, gap, within):
    """A filmed underside is known to a millimetre or two; what tips over does not lie so."""
    slab, legs = trimesh.creation.box((0.16, 0.10, 0.02)), []
    for x, short in ((-0.07, 0.0), (0.07, gap)):
        leg = trimesh.creation.box((0.012, 0.09, 0.03 - short))
        legs.append(leg.apply_translation((x, 0, -0.025 + short / 2)))
    asset = made(tmp_path, trimesh.util.concatenate([slab, *legs]), up="z").asset
    told = [line for line in asset.provenance if line.startswith("rests on")]
    if within is None:
        assert asset.contact is None
        assert "all of its footprint" in told[0]
    else:
        assert len(asset.contact) == 2
        assert within in told[0]


def test_a_given_centre_of_mass_is_taken_or_refused(tmp_path):
    box = trimesh.creation.box((0.16, 0.04, 0.03))
    asset = made(tmp_path, box, com=(0.05, 0.01)).asset
    assert asset.com_m[:2] == (0.05, 0.01)
    assert any("as given" in line for line in asset.provenance)
    with pytest.raises(ValueError, match="lies outside its footprint"):
        made(tmp_path, box, com=(0.05, 0.021))


@pytest.mark.parametrize("mass", [0.0, -1.0, float("nan")])
def test_a_mass_must_be_positive(tmp_path, mass):
    with pytest.raises(ValueError, match="positive one with --mass"):
        made(tmp_path, trimesh.creation.box((0.1, 0.1, 0.1)), mass=mass)


def test_units_are_guessed_only_where_they_are_clear(tmp_path):
    box = trimesh.creation.box((120.0, 80.0, 30.0))
    mesh, (note,) = load_mesh(saved(tmp_path, box))
    assert mesh.extents[0] == pytest.approx(0.12)
    assert "unit mm, guessed" in note
    mesh, _ = load_mesh(saved(tmp_path, box.apply_scale(0.1)), unit="cm")
    assert mesh.extents[0] == pytest.approx(0.12)
    with pytest.raises(MeshError, match=r"longest side is 12, .* pass --unit"):
        load_mesh(saved(tmp_path, box))
    with pytest.raises(MeshError, match="would be 12 m with --unit m"):
        load_mesh(saved(tmp_path, box), unit="m")


def test_files_that_hold_no_solid_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no mesh"):
        load_mesh(tmp_path / "none.stl")
    with pytest.raises(MeshError, match=r"\.obj, \.stl, \.ply"):
        load_mesh(tmp_path / "tool.step")
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    with pytest.raises(MeshError, match=r"no triangles|cannot be read"):
        load_mesh(tmp_path / "points.ply")
    sheet = trimesh.Trimesh([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]], [[0, 1, 2]])
    with pytest.raises(MeshError, match="flat sheet"):
        load_mesh(saved(tmp_path, sheet))
    (tmp_path / "broken.stl").write_bytes(b"solid nothing")
    with pytest.raises(MeshError, match=r"broken\.stl"):
        load_mesh(tmp_path / "broken.stl")


def test_two_objects_in_one_file_are_refused(tmp_path):
    box = trimesh.creation.box((0.05, 0.05, 0.03))
    other = box.copy().apply_translation((0.2, 0.0, 0.0))
    with pytest.raises(MeshError, match="2 separate pieces"):
        made(tmp_path, trimesh.util.concatenate([box, other]))


def test_asset_folder_shows_the_mesh_and_collides_with_the_parts(tmp_path):
    result = made(tmp_path, trimesh.creation.cylinder(0.03, 0.02))
    save_asset(result.asset, tmp_path / "ball", result.files)
    assert load_asset(tmp_path / "ball") == result.asset
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "ball" / "object.xml"))
    shown = model.geom_group == 2
    assert shown.sum() == 1
    assert model.body("object").mass == pytest.approx(0.4)
    extent = model.geom_aabb[int(np.flatnonzero(shown)[0]), 3:]
    np.testing.assert_allclose(np.sort(extent), [0.01, 0.03, 0.03], atol=1e-4)


def test_the_visual_mesh_is_light_and_keeps_its_shape():
    ball = trimesh.creation.icosphere(6, 0.05)
    light = light_mesh(ball)
    assert len(light.faces) <= 20_000 < len(ball.faces)
    assert light.volume == pytest.approx(ball.volume, rel=5e-3)


def test_hand_written_parts_with_too_many_corners_are_refused():
    angle = 2 * np.pi * np.arange(40) / 40
    part = Polygon(tuple((0.05 * np.cos(a), 0.05 * np.sin(a)) for a in angle))
    disc = replace(load_asset("tblock"), parts=(part,), com_m=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="part 0 has 40 corners, 32 are allowed"):
        check_asset(disc)


def test_depth_inside_a_hull_is_that_of_shapely():
    rng = np.random.default_rng(1)
    points, queries = rng.uniform(-1, 1, (12, 2)), rng.uniform(-2, 2, (200, 2))
    hull = shapely.MultiPoint(points).convex_hull
    within = shapely.contains_xy(hull, queries)
    depth = depth_inside(points, queries)
    np.testing.assert_array_equal(depth > 0, within)
    distance = shapely.distance(hull.exterior, shapely.points(queries))
    np.testing.assert_allclose(depth[within], distance[within], atol=1e-12)
    assert depth_inside(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), np.zeros(2)) == -np.inf


def test_a_support_that_lets_the_object_tip_is_refused():
    tblock = load_asset("tblock")
    feet = support_points(tblock, "feet", 12)
    check_support(feet, np.array([[0.0, 0.0], [0.06, 0.0]]), "tblock")
    with pytest.raises(ValueError, match=r"\(11\.00, 0\.00\) cm the object would tip over"):
        check_support(feet, np.array([[0.0, 0.0], [0.11, 0.0]]), "tblock")


def test_support_points_lie_in_what_rests_on_the_table(tmp_path):
    contact = (Box((-0.06, 0.0), (0.01, 0.004)), Box((0.09, 0.0), (0.005, 0.05)))
    asset = replace(load_asset("tblock"), contact=contact)
    for kind in ("patch", "rim", "corners", "feet"):
        points = support_points(asset, kind, 12)
        assert inside(contact, points, margin=-1e-9).all(), kind
