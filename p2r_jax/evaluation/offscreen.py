"""MuJoCo's frames without a window: EGL, else OSMesa.

Rendering runs in a process of its own (``render_worker``), because the OpenGL library is
chosen through the environment and the package never writes to its own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

WORKER = Path(__file__).with_name("render_worker.py")
BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")


class RenderError(RuntimeError):
    """The worker could not render; the message is its reason, in one line."""


@cache
def working_backend() -> str | None:
    """The first OpenGL backend that renders here, tried once per process; None if none does.

    A ``MUJOCO_GL`` that is set is the only one tried. When none works, the reasons are printed.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    for backend in (asked,) if asked else BACKENDS:
        spec = mujoco.MjSpec()
        spec.worldbody.add_camera(name="view", pos=[0, 0, 1])
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0])
        try:
            list(mujoco_frames(spec, np.zeros((1, 0)), (64, 48), backend))
        except RenderError as error:
            reasons.append(f"{backend}: {error}")
        else:
            return backend
    print(f"videos: no OpenGL here, drawing 2-D top views instead ({'; '.join(reasons)})")
    return None


def mujoco_frames(
    spec: mujoco.MjSpec, qpos: Float[np.ndarray, "f q"], size: tuple[int, int], backend: str
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Frames from the worker; raises RenderError with its last line of complaint."""
    width, height = size
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    environment = os.environ | {"MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        environment["PYOPENGL_PLATFORM"] = backend
    with tempfile.TemporaryDirectory() as folder:
        model, motion, log = (Path(folder) / name for name in ("model.mjb", "qpos.npy", "log"))
        mujoco.mj_saveModel(spec.compile(), str(model))
        np.save(motion, qpos)
        arguments = [model, motion, width, height]
        command = [sys.executable, "-P", str(WORKER), *map(str, arguments)]
        with (
            log.open("w") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, env=environment
            ) as worker,
        ):
            assert worker.stdout is not None
            try:
                for _ in range(len(qpos)):
                    raw = worker.stdout.read(3 * width * height)
                    if len(raw) < 3 * width * height:
                        worker.wait()
                        raise RenderError(_last_line(log))
                    yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
            finally:
                worker.kill()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and not line.startswith(" ")]
    return (errors or lines or ["no message"])[-1].strip()[:200]
