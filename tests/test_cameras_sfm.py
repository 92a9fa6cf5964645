"""Structure from motion on rendered and real pictures, against what is known about them."""

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[reconstruct]'")
pytest.importorskip("pycolmap", reason="needs pip install 'p2r_jax[reconstruct]'")

from p2r_jax.real2sim.cameras.accuracy import world_errors
from p2r_jax.real2sim.cameras.scale import ScaleConfig
from p2r_jax.real2sim.cameras.step import CamerasConfig, find_cameras
from p2r_jax.real2sim.frames import FramesConfig, extract_frames
from p2r_jax.real2sim.synthetic import SyntheticConfig, render_capture
from p2r_jax.real2sim.views import read_views

HEAD = Path("../shared/data/ethiopian_head")
TAG_M = 0.05


@pytest.mark.slow
def test_sfm_finds_the_cameras_of_a_rendered_capture_in_metres_on_the_table(tmp_path):
    config = SyntheticConfig(
        views=14, elevations_deg=(35.0, 60.0), tag_size_m=TAG_M, distortion=-0.06
    )
    capture = render_capture(config, tmp_path / "capture")
    frames = extract_frames(FramesConfig(), capture, tmp_path / "frames")
    truth, _ = read_views(capture / "truth" / "cameras.json")
    masks = {view.name: view.mask for view in truth}
    scale = ScaleConfig(tag_size_m=TAG_M)
    found = find_cameras(CamerasConfig(scale=scale), frames, masks, tmp_path / "cameras")
    errors = world_errors(found.views, truth)
    assert errors["cameras"] == config.views
    assert errors["center_rms_mm"] < 1.0
    assert errors["rotation_max_deg"] < 0.3
    assert abs(errors["scale_error_percent"]) < 0.5
    assert errors["tilt_deg"] < 0.2
    assert abs(errors["table_height_mm"]) < 0.6
    assert "doubts" not in found.record["poses"]
    assert found.record["poses"]["look_at"] == "scene"
    view = found.views[0]  # straightened: the true lens bends by 6 %
    assert view.image.parent.parent == tmp_path / "cameras"
    assert view.K[0, 0] == pytest.approx(config.focal_px, rel=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not HEAD.is_dir(), reason=f"no {HEAD}: the shared data are not here")
def test_given_poses_of_a_real_capture_agree_with_its_masks(tmp_path):
    frames = extract_frames(FramesConfig(longest_side=500), HEAD, tmp_path / "frames")
    masks = {frame.name: frame.mask for frame in frames.frames}
    config = CamerasConfig(poses=HEAD, scale=ScaleConfig(camera_distance_m=0.6))
    found = find_cameras(config, frames, masks, tmp_path / "cameras")
    assert len(found.views) == 66
    assert found.record["object"]["rays_apart_mm"] < 0.005 * 600
    assert found.record["object"]["views_off"] == []
    assert found.record["table"]["source"].startswith("assumed")
    assert all(view.position[2] > 0.1 for view in found.views)
