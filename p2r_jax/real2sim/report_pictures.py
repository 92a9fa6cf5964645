"""Pictures that the report draws itself: cameras in space, sharpness, outlines over photos."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.real2sim.mesh.render import depth_of
from p2r_jax.real2sim.pictures import missing_package, resized, size_within
from p2r_jax.real2sim.turntable import (
    mesh_pictures,
    orbit,
    splat_pictures,
    write_turntable,
)
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, CAMERA, OBJECT, LEFT_OUT = "#8a94a6", "#3b82c4", "#e0913a", "#c0564b"  # on light and dark
POINTS_SHOWN = 2500
OUTLINE = (255, 220, 0)
JPEG_QUALITY = 86
SHEET_PX, PAIR_PX, OVERLAY_PX = 1680, 900, 360
MIME = {
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
}  # fmt: skip


def data_uri(data: bytes, ending: str) -> str:
    """Bytes of a picture as an address that needs no network."""
    return f"data:{MIME[ending]};base64,{base64.b64encode(data).decode()}"


def embedded(path: Path) -> str:
    """A picture file as it is."""
    return data_uri(path.read_bytes(), path.suffix.lower())


def embedded_jpeg(pixels: UInt8[np.ndarray, "h w 3"], longest: int) -> str:
    """Pixels as JPEG, shrunk to a longest side."""
    from PIL import Image

    height, width = pixels.shape[:2]
    data = io.BytesIO()
    small = resized(np.ascontiguousarray(pixels), size_within(width, height, longest))
    Image.fromarray(small).save(data, "JPEG", quality=JPEG_QUALITY)
    return data_uri(data.getvalue(), ".jpg")


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib") from None
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    figure.patch.set_alpha(0)
    FigureCanvasAgg(figure)
    return figure


def _embedded_figure(figure: "Figure") -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", transparent=True)
    return data_uri(data.getvalue(), ".png")


def _quiet(axes: "Axes") -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def sharpness_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Sharpness of every picture of the capture, the chosen ones marked."""
    figure = _figure(8.4, 1.9)
    axes = figure.add_subplot()
    timed = rows[0]["time_s"] is not None
    at = np.array([row["time_s"] if timed else row["index"] for row in rows], float)
    value = np.array([row["sharpness"] for row in rows])
    chosen = np.array([row["chosen"] for row in rows])
    blurred = np.array([str(row["why_not"]).startswith("blurred") for row in rows])
    axes.plot(at, value, color=INK, lw=0.8, alpha=0.6)
    for which, colour, name in ((chosen, CAMERA, "taken"), (blurred, LEFT_OUT, "too blurred")):
        if which.any():
            axes.scatter(at[which], value[which], s=13, color=colour, label=name, zorder=3)
    axes.set_xlabel("time in the film, s" if timed else "photo", fontsize=8)
    axes.set_ylabel("sharpness", fontsize=8)
    if not timed:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right", ncols=2)
    _quiet(axes)
    return _embedded_figure(figure)


def frusta_plot(
    views: Sequence[View],
    points: Float[np.ndarray, "n 3"],
    colours: Float[np.ndarray, "n 3"],
    held_out: Sequence[str] = (),
) -> str:
    """Cameras around the object, from the side and from above.

    Args:
      views: posed frames, world frame.
      points, colours: of the scene or the object's surface; m, RGB in [0, 1].
      held_out: names of views that only judged.
    """
    figure = _figure(8.4, 4.0)
    reach = float(max(np.abs([view.position for view in views]).max(), 1e-3))
    side = figure.add_subplot(1, 2, 1, projection="3d")
    above = figure.add_subplot(1, 2, 2)
    near = np.linalg.norm(points, axis=1) < 0.75 * reach if len(points) else np.zeros(0, bool)
    shown = np.flatnonzero(near)[:: max(1, int(near.sum()) // POINTS_SHOWN)]
    side.scatter(*points[shown].T, c=colours[shown], s=1, depthshade=False)
    above.scatter(*points[shown, :2].T, c=colours[shown], s=1)
    for view in views:
        colour = LEFT_OUT if view.name in held_out else CAMERA
        for line in _frustum(view, 0.14 * reach):
            side.plot(*line.T, color=colour, lw=0.6)
            above.plot(*line[:, :2].T, color=colour, lw=0.6)
    _dress(side, above, reach, np.array([view.position for view in views]))
    return _embedded_figure(figure)


def _frustum(view: View, depth: float) -> list[Float[np.ndarray, "n 3"]]:
    """The picture's rim at some depth, and a line from the camera to each corner; m."""
    w, h = view.width, view.height
    pixels = np.array([[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1], [0, 0, 1.0]])
    rays = depth * pixels @ np.linalg.inv(view.K).T
    corners = view.position + rays @ view.T_camera_world[:3, :3]
    return [corners, *(np.stack([view.position, corner]) for corner in corners[:4])]


def _dress(side, above: "Axes", reach: float, positions: Float[np.ndarray, "n 3"]) -> None:
    top = max(positions[:, 2].max(), 0.3 * reach)
    side.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(0, top))
    side.set_box_aspect((2, 2, top / reach), zoom=1.2)
    side.view_init(elev=22, azim=-60)
    side.patch.set_alpha(0)
    for axis in (side.xaxis, side.yaxis, side.zaxis):
        axis.set_pane_color((0, 0, 0, 0))
        axis.line.set_color(INK)
        axis._axinfo["grid"]["color"] = (0.5, 0.55, 0.6, 0.25)
        axis.set_tick_params(colors=INK, labelsize=7)
    above.set_aspect("equal")
    above.set_xlabel("x, m", fontsize=8)
    above.set_ylabel("y, m", fontsize=8)
    _quiet(above)


def mesh_over_photo(mesh: "trimesh.Trimesh", view: View) -> str:
    """The mesh's outline drawn over the picture, cut to the object."""
    import cv2

    drawn = np.isfinite(depth_of(mesh, view))
    rgb = view.load_image().copy()
    edge, _ = cv2.findContours(drawn.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(rgb.shape) / 500))
    cv2.drawContours(rgb, edge, -1, OUTLINE, width, cv2.LINE_AA)
    rows, columns = np.nonzero(drawn | view.load_mask())
    if not len(rows):
        return embedded_jpeg(rgb, OVERLAY_PX)
    half = round(0.58 * max(np.ptp(rows), np.ptp(columns))) + 1
    v, u = (round((x.min() + x.max()) / 2) for x in (rows, columns))
    part = rgb[max(0, v - half) : v + half, max(0, u - half) : u + half]
    return embedded_jpeg(part, OVERLAY_PX)


def mesh_turntable(file: Path, mesh: "trimesh.Trimesh") -> str:
    """Moving picture of a mesh, kept beside its file until that changes."""
    return _turntable(file, lambda: mesh_pictures(mesh, orbit(mesh.bounds)))


def splat_turntable(file: Path) -> str:
    """Moving picture of a splat, kept beside its file until that changes."""
    from p2r_jax.real2sim.splat.ply import read_ply

    def pictures():
        splat = read_ply(file)
        means = np.asarray(splat.means)
        return splat_pictures(splat, orbit(np.percentile(means, (1, 99), axis=0)))

    return _turntable(file, pictures)


def _turntable(file: Path, pictures) -> str:
    film = file.with_name("turntable.webp")
    if not film.is_file() or film.stat().st_mtime < file.stat().st_mtime:
        write_turntable(film, pictures())
    return embedded(film)
