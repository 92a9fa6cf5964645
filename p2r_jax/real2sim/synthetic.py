"""Captures whose truth is known: MuJoCo films an object on a textured table.

``python -m p2r_jax.real2sim.synthetic CAPTURE`` writes what a person would bring
home (``images/`` or ``video.mp4``), and next to it ``truth/``: cameras, masks, the mesh in
the world frame, volume, centre of mass at uniform density and footprint.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float, UInt8
from tqdm import tqdm

from p2r_jax.files import as_record, new_folder, read_record, write_json
from p2r_jax.film import write_mp4
from p2r_jax.real2sim.synthetic_object import KnownObject, known_object
from p2r_jax.real2sim.synthetic_scene import TagOnTable, filmed, place_tag, scene
from p2r_jax.real2sim.views import View, write_views
from p2r_jax.sim.mesh_solid import Unit

SCHEMA_VERSION = 1
FRAMING = 0.95  # of the distance at which the object's bounding sphere just fits
TAG_ID = 0


@dataclass(frozen=True)
class SyntheticConfig:
    """How the object is filmed.

    Attributes:
      object: shipped asset, asset folder, or mesh file.
      unit: of a mesh file; guessed (m or mm) if not given.
      yaw_rad: of the object on the table.
      views: number of pictures, shared out to the rings.
      elevations_deg: one ring of cameras around the object for each.
      width, height: of the pictures, px.
      fovy_deg: vertical field of view.
      distance_m: of the cameras from the object; None: the object fills the picture.
      handheld: random share of the distance by which positions and aims stray.
      pixel_noise: standard deviation, grey values of 255.
      distortion: radial lens distortion k1 of OpenCV's model; 0 is a perfect lens.
      shadows: whether the light casts them.
      tag_size_m: edge of an AprilTag (36h11, number 0) on the table; 0: no tag.
      tag_gap_m: between its paper and the object.
      texture: contrast of the object's surface, 0 (plain) to 1.
      masks: also write true masks where a capture has them (``masks/``).
      video_fps: write ``video.mp4`` with so many frames a second instead of pictures.
      seed: of textures, noise and hand.
    """

    object: str = "tblock"
    unit: Unit | None = None
    yaw_rad: float = 0.4
    views: int = 45
    elevations_deg: tuple[float, ...] = (20.0, 42.0, 65.0)
    width: int = 640
    height: int = 480
    fovy_deg: float = 40.0
    distance_m: float | None = None
    handheld: float = 0.03
    pixel_noise: float = 2.0
    distortion: float = 0.0
    shadows: bool = False
    tag_size_m: float = 0.0
    tag_gap_m: float = 0.006
    texture: float = 0.6
    masks: bool = False
    video_fps: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if not 3 <= self.views <= 400:
            raise ValueError(f"{self.views} views; between 3 and 400 can be rendered")
        if not self.elevations_deg or not all(0 < e < 89 for e in self.elevations_deg):
            raise ValueError(f"elevations {self.elevations_deg}: give angles between 0 and 89 deg")

    @property
    def focal_px(self) -> float:
        """Focal length, px."""
        return self.height / 2 / np.tan(np.deg2rad(self.fovy_deg) / 2)


@dataclass(frozen=True)
class Truth:
    """What the capture shows, world frame of the truth (z up, table z = 0), SI.

    Attributes:
      mesh: file of the watertight surface.
      volume: m^3.
      com: centre of mass at uniform density, m.
      footprint: shadow straight down.
      tag_corners: of the AprilTag on the table (as detectors list them), m, or None.
      tag_size_m: edge of its black square; 0 without one.
      notes: how the object came about.
    """

    mesh: Path
    volume: float
    com: Float[np.ndarray, " 3"]
    footprint: shapely.Geometry
    tag_corners: Float[np.ndarray, "4 3"] | None
    tag_size_m: float
    notes: tuple[str, ...]


def render_capture(config: SyntheticConfig, out: Path, overwrite: bool = False) -> Path:
    """Film the object and write capture and truth; returns ``out``.

    Args:
      config: what and how.
      out: folder of the capture, new or empty.
      overwrite: allow a folder that holds something.

    Raises:
      FileExistsError: if the folder holds something.
      FileNotFoundError: if the object does not exist.
      RuntimeError: if no OpenGL library works here.
    """
    new_folder(out, overwrite)
    known = known_object(config.object, config.yaw_rad, config.unit)
    tag = None
    if config.tag_size_m:
        tag = place_tag(known.footprint, TAG_ID, config.tag_size_m, config.tag_gap_m)
    poses = camera_poses(config, known)
    margin = _margin(config)
    wide = (config.width + 2 * margin, config.height + 2 * margin)
    spec = scene(known, tag, poses, config.focal_px, wide, config.shadows, config.texture,
                 config.seed)  # fmt: skip
    pictures = _through_lens(config, margin, filmed(spec, len(poses), *wide))
    views = _write_pictures(config, poses, tqdm(pictures, "filming", len(poses)), out)
    _write_truth(config, known, tag, views, out / "truth")
    return out


def read_truth(capture: Path) -> Truth:
    """The truth of a capture that ``render_capture`` wrote.

    Raises:
      FileNotFoundError: if the folder has none.
      ValueError: if it is of another version.
    """
    path = capture / "truth" / "truth.json"
    record = read_record(path, SCHEMA_VERSION, "only synthetic captures have a truth")
    tag = record["tag"]
    return Truth(
        mesh=path.parent / "mesh.ply",
        volume=record["volume_m3"],
        com=np.array(record["com_m"]),
        footprint=shapely.from_wkt(record["footprint"]),
        tag_corners=np.array(tag["corners"]) if tag else None,
        tag_size_m=tag["size_m"] if tag else 0.0,
        notes=tuple(record["notes"]),
    )


def camera_poses(config: SyntheticConfig, known: KnownObject) -> Float[np.ndarray, "views 4 4"]:
    """T_camera_world of each view: rings of rising elevation, aimed at the object's middle."""
    rng = np.random.default_rng([config.seed, 1])
    low, high = known.mesh.bounds
    radius = float(np.linalg.norm(high - low)) / 2
    narrow = min(1.0, config.width / config.height) * np.tan(np.deg2rad(config.fovy_deg) / 2)
    distance = config.distance_m or FRAMING * radius / np.sin(np.arctan(narrow))
    rings = np.array_split(np.arange(config.views), len(config.elevations_deg))
    poses = []
    for number, (ring, elevation) in enumerate(zip(rings, config.elevations_deg, strict=True)):
        azimuths = 2 * np.pi * (np.arange(len(ring)) / max(len(ring), 1) + number * 0.37)
        for azimuth in azimuths:
            e = np.deg2rad(elevation)
            ray = [np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)]
            stray = config.handheld * distance * rng.uniform(-1, 1, (2, 3))
            middle = (low + high) / 2
            poses.append(look_at(middle + distance * np.array(ray) + stray[0], middle + stray[1]))
    return np.array(poses)


