"""The side nobody films: carved as above where the object is the same, left alone where not."""

from dataclasses import replace

import pytest

pytest.importorskip("trimesh", reason="needs p2r_jax[mesh]")
pytest.importorskip("skimage", reason="needs scikit-image: pip install 'p2r_jax[real2sim]'")

from mesh_captures import MIDDLE, box, depth_maps, photograph, ring, union

from p2r_jax.real2sim.mesh.hull import HullConfig, carve
from p2r_jax.real2sim.mesh.tsdf import fuse
from p2r_jax.real2sim.mesh.underside import carve_underside

THRESHOLD = 0.05


def hull_of(mesh, folder):
    """From 24 views, none of them from low down, and carved by their exact depth."""
    views = ring(MIDDLE, 0.5, 24, (0.5, 0.8, 1.1), size=160, focal=380.0)
    hull = carve(photograph(mesh, views, folder), HullConfig(voxel_m=0.0015))
    return replace(hull, field=fuse(hull, depth_maps(mesh, views)).field)


def test_a_gap_below_is_carved_as_the_one_above(tmp_path):
    """A thick head on a thin handle that hovers over the table, like a hammer's."""
    head, handle = box((0.03, 0.09, 0.03), (-0.05, 0, 0)), box((0.12, 0.03, 0.008), (0.02, 0, 0))
    hammer = union(head, handle).apply_translation((0, 0, 0.015))
    hull = hull_of(hammer, tmp_path)
    found = carve_underside(hull, THRESHOLD, table=True)
    before, after = (abs(h.mesh().volume / hammer.volume - 1) for h in (hull, found.hull))
    assert found.applied
    assert found.record["mirrored"]
    assert before > 0.05
    assert after < 0.7 * before
    assert found.plane.offset == pytest.approx(0.015, abs=1.5e-3)


def test_what_stands_broad_below_and_narrow_above_is_left_alone(tmp_path):
    foot, post = box((0.12, 0.08, 0.01), (0, 0, 0.005)), box((0.05, 0.03, 0.03), (0, 0, 0.025))
    hull = hull_of(union(foot, post), tmp_path)
    found = carve_underside(hull, THRESHOLD, table=True)
    assert not found.applied
    assert found.hull is hull


def test_masks_refuse_a_mirror_plane_that_the_threshold_lets_through(tmp_path):
    foot, post = box((0.12, 0.08, 0.01), (0, 0, 0.005)), box((0.05, 0.03, 0.03), (0, 0, 0.025))
    hull = hull_of(union(foot, post), tmp_path)
    found = carve_underside(hull, threshold=1.0, table=True)
    assert not found.applied
    assert found.iou is not None
    assert found.iou[1] < found.iou[0] - 0.01
    assert replace(found, iou=None).record["mask_iou"] is None
