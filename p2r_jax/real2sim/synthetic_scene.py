"""The scene of a synthetic capture: textured object, table, tag, light and cameras."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import shapely
from jaxtyping import Float, UInt8

from p2r_jax.real2sim.synthetic_object import KnownObject

WORKER = Path(__file__).with_name("render_worker.py")
BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
TABLE_PX, OBJECT_PX = 4.8, 3.2  # edge of the textures, in widths of the pictures
TAG_CELLS, TAG_CELL_PX = 8, 32
TAG_RIM_CELLS = 1  # white around the black square
TAG_HEIGHT_M = 1e-4
TABLE_REACH = 2.0  # half the table's edge, in distances of the furthest camera


@dataclass(frozen=True)
class TagOnTable:
    """An AprilTag of the family 36h11 that lies on the table.

    Attributes:
      id: its number.
      size_m: edge of the black square.
      x, y: of its centre, m.
    """

    id: int
    size_m: float
    x: float
    y: float

    @property
    def corners(self) -> Float[np.ndarray, "4 3"]:
        """Corners as detectors list them: top left, top right, bottom right, bottom left."""
        half = self.size_m / 2
        square = np.array([[-half, half], [half, half], [half, -half], [-half, -half]])
        return np.pad(square + np.array([self.x, self.y]), ((0, 0), (0, 1)))


def place_tag(footprint: shapely.Geometry, number: int, size_m: float, gap_m: float) -> TagOnTable:
    """A tag whose paper lies ``gap_m`` (m) or a little more beside the object."""
    half = size_m / 2 * (1 + 2 * TAG_RIM_CELLS / TAG_CELLS) + gap_m
    for radius in np.arange(half, 2.0, 0.005):
        for angle in np.linspace(0, 2 * np.pi, 48, endpoint=False):
            x, y = radius * np.cos(angle), radius * np.sin(angle)
            if not shapely.box(x - half, y - half, x + half, y + half).intersects(footprint):
                return TagOnTable(number, size_m, float(x), float(y))
    raise ValueError(f"no place for a tag of {size_m} m")


def scene(
    known: KnownObject,
    tag: TagOnTable | None,
    poses: Float[np.ndarray, "views 4 4"],
    focal_px: float,
    size_px: tuple[int, int],
    shadows: bool,
    texture: float,
    seed: int,
) -> mujoco.MjSpec:
    """Object, table, tag and light, and a camera for each pose.

    Args:
      known: the object, world frame.
      tag: on the table, or none.
      poses: T_camera_world, OpenCV axes.
      focal_px: focal length of all cameras; the optical axis meets the picture's middle.
      size_px: width and height of the pictures.
      shadows: whether the light casts them.
      texture: contrast of the object's surface, 0 to 1.
      seed: of the textures.
    """
    spec = mujoco.MjSpec()
    rng = np.random.default_rng([seed, 0])
    centers = -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])
    half = TABLE_REACH * float(np.linalg.norm(centers, axis=1).max())
    table = _table_picture(rng, int(TABLE_PX * size_px[0]))
    _add_square(spec, "table", table, np.zeros(3), half)
    if tag is not None:
        size = tag.size_m * (1 + 2 * TAG_RIM_CELLS / TAG_CELLS)
        place = np.array([tag.x, tag.y, TAG_HEIGHT_M])
        _add_square(spec, "tag", _tag_picture(tag.id), place, size / 2)
    _add_object(spec, known, texture, int(OBJECT_PX * size_px[0]), rng)
    _add_light(spec, half, shadows)
    _add_cameras(spec, poses, focal_px, size_px)
    return spec


def noise_picture(rng: np.random.Generator, size: int, octaves: tuple[int, ...]):
    """Smooth noise of several grain sizes, float (size, size) from 0 to 1."""
    from PIL import Image

    total = np.zeros((size, size), np.float32)
    for cells in octaves:
        grain = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += np.asarray(grain.resize((size, size), Image.Resampling.BICUBIC))
    low, high = np.percentile(total[::4, ::4], [1, 99])
    return np.clip((total - low) / (high - low), 0, 1)


def _table_picture(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """A speckled grey-blue table, unlike wood in hue."""
    grey = noise_picture(rng, size, tuple(size // n for n in (192, 64, 32, 16, 8, 4, 2, 1)))
    hue = np.stack([noise_picture(rng, size, (8, 24)) for _ in range(3)], -1)
    shade = (
        (0.15 + 0.75 * grey[..., None])
        * (0.85 + 0.15 * hue)
        * np.array([0.8, 0.95, 1.0], np.float32)
    )
    return (255 * shade).astype(np.uint8)


def _tag_picture(number: int) -> UInt8[np.ndarray, "h w 3"]:
    import cv2

    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    tag = cv2.aruco.generateImageMarker(family, number, TAG_CELLS * TAG_CELL_PX)
    framed = np.pad(tag, TAG_RIM_CELLS * TAG_CELL_PX, constant_values=255)
    return np.repeat(framed[..., None], 3, axis=-1)


def _add_picture(spec: mujoco.MjSpec, name: str, picture: np.ndarray) -> str:
    """Texture and material of a picture whose first row is at v = 1; the material's name."""
    height, width, _ = picture.shape
    texture = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        width=width,
        height=height,
        nchannel=3,
    )
    texture.data = np.ascontiguousarray(picture[::-1]).tobytes()
    material = spec.add_material(name=name, specular=0.1, shininess=0.1)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return name


