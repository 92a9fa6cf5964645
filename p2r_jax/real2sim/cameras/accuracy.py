"""How far cameras are from those of a truth that stands on the same table."""

from collections.abc import Sequence

import numpy as np

from p2r_jax.real2sim.cameras.rig import Lens, Rig, align, compare
from p2r_jax.real2sim.views import View


def rig_of_views(views: Sequence[View]) -> Rig:
    """Views as a rig."""
    return Rig(
        names=tuple(view.name for view in views),
        lenses=tuple(Lens.pinhole(view.width, view.height, view.K) for view in views),
        poses=np.array([view.T_camera_world for view in views]),
    )


def world_errors(views: Sequence[View], truth: Sequence[View]) -> dict[str, float]:
    """Errors of views in their world frame; turn about z and place on the table are free.

    Args:
      views: found, z up, table z = 0, metres.
      truth: views of the same names, z up, table z = 0, metres.

    Returns:
      number of cameras; after a similarity that fits the centres, their rms and largest
      distance (mm) and the mean and largest turn (degrees); and, of that similarity, the
      error of the scale (%), the tilt of z (degrees) and the height of the found table (mm)
      below the object.
    """
    rig, true = rig_of_views(views), rig_of_views(truth)
    found = compare(rig, true)
    common = [name for name in rig.names if name in true.names]
    move = align(
        rig.centers[[rig.names.index(name) for name in common]],
        true.centers[[true.names.index(name) for name in common]],
    )
    up = move.R[:, 2]
    below = move(np.zeros((1, 3)))[0]
    return {
        "cameras": int(found["cameras"]),
        "center_rms_mm": 1e3 * found["center_rms"],
        "center_max_mm": 1e3 * found["center_max"],
        "rotation_mean_deg": found["rotation_mean_deg"],
        "rotation_max_deg": found["rotation_max_deg"],
        "scale_error_percent": 100 * (1 / move.scale - 1),
        "tilt_deg": float(np.rad2deg(np.arccos(min(1.0, float(up[2]))))),
        "table_height_mm": 1e3 * float(below[2]),
    }
