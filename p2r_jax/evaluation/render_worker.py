"""Render frames in a process of its own: ``render_worker.py MODEL.mjb QPOS.npy WIDTH HEIGHT``.

MuJoCo and PyOpenGL choose their OpenGL library once per process, from
``MUJOCO_GL``. ``offscreen.py`` sets it for this process only, so that the library's
own process keeps its environment and survives a driver that crashes. Raw RGB
frames go to standard output. Run by path, it imports nothing of the package.
"""

import sys

import mujoco
import numpy as np


def main(model_path: str, qpos_path: str, width: int, height: int) -> None:
    """Write one frame per row of qpos, seen by the model's first camera."""
    model = mujoco.MjModel.from_binary_path(model_path)
    data = mujoco.MjData(model)
    with mujoco.Renderer(model, height, width) as renderer:
        for qpos in np.load(qpos_path):
            data.qpos[:] = qpos
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=0)
            sys.stdout.buffer.write(renderer.render().tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
