"""What the benchmarks share: rates of a blocking call, compile seconds, memory."""

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

SAMPLE_S, SLOW_S = 0.3, 2.0


class Program(NamedTuple):
    """A compiled function with its arguments, and what compiling it cost.

    Attributes:
      call: runs it once and waits.
      compile_s: seconds of tracing and compiling.
      memory_mb: arguments, results and temporaries of one call, by XLA's own account.
    """

    call: Callable[[], None]
    compile_s: float
    memory_mb: float


def repeated(function: Callable, *args) -> Program:
    """Every call computes ``function(*args)``."""
    compiled, seconds, megabytes = _compile(function, args, donate=())
    return Program(lambda: jax.block_until_ready(compiled(*args)), seconds, megabytes)


def advancing(function: Callable, state) -> Program:
    """Every call replaces the state by ``function(state)``."""
    compiled, seconds, megabytes = _compile(function, (state,), donate=(0,))

    def call():
        nonlocal state
        state = jax.block_until_ready(compiled(state))

    return Program(call, seconds, megabytes)


def random_actions(
    step: Callable,
    state,
    action_size: int,
    actions: int,
    begin: Callable = lambda state, key: state,
) -> Program:
    """A batch of environments under uniform actions in [-1, 1]; ``begin`` precedes each call."""
    shape = (*state.done.shape, action_size)

    def unroll(carry):
        state, key = carry
        key, key_begin, key_act = jax.random.split(key, 3)

        def act(state, key):
            return step(state, jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)), None

        state = begin(state, key_begin)
        return jax.lax.scan(act, state, jax.random.split(key_act, actions))[0], key

    return advancing(unroll, (state, jax.random.key(1)))


def _compile(function: Callable, args: tuple, donate: tuple[int, ...]):
    start = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=donate).lower(*args).compile()
    seconds = time.perf_counter() - start
    use = compiled.memory_analysis()
    size = use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes
    return compiled, seconds, (size - use.alias_size_in_bytes) / 1e6


def rate(call: Callable[[], None], steps: int, repeats: int) -> dict:
    """Steps per second of a blocking call after a first one: median, extremes, count.

    Short calls are repeated until a sample lasts ``SAMPLE_S``; of calls longer than
    ``SLOW_S`` three samples are enough.
    """
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    inner, rates = max(math.ceil(SAMPLE_S / once), 1), []
    for _ in range(min(repeats, 3) if once > SLOW_S else repeats):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        rates.append(inner * steps / (time.perf_counter() - start))
    return spread(rates)


def spread(samples: Sequence[float]) -> dict:
    """Median, extremes and count of samples."""
    return {
        "median": float(np.median(samples)),
        "min": float(min(samples)),
        "max": float(max(samples)),
        "repeats": len(samples),
    }


def peak_memory_mb() -> dict[str, float]:
    """Peak of this process so far, and of the accelerator where it keeps count."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        peak["device"] = stats["peak_bytes_in_use"] / 1e6
    return peak
