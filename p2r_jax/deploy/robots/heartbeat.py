"""The clock of a real robot: a loop that sleeps on it is seen to live."""

import time
from collections.abc import Callable

from p2r_jax.deploy.timing import SLICE_S, WallClock


class HeartbeatClock(WallClock):
    """The machine's monotonic clock; tells the robot, while the loop sleeps, that it lives."""

    def __init__(self, live: Callable[[], None]):
        self._live = live

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s``; at once if that has passed."""
        self._live()
        while time_s - self.now() > SLICE_S:
            time.sleep(SLICE_S)
            self._live()
        super().sleep_until(time_s)
