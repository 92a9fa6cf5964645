"""Frames of an episode as a map, drawn with matplotlib where there is no OpenGL."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch

from p2r_jax.evaluation.figures import SWAP_XY, object_outline, pose_transform
from p2r_jax.evaluation.motion import (
    FOOT_PX,
    GOAL_RGB,
    HEAD_PX,
    OBJECT_RGB,
    PUSHER_RGB,
    Motion,
    markers,
    on_object,
    visited,
)
from p2r_jax.sim.asset import Asset


def top_view_frames(
    asset: Asset,
    film: Motion,
    goal: Float[np.ndarray, " 3"],
    pusher_radius: float,
    size: tuple[int, int],
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The same episode as a map: world +x up, +y to the left."""
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), facecolor="#F1F1F3")
    axes.set(xticks=np.arange(-2, 2, 0.1), yticks=np.arange(-2, 2, 0.1), axisbelow=True)
    axes.grid(color="white", lw=1.5)
    axes.spines[:].set_visible(False)
    points = visited(asset, film, goal)
    low, high = points.min(0) - 0.02, points.max(0) + 0.02
    width, height = size[0], size[1] - HEAD_PX - FOOT_PX  # what the text leaves free
    scale = max((high[1] - low[1]) / width, (high[0] - low[0]) / height)  # m per pixel
    x, y = (low + high) / 2 + [scale * (HEAD_PX - FOOT_PX) / 2, 0.0]
    axes.set_xlim(y + scale * size[0] / 2, y - scale * size[0] / 2)
    axes.set_ylim(x - scale * size[1] / 2, x + scale * size[1] / 2)

    outline = object_outline(asset)
    target = outline.transformed(pose_transform(goal) + SWAP_XY)
    axes.add_patch(PathPatch(target, fc=(*GOAL_RGB, 0.25), ec=GOAL_RGB, lw=2.5))
    body = PathPatch(outline, fc=(*OBJECT_RGB, 0.85), ec="#8A5A12", lw=1.2)
    tool = Circle((0, 0), pusher_radius, fc=PUSHER_RGB, ec="none")
    dots = [
        (Circle((0, 0), radius, fc=rgb, ec="none"), on_object(theta, len(film.poses)))
        for _, theta, rgb, radius in markers(film)
    ]
    moving = [axes.add_patch(p) for p in (body, *(dot for dot, _ in dots), tool)]
    for patch in moving:
        patch.set_animated(True)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for index, pose in enumerate(film.poses):
        place = pose_transform(pose) + SWAP_XY
        body.set_path(outline.transformed(place))
        tool.set_center((film.ee[index, 1], film.ee[index, 0]))
        for dot, points in dots:
            dot.set_center(tuple(place.transform(points[index])))
        canvas.restore_region(background)
        for patch in moving:
            axes.draw_artist(patch)
        yield np.array(canvas.buffer_rgba())[..., :3]
