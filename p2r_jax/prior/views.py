"""Pictures of an object without a camera: its model on a table, from several sides."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from jaxtyping import Float

from p2r_jax.prior.photos import TICKS, View
from p2r_jax.prior.shape import ObjectShape
from p2r_jax.sim.asset import ASSET_ROOT, Asset

if TYPE_CHECKING:
    import trimesh

WORKER = Path(__file__).with_name("render_worker.py")
BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
SIZE = (640, 480)
MAX_VIEWS = 64
FOVY_DEG = 35.0
ELEVATIONS_DEG = (55.0, 75.0)  # in turn: both show the axis, one more of the sides
WEIGHT_RADIUS_M, WEIGHT_DENSITY = 0.015, 7850.0
STEEL_RGBA = (0.55, 0.57, 0.60, 1.0)


class RenderError(RuntimeError):
    """No picture could be rendered; the message says why and what to install."""


@dataclass(frozen=True)
class Camera:
    """Where a view is taken from.

    Attributes:
      position: m, object frame at the height of the table.
      axes: columns are the camera's right, up and backward directions.
    """

    position: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]

    def project(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
        """Pixels (column, row) of points, for pictures of ``SIZE``."""
        seen = (points - self.position) @ self.axes
        focal = SIZE[1] / 2 / np.tan(np.deg2rad(FOVY_DEG) / 2)
        flat = focal * seen[:, :2] / -seen[:, 2:]
        return np.array(SIZE) / 2 + flat * [1, -1]


def asset_scene(name_or_folder: str, asset: Asset, weight_x_m: float | None = None):
    """The asset's own MJCF, with its visual geometry, lying on the table.

    Args:
      name_or_folder: where the asset was loaded from.
      asset: the asset itself.
      weight_x_m: shows the asset's metal weight on top, at this place on the x axis.

    Raises:
      ValueError: for a weight that the asset does not have, or a place off the asset.
    """
    folder = Path(name_or_folder)
    if not (folder / "object.xml").is_file():
        folder = ASSET_ROOT / name_or_folder
    spec = mujoco.MjSpec.from_file(str(folder / "object.xml"))
    if weight_x_m is not None:
        if asset.weight is None:
            raise ValueError(f"asset {asset.name!r} has no movable weight")
        (low, _), (high, _) = asset.footprint_bounds
        if not low <= weight_x_m <= high:
            raise ValueError(
                f"weight_x_m is {weight_x_m:g}, off {asset.name!r}, which reaches from "
                f"{low:g} to {high:g} m"
            )
        area = np.pi * WEIGHT_RADIUS_M**2
        half = asset.weight.mass_kg / WEIGHT_DENSITY / area / 2
        spec.body("object").add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[WEIGHT_RADIUS_M, half, 0],
            pos=[weight_x_m, 0, asset.height_m / 2 + half],
            rgba=STEEL_RGBA,
        )
    return spec


def mesh_scene(mesh: "trimesh.Trimesh") -> mujoco.MjSpec:
    """A mesh in its object frame, lying on the table, in the colours of its faces."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="object", pos=[0, 0, -float(mesh.bounds[0][2])])
    colors = _face_colors(mesh)
    kinds, groups = np.unique(colors, axis=0, return_inverse=True)
    for index, rgba in enumerate(kinds):
        faces = mesh.faces[groups.ravel() == index]
        used, local = np.unique(faces, return_inverse=True)
        spec.add_mesh(
            name=f"part{index}",
            uservert=mesh.vertices[used].ravel(),
            userface=local.ravel().astype(np.int32),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,  # a part need not be closed
        )
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=f"part{index}",
            rgba=[*rgba[:3], 1],
            contype=0,  # only seen, so that MuJoCo needs no convex hull of it
            conaffinity=0,
        )
    return spec


def _face_colors(mesh: "trimesh.Trimesh") -> Float[np.ndarray, "faces 4"]:
    """RGBA of every face, 0 to 1; of a texture, its mean colour on the face."""
    from trimesh.visual import ColorVisuals, TextureVisuals

    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        visual = visual.to_color()
    assert isinstance(visual, ColorVisuals)
    return np.asarray(visual.face_colors, float) / 255


