"""PHATE: coordinates that keep the diffusion geometry of a distance matrix.

Fifth room of the journey. Moon et al., "Visualizing structure and transitions in high-dimensional biological data",
Nature Biotechnology 37 (2019). Exact, and the same every time: no landmarks unless asked for, no random start.

    affinity              an alpha-decay kernel whose bandwidth is the distance to a neighbour, made symmetric
                          (`jaxscape.embedding.graph`)
    diffusion_operator    its rows divided by their sums: the chances of a random walk's next step, P
    von_neumann_entropy   of the spectrum of P, P^2, ..., whose knee says when noise is gone
    diffuse               P^t, the chances after t steps
    potential_distances   how far apart the logarithms of the chances of two points are
    metric_mds            coordinates that keep these distances (`jaxscape.embedding.mds`)

The graph is sparse, and stays on the host (SciPy); what is dense goes to where it is fastest
(`jaxscape.embedding.dense`). All of it is float64.
"""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components

from jaxscape.embedding.arguments import check_diffusion, check_distinct, check_whole, real_array, require
from jaxscape.embedding.dense import eigenvalues, gram_of_rows, product
from jaxscape.embedding.graph import affinity_from_bandwidth, alpha_decay_kernel, bandwidths, smallest_connecting_knn
from jaxscape.embedding.mds import check_distances, metric_mds, place
from jaxscape.embedding.measures import degeneracy, describe_degeneracy, rank_correlation

# What is added to a chance before its logarithm is taken, as in the `phate` package.
FLOOR = 1e-7

# "auto" looks for the knee among that many diffusion times.
TIMES = 100

# Beyond that many points PHATE is asked to take landmarks: its matrices have 3 GB each there.
MOST_POINTS = 20_000

POTENTIAL_METRICS = ("euclidean", "cosine")

# What knn may be instead of a number.
KNN_WORDS = ("connect", "auto")

# What "auto" tries, beside the smallest that connects and half as many again; it takes the smallest of the best.
TRIED = (5, 10, 15, 20, 30, 40)
AS_GOOD = 0.01  # of rank correlation


class Trial(NamedTuple):
    """What one of the numbers of neighbours gave that knn="auto" tries."""

    knn: int
    n_connected_components: int
    t: int
    rank: float  # Spearman's correlation of the picture's distances with the given ones; NaN where nothing is drawn
    degenerate: str  # how the picture has collapsed, "" where it has not


class PhateResult(NamedTuple):
    """A PHATE embedding of n points, its stages and its diagnostics.

    With landmarks all stages are those of the landmarks alone, m instead of n points; the embedding has all n.
    """

    embedding: np.ndarray  # float64 (n, n_components); the landmarks' mean is zero
    t: int  # diffusion time: the rows of P^t are compared
    entropy: np.ndarray | None  # float64 (100,): von Neumann entropy of P^1, P^2, ...; None where t was given
    potential_distances: np.ndarray  # float64 (n, n)
    stress: float  # normalised stress of the embedding against the potential distances
    n_connected_components: int  # of the graph of non-zero affinities
    component: np.ndarray  # int (n,): the component of each point, 0 the largest; others as their nearest landmark
    degenerate: str  # how the picture has collapsed (`jaxscape.degeneracy`), "" where it has not
    connecting_knn: int  # the smallest knn, at least the one used, whose graph has one component
    warnings: tuple[str, ...]  # what a reader of the picture must know
    iterations: int  # of metric scaling
    affinity: csr_array  # float64 (n, n), symmetric
    bandwidth: np.ndarray  # float64 (n,): distance to the knn-th neighbour
    potential: np.ndarray  # float64 (n, n): minus the logarithm of P^t
    knn: int  # as used
    decay: float
    potential_metric: str
    landmarks: np.ndarray | None  # int (m,): their rows; None where all points are exact
    source: str  # a digest of the distances
    tried: tuple[Trial, ...] | None = None  # what knn="auto" tried; None where a number or "connect" was given

    @property
    def operator(self) -> csr_array:
        """P, float64 (n, n), whose rows have sum 1."""
        return diffusion_operator(self.affinity)


