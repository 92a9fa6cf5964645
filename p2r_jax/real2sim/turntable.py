"""Splat and mesh seen from all around, as moving pictures that any browser plays."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from p2r_jax.files import write_atomic
from p2r_jax.real2sim.pictures import missing_package
from p2r_jax.real2sim.views import View

if TYPE_CHECKING:
    import trimesh

    from p2r_jax.real2sim.splat.gaussians import Splat

FRAMES, SIDE_PX, FRAME_MS = 36, 420, 90
ELEVATION_RAD = 0.5
DISTANCE, ROOM = 2.2, 1.04  # of the box's diagonal; around its picture
SUPERSAMPLED = 2
AMBIENT, DIFFUSE = 0.35, 0.65
LIGHT_CAMERA = np.array([-0.4, -0.7, -0.6])  # where light comes from: left, above, behind us
SUBPIXEL_BITS = 4
GREY = 170
QUALITY = 82


def orbit(
    bounds: Float[np.ndarray, "2 3"], count: int = FRAMES, longest: int = SIDE_PX
) -> list[View]:
    """Cameras on a circle around a box, whose pictures it just fills.

    Args:
      bounds: lower and upper corner, world, m.
      count: of cameras.
      longest: side of their pictures, px.
    """
    turns = 2 * np.pi * np.arange(count) / count - np.pi / 2
    distance = DISTANCE * np.linalg.norm(bounds[1] - bounds[0])
    poses = [_looking_at(bounds.mean(0), distance, turn) for turn in turns]
    corners = np.array(
        [[x, y, z] for x in bounds[:, 0] for y in bounds[:, 1] for z in bounds[:, 2]]
    )
    unit = np.concatenate([View("", 0, 0, np.eye(3), T).project(corners) for T in poses])
    reach = ROOM * np.abs(unit[:, :2]).max(0)
    focal = longest / 2 / reach.max()
    width, height = (max(2, round(2 * focal * r)) for r in reach)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    names = [f"{np.rad2deg(turn):.0f}" for turn in turns]
    return [View(name, width, height, K, T) for name, T in zip(names, poses, strict=True)]


def _looking_at(middle, distance: float, turn: float) -> Float[np.ndarray, "4 4"]:
    flat = np.array([np.cos(turn), np.sin(turn), 0.0])
    away = np.cos(ELEVATION_RAD) * flat + np.sin(ELEVATION_RAD) * np.array([0, 0, 1.0])
    right = np.array([-flat[1], flat[0], 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(-away, right), -away])
    T[:3, 3] = -T[:3, :3] @ (middle + distance * away)
    return T


def mesh_pictures(
    mesh: "trimesh.Trimesh", views: Sequence[View]
) -> list[UInt8[np.ndarray, "h w 4"]]:
    """Shaded RGBA pictures of a mesh, triangles painted from back to front.

    Good for closed meshes of small triangles; colours are the vertices'.
    """
    try:
        import cv2
    except ImportError:
        raise missing_package("opencv-python-headless") from None
    colours = _face_colours(mesh)
    return [_painted(cv2, mesh, colours, view) for view in views]


def _face_colours(mesh: "trimesh.Trimesh") -> Float[np.ndarray, "f 3"]:
    if mesh.visual.kind != "vertex":
        return np.full((len(mesh.faces), 3), float(GREY))
    return np.asarray(mesh.visual.vertex_colors, float)[mesh.faces, :3].mean(1)


def _painted(cv2, mesh: "trimesh.Trimesh", colours, view: View) -> UInt8[np.ndarray, "h w 4"]:
    shape = SUPERSAMPLED * view.height, SUPERSAMPLED * view.width
    seen = view.project(np.asarray(mesh.vertices))[mesh.faces]
    normals = np.asarray(mesh.face_normals) @ view.T_camera_world[:3, :3].T
    front = _cross(seen) < 0  # the picture's y points down
    order = np.flatnonzero(front)[np.argsort(-seen[front, :, 2].mean(1))]
    light = LIGHT_CAMERA / np.linalg.norm(LIGHT_CAMERA)
    shade = AMBIENT + DIFFUSE * np.clip(normals @ light, 0, 1)
    paint = np.clip(colours * shade[:, None], 0, 255)
    corners = (SUPERSAMPLED * seen[..., :2] - 0.5) * 2**SUBPIXEL_BITS
    corners = np.round(corners).astype(np.int32)
    rgba = np.zeros((*shape, 4), np.uint8)
    for i in order:
        cv2.fillConvexPoly(rgba, corners[i], (*paint[i].tolist(), 255), shift=SUBPIXEL_BITS)
    return _averaged(rgba)


def _cross(triangles: Float[np.ndarray, "f 3 3"]) -> Float[np.ndarray, " f"]:
    a, b, c = np.moveaxis(triangles[..., :2], 1, 0)
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def _averaged(rgba: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h2 w2 4"]:
    """Blocks of the supersampled picture as one pixel, colours weighted by opacity."""
    k = SUPERSAMPLED
    height, width = rgba.shape[0] // k, rgba.shape[1] // k
    blocks = rgba.reshape(height, k, width, k, 4).astype(float)
    alpha = blocks[..., 3:].sum((1, 3))
    rgb = (blocks[..., :3] * blocks[..., 3:]).sum((1, 3)) / np.maximum(alpha, 1)
    return np.concatenate([rgb, alpha / k**2], -1).round().astype(np.uint8)


def splat_pictures(splat: "Splat", views: Sequence[View]) -> list[UInt8[np.ndarray, "h w 4"]]:
    """RGBA pictures of a splat by the JAX rasteriser."""
    import jax

    from p2r_jax.real2sim.splat.projection import camera_of
    from p2r_jax.real2sim.splat.raster import render

    draw = jax.jit(lambda camera: render(splat, camera))
    pictures = []
    for view in views:
        seen = draw(camera_of(view))
        alpha = np.asarray(seen.alpha)[..., None]
        rgb = np.asarray(seen.rgb) / np.maximum(alpha, 1e-6)
        rgba = np.concatenate([np.clip(rgb, 0, 1), np.clip(alpha, 0, 1)], -1)
        pictures.append((255 * rgba).round().astype(np.uint8))
    return pictures


def write_turntable(path: Path, pictures: Sequence[UInt8[np.ndarray, "h w 4"]]) -> None:
    """Write an endless animated WebP with transparency."""
    from PIL import Image

    first, *rest = (Image.fromarray(picture, "RGBA") for picture in pictures)
    data = io.BytesIO()
    first.save(
        data, "WEBP", save_all=True, append_images=rest, duration=FRAME_MS, loop=0,
        quality=QUALITY, method=2, minimize_size=False,
    )  # fmt: skip
    write_atomic(path, data.getvalue())
