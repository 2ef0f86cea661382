"""Evaluate the metrics of many networks, one at a time or as a stack, for lines, planes and surfaces.

A point of a plane is a weighted sum of a few networks or directions. These are copied to the device once; only the
weights of each point are transferred. A NaN or infinite point does not affect the others.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int64, Num
from numpy.typing import ArrayLike

from jaxscape.arguments import check_finite, check_parameters, check_same, count
from jaxscape.landscape.chunks import Chunk, Measured, evaluate_chunks, points_at_once
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
from jaxscape.training.objective import (
    Objective,
    Split,
    batch_metrics,
    default_mode,
    mean_metrics,
    objective,
    warn_of_fixed_key,
)
from jaxscape.training.statistics import recalibration
from jaxscape.xla_cpu import compiler

PyTree = Any


class Evaluator(NamedTuple):
    """A prepared evaluation."""

    names: tuple[str, ...] | None  # of the metrics; None if they are only known after the first point (see `_names`)
    statistics: str  # a key of `jaxscape.landscape.options.STATISTICS`
    chunks: Callable[[Any, int], Iterator[Chunk]]  # function of (source of the points, number of rows)
    at_once: int  # number of points evaluated at a time, on all devices together


def evaluate_points(
    problem: Problem,
    vectors: Sequence[PyTree],
    weights: ArrayLike,
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
    """Evaluate weighted sums of networks and directions, and yield the results as they become available.

    Each point is evaluated independently of the others, so results can be stored and the remaining points evaluated
    later from their own weights ("vmap" rounds differently for stacks of different sizes).

    Args:
        problem: the problem whose metrics are evaluated.
        vectors: pytrees like the parameters: point i is the sum of weights[i, j] * vectors[j], in the dtype of the
            first vector.
        weights: numbers (points, vectors).
        model_state: the model state of every point, before `statistics` is applied; empty by default.
        model_states: one model state per vector instead, if the vectors are networks.
        statistics: the batch-norm running statistics of each point. "recalibrated": measured at this point on the
            training data (`jaxscape.training.statistics`). "interpolated": the weighted sum of `model_states`. "kept":
            `model_state`, or the first of `model_states`. This has no effect on models without running statistics, or
            if the loss is that of training, which uses the statistics of each batch.
        split: "train" or "test": the means of `predict` and `score` over that data set (or of `loss_fn` with a fixed
            key, if a problem has no `predict`). By default the result of `problem.evaluate`, or "train" if the problem
            has none.
        batch_size: examples per batch, for the metrics and for the statistics.
        metrics: names of the metrics to return; all by default.
        strategy: "loop" evaluates one point after the other; "threads" one per thread, with as many threads as cores,
            or four with "threads:4"; "vmap" 16 in one program, or eight with "vmap:8", and half as many if they do not
            fit into the device's memory. "loop" and "threads" are bitwise equal. By default "threads" on a CPU and
            "vmap" elsewhere.
        devices: devices over which the points are distributed; by default all of this process. "threads" is "loop" on
            several devices.

    Yields:
        Chunks in order: int64 [row], the numbers of some points, and their metrics by name, float64 [row].

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: if vectors differ in structure or shapes or are not finite; if weights have another shape or are not
            finite; if a name of a metric, statistics, split or strategy is unknown (lists the known ones); if
            statistics cannot be recalibrated; or if "interpolated" lacks a model state for each vector.
        MemoryError: if not even one point fits into the device's memory.
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
    checked = check_weights(weights, len(vectors))
    return points_evaluator(problem, vectors, **options).chunks(checked, len(checked))


