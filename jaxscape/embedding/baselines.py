"""Other embeddings of the same distances: PCA, a random plane, t-SNE, UMAP, and the `phate` package."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.arguments import (
    Distances,
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

    embedding: Float64[np.ndarray, "points components"]
    # Fraction of the variance that the projection explains, 0 to 1; None for methods that are not projections.
    explained: float | None = None


class PackageStages(NamedTuple):
    """Results of the `phate` package for a distance matrix."""

    embedding: Float64[np.ndarray, "points components"]
    t: int  # diffusion time as the package counts it
    potential_distances: Float64[np.ndarray, "points points"]


def phate_package(
    distances: Distances,
    *,
    n_components: int = 2,
    knn: int = 5,
    decay: float = 40,
    t: int | str = "auto",
) -> PackageStages:
    """Return the embedding of the `phate` package: no landmarks, SMACOF, no output. See `jaxscape.phate`.

    Raises:
        ImportError: if the package, which is licensed under the GPL, is not installed.
        ValueError: for an invalid distance matrix, an argument out of range, or a t so large that only rounding error
            is left.
    """
    matrix, _ = without_unit(check_distances(distances, n_components=n_components))
    check_diffusion(knn=knn, decay=decay, t=t, points=len(matrix))
    check_distinct(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package and its dependencies warn about arguments that are checked above
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
        operator.fit(matrix)  # `matrix` is a copy: the package does not promise to leave it unchanged
        potential_distances = squareform(pdist(np.asarray(operator.diff_potential, np.float64)))
        if potential_distances.max() < 1e-11:
            raise ValueError(f"t={t} is too large: after diffusion all points are the same; use a smaller t")
        embedding = operator.transform()
    return PackageStages(
        embedding=np.asarray(embedding, np.float64),
        t=int(operator.optimal_t if t == "auto" else t),
        potential_distances=potential_distances,
    )


def pca(distances: Distances, *, n_components: int = 2) -> Embedding:
    """Return the exact principal components of points, computed from their euclidean distances (n, n).

    Raises:
        ValueError: for an invalid distance matrix.
    """
    matrix, unit = without_unit(check_distances(distances, n_components=n_components))
    coordinates, values = classical_mds(matrix, n_components=n_components)
    return Embedding(coordinates * unit, _explained(coordinates, values))


def random_plane(distances: Distances, *, key: jax.Array, n_components: int = 2) -> Embedding:
    """Return the exact random projection of points, computed from their euclidean distances (n, n).

    The random plane lies in the (n - 1)-dimensional span of the n centred points. A random plane of the whole parameter
    space gives the same kind of picture on a smaller scale, since only its projection on that span matters.

    Raises:
        ValueError: for an invalid distance matrix, or if key is not a single JAX PRNG key.
    """
    matrix, unit = without_unit(check_distances(distances, n_components=n_components))
    check_key(key)
    coordinates, values = classical_mds(matrix, n_components=len(matrix) - 1)
    directions = jax.random.normal(key, (coordinates.shape[1], n_components))
    projected = coordinates @ np.linalg.qr(np.asarray(directions, np.float64))[0]
    return Embedding(projected * unit, _explained(projected, values))


def tsne(distances: Distances, *, n_components: int = 2, perplexity: float | None = None) -> Embedding:
    """Return the t-SNE embedding by scikit-learn, initialised by classical scaling and therefore deterministic.

    van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9 (2008). Kobak and Berens (2019) recommend
    initialising with PCA.

    Args:
        distances: (n, n), of any metric, in any unit; the embedding has its own scale.
        n_components: 1 to 3, the range of scikit-learn's Barnes-Hut method.
        perplexity: roughly the number of neighbours of a point; None is 30, or a third of n - 1 if that is less.

    Raises:
        ValueError: for an invalid distance matrix, more than 3 dimensions, or a perplexity not below n.
    """
    from sklearn.manifold import TSNE

    matrix, _ = without_unit(check_distances(distances, n_components=n_components))
    if n_components > 3:
        raise ValueError(f"n_components of t-SNE must be from 1 to 3, got {n_components}")
    perplexity = min(30, (len(matrix) - 1) / 3) if perplexity is None else perplexity
    in_range = is_real(perplexity) and 0 < perplexity < len(matrix)
    require(in_range, "perplexity", f"a number above 0 and below n = {len(matrix)}", perplexity)
    start, _ = classical_mds(matrix, n_components=n_components)
    start = 1e-4 * start / max(start[:, 0].std(), np.finfo(float).tiny)
    model = TSNE(
        n_components=n_components, perplexity=perplexity, metric="precomputed", init=start, random_state=0, n_jobs=1
    )
    return Embedding(np.asarray(model.fit_transform(matrix), np.float64))


def umap(
    distances: Distances,
    *,
    n_components: int = 2,
    n_neighbors: int | None = None,
    min_dist: float = 0.1,
    seed: int = 0,
) -> Embedding:
    """Return the UMAP embedding by the `umap-learn` package.

    McInnes, Healy and Melville, arXiv:1802.03426 (2018).

    Args:
        distances: (n, n), of any metric, in any unit; the embedding has its own scale.
        n_components: dimensions of the embedding, 1 to n - 2.
        n_neighbors: neighbours of a point, including itself; None is 15, or n - 1 if that is less.
        min_dist: smallest distance between points in the embedding, 0 to 1.
        seed: seed of the package, 0 to 2^32 - 1; with a seed it uses a single thread.

    Raises:
        ImportError: if `umap-learn` is not installed.
        ValueError: for an invalid distance matrix, or an argument out of range.
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
        warnings.simplefilter("ignore")  # about threads, which a seed rules out, and about transform, which is not used
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
    """Turn a failing import of an optional package into an ImportError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this needs {error.name}, which is not installed: pip install 'jaxscape-phate[{extra}]'"
        ) from error


def _explained(coordinates: Float64[np.ndarray, "points components"], values: Float64[np.ndarray, " points"]) -> float:
    return float((coordinates**2).sum() / max(np.maximum(values, 0).sum(), np.finfo(float).tiny))
