"""``hf-sam2``: SAM-2 as the ``transformers`` library maintains it, with a user's weights.

Pictures are resized and normalised here, so torchvision is not needed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import missing_package, resized
from p2r_jax.real2sim.segment.networks import pick_device, points_of, prompts_or_found, track
from p2r_jax.real2sim.segment.protocol import Prompt, Segmentation, Segmenter

if TYPE_CHECKING:
    from p2r_jax.real2sim.segment.step import Sam2Config

OBJECT = 1
BOX_LABELS = 2, 3  # of a box's upper left and lower right corner, among the points
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_hf_sam2(config: "Sam2Config") -> Segmenter:
    """The segmenter, its network loaded from a folder (``config.json`` and weights).

    Raises:
      ImportError: if torch or transformers is not installed.
      FileNotFoundError: if there is no such folder.
      ValueError: if it holds no Sam2Video model.
    """
    folder = _folder(config.checkpoint)
    device = pick_device(config.device)
    model = _model(folder).to(device).eval()
    side = model.config.image_size

    def segment(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Segmentation:
        import torch

        prompts, assumed = prompts_or_found(frames, prompts, film)
        with torch.inference_mode():
            session = _session(frames, side, device)
            first = _prompt(model, session, frames, prompts, side)

            def sweep(start: int, reverse: bool) -> Iterable[tuple[int, np.ndarray]]:
                for output in model.propagate_in_video_iterator(session, start, reverse=reverse):
                    logits = output.pred_masks[0, 0].float().cpu().numpy()
                    size = frames[0].width, frames[0].height
                    yield output.frame_idx, resized(logits, size)

            return track(len(frames), first, sweep, assumed)

    return segment


def _folder(path: Path | None) -> Path:
    if path is None or not (Path(path) / "config.json").is_file():
        what = "no model is named" if path is None else f"{path} is no folder with a config.json"
        raise FileNotFoundError(
            f"{what}; download a SAM 2.1 model in transformers' format (sam2.1-hiera-tiny is the "
            "smallest) and name its folder with --masks.sam2.checkpoint"
        )
    return Path(path)


def _model(folder: Path) -> Any:
    try:
        from transformers import Sam2VideoModel
    except ImportError as error:
        raise missing_package("transformers") from error
    try:
        model, report = Sam2VideoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # config, safetensors and torch each raise their own
        raise ValueError(f"{folder} holds no Sam2Video model: {str(error)[:300]}") from error
    if missing := report["missing_keys"]:
        raise ValueError(
            f"{folder} holds no Sam2Video model: it lacks {len(missing)} weights, "
            f"e.g. {min(missing)}"
        )
    return model


def _session(frames: Sequence[Frame], side: int, device: str) -> Any:
    import torch
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    reading = tqdm(frames, "masks: reading", unit="frame", disable=None)
    video = torch.from_numpy(np.stack([_normalised(frame, side) for frame in reading]))
    return Sam2VideoInferenceSession(
        video=video, video_height=frames[0].height, video_width=frames[0].width,
        inference_device=device, inference_state_device=device, dtype=torch.float32,
    )  # fmt: skip


def _normalised(frame: Frame, side: int) -> Float[np.ndarray, "3 side side"]:
    pixels = resized(frame.load(), (side, side)).astype(np.float32) / 255
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def _prompt(
    model: Any, session: Any, frames: Sequence[Frame], prompts: Sequence[Prompt], side: int
) -> int:
    """Give every prompt, in pixels of what the network sees; returns the index of the first."""
    import torch

    index = {frame.name: i for i, frame in enumerate(frames)}
    scale = np.array([side / frames[0].width, side / frames[0].height], np.float32)
    for prompt in prompts:
        points, labels = points_of(prompt)
        if prompt.box:
            points = np.concatenate([np.reshape(np.float32(prompt.box), (2, 2)), points])
            labels = np.concatenate([np.array(BOX_LABELS, np.int32), labels])
        session.add_point_inputs(
            session.obj_id_to_idx(OBJECT), index[prompt.frame],
            {
                "point_coords": torch.from_numpy(points * scale)[None, None],
                "point_labels": torch.from_numpy(labels)[None, None],
            },
        )  # fmt: skip
        session.obj_with_new_inputs = [OBJECT]
        model(inference_session=session, frame_idx=index[prompt.frame])
    return min(index[prompt.frame] for prompt in prompts)
