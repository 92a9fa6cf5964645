"""Small logs in the form of the CMU ones, made by the training dynamics: no data is needed.

For the notebook and its test where ``../shared/data`` is absent. The world that makes them
is the one that explains them: what follows from these logs says nothing about reality.
"""

from dataclasses import replace

import numpy as np

from p2r_jax.pushlog import PushLog
from p2r_jax.sim.asset import Asset, load_asset
from p2r_jax.sim.planar import PlanarConfig, PlanarDynamics
from p2r_jax.sim.replay import replay, rest_physics
from p2r_jax.sim.support import support_points

TIP_RADIUS_M = 0.001
PERIOD_S = 0.2
FRICTION_PUSHER, FRICTION_TABLE = 0.35, 0.3
PATCH_POINTS = 24


def separate_pushes(count: int = 20, seed: int = 0) -> PushLog:
    """Straight pushes of ``triangle_150``, 18 mm in 6.6 s; poses before and after only."""
    asset, rng = load_asset("triangle_150"), np.random.default_rng(seed)
    t = np.arange(0.0, 6.6 + 1e-9, PERIOD_S)
    ways = []
    for _ in range(count):
        touch, inwards = _edge_point(asset, rng)
        angle = rng.uniform(-0.4, 0.4)
        direction = _turned(inwards, angle)
        ways.append(touch - 0.002 * inwards + 0.018 * (t / t[-1])[:, None] * direction)
    log = _pushed(_log("synthetic_pushes", asset, t, ways), asset)
    inner = np.tile((t > t[0]) & (t < t[-1]), count)
    return replace(log, object_pose=np.where(inner[:, None], np.nan, log.object_pose))


def continuous_run(seconds: float = 45.0, seed: int = 0) -> PushLog:
    """One long push of ``triangle_101`` at 4 mm/s that bends every few seconds."""
    asset, rng = load_asset("triangle_101"), np.random.default_rng(seed)
    t = np.arange(0.0, seconds + 1e-9, PERIOD_S)
    bend = np.repeat(rng.uniform(-0.5, 0.5, t.size // 30 + 1), 30)[: t.size - 1]
    steps = 0.004 * PERIOD_S * np.stack([np.cos(bend), np.sin(bend)], -1)
    start = np.array([asset.footprint_bounds[0][0] - TIP_RADIUS_M - 0.003, -0.012])
    way = start + np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])
    return _pushed(_log("synthetic_run", asset, t, [way]), asset)


def _edge_point(asset: Asset, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tool centre that touches a random edge away from its ends, and the way inwards."""
    corners = asset.parts[0].corners
    i = rng.integers(len(corners))
    a, b = corners[i], corners[(i + 1) % len(corners)]
    along = (b - a) / np.linalg.norm(b - a)
    inwards = np.array([-along[1], along[0]])
    return a + rng.uniform(0.2, 0.8) * (b - a) - TIP_RADIUS_M * inwards, inwards


def _log(name: str, asset: Asset, t: np.ndarray, ways: list[np.ndarray]) -> PushLog:
    """Pushes of an object that lies at the origin, and stays there for the time being."""
    n, count = t.size, len(ways)
    return PushLog(
        name, asset.name, TIP_RADIUS_M, np.repeat(np.arange(count), n), np.tile(t, count),
        np.zeros((n * count, 3)), np.concatenate(ways),
    )  # fmt: skip


def _pushed(log: PushLog, asset: Asset) -> PushLog:
    """The same log with the object where the planar dynamics puts it."""
    support = support_points(asset, "patch", PATCH_POINTS)
    physics = rest_physics(asset, support, FRICTION_PUSHER, FRICTION_TABLE)
    dynamics = PlanarDynamics(asset, TIP_RADIUS_M, PERIOD_S, PlanarConfig())
    poses, _ = replay(log, physics, dynamics, PERIOD_S)
    rows = log.t.size // len(log.pushes)
    return replace(log, object_pose=poses[:, :rows].reshape(-1, 3))


def _turned(v: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([c * v[0] - s * v[1], s * v[0] + c * v[1]])
