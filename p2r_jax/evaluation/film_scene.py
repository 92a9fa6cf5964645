"""The push scene dressed for a picture, and the joint positions of its frames."""

import mujoco
import numpy as np
from jaxtyping import Float

from p2r_jax.evaluation.motion import (
    FOOT_PX,
    GOAL_RGB,
    HEAD_PX,
    PUSHER_RGB,
    Motion,
    markers,
    on_object,
    visited,
)
from p2r_jax.sim.asset import Asset, prism
from p2r_jax.sim.footprint import grown
from p2r_jax.sim.mjcf import SceneOptions, push_spec

GOAL_TINT = (0.50, 0.80, 0.69)  # opaque, as overlapping translucent parts would show a seam
PUSHER_HEIGHT_M = 0.14


def scene_spec(
    asset: Asset,
    motion: Motion,
    goal: Float[np.ndarray, " 3"],
    pusher_radius: float,
    size: tuple[int, int],
) -> mujoco.MjSpec:
    """The push scene dressed for a picture: light, camera, goal, markers, a visible tool."""
    spec = push_spec(asset, np.zeros((1, 2)), pusher_radius, SceneOptions(), None)
    _dress_table(spec)
    top = asset.height_m / 2
    spec.geom("pusher").rgba = [0, 0, 0, 0]
    spec.body("pusher").add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[pusher_radius, PUSHER_HEIGHT_M / 2, 0],
        contype=0,
        conaffinity=0,
        pos=[0, 0, PUSHER_HEIGHT_M / 2 - top + 0.004],
        rgba=[*PUSHER_RGB, 1],
        mass=1e-3,
    )
    _add_goal(spec, asset, goal)
    _add_markers(spec, motion, top)
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
    for _, theta, _, _ in markers(film):
        columns.append(on_object(theta, count))
    return np.concatenate([*columns, film.ee], -1)


def _add_goal(spec: mujoco.MjSpec, asset: Asset, goal: Float[np.ndarray, " 3"]) -> None:
    """The goal's outline, tinted, on the table."""
    target = spec.worldbody.add_body(
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


def _add_markers(spec: mujoco.MjSpec, motion: Motion, top: float) -> None:
    """Discs that slide on the object's upper side, ``top`` m above its frame."""
    for order, (name, _, rgb, radius) in enumerate(markers(motion)):
        marker = spec.body("object").add_body(name=name, pos=[0, 0, top])
        for name_of, axis in (("x", [1, 0, 0]), ("y", [0, 1, 0])):
            slide = mujoco.mjtJoint.mjJNT_SLIDE
            marker.add_joint(name=f"{name}_{name_of}", type=slide, axis=axis)
        marker.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[radius, 0.0008 + 0.0004 * order, 0],
            rgba=[*rgb, 1],
            contype=0,
            conaffinity=0,
            mass=1e-3,
        )


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
    points = visited(asset, motion, goal)
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
