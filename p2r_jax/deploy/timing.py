"""One timer owns the loop's pace and says at the end how it was kept."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from p2r_jax.deploy.protocols import Clock

SLICE_S = 0.05  # how long a wait may go on without looking whether to end
SPIN_S = 3e-4  # the end of a wait is spent looking at the clock: sleep comes back late
SWITCH_S = 5e-4  # how long another thread may keep the interpreter when the loop is due
SECTIONS = ("observe", "infer", "act", "log")


class WallClock:
    """The machine's monotonic clock, s."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.perf_counter()

    def sleep_until(self, time_s: float) -> None:
        """Return at ``time_s``, within some microseconds."""
        while (left := time_s - time.perf_counter()) > 0:
            if left > SPIN_S:
                time.sleep(left - SPIN_S)


@dataclass(frozen=True)
class Spread:
    """Median, 99th percentile and maximum, s."""

    median_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True)
class Timing:
    """How a run kept its pace.

    Attributes:
      steps: that were begun.
      period_s, rate_hz: asked for, and achieved.
      missed: steps whose work was not done when the next one was due.
      skipped: periods in which no step began, because of that.
      jitter: of the time between the begins of successive steps, against the period.
      late: begin of a step after it was due.
      work: from begin to the end of logging, on the machine's clock.
      sections: parts of it, on the machine's clock.
      worst: section with the longest single duration; ``worst_step`` is when.
    """

    steps: int
    period_s: float
    rate_hz: float
    missed: int
    skipped: int
    jitter: Spread
    late: Spread
    work: Spread
    sections: dict[str, Spread]
    worst: str
    worst_step: int

    def describe(self) -> str:
        """A few lines for a person."""
        if not self.steps:
            return "no step was made"
        worst = self.sections[self.worst]
        return (
            f"{self.steps} steps at {self.rate_hz:.2f} Hz (asked {1 / self.period_s:.2f}), "
            f"{self.missed} deadlines missed\n"
            f"  work {1e3 * self.work.median_s:.2f} ms (p99 {1e3 * self.work.p99_s:.2f}), "
            f"jitter p99 {1e3 * self.jitter.p99_s:.2f} ms\n"
            f"  worst section: {self.worst}, {1e3 * worst.max_s:.2f} ms in step "
            f"{self.worst_step} (median {1e3 * worst.median_s:.2f} ms)"
        )


class Pacer:
    """Begins steps at multiples of the period and keeps the books.

    A step that is over late does not hurry the next ones: they keep to the grid, and
    periods that have passed are skipped.
    """

    def __init__(self, clock: Clock, period_s: float):
        self.clock, self.period_s = clock, period_s
        self.due_s: float | None = None  # when the next step is to begin
        self._begins: list[float] = []
        self._late: list[float] = []
        self._missed = self._skipped = 0
        self._rows: list[list[float]] = []
        self._mark = 0.0

    def wait(self, ended: Callable[[], bool]) -> float | None:
        """Wait until a step is due; returns the time then, or None as soon as ``ended()``."""
        if self.due_s is None:
            self.due_s = self.clock.now()
        while (now := self.clock.now()) < self.due_s and not ended():
            self.clock.sleep_until(min(self.due_s, now + SLICE_S))
        return None if ended() else now

    def begin(self, ended: Callable[[], bool]) -> float | None:
        """``wait``, then begin a step."""
        now = self.wait(ended)
        if now is None:
            return None
        self._begins.append(now)
        self._late.append(now - self.due_s)
        self.due_s += self.period_s
        self._mark = time.perf_counter()
        self._rows.append([])
        return now

    def section(self) -> float:
        """Seconds since the begin or the last section, on the machine's clock."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        self._rows[-1].append(seconds)
        return seconds

    def sections_before(self) -> dict[str, float]:
        """The current step's sections so far; ``log`` is the one of the step before."""
        done = dict(zip(SECTIONS, self._rows[-1], strict=False))
        logged = self._rows[-2][-1:] if len(self._rows) > 1 else []
        return done | dict(zip(SECTIONS[-1:], logged, strict=False))

    def end(self) -> None:
        """The step's work is done."""
        behind = self.clock.now() - self.due_s
        if behind > 0:
            self._missed += 1
            passed = int(behind / self.period_s)
            self._skipped += passed
            self.due_s += passed * self.period_s

    @property
    def late_s(self) -> float:
        """How late the current step began."""
        return self._late[-1]

    def report(self) -> Timing:
        """The books of complete steps."""
        rows = np.array([row for row in self._rows if len(row) == len(SECTIONS)])
        rows = rows.reshape(-1, len(SECTIONS))
        intervals = np.diff(self._begins)
        worst = int(np.argmax(rows.max(0))) if len(rows) else 0
        span = float(intervals.sum())
        return Timing(
            steps=len(self._begins),
            period_s=self.period_s,
            rate_hz=len(intervals) / span if span > 0 else 0.0,
            missed=self._missed,
            skipped=self._skipped,
            jitter=_spread(np.abs(intervals - self.period_s)),
            late=_spread(np.array(self._late)),
            work=_spread(rows.sum(1)),
            sections={n: _spread(rows[:, i]) for i, n in enumerate(SECTIONS)},
            worst=SECTIONS[worst],
            worst_step=int(np.argmax(rows[:, worst])) if len(rows) else 0,
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection, and quick changes between threads, while the loop runs."""
    was_enabled, switch_s = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _spread(seconds: np.ndarray) -> Spread:
    if not len(seconds):
        return Spread(0.0, 0.0, 0.0)
    return Spread(*map(float, (np.median(seconds), np.percentile(seconds, 99), seconds.max())))
