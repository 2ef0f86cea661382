"""The graph of PHATE: which points are neighbours, how strongly, and whether the graph is connected.

Two points are joined if the alpha-decay kernel of one of them is not zero. The bandwidth of a point is the distance to
its knn-th neighbour, so the graph is disconnected if groups of points lie far from one another. Only ratios of
distances enter, so their unit does not matter.
"""

import numpy as np
from jaxtyping import Float64, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

# Affinities below this are zero, as in the `phate` package.
SMALLEST_AFFINITY = 1e-4


def affinity(
    distances: Float64[np.ndarray, "points points"], *, knn: int = 5, decay: float = 40
) -> Float64[csr_array, "points points"]:
    """Return the affinities (n, n) of points, (K + K^T) / 2, zero where both kernels are below 1e-4.

    K_ij = exp(-(d_ij / b_i)^decay), where b_i is the distance of i to its knn-th neighbour. If that is 0, only points
    at distance 0 have an affinity.
    """
    return affinity_from_bandwidth(distances, bandwidths(distances, knn), decay)


def affinity_from_bandwidth(
    distances: Float64[np.ndarray, "points points"], bandwidth: Float64[np.ndarray, " points"], decay: float
) -> Float64[csr_array, "points points"]:
    """Return the affinities (n, n) of points whose bandwidths (n,) are known."""
    rows, columns = np.nonzero(distances <= _reach(bandwidth, decay)[:, None])
    values = alpha_decay_kernel(distances[rows, columns], bandwidth[rows], decay)
    joined = csr_array((values, (rows, columns)), shape=distances.shape)
    joined.eliminate_zeros()
    return csr_array((joined + joined.T) / 2)


def smallest_connecting_knn(distances: Float64[np.ndarray, "points points"], *, knn: int = 5, decay: float = 40) -> int:
    """Return the smallest number of neighbours, from `knn` up, whose graph is connected.

    More neighbours never disconnect a graph, so every larger number connects it too.
    """
    neighbours = np.sort(distances, axis=1)
    count, component = _components(distances, neighbours[:, knn], decay)
    # The number of neighbours with which a point reaches the nearest point of another component.
    nearest = np.stack([distances[:, component == other].min(axis=1) for other in range(count)], axis=1)
    reached = _reach(neighbours, decay)
    needed = np.stack([np.searchsorted(row, to) for row, to in zip(reached, nearest, strict=True)])
    between = np.stack([needed[component == here].min(axis=0) for here in range(count)])
    np.fill_diagonal(between, 0)
    # Components join in the order of these numbers, as in Kruskal's algorithm. The number that joins the last of them
    # is the largest weight of the minimum spanning tree.
    return max(knn, int(minimum_spanning_tree(np.minimum(between, between.T)).max())) if count > 1 else knn


def _components(
    distances: Float64[np.ndarray, "points points"], bandwidth: Float64[np.ndarray, " points"], decay: float
) -> tuple[int, Int[np.ndarray, " points"]]:
    """Return the number of components, and the component (n,) of each point."""
    joined = csr_array(distances <= _reach(bandwidth, decay)[:, None])
    count, component = connected_components(joined, directed=False)
    return int(count), component


def bandwidths(distances: Float64[np.ndarray, "points points"], knn: int) -> Float64[np.ndarray, " points"]:
    """Return the distance (n,) of each point to its knn-th neighbour."""
    # Column 0 of a sorted row is the point itself.
    return np.partition(distances, knn, axis=1)[:, knn]


def _reach(bandwidth: Float64[np.ndarray, " *shape"], decay: float) -> Float64[np.ndarray, " *shape"]:
    """Return the distances up to which the kernels of these bandwidths are not zero."""
    with np.errstate(over="ignore"):
        # A larger exponent would overflow; an infinite result reaches every point.
        return bandwidth * (-np.log(SMALLEST_AFFINITY)) ** min(1 / decay, 300)


def alpha_decay_kernel(
    distances: Float64[np.ndarray, " *shape"], bandwidth: Float64[np.ndarray, "..."], decay: float
) -> Float64[np.ndarray, " *shape"]:
    """Return exp(-(d / b)^decay): 1 at distance 0, and 0 where it is below 1e-4."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = np.exp(-((distances / bandwidth) ** decay))
    values = np.where(distances == 0, 1, values)  # also where the bandwidth is 0
    return np.where(values < SMALLEST_AFFINITY, 0, values)
