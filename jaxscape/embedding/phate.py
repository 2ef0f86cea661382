"""PHATE: coordinates that keep the diffusion geometry of a distance matrix.

Fifth room of the journey. Moon et al., "Visualizing structure and transitions in high-dimensional biological data",
Nature Biotechnology 37 (2019): an alpha-decay kernel with a k-nearest-neighbour bandwidth, diffusion for t steps,
the distance of log probabilities, and metric scaling. The stages are run by the `phate` package for now
(`jaxscape.embedding.baselines.phate_package`), exact: no landmarks, and SMACOF, which does not vary with a seed.
What is ours here is the check of the input and the count of the graph's components, without which a picture of a
graph that has fallen apart looks like any other.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from jaxscape.embedding.mds import check_distances, normalized_stress

# Kernel values below this are set to zero, here as in the `phate` package.
_SMALLEST_AFFINITY = 1e-4


class PhateResult(NamedTuple):
    """A PHATE embedding of n points and its diagnostics."""

    embedding: np.ndarray  # float64 (n, n_components)
    t: int  # diffusion time
    entropy: np.ndarray  # float64 (number of t tried,): von Neumann entropy, whose knee is t where t is "auto"
    potential_distances: np.ndarray  # float64 (n, n)
    stress: float  # normalised stress of the embedding against the potential distances
    n_connected_components: int  # of the graph of non-zero affinities
    connecting_knn: int  # the smallest knn, at least the one used, whose graph has one component
    warnings: tuple[str, ...]  # what a reader of the picture must know


def phate(
    distances: np.ndarray,
    *,
    n_components: int = 2,
    knn: int = 5,
    decay: float = 40,
    t: int | str = "auto",
) -> PhateResult:
    """Embed a distance matrix with PHATE.

    Args:
        distances: (n, n), symmetric, non-negative, zero on the diagonal.
        n_components: dimensions of the picture.
        knn: the bandwidth of a point is the distance to its knn-th neighbour, itself not counted.
        decay: exponent of the kernel (2 is the Gaussian).
        t: steps of diffusion; "auto" takes the knee of the von Neumann entropy among 1 to 100.

    Returns:
        A `PhateResult`. The same input gives the same bytes.

    Raises:
        ValueError: for a matrix that is no distance matrix, a parameter out of range, or a t so large that diffusion
            makes all points alike.

    Warns:
        UserWarning: where the graph falls apart: distances between its components then mean nothing.
    """
    from jaxscape.embedding.baselines import phate_package

    matrix = check_distances(distances, n_components=n_components)
    if not (isinstance(knn, int | np.integer) and 1 <= knn <= len(matrix) - 2):
        raise ValueError(f"knn must be a whole number from 1 to n - 2 = {len(matrix) - 2}, got {knn!r}")
    if not decay > 0:
        raise ValueError(f"decay must be positive, got {decay}")
    if t != "auto" and not (isinstance(t, int | np.integer) and t >= 1):
        raise ValueError(f't must be "auto" or a whole number of at least 1, got {t!r}')
    if not matrix.any():
        raise ValueError("distances must not all be zero: all points are the same")
    components = count_components(matrix, knn=knn, decay=decay)
    connecting = knn if components == 1 else smallest_connecting_knn(matrix, knn=knn, decay=decay)
    notes = () if components == 1 else (_apart(components, knn, connecting),)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    stages = phate_package(matrix, n_components=n_components, knn=knn, decay=decay, t=t)
    return PhateResult(
        embedding=stages.embedding,
        t=stages.t,
        entropy=stages.entropy,
        potential_distances=stages.potential_distances,
        stress=normalized_stress(stages.potential_distances, stages.embedding),
        n_connected_components=components,
        connecting_knn=connecting,
        warnings=notes,
    )


def count_components(distances: np.ndarray, *, knn: int = 5, decay: float = 40) -> int:
    """Connected components of the graph that joins two points where either's affinity to the other is not zero."""
    bandwidth = np.partition(distances, knn, axis=1)[:, knn]
    reach = bandwidth * (-np.log(_SMALLEST_AFFINITY)) ** min(1 / decay, 300)  # more would overflow
    return int(connected_components(csr_array(distances <= reach[:, None]), directed=False)[0])


def smallest_connecting_knn(distances: np.ndarray, *, knn: int = 5, decay: float = 40) -> int:
    """The smallest number of neighbours, from `knn` up, whose graph has one component (more neighbours never cut)."""
    low, high = knn, len(distances) - 1
    while low < high:
        middle = (low + high) // 2
        if count_components(distances, knn=middle, decay=decay) == 1:
            high = middle
        else:
            low = middle + 1
    return low


def _apart(components: int, knn: int, connecting: int) -> str:
    return (
        f"the graph of {knn} nearest neighbours has {components} separate components; where they lie to one another "
        f"in the picture means nothing. The smallest knn that connects them is {connecting}."
    )
