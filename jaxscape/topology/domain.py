"""The domain of a loss: a k-nearest-neighbour graph of points, or a line or a grid of samples.

Only the order of the losses matters: points are ranked by value, and equal values by index. All results are therefore
deterministic, and the same for a * values + b with a > 0.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from jaxscape.arguments import whole_number

KNN = 5
_ASYMMETRY = 1e-8  # tolerance for symmetry, relative to the largest distance


class NeighbourGraph(NamedTuple):
    """A graph that joins points to their nearest neighbours."""

    edges: Int64[np.ndarray, "edges 2"]  # pairs of points, the lower index first, in ascending order
    component: Int64[np.ndarray, " points"]  # connected component of each point, from 0 in the order of points
    components: int
    knn: int


class Domain(NamedTuple):
    """Losses and their domain; points outside every sublevel set have no edges."""

    values: Float64[np.ndarray, " points"]  # a grid in row-major order
    rank: Int64[np.ndarray, " points"]  # rank of each point in ascending order; excluded points come last
    included: Bool[np.ndarray, " points"]  # whether a point is in some sublevel set
    edges: Int64[np.ndarray, "edges 2"]  # neighbours among the included points
    shape: tuple[int, ...] | None  # of a line or a grid, None for a graph
    components: int
    knn: int | None


def neighbour_graph(distances: Any, *, knn: int = KNN) -> NeighbourGraph:
    """Return the graph in which two points are joined if one of them is among the knn nearest neighbours of the other.

    The nearest points are those with the SMALLEST distances; of equal distances the lower index comes first. A point is
    not its own neighbour, but other points at distance 0 are.

    Args:
        distances: (n, n) numbers, symmetric, 0 on the diagonal; n is at least 2.
        knn: neighbours of each point, from 1 to n - 1.

    Returns:
        The graph. If it is disconnected, groups of points are farther from each other than their nearest neighbours.

    Raises:
        TypeError: if knn is not a whole number.
        ValueError: for an invalid distance matrix, or knn out of range.
    """
    matrix = _distance_matrix(distances)
    points = len(matrix)
    if not 1 <= whole_number("knn", knn) <= points - 1:
        raise ValueError(f"knn must be from 1 to n - 1 = {points - 1}, got {knn}")
    np.fill_diagonal(matrix, np.inf)
    nearest = np.argsort(matrix, axis=1, kind="stable")[:, :knn]
    pairs = np.stack([np.repeat(np.arange(points), knn), nearest.ravel()], axis=1)
    edges = np.unique(np.sort(pairs, axis=1), axis=0)
    count, component = _components(points, edges)
    return NeighbourGraph(edges=edges, component=component, components=count, knn=int(knn))


def domain(values: Any, distances: Any = None, *, knn: int | None = None) -> Domain:
    """Return losses with their neighbours, given by distances or by a line or a grid of samples.

    Args:
        values: (n,) losses if distances are given; otherwise (n,) on a line, or (rows, columns) on a grid, where each
            point has up to four neighbours.
        distances: (n, n); see `neighbour_graph`.
        knn: neighbours of each point, 5 by default; None without distances.

    Raises:
        TypeError: if knn is not a whole number.
        ValueError: for NaN or infinite values if distances are given, minus infinity anywhere, a line or a grid without
            a finite value, or shapes that do not match.
    """
    array = _numbers("values", values)
    if distances is None:
        return _sampled(array, knn)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"values must have shape (n,) with n of at least 2 if distances are given, {_got(array)}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"values must be finite if distances are given, got {len(bad)} NaN or infinite ones, the first at index "
            f"{bad[0]}; remove these points"
        )
    graph = neighbour_graph(distances, knn=KNN if knn is None else knn)
    if len(graph.component) != len(array):
        raise ValueError(f"distances must have shape {(len(array),) * 2}, as there are values, {_got(graph.component)}")
    included = np.ones(len(array), bool)
    return Domain(array, ranks(array), included, graph.edges, None, graph.components, graph.knn)


def ranks(values: Float64[np.ndarray, " points"]) -> Int64[np.ndarray, " points"]:
    """Return the rank of each value in ascending order; of equal values the lower index comes first."""
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank


def _sampled(array: Float64[np.ndarray, "..."], knn: int | None) -> Domain:
    if knn is not None:
        raise ValueError(f"knn must be None without distances, got {knn}")
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"values must have shape (n,) or (rows, columns) without distances, {_got(array)}")
    if np.isneginf(array).any():
        raise ValueError("values must not be minus infinity, which is below every level")
    flat = np.where(np.isfinite(array), array, np.inf).ravel()
    included = np.isfinite(flat)
    if not included.any():
        raise ValueError("values must have at least one finite value, got only NaN or infinity")
    index = np.arange(array.size).reshape(array.shape)
    steps = [(index[:-1], index[1:])] + ([(index[:, :-1], index[:, 1:])] if array.ndim == 2 else [])
    edges = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1) for one, other in steps])
    edges = edges[included[edges].all(axis=1)]
    count, component = _components(len(flat), edges)
    components = len(np.unique(component[included])) if count else 0
    return Domain(flat, ranks(flat), included, edges, array.shape, components, None)


def _components(points: int, edges: Int64[np.ndarray, "edges 2"]) -> tuple[int, Int64[np.ndarray, " points"]]:
    """Return the number of connected components, and that of each point."""
    joined = csr_array(coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(points, points)))
    count, component = connected_components(joined, directed=False)
    return int(count), component.astype(np.int64)


def _distance_matrix(distances: Any) -> Float64[np.ndarray, "points points"]:
    """Return a checked and symmetrised copy of the distances."""
    matrix = _numbers("distances", distances)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"distances must have shape (n, n) with n of at least 2, {_got(matrix)}")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise ValueError(f"distances must be finite, but {len(bad)} rows hold NaN or infinity, first row {bad[0]}")
    if matrix.min() < 0:
        raise ValueError(f"distances must not be negative, got {matrix.min():g}")
    if np.abs(matrix - matrix.T).max() > _ASYMMETRY * matrix.max():
        raise ValueError("distances must be symmetric")
    if np.diag(matrix).any():
        raise ValueError("distances must be 0 on the diagonal")
    return (matrix + matrix.T) / 2


def _numbers(name: str, values: Any) -> Float64[np.ndarray, "..."]:
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must have no masked entries, got {np.ma.count_masked(values)}")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # ragged rows, JAX keys
        raise ValueError(f"{name} must be an array of numbers, got {type(values).__name__}") from None
    try:
        converted = array.astype(np.float64) if array.dtype.kind not in "bcmMOSU" else None
    except (TypeError, ValueError):
        converted = None
    if converted is None:
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return converted


def _got(array: Shaped[np.ndarray, "..."]) -> str:
    return f"got shape {array.shape}"
