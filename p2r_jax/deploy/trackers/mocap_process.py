"""Prints the frames of a motion-capture system, one JSON line each.

A process of its own: the ``motioncapture`` library holds Python's lock while it waits for
a frame, which would hold up the loop. Imports nothing of this package, to start at once.
``stamp_s`` is ``time.perf_counter()``, which on Linux all processes share.
"""

import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def main(kind: str, host: str, body: str) -> None:
    """Read for ever; the last line before an early end is ``{"error": ...}``."""
    die_with_parent()
    tell = teller()
    try:
        import motioncapture
    except ImportError:
        tell(error="the tracker needs motioncapture: pip install 'p2r_jax[hardware]'")
        return
    try:
        system = motioncapture.connect(kind, {"hostname": host})
        while True:
            system.waitForNextFrame()
            stamp = time.perf_counter()
            bodies = system.rigidBodies
            tell(stamp_s=stamp, pose=pose_of(bodies.get(body)), bodies=sorted(bodies))
    except RuntimeError as error:
        tell(error=f"motioncapture ({kind} at {host}): {error}")


def pose_of(body) -> list[float] | None:
    """Position (m, as the system has it) and quaternion (w, x, y, z); None if not tracked."""
    if body is None:
        return None
    r = body.rotation
    pose = [*map(float, body.position), r.w, r.x, r.y, r.z]
    return pose if all(map(math.isfinite, pose)) and any(pose[3:]) else None


def teller() -> Callable[..., None]:
    """What prints a line; whatever else prints, in Python or not, goes to stderr from now on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda **message: print(json.dumps(message), file=out, flush=True)


def die_with_parent() -> None:
    """End when the parent does, even while the library waits (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
