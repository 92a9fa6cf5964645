"""``p2r task new``: a mesh and a mass become a task that trains.

What follows from the object: the range of theta (where the support still encloses the
centre of mass), the kind of support, and the lengths of the task. The base task's
lengths (start to goal, action, tolerance, noise) shrink with an object that is shorter
than the base's, down to a third; they do not grow with a longer one, since the table and
the robot do not. What the pusher needs to walk around the object follows its size both
ways.
"""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from p2r_jax.files import as_record, git_revision, new_folder
from p2r_jax.sim.asset import Asset, save_asset
from p2r_jax.sim.footprint import depth_inside, hull_planes
from p2r_jax.sim.mesh_asset import MeshAsset, MeshOptions, asset_from_mesh
from p2r_jax.sim.support import check_support, support_points
from p2r_jax.task_files import write_task
from p2r_jax.tasks import Layout, PhysicsRanges, Task, ThetaSpec, load_task, task_names

ASSET_FOLDER = "asset"
ROOM_M = 0.02  # between pusher and object where an episode starts
SMALLEST_SCALE = 1 / 3  # of the base task's lengths
THETA_SHARE = 0.45  # of the length to either side: theta is at most this
NARROWEST_THETA_M = 2e-3


@dataclass(frozen=True)
class NewTaskConfig:
    """A new task from a mesh.

    Attributes:
      mesh: ``.obj``, ``.stl`` or ``.ply`` file.
      mass: of the object, kg.
      out: folder of the task; holds ``task.json`` and the asset.
      name: of the task and its object; the folder's name if not given.
      base: registered task whose control, reward and friction are taken over.
      theta: centre of mass along the long axis (``1d``) or along both (``2d``).
      options: how the mesh becomes an asset.
    """

    mesh: Path
    mass: float
    out: Path
    name: str | None = None
    base: str = "push_tblock"
    theta: Literal["1d", "2d"] = "1d"
    options: MeshOptions = field(default_factory=MeshOptions)


def new_task(config: NewTaskConfig) -> tuple[Task, MeshAsset]:
    """Make the task folder and print what was assumed, mended and decided.

    Raises:
      FileNotFoundError: if there is no such mesh.
      FileExistsError: if ``out`` holds something.
      ValueError: for a mesh, mass, name or centre of mass that cannot be.
    """
    name = config.name or config.out.resolve().name
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ValueError(f"{name!r} cannot name a task; pass --name with letters, digits, - and _")
    if name in task_names():
        raise ValueError(f"{name!r} is a registered task; choose another --name")
    base = load_task(config.base)
    made = asset_from_mesh(config.mesh, name, config.mass, config.options)
    task, notes = task_for_asset(made.asset, base, config.theta, config.options.pusher_radius_m)
    folder = new_folder(config.out).resolve() / ASSET_FOLDER
    save_asset(made.asset, folder, made.files)
    task = replace(task, asset=str(folder))
    record = {
        "command": as_record(config),
        "git": git_revision(),
        "report": asdict(made.report),
        "T_object_mesh": made.T_object_mesh.tolist(),
        "notes": notes,
    }
    write_task(task, config.out, record)
    print("\n".join(f"  {line}" for line in (*made.asset.provenance, *notes)))
    print(f"{config.out}: train it with `p2r train {config.out} privileged --out RUN`")
    return task, made


def task_for_asset(
    asset: Asset, base: Task, theta: Literal["1d", "2d"], pusher_radius_m: float
) -> tuple[Task, list[str]]:
    """The base task with another object; ``task.asset`` is the asset's name.

    Returns:
      the task, and what was decided, one line each.

    Raises:
      ValueError: if the object tips over, or leaves no range for theta.
    """
    physics, notes = _physics(asset, base.physics, theta)
    specs = _theta(physics)
    size = np.subtract(*reversed(asset.footprint_bounds))
    length, half_diagonal = float(size.max()), float(np.linalg.norm(size) / 2)
    base_length = float(np.subtract(*reversed(base.object.footprint_bounds)).max())
    scale = float(np.clip(length / base_length, SMALLEST_SCALE, 1.0))
    around = half_diagonal + pusher_radius_m + ROOM_M
    layout = _layout(base.layout, scale, around)
    notes.append(
        f"lengths of {base.name} x {scale:.2f}; start to goal "
        f"{100 * np.linalg.norm(np.subtract(layout.start_xy, layout.goal_xy)):.0f} cm, workspace "
        f"{100 * (layout.upper[0] - layout.lower[0]):.0f} x "
        f"{100 * (layout.upper[1] - layout.lower[1]):.0f} cm"
    )
    noise = base.theta_noise_m * max(s.std for s in specs) / max(s.std for s in base.theta)
    return replace(
        base,
        name=asset.name,
        asset=asset.name,
        theta=specs,
        theta_noise_m=round(noise, 5),
        theta_noise_share=(),
        action_scale_m=round(scale * base.action_scale_m, 4),
        pusher_radius_m=pusher_radius_m,
        layout=layout,
        physics=physics,
        curriculum=replace(
            base.curriculum,
            position_noise_m=round(scale * base.curriculum.position_noise_m, 4),
            ee_radius_m=round(around, 4),
        ),
        reward=replace(base.reward, free_reach_m=round(length / 2 + ROOM_M, 4)),
        success=replace(base.success, position_m=round(scale * base.success.position_m, 4)),
    ), notes