def points_evaluator(
    problem: Problem,
    vectors: Sequence[PyTree],
    *,
    model_state: PyTree = None,
    model_states: Sequence[PyTree] | None = None,
    statistics: Statistics = "recalibrated",
    **options: Any,
) -> Evaluator:
    """Return a prepared evaluation of weighted sums; call `chunks(weights, len(weights))` on it.

    Args:
        problem: see `evaluate_points`.
        vectors: networks and directions; see `evaluate_points`.
        model_state: see `evaluate_points`.
        model_states: see `evaluate_points`.
        statistics: see `evaluate_points`.
        options: the other options of `evaluate_points`.
    """
    if not vectors:
        raise ValueError("vectors must be one pytree or more, got none")
    vectors = [problem.split_model(vector)[0] for vector in vectors]
    for number, vector in enumerate(vectors):
        check_same(f"vectors[{number}]", vector, "vectors[0]", vectors[0])
        check_finite(f"vectors[{number}]", vector)
    given = check_states(model_state, model_states, statistics, len(vectors))
    states = tuple(problem.split_model(vectors[0], state)[1] for state in given)
    if statistics == "interpolated":
        states = tuple(debiased(problem, state) for state in states)
    weighted_sum = _compiled_sum()

    def on_device(device: jax.Device | None) -> tuple[_ParamsOf, _StateOf]:
        device_vectors, device_states = _put(device, (vectors, states))

        def params_of(weights: Float[Array, " vectors"]) -> PyTree:
            return weighted_sum(weights, device_vectors)

        def state_of(weights: Float[Array, " vectors"], params: PyTree) -> PyTree:
            return weighted_sum(weights, device_states) if statistics == "interpolated" else device_states[0]

        return params_of, state_of

    def payload(
        weights: Float64[np.ndarray, "points vectors"], rows: Int64[np.ndarray, " rows"] | int
    ) -> Float[Array, "*rows vectors"]:
        # float32, or float64 in x64 mode.
        return jnp.asarray(weights[rows])

    return _evaluator(problem, vectors[0], states[0], on_device, payload, statistics=statistics, **options)


def networks_evaluator(
    problem: Problem,
    like: PyTree,
    *,
    model_state: PyTree = None,
    statistics: Statistics = "recalibrated",
    **options: Any,
) -> Evaluator:
    """Return a prepared evaluation of arbitrary networks; call `chunks(network, number)` with `network(row) -> params`.

    Args:
        problem: see `evaluate_points`.
        like: the parameters of one of the networks, or arrays of the same shapes.
        model_state: the model state of every network.
        statistics: "recalibrated" or "kept".
        options: the other options of `evaluate_points`.
    """
    if options.pop("model_states", None) is not None:
        raise ValueError("model_states belong to the corners of a plane; give one model_state for networks")
    if statistics == "interpolated":
        raise ValueError('statistics must be "recalibrated" or "kept" for networks that are not points of a plane')
    states = check_states(model_state, None, statistics, 1)

    def on_device(device: jax.Device | None) -> tuple[_ParamsOf, _StateOf]:
        (device_state,) = _put(device, states)
        return lambda params: params, lambda payload, params: device_state

    def payload(network: Callable[[int], PyTree], rows: Int64[np.ndarray, " rows"] | int) -> PyTree:
        if isinstance(rows, int):
            return jax.tree.map(jnp.asarray, network(rows))
        networks = {row: network(row) for row in dict.fromkeys(rows.tolist())}
        return stack_members([networks[row] for row in rows.tolist()])

    return _evaluator(problem, like, states[0], on_device, payload, statistics=statistics, **options)


def evaluate_networks(
    problem: Problem, network: Callable[[int], PyTree], number: int, **options: Any
) -> Iterator[Chunk]:
    """Evaluate arbitrary networks, as `evaluate_points` evaluates the points of a plane.

    Args:
        problem: the problem whose metrics are evaluated.
        network: `row -> params`; called for row 0 at the start, and then for each row when it is needed.
        number: number of networks; rows go from 0 to number - 1.
        options: see `evaluate_points`, except for "interpolated" and `model_states`.

    Yields:
        Chunks in order; see `evaluate_points`.
    """
    count("number", number)
    return networks_evaluator(problem, network(0), **options).chunks(network, number)


_ParamsOf = Callable[[Any], PyTree]  # payload of a point -> its parameters
_StateOf = Callable[[Any, PyTree], PyTree]  # payload of a point, its parameters -> its model state
_One = Callable[[Any], Measured]  # payload of a point -> its metrics


