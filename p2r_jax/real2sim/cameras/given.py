"""Poses that came with the capture: transforms.json, a COLMAP model, LLFF, cameras.json."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.cameras.rig import Lens, Rig, import_pycolmap
from p2r_jax.real2sim.cameras.sfm import rig_of_model
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.real2sim.frames import Frame
from p2r_jax.real2sim.views import read_views

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # turns y up, z backward into y down, z forward
ASPECT = 0.01  # by which the shapes of a frame and of its pose's picture may differ
FORMS = (
    "transforms.json (nerfstudio, instant-ngp), a COLMAP model (folder with cameras, images and "
    "points3D as .bin or .txt), poses_bounds.npy (LLFF) or our cameras.json"
)


def given_rig(path: Path, frames: Sequence[Frame], all_sources: Sequence[str]) -> tuple[Rig, bool]:
    """Read poses and match them with the frames.

    Args:
      path: of a file, a model folder, or a folder that holds one of them.
      frames: of the capture.
      all_sources: file names of all pictures of the capture, those left out too.

    Returns:
      rig of the frames that have a pose, and whether it is our own ``cameras.json``,
      which is in metres and stands on the table.

    Raises:
      FileNotFoundError: if there are no poses.
      CaptureError: if they are malformed or do not belong to the frames.
    """
    file, read = _form(Path(path))
    try:
        rig = read(file, sorted(all_sources))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{file} is malformed: {type(error).__name__}: {error}") from error
    return _matched(rig, frames, file), file.name == "cameras.json"


Reader = Callable[[Path, Sequence[str]], Rig]


def _form(path: Path) -> tuple[Path, Reader]:
    """The file or model folder, and what reads it."""
    by_name: Mapping[str, Reader] = {
        "transforms.json": read_transforms,
        "cameras.json": read_own,
        "poses_bounds.npy": read_llff,
    }
    if path.is_file():
        if path.suffix == ".npy":
            return path, read_llff
        if path.name in by_name:
            return path, by_name[path.name]
        if path.suffix == ".json":
            return path, read_transforms
        raise CaptureError(f"{path} holds no poses in a form that is known; give {FORMS}")
    if not path.exists():
        raise FileNotFoundError(f"no poses at {path}; give {FORMS}")
    for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
        if any((folder / f"images.{end}").is_file() for end in ("bin", "txt")):
            return folder, read_colmap
    for name, reader in by_name.items():
        if (path / name).is_file():
            return path / name, reader
    raise FileNotFoundError(f"no poses in {path}; give {FORMS}")


def read_transforms(path: Path, sources: Sequence[str] = ()) -> Rig:
    """nerfstudio's and instant-ngp's file: camera-to-world, OpenGL axes; frames' own lenses win.

    Raises:
      KeyError, ValueError: if it is malformed.
    """
    record = json.loads(path.read_text())
    rows = record["frames"]
    lenses = [_lens_of_transforms({**record, **row}, path) for row in rows]
    to_world = np.array([row["transform_matrix"] for row in rows], float)
    if to_world.shape[1:] != (4, 4):
        raise ValueError(f"transform_matrix of shape {to_world.shape[1:]}, 4 x 4 expected")
    names = tuple(Path(row["file_path"]).name for row in rows)
    return Rig(names, tuple(lenses), np.linalg.inv(_rigid(to_world) @ OPENGL), notes={})


def _lens_of_transforms(row: dict, path: Path) -> Lens:
    """A lens from ``fl_x`` or ``camera_angle_x``; without w and h they come from the picture."""
    if row.get("camera_model", "OPENCV") not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise ValueError(f"camera_model {row['camera_model']} is not supported; undistort first")
    if "w" in row:
        width, height = int(row["w"]), int(row["h"])
    else:
        width, height = _size_of_picture(path.parent / row["file_path"])
    if "fl_x" in row:
        fx, fy = float(row["fl_x"]), float(row.get("fl_y", row["fl_x"]))
    else:
        fx = fy = width / 2 / np.tan(row["camera_angle_x"] / 2)
    cx, cy = float(row.get("cx", width / 2)), float(row.get("cy", height / 2))
    bend = tuple(float(row.get(name, 0.0)) for name in ("k1", "k2", "p1", "p2"))
    if any(row.get(name) for name in ("k3", "k4")):
        raise ValueError("k3 or k4 are set; undistort the pictures first")
    if any(bend):
        return Lens("OPENCV", width, height, (fx, fy, cx, cy, *bend))
    return Lens("PINHOLE", width, height, (fx, fy, cx, cy))


def _size_of_picture(path: Path) -> tuple[int, int]:
    from PIL import Image

    for file in (path, path.with_name(path.name + ".png")):
        if file.is_file():
            with Image.open(file) as picture:
                return picture.size
    raise ValueError(f"neither w and h are given nor is there a picture {path}")


def read_colmap(folder: Path, sources: Sequence[str] = ()) -> Rig:
    """A COLMAP model, text or binary.

    Raises:
      ValueError: if it cannot be read.
    """
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction(folder)
    names = {image.name: Path(image.name).name for image in model.images.values()}
    if len(set(names.values())) < len(names):
        raise ValueError("two images of the model have the same file name")
    return rig_of_model(model, names)


def read_llff(path: Path, sources: Sequence[str]) -> Rig:
    """``poses_bounds.npy``: (n, 17), rows in sorted file order.

    Each row is a 3 x 5 matrix (camera-to-world, its columns down, right and backward;
    then height, width, focal length) and two depths.

    Args:
      path: the file.
      sources: file names of all pictures, sorted.

    Raises:
      ValueError: for another shape.
      CaptureError: if there are not as many rows as pictures.
    """
    table = np.load(path)
    if table.ndim != 2 or table.shape[1] != 17:
        raise ValueError(f"shape {table.shape}, (n, 17) expected")
    if len(table) != len(sources):
        raise CaptureError(
            f"{path} has {len(table)} poses, the capture {len(sources)} pictures; LLFF poses go by "
            "the order of the files, so both must be complete"
        )
    rows = table[:, :15].reshape(-1, 3, 5)
    to_world = np.tile(np.eye(4), (len(rows), 1, 1))
    to_world[:, :3, :4] = np.stack([rows[..., 1], rows[..., 0], -rows[..., 2], rows[..., 3]], -1)
    lenses = [Lens("PINHOLE", round(w), round(h), (f, f, w / 2, h / 2)) for h, w, f in rows[..., 4]]
    return Rig(tuple(sources), tuple(lenses), np.linalg.inv(_rigid(to_world)), notes={})


def read_own(path: Path, sources: Sequence[str] = ()) -> Rig:
    """Our ``cameras.json``.

    Raises:
      ValueError: if it is malformed.
    """
    views, notes = read_views(path)
    lenses = [Lens.pinhole(view.width, view.height, view.K) for view in views]
    poses = np.array([view.T_camera_world for view in views])
    names = tuple(view.image.name if view.image else view.name for view in views)
    return Rig(names, tuple(lenses), poses, notes={"made": notes.get("source")})


def _rigid(poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
    """The poses, checked: rotations, free of mirrors and scale."""
    R = poses[:, :3, :3]
    if not np.isfinite(poses).all():
        raise ValueError("a pose holds numbers that are not finite")
    off = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    if off.max() > 1e-3 or np.linalg.det(R).min() < 0:
        raise ValueError(f"pose {int(off.argmax())} is no rotation and shift (is it mirrored?)")
    return poses


def _matched(rig: Rig, frames: Sequence[Frame], path: Path) -> Rig:
    """The rig of the frames, renamed and resized to them.

    Raises:
      CaptureError: if names or shapes do not fit.
    """
    row = {name: index for index, name in enumerate(rig.names)}
    stems = {Path(name).stem: index for name, index in row.items()}
    place = _places(frames, row, stems)
    missing = [frame.name for frame, index in zip(frames, place, strict=True) if index is None]
    if len(missing) > 0.4 * len(frames):
        listed = ", ".join(rig.names[:4])
        raise CaptureError(
            f"{path} has poses for {len(frames) - len(missing)} of {len(frames)} frames; its "
            f"{len(rig.names)} poses are of {listed}, ..., the capture's pictures are "
            f"{', '.join(frame.source for frame in frames[:4])}, .... Poses go by file name: give "
            "the poses of this capture, and photos under the names that they have there",
            missing,
        )
    found = [
        (frame, index) for frame, index in zip(frames, place, strict=True) if index is not None
    ]
    lenses = tuple(_lens_of(rig.lenses[index], frame, path) for frame, index in found)
    notes = {**rig.notes, "file": str(path), "poses": len(rig.names), "matched": len(found)}
    return replace(
        rig,
        names=tuple(frame.name for frame, _ in found),
        lenses=lenses,
        poses=rig.poses[[index for _, index in found]],
        notes=notes,
    )


def _places(
    frames: Sequence[Frame], row: Mapping[str, int], stems: Mapping[str, int]
) -> list[int | None]:
    """Row of each frame, by one and the same rule for all of them.

    By the file that it came from, with or without suffix, or by the frame's own name (of a
    film, or of poses that were made from our frames): the rule that finds the most.
    """
    rules = (
        lambda frame: row.get(Path(frame.source).name),
        lambda frame: row.get(f"{frame.name}.png"),
        lambda frame: stems.get(Path(frame.source).stem),
        lambda frame: stems.get(frame.name),
    )
    found = [[rule(frame) for frame in frames] for rule in rules]
    return max(found, key=lambda place: sum(index is not None for index in place))


def _lens_of(lens: Lens, frame: Frame, path: Path) -> Lens:
    if abs(lens.width / lens.height / (frame.width / frame.height) - 1) > ASPECT:
        raise CaptureError(
            f"{path} is for pictures of {lens.width} x {lens.height} px, the frame has "
            f"{frame.width} x {frame.height}; are they turned or cropped?",
            [frame.name],
        )
    return lens.scaled(frame.width, frame.height)
