"""What is asked of an evaluation of points, checked before any work."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.problem import Problem
from jaxscape.training.devices import member_mesh
from jaxscape.training.objective import Split

PyTree = Any
Statistics = Literal["recalibrated", "interpolated", "kept"]

# What a result says of the running statistics (batch norm) behind its losses. The first three can be asked for.
STATISTICS = {
    "recalibrated": "running statistics measured anew at each point, on the training data",
    "interpolated": "running statistics interpolated between those of the corners",
    "kept": "running statistics of one network, kept",
    "batch": "statistics of each batch, as in training",
    "none": "a model without running statistics",
}
CHOICES = ("recalibrated", "interpolated", "kept")


class Options(TypedDict, total=False):
    """How points are evaluated: the keywords of `evaluate_points`, which says what they mean."""

    model_state: PyTree
    model_states: Sequence[PyTree] | None
    statistics: Statistics
    split: Split | None
    batch_size: int
    metrics: Sequence[str] | None
    strategy: str | None
    devices: Sequence[jax.Device] | None


def split_of(problem: Problem, split: Split | None) -> Split | None:
    """Return whose means the metrics are: "train" or "test" data, or None for what `problem.evaluate` measures."""
    return split or (None if problem.evaluate is not None else "train")


def check_weights(weights: Any, vectors: int) -> np.ndarray:
    """Return weights as float64 (points, vectors).

    Raises:
        ValueError: for another shape, or NaN and infinity.
    """
    found = np.asarray(weights, np.float64)
    if found.ndim != 2 or found.shape[1] != vectors or not np.isfinite(found).all():
        raise ValueError(f"weights must be finite numbers (points, {vectors}), got shape {found.shape}")
    return found


def checked_devices(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Return devices of this process.

    Raises:
        TypeError: for what is no sequence of devices.
        ValueError: for none, one that is named twice, or one of another process.
    """
    mesh = member_mesh(max(np.size(devices), 1), devices)
    assert mesh is not None
    return list(mesh.local_devices)


def check_states(model_state: PyTree, model_states: Any, statistics: Any, vectors: int) -> tuple[PyTree, ...]:
    """Return the model state of all points, or one for each vector.

    Raises:
        ValueError: for unknown statistics, both or too few model states, and such as differ in structure or shapes.
    """
    if statistics not in CHOICES:
        raise ValueError(f"statistics must be one of {', '.join(CHOICES)}, got {statistics!r}")
    if model_states is None:
        if statistics == "interpolated":
            raise ValueError('statistics="interpolated" needs model_states, one for each corner')
        return ({} if model_state is None else model_state,)
    if model_state is not None:
        raise ValueError("give model_state, or model_states (one for each corner), and not both")
    states = tuple(model_states)
    if len(states) != vectors:
        raise ValueError(f"model_states must be one for each of the {vectors} corners, got {len(states)}")
    shapes = [(jax.tree.structure(state), [np.shape(leaf) for leaf in jax.tree.leaves(state)]) for state in states]
    if any(each != shapes[0] for each in shapes):
        raise ValueError("model_states must have the same structure and shapes")
    return states


def resolved_statistics(problem: Problem, model_state: PyTree, statistics: str, split: str | None) -> str:
    """Return which of `STATISTICS` stand behind the metrics of a network with this model state."""
    if not any(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(model_state)):
        return "none"
    is_training = problem.predict is None and (split is not None or problem.evaluate is None)
    return "batch" if is_training else statistics


def chosen_metrics(wanted: Sequence[str] | None, names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of those metrics that are wanted, checked where names are known; None is all of them.

    Raises:
        TypeError: for one string.
        ValueError: for an unknown name (lists the known).
    """
    if isinstance(wanted, str):
        raise TypeError(f"metrics must be a sequence of names, got {wanted!r:.100}")
    if wanted is None or names is None:
        return None if names is None else tuple(names)
    for name in wanted:
        if name not in names:
            raise ValueError(f"unknown metric {name!r}; known: {', '.join(names)}")
    return tuple(wanted)