def render_views(
    spec: mujoco.MjSpec, shape: ObjectShape, coordinates: Sequence[str], count: int
) -> list[View]:
    """Views from all around, with the axes where the cameras really see them.

    Args:
      spec: scene with the object's body, from ``asset_scene`` or ``mesh_scene``;
        table, light and cameras are added to it.
      shape: of the object, for framing and axes.
      coordinates: which axes to mark.
      count: number of views, evenly spaced in azimuth.

    Raises:
      ValueError: if ``count`` is not between 1 and ``MAX_VIEWS``.
      RenderError: if no OpenGL library works here.
    """
    if not 1 <= count <= MAX_VIEWS:
        raise ValueError(f"{count} views; between 1 and {MAX_VIEWS} can be rendered")
    lower, upper = np.array(shape.lower), np.array(shape.upper)
    cameras = [_camera(index, count, lower, upper) for index in range(count)]
    _dress(spec, float(np.linalg.norm(upper - lower)))
    for index, camera in enumerate(cameras):
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, camera.axes.flatten())
        spec.worldbody.add_camera(
            name=f"view{index}", pos=camera.position, quat=quat, fovy=FOVY_DEG
        )
    images, masks = _render(spec)
    return [
        View(
            name=f"view{index}",
            image=image,
            mask=mask,
            axes={name: camera.project(_axis_points(name, lower, upper)) for name in coordinates},
            source=hashlib.sha256(image.tobytes()).hexdigest(),
        )
        for index, (camera, image, mask) in enumerate(zip(cameras, images, masks, strict=True))
    ]


def _axis_points(name: str, lower: np.ndarray, upper: np.ndarray) -> Float[np.ndarray, "5 3"]:
    """Marks of the scale in space: along one axis through the middle of the object's top."""
    points = np.tile((lower + upper) / 2, (len(TICKS), 1))
    axis = {"com_object_x": 0, "com_object_y": 1}[name]
    half = (upper - lower)[axis] / 2
    points[:, axis] += TICKS * half
    points[:, 2] = upper[2] - lower[2]
    return points


def _camera(index: int, count: int, lower: np.ndarray, upper: np.ndarray) -> Camera:
    azimuth = 2 * np.pi * index / count
    elevation = np.deg2rad(ELEVATIONS_DEG[index % len(ELEVATIONS_DEG)])
    back = np.array(
        [
            -np.cos(elevation) * np.cos(azimuth),
            -np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    target = (lower + upper) / 2
    target[2] = (upper - lower)[2] / 2
    distance = 1.08 * np.linalg.norm(upper - lower) / 2 / np.sin(np.deg2rad(FOVY_DEG) / 2)
    return Camera(target + distance * back, np.stack([right, np.cross(back, right), back], -1))


def _dress(spec: mujoco.MjSpec, size_m: float) -> None:
    """A plain table and soft light without shadows, which a mask would take for the object."""
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[10 * size_m, 10 * size_m, 0.1],
        rgba=[0.86, 0.87, 0.88, 1],
    )
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0, 0, 3 * size_m],
        dir=[0.3, -0.35, -1.0],
        diffuse=[0.45, 0.45, 0.45],
        specular=[0.15, 0.15, 0.15],
        castshadow=False,
    )
    visual = spec.visual
    visual.headlight.ambient = [0.35, 0.35, 0.35]
    visual.headlight.diffuse = [0.3, 0.3, 0.3]
    visual.headlight.specular = [0.05, 0.05, 0.05]
    spec.stat.extent, spec.stat.center = size_m, [0, 0, 0]
    visual.map.znear, visual.map.zfar = 0.02, 60.0
    visual.global_.offwidth, visual.global_.offheight = SIZE
    visual.quality.offsamples = 4


def _render(spec: mujoco.MjSpec) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and masks from the worker, with the first OpenGL library that works."""
    asked = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model.mjb", Path(folder) / "views.npz"
        mujoco.mj_saveModel(spec.compile(), str(model))
        for backend in (asked,) if asked else BACKENDS:
            environment = os.environ | {"MUJOCO_GL": backend}
            if backend in ("egl", "osmesa"):
                environment["PYOPENGL_PLATFORM"] = backend
            command = [sys.executable, "-P", WORKER, model, out, *SIZE]
            done = subprocess.run(
                [str(c) for c in command], env=environment, capture_output=True, text=True
            )
            if done.returncode == 0:
                with np.load(out) as views:
                    return views["images"], views["masks"]
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            reasons.append(f"{backend}: {lines[-1][:200]}")
    raise RenderError(
        f"no OpenGL to render views with ({'; '.join(reasons)}); install libegl1 and "
        "libgl1-mesa-dri, or libosmesa6, or take photos and pass them instead of --views"
    )