def _add_square(spec, name: str, picture: np.ndarray, place: np.ndarray, half: float) -> None:
    """A picture that lies face up, its first row towards +y."""
    corners = half * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    _add_surface(spec, name, corners + place, faces, uv, faces, _add_picture(spec, name, picture))


def _add_surface(spec, name, vertices, faces, uv, uv_faces, material, rgb=(1.0, 1.0, 1.0)) -> None:
    spec.add_mesh(
        name=name,
        uservert=vertices.ravel(),
        userface=faces.ravel().astype(np.int32),
        usertexcoord=uv.ravel(),
        userfacetexcoord=uv_faces.ravel().astype(np.int32),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,  # a part need not be closed
    )
    spec.worldbody.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=name,
        material=material,
        rgba=[*rgb, 1],
        contype=0,  # only seen, so that MuJoCo needs no convex hull of it
        conaffinity=0,
    )


def _add_object(
    spec: mujoco.MjSpec, known: KnownObject, texture: float, size: int, rng: np.random.Generator
) -> None:
    """The object's faces, grouped by colour, under a grain projected along the axes."""
    grain = 1 - texture * noise_picture(rng, size, tuple(size // n for n in (85, 42, 21, 11, 5, 3)))
    picture = np.repeat((255 * grain).astype(np.uint8)[..., None], 3, axis=-1)
    material = _add_picture(spec, "grain", picture)
    uv = _box_projection(known)
    kinds, groups = np.unique(known.colors, axis=0, return_inverse=True)
    for index, rgb in enumerate(kinds):
        chosen = groups.ravel() == index
        used, local = np.unique(known.mesh.faces[chosen], return_inverse=True)
        own = uv[chosen].reshape(-1, 2)
        _add_surface(spec, f"object{index}", known.mesh.vertices[used], local.reshape(-1, 3),
                     own, np.arange(len(own)), material, rgb)  # fmt: skip


def _box_projection(known: KnownObject) -> Float[np.ndarray, "faces 3 2"]:
    """Texture coordinates of each face's corners, along the axis that it faces most."""
    scaled = (known.mesh.triangles - known.mesh.bounds[0]) / known.mesh.extents.max()
    axis = np.argmax(np.abs(known.mesh.face_normals), axis=1)
    others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    uv = np.take_along_axis(scaled, np.repeat(others[:, None], 3, axis=1), axis=2)
    return (uv + axis[:, None, None]) / 3  # side by side in the picture


def _add_light(spec: mujoco.MjSpec, size_m: float, shadows: bool) -> None:
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0, 0, size_m],
        dir=[0.3, -0.35, -1.0],
        diffuse=[0.45, 0.45, 0.45],
        specular=[0.1, 0.1, 0.1],
        castshadow=shadows,
    )
    spec.visual.headlight.ambient = [0.5, 0.5, 0.5]
    spec.visual.headlight.diffuse = [0.1, 0.1, 0.1]  # a lamp that moves with the camera
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    spec.stat.extent, spec.stat.center = size_m, [0, 0, 0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 10.0
    spec.visual.quality.offsamples = 4


def _add_cameras(spec: mujoco.MjSpec, poses: np.ndarray, focal_px: float, size_px) -> None:
    spec.visual.global_.offwidth, spec.visual.global_.offheight = size_px
    fovy = 2 * np.rad2deg(np.arctan(size_px[1] / 2 / focal_px))
    for index, T in enumerate(poses):
        axes = T[:3, :3].T @ np.diag([1.0, -1.0, -1.0])  # MuJoCo: x right, y up, z backward
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, axes.flatten())
        place = -T[:3, :3].T @ T[:3, 3]
        spec.worldbody.add_camera(name=f"view{index}", pos=place, quat=quat, fovy=fovy)


def filmed(spec: mujoco.MjSpec, count: int, width: int, height: int) -> Iterator:
    """Pictures (h, w, 3) and masks (h, w; 255 on the object) of every camera, uint8.

    Raises:
      RuntimeError: if no OpenGL library works; says what to install.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        model, log = Path(folder) / "model.mjb", Path(folder) / "log"
        mujoco.mj_saveModel(spec.compile(), str(model))
        for backend in (asked,) if asked else BACKENDS:
            environment = os.environ | {"MUJOCO_GL": backend}
            if backend in ("egl", "osmesa"):
                environment["PYOPENGL_PLATFORM"] = backend
            command = [sys.executable, "-P", str(WORKER), str(model), str(width), str(height)]
            with (
                log.open("wb") as errors,
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.PIPE, stderr=errors
                ) as worker,
            ):
                done = 0
                for pair in _pairs(worker.stdout, width, height):
                    yield pair
                    done += 1
            if done == count:
                return
            lines = log.read_text().strip().splitlines() or [f"exit status {worker.returncode}"]
            reasons.append(f"{backend}: {lines[-1][:200]}")
            if done:
                break
    raise RuntimeError(
        f"no OpenGL to render views with ({'; '.join(reasons)}); install libegl1 and "
        "libgl1-mesa-dri, or libosmesa6"
    )


def _pairs(stream, width: int, height: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    size = 4 * width * height
    while len(data := stream.read(size)) == size:
        pixels = np.frombuffer(data, np.uint8)
        image = pixels[: 3 * width * height].reshape(height, width, 3)
        yield image, pixels[3 * width * height :].reshape(height, width)
