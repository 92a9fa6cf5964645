"""Render every camera of a model: ``render_worker.py MODEL.mjb WIDTH HEIGHT``.

A process of its own, as MuJoCo chooses its OpenGL library once per process, through the
environment, and a driver may crash. For each camera, raw RGB and then a mask of the geoms
whose names begin with ``object`` (one byte a pixel, 0 or 255) go to standard output. Run by
path, it imports nothing of the package.
"""

import sys

import mujoco
import numpy as np


def main(model_path: str, width: int, height: int) -> None:
    """Write picture and mask of every camera, in the model's order."""
    model = mujoco.MjModel.from_binary_path(model_path)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    wanted = [g for g in range(model.ngeom) if model.geom(g).name.startswith("object")]
    with mujoco.Renderer(model, height, width) as renderer:
        for camera in range(model.ncam):
            renderer.update_scene(data, camera)
            sys.stdout.buffer.write(renderer.render().tobytes())
            renderer.enable_segmentation_rendering()
            geom, kind = np.moveaxis(renderer.render(), -1, 0)
            renderer.disable_segmentation_rendering()
            seen = (kind == mujoco.mjtObj.mjOBJ_GEOM) & np.isin(geom, wanted)
            sys.stdout.buffer.write((255 * seen.astype(np.uint8)).tobytes())
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
