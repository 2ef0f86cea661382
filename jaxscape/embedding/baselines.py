"""Other embeddings of the same distances: PCA, a random plane, t-SNE, UMAP, and the `phate` package."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.arguments import (
    check_diffusion,
    check_distinct,
    check_key,
    check_whole,
    is_real,
    require,
    without_unit,
)
from jaxscape.embedding.mds import check_distances, classical_mds


class Embedding(NamedTuple):
    """An embedding of n points."""

    embedding: np.ndarray  # float64 (n, n_components)
    # Share of the squared distances about the mean that the picture keeps, 0 to 1; None where it is no projection.
    explained: float | None = None


class PackageStages(NamedTuple):
    """What the `phate` package makes of a distance matrix."""

    embedding: np.ndarray  # float64 (n, n_components)
    t: int  # as the package counts it
    potential_distances: np.ndarray  # float64 (n, n)


def phate_package(
    distances: np.ndarray, *, n_components: int = 2, knn: int = 5, decay: float = 40, t: int | str = "auto"
) -> PackageStages:
    """Return what the `phate` package makes of a matrix: no landmarks, SMACOF, silent. See `jaxscape.phate`.

    Raises:
        ImportError: where the package is not installed (it has a licence of its own, the GPL).
        ValueError: for a matrix that is no distance matrix, an argument out of range, and where t is so large that
            nothing is left but rounding.
    """
    matrix, _ = without_unit(check_distances(distances, n_components=n_components))
    check_diffusion(knn=knn, decay=decay, t=t, points=len(matrix))
    check_distinct(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package and its parts warn of things that are checked before
        with _installed_by("phate"):
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
        operator.fit(matrix)  # a copy already: the package is not promised to leave it as it is
        potential_distances = squareform(pdist(np.asarray(operator.diff_potential, np.float64)))
        if potential_distances.max() < 1e-11:
            raise ValueError(f"t={t} leaves nothing to draw: diffusion has made all points alike; take a smaller t")
        embedding = operator.transform()
    return PackageStages(
        embedding=np.asarray(embedding, np.float64),
        t=int(operator.optimal_t if t == "auto" else t),
        potential_distances=potential_distances,
    )


def pca(distances: np.ndarray, *, n_components: int = 2) -> Embedding:
    """Return the principal components of points, exactly, from their euclidean distances (n, n).

    Raises:
        ValueError: for a matrix that is no distance matrix.
    """
    matrix, unit = without_unit(check_distances(distances, n_components=n_components))
    coordinates, values = classical_mds(matrix, n_components=n_components)
    return Embedding(coordinates * unit, _explained(coordinates, values))


def random_plane(distances: np.ndarray, *, key: jax.Array, n_components: int = 2) -> Embedding:
    """Return points projected on a random plane, exactly, from their euclidean distances (n, n).

    The plane is one of the n - 1 dimensions that n points can span. A plane of the whole parameter space gives the
    same kind of picture on a smaller scale, for all that it sees of the points is its projection on their span.

    Raises:
        ValueError: for a matrix that is no distance matrix, and for a key that is not one key of jax.
    """
    matrix, unit = without_unit(check_distances(distances, n_components=n_components))
    check_key(key)
    coordinates, values = classical_mds(matrix, n_components=len(matrix) - 1)
    directions = jax.random.normal(key, (coordinates.shape[1], n_components))
    projected = coordinates @ np.linalg.qr(np.asarray(directions, np.float64))[0]
    return Embedding(projected * unit, _explained(projected, values))


def tsne(distances: np.ndarray, *, n_components: int = 2, perplexity: float | None = None) -> Embedding:
    """Return the picture of t-SNE by scikit-learn, which starts from classical scaling, so that nothing is random.

    van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9 (2008). A start by PCA is what its users are told
    to take (Kobak and Berens 2019).

    Args:
        distances: (n, n), of any metric, in any unit; the picture has a scale of its own.
        n_components: 1 to 3, which scikit-learn's fast method has a way for.
        perplexity: about the number of neighbours that a point has; None is 30, and a third of n where that is less.

    Raises:
        ValueError: for a matrix that is no distance matrix, more than 3 dimensions, or a perplexity not below n.
    """
    from sklearn.manifold import TSNE

    matrix, _ = without_unit(check_distances(distances, n_components=n_components))
    if n_components > 3:
        raise ValueError(f"n_components of t-SNE must be from 1 to 3, got {n_components}")
    perplexity = min(30, (len(matrix) - 1) / 3) if perplexity is None else perplexity
    in_range = is_real(perplexity) and 0 < perplexity < len(matrix)
    require(in_range, "perplexity", f"a number over 0 and below n = {len(matrix)}", perplexity)
    start, _ = classical_mds(matrix, n_components=n_components)
    start = 1e-4 * start / max(start[:, 0].std(), np.finfo(float).tiny)
    model = TSNE(
        n_components=n_components, perplexity=perplexity, metric="precomputed", init=start, random_state=0, n_jobs=1
    )
    return Embedding(np.asarray(model.fit_transform(matrix), np.float64))


def umap(
    distances: np.ndarray,
    *,
    n_components: int = 2,
    n_neighbors: int | None = None,
    min_dist: float = 0.1,
    seed: int = 0,
) -> Embedding:
    """Return the picture of UMAP by the `umap-learn` package.

    McInnes, Healy and Melville, arXiv:1802.03426 (2018).

    Args:
        distances: (n, n), of any metric, in any unit; the picture has a scale of its own.
        n_components: dimensions of the picture, 1 to n - 2.
        n_neighbors: neighbours of a point, itself counted; None is 15, and n - 1 where that is less.
        min_dist: how near points may lie to one another in the picture, 0 to 1.
        seed: of the package, which uses a single thread with it, 0 to 2^32 - 1.

    Raises:
        ImportError: where `umap-learn` is not installed.
        ValueError: for a matrix that is no distance matrix, or an argument out of range.
    """
    matrix, _ = without_unit(check_distances(distances, n_components=n_components))
    if len(matrix) < 3:
        raise ValueError(f"UMAP needs at least 3 points, got {len(matrix)}")
    check_whole("n_components", n_components, 1, len(matrix) - 2, most_is="n - 2")
    n_neighbors = min(15, len(matrix) - 1) if n_neighbors is None else n_neighbors
    check_whole("n_neighbors", n_neighbors, 2, len(matrix) - 1, most_is="n - 1", or_else="None")
    require(is_real(min_dist) and 0 <= min_dist <= 1, "min_dist", "a number from 0 to 1", min_dist)
    check_whole("seed", seed, 0, 2**32 - 1, most_is="2^32 - 1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a seed excludes, and of a transform that is not asked for
        with _installed_by("umap"):
            from umap import UMAP
        model = UMAP(
            n_components=n_components,
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            metric="precomputed",
            random_state=seed,
            n_jobs=1,
        )
        return Embedding(np.asarray(model.fit_transform(matrix), np.float64))


@contextmanager
def _installed_by(extra: str) -> Iterator[None]:
    """Say what to install where an import inside fails: of packages that not everybody has."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this needs {error.name}, which is not installed: pip install 'jaxscape-phate[{extra}]'"
        ) from error


def _explained(coordinates: np.ndarray, values: np.ndarray) -> float:
    return float((coordinates**2).sum() / max(np.maximum(values, 0).sum(), np.finfo(float).tiny))
