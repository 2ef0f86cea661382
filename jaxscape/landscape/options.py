"""The options of an evaluation of points, checked before any work."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from jaxscape.problem import Problem
from jaxscape.training.devices import member_mesh
from jaxscape.training.objective import Split

PyTree = Any
Statistics = Literal["recalibrated", "interpolated", "kept"]

# Descriptions of the batch-norm running statistics with which losses were computed. The first three can be requested.
STATISTICS = {
    "recalibrated": "running statistics recalibrated at each point on the training data",
    "interpolated": "running statistics interpolated between those of the corners",
    "kept": "running statistics of one network, kept at every point",
    "batch": "statistics of each batch, as in training",
    "none": "a model without running statistics",
}
CHOICES = ("recalibrated", "interpolated", "kept")


class Options(TypedDict, total=False):
    """Options of the evaluation of points: the keyword arguments of `evaluate_points`, which documents them."""

    model_state: PyTree
    model_states: Sequence[PyTree] | None
    statistics: Statistics
    split: Split | None
    batch_size: int
    metrics: Sequence[str] | None
    strategy: str | None
    devices: Sequence[jax.Device] | None


def split_of(problem: Problem, split: Split | None) -> Split | None:
    """Return the data set over which the metrics are means, "train" or "test", or None for `problem.evaluate`."""
    return split or (None if problem.evaluate is not None else "train")


def check_weights(weights: Any, vectors: int) -> Float64[np.ndarray, "points vectors"]:
    """Return weights as float64, one row per point and one column per vector.

    Raises:
        ValueError: for another shape, NaN or infinity.
    """
    array = np.asarray(weights, np.float64)
    if array.ndim != 2 or array.shape[1] != vectors or not np.isfinite(array).all():
        raise ValueError(f"weights must be finite numbers (points, {vectors}), got shape {array.shape}")
    return array


def checked_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Return the devices, which must belong to this process.

    Raises:
        TypeError: if this is not a sequence of devices.
        ValueError: if it is empty, or a device is named twice or belongs to another process.
    """
    mesh = member_mesh(max(np.size(devices), 1), devices)
    assert mesh is not None
    return list(mesh.local_devices)


def check_states(model_state: PyTree, model_states: Any, statistics: Any, vectors: int) -> tuple[PyTree, ...]:
    """Return the one model state of all points, or the model states of the vectors.

    Raises:
        ValueError: if statistics is unknown, both arguments are given, or the model states are too few or differ in
            structure or shapes.
    """
    if statistics not in CHOICES:
        raise ValueError(f"statistics must be one of {', '.join(CHOICES)}, got {statistics!r}")
    if model_states is None:
        if statistics == "interpolated":
            raise ValueError('statistics="interpolated" needs model_states, one for each corner')
        return ({} if model_state is None else model_state,)
    if model_state is not None:
        raise ValueError("give either model_state or model_states (one for each corner), not both")
    states = tuple(model_states)
    if len(states) != vectors:
        raise ValueError(f"model_states must hold one for each of the {vectors} corners, got {len(states)}")
    shapes = [(jax.tree.structure(state), [np.shape(leaf) for leaf in jax.tree.leaves(state)]) for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("model_states must have the same structure and shapes")
    return states


def resolved_statistics(problem: Problem, model_state: PyTree, statistics: str, split: str | None) -> str:
    """Return the key of `STATISTICS` that describes the metrics of a network with this model state."""
    if not any(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(model_state)):
        return "none"
    is_training = problem.predict is None and (split is not None or problem.evaluate is None)
    return "batch" if is_training else statistics


def chosen_metrics(metrics: Sequence[str] | None, known: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of the requested metrics (None requests all), or None if the known names are not available yet.

    Raises:
        TypeError: if metrics is one string.
        ValueError: if a name is unknown (lists the known ones).
    """
    if isinstance(metrics, str):
        raise TypeError(f"metrics must be a sequence of names, got {metrics!r:.100}")
    if metrics is None or known is None:
        return None if known is None else tuple(known)
    for name in metrics:
        if name not in known:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(known)}")
    return tuple(metrics)
