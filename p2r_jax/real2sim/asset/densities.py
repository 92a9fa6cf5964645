"""Mass properties of a solid whose parts differ in density."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import trimesh
from jaxtyping import Float

from p2r_jax.real2sim.asset.manifold import as_manifold, as_trimesh


@dataclass(frozen=True)
class Slab:
    """A stretch of the object's x axis with a density of its own.

    Attributes:
      low_m, high_m: from where to where, object frame.
      density: kg/m^3, or any number in proportion if the object's mass is given.
    """

    low_m: float
    high_m: float
    density: float


@dataclass(frozen=True)
class MassProperties:
    """Of a rigid body.

    Attributes:
      mass_kg: its mass.
      com: centre of mass, m, in the mesh's frame.
      inertia: about the centre of mass, mesh axes, kg m^2.
    """

    mass_kg: float
    com: Float[np.ndarray, " 3"]
    inertia: Float[np.ndarray, "3 3"]


def slab_mass_properties(
    mesh: trimesh.Trimesh, rest_density: float, slabs: Sequence[Slab]
) -> MassProperties:
    """Mass properties of a closed mesh that is ``rest_density`` outside the slabs.

    Args:
      mesh: watertight, object frame, m.
      rest_density: kg/m^3 of whatever no slab covers.
      slabs: must not overlap.

    Raises:
      ValueError: for slabs that overlap, are empty, miss the object, or have no density.
    """
    _check(mesh, slabs)
    pieces = [(mesh, rest_density)]
    pieces += [(_cut(mesh, s), s.density - rest_density) for s in slabs]
    weighed = [(p.volume * d, p.center_mass, d * p.moment_inertia) for p, d in pieces]
    mass = sum(m for m, _, _ in weighed)
    com = sum(m * c for m, c, _ in weighed) / mass
    inertia = sum(i + m * _spread(c - com) for m, c, i in weighed)
    return MassProperties(float(mass), com, inertia)


def _spread(d: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    return (d @ d) * np.eye(3) - np.outer(d, d)


def _cut(mesh: trimesh.Trimesh, slab: Slab) -> trimesh.Trimesh:
    """The part of a solid within a slab, closed."""
    solid = as_manifold(mesh)
    kept = solid.trim_by_plane((1, 0, 0), slab.low_m).trim_by_plane((-1, 0, 0), -slab.high_m)
    return as_trimesh(kept)


def _check(mesh: trimesh.Trimesh, slabs: Sequence[Slab]) -> None:
    low, high = mesh.bounds[:, 0]
    for slab in slabs:
        if not slab.low_m < slab.high_m:
            raise ValueError(f"slab {slab.low_m:g} .. {slab.high_m:g} m is empty; low comes first")
        if not slab.density > 0:
            raise ValueError(f"slab {slab.low_m:g} .. {slab.high_m:g} m needs a positive density")
        if slab.high_m <= low or slab.low_m >= high:
            raise ValueError(
                f"slab {slab.low_m:g} .. {slab.high_m:g} m misses the object, which reaches from "
                f"{low:.3f} to {high:.3f} m along its x axis"
            )
    ordered = sorted(slabs, key=lambda s: s.low_m)
    for a, b in pairwise(ordered):
        if b.low_m < a.high_m:
            raise ValueError(
                f"slabs {a.low_m:g} .. {a.high_m:g} m and {b.low_m:g} .. {b.high_m:g} m overlap"
            )