class _Settings(NamedTuple):
    """What is asked of `phate`."""

    n_components: int
    knn: int | str
    decay: float
    t: int | str
    potential_metric: str
    landmarks: int | None


def phate(
    distances: np.ndarray,
    *,
    n_components: int = 2,
    knn: int | str = 5,
    decay: float = 40,
    t: int | str = "auto",
    potential_metric: str = "euclidean",
    landmarks: int | None = None,
    previous: PhateResult | None = None,
) -> PhateResult:
    """Embed a distance matrix with PHATE.

    Args:
        distances: (n, n), symmetric, non-negative, zero on the diagonal, in any unit: only their ratios matter.
        n_components: dimensions of the picture.
        knn: the bandwidth of a point is the distance to its knn-th neighbour, itself not counted; "connect" takes the
            smallest number, from 5 on, whose graph has one component. "auto" tries 5, 10, 15, 20, 30, 40, that one and
            half as many again. Of those whose graph is connected and whose picture is not degenerate
            (`jaxscape.degeneracy`) it takes the smallest whose rank correlation of all distances is within 0.01 of the
            best; where none is both, of those not degenerate. All are in `PhateResult.tried`.
        decay: exponent of the kernel (2 is the Gaussian).
        t: steps of diffusion; "auto" takes the knee of the von Neumann entropy. As in the `phate` package the entropies
            of P^1, P^2, ... are counted from 0: the picture is of the power before that at the knee.
        potential_metric: how potentials are compared, "euclidean" (the paper) or "cosine" (its authors' code).
        landmarks: embed that many points, far from one another, and put the others among them with `project`. An
            approximation; None is exact.
        previous: a result for the same distances, whose stages are taken over as far as the settings are the same.

    Returns:
        A `PhateResult`. The same input gives the same bytes, with `previous` or without.

    Raises:
        ValueError: for a matrix that is no distance matrix, an argument out of range, a t so large that diffusion makes
            all points alike, a `previous` of other distances, or more than 20,000 points without landmarks.

    Warns:
        UserWarning: where the graph is disconnected (the arrangement of its components in the picture is then
            arbitrary), the layout has not converged, or the picture is degenerate.
    """
    settings = _Settings(n_components, knn, decay, t, potential_metric, landmarks)
    everything = check_distances(distances, n_components=n_components)
    _check(everything, settings)
    source = hashlib.sha256(everything.tobytes()).hexdigest()[:16]
    require(previous is None or isinstance(previous, PhateResult), "previous", "None or a result of phate", previous)
    if previous is not None and previous.source != source:
        raise ValueError("previous must be a result for the same distances, and these differ")
    chosen = farthest_points(everything, landmarks) if landmarks and landmarks < len(everything) else None
    if previous is not None and not np.array_equal(np.asarray(previous.landmarks), np.asarray(chosen)):
        previous = None  # its stages are of other points
    matrix = everything if chosen is None else everything[np.ix_(chosen, chosen)]
    embed = _embed_best if knn == "auto" else _embed
    result = embed(matrix, settings, previous)._replace(source=source)
    for note in result.warnings:
        warnings.warn(note, stacklevel=2)
    if chosen is None:
        return result
    others = np.setdiff1d(np.arange(len(everything)), chosen)
    embedding = np.empty((len(everything), n_components))
    embedding[chosen] = result.embedding
    embedding[others] = project(everything[np.ix_(others, chosen)], result)
    component = result.component[everything[:, chosen].argmin(axis=1)]
    return result._replace(embedding=embedding, component=component, landmarks=chosen)


