"""Right triangles of the CMU pushing experiments (Zhou et al., ICRA 2016).

The object frame is the centre of the bounding box with the legs along +x and +y;
the experiments' own frame is the right-angle corner, half a leg away on each axis.
"""

import numpy as np

from p2r_jax.sim.asset import Asset, uniform_inertia
from p2r_jax.sim.footprint import Polygon


def triangle_150() -> Asset:
    """Legs of 150 mm, 50 mm high, 1.518 kg, uniform: centre of mass 50 mm from both legs.

    Mass, size and height are the experimenters'; 0.15 x 0.15 / 2 x 0.05 m^3 of
    aluminium (2.7 g/cm^3) weigh 1.519 kg, so the triangle is solid.
    """
    return right_triangle(
        "triangle_150", (0.150, 0.150), 0.050, 1.518,
        "legs, height (obj_geo.txt), mass: robinzhoucmu/MLab_EXP and ICRA 2016 paper",
    )  # fmt: skip


def triangle_101() -> Asset:
    """Legs of 101 and 99 mm, 35 mm high, wood; the mass is ours.

    The experimenters give no mass: 0.12 kg is that of 0.69 g/cm^3 hardwood.
    """
    return right_triangle(
        "triangle_101", (0.101, 0.099), 0.035, 0.120,
        "legs, height (obj_geo.txt): robinzhoucmu/MLab_EXP; mass 0.12 kg: ours, not published",
    )  # fmt: skip


def right_triangle(
    name: str, legs: tuple[float, float], height: float, mass: float, source: str
) -> Asset:
    """A uniform right-angled prism; the right angle at the lower left of its bounding box."""
    x, y = legs[0] / 2, legs[1] / 2
    parts = (Polygon(((-x, -y), (x, -y), (-x, y))),)
    inertia = uniform_inertia(parts, height, mass)
    return Asset(
        name=name,
        parts=parts,
        height_m=height,
        mass_kg=mass,
        com_m=(round(-legs[0] / 6, 9), round(-legs[1] / 6, 9), 0.0),
        inertia=tuple(tuple(float(v) for v in row) for row in inertia),
        provenance=(source, "centre of mass and inertia: uniform prism of the outline"),
    )


def corner_to_object(corner_pose: np.ndarray, legs: tuple[float, float]) -> np.ndarray:
    """Poses (x, y, yaw) of the right-angle corner -> poses of the object frame, Float[n, 3]."""
    cos, sin = np.cos(corner_pose[:, 2]), np.sin(corner_pose[:, 2])
    x, y = legs[0] / 2, legs[1] / 2
    shift = np.stack([cos * x - sin * y, sin * x + cos * y, np.zeros_like(cos)], -1)
    return corner_pose + shift
