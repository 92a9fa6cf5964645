"""Recorded pushes, replayed: the tool follows its measured path, the object is predicted.

Open loop: a push starts at the first observed object pose and never sees another one.
Any dynamics with ``init``, ``derive`` and ``advance`` will do; the pusher is driven
exactly, so what is left is physics, geometry and measurement. Where a push starts with
the tool a little inside the object (calibration, rounding), its whole path is shifted
outwards by that much; contact would otherwise throw the object away. Slow pushes are
quasi-static, their outcome does not depend on speed: they may run ``speed_up`` times
faster than recorded, at a speed where friction laws are resolved with fewer steps.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from p2r_jax.pushlog import PushLog, resample
from p2r_jax.sim.asset import Asset
from p2r_jax.sim.footprint import nearest
from p2r_jax.sim.support import check_support
from p2r_jax.types import PhysicsParams, PlanarPose, wrap_angle

QUASI_STATIC_MPS = 0.02  # pushes slower than this may be replayed at this speed
SHARED_ROWS = 8  # paths are padded to a multiple, so that similar logs share a compilation
FRICTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0)


class Dynamics(Protocol):
    """What a replay needs of a dynamics; see ``PlanarDynamics``."""

    dt_s: float
    asset: Asset
    pusher_radius: float

    def init(self, pose: PlanarPose, ee_xy: Array):
        """State at rest."""

    def derive(self, physics: PhysicsParams):
        """What follows from the physics once."""

    def advance(self, physics: PhysicsParams, cache, state, ee_target: Array):
        """Move the pusher in a straight line for ``dt_s``."""


class Paths(NamedTuple):
    """Pushes of a log on one clock, padded to equal length with a tool that rests.

    Positions are relative to where the object starts, so that float32 is exact enough.

    Attributes:
      origin: object position before each push, m.
      yaw: object yaw before each push, rad.
      tool: tool positions, one per period, relative to ``origin``, m.
      last: index of the row with the last observed pose.
    """

    origin: Float[np.ndarray, "pushes 2"]
    yaw: Float[np.ndarray, " pushes"]
    tool: Float[np.ndarray, "pushes rows 2"]
    last: Int[np.ndarray, " pushes"]


def paths(log: PushLog, period_s: float, asset: Asset, tool_radius_m: float) -> Paths:
    """The pushes of a log from the first to the last observed pose, resampled.

    Tools that start inside the object are shifted to its edge, path and all.

    Raises:
      LogError: if the tool was not recorded somewhere in between.
    """
    seen = np.flatnonzero(log.observed)
    inner = np.zeros(log.t.size, bool)
    for push in log.pushes:
        own = seen[log.push[seen] == push]
        inner[own[0] : own[-1] + 1] = True
    regular = resample(log.take(inner), period_s)
    start = log.poses_before()
    slices = [regular.rows(push) for push in regular.pushes]
    longest = max(s.stop - s.start for s in slices)
    longest += -longest % SHARED_ROWS
    tool = np.stack([
        np.pad(regular.tool_xy[s], ((0, longest - (s.stop - s.start)), (0, 0)), mode="edge")
        for s in slices
    ])  # fmt: skip
    tool -= start[:, None, :2]
    tool += _overlap(asset, start[:, 2], tool[:, 0], tool_radius_m)[:, None]
    last = np.array([s.stop - s.start - 1 for s in slices])
    return Paths(start[:, :2], start[:, 2], tool, last)


def _overlap(asset: Asset, yaw: np.ndarray, tool: np.ndarray, radius_m: float) -> np.ndarray:
    """Shortest ways out of the object, world axes: Float[n, 2], zero for tools outside."""
    point = _turn(-yaw, tool)
    nx, ny, distance = nearest(asset.parts, point[:, 0], point[:, 1], np)
    depth = np.maximum(radius_m - distance, 0.0)
    return _turn(yaw, depth[:, None] * np.stack([nx, ny], -1))


def replay(log: PushLog, physics: PhysicsParams, dynamics: Dynamics, period_s: float | None = None):
    """Predicted object poses of every push of a log, at every period.

    Args:
      log: poses before each push and tool paths are used, nothing else.
      physics: one for all pushes.
      dynamics: ``dt_s`` is the time that one period takes in it.
      period_s: of the log; by default the dynamics' ``dt_s``, which is real time.

    Returns:
      poses: Float[pushes, rows, 3], world frame, m and rad; a push that is shorter than
        the longest one rests at its end.
      final: Float[pushes, 3], prediction of ``log.poses_after()``.
    """
    return _predict(dynamics, physics, _paths_of(dynamics, log, period_s or dynamics.dt_s))


def _paths_of(dynamics: Dynamics, log: PushLog, period_s: float) -> Paths:
    return paths(log, period_s, dynamics.asset, dynamics.pusher_radius)


def _predict(dynamics: Dynamics, physics: PhysicsParams, recorded: Paths):
    poses = np.array(simulate(dynamics, physics, recorded), float)
    poses[..., :2] += recorded.origin[:, None]
    return poses, poses[np.arange(len(poses)), recorded.last]


@functools.partial(jax.jit, static_argnames="dynamics")
def simulate(
    dynamics: Dynamics, physics: PhysicsParams, recorded: Paths
) -> Float[Array, "pushes rows 3"]:
    """Object poses (x, y, yaw) relative to ``recorded.origin``; pure, for vmap over physics."""
    cache = dynamics.derive(physics)

    def one(yaw, tool):
        def advance(state, target):
            state = dynamics.advance(physics, cache, state, target)
            return state, jnp.append(state.pose.xy, state.pose.yaw)

        first = dynamics.init(PlanarPose(jnp.zeros(2), yaw), tool[0])
        _, poses = jax.lax.scan(advance, first, tool[1:])
        return jnp.concatenate([jnp.append(jnp.zeros(2), yaw)[None], poses])

    return jax.vmap(one)(jnp.float32(recorded.yaw), jnp.float32(recorded.tool))


def rest_physics(
    asset: Asset, support: np.ndarray, friction_pusher: float, friction_table: float
) -> PhysicsParams:
    """Physics of an asset without its weight, on these support points (object frame, m).

    Raises:
      ValueError: if the support points do not enclose the centre of mass.
    """
    check_support(support, np.array([asset.com_m[:2]]), asset.name)
    return PhysicsParams(
        *(jnp.float32(v) for v in asset.with_weight(None)), jnp.float32(friction_table),
        jnp.float32(friction_pusher), jnp.float32(support),
    )  # fmt: skip


def pose_errors(
    asset: Asset, predicted: Float[np.ndarray, "n 3"], measured: Float[np.ndarray, "n 3"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Errors of poses, by name.

    Returns:
      position_mm: distance of the centre of mass. yaw_deg: absolute. outline_mm: mean
      distance of the outline's corners, which weighs both against each other.
    """
    corners = np.concatenate([part.corners for part in asset.parts])
    apart = _placed(predicted, corners) - _placed(measured, corners)
    com = np.array([asset.com_m[:2]])
    position = _placed(predicted, com) - _placed(measured, com)
    turn = wrap_angle(predicted[:, 2] - measured[:, 2])
    return {
        "position_mm": 1000 * np.linalg.norm(position[:, 0], axis=-1),
        "yaw_deg": np.degrees(np.abs(turn)),
        "outline_mm": 1000 * np.linalg.norm(apart, axis=-1).mean(1),
    }


