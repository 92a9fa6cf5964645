"""Videos of an episode: MuJoCo headless (EGL, else OSMesa), else a 2-D top view.

Rendering runs in a process of its own (``render_worker``), because the OpenGL
library is chosen through the environment and the package never writes to its
own. Which renderer drew a video is returned and printed, with the reason when
it is not MuJoCo.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import mujoco
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch
from PIL import Image, ImageDraw, ImageFont

from p2r_jax.evaluation.figures import SWAP_XY, object_outline, pose_transform
from p2r_jax.film import write_mp4
from p2r_jax.sim.asset import Asset, prism
from p2r_jax.sim.footprint import grown
from p2r_jax.sim.mjcf import SceneOptions, push_spec

WORKER = Path(__file__).with_name("render_worker.py")
BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
TOP_VIEW = "top-view"
OBJECT_RGB, GOAL_RGB, PUSHER_RGB = (0.93, 0.62, 0.20), (0.0, 0.62, 0.45), (0.16, 0.27, 0.45)
GOAL_TINT = (0.50, 0.80, 0.69)  # opaque, as overlapping translucent parts would show a seam
TRUTH_RGB, TOLD_RGB = (0.05, 0.05, 0.05), (0.84, 0.15, 0.38)
PUSHER_HEIGHT_M = 0.14
MARKER_RADIUS_M = 0.008
HEAD_PX, FOOT_PX = 58, 34  # kept free for two lines of caption and a line of numbers


class RenderError(RuntimeError):
    """The worker could not render; the message is its reason, in one line."""


@dataclass(frozen=True)
class Motion:
    """An episode as it is filmed, one row per control step.

    Attributes:
      poses: object x, y (m), yaw (rad), world frame; Float[T, 3].
      ee: pusher, world frame, m; Float[T, 2].
      theta_told: theta the policy was told (CoM on object axes, m) from each step on,
        one for each step or each action (T - 1), a dot on the object; None draws none.
      theta_truth: the true one, m, drawn likewise.
    """

    poses: Float[np.ndarray, "t 3"]
    ee: Float[np.ndarray, "t 2"]
    theta_told: Float[np.ndarray, "actions ..."] | None = None
    theta_truth: float | Float[np.ndarray, " k"] | None = None

    def resample(self, steps: Float[np.ndarray, " f"]) -> "Motion":
        """The motion at fractional control steps, linear in between; yaw takes the short way."""
        known = np.arange(len(self.poses))
        poses = np.array(self.poses, float)
        poses[:, 2] = np.unwrap(poses[:, 2])

        def at(values):
            return np.stack([np.interp(steps, known, v) for v in np.asarray(values, float).T], -1)

        told = self.theta_told
        if told is not None:
            told = np.asarray(told, float)
            told = told[np.minimum(steps.astype(int), len(told) - 1)]
        return Motion(at(poses), at(self.ee), told, self.theta_truth)


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
            frames = _top_view_frames(asset, film, goal, pusher_radius_m, size)
        else:
            spec = scene_spec(asset, motion, goal, pusher_radius_m, size)
            frames = _mujoco_frames(spec, scene_qpos(asset, film), size, name)
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


@cache
def working_backend() -> str | None:
    """The first OpenGL backend that renders here, tried once per process; None if none does.

    A ``MUJOCO_GL`` that is set is the only one tried. When none works, the reasons are printed.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    for backend in (asked,) if asked else BACKENDS:
        spec = mujoco.MjSpec()
        spec.worldbody.add_camera(name="view", pos=[0, 0, 1])
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0])
        try:
            list(_mujoco_frames(spec, np.zeros((1, 0)), (64, 48), backend))
        except RenderError as error:
            reasons.append(f"{backend}: {error}")
        else:
            return backend
    print(f"videos: no OpenGL here, drawing 2-D top views instead ({'; '.join(reasons)})")
    return None


