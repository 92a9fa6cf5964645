"""The prior without a model: its geometry is exact, and its sigma holds on objects left out."""

from pathlib import Path

import numpy as np
import pytest

from p2r_jax.prior.calibration import (
    constant_box,
    fit_sigma_scale,
    leave_one_out,
    load_workshop_tool,
    nll,
    score,
)
from p2r_jax.prior.heuristic import CANDIDATES, fit_heuristic, load_fit
from p2r_jax.prior.shape import (
    hull_centroid,
    load_mesh,
    mask_centroids,
    object_frame,
    shape_of_asset,
    shape_of_mesh,
)
from p2r_jax.tasks import load_task

trimesh = pytest.importorskip("trimesh", reason="comes with mujoco-mjx")
TOOLS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "workshop_tools"


def t_mesh():
    """The T of two boxes in millimetres, its long axis along z, away from the origin."""
    bar = trimesh.creation.box((120, 30, 30))
    stem = trimesh.creation.box((30, 30, 150))
    stem.apply_translation((0, 0, -90))
    mesh = trimesh.util.concatenate([bar, stem])
    mesh.apply_translation((500, -20, 7))
    return mesh


@pytest.fixture
def t_file(tmp_path):
    path = tmp_path / "t.ply"
    t_mesh().export(path)
    return path


def test_mesh_is_brought_into_the_object_frame(t_file):
    mesh, T_object_file = load_mesh(t_file, unit_m=1e-3)
    shape = shape_of_mesh("t", mesh)
    np.testing.assert_allclose(shape.upper, (0.09, 0.06, 0.015), atol=1e-9)
    np.testing.assert_allclose(shape.lower, (-0.09, -0.06, -0.015), atol=1e-9)
    bar, stem = 120 * 30 * 30, 30 * 30 * 150
    np.testing.assert_allclose(shape.volume, (bar + stem) * 1e-9, rtol=1e-6)
    # top of the crossbar is at +90 mm: its centre at +75, the stem's at -15
    np.testing.assert_allclose(
        shape.centroids["solid"][0], 1e-3 * (75 * bar - 15 * stem) / (bar + stem), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(T_object_file[:3, :3]), 1.0)
    np.testing.assert_allclose(T_object_file @ [0.5, -0.02, 0.007, 1], [0.075, 0, 0, 1], atol=1e-9)


@pytest.mark.parametrize("axis", ["x", "y", "z", "longest"])
def test_object_frame_is_right_handed_and_centred(axis):
    bounds = np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 5.0]])
    frame = object_frame(bounds, axis)
    np.testing.assert_allclose(frame[:3, :3] @ frame[:3, :3].T, np.eye(3))
    np.testing.assert_allclose(np.linalg.det(frame[:3, :3]), 1.0)
    np.testing.assert_allclose(frame @ [*bounds.mean(0), 1.0], [0, 0, 0, 1])
    wanted = {"x": 1.0, "y": 3.0, "z": 2.0, "longest": 3.0}[axis]
    np.testing.assert_allclose(np.abs(frame[0, :3]) @ (bounds[1] - bounds[0]), wanted)


def test_asset_and_mesh_of_one_prism_have_one_shape():
    asset = load_task("push_tblock").object
    parts = []
    for part in asset.parts:
        lower, upper = part.corners.min(0), part.corners.max(0)
        box = trimesh.creation.box((*(upper - lower), asset.height_m))
        box.apply_translation((*((upper + lower) / 2), 0))
        parts.append(box)
    mesh = trimesh.util.concatenate(parts)
    a, b = shape_of_asset(asset), shape_of_mesh("tblock", mesh)
    np.testing.assert_allclose(a.lower, b.lower, atol=1e-9)
    np.testing.assert_allclose(a.volume, b.volume, rtol=1e-6)
    for kind in CANDIDATES:
        np.testing.assert_allclose(a.centroids[kind], b.centroids[kind], atol=1e-6)


def test_an_empty_mesh_is_refused(tmp_path):
    path = tmp_path / "points.ply"
    trimesh.PointCloud(np.eye(3)).export(path)
    with pytest.raises(ValueError, match="no triangles"):
        load_mesh(path, 1.0)


def test_centroids_of_a_silhouette_on_the_axis_scale():
    mask = np.zeros((200, 100), bool)
    mask[20:60, 10:90] = True  # crossbar above
    mask[60:180, 40:60] = True  # stem
    rows = np.concatenate([np.repeat(np.arange(20, 60), 80), np.repeat(np.arange(60, 180), 20)])
    ends = np.array([[50.0, 179.0], [50.0, 20.0]])
    centroids = mask_centroids(mask, *ends)
    np.testing.assert_allclose(centroids["solid"], (99.5 - rows.mean()) / 79.5, atol=1e-9)
    assert 0 < centroids["hull"] < centroids["solid"]
    turned = mask_centroids(mask, *ends[::-1])
    np.testing.assert_allclose(turned["solid"], -centroids["solid"])


def test_hull_centroid_is_that_of_the_area_not_of_the_corners():
    square = [[0, 0], [2, 0], [2, 2], [0, 2]]
    crowded = np.array([*square, [1.9, 0], [1.8, 0], [1.7, 0.0]], float)
    np.testing.assert_allclose(hull_centroid(crowded), [1, 1])


