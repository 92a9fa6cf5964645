"""Render every camera of a model: ``render_worker.py MODEL.mjb OUT.npz WIDTH HEIGHT``.

A process of its own, as MuJoCo chooses its OpenGL library once per process, through the
environment, and a driver may crash. ``views.py`` runs it by path; it imports nothing of
the package.
"""

import sys

import mujoco
import numpy as np


def main(model_path: str, out: str, width: int, height: int) -> None:
    """Write RGB pictures and masks of everything but the geom ``table``."""
    model = mujoco.MjModel.from_binary_path(model_path)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    table = model.geom("table").id
    images, masks = [], []
    with mujoco.Renderer(model, height, width) as renderer:
        for camera in range(model.ncam):
            renderer.update_scene(data, camera)
            images.append(renderer.render().copy())
            renderer.enable_segmentation_rendering()
            geom, kind = np.moveaxis(renderer.render(), -1, 0)
            renderer.disable_segmentation_rendering()
            masks.append((kind == mujoco.mjtObj.mjOBJ_GEOM) & (geom != table))
    np.savez(out, images=np.array(images), masks=np.array(masks))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
