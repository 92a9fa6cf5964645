"""The CMU triangle pushes as push logs (Zhou et al., ICRA 2016; ``SOURCE.md`` beside the data).

    python experiments/cmu_pushes.py --out runs/cmu    # every condition and run as .npz

What the files hold and what is made of it here:

- 50 pushes per condition. The object (motion capture) is known before and after a push
  only, as the pose of its right-angle corner: here the first and last row of a push, as
  the pose of the object frame (centre of the bounding box).
- The tool is a pointed finger that points where it pushes; the recorded point is its
  tip. No radius is published: TIP_RADIUS_M is ours, and the tool's centre is that much
  behind the tip. At the end of a push the tip must lie on the outline. It lies 0.7 mm
  (rms) off, and in all conditions alike on the finger's left: 0.87, 1.07, 0.96 mm in
  the three that settings are chosen on (0.96, 0.90, 1.06 mm in the others), 0.3 to
  0.5 mm rms remaining. So the tool's frame was a millimetre off, and TIP_LEFT_M undoes it.
- Force: sensor axes -> finger axes -> world, the first sample taken as zero, averaged
  over the time around each tool row. The experimenters drop the first 30% of a push
  (no contact yet); here these rows stay, with their small forces.
- Continuous runs (101 x 99 mm wood triangle): the object at 60 Hz as the pose of a
  marker body, the tool at 33 Hz, the force at 100 Hz. Rows are the instants of the
  object; the tool is interpolated, the force averaged. ``SOURCE.md`` names the
  registration file of another set of markers, which puts the tool up to 19 mm inside
  the triangle; the one that was committed together with these runs (``Tr1Reg.txt``)
  leaves +-3 mm while there is force. Where the markers are mistaken for one another
  (the triangle would be tilted) the object counts as not observed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from p2r_jax.pushlog import PushLog, write_log
from p2r_jax.sim.support import support_points
from p2r_jax.sim.triangles import corner_to_object, triangle_150
from p2r_jax.types import wrap_angle

DATA = Path(__file__).parents[2] / "shared" / "data" / "cmu_triangle_push"
TIP_RADIUS_M = 0.001  # ours: a pointed finger
TIP_LEFT_M = 0.00097  # the recorded point lies this far to the left of the finger's tip
SENSOR_TO_FINGER = -np.array([[1.0, 1.0], [1.0, -1.0]]).T / np.sqrt(2)  # and to "on the object"
# robinzhoucmu/MLab_EXP, TrackingObj/object_db/Tr1Reg.txt, commit 2763ac2 (Apache-2.0), mm
MARKERS_TO_CORNER = np.array([
    [-0.582574, 0.812668, -0.00531035, -2.38805],
    [0.00730846, 0.0198042, 0.999895, -35.7798],
    [0.812695, 0.582376, -0.0127986, -39.5608],
])  # fmt: skip
MAX_TILT = np.radians(6)
LEGS_150, LEGS_101 = (0.150, 0.150), (0.101, 0.099)
WEIGHT_N = 1.518 * 9.8


@dataclass(frozen=True)
class Condition:
    """One experiment: what the triangle stood on.

    Attributes:
      name: file name.
      surface: ``wood`` or ``blackboard``.
      feet_mm: three support points from the right-angle corner; None is the full face.
    """

    name: str
    surface: str
    feet_mm: tuple[tuple[float, float], ...] | None

    @property
    def friction_table(self) -> float:
        """Coefficient quoted by the authors, from a horizontal pull."""
        return {"blackboard": 4.2, "wood": 5.0}[self.surface] / WEIGHT_N

    def support(self, patch_points: int = 60) -> np.ndarray:
        """Support points in the object frame, m: Float[points, 2]."""
        if self.feet_mm is None:
            return support_points(triangle_150(), "patch", patch_points)
        return np.array(self.feet_mm) / 1000 - np.array(LEGS_150) / 2


def _condition(name: str) -> Condition:
    """Read a file name ``surface_x1_x2_x3_y1_y2_y3`` or ``surface_patch``.

    ``SOURCE.md`` reads the six numbers as three pairs (x, y). That puts two of the
    three feet of 10_130_10_10_10_130 on one spot and leaves the centre of mass
    outside three of the four layouts, where the triangle would tip over. Three x
    and then three y encloses it in all of them.
    """
    surface, _, layout = name.partition("_")
    if layout == "patch":
        return Condition(name, surface, None)
    thirds = {"43": 130 / 3, "63": 190 / 3}  # rounded in the file names
    numbers = [thirds.get(n, float(n)) for n in layout.split("_")]
    return Condition(name, surface, tuple(zip(numbers[:3], numbers[3:], strict=True)))


CONDITIONS = {
    name: _condition(name)
    for name in (
        "blackboard_10_130_10_10_10_130",
        "blackboard_10_90_10_10_30_130",
        "blackboard_patch",
        "wood_30_63_43_30_43_63",
        "wood_30_90_30_30_30_90",
        "wood_patch",
    )
}
CONTINUOUS = tuple(f"exp3_{i}" for i in range(1, 7))


def load_condition(
    name: str, folder: Path = DATA, tip_radius_m: float = TIP_RADIUS_M,
    tip_left_m: float = TIP_LEFT_M,
) -> PushLog:  # fmt: skip
    """The 50 pushes of a condition; asset ``triangle_150``, rows at the tool's 33 Hz.

    Args:
      name: one of CONDITIONS.
      folder: of the data.
      tip_radius_m, tip_left_m: radius of the tip, and how far it lies to the right of the
        recorded point; zero takes the tool as recorded.

    Raises:
      FileNotFoundError: if the data is not there.
    """
    with np.load(_existing(folder / f"{name}.npz")) as stored:
        raw = {key: stored[key] for key in stored.files}
    before = corner_to_object(raw["obj_pre"], LEGS_150)
    after = corner_to_object(raw["obj_post"], LEGS_150)
    push, t, pose, tool, force = [], [], [], [], []
    for i, (start, end) in enumerate(zip(raw["robot_off"], raw["robot_off"][1:], strict=False)):
        robot = raw["robot"][start:end]
        finger = _finger_yaw(robot[:, 4:8])
        sensed = raw["ft"][raw["ft_off"][i] : raw["ft_off"][i + 1]]
        seen = np.full((len(robot), 3), np.nan)
        seen[0], seen[-1] = before[i], after[i]
        seen[-1, 2] = before[i, 2] + wrap_angle(after[i, 2] - before[i, 2])
        push.append(np.full(len(robot), i))
        t.append(robot[:, 0] - robot[0, 0])
        pose.append(seen)
        tool.append(robot[:, 1:3] - _rotate(finger, np.array([[tip_radius_m, tip_left_m]])))
        on_object = (sensed[:, 1:] - sensed[0, 1:]) @ SENSOR_TO_FINGER.T
        force.append(_rotate(finger, _around(robot[:, 0], sensed[:, 0], on_object)))
    return PushLog(
        name=name, asset="triangle_150", tool_radius_m=tip_radius_m, push=np.concatenate(push),
        t=np.concatenate(t), object_pose=np.concatenate(pose), tool_xy=np.concatenate(tool),
        force_xy=np.concatenate(force),
    )  # fmt: skip


def load_continuous(name: str, folder: Path = DATA, tip_radius_m: float = TIP_RADIUS_M) -> PushLog:
    """One continuous run as one push; asset ``triangle_101``, object observed throughout.

    Raises:
      FileNotFoundError: if the data is not there.
    """
    with np.load(_existing(folder / "continuous" / f"{name}.npz")) as stored:
        raw = {key: stored[key] for key in stored.files}
    pose = corner_to_object(_planar(raw["obj_pose"], MARKERS_TO_CORNER), LEGS_101)
    seen = ~np.isnan(pose[:, 0])
    pose[seen, 2] = np.unwrap(pose[seen, 2])
    finger = _finger_yaw(raw["robot_pose"][:, 3:])
    tool = raw["robot_pose"][:, :2] - _rotate(finger, np.array([[tip_radius_m, 0.0]]))
    keep = (raw["obj_t"] >= raw["robot_t"][0]) & (raw["obj_t"] <= raw["robot_t"][-1])
    t, object_rows = raw["obj_t"][keep], pose[keep]
    fresh = np.concatenate([[True], np.diff(t) > 0])
    t, object_rows = t[fresh], object_rows[fresh]
    tool = np.stack([np.interp(t, raw["robot_t"], c) for c in tool.T], -1)
    sensed = (raw["ft"][:, :2] - raw["ft"][0, :2]) * [1.0, -1.0]
    force = _around(t, raw["ft_t"], sensed)
    return PushLog(
        name=name, asset="triangle_101", tool_radius_m=tip_radius_m, push=np.zeros(t.size, int),
        t=t - t[0], object_pose=object_rows, tool_xy=tool, force_xy=force,
    )  # fmt: skip


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; the CMU pushes live in shared/data")
    return path


def _planar(poses: np.ndarray, body_to_frame: np.ndarray) -> np.ndarray:
    """Poses (x, y, z m, qw qx qy qz) of a body -> (x, y, yaw) of a frame on it (mm).

    NaN where the frame would be tilted by more than MAX_TILT.
    """
    w, x, y, z = poses[:, 3:].T / np.linalg.norm(poses[:, 3:], axis=1)
    rotation = np.moveaxis(np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]), -1, 0)  # fmt: skip
    xy = poses[:, :2] + rotation[:, :2] @ (body_to_frame[:, 3] / 1000)
    ahead, up = rotation[:, :2] @ body_to_frame[:, 0], rotation[:, 2] @ body_to_frame[:, 2]
    frame = np.column_stack([xy, np.arctan2(ahead[:, 1], ahead[:, 0])])
    return np.where((up > np.cos(MAX_TILT))[:, None], frame, np.nan)


def _finger_yaw(quaternions: np.ndarray) -> np.ndarray:
    """Yaw of the finger; it only turns about the vertical."""
    return 2 * np.arctan2(quaternions[:, 3], quaternions[:, 0])


def _rotate(yaw: np.ndarray, v: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1]], -1)


def _around(t: np.ndarray, sampled_t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the samples nearer to each instant of ``t`` than to its neighbours."""
    edges = (t[1:] + t[:-1]) / 2
    owner = np.searchsorted(edges, sampled_t)
    count = np.bincount(owner, minlength=t.size)
    sums = np.stack([np.bincount(owner, column, t.size) for column in values.T], -1)
    nearest = values[np.abs(np.subtract.outer(t[count == 0], sampled_t)).argmin(1)]
    mean = sums / np.maximum(count, 1)[:, None]
    mean[count == 0] = nearest
    return mean


@dataclass(frozen=True)
class ConvertConfig:
    """Where to write the logs.

    Attributes:
      out: folder, made if needed.
      data: folder of the CMU data.
      suffix: format, see ``p2r_jax.pushlog.files``.
    """

    out: Path
    data: Path = DATA
    suffix: str = ".npz"


def main(config: ConvertConfig) -> None:
    """Convert every condition and continuous run."""
    config.out.mkdir(parents=True, exist_ok=True)
    logs = [load_condition(name, config.data) for name in CONDITIONS]
    logs += [load_continuous(name, config.data) for name in CONTINUOUS]
    for log in logs:
        file = config.out / f"{log.name}{config.suffix}"
        write_log(file, log)
        print(f"{file}: {len(log.pushes)} pushes, {log.t.size} rows")


if __name__ == "__main__":
    main(tyro.cli(ConvertConfig))
