"""Evaluate many points in parallel (in threads, in stacks, on several devices) and yield the results in order."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from warnings import warn

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float64, Int64

from jaxscape.landscape.options import chosen_metrics
from jaxscape.training.members import is_out_of_memory, parse_evaluation

PyTree = Any
# The metrics of one point, or of a stack [row]: a user's own `evaluate` may return numbers.
Measured = Mapping[str, ArrayLike]
# The values of some metrics by name.
Values = dict[str, Float64[np.ndarray, " rows"]]
# Numbers of points, and their metrics.
Chunk = tuple[Int64[np.ndarray, " rows"], Values]

DEFAULT_STACK = 16  # points in one program for "vmap" without a number; fewer if they do not fit into memory


def points_at_once(strategy: str | None, devices: Sequence[jax.Device]) -> tuple[str, int]:
    """Return the kind of a strategy and the number of points per device at a time; "threads" is "loop" on several.

    Raises:
        TypeError, ValueError: see `jaxscape.training.members.parse_strategy`.
    """
    kind, number = parse_evaluation(strategy, devices[0].platform, stack=DEFAULT_STACK)
    return ("loop", 1) if kind == "threads" and len(devices) > 1 else (kind, number)


class _Pending(NamedTuple):
    rows: Int64[np.ndarray, " rows"]
    result: Future[Measured] | Measured  # metrics of one row, or of a padded stack [row]


def evaluate_chunks(
    evaluators: Sequence[Callable[[Any], Measured]],
    devices: Sequence[jax.Device | None],
    payload: Callable[[Any, Any], PyTree],
    kind: str,
    together: int,
    names: Sequence[str] | None,
    points: Any,
    number: int,
) -> Iterator[Chunk]:
    """Yield the results in order, with as many tasks in flight as there are workers or devices, and one more.

    A task is one point, or a stack of `size` points; the last stack is padded with copies of the last point.

    Args:
        evaluators: one function per device, from the representation of a point to its metrics.
        devices: the devices; None is jax's default placement.
        payload: (points, rows) -> the representation of these points; for an int, that of one point.
        kind: one of `EVALUATIONS`.
        together: number of points at a time, from `points_at_once`.
        names: the metrics to return; None for all.
        points: the source of the points, for `payload`.
        number: number of rows.
    """
    size = min(together, number) if kind == "vmap" else 1
    workers = together if kind == "threads" else 0
    x64 = bool(jax.config.jax_enable_x64)  # a thread-local setting that new threads do not inherit
    pool = ThreadPoolExecutor(workers) if workers else None
    pending: deque[_Pending] = deque()

    def start(rows: Int64[np.ndarray, " rows"], turn: int) -> Future[Measured] | Measured:
        evaluate, device = evaluators[turn % len(evaluators)], devices[turn % len(evaluators)]
        padded = np.append(rows, np.full(size - len(rows), rows[-1]))
        inputs = payload(points, padded if kind == "vmap" else int(rows[0]))
        inputs = inputs if device is None else jax.device_put(inputs, device)
        if kind == "vmap":
            return jax.vmap(evaluate)(inputs)
        return pool.submit(in_thread, evaluate, inputs) if pool else evaluate(inputs)

    def in_thread(evaluate: Callable[[Any], Measured], inputs: Any) -> Measured:
        with jax.enable_x64(x64):
            return jax.block_until_ready(evaluate(inputs))

    first = done = turn = 0
    try:
        while done < number:
            try:
                while first < number and len(pending) <= max(workers, len(evaluators)):
                    rows = np.arange(first, min(first + size, number))
                    pending.append(_Pending(rows, start(rows, turn)))
                    first, turn = first + len(rows), turn + 1
                rows, result = pending.popleft()
                values = _values(result.result() if isinstance(result, Future) else result, rows, kind, names)
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


def _values(metrics: Measured, rows: Int64[np.ndarray, " rows"], kind: str, names: Sequence[str] | None) -> Values:
    """Return the requested metrics of some rows."""
    host = jax.device_get(dict(metrics))
    values = {}
    for name in chosen_metrics(names, tuple(host)) or ():
        value = np.asarray(host[name], np.float64)
        if value.ndim != (kind == "vmap"):
            raise ValueError(f"metrics must be scalars, got shape {value.shape[kind == 'vmap' :]} at {name!r}")
        values[name] = value.reshape(-1)[: len(rows)]
    return values


def fewer_at_once(error: jax.errors.JaxRuntimeError, size: int) -> int:
    """Return half the number of points after an out-of-memory error on the device, and warn.

    Raises:
        jax.errors.JaxRuntimeError: the error itself, if it is of another kind.
        MemoryError: if not even one point fits.
    """
    if not is_out_of_memory(error):
        raise error
    if size == 1:
        raise MemoryError(
            "one point does not fit into the device's memory; a smaller batch_size needs less "
            f"({str(error).splitlines()[0]:.200})"
        ) from error
    fewer = -(-size // 2)
    message = f"{size} points at once do not fit into the device's memory; continuing with {fewer}"
    warn(message, RuntimeWarning, stacklevel=4)
    return fewer
