"""Recalibration of running statistics: those of batch norm after a pass over the whole data set at this point.

At a point between two networks, neither network's statistics fit. With the statistics of an end point, or with their
mean, the loss is that of a network that nobody would use.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import leaf_name
from jaxscape.problem import Problem, checked_loss, debiased
from jaxscape.training.objective import objective
from jaxscape.xla_cpu import compiler

PyTree = Any


def recalibration(
    problem: Problem, params: PyTree, model_state: PyTree, *, batch_size: int = 1000
) -> Callable[[PyTree, PyTree], PyTree]:
    """Return a function that recalibrates the running statistics of a network on the training data of a problem.

    In training mode a running statistic becomes m * old + (1 - m) * batch. Two runs from different starts give m, in
    any framework, and thus the statistic of each batch. The returned function takes their mean over the data, each
    batch weighted by its number of examples. The images are augmented as in training, with a fixed key.

    Args:
        problem: the problem whose `loss_fn` and `data` are used.
        params: the parameters of one network; with its model state they show which leaves are running statistics.
        model_state: the model state of that network.
        batch_size: examples per batch, if data are arrays.

    Returns:
        `(params, model_state) -> model_state` of one network, which `jax.vmap` extends to a stack. Leaves that are not
        running statistics, such as counters, are unchanged, except those of a
        bias correction (`jaxscape.problem.debiased`).

    Raises:
        ValueError: for a statistic that depends on its start in another way, or data from an iterator.
    """
    over = objective(problem, mode="train", batch_size=batch_size)
    after = _step(problem)
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if _is_float(leaf) else leaf, model_state)
    first = after(params, zeros, over.batches[0])
    # Far from 0, so that the difference of the two results is not lost in the rounding of their common part.
    away = jax.tree.map(lambda leaf, result: jnp.full_like(leaf, _beyond(result)), zeros, first)
    away = jax.tree.map(lambda leaf, far: far if _is_float(leaf) else leaf, model_state, away)
    second = after(params, away, over.batches[0])
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(model_state)]
    leaves = map(jax.tree.leaves, (away, first, second))
    momenta = [_momentum(leaf_name(path), *each) for path, *each in zip(paths, *leaves, strict=True)]
    if all(momentum is None for momentum in momenta):
        return lambda params, model_state: model_state

    def recalibrated(params: PyTree, model_state: PyTree) -> PyTree:
        start = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if _is_float(leaf) else leaf, model_state)
        parts = [jax.tree.leaves(after(params, start, batch)) for batch in over.batches]
        old, treedef = jax.tree.flatten(debiased(problem, model_state))
        new = [
            leaf if momentum is None else _mean(over.shares, values, 1 - momentum)
            for leaf, momentum, *values in zip(old, momenta, *parts, strict=True)
        ]
        return jax.tree.unflatten(treedef, new)

    return recalibrated


@lru_cache(maxsize=4)  # so that another call finds the compiled program
def _step(problem: Problem) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """Return a compiled function that gives the model state after a batch."""
    loss_fn = checked_loss(problem.loss_fn)

    def after(params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        return loss_fn(params, model_state, *batch)[1][0]

    return compiler.jit(after)


def _mean(shares: list[float], values: list[jax.Array], scale: float) -> jax.Array:
    # Python floats, which do not change the dtype of the arrays.
    return sum(((share / scale) * value for share, value in zip(shares, values, strict=True)), 0 * values[0])


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _beyond(result: Any) -> float:
    return 1 + 10 * float(np.abs(np.asarray(result, np.float64)).max(initial=0)) if _is_float(result) else 0


def _momentum(name: str, start: Any, of_zeros: Any, of_start: Any) -> float | None:
    """Return the momentum of a running statistic, or None for a leaf that is none or that the step does not change."""
    if not _is_float(start) or not np.size(start):
        return None
    slopes = (np.asarray(of_start, np.float64) - np.asarray(of_zeros, np.float64)) / np.asarray(start, np.float64)
    momentum = float(np.median(slopes))
    if not np.all(np.abs(slopes - momentum) <= 1e-3) or not -1e-3 <= momentum <= 1 + 1e-3:
        raise ValueError(
            f"the model state at {name} is not a moving average with one momentum, and cannot be recalibrated; "
            "keep the statistics as they are"
        )
    return None if momentum > 1 - 1e-6 else max(momentum, 0.0)
