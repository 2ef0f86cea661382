"""Timing of work apart from its compilation, for plans."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

TURNS = 3


class Stage(NamedTuple):
    """The estimated time of a stage."""

    name: str
    work: str
    seconds: float
    compile_seconds: float


def time_work(work: Callable[[], Any], *, turns: int = TURNS) -> tuple[float, float]:
    """Return the median seconds of some repetitions, and the extra seconds of the first, which include compilation."""
    times = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    median = statistics.median(times[1:])
    return median, max(times[0] - median, 0.0)
