"""The same object with three kinds of collision shapes, for simulators other than ours.

Our own dynamics use the footprint (``object.xml``). A pick-and-place task wants solids:
``hull32`` (convex hulls of at most 32 corners), ``boxes`` (one upright box per hull, the
fastest in MJX) and ``none`` (to look at).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import mujoco
import numpy as np
import trimesh

from p2r_jax.real2sim.asset.convex import OrientedBox
from p2r_jax.sim.asset import Asset, add_body, add_visual

VARIANTS = ("hull32", "boxes", "none")
SCENE = """<mujoco model="{name} on a table">
  <include file="object_hull32.xml"/>
  <visual>
    <headlight ambient="0.4 0.4 0.4" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
  </visual>
  <statistic center="0 0 {height}" extent="{extent}"/>
  <worldbody>
    <light pos="0.3 -0.4 1" dir="-0.3 0.4 -1"/>
    <geom name="table" type="plane" size="1 1 0.05" rgba="0.78 0.78 0.76 1"/>
  </worldbody>
</mujoco>
"""


def write_variants(
    asset: Asset,
    hulls: Sequence[trimesh.Trimesh],
    boxes: Sequence[OrientedBox],
    files: Mapping[str, bytes],
    folder: Path,
) -> None:
    """Write ``object_VARIANT.xml`` for every variant, and ``scene.xml`` for the viewer.

    Args:
      asset: mass properties and names of the visual files.
      hulls: convex parts, object frame, m.
      boxes: of the same parts.
      files: visual mesh and texture by name; already in ``folder``.
      folder: of the asset.
    """
    for variant in VARIANTS:
        spec = _object(asset, files)
        body = spec.body("object")
        if variant == "hull32":
            _add_hulls(spec, body, hulls)
        elif variant == "boxes":
            _add_boxes(body, boxes)
        spec.compile()
        (folder / f"object_{variant}.xml").write_text(spec.to_xml())
    size = np.subtract(*reversed(asset.footprint_bounds))
    scene = SCENE.format(
        name=asset.name, height=f"{asset.height_m / 2:.3f}", extent=f"{np.max(size):.3f}"
    )
    (folder / "scene.xml").write_text(scene)


def _object(asset: Asset, files: Mapping[str, bytes]) -> mujoco.MjSpec:
    """A free body with the asset's inertia and visual mesh, without collision shapes."""
    spec = mujoco.MjSpec()
    spec.modelname = asset.name
    body = add_body(spec, asset)
    body.add_freejoint()
    add_visual(spec, body, asset, files)
    return spec


def _add_hulls(spec: mujoco.MjSpec, body: mujoco.MjsBody, hulls: Sequence[trimesh.Trimesh]) -> None:
    for index, hull in enumerate(hulls):
        spec.add_mesh(name=f"hull{index}", uservert=np.ravel(np.round(hull.vertices, 6)))
        body.add_geom(
            name=f"hull{index}",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=f"hull{index}",
            mass=0.0,
            group=3,
        )


def _add_boxes(body: mujoco.MjsBody, boxes: Sequence[OrientedBox]) -> None:
    for index, box in enumerate(boxes):
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, box.T_object_box[:3, :3].flatten())
        body.add_geom(
            name=f"box{index}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=box.half,
            pos=box.T_object_box[:3, 3],
            quat=quat,
            mass=0.0,
            group=3,
        )
