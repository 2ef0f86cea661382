"""How long work takes, apart from the compilation before it: what a plan is made of."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

TURNS = 3


class Stage(NamedTuple):
    """What a stage takes."""

    name: str
    work: str
    seconds: float
    compile_seconds: float


def time_work(work: Callable[[], Any], *, turns: int = TURNS) -> tuple[float, float]:
    """Return the median of some turns, and how much longer the first one took, in which things are compiled."""
    times = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    usual = statistics.median(times[1:])
    return usual, max(times[0] - usual, 0.0)
