"""The side that an object lies on, told by the side that was filmed.

No camera looks under an object on a table: hollows there stay filled. Many objects are the same
above and below: tools, boards, anything cut out of a sheet. What was seen to be empty above
is then empty below as well. The masks have the last word: a level mirror plane whose carving
takes away what they show is refused.
"""

from dataclasses import dataclass, replace

import numpy as np

from p2r_jax.real2sim.mesh.hull import Hull
from p2r_jax.real2sim.mesh.levels import spread_views, unshrunk
from p2r_jax.real2sim.mesh.render import silhouette_iou
from p2r_jax.real2sim.mesh.symmetry import MirrorPlane, find_mirror_plane, mirror_image
from p2r_jax.real2sim.mesh.volume import zero_surface

LOST = 0.01  # of the masks' IoU, that mirroring may cost


@dataclass(frozen=True)
class Underside:
    """What the level mirror plane is worth.

    Attributes:
      plane: the best one.
      hull: carved from both sides if ``applied``, else as it was.
      applied: whether the object counts as the same above and below.
      iou: with the masks, before and after carving; nothing if the plane was bad already.
    """

    plane: MirrorPlane
    hull: Hull
    applied: bool
    iou: tuple[float, float] | None = None

    @property
    def record(self) -> dict:
        """For ``mesh.json``."""
        return {
            "normal": self.plane.normal.tolist(),
            "offset_m": self.plane.offset,
            "score": self.plane.score,
            "mirrored": self.applied,
            "mask_iou": dict(zip(("before", "after"), self.iou, strict=True)) if self.iou else None,
        }


def carve_underside(hull: Hull, threshold: float, table: bool) -> Underside:
    """Carve a surface below by what was carved above, if it is the same above and below.

    Args:
      hull: field of the surface so far, and the silhouettes it has to agree with.
      threshold: largest score that counts as symmetric.
      table: nothing is below z = 0.
    """
    plane = find_mirror_plane(zero_surface(hull.field, hull.grid), "level")
    if plane.score > threshold:
        return Underside(plane, hull, False)
    mirrored = mirror_image(hull.field, hull.grid, plane)
    both = replace(hull, field=np.maximum(hull.field, mirrored).astype(np.float32))
    both, _ = unshrunk(both, table, everywhere=False)
    iou = _mask_iou(hull), _mask_iou(both)
    applied = iou[1] >= iou[0] - LOST
    return Underside(plane, both if applied else hull, applied, iou)


def _mask_iou(hull: Hull) -> float:
    """Mean over some views of the agreement between the surface's silhouettes and the masks."""
    mesh = hull.mesh()
    views = spread_views([s.view for s in hull.silhouettes])
    return float(np.mean([silhouette_iou(mesh, view, view.load_mask()) for view in views]))
