"""Videos of an episode: MuJoCo headless (``offscreen``), else a 2-D top view.

Which renderer drew a video is returned and printed, with the reason when it is not MuJoCo.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from p2r_jax.evaluation.film_scene import scene_qpos, scene_spec
from p2r_jax.evaluation.motion import FOOT_PX, Motion, markers
from p2r_jax.evaluation.offscreen import RenderError, mujoco_frames, working_backend
from p2r_jax.evaluation.top_view import top_view_frames
from p2r_jax.film import write_mp4
from p2r_jax.sim.asset import Asset

TOP_VIEW = "top-view"


def render_video(
    path: Path,
    asset: Asset,
    poses: Float[np.ndarray, "t 3"],
    ee: Float[np.ndarray, "t 2"],
    goal: Float[np.ndarray, " 3"],
    *,
    fps: int = 20,
    speed: float = 8.0,
    period_s: float = 1.0,
    caption: Sequence[str] = (),
    theta_told: Float[np.ndarray, "actions ..."] | None = None,
    theta_truth: float | Float[np.ndarray, " k"] | None = None,
    pusher_radius_m: float = 0.0125,
    size: tuple[int, int] = (640, 480),
    renderer: str = "auto",
) -> str:
    """Film one episode as an mp4 (H.264).

    Args:
      path: mp4 to write; replaced only once it is complete.
      asset: the object.
      poses: object x, y (m), yaw (rad) at each control step, world frame.
      ee: pusher at each control step, world frame, m.
      goal: goal x, y (m), yaw (rad).
      fps: frames per second.
      speed: how much faster than life it plays.
      period_s: time between rows of ``poses``.
      caption: lines of text at the top, e.g. method and condition.
      theta_told: theta the policy was told, m, one for each row of ``poses`` or one
        fewer; a dot on the object and a line of text. With a second axis its
        components: x, or x and y of the centre of mass.
      theta_truth: the true theta, m; likewise.
      pusher_radius_m: radius of the pusher.
      size: width and height in pixels, both even.
      renderer: ``auto``, one of ``egl``, ``osmesa``, ``cgl``, or ``top-view``.

    Returns:
      The renderer that drew it: a MuJoCo backend's name or ``top-view`` (2-D, matplotlib).

    Raises:
      ValueError: for arrays that do not fit together.
      RenderError: if a named backend does not work here.
    """
    path = Path(path)
    motion = Motion(np.asarray(poses), np.asarray(ee), theta_told, theta_truth)
    if len(motion.poses) != len(motion.ee) or len(motion.poses) < 2:
        raise ValueError(f"{len(motion.poses)} poses and {len(motion.ee)} pusher positions")
    stride = speed / (fps * period_s)
    steps = np.arange(0, len(motion.poses) - 1 + 1e-9, stride)
    film = motion.resample(steps)
    goal = np.asarray(goal, float)
    used = renderer if renderer != "auto" else working_backend() or TOP_VIEW
    labels = [
        _Labels(tuple(caption), film, i, step * period_s, speed) for i, step in enumerate(steps)
    ]

    def film_with(name: str) -> None:
        if name == TOP_VIEW:
            frames = top_view_frames(asset, film, goal, pusher_radius_m, size)
        else:
            spec = scene_spec(asset, motion, goal, pusher_radius_m, size)
            frames = mujoco_frames(spec, scene_qpos(asset, film), size, name)
        write_mp4(path, (_annotate(f, t) for f, t in zip(frames, labels, strict=True)), fps)

    try:
        film_with(used)
    except RenderError as error:
        if renderer != "auto":
            raise
        print(f"{path}: {used} failed ({error}); drawing a 2-D top view instead")
        film_with(used := TOP_VIEW)
    print(f"{path}: {len(steps)} frames, drawn with {used}")
    return used


@dataclass(frozen=True)
class _Labels:
    """Text of one frame."""

    caption: tuple[str, ...]
    film: Motion
    index: int
    time_s: float
    speed: float


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), size)


def _annotate(frame: UInt8[np.ndarray, "h w 3"], labels: _Labels) -> UInt8[np.ndarray, "h w 3"]:
    """Caption at the top; theta told and true, time and speed at the bottom."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image, "RGBA")
    width, height = image.size
    ink, paper = (25, 25, 25, 255), (255, 255, 255, 185)
    draw.rectangle((0, 0, width, 12 + 22 * len(labels.caption)), fill=paper)
    for row, text in enumerate(labels.caption):
        draw.text((14, 7 + 22 * row), text, ink, _font(16, bold=row == 0))
    draw.rectangle((0, height - FOOT_PX, width, height), fill=paper)
    x = 14
    for name, values, rgb, _ in markers(labels.film):
        theta = values[min(labels.index, len(values) - 1)]
        said = ", ".join(f"{100 * v:+.1f}" for v in theta)
        color = tuple(round(255 * c) for c in rgb)
        for text, fill in (("●", color), (f"θ {name} {said} cm", ink)):
            draw.text((x, height - 27), text, fill, _font(15))
            x += int(draw.textlength(text, _font(15))) + 6
        x += 18
    clock = f"{labels.time_s:.0f} s   {labels.speed:g}x"
    draw.text((width - 14, height - 27), clock, ink, _font(15), anchor="ra")
    return np.asarray(image)
