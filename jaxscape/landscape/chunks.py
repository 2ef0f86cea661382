"""The rows of an evaluation in order, while others are under way: in threads, in stacks, and on several devices."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from warnings import warn

import jax
import numpy as np

from jaxscape.landscape.options import chosen_metrics
from jaxscape.problem import Metrics
from jaxscape.training.members import is_out_of_memory, num_workers, parse_evaluation

PyTree = Any
Chunk = tuple[np.ndarray, dict[str, np.ndarray]]  # int64 (rows,) and float64 (rows,) by name

AT_ONCE = 16  # points in one program where "vmap" comes without a number; fewer where these do not fit


def points_at_once(strategy: str | None, devices: Sequence[jax.Device]) -> tuple[str, int]:
    """Return a strategy's kind, and how many points run at once on each device; "threads" is "loop" on several.

    Raises:
        TypeError, ValueError: as `jaxscape.training.members.parse_strategy`.
    """
    kind, number = parse_evaluation(strategy, devices[0].platform)
    if kind == "threads" and len(devices) == 1:
        return kind, number or num_workers(kind)
    return ("vmap", number or AT_ONCE) if kind == "vmap" else ("loop", 1)


class _UnderWay(NamedTuple):
    rows: np.ndarray
    result: Future[Metrics] | Metrics  # of the one row; or [row], with what fills up the stack


def evaluate_chunks(
    ones: Sequence[Callable[[Any], Metrics]],
    places: Sequence[jax.Device | None],
    payload: Callable[[Any, Any], PyTree],
    kind: str,
    together: int,
    wanted: Sequence[str] | None,
    points: Any,
    number: int,
) -> Iterator[Chunk]:
    """Give the rows in order while others are under way: as many tasks as there are workers or devices, and one more.

    A task is one point, or a stack of `size` of them, of which the last is filled up with copies of the last point.

    Args:
        ones: on each device, what stands for a point -> its metrics.
        places: the devices; None is where jax puts things.
        payload: (points, rows) -> what stands for these points; of an int for one point.
        kind: of `EVALUATIONS`; likewise
        together: points at once, as `points_at_once` gives them.
        wanted: the metrics to give; None is all of them.
        points: what makes the points, for `payload`.
        number: of rows.
    """
    size = min(together, number) if kind == "vmap" else 1
    workers = together if kind == "threads" else 0
    wide = bool(jax.config.jax_enable_x64)  # which a thread does not know by itself
    pool = ThreadPoolExecutor(workers) if workers else None
    pending: deque[_UnderWay] = deque()

    def start(rows: np.ndarray, turn: int) -> Future[Metrics] | Metrics:
        one, device = ones[turn % len(ones)], places[turn % len(ones)]
        filled = np.append(rows, np.full(size - len(rows), rows[-1]))
        made = payload(points, filled if kind == "vmap" else int(rows[0]))
        made = made if device is None else jax.device_put(made, device)
        if kind == "vmap":
            return jax.vmap(one)(made)
        return pool.submit(in_thread, one, made) if pool else one(made)

    def in_thread(one: Callable[[Any], Metrics], made: Any) -> Metrics:
        with jax.enable_x64(wide):
            return jax.block_until_ready(one(made))

    first = done = turn = 0
    try:
        while done < number:
            try:
                while first < number and len(pending) <= max(workers, len(ones)):
                    rows = np.arange(first, min(first + size, number))
                    pending.append(_UnderWay(rows, start(rows, turn)))
                    first, turn = first + len(rows), turn + 1
                rows, result = pending.popleft()
                values = _values(result.result() if isinstance(result, Future) else result, rows, kind, wanted)
            except jax.errors.JaxRuntimeError as error:
                size = fewer_at_once(error, size)
                pending.clear()
                first = done
                continue
            done += len(rows)
            yield rows, values
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _values(found: Metrics, rows: np.ndarray, kind: str, wanted: Sequence[str] | None) -> dict[str, np.ndarray]:
    """The metrics of some rows as float64, those that are wanted alone."""
    host = jax.device_get(dict(found))
    values = {}
    for name in chosen_metrics(wanted, tuple(host)) or ():
        value = np.asarray(host[name], np.float64)
        if value.ndim != (kind == "vmap"):
            raise ValueError(f"metrics must be scalars, got shape {value.shape[kind == 'vmap' :]} at {name!r}")
        values[name] = value.reshape(-1)[: len(rows)]
    return values


def fewer_at_once(error: jax.errors.JaxRuntimeError, size: int) -> int:
    """Return how many points to go on with where so many did not fit into the device's memory, and warn.

    Raises:
        jax.errors.JaxRuntimeError: the error itself, where it is another one.
        MemoryError: where not even one point fits.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise MemoryError(
            "one point does not fit into the device's memory; a smaller batch_size takes less "
            f"({str(error).splitlines()[0]:.200})"
        ) from error
    fewer = -(-size // 2)
    message = f"{size} points at once do not fit into the device's memory; going on with {fewer}"
    warn(message, RuntimeWarning, stacklevel=4)
    return fewer
