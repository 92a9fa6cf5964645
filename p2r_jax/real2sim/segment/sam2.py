"""``sam2``: the video predictor of Meta's ``sam2`` package, with a user's weights."""

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.pictures import write_picture
from p2r_jax.real2sim.segment.networks import pick_device, points_of, prompts_or_found, track
from p2r_jax.real2sim.segment.protocol import Prompt, Segmentation, Segmenter

if TYPE_CHECKING:
    from p2r_jax.real2sim.segment.step import Sam2Config

OBJECT = 1
PATCH_PX = 16  # of the picture behind one cell of the features that memory attends to
PUBLISHED_SIZE_PX = 1024
JPEG_QUALITY = 97
INSTALL = (
    "SAM2_BUILD_CUDA=0 pip install --no-build-isolation --no-deps sam2, next to torch, a "
    "torchvision that fits it, hydra-core and iopath; or take --masks.segmenter hf-sam2"
)


def load_sam2(config: "Sam2Config") -> Segmenter:
    """The segmenter, its network loaded.

    Raises:
      ImportError: if torch or ``sam2`` is not installed, or cannot be imported.
      FileNotFoundError: if there is no checkpoint.
      ValueError: if the checkpoint does not fit the configuration.
    """
    checkpoint = _checkpoint(config.checkpoint)
    device = pick_device(config.device)
    predictor = _predictor(config, checkpoint, device)

    def segment(frames: Sequence[Frame], prompts: Sequence[Prompt], film: bool) -> Segmentation:
        prompts, assumed = prompts_or_found(frames, prompts, film)
        with tempfile.TemporaryDirectory() as folder, _inference(device):
            state = _start(predictor, frames, Path(folder))
            first = _prompt(predictor, state, frames, prompts)

            def sweep(start: int, reverse: bool) -> Iterable[tuple[int, np.ndarray]]:
                tracked = predictor.propagate_in_video(state, start, reverse=reverse)
                for index, _, logits in tracked:
                    yield index, logits[0, 0].float().cpu().numpy()

            return track(len(frames), first, sweep, assumed)

    return segment


def _checkpoint(path: Path | None) -> Path:
    if path is None or not Path(path).is_file():
        what = "no checkpoint is named" if path is None else f"there is no checkpoint {path}"
        raise FileNotFoundError(
            f"{what}; download one that Meta publishes with SAM 2.1 (sam2.1_hiera_tiny.pt is the "
            "smallest) and name it with --masks.sam2.checkpoint"
        )
    return Path(path)


def _predictor(config: "Sam2Config", checkpoint: Path, device: str) -> Any:
    try:
        from sam2.build_sam import build_sam2_video_predictor
    except ImportError as error:
        raise ImportError(f"sam2 is not installed ({error}): {INSTALL}") from None
    except RuntimeError as error:  # a torchvision that does not fit torch
        raise ImportError(f"sam2 cannot be imported ({error}): {INSTALL}") from error
    try:
        return build_sam2_video_predictor(
            config.config, str(checkpoint), device, hydra_overrides_extra=_sizes(config.image_size)
        )
    except Exception as error:  # hydra, pickle and torch each raise their own
        raise ValueError(
            f"{checkpoint} is no checkpoint of SAM-2's {config.config} "
            f"({str(error)[:200] or 'weights are missing or too many'}); name the configuration "
            "that belongs to it with --masks.sam2.config"
        ) from error


def _sizes(image_size: int) -> list[str]:
    """Overrides for pictures of another size: the features' grid must follow."""
    if image_size == PUBLISHED_SIZE_PX:
        return []
    grid = f"[{image_size // PATCH_PX},{image_size // PATCH_PX}]"
    layer = "++model.memory_attention.layer"
    return [
        f"++model.image_size={image_size}",
        f"{layer}.self_attention.feat_sizes={grid}",
        f"{layer}.cross_attention.feat_sizes={grid}",
    ]


@contextmanager
def _inference(device: str):
    import torch

    half = torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.startswith("cuda"))
    with torch.inference_mode(), half:
        yield


def _start(predictor: Any, frames: Sequence[Frame], folder: Path) -> dict:
    """The predictor reads a folder of numbered JPEGs."""
    for i, frame in enumerate(tqdm(frames, "masks: reading", unit="frame", disable=None)):
        write_picture(folder / f"{i:05d}.jpg", frame.load(), JPEG_QUALITY)
    return predictor.init_state(str(folder), offload_video_to_cpu=True)


def _prompt(predictor: Any, state: dict, frames: Sequence[Frame], prompts: Sequence[Prompt]) -> int:
    """Give every prompt; returns the index of the first."""
    index = {frame.name: i for i, frame in enumerate(frames)}
    for prompt in prompts:
        points, labels = points_of(prompt)
        predictor.add_new_points_or_box(
            state, index[prompt.frame], OBJECT,
            points=points if len(points) else None, labels=labels if len(points) else None,
            box=np.array(prompt.box, np.float32) if prompt.box else None,
        )  # fmt: skip
    return min(index[prompt.frame] for prompt in prompts)