def scene_spec(
    asset: Asset,
    motion: Motion,
    goal: Float[np.ndarray, " 3"],
    pusher_radius: float,
    size: tuple[int, int],
) -> mujoco.MjSpec:
    """The push scene dressed for a picture: light, camera, goal, markers, a visible tool."""
    spec = push_spec(asset, np.zeros((1, 2)), pusher_radius, SceneOptions(), None)
    world = spec.worldbody
    _dress_table(spec)
    top = asset.height_m / 2
    spec.geom("pusher").rgba = [0, 0, 0, 0]
    cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER
    spec.body("pusher").add_geom(
        type=cylinder,
        size=[pusher_radius, PUSHER_HEIGHT_M / 2, 0],
        contype=0,
        conaffinity=0,
        pos=[0, 0, PUSHER_HEIGHT_M / 2 - top + 0.004],
        rgba=[*PUSHER_RGB, 1],
        mass=1e-3,
    )
    target = world.add_body(
        name="goal",
        pos=[goal[0], goal[1], 0],
        quat=[np.cos(goal[2] / 2), 0, 0, np.sin(goal[2] / 2)],
    )
    # The border lies outside the goal, so that it shows around an object that has arrived.
    for rim, height, rgb in ((0.006, 0.0002, GOAL_RGB), (0.0, 0.0004, GOAL_TINT)):
        layer = target.add_body(pos=[0, 0, height])
        for index, part in enumerate(asset.parts):
            shape = prism(spec, grown(part, rim), f"goal{rim}_{index}", 2 * height)
            layer.add_geom(contype=0, conaffinity=0, rgba=[*rgb, 1], **shape)
    for order, (name, _, rgb, radius) in enumerate(_markers(motion)):
        marker = spec.body("object").add_body(name=name, pos=[0, 0, top])
        for name_of, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
            slide = mujoco.mjtJoint.mjJNT_SLIDE
            marker.add_joint(name=f"{name}_{name_of}", type=slide, axis=axis)
        marker.add_geom(
            type=cylinder,
            size=[radius, 0.0008 + 0.0004 * order, 0],
            rgba=[*rgb, 1],
            contype=0,
            conaffinity=0,
            mass=1e-3,
        )
    _add_camera(spec, asset, motion, goal, size)
    return spec


def scene_qpos(asset: Asset, film: Motion) -> Float[np.ndarray, "f q"]:
    """Joint positions of ``scene_spec`` for every frame.

    MuJoCo orders joints by the tree: the object's free joint, its markers, the pusher.
    """
    count, yaw = len(film.poses), film.poses[:, 2]
    height = np.full(count, asset.height_m / 2)
    none = np.zeros(count)
    quat = np.stack([np.cos(yaw / 2), none, none, np.sin(yaw / 2)], -1)
    columns = [film.poses[:, :2], height[:, None], quat]
    for _, theta, _, _ in _markers(film):
        columns.append(_on_object(theta, count))
    return np.concatenate([*columns, film.ee], -1)


def _dress_table(spec: mujoco.MjSpec) -> None:
    """A quiet 10 cm checkerboard, soft light with one shadow, a plain background."""
    spec.add_texture(
        name="grid",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        width=256,
        height=256,
        rgb1=[0.90, 0.90, 0.91],
        rgb2=[0.84, 0.85, 0.87],
    )
    material = spec.add_material(name="grid", texrepeat=[5, 5], texuniform=True, specular=0.1)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grid"
    table = spec.geom("table")
    table.material, table.rgba = "grid", [1, 1, 1, 1]
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[-0.07, 0.45, 1.5],
        dir=[0.25, -0.3, -1.0],
        diffuse=[0.42, 0.42, 0.42],
        specular=[0.1, 0.1, 0.1],
        castshadow=True,
    )
    visual = spec.visual
    visual.headlight.ambient = [0.38, 0.38, 0.38]
    visual.headlight.diffuse = [0.22, 0.22, 0.22]
    visual.headlight.specular = [0, 0, 0]
    spec.stat.extent, spec.stat.center = 0.7, [0.3, 0, 0]
    visual.map.znear, visual.map.zfar = 0.01, 10.0
    visual.map.shadowclip = 1.6  # a map larger than the picture, whose border shows dots
    visual.quality.shadowsize = 1024
    visual.quality.offsamples = 4


