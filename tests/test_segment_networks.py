"""SAM-2 through both of its packages, with random weights on the CPU."""

from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs pip install 'p2r_jax[real2sim]'")
from segment_scenes import picture, write_frames
from torchvision_shim import need

from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.pictures import read_grey
from p2r_jax.real2sim.segment.networks import prompts_or_found, track
from p2r_jax.real2sim.segment.protocol import Prompt
from p2r_jax.real2sim.segment.step import MasksConfig, Sam2Config, make_masks

SIDE_PX = 256
CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"


@pytest.fixture
def frames(tmp_path):
    rng = np.random.default_rng(0)
    return write_frames(tmp_path / "frames", [picture(rng, 5.0 * i)[0] for i in range(3)])


def test_tracking_starts_at_the_prompt_and_runs_both_ways():
    swept = []

    def sweep(start, reverse):
        for i in range(start, -1, -1) if reverse else range(start, 5):
            swept.append(i)
            yield i, np.where(np.eye(4) > 0, 3.0 + i, -3.0)

    result = track(5, 2, sweep, "")
    assert swept == [2, 3, 4, 2, 1, 0]
    assert len(result.masks) == 5
    assert all(mask.any() for mask in result.masks)
    assert result.scores == sorted(result.scores)


def test_only_the_largest_piece_of_the_networks_answer_is_kept():
    logits = np.full((20, 20), -5.0)
    logits[2:10, 2:10] = 5
    logits[15:17, 15:17] = 5
    mask = track(1, 0, lambda *_: [(0, logits)], "").masks[0]
    assert mask.sum() == 64


def test_without_a_prompt_a_box_around_what_stands_out_is_given_and_said(frames):
    rng = np.random.default_rng(0)
    _, truth = picture(rng)
    (prompt,), assumed = prompts_or_found(frames.frames, (), True)
    rows, columns = np.nonzero(truth)
    assert prompt.box == pytest.approx(
        (columns.min(), rows.min(), columns.max(), rows.max()), abs=15
    )
    assert f"{prompt.frame}:box=" in assumed
    given = (Prompt("0001", (1.0, 1.0, 9.0, 9.0)),)
    assert prompts_or_found(frames.frames, given, True) == (given, "")


@pytest.mark.parametrize("segmenter", ["sam2", "hf-sam2"])
def test_no_weights_is_said_before_anything_is_loaded(segmenter, frames, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--masks\.sam2\.checkpoint"):
        make_masks(MasksConfig(segmenter), frames, tmp_path / "masks")
    config = MasksConfig(segmenter, sam2=Sam2Config(tmp_path / "nothing.pt"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        make_masks(config, frames, tmp_path / "masks")


def test_a_size_that_the_network_cannot_have_is_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        Sam2Config(image_size=250)


def answers(config, frames, out):
    """Masks of random weights cannot be right, so the step may refuse them; they are written."""
    with suppress(CaptureError):
        make_masks(config, frames, out)
    return [read_grey(out / "masks" / f"{frame.name}.png") for frame in frames.frames]


PROMPTS = ("0001:box=40,30,200,150", "0001:+120,60", "0001:-10,10")


@pytest.mark.slow
def test_sam2_loads_a_checkpoint_takes_prompts_and_tracks(frames, tmp_path):
    build = need("sam2.build_sam")
    import torch

    from p2r_jax.real2sim.segment.sam2 import _sizes

    torch.manual_seed(0)
    network = build.build_sam2_video_predictor(
        CONFIG, None, "cpu", hydra_overrides_extra=_sizes(SIDE_PX)
    )
    checkpoint = tmp_path / "random.pt"
    torch.save({"model": network.state_dict()}, checkpoint)
    config = MasksConfig("sam2", PROMPTS, sam2=Sam2Config(checkpoint, CONFIG, SIDE_PX, "cpu"))
    masks = answers(config, frames, tmp_path / "masks")
    assert [mask.shape for mask in masks] == [(180, 240)] * 3

    other = Sam2Config(checkpoint, "configs/sam2.1/sam2.1_hiera_s.yaml", SIDE_PX, "cpu")
    with pytest.raises(ValueError, match=r"random\.pt is no checkpoint of SAM-2's .*hiera_s"):
        make_masks(MasksConfig("sam2", sam2=other), frames, tmp_path / "other")
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"random\.pt is no checkpoint"):
        make_masks(config, frames, tmp_path / "broken")


def small_hf_model():
    transformers = need("transformers")
    import torch

    torch.manual_seed(0)
    s, plain = SIDE_PX, transformers.Sam2VideoConfig().to_dict()
    backbone = {**plain["vision_config"]["backbone_config"], "image_size": [s, s]}
    vision = {
        **plain["vision_config"],
        "backbone_feature_sizes": [[s // k, s // k] for k in (4, 8, 16)],
        "backbone_config": backbone,
    }
    config = transformers.Sam2VideoConfig(
        image_size=s, vision_config=vision,
        prompt_encoder_config={**plain["prompt_encoder_config"], "image_size": s},
        memory_attention_rope_feat_sizes=[s // 16, s // 16],
    )  # fmt: skip
    return transformers.Sam2VideoModel(config)


@pytest.mark.slow
def test_hf_sam2_loads_a_folder_takes_prompts_and_tracks(frames, tmp_path):
    folder = tmp_path / "model"
    small_hf_model().save_pretrained(folder)
    config = MasksConfig("hf-sam2", PROMPTS, sam2=Sam2Config(folder, device="cpu"))
    masks = answers(config, frames, tmp_path / "masks")
    assert [mask.shape for mask in masks] == [(180, 240)] * 3

    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="holds no Sam2Video model"):
        make_masks(config, frames, tmp_path / "broken")


@pytest.mark.slow
def test_hf_prompts_reach_the_network_in_its_own_pixels(frames):
    need("transformers")
    from p2r_jax.real2sim.segment.hf_sam2 import _prompt, _session

    asked = []
    prompt = Prompt("0001", (24.0, 18.0, 120.0, 90.0), ((60.0, 45.0),), ((240.0, 180.0),))
    session = _session(frames.frames, 64, "cpu")
    first = _prompt(
        lambda **kw: asked.append(kw["frame_idx"]), session, frames.frames, [prompt], 64
    )
    assert first == 1
    assert asked == [1]
    given = session.point_inputs_per_obj[0][1]
    expected = [[6.4, 6.4], [32, 32], [16, 16], [64, 64]]
    np.testing.assert_allclose(given["point_coords"][0, 0], expected, atol=1e-4)
    assert given["point_labels"][0, 0].tolist() == [2, 3, 1, 0]
