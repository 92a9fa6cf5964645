"""Metres: how long one unit of the poses is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from p2r_jax.real2sim.cameras.rig import Rig
from p2r_jax.real2sim.cameras.tags import Family, SeenTag, scale_from_tags
from p2r_jax.real2sim.errors import CaptureError
from p2r_jax.sim.mesh_solid import SIZE_RANGE

DISAGREE = 0.05  # two ways to the scale that differ by more contradict each other

WAYS = """say how large things are in one of these ways:
  --cameras.scale.tag-size-m 0.05          edge of the black square of an AprilTag in the pictures
  --cameras.scale.object-length-m 0.2      longest side of the object, lying as filmed
  --cameras.scale.camera-distance-m 0.45   of the cameras from the object's middle (median)
  --cameras.scale.baseline 0000 0012 0.31  between the cameras of two frames
  --cameras.scale.metric                   the given poses are in metres"""


@dataclass(frozen=True)
class ScaleConfig:
    """Where metres come from; if several are given, the first counts, the others check it.

    Attributes:
      tag_size_m: edge of the black square of the AprilTags in the scene.
      tag_family: of the tags.
      tag_ids: use only these numbers; empty: all.
      object_length_m: longest side of the object as it lies, seen from above.
      camera_distance_m: median distance of the cameras from the middle of the object's box.
      baseline: two frames and the distance of their cameras, m.
      metric: the given poses are in metres already.
    """

    tag_size_m: float | None = None
    tag_family: Family = "36h11"
    tag_ids: tuple[int, ...] = ()
    object_length_m: float | None = None
    camera_distance_m: float | None = None
    baseline: tuple[str, str, float] | None = None
    metric: bool = False

    def __post_init__(self):
        given = (self.tag_size_m, self.object_length_m, self.camera_distance_m)
        lengths = [*given, self.baseline[2] if self.baseline else None]
        if any(length is not None and not length > 0 for length in lengths):
            raise ValueError(f"lengths for the scale must be positive: {lengths}")

    @property
    def is_given(self) -> bool:
        """Whether there is any way to metres."""
        lengths = (self.tag_size_m, self.object_length_m, self.camera_distance_m, self.baseline)
        return self.metric or any(length is not None for length in lengths)


@dataclass(frozen=True)
class Scale:
    """The scale, and what each way to it says.

    Attributes:
      metres: per unit of the poses.
      source: the way that counts.
      ways: metres per unit by way.
    """

    metres: float
    source: str
    ways: dict[str, float]


def check_given(config: ScaleConfig, metric: bool) -> None:
    """Raise CaptureError if no way to metres is given, before anything long is done."""
    if not (metric or config.is_given):
        raise CaptureError("pictures have no scale; " + WAYS)


def find_scale(
    config: ScaleConfig,
    rig: Rig,
    distance: float,
    length: float,
    tags: Sequence[SeenTag],
    tags_seen: dict,
    metric: bool,
) -> Scale:
    """Metres per unit of the rig.

    Args:
      config: ways.
      rig: cameras.
      distance: of the cameras from the object's middle, units of the rig.
      length: of the object, units of the rig.
      tags: in the units of the rig.
      tags_seen: what was detected, for the error.
      metric: whether the poses are in metres by their own account.

    Raises:
      CaptureError: if there is no way, two contradict each other, or the object would be
        of a size that no arm pushes.
    """
    check_given(config, metric)
    ways = {}
    if config.tag_size_m:
        ways["tag"] = scale_from_tags(tags, config.tag_size_m, tags_seen)
    if config.object_length_m:
        ways["object length"] = config.object_length_m / length
    if config.camera_distance_m:
        ways["camera distance"] = config.camera_distance_m / distance
    if config.baseline:
        ways["baseline"] = config.baseline[2] / _between(rig, *config.baseline[:2])
    if metric or config.metric:
        ways["given poses"] = 1.0
    source, metres = next(iter(ways.items()))
    for other, value in ways.items():
        if abs(value / metres - 1) > DISAGREE:
            raise CaptureError(
                f"the scale from the {other} is {value / metres:.3f} times that from the {source}; "
                "one of the two lengths is wrong (all are in metres)"
            )
    longest = metres * length
    if not SIZE_RANGE[0] <= longest <= SIZE_RANGE[1]:
        raise CaptureError(
            f"with the scale from the {source} the object is {longest:.4g} m long; an arm on a "
            f"table pushes {SIZE_RANGE[0]:g} to {SIZE_RANGE[1]:g} m. Lengths are in metres: "
            "check the one that was given"
        )
    return Scale(metres, source, ways)


def _between(rig: Rig, first: str, second: str) -> float:
    for name in (first, second):
        if name not in rig.names:
            raise CaptureError(
                f"the baseline names frame {name!r}, which has no pose; choose among", rig.names
            )
    a, b = rig.centers[rig.names.index(first)], rig.centers[rig.names.index(second)]
    return float(np.linalg.norm(a - b))


def length_across(points: Float[np.ndarray, "p 3"], up: Float[np.ndarray, " 3"]) -> float:
    """Long side of the smallest rectangle around points, seen along ``up``."""
    import shapely

    basis = np.linalg.svd(np.outer(up, up))[0][:, 1:]
    box = shapely.minimum_rotated_rectangle(shapely.MultiPoint(points @ basis).convex_hull)
    corners = shapely.get_coordinates(box)
    if len(corners) < 3:
        return float(np.ptp(corners, axis=0).max())
    return float(np.linalg.norm(np.diff(corners[:3], axis=0), axis=1).max())
