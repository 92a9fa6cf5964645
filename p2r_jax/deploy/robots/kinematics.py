"""Kinematics of a serial arm in NumPy: modified Denavit-Hartenberg, damped least squares.

``T_base_flange`` is a 4 x 4 matrix that maps flange coordinates into the base; every
function takes leading batch axes. Lengths in m, angles in rad.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Vector = tuple[float, ...]
DAMPING = 0.01  # of the released controller
MAX_ITERATIONS = 60
POSITION_TOLERANCE_M, ANGLE_TOLERANCE_RAD = 1e-6, 1e-5
MAX_STEP_RAD = 0.5  # per iteration and joint: far targets stay on the branch of the first guess


@dataclass(frozen=True)
class ArmGeometry:
    """Joints in modified DH convention: Rx(alpha) Tx(a) Rz(q + offset) Tz(d).

    Attributes:
      a, alpha, d, offset: one number per joint.
      lower, upper: joint limits.
      rest: joints that hold the tool straight down over the table.
      tool_m: from the flange to the tip of the tool, along the flange's z.
    """

    a: Vector
    alpha: Vector
    d: Vector
    offset: Vector
    lower: Vector
    upper: Vector
    rest: Vector
    tool_m: float


HALF, TURN = np.pi / 2, 2 * np.pi
XARM6 = ArmGeometry(  # lengths: papers.md; limits: the SDK's table of the xArm 6
    a=(0.0, 0.0, 0.28948866, 0.0775, 0.0, 0.076),
    alpha=(0.0, -HALF, 0.0, -HALF, HALF, -HALF),
    d=(0.267, 0.0, 0.0, 0.3425, 0.0, 0.097),
    offset=(0.0, -1.3849179, 1.3849179, 0.0, 0.0, 0.0),
    lower=(-TURN, -2.042035, -3.822271, -TURN, -1.692969, -TURN),
    upper=(TURN, 2.024581, 0.174532, TURN, np.pi, TURN),
    rest=(0.0, -0.28819, -0.29546, 0.0, 0.58206, -3.1416),
    tool_m=0.195,
)


def joint_frames(arm: ArmGeometry, q: Float[np.ndarray, "*n j"]) -> Float[np.ndarray, "*n j 4 4"]:
    """Frame of every joint in the base; the last one is the flange's."""
    T, frames = np.broadcast_to(np.eye(4), (*q.shape[:-1], 4, 4)), []
    for joint in range(len(arm.a)):
        T = T @ link_transform(arm, joint, q[..., joint])
        frames.append(T)
    return np.stack(frames, -3)


def link_transform(
    arm: ArmGeometry, joint: int, angle: Float[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n 4 4"]:
    """Frame of a joint in the frame of the one before it."""
    theta, alpha, d = np.asarray(angle) + arm.offset[joint], arm.alpha[joint], arm.d[joint]
    c, s, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    zero, one = np.zeros_like(c), np.ones_like(c)
    rows = [
        [c, -s, zero, zero + arm.a[joint]],
        [s * ca, c * ca, zero - sa, zero - d * sa],
        [s * sa, c * sa, zero + ca, zero + d * ca],
        [zero, zero, zero, one],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def flange_pose(arm: ArmGeometry, q: Float[np.ndarray, "*n j"]) -> Float[np.ndarray, "*n 4 4"]:
    """T_base_flange."""
    return joint_frames(arm, q)[..., -1, :, :]


def tip_position(arm: ArmGeometry, q: Float[np.ndarray, "*n j"]) -> Float[np.ndarray, "*n 3"]:
    """Tip of the tool in the base, m."""
    T = flange_pose(arm, q)
    return T[..., :3, 3] + arm.tool_m * T[..., :3, 2]


def jacobian(frames: Float[np.ndarray, "*n j 4 4"]) -> Float[np.ndarray, "*n 6 j"]:
    """Velocity of the flange (linear, then angular; base axes) per joint velocity."""
    axes, origins = frames[..., :3, 2], frames[..., :3, 3]
    linear = np.cross(axes, origins[..., -1:, :] - origins)
    return np.swapaxes(np.concatenate([linear, axes], -1), -1, -2)


def pose_error(
    target: Float[np.ndarray, "*n 4 4"], T: Float[np.ndarray, "*n 4 4"]
) -> Float[np.ndarray, "*n 6"]:
    """What moves ``T`` to ``target``: translation and rotation vector, base axes."""
    R = target[..., :3, :3] @ np.swapaxes(T[..., :3, :3], -1, -2)
    twice_sine = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0],
                           R[..., 1, 0] - R[..., 0, 1]], -1)  # fmt: skip
    length = np.linalg.norm(twice_sine, axis=-1)
    angle = np.arctan2(length, np.trace(R, axis1=-2, axis2=-1) - 1)
    scale = np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 0.5)
    return np.concatenate([target[..., :3, 3] - T[..., :3, 3], scale[..., None] * twice_sine], -1)


def solve_ik(
    arm: ArmGeometry, target: Float[np.ndarray, "n 4 4"], guess: Float[np.ndarray, "n j"]
) -> tuple[Float[np.ndarray, "n j"], Bool[np.ndarray, " n"]]:
    """Joints that bring the flange to ``target``, by damped least squares.

    dq = J^T (J J^T + DAMPING^2 E)^-1 e, repeated.

    Returns:
      joints, and which of them reach their target within the tolerances and the limits.
    """
    q = np.array(guess, float)
    for _ in range(MAX_ITERATIONS):
        frames = joint_frames(arm, q)
        error = pose_error(target, frames[..., -1, :, :])
        reached = (np.linalg.norm(error[:, :3], axis=-1) < POSITION_TOLERANCE_M) & (
            np.linalg.norm(error[:, 3:], axis=-1) < ANGLE_TOLERANCE_RAD
        )
        if reached.all():
            break
        J = jacobian(frames)
        normal = J @ np.swapaxes(J, -1, -2) + DAMPING**2 * np.eye(6)
        step = np.swapaxes(J, -1, -2) @ np.linalg.solve(normal, error[..., None])
        q = q + np.clip(step[..., 0], -MAX_STEP_RAD, MAX_STEP_RAD)
    within = np.all((q >= arm.lower) & (q <= arm.upper), axis=-1)
    return q, reached & within


def tool_down(
    arm: ArmGeometry, tip: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 4 4"], Float[np.ndarray, "n j"]]:
    """Flange poses that hold the tool straight down at ``tip``, and a first guess of the joints.

    The flange keeps the rest pose's heading: its x points along the base's -x.
    """
    T = np.zeros((*tip.shape[:-1], 4, 4))
    T[..., :3, :3], T[..., 3, 3] = np.diag([-1.0, 1.0, -1.0]), 1.0
    T[..., :3, 3] = tip + np.array([0.0, 0.0, arm.tool_m])
    guess = np.tile(np.array(arm.rest), (*tip.shape[:-1], 1))
    bearing = np.arctan2(tip[..., 1], tip[..., 0])
    guess[..., 0], guess[..., -1] = bearing, guess[..., -1] + bearing
    return T, guess