def _placed(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Object-frame points in the world, for every pose: Float[n, points, 2]."""
    cos, sin = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
    x, y = points.T
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return turned + pose[:, None, :2]


def fit_transform(log: PushLog) -> Float[np.ndarray, "3 2"]:
    """Baseline: the linear map from the tool's motion to the object's that fits best.

    Both in the object's axes before the push, from its first to its last row; least
    squares over the pushes of ``log``. Rows: x and y (m per m), yaw (rad per m).
    """
    tool, moved = _motions(log)
    return np.linalg.lstsq(tool, moved, rcond=None)[0].T


def apply_transform(log: PushLog, transform: Float[np.ndarray, "3 2"]) -> np.ndarray:
    """Poses after the pushes by ``fit_transform``'s map: Float[pushes, 3]."""
    tool, _ = _motions(log)
    before, moved = log.poses_before(), tool @ transform.T
    return before + np.column_stack([_turn(before[:, 2], moved[:, :2]), moved[:, 2]])


def _motions(log: PushLog) -> tuple[np.ndarray, np.ndarray]:
    """Motion of tool (n, 2) and object (n, 3) over each push, object axes before it."""
    before, moved = log.poses_before(), log.poses_after() - log.poses_before()
    ends = [log.take(log.rows(push)).tool_xy[[0, -1]] for push in log.pushes]
    tool = _turn(-before[:, 2], np.array([b - a for a, b in ends]))
    return tool, np.column_stack([_turn(-before[:, 2], moved[:, :2]), moved[:, 2]])


def _turn(yaw: np.ndarray, v: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1]], -1)


def fit_friction(
    log: PushLog, physics: PhysicsParams, dynamics: Dynamics, period_s: float,
    candidates: Sequence[float] = FRICTIONS,
) -> tuple[PhysicsParams, Float[np.ndarray, " candidates"]]:  # fmt: skip
    """Friction at the pusher with the smallest mean outline error over a log.

    A grid, because replayed pushes are not smooth in friction (stick turns into slip).
    Friction at the table is kept: slow pushes show it only through the load that shifts
    forward as the pusher acts above the table, and too weakly to be told from its height.

    Args:
      log: the pushes to fit on.
      physics, dynamics, period_s: as for ``replay``.
      candidates: coefficients to try.

    Returns:
      physics: with the best of them.
      loss: mean outline error of each, mm.
    """
    recorded, after = _paths_of(dynamics, log, period_s), log.poses_after()
    loss = []
    for friction in candidates:
        tried = physics.replace(friction_pusher=jnp.float32(friction))
        _, final = _predict(dynamics, tried, recorded)
        loss.append(pose_errors(dynamics.asset, final, after)["outline_mm"].mean())
    best = candidates[int(np.nanargmin(loss))]
    return physics.replace(friction_pusher=jnp.float32(best)), np.array(loss)


def natural_speed_up(log: PushLog) -> float:
    """How much faster than recorded a log may run: up to QUASI_STATIC_MPS, never slower."""
    speeds = [
        np.linalg.norm(np.diff(log.tool_xy[rows], axis=0), axis=1).sum() / np.ptp(log.t[rows])
        for rows in map(log.rows, log.pushes)
    ]
    return max(1.0, QUASI_STATIC_MPS / max(float(np.median(speeds)), 1e-6))
