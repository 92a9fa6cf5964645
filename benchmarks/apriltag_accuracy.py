"""How well the apriltag tracker sees: rendered pictures of tags at known poses.

Every scene has its own camera, about ``distance_m`` from the middle of the table, that
finds its place from four tags on the table in one noisy picture and then looks at an
object with one tag on top. Pictures are made by warping the tags through a pinhole
camera at four times the size, area-averaged, blurred, unevenly lit and noisy; lens
distortion and motion blur are not in them.

    python -m benchmarks.apriltag_accuracy
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tyro
from jaxtyping import Float, UInt8

from p2r_jax.deploy.trackers.planar import planar_transform
from p2r_jax.deploy.trackers.tags import Detector, Tag, TagSetup, calibrate, object_pose
from p2r_jax.files import provenance, write_json

SCHEMA_VERSION = 1
TARGET_M, TARGET_DEG = 3e-3, 1.0
SUPERSAMPLING = 4
TAG_PIXELS = 160  # of a tag's black square in its texture
MARGIN = 0.25  # white rim, in widths of the tag
SHADE = (120.0, 200.0)  # grey of the table, from one side of the picture to the other


@dataclass(frozen=True)
class Settings:
    """Settings of the accuracy benchmark.

    Attributes:
      out: JSON file.
      scenes, poses: cameras, and object poses before each.
      distance_m: from the camera to the middle of the table.
      width, height, field_of_view_deg: of the picture; the angle is the horizontal one.
      tag_m: edge of the object's tag.
      object_height_m: of the tag over the table.
      noise: s.d. of the grey values, of 255.
      blur_px: s.d. of the Gaussian blur.
      seed: of everything.
    """

    out: Path = Path("benchmarks/results/apriltag_accuracy.json")
    scenes: int = 40
    poses: int = 10
    distance_m: float = 0.6
    width: int = 640
    height: int = 480
    field_of_view_deg: float = 60.0
    tag_m: float = 0.04
    object_height_m: float = 0.04
    noise: float = 4.0
    blur_px: float = 0.7
    seed: int = 0


TABLE_TAGS = tuple(
    Tag(id, 0.04, 0.3 + x, y, 0.0)
    for id, (x, y) in enumerate([(-0.14, -0.2), (-0.14, 0.2), (0.14, 0.2), (0.14, -0.2)])
)
OBJECT_TAG = 7


def make_setup(settings: Settings, T_world_camera: Float[np.ndarray, "4 4"] | None) -> TagSetup:
    """The pinhole camera of the settings, the tags, and the camera's place if given."""
    focal = settings.width / 2 / np.tan(np.deg2rad(settings.field_of_view_deg) / 2)
    matrix = np.array(
        [[focal, 0, (settings.width - 1) / 2], [0, focal, (settings.height - 1) / 2], [0, 0, 1]]
    )
    tag = Tag(OBJECT_TAG, settings.tag_m, 0.02, 0.0, 0.3)
    return TagSetup(
        matrix, np.zeros(5), (settings.width, settings.height), (tag,), TABLE_TAGS,
        settings.object_height_m, T_world_camera,
    )  # fmt: skip


def look_at(
    eye: Float[np.ndarray, " 3"], point: Float[np.ndarray, " 3"], roll: float
) -> Float[np.ndarray, "4 4"]:
    """T_world_camera of a camera at ``eye`` whose z axis points at ``point``."""
    z = (point - eye) / np.linalg.norm(point - eye)
    x = np.cross(z, [np.sin(roll), np.cos(roll), 0.0])
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.stack([x, np.cross(z, x), z], -1), eye
    return T


def random_camera(settings: Settings, rng: np.random.Generator) -> Float[np.ndarray, "4 4"]:
    """At the right distance, up to 30 degrees off the vertical, any way up."""
    tilt, bearing, roll = np.deg2rad(30) * rng.uniform(), *rng.uniform(-np.pi, np.pi, 2)
    away = np.array([np.sin(tilt) * np.cos(bearing), np.sin(tilt) * np.sin(bearing), np.cos(tilt)])
    middle = np.array([0.3, 0.0, 0.0])
    return look_at(middle + settings.distance_m * away, middle, roll)


def tag_texture(id: int) -> tuple[UInt8[np.ndarray, "h w"], float]:
    """Picture of a tag with its white rim, and how many tag widths it is wide."""
    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
    rim = round(MARGIN * TAG_PIXELS)
    black = cv2.aruco.generateImageMarker(family, id, TAG_PIXELS)
    return cv2.copyMakeBorder(black, *[rim] * 4, cv2.BORDER_CONSTANT, value=255), 1 + 2 * MARGIN


