"""The clock of a real robot: a loop that sleeps on it is seen to live."""

import time
from collections.abc import Callable

SLICE_S, SPIN_S = 0.05, 3e-4


class HeartbeatClock:
    """The machine's monotonic clock; tells the robot, while the loop sleeps, that it lives."""

    def __init__(self, live: Callable[[], None]):
        self._live = live

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.perf_counter()

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s``; at once if that has passed."""
        self._live()
        while (left := time_s - time.perf_counter()) > 0:
            if left > SLICE_S:
                time.sleep(SLICE_S)
                self._live()
            elif left > SPIN_S:
                time.sleep(left - SPIN_S)