def _embed_best(matrix: np.ndarray, settings: _Settings, previous: PhateResult | None) -> PhateResult:
    """The best of several numbers of neighbours. They are tried one after another: each has several (n, n) arrays."""
    most = len(matrix) - 2
    connecting = smallest_connecting_knn(matrix, knn=min(TRIED[0], most), decay=settings.decay)
    knns = sorted({connecting, *(knn for knn in (*TRIED, connecting * 3 // 2) if knn <= most)})
    trials = [_try(matrix, settings._replace(knn=knn), previous) for knn in knns]
    drawn = [trial for trial in trials if not np.isnan(trial.rank)]
    whole = [trial for trial in drawn if not trial.degenerate]
    # One at least connects, but its picture may be degenerate.
    choice = [trial for trial in whole if trial.n_connected_components == 1] or whole or drawn or trials
    best = max((trial.rank for trial in choice), default=0.0)
    knn = next((trial.knn for trial in choice if trial.rank >= best - AS_GOOD), choice[0].knn)
    return _embed(matrix, settings._replace(knn=knn), previous)._replace(tried=tuple(trials))


def _try(matrix: np.ndarray, settings: _Settings, previous: PhateResult | None) -> Trial:
    try:
        found = _embed(matrix, settings, previous)
    except _NothingToDrawError as error:
        return Trial(int(settings.knn), 1, error.t, np.nan, str(error))
    rank = rank_correlation(matrix, found.embedding)
    return Trial(found.knn, found.n_connected_components, found.t, rank, found.degenerate)


class _NothingToDrawError(ValueError):
    def __init__(self, t: int) -> None:
        super().__init__(f"t={t} leaves nothing to draw: diffusion has made all points alike; take a smaller t")
        self.t = t


def _embed(matrix: np.ndarray, settings: _Settings, previous: PhateResult | None) -> PhateResult:
    """All stages, but those that a previous result has."""
    n_components, knn, decay, t, metric, _ = settings
    if knn == "connect":
        knn = smallest_connecting_knn(matrix, knn=min(5, len(matrix) - 2), decay=decay)
    knn = int(knn)
    known = previous if previous is not None and (previous.knn, previous.decay) == (knn, decay) else None
    if known is not None:
        bandwidth, affinities = known.bandwidth, known.affinity
        components, component, connecting = known.n_connected_components, known.component, known.connecting_knn
    else:
        bandwidth = bandwidths(matrix, knn)
        affinities = affinity_from_bandwidth(matrix, bandwidth, decay)
        components, component = _components(affinities)
        connecting = knn if components == 1 else smallest_connecting_knn(matrix, knn=knn, decay=decay)
    entropy = None
    if t == "auto":
        entropy = known.entropy if known is not None else None
        entropy = von_neumann_entropy(affinities) if entropy is None else entropy
        t = knee(entropy)
    t = int(t)
    if known is not None and known.t == t:
        potential = known.potential
    else:
        known, potential = None, -np.log(diffuse(affinities, t) + FLOOR)
    if known is not None and known.potential_metric == metric:
        between = known.potential_distances
    else:
        between = potential_distances(potential, metric=metric)
    if between.max() < 1e-11:
        raise _NothingToDrawError(t)
    layout = metric_mds(between, n_components=n_components)
    collapsed = degeneracy(matrix, layout.embedding)
    notes = [] if components == 1 else [_disconnected(components, knn, connecting)]
    notes += [] if layout.converged else [f"metric scaling has not converged in {layout.iterations} iterations"]
    notes += [describe_degeneracy(collapsed)] if collapsed else []
    return PhateResult(
        embedding=layout.embedding,
        t=t,
        entropy=entropy,
        potential_distances=between,
        stress=layout.stress,
        n_connected_components=components,
        component=component,
        degenerate=collapsed,
        connecting_knn=connecting,
        warnings=tuple(notes),
        iterations=layout.iterations,
        affinity=affinities,
        bandwidth=bandwidth,
        potential=potential,
        knn=knn,
        decay=decay,
        potential_metric=metric,
        landmarks=None,
        source="",
    )


def _components(affinities: csr_array) -> tuple[int, np.ndarray]:
    """The number of components, and that of each point (n,): the largest first, of two alike that of the first row."""
    count, component = connected_components(affinities, directed=False)
    first = np.unique(component, return_index=True)[1]
    order = np.lexsort((first, -np.bincount(component)))
    return int(count), np.argsort(order)[component]


def diffusion_operator(affinities: csr_array) -> csr_array:
    """P (n, n): affinities divided by the sum of their row."""
    return csr_array(diags_array(1 / affinities.sum(axis=1)) @ affinities)


def von_neumann_entropy(affinities: csr_array, *, times: int = TIMES) -> np.ndarray:
    """Entropy (times,) of the singular values of P to the powers 1, 2, ..., each as shares of their sum, in nats.

    Singular values that are rounding, below about 1e-7 of the largest, count as zero.
    """
    operator = diffusion_operator(affinities)
    products = csr_array(operator @ operator.T)
    count, component = connected_components(affinities, directed=False)
    members = [np.flatnonzero(component == number) for number in range(count)]
    squares = np.concatenate([eigenvalues(products[rows][:, rows].toarray()) for rows in members])
    values = np.sqrt(np.where(squares > 1e-16 * len(squares) * squares.max(), squares, 0))
    powers = (values / values.max()) ** np.arange(1, times + 1)[:, None]
    shares = powers / powers.sum(axis=1, keepdims=True)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)


def knee(values: np.ndarray) -> int:
    """The index at which a curve (m,) bends: where two straight lines, left and right of it, fit best.

    Both are fitted by least squares and judged by the sum of absolute residuals, that at the index in both. As in the
    `phate` package the right line is fitted from one value before the index, so that two lines that meet bend one value
    late. A curve without a bend has it at 1.
    """
    bends = np.arange(1, len(values) - 1)
    left = _residuals(values, 0, bends + 1)
    right = _residuals(values[::-1], 1, len(values) - bends)
    rounding = 1e-12 * len(values) * np.abs(values).max()
    return int(bends[np.argmin(np.maximum(left + right, rounding))])


def _residuals(values: np.ndarray, more: int, counts: np.ndarray) -> np.ndarray:
    """Sums of absolute residuals of the first `counts` values from lines through the first `counts + more`."""
    at = np.arange(len(values), dtype=np.float64)
    here = np.arange(len(values)) < (counts + more)[:, None]
    number = here.sum(axis=1)
    middle, mean = (here * at).sum(axis=1) / number, (here * values).sum(axis=1) / number
    away = here * (at - middle[:, None])
    slope = (away * (values - mean[:, None])).sum(axis=1) / (away**2).sum(axis=1)
    residuals = np.abs(values - mean[:, None] - slope[:, None] * (at - middle[:, None]))
    return (residuals * (np.arange(len(values)) < counts[:, None])).sum(axis=1)


def diffuse(affinities: csr_array, t: int) -> np.ndarray:
    """P^t, float64 (n, n), every entry to about 1e-13 of itself.

    By squaring the symmetric matrix that P is similar to: it has no negative entry, so that no digit is lost.
    """
    root = np.sqrt(affinities.sum(axis=1))
    step = _dense_if_full(csr_array(diags_array(1 / root) @ affinities @ diags_array(1 / root)))
    power = step
    for bit in bin(t)[3:]:
        power = _dense_if_full(power @ power) if isinstance(power, csr_array) else gram_of_rows(power)
        if bit == "1":
            power = step @ power if isinstance(step, csr_array) else product(step, power)
    power = power.toarray() if isinstance(power, csr_array) else power
    return power * root / root[:, None]


def _dense_if_full(matrix: csr_array) -> csr_array | np.ndarray:
    """From a tenth of its entries on a matrix is faster as an array."""
    return matrix.toarray() if matrix.nnz > matrix.shape[0] ** 2 / 10 else matrix


def potential_distances(potential: np.ndarray, *, metric: str = "euclidean") -> np.ndarray:
    """Distances (n, n) between the rows of a matrix (n, k), euclidean or cosine."""
    return _distances(potential, None, metric)


def _distances(left: np.ndarray, right: np.ndarray | None, metric: str) -> np.ndarray:
    """Between the rows of two matrices, or of one."""
    if metric == "cosine":
        left = left / np.linalg.norm(left, axis=1, keepdims=True)
        right = None if right is None else right / np.linalg.norm(right, axis=1, keepdims=True)
    center = (left if right is None else right).mean(axis=0)
    left, right = left - center, None if right is None else right - center
    squared = _squared_distances(left, right)
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def _squared_distances(left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """From inner products; pairs that these leave with less than half of their digits again, from differences."""
    squared = gram_of_rows(left) if right is None else product(left, right.T)
    other = left if right is None else right
    norms = (left**2).sum(axis=1)[:, None], (other**2).sum(axis=1)
    squared *= -2
    squared += norms[0]
    squared += norms[1]
    near = np.argwhere(squared < 1e-9 * (norms[0] + norms[1]))
    if right is None:
        near = near[near[:, 0] < near[:, 1]]
        np.fill_diagonal(squared, 0)
    chunk = max(1, 2**24 // left.shape[1])
    for start in range(0, len(near), chunk):
        i, j = near[start : start + chunk].T
        squared[i, j] = ((left[i] - other[j]) ** 2).sum(axis=1)
        if right is None:
            squared[j, i] = squared[i, j]
    return np.maximum(squared, 0)


def project(new_distances: np.ndarray, result: PhateResult) -> np.ndarray:
    """Return the places of new points in a picture that stays as it is.

    A new point's first step of diffusion goes to the old points, by the kernel of the picture; the others are steps
    among these. It lies where the stress of its potential distances to the old points is least. A point at distance 0
    from an old one is that point, and lies where it lies.

    Args:
        new_distances: (m, n), from m new points to the n of the picture (to its landmarks, where it has them), in the
            unit of its distances.
        result: of `phate`.

    Returns:
        float64 (m, n_components).

    Raises:
        ValueError: for another number of columns than the picture has points, for negative numbers, NaN, infinity or
            what is no number, and for a result that is not of `phate`.
    """
    require(isinstance(result, PhateResult), "result", "what phate returns", result)
    new = real_array("new_distances", new_distances, shape="(m, n)")
    places = result.embedding if result.landmarks is None else result.embedding[result.landmarks]
    if new.shape[1] != len(places):
        raise ValueError(f"new_distances must have shape (m, {len(places)}), one row per new point, got {new.shape}")
    if new.min(initial=0) < 0:
        raise ValueError(f"new_distances must not be negative, got {new.min()}")
    bandwidth = np.partition(new, result.knn - 1, axis=1)[:, result.knn - 1, None]
    kernel = alpha_decay_kernel(new, bandwidth, result.decay) + alpha_decay_kernel(new, result.bandwidth, result.decay)
    chances = kernel / kernel.sum(axis=1, keepdims=True)
    backwards = csr_array(result.operator.T)
    for _ in range(result.t - 1):
        chances = (backwards @ chances.T).T
    target = _distances(-np.log(chances + FLOOR), result.potential, result.potential_metric)
    found = place(target, places)
    return np.where(new.min(axis=1, initial=np.inf)[:, None] == 0, places[new.argmin(axis=1)], found)


def farthest_points(distances: np.ndarray, count: int) -> np.ndarray:
    """Row numbers (count,), in order, of points far from one another: the first, then ever the farthest from those."""
    chosen, nearest = [0], distances[0]
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances[chosen[-1]])
    return np.sort(chosen)


def _check(matrix: np.ndarray, settings: _Settings) -> None:
    n_components, knn, decay, t, metric, landmarks = settings
    points = len(matrix)
    if landmarks is not None:
        check_whole("landmarks", landmarks, max(3, n_components + 1), or_else="None")
        points = min(points, landmarks)
    elif points > MOST_POINTS:
        raise ValueError(
            f"{points} points are more than the {MOST_POINTS} that are embedded exactly; name a number of landmarks, "
            "such as landmarks=5000"
        )
    check_diffusion(knn=knn, decay=decay, t=t, points=points, words=KNN_WORDS)
    if not (isinstance(metric, str) and metric in POTENTIAL_METRICS):
        raise ValueError(f"unknown potential_metric {metric!r}; known: {', '.join(POTENTIAL_METRICS)}")
    check_distinct(matrix)


def _disconnected(components: int, knn: int, connecting: int) -> str:
    return (
        f"the graph of the {knn} nearest neighbours has {components} disconnected components; their arrangement in the "
        f"picture is arbitrary. The smallest knn that connects them is {connecting}."
    )