def tag_warp(
    setup: TagSetup,
    tag_in_world: Float[np.ndarray, "3 3"],
    tag_m: float,
    height_m: float,
    side: int,
) -> Float[np.ndarray, "3 3"]:
    """Homography from a texture's pixels to the supersampled picture's."""
    edge = tag_m * (1 + 2 * MARGIN)
    to_tag = np.array([  # pixel centres to metres; rows run downwards
        [edge / side, 0, edge / side * 0.5 - edge / 2],
        [0, -edge / side, edge / 2 - edge / side * 0.5],
        [0, 0, 1],
    ])  # fmt: skip
    T_camera_world = np.linalg.inv(setup.T_world_camera)
    plane = np.stack([T_camera_world[:3, 0], T_camera_world[:3, 1],
                      height_m * T_camera_world[:3, 2] + T_camera_world[:3, 3]], -1)  # fmt: skip
    finer = np.array([[SUPERSAMPLING, 0, (SUPERSAMPLING - 1) / 2],
                      [0, SUPERSAMPLING, (SUPERSAMPLING - 1) / 2], [0, 0, 1]])  # fmt: skip
    return finer @ setup.matrix @ plane @ tag_in_world @ to_tag


def render(
    setup: TagSetup,
    pose: tuple[float, float, float] | None,
    settings: Settings,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "h w"]:
    """Picture of the table's tags and, on top of them, the object's at ``pose``."""
    size = (SUPERSAMPLING * settings.width, SUPERSAMPLING * settings.height)
    picture = np.tile(np.linspace(*SHADE, size[0], dtype=np.float32), (size[1], 1))
    placed = [(tag, np.eye(3), 0.0) for tag in setup.table_tags]
    if pose is not None:
        T_world_object = planar_transform(*pose)
        placed += [(tag, T_world_object, setup.object_height_m) for tag in setup.object_tags]
    for tag, T, height in placed:
        texture, _ = tag_texture(tag.id)
        place = T @ planar_transform(tag.x, tag.y, tag.yaw)
        warp = tag_warp(setup, place, tag.size_m, height, len(texture))
        shown = cv2.warpPerspective(texture.astype(np.float32), warp, size)
        cover = cv2.warpPerspective(np.ones_like(texture, np.float32), warp, size)
        picture = picture * (1 - cover) + shown * 0.9 * cover
    picture = cv2.resize(picture, (settings.width, settings.height), interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(picture, (0, 0), settings.blur_px)
    noisy = picture + settings.noise * rng.standard_normal(picture.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def measure(settings: Settings) -> dict:
    """Errors over all scenes and poses, and how often the tag was not seen."""
    rng, detect = np.random.default_rng(settings.seed), Detector()
    errors, missed = [], 0
    for _ in range(settings.scenes):
        truth = make_setup(settings, random_camera(settings, rng))
        unknown = replace(truth, T_world_camera=None)
        setup = calibrate(unknown, [detect(render(truth, None, settings, rng), truth.table_ids)])
        for _ in range(settings.poses):
            x, y = rng.uniform([0.24, -0.1], [0.36, 0.1])
            pose = (x, y, rng.uniform(-np.pi, np.pi))
            picture = render(truth, pose, settings, rng)
            seen = object_pose(setup, detect(picture, setup.object_ids))
            if seen is None:
                missed += 1
                continue
            turned = np.angle(np.exp(1j * (seen[2] - pose[2])))
            errors.append((np.hypot(seen[0] - x, seen[1] - y), np.rad2deg(abs(turned))))
    return summary(np.array(errors), missed)


def summary(errors: Float[np.ndarray, "n 2"], missed: int) -> dict:
    """Median, 95th percentile and maximum of both errors."""
    rows = {
        name: {"median": float(np.median(e)), "p95": float(np.percentile(e, 95)),
               "max": float(e.max())}
        for name, e in zip(("position_m", "yaw_deg"), errors.T, strict=True)
    }  # fmt: skip
    return {"seen": len(errors), "missed": missed, **rows}


def main() -> None:
    """Measure, print, write."""
    settings = tyro.cli(Settings, prog="python -m benchmarks.apriltag_accuracy")
    found = measure(settings)
    met = found["position_m"]["max"] <= TARGET_M and found["yaw_deg"]["max"] <= TARGET_DEG
    print(found, "met" if met else "missed")
    record = {
        "schema": SCHEMA_VERSION, "settings": {**asdict(settings), "out": str(settings.out)},
        "target": {"position_m": TARGET_M, "yaw_deg": TARGET_DEG}, "met": met, **found,
        "opencv": cv2.__version__, "provenance": provenance(),
    }  # fmt: skip
    write_json(settings.out, record)


if __name__ == "__main__":
    main()
