"""Captures of triangle meshes without a renderer: exact masks, depths, flat colours."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from p2r_jax.real2sim.mesh.render import depth_of
from p2r_jax.real2sim.mesh.tsdf import DepthMap
from p2r_jax.real2sim.views import View

MIDDLE = (0.0, 0.0, 0.015)  # of an object 30 mm high


def box(extents, at=(0.0, 0.0, 0.0)):
    import trimesh

    return trimesh.creation.box(extents).apply_translation(at)


def union(*meshes):
    import trimesh

    return trimesh.boolean.union(meshes, engine="manifold")


def looking_at(target, position) -> np.ndarray:
    """T_camera_world (OpenCV axes) of a camera at ``position`` that looks at ``target``, z up."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ position
    return T


def ring(target, distance, count, elevations, size=160, focal=300.0) -> list[View]:
    """Cameras around a target, the elevations (rad) in turn."""
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    views = []
    for i in range(count):
        a, e = 2 * np.pi * i / count, elevations[i % len(elevations)]
        out = [np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)]
        T = looking_at(target, np.add(target, np.multiply(distance, out)))
        views.append(View(f"{i:04d}", size, size, K, T))
    return views


def photograph(mesh, views, folder, colour=(200, 120, 40)) -> list[View]:
    """The views with mask and image files of a mesh; the picture is flat in colour."""
    folder.mkdir(parents=True, exist_ok=True)
    shot = []
    for view in views:
        mask = np.isfinite(depth_of(mesh, view))
        files = [folder / f"{view.name}_{kind}.png" for kind in ("image", "mask")]
        picture = np.where(mask[..., None], np.array(colour), [90, 90, 90]).astype(np.uint8)
        Image.fromarray(picture).save(files[0])
        Image.fromarray(np.uint8(255) * mask).save(files[1])
        shot.append(replace(view, image=files[0], mask=files[1]))
    return shot


def t_block(yaw=0.0):
    """A T (bar 120 x 30, stem 30 x 90, height 30 mm) on the table, stem along -y before yaw."""
    import trimesh

    block = union(box((0.12, 0.03, 0.03)), box((0.03, 0.09, 0.03), (0, -0.06, 0)))
    block.apply_translation((0.0, 0.03, 0.015))
    return block.apply_transform(trimesh.transformations.rotation_matrix(yaw, (0, 0, 1)))


def depth_maps(mesh, views, bias=0.0, noise=0.0, seed=0) -> list[DepthMap]:
    """Depth of a mesh, displaced along the ray (m), with smooth noise (s.d., m)."""
    rng = np.random.default_rng(seed)
    maps = []
    for view in views:
        depth = depth_of(mesh, view)
        ripple = gaussian_filter(rng.normal(size=depth.shape), 3)
        hit = np.isfinite(depth)
        depth = np.where(hit, depth + bias + noise * ripple / ripple.std(), 0.0)
        maps.append(DepthMap(view, depth, hit.astype(float)))
    return maps


@dataclass
class Cloud:
    """Gaussians as the level set reads them."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray


def shell_of(mesh, count=3000, width=0.002, thickness=0.0005) -> Cloud:
    """Flat Gaussians on a surface, as a well-fitted splat has them."""
    import trimesh

    points, faces = trimesh.sample.sample_surface(mesh, count, seed=0)
    n = mesh.face_normals[faces]
    n = np.where(n[:, 2:] < -0.99, -n, n)
    quats = np.stack([1 + n[:, 2], -n[:, 1], n[:, 0], np.zeros(count)], 1)
    scales = np.tile([width, width, thickness], (count, 1))
    return Cloud(np.array(points), quats, scales, np.full(count, 0.9))