def _evaluator(
    problem: Problem,
    params: PyTree,
    model_state: PyTree,
    on_device: Callable[[jax.Device | None], tuple[_ParamsOf, _StateOf]],
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
    resolved = resolved_statistics(problem, model_state, statistics, split)

    def prepare(device: jax.Device | None) -> tuple[_One, _Measure]:
        with jax.default_device(device):
            measure = _measure(problem, split, batch_size)
            if measure.over is not None and device in (None, used[0]):
                warn_of_fixed_key(problem, measure.over, params, model_state)
            recalibrate = (
                recalibration(problem, params, model_state, batch_size=batch_size)
                if resolved == "recalibrated"
                else None
            )
            params_of, state_of = on_device(device)

        def one(point: Any) -> Measured:
            network = params_of(point)
            state = state_of(point, network)
            return measure.run(network, state if recalibrate is None else recalibrate(network, state))

        return one, measure

    # With a single default device nothing is committed to it, so that users' own uncommitted arrays mix with ours.
    targets = [None] if devices is None and len(used) == 1 else used
    prepared = [prepare(device) for device in targets]
    names = _names(prepared[0][1], params, model_state)
    chosen = chosen_metrics(metrics, names)
    if names is None and strategy is None and kind == "vmap":
        kind, together = "loop", 1  # an evaluation that cannot be traced cannot be vmapped
    evaluators = [one for one, _ in prepared]
    chunks = partial(evaluate_chunks, evaluators, targets, payload, kind, together, metrics)
    return Evaluator(chosen, resolved, chunks, together * len(targets))


class _Measure(NamedTuple):
    run: Callable[[PyTree, PyTree], Measured]  # (params, model_state) -> metrics of one network, batch by batch
    traced: Callable[[PyTree, PyTree], Measured]  # gives the same names, without separately compiled parts if possible
    over: Objective | None = None  # the data set and its loss; None for `problem.evaluate`


def _measure(problem: Problem, split: Split | None, batch_size: int) -> _Measure:
    if split is None and problem.evaluate is not None:
        evaluate = checked_evaluate(problem.evaluate)
        return _Measure(evaluate, evaluate)
    over = objective(problem, split=split or "train", batch_size=batch_size)
    run = partial(mean_metrics, _compiled_metrics(problem), over)
    return _Measure(run, lambda params, model_state: over.metrics(params, model_state, over.batches[0]), over)


@lru_cache(maxsize=4)  # so that the next line or surface of a problem reuses its compiled programs
def _compiled_metrics(problem: Problem) -> Callable[[PyTree, PyTree, PyTree], Metrics]:
    return compiler.jit(batch_metrics(problem, default_mode(problem)))


@cache
def _compiled_sum() -> Callable[[Float[Array, " vectors"], Sequence[PyTree]], PyTree]:
    return compiler.jit(_weighted_sum)


def _names(measure: _Measure, params: PyTree, model_state: PyTree) -> tuple[str, ...] | None:
    try:
        return tuple(jax.eval_shape(measure.traced, params, model_state))
    except Exception:  # parts in NumPy, or compiled for oneDNN; real errors are raised again by the first point
        return None


def _weighted_sum(weights: Float[Array, " vectors"], trees: Sequence[PyTree]) -> PyTree:
    """Return the sum of weights[j] * trees[j], leaf by leaf; non-floating leaves are taken from the first tree.

    Scalar products are used because a matrix product would be rounded to TF32 on some GPUs.
    """

    def of_leaf(*leaves: Num[Array, "*axes"]) -> Num[Array, "*axes"]:
        dtype = jnp.result_type(leaves[0])
        if not jnp.issubdtype(dtype, jnp.floating):
            return leaves[0]
        promoted = jnp.promote_types(dtype, jnp.float32)
        parts = [weights[number].astype(promoted) * leaf.astype(promoted) for number, leaf in enumerate(leaves)]
        return sum(parts[1:], parts[0]).astype(dtype)

    return jax.tree.map(of_leaf, *trees)


def _put(device: jax.Device | None, trees: Sequence[PyTree]) -> Any:
    """Return pytrees as arrays on a device, or on jax's default device if it is None."""
    return jax.tree.map(jnp.asarray, trees) if device is None else jax.device_put(trees, device)