def look_at(eye: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]):
    """T_camera_world (OpenCV axes) of a level camera at ``eye`` aimed at ``target``."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = [right, np.cross(forward, right), forward]
    T[:3, 3] = -T[:3, :3] @ eye
    return T


def _matrix(config: SyntheticConfig) -> Float[np.ndarray, "3 3"]:
    f = config.focal_px
    return np.array([[f, 0, config.width / 2], [0, f, config.height / 2], [0, 0, 1]])


def _undistorted(config: SyntheticConfig, pixels: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Where a perfect lens would have put distorted pixels (n, 2)."""
    import cv2

    K = _matrix(config)
    lens = np.array([config.distortion, 0.0, 0.0, 0.0])
    return cv2.undistortPoints(pixels[:, None].astype(float), K, lens, P=K)[:, 0]


def _margin(config: SyntheticConfig) -> int:
    """How far beyond the picture's edge the lens sees, px."""
    if not config.distortion:
        return 0
    corner = np.array([[0.5, 0.5]])
    return int(np.ceil(max(0.0, float((corner - _undistorted(config, corner)).max())))) + 1


def _through_lens(config: SyntheticConfig, margin: int, pictures: Iterator) -> Iterator:
    """The pictures as the lens bends them, with noise; masks bent alike."""
    rng = np.random.default_rng([config.seed, 2])
    where = None
    if config.distortion:
        import cv2

        rows, columns = np.mgrid[: config.height, : config.width] + 0.5
        grid = np.stack([columns.ravel(), rows.ravel()], -1)
        where = (_undistorted(config, grid) + margin - 0.5).astype(np.float32)
        where = where.T.reshape(2, config.height, config.width)
    for image, mask in pictures:
        if where is not None:
            image = cv2.remap(image, where[0], where[1], cv2.INTER_CUBIC)
            mask = cv2.remap(mask, where[0], where[1], cv2.INTER_NEAREST)
        noise = rng.normal(0, config.pixel_noise, image.shape)
        yield np.clip(np.round(image + noise), 0, 255).astype(np.uint8), mask