def _add_camera(
    spec: mujoco.MjSpec,
    asset: Asset,
    motion: Motion,
    goal: Float[np.ndarray, " 3"],
    size: tuple[int, int],
) -> None:
    """A fixed camera on the robot's side that holds the whole episode: +x up, +y to the left."""
    tilt, fovy = np.deg2rad(60.0), np.deg2rad(35.0)
    back = np.array([-np.cos(tilt), 0.0, np.sin(tilt)])  # of the camera, its z axis
    axes = np.stack([[0.0, -1.0, 0.0], [back[2], 0.0, -back[0]], back], -1)
    points = _visited(asset, motion, goal)
    tall = np.stack(np.meshgrid(*zip(points.min(0), points.max(0), strict=True)), -1).reshape(-1, 2)
    corners = np.concatenate(
        [np.insert(tall, 2, z, axis=1) for z in (0.0, asset.height_m, PUSHER_HEIGHT_M)]
    )
    half = np.tan(fovy / 2) * np.array([size[0] / size[1], 1.0])
    low, high = (
        np.array([-0.96, 2 * FOOT_PX / size[1] - 0.98]),
        np.array([0.96, 0.98 - 2 * HEAD_PX / size[1]]),
    )
    middle = np.append((points.min(0) + points.max(0)) / 2, 0.0)
    position, distance = middle + back, 1.0
    for _ in range(20):  # a few steps of centring and zooming; each uses the last view
        seen = (corners - position) @ axes
        seen = seen[:, :2] / (-seen[:, 2:] * half)
        overshoot = np.max((seen.max(0) - seen.min(0)) / (high - low))
        offset = (seen.max(0) + seen.min(0)) / 2 - (low + high) / 2
        position = position + axes[:, :2] @ (offset * half * distance)
        position = position + back * distance * (overshoot - 1.0)
        distance *= overshoot
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, axes.flatten())
    spec.worldbody.add_camera(name="view", pos=position, quat=quat, fovy=np.rad2deg(fovy))


def _mujoco_frames(
    spec: mujoco.MjSpec, qpos: Float[np.ndarray, "f q"], size: tuple[int, int], backend: str
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames from the worker; raises RenderError with its last line of complaint."""
    width, height = size
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    environment = os.environ | {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        environment["PYOPENGL_PLATFORM"] = backend
    with tempfile.TemporaryDirectory() as folder:
        model, motion, log = (Path(folder) / name for name in ("model.mjb", "qpos.npy", "log"))
        mujoco.mj_saveModel(spec.compile(), str(model))
        np.save(motion, qpos)
        arguments = [model, motion, width, height]
        command = [sys.executable, "-P", str(WORKER), *map(str, arguments)]
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, env=environment
            ) as worker,
        ):
            assert worker.stdout is not None
            try:
                for _ in range(len(qpos)):
                    raw = worker.stdout.read(3 * width * height)
                    if len(raw) < 3 * width * height:
                        worker.wait()
                        raise RenderError(_last_line(log))
                    yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
            finally:
                worker.kill()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith(" ")]
    return (errors or lines or ["no message"])[-1].strip()[:200]


def _top_view_frames(
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
    points = _visited(asset, film, goal)
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
        (Circle((0, 0), radius, fc=rgb, ec="none"), _on_object(theta, len(film.poses)))
        for _, theta, rgb, radius in _markers(film)
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


def _markers(motion: Motion) -> list[tuple]:
    """What is marked on the object: name, theta (one or all frames, k), colour, radius (m)."""
    truth, told = motion.theta_truth, motion.theta_told
    markers = []
    if truth is not None:
        markers.append(("true", np.reshape(truth, (1, -1)), TRUTH_RGB, 1.5 * MARKER_RADIUS_M))
    if told is not None:
        markers.append(("told", np.reshape(told, (len(told), -1)), TOLD_RGB, MARKER_RADIUS_M))
    return markers


def _on_object(theta: Float[np.ndarray, "one_or_f k"], count: int) -> Float[np.ndarray, "f 2"]:
    """Where theta is marked, object frame; a single component lies on the x axis."""
    points = np.zeros((count, 2))
    points[:, : theta.shape[1]] = theta[:, :2]
    return points


def _visited(
    asset: Asset, motion: Motion, goal: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "points 2"]:
    """Every place that the object's corners, the goal's and the pusher come to, world xy, m."""
    outline = object_outline(asset).vertices
    placed = [pose_transform(pose).transform(outline) for pose in (*motion.poses, goal)]
    return np.concatenate([*placed, motion.ee])


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
    for name, values, rgb, _ in _markers(labels.film):
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
