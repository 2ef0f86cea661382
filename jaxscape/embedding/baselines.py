"""Other embeddings of the same distances: the `phate` package, PCA, and a random plane."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.mds import check_distances, classical_mds


class Embedding(NamedTuple):
    """An embedding of n points."""

    embedding: np.ndarray  # float64 (n, n_components)
    explained: float  # share of the squared distances about the mean that the picture keeps, 0 to 1


class PackageStages(NamedTuple):
    """What the `phate` package makes of a distance matrix."""

    embedding: np.ndarray  # float64 (n, n_components)
    t: int  # as the package counts it
    entropy: np.ndarray  # float64 (100,)
    potential_distances: np.ndarray  # float64 (n, n)


def phate_package(
    distances: np.ndarray, *, n_components: int = 2, knn: int = 5, decay: float = 40, t: int | str = "auto"
) -> PackageStages:
    """The `phate` package on a precomputed matrix: no landmarks, SMACOF, silent. See `jaxscape.phate`.

    Raises:
        ValueError: where t is so large that nothing is left but rounding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package and its parts warn of things that are checked before
        import phate
        import tasklogger

        tasklogger.get_tasklogger("graphtools").logger.disabled = True
        operator = phate.PHATE(
            n_components=int(n_components),
            knn=int(knn),
            decay=decay,
            t=t,
            n_landmark=None,
            knn_dist="precomputed_distance",
            mds="metric",
            mds_solver="smacof",
            n_jobs=1,
            random_state=0,
            verbose=0,
        )
        # A copy: the package is not promised to leave the caller's matrix as it is.
        operator.fit(distances.copy())
        potential_distances = squareform(pdist(np.asarray(operator.diff_potential, np.float64)))
        if potential_distances.max() < 1e-11:
            raise ValueError(f"t={t} leaves nothing to draw: diffusion has made all points alike; take a smaller t")
        embedding = operator.transform()
        entropy = operator._von_neumann_entropy(t_max=100)[1]
    return PackageStages(
        embedding=np.asarray(embedding, np.float64),
        t=int(operator.optimal_t if t == "auto" else t),
        entropy=np.asarray(entropy, np.float64),
        potential_distances=potential_distances,
    )


def pca(distances: np.ndarray, *, n_components: int = 2) -> Embedding:
    """The principal components of points, exactly, from their euclidean distances (n, n).

    Raises:
        ValueError: for a matrix that is no distance matrix.
    """
    matrix = check_distances(distances, n_components=n_components)
    coordinates, values = classical_mds(matrix, n_components=n_components)
    return Embedding(coordinates, _explained(coordinates, values))


def random_plane(distances: np.ndarray, *, key: jax.Array, n_components: int = 2) -> Embedding:
    """Points projected on a random plane, exactly, from their euclidean distances (n, n).

    The plane is one of the n - 1 dimensions that n points can span. A plane of the whole parameter space gives the
    same kind of picture on a smaller scale, for all that it sees of the points is its projection on their span.

    Raises:
        ValueError: for a matrix that is no distance matrix.
    """
    matrix = check_distances(distances, n_components=n_components)
    coordinates, values = classical_mds(matrix, n_components=len(matrix) - 1)
    directions = jax.random.normal(key, (coordinates.shape[1], n_components))
    projected = coordinates @ np.linalg.qr(np.asarray(directions, np.float64))[0]
    return Embedding(projected, _explained(projected, values))


def _explained(coordinates: np.ndarray, values: np.ndarray) -> float:
    return float((coordinates**2).sum() / max(np.maximum(values, 0).sum(), np.finfo(float).tiny))
