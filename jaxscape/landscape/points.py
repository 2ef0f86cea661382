"""The metrics of many networks, one after the other or as a stack: what lines, planes and surfaces are made of.

A point of a plane is a weighted sum of a few networks or directions, which lie on the device once; what goes there for
each point are its weights. A point that is NaN or infinite stays one value, and the others are untouched.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import check_finite, check_parameters, check_same, count
from jaxscape.landscape.chunks import Chunk, evaluate_chunks, points_at_once
from jaxscape.landscape.options import (
    Options,
    Statistics,
    check_states,
    check_weights,
    checked_devices,
    chosen_metrics,
    resolved_statistics,
)
from jaxscape.problem import Metrics, Problem, checked_evaluate, debiased
from jaxscape.training.members import stack_members
from jaxscape.training.objective import Split, batch_metrics, mean_metrics, objective
from jaxscape.training.statistics import recalibration
from jaxscape.xla_cpu import compiler

PyTree = Any


class Evaluator(NamedTuple):
    """An evaluation that is ready to run."""

    names: tuple[str, ...] | None  # of the metrics; None where the first point tells them (see `_names`)
    statistics: str  # of `jaxscape.landscape.options.STATISTICS`
    chunks: Callable[[Any, int], Iterator[Chunk]]  # (what makes the points of some rows, how many rows)
    at_once: int  # points under way at a time, on all devices


def evaluate_points(
    problem: Problem,
    vectors: Sequence[PyTree],
    weights: np.ndarray,
    *,
    model_state: PyTree = None,
    model_states: Sequence[PyTree] | None = None,
    statistics: Statistics = "recalibrated",
    split: Split | None = None,
    batch_size: int = 1000,
    metrics: Sequence[str] | None = None,
    strategy: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[Chunk]:
    """Evaluate weighted sums of networks and directions, and give the results as they come.

    What has come may be kept, and the rest asked for another time by its own weights: each point is evaluated by
    itself, so that nothing depends on which others there are ("vmap" rounds differently in stacks of another size).

    Args:
        problem: whose metrics they are.
        vectors: pytrees like the parameters: point i is the sum of weights[i, j] * vectors[j], in the dtype of the
            first.
        weights: float (points, vectors).
        model_state: of every point, before `statistics`; nothing by default.
        model_states: in its place, one for each vector, where the vectors are networks.
        statistics: which running statistics (batch norm) a point has. "recalibrated": measured anew on the training
            data (`jaxscape.training.statistics`). "interpolated": the weighted sum of `model_states`. "kept":
            `model_state`, or the first of `model_states`. A model without running statistics has none whatever this
            says; nor do they matter where the loss is that of training, with the statistics of each batch.
        split: "train" or "test": the means of `predict` and `score` over that data set (of `loss_fn` with one key,
            where a problem has no `predict`). By default what `problem.evaluate` gives, and "train" of a problem
            without it.
        batch_size: examples a batch, of the data set and where statistics are measured.
        metrics: names of those to give; all by default.
        strategy: "loop", one point after the other; "threads", each in a thread, as many at once as there are cores,
            or "threads:4"; "vmap", so many in one program, or "vmap:8", and half as many where these do not fit into
            the device's memory. The first two give the same bytes. By default "threads" on a CPU, and "vmap" elsewhere.
        devices: share the points out; all of this process by default. "threads" is "loop" on several.

    Yields:
        Chunk after chunk in order: rows, int64, and the metrics of these rows by name, float64.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: for vectors that differ in structure or shapes, or are not finite; weights of another
            shape or not finite; unknown names of metrics, statistics, splits or strategies (lists the known); a
            statistic that cannot be measured anew; "interpolated" without a model state for each vector.
        MemoryError: where not even one point fits into the device's memory.
    """
    vectors = tuple(vectors)
    options = Options(
        model_state=model_state,
        model_states=model_states,
        statistics=statistics,
        split=split,
        batch_size=batch_size,
        metrics=metrics,
        strategy=strategy,
        devices=devices,
    )
    weights = check_weights(weights, len(vectors))
    return points_evaluator(problem, vectors, **options).chunks(weights, len(weights))


def points_evaluator(
    problem: Problem,
    vectors: Sequence[PyTree],
    *,
    model_state: PyTree = None,
    model_states: Sequence[PyTree] | None = None,
    statistics: Statistics = "recalibrated",
    **how: Any,
) -> Evaluator:
    """Return the evaluation of weighted sums, `chunks(weights, len(weights))`, and what it will give.

    Args:
        problem: as for `evaluate_points`; likewise
        vectors: networks and directions;
        model_state: of every point;
        model_states: of each vector;
        statistics: of a point; and
        how: the other options.
    """
    if not vectors:
        raise ValueError("vectors must be one pytree or more, got none")
    for number, vector in enumerate(vectors):
        check_same(f"vectors[{number}]", vector, "vectors[0]", vectors[0])
        check_finite(f"vectors[{number}]", vector)
    states = check_states(model_state, model_states, statistics, len(vectors))
    if statistics == "interpolated":
        states = tuple(debiased(problem, state) for state in states)
    weighted = _compiled_sum()

    def place_on(device: jax.Device | None) -> tuple[_Place, _StateOf]:
        here, states_here = _on(device, (vectors, states))

        def place(weights: jax.Array) -> PyTree:
            return weighted(weights, here)

        def state_of(weights: jax.Array, params: PyTree) -> PyTree:
            return weighted(weights, states_here) if statistics == "interpolated" else states_here[0]

        return place, state_of

    def payload(weights: np.ndarray, rows: np.ndarray | int) -> jax.Array:
        # float32, or float64 where x64 is on.
        return jnp.asarray(weights[rows])

    return _evaluator(problem, vectors[0], states[0], place_on, payload, statistics=statistics, **how)


def networks_evaluator(
    problem: Problem, like: PyTree, *, model_state: PyTree = None, statistics: Statistics = "recalibrated", **how: Any
) -> Evaluator:
    """Return the evaluation of networks of any kind, `chunks(network, number)` with `network(row)` their parameters.

    Args:
        problem: as for `evaluate_points`; likewise
        like: the parameters of one of the networks, or arrays of their shapes;
        model_state: of every network;
        statistics: "recalibrated" or "kept"; and
        how: the other options.
    """
    if how.pop("model_states", None) is not None:
        raise ValueError("model_states are of the corners of a plane; give one model_state for networks")
    if statistics == "interpolated":
        raise ValueError('statistics must be "recalibrated" or "kept" for networks that are no points of a plane')
    states = check_states(model_state, None, statistics, 1)

    def place_on(device: jax.Device | None) -> tuple[_Place, _StateOf]:
        (state_here,) = _on(device, states)
        return lambda params: params, lambda payload, params: state_here

    def payload(network: Callable[[int], PyTree], rows: np.ndarray | int) -> PyTree:
        if isinstance(rows, int):
            return jax.tree.map(jnp.asarray, network(rows))
        made = {row: network(row) for row in dict.fromkeys(rows.tolist())}
        return stack_members([made[row] for row in rows.tolist()])

    return _evaluator(problem, like, states[0], place_on, payload, statistics=statistics, **how)


def evaluate_networks(problem: Problem, network: Callable[[int], PyTree], number: int, **how: Any) -> Iterator[Chunk]:
    """Evaluate any networks, as `evaluate_points` does the points of a plane.

    Args:
        problem: whose metrics they are.
        network: `row -> params`, called when the turn comes, and once for row 0 before.
        number: of networks; rows go from 0 to number - 1.
        how: as for `evaluate_points`, but for "interpolated" and `model_states`.

    Yields:
        As `evaluate_points`.
    """
    count("number", number)
    return networks_evaluator(problem, network(0), **how).chunks(network, number)


_Place = Callable[[Any], PyTree]  # what stands for a point -> its parameters
_StateOf = Callable[[Any, PyTree], PyTree]  # the same, and the parameters -> its model state
_One = Callable[[Any], Metrics]  # what stands for a point -> its metrics


def _evaluator(
    problem: Problem,
    params: PyTree,
    model_state: PyTree,
    place_on: Callable[[jax.Device | None], tuple[_Place, _StateOf]],
    payload: Callable[[Any, Any], PyTree],
    *,
    statistics: Statistics,
    split: Split | None = None,
    batch_size: int = 1000,
    metrics: Sequence[str] | None = None,
    strategy: str | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Evaluator:
    check_parameters("params", params)
    count("batch_size", batch_size)
    used = jax.local_devices() if devices is None else checked_devices(devices)
    kind, together = points_at_once(strategy, used)
    found = resolved_statistics(problem, model_state, statistics, split)

    def on(device: jax.Device | None) -> tuple[_One, _Measure]:
        with jax.default_device(device):
            measure = _measure(problem, split, batch_size)
            again = (
                recalibration(problem, params, model_state, batch_size=batch_size) if found == "recalibrated" else None
            )
            place, state_of = place_on(device)

        def one(point: Any) -> Metrics:
            placed = place(point)
            state = state_of(point, placed)
            return measure.run(placed, state if again is None else again(placed, state))

        return one, measure

    # Of one device that nobody named jax need not be told: arrays stay uncommitted, as users' own are.
    places = [None] if devices is None and len(used) == 1 else used
    ready = [on(device) for device in places]
    names = _names(ready[0][1], params, model_state)
    chosen = chosen_metrics(metrics, names)
    if names is None and strategy is None and kind == "vmap":
        kind, together = "loop", 1  # what cannot be traced cannot be stacked
    ones = [one for one, _ in ready]
    return Evaluator(
        chosen, found, partial(evaluate_chunks, ones, places, payload, kind, together, metrics), together * len(places)
    )


class _Measure(NamedTuple):
    run: Callable[[PyTree, PyTree], Metrics]  # (params, model_state) -> metrics of one network, batch by batch
    traced: Callable[[PyTree, PyTree], Metrics]  # the same names, without what is compiled by itself where possible


def _measure(problem: Problem, split: Split | None, batch_size: int) -> _Measure:
    if split is None and problem.evaluate is not None:
        evaluate = checked_evaluate(problem.evaluate)
        return _Measure(evaluate, evaluate)
    over = objective(problem, split=split or "train", batch_size=batch_size)
    run = partial(mean_metrics, _compiled_metrics(problem), over)
    return _Measure(run, lambda params, model_state: over.metrics(params, model_state, over.batches[0]))


@lru_cache(maxsize=4)  # so that another line or surface of a problem finds its programs again
def _compiled_metrics(problem: Problem) -> Callable[[PyTree, PyTree, PyTree], Metrics]:
    return compiler.jit(batch_metrics(problem, "train" if problem.predict is None else "evaluate"))


@cache
def _compiled_sum() -> Callable[[jax.Array, Sequence[PyTree]], PyTree]:
    return compiler.jit(_weighted_sum)


def _names(measure: _Measure, params: PyTree, model_state: PyTree) -> tuple[str, ...] | None:
    try:
        return tuple(jax.eval_shape(measure.traced, params, model_state))
    except Exception:  # parts in NumPy, or compiled for oneDNN; what is wrong is raised again by the first point
        return None


def _weighted_sum(weights: jax.Array, trees: Sequence[PyTree]) -> PyTree:
    """The sum of weights[j] * trees[j], leaf by leaf; of a leaf that is no real number the first one.

    Products of single numbers, since a matrix product would be rounded to TF32 on some GPUs.
    """

    def of_leaf(*leaves: jax.Array) -> jax.Array:
        dtype = jnp.result_type(leaves[0])
        if not jnp.issubdtype(dtype, jnp.floating):
            return leaves[0]
        wide = jnp.promote_types(dtype, jnp.float32)
        parts = [weights[number].astype(wide) * leaf.astype(wide) for number, leaf in enumerate(leaves)]
        return sum(parts[1:], parts[0]).astype(dtype)

    return jax.tree.map(of_leaf, *trees)


def _on(device: jax.Device | None, trees: Sequence[PyTree]) -> Any:
    """Pytrees as arrays on a device, or where jax puts them."""
    return jax.tree.map(jnp.asarray, trees) if device is None else jax.device_put(trees, device)