def test_fit_recovers_the_weight_and_widens_sigma_for_few_objects():
    rng = np.random.default_rng(0)
    centroid = rng.normal(size=4000)
    truth = 0.6 * centroid + 0.1 * rng.normal(size=4000)
    candidates = {"solid": rng.normal(size=4000), "hull": centroid}
    fit = fit_heuristic(candidates, truth, ["x"] * 4000)
    assert fit.centroid == "hull"
    np.testing.assert_allclose((fit.weight, fit.sigma), (0.6, 0.1), atol=0.01)
    few = fit_heuristic({"hull": centroid[:5]}, truth[:5], ["x"] * 5)
    residuals = truth[:5] - few.weight * centroid[:5]
    np.testing.assert_allclose(few.sigma**2, np.sum(residuals**2) / 4 * 1.2 * 4 / 2)
    with pytest.raises(ValueError, match="3 objects are too few"):
        fit_heuristic({"hull": centroid[:3]}, truth[:3], ["x"] * 3)


def test_turning_an_object_around_turns_the_guess_around():
    rng = np.random.default_rng(1)
    centroid, truth = rng.normal(size=10), rng.normal(size=10)
    there = fit_heuristic({"hull": centroid}, truth, ["x"] * 10)
    sign = np.where(np.arange(10) % 2, 1.0, -1.0)
    back = fit_heuristic({"hull": sign * centroid}, sign * truth, ["x"] * 10)
    np.testing.assert_allclose((there.weight, there.sigma), (back.weight, back.sigma))


def test_leave_one_out_never_sees_the_object_it_speaks_about():
    rng = np.random.default_rng(2)
    centroids = {"solid": rng.normal(size=8), "hull": rng.normal(size=8)}
    truth = rng.normal(size=8)
    mean, sigma, fits = leave_one_out(centroids, truth, list("abcdefgh"))
    truth[3] = 1000.0
    again, sigma_again, _ = leave_one_out(centroids, truth, list("abcdefgh"))
    assert mean[3] == again[3]
    assert sigma[3] == sigma_again[3]
    assert sigma[0] != sigma_again[0]
    assert "d" not in fits[3].objects


def test_scores_against_arithmetic_by_hand():
    truth = np.array([0.0, 0.0, 0.0, 0.0])
    result = score(np.array([0.1, -0.1, 0.2, 0.0]), np.full(4, 0.1), truth)
    np.testing.assert_allclose((result.mae, result.rmse), (0.1, np.sqrt(0.06 / 4)))
    np.testing.assert_allclose(result.z_rms, np.sqrt(1.5))
    np.testing.assert_allclose(
        result.nll, np.log(0.1) + 0.5 * np.log(2 * np.pi) + 0.5 * 1.5, rtol=1e-12
    )
    assert result.coverage == {"0.5": 0.25, "0.8": 0.75, "0.95": 0.75}
    np.testing.assert_allclose(nll(np.array([0.0]), np.array([1.0])), 0.5 * np.log(2 * np.pi))


def test_sigma_scale_is_the_likeliest_and_its_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(3)
    z = 2.0 * rng.normal(size=10)
    scale, _, _ = fit_sigma_scale(z)
    grid = np.linspace(0.2, 6, 2000)
    best = grid[np.argmin([np.mean(nll(z, np.full(10, s))) for s in grid])]
    np.testing.assert_allclose(scale, best, atol=0.005)
    intervals = [fit_sigma_scale(2.0 * rng.normal(size=10))[1:] for _ in range(2000)]
    inside = np.mean([low <= 2.0 <= high for low, high in intervals])
    np.testing.assert_allclose(inside, 0.95, atol=0.02)  # 4 standard errors


@pytest.fixture(scope="module")
def tools():
    if not TOOLS.is_dir():
        pytest.skip(f"the Workshop Tools data set is not at {TOOLS}")
    return [load_workshop_tool(path) for path in sorted(TOOLS.iterdir()) if path.is_dir()]


def test_shipped_heuristic_beats_the_best_constant_box_on_tools_left_out(tools):
    """Issue 7: better NLL than the best constant-sigma box guess, mean sigma <= 20% of length."""
    truth = np.array([tool.truth for tool in tools])
    centroids = {kind: np.array([tool.centroid(kind) for tool in tools]) for kind in CANDIDATES}
    mean, sigma, _ = leave_one_out(centroids, truth, [tool.name for tool in tools])
    heuristic, box = score(mean, sigma, truth), constant_box(truth)
    assert heuristic.nll < box.nll - 0.3
    assert heuristic.mae < box.mae
    assert heuristic.mean_sigma <= 0.20
    shipped = load_fit("mesh")
    fitted = fit_heuristic(centroids, truth, [tool.name for tool in tools])
    assert (shipped.centroid, shipped.objects) == (fitted.centroid, fitted.objects)
    np.testing.assert_allclose((shipped.weight, shipped.sigma), (fitted.weight, fitted.sigma))


def test_tools_are_read_as_their_source_says(tools):
    """Offsets between uniform centroid and truth, from the data set's own verification."""
    offsets = {tool.name: abs(tool.truth - tool.centroid("solid")) for tool in tools}
    known = {"Hacksaw": 0.225, "Hammer": 0.226, "Clamp": 0.10, "Screwdriver": 0.139, "Ruler": 0.0}
    for name, offset in known.items():
        np.testing.assert_allclose(offsets[name], offset, atol=0.01)
