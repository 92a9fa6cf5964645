"""Rigid transforms on and over the table, and the JSON files that hold them."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

ROTATION_TOLERANCE = 1e-3


def planar_transform(x: float, y: float, yaw: float) -> Float[np.ndarray, "3 3"]:
    """T_a_b of a frame b at (x, y), m, turned by ``yaw``, rad, in a."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, x], [s, c, y], [0.0, 0.0, 1.0]])


def fit_planar(
    points: Float[np.ndarray, "n 2"], seen: Float[np.ndarray, "n 2"]
) -> tuple[tuple[float, float, float], float]:
    """Pose (x, y, yaw) that brings ``points`` onto ``seen``, least squares; and its RMS error.

    yaw = atan2(sum p x s, sum p . s) about the centroids.
    """
    p, s = points - points.mean(0), seen - seen.mean(0)
    yaw = np.arctan2(np.sum(p[:, 0] * s[:, 1] - p[:, 1] * s[:, 0]), np.sum(p * s))
    T = planar_transform(0.0, 0.0, yaw)[:2, :2]
    xy = seen.mean(0) - T @ points.mean(0)
    rms = float(np.sqrt(np.mean(np.sum((points @ T.T + xy - seen) ** 2, axis=1))))
    return (float(xy[0]), float(xy[1]), float(yaw)), rms


def quaternion_transform(
    position: Float[np.ndarray, " 3"], quaternion: Float[np.ndarray, " 4"]
) -> Float[np.ndarray, "4 4"]:
    """T_a_b of a frame b at ``position``, m, with the rotation (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = position
    return T


def read_json(path: Path, meant: str, schema: int) -> dict:
    """A JSON object with the right ``schema``.

    Raises:
      FileNotFoundError: saying what was ``meant``.
      ValueError: for something else than such an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {meant} at {path}")
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != schema:
        raise ValueError(f'{path}: no {meant}, which has "schema": {schema}')
    return record


def read_transform(value, name: str) -> Float[np.ndarray, "4 4"]:
    """A rigid transform from JSON; anything else raises ValueError naming it."""
    T = np.array(value, float)
    if T.shape != (4, 4) or not np.all(np.isfinite(T)):
        raise ValueError(f"{name} must be a 4 x 4 matrix of numbers")
    R = T[:3, :3]
    rigid = np.allclose(R @ R.T, np.eye(3), atol=ROTATION_TOLERANCE) and np.linalg.det(R) > 0
    if not rigid or not np.allclose(T[3], [0, 0, 0, 1]):
        raise ValueError(
            f"{name} is not a rotation and a translation (a scaled or mirrored one? metres?)"
        )
    return T