def _layout(base: Layout, scale: float, around: float) -> Layout:
    """The base's layout about the middle between start and goal.

    Start and goal stand far enough apart that the pusher's start, halfway, is free, and
    the workspace leaves room to walk around the object at both.
    """
    start, goal, ee = (np.array(v) for v in (base.start_xy, base.goal_xy, base.ee_start_xy))
    middle = (start + goal) / 2
    reach = max(scale * np.linalg.norm(start - goal) / 2, around)
    along = reach * (start - goal) / np.linalg.norm(start - goal)
    room = np.abs(along) + around + ROOM_M
    lower = np.minimum(middle + scale * (np.array(base.lower) - middle), middle - room)
    upper = np.maximum(middle + scale * (np.array(base.upper) - middle), middle + room)
    places = {
        "start_xy": middle + along,
        "goal_xy": middle - along,
        "ee_start_xy": middle + scale * (ee - middle),
        "lower": lower,
        "upper": upper,
    }
    return replace(base, **{k: tuple(np.round(v, 4).tolist()) for k, v in places.items()})


def _physics(asset: Asset, base: PhysicsRanges, theta: str) -> tuple[PhysicsRanges, list[str]]:
    """Support, and the range of the centre of mass that it allows."""
    kind, notes = _support_kind(asset, base)
    support = support_points(asset, kind, base.support_count)
    com = np.array(asset.com_m[:2])
    check_support(support, com[None], asset.name)
    tilt = base.friction[1] * asset.height_m / 2
    depth = float(depth_inside(support, com))
    if depth < 2 * tilt:
        notes.append(
            f"narrow for its height: pushed at mid height with friction above "
            f"{2 * depth / asset.height_m:.2f} it would tip or roll, which only the contact "
            "dynamics shows"
        )
    ranges = _com_range(support, com, min(tilt, depth / 2), theta)
    limit = THETA_SHARE * np.subtract(*reversed(asset.footprint_bounds))
    ranges = np.clip(ranges, -limit[:, None], limit[:, None])
    rounded = tuple((float(low), float(high)) for low, high in np.round(ranges, 5))
    notes.append(f"{base.support_count} support points, {kind}")
    physics = replace(base, weight_x_m=None, com_m=rounded, support=kind)
    check_support(support, physics.com_corners(asset), asset.name)
    return physics, notes


def _support_kind(asset: Asset, base: PhysicsRanges) -> tuple[str, list[str]]:
    """The base's, unless its points lose half of what the resting region encloses."""
    region = np.concatenate([part.corners for part in asset.resting_parts])
    points = support_points(asset, base.support, base.support_count)
    if _hull_area(points) >= 0.5 * _hull_area(region):
        return base.support, []
    return "corners", [
        f"support at the corners: the {base.support} points enclose less than half of what the "
        "resting region encloses"
    ]


def _hull_area(points: Float[np.ndarray, "n 2"]) -> float:
    import shapely

    return float(shapely.MultiPoint(points).convex_hull.area)


def _com_range(support, com, margin: float, theta: str) -> Float[np.ndarray, "2 2"]:
    """Ranges of x and y around ``com`` that stay ``margin`` inside the support, m."""
    planes = hull_planes(support)
    room = -margin - planes[:, 2] - planes[:, :2] @ com  # >= 0: com lies deeper than margin
    reach = np.zeros((2, 2))
    for axis in range(2):
        slope = planes[:, axis]
        with np.errstate(divide="ignore"):
            reach[axis] = (
                -np.min(room[slope < 0] / -slope[slope < 0]),
                np.min(room[slope > 0] / slope[slope > 0]),
            )
    if theta == "1d":
        return com[:, None] + reach * [[1.0], [0.0]]
    corners = np.array([(x, y) for x in reach[0] for y in reach[1]])
    share = np.min(room / np.maximum(np.max(planes[:, :2] @ corners.T, axis=1), 1e-12))
    return com[:, None] + min(share, 1.0) * reach


def _theta(physics: PhysicsRanges) -> tuple[ThetaSpec, ...]:
    """A component for every axis along which the centre of mass varies."""
    specs = []
    for axis, (low, high) in zip("xy", physics.com_m, strict=True):
        if high - low < NARROWEST_THETA_M:
            continue
        mean, std = (low + high) / 2, (high - low) / 12**0.5
        specs.append(ThetaSpec(f"com_object_{axis}", "m", low, high, mean, std))
    if not specs or specs[0].name != "com_object_x":
        low, high = physics.com_m[0]
        raise ValueError(
            f"the support leaves the centre of mass {1e3 * (high - low):.1f} mm along the object's "
            "x axis: nothing to estimate; give another pose with --up"
        )
    return tuple(specs)