def _write_pictures(
    config: SyntheticConfig, poses: np.ndarray, pictures: Iterator, out: Path
) -> list[View]:
    """Write pictures or film, and masks; returns the views."""
    from PIL import Image

    folders = [out / "truth" / "masks"] + ([out / "masks"] if config.masks else [])
    frames = out / "images"
    for folder in [*folders, *([] if config.video_fps else [frames])]:
        folder.mkdir(parents=True, exist_ok=True)
    views = []

    def written() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for index, (image, mask) in enumerate(pictures):
            name = f"{index:04d}"
            for folder in folders:
                Image.fromarray(mask).save(folder / f"{name}.png")
            picture = None
            if not config.video_fps:
                picture = frames / f"{name}.png"
                Image.fromarray(image).save(picture)
            views.append(
                View(name, config.width, config.height, _matrix(config), poses[index], picture,
                     folders[0] / f"{name}.png")
            )  # fmt: skip
            yield image

    if config.video_fps:
        write_mp4(out / "video.mp4", written(), config.video_fps, crf=16)
    else:
        for _ in written():
            pass
    return views


def _write_truth(
    config: SyntheticConfig,
    known: KnownObject,
    tag: TagOnTable | None,
    views: list[View],
    folder: Path,
) -> None:
    known.mesh.export(folder / "mesh.ply")
    notes = {"source": "truth", "distortion_k1": config.distortion}
    write_views(folder / "cameras.json", views, notes)
    record = {
        "schema": SCHEMA_VERSION,
        "object": known.name,
        "volume_m3": known.volume,
        "com_m": known.com.tolist(),
        "height_m": float(known.mesh.bounds[1, 2]),
        "footprint": shapely.to_wkt(known.footprint, rounding_precision=7),
        "tag": {"id": tag.id, "size_m": tag.size_m, "corners": tag.corners.tolist()}
        if tag
        else None,
        "notes": list(known.notes),
        "settings": as_record(config),
    }
    write_json(folder / "truth.json", record)


def main() -> None:
    """Command line: ``python -m p2r_jax.real2sim.synthetic CAPTURE``."""
    import tyro

    def command(
        out: tyro.conf.Positional[Path],
        config: tyro.conf.OmitArgPrefixes[SyntheticConfig] = SyntheticConfig(),
        overwrite: bool = False,
    ) -> None:
        """Film an object whose truth is known.

        Args:
          out: folder of the capture, to be made.
          config: what is filmed and how.
          overwrite: allow a folder that holds something.
        """
        print(render_capture(config, out, overwrite))

    tyro.cli(command)


if __name__ == "__main__":
    main()
