"""The table from above, drawn from what a run wrote down: no asset and no OpenGL needed.

World +x points up, +y to the left, as in every other picture of this project.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from p2r_jax.deploy.records import RunHeader

SMOOTH = 2  # drawn this much larger, then shrunk
DEFAULT_TOOL_RADIUS_M = 0.0125  # where the header does not say
TABLE, GRID, EDGE = (241, 241, 243), (255, 255, 255), (150, 155, 165)
OBJECT, OBJECT_EDGE = (237, 158, 51, 217), (138, 90, 18)
GOAL, GOAL_EDGE = (0, 158, 115, 64), (0, 158, 115)
TOOL, TRAIL = (41, 69, 115), (41, 69, 115, 130)
TOLD = (214, 38, 97)
DOT_PX = 3.5
Point = tuple[float, float]
Numbers = Sequence[float] | Float[np.ndarray, " n"]


class TopView:
    """Draws frames of one run; what does not move is drawn once."""

    def __init__(self, header: RunHeader, size: tuple[int, int], visited: Float[np.ndarray, "n 2"]):
        """Choose the view.

        Args:
          header: of the run: outline, goal and workspace.
          size: width and height in pixels.
          visited: places besides workspace and goal that the picture has to hold, m.
        """
        self.size = size
        self._outline = np.array(header.outline, float).reshape(-1, 2)
        radius = header.tool_radius_m
        self._radius = DEFAULT_TOOL_RADIUS_M if np.isnan(radius) else radius
        self._com_axes = [n for n in header.theta if n.startswith("com_object_")]
        workspace = np.array(header.workspace, float).reshape(-1, 2)
        goal = placed(self._outline, header.goal)
        points = np.concatenate([workspace, goal, visited[np.isfinite(visited).all(1)]])
        low, high = points.min(0) - 0.02, points.max(0) + 0.02
        width, height = SMOOTH * np.array(size)
        self._scale = min(width / (high[1] - low[1]), height / (high[0] - low[0]))  # px per m
        self._centre = (low + high) / 2
        self._background = self._draw_background(workspace, goal)

    def pixels(self, points: Float[np.ndarray, "n 2"]) -> list[Point]:
        """Pixels of the large picture for world points."""
        x, y = (np.asarray(points, float) - self._centre).T
        width, height = SMOOTH * np.array(self.size)
        columns = np.stack([width / 2 - self._scale * y, height / 2 - self._scale * x], -1)
        return [tuple(p) for p in columns.tolist()]

    def frame(
        self, pose: Numbers, ee_xy: Numbers, trail: Float[np.ndarray, "n 2"],
        mean: Numbers = (), sigma: Numbers = (),
    ) -> UInt8[np.ndarray, "h w 3"]:  # fmt: skip
        """One picture.

        Args:
          pose: x, y, yaw of the object; NaN draws none.
          ee_xy: tip of the pusher, m.
          trail: where the tip was before, m.
          mean, sigma: belief about theta; a centre of mass is drawn on the object.
        """
        image = self._background.copy()
        draw = ImageDraw.Draw(image, "RGBA")
        trail = trail[np.isfinite(trail).all(1)]
        if len(trail) > 1:
            draw.line(self.pixels(trail), TRAIL, 2 * SMOOTH)
        if np.isfinite(pose).all():
            corners = self.pixels(placed(self._outline, pose))
            draw.polygon(corners, OBJECT)
            draw.line([*corners, corners[0]], OBJECT_EDGE, SMOOTH, joint="curve")
            self._draw_belief(draw, pose, mean, sigma)
        if np.isfinite(ee_xy).all():
            self._draw_disc(draw, ee_xy, self._radius, TOOL)
        return np.asarray(image.resize(self.size, Image.Resampling.LANCZOS))

    def _draw_belief(self, draw, pose, mean, sigma) -> None:
        """Mean and one sigma of the centre of mass, along the object's axes."""
        if not self._com_axes or not len(mean):
            return
        axes = ["com_object_x", "com_object_y"]
        at, spread = np.zeros(2), np.zeros(2)
        for name, m, s in zip(self._com_axes, mean, sigma, strict=False):
            at[axes.index(name)], spread[axes.index(name)] = m, s
        reach = float(np.abs(self._outline).max())
        spread = np.minimum(np.nan_to_num(spread, nan=reach, posinf=reach), reach)
        for axis in np.eye(2):
            ends = np.stack([at - spread * axis, at + spread * axis])
            draw.line(self.pixels(placed(ends, pose)), TOLD, 2 * SMOOTH)
        if np.isfinite(at).all():
            self._draw_disc(draw, placed(at[None], pose)[0], DOT_PX * SMOOTH / self._scale, TOLD)

    def _draw_disc(self, draw, centre, radius_m: float, color) -> None:
        x, y = self.pixels(np.array([centre]))[0]
        r = max(self._scale * radius_m, 2 * SMOOTH)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def _draw_background(self, workspace, goal) -> Image.Image:
        """Table with a 10 cm grid, workspace and goal."""
        width, height = SMOOTH * self.size[0], SMOOTH * self.size[1]
        image = Image.new("RGB", (width, height), TABLE)
        draw = ImageDraw.Draw(image, "RGBA")
        for tick in np.arange(-3, 3, 0.1):
            column, row = self.pixels(np.array([[tick, tick]]))[0]
            draw.line([(column, 0), (column, height)], GRID, 2 * SMOOTH)
            draw.line([(0, row), (width, row)], GRID, 2 * SMOOTH)
        edge = self.pixels(workspace)
        if edge:
            draw.line([*edge, edge[0]], EDGE, SMOOTH)
        corners = self.pixels(goal)
        draw.polygon(corners, GOAL)
        draw.line([*corners, corners[0]], GOAL_EDGE, 2 * SMOOTH, joint="curve")
        return image


def placed(points: Float[np.ndarray, "n 2"], pose: Numbers) -> Float[np.ndarray, "n 2"]:
    """Object-frame points in the world, for a pose (x, y, yaw)."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return np.asarray(points) @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(pose[:2], float)


def places(outline, poses: Float[np.ndarray, "t 3"], ee: Float[np.ndarray, "t 2"]) -> np.ndarray:
    """Everywhere the object's corners and the tip came to: Float[n, 2], m; NaN where unknown."""
    corners = np.asarray(outline, float).reshape(-1, 2)
    return np.concatenate([ee, *(placed(corners, pose) for pose in poses)])
