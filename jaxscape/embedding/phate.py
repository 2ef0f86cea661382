"""PHATE: coordinates that preserve the diffusion geometry of a distance matrix.

Moon et al., "Visualizing structure and transitions in high-dimensional biological data", Nature Biotechnology 37
(2019). Exact and deterministic: no landmarks by default, no random start.

    affinity              alpha-decay kernel whose bandwidth is the distance to a neighbour, symmetrised
                          (`jaxscape.embedding.graph`)
    diffusion_operator    P: rows divided by their sums, the transition probabilities of a random walk
    von_neumann_entropy   entropy of the spectrum of P, P^2, ..., whose knee gives the diffusion time t
    diffuse               P^t, the transition probabilities of t steps
    potential_distances   distances between the logarithms of two points' transition probabilities
    metric_mds            coordinates that preserve these distances (`jaxscape.embedding.mds`)

The sparse graph stays on the host (SciPy); dense matrices go where they are fastest (`jaxscape.embedding.dense`). All
computations are in float64.
"""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float64, Int, Real
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components

from jaxscape.embedding.arguments import Distances, check_diffusion, check_distinct, check_whole, real_array, require
from jaxscape.embedding.dense import eigenvalues, gram_of_rows, product
from jaxscape.embedding.graph import affinity_from_bandwidth, alpha_decay_kernel, bandwidths, smallest_connecting_knn
from jaxscape.embedding.mds import check_distances, metric_mds, place
from jaxscape.embedding.measures import degeneracy, describe_degeneracy, rank_correlation

# Added to transition probabilities before the logarithm, as in the `phate` package.
FLOOR = 1e-7

# t="auto" looks for the knee among this many diffusion times.
TIMES = 100

# Above this number of points landmarks are required: each of the (n, n) matrices has 3 GB there.
MOST_POINTS = 20_000

POTENTIAL_METRICS = ("euclidean", "cosine")

# Strings that knn may be instead of a number.
KNN_WORDS = ("connect", "auto")

# knn="auto" tries these, the smallest number that connects the graph, and 1.5 times that number.
TRIED = (5, 10, 15, 20, 30, 40)
AS_GOOD = 0.01  # it takes the smallest knn whose rank correlation is within this margin of the best


class Trial(NamedTuple):
    """The result of one of the numbers of neighbours that knn="auto" tries."""

    knn: int
    n_connected_components: int
    t: int
    rank: float  # Spearman's correlation of embedded distances with the given ones; NaN if there is no embedding
    degenerate: str  # how the embedding has collapsed, "" if it has not


class PhateResult(NamedTuple):
    """A PHATE embedding of n points, its stages and its diagnostics.

    With landmarks all stages are those of the m landmarks alone; the embedding has all n points.
    """

    embedding: Float64[np.ndarray, "points components"]  # the mean of the landmarks is zero
    t: int  # diffusion time: the rows of P^t are compared
    entropy: Float64[np.ndarray, " times"] | None  # von Neumann entropy of P^1, P^2, ...; None if t was given
    potential_distances: Float64[np.ndarray, "landmarks landmarks"]
    stress: float  # normalised stress of the embedding against the potential distances
    n_connected_components: int  # of the graph of non-zero affinities
    component: Int[np.ndarray, " points"]  # component of each point (with landmarks, of the nearest one), 0 the largest
    degenerate: str  # how the embedding has collapsed (`jaxscape.degeneracy`), "" if it has not
    connecting_knn: int  # the smallest knn, at least the one used, whose graph is connected
    warnings: tuple[str, ...]  # what a reader of the figure must know
    iterations: int  # of metric scaling
    affinity: Float64[csr_array, "landmarks landmarks"]  # symmetric
    bandwidth: Float64[np.ndarray, " landmarks"]  # distance to the knn-th neighbour
    potential: Float64[np.ndarray, "landmarks landmarks"]  # minus the logarithm of P^t
    knn: int  # the number that was used
    decay: float
    potential_metric: str
    landmarks: Int[np.ndarray, " landmarks"] | None  # rows of the landmarks; None if there are none
    source: str  # a digest of the distances
    tried: tuple[Trial, ...] | None = None  # the trials of knn="auto"; None if a number or "connect" was given

    @property
    def operator(self) -> Float64[csr_array, "landmarks landmarks"]:
        """Return the diffusion operator P, float64 (n, n), whose rows sum to 1."""
        return diffusion_operator(self.affinity)


class _Settings(NamedTuple):
    """The settings of `phate`."""

    n_components: int
    knn: int | str
    decay: float
    t: int | str
    potential_metric: str
    landmarks: int | None


def phate(
    distances: Distances,
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
        n_components: dimensions of the embedding.
        knn: the bandwidth of a point is the distance to its knn-th neighbour, not counting itself. "connect" takes the
            smallest number, from 5 up, whose graph is connected. "auto" tries 5, 10, 15, 20, 30, 40, that number, and
            1.5 times that number. Among those whose graph is connected and whose embedding is not degenerate
            (`jaxscape.degeneracy`), it takes the smallest whose rank correlation of all distances is within 0.01 of the
            best. If there are none, it chooses among those that are not degenerate. All trials are in
            `PhateResult.tried`.
        decay: exponent of the kernel (2 is the Gaussian).
        t: diffusion time; "auto" takes the knee of the von Neumann entropy. As in the `phate` package, the entropies of
            P^1, P^2, ... are indexed from 0, so the embedding uses the power before the one at the knee.
        potential_metric: metric between potentials, "euclidean" (the paper) or "cosine" (its authors' code).
        landmarks: embed this many points, chosen far from one another, and place the others with `project`. This is an
            approximation; None is exact.
        previous: a result for the same distances, whose stages are reused as far as the settings agree.

    Returns:
        A `PhateResult`. The same input gives the same bytes, with or without `previous`.

    Raises:
        ValueError: for an invalid distance matrix, an argument out of range, a t so large that diffusion makes all
            points the same, a `previous` of other distances, or more than 20,000 points without landmarks.

    Warns:
        UserWarning: if the graph is disconnected (the arrangement of its components is then arbitrary), the layout has
            not converged, or the embedding is degenerate.
    """
    settings = _Settings(n_components, knn, decay, t, potential_metric, landmarks)
    all_distances = check_distances(distances, n_components=n_components)
    _check(all_distances, settings)
    source = hashlib.sha256(all_distances.tobytes()).hexdigest()[:16]
    require(previous is None or isinstance(previous, PhateResult), "previous", "None or a result of phate", previous)
    if previous is not None and previous.source != source:
        raise ValueError("previous must be a result for the same distances, and these differ")
    chosen = farthest_points(all_distances, landmarks) if landmarks and landmarks < len(all_distances) else None
    if previous is not None and not np.array_equal(np.asarray(previous.landmarks), np.asarray(chosen)):
        previous = None  # its stages belong to other points
    matrix = all_distances if chosen is None else all_distances[np.ix_(chosen, chosen)]
    embed = _embed_best if knn == "auto" else _embed
    result = embed(matrix, settings, previous)._replace(source=source)
    for note in result.warnings:
        warnings.warn(note, stacklevel=2)
    if chosen is None:
        return result
    others = np.setdiff1d(np.arange(len(all_distances)), chosen)
    embedding = np.empty((len(all_distances), n_components))
    embedding[chosen] = result.embedding
    embedding[others] = project(all_distances[np.ix_(others, chosen)], result)
    component = result.component[all_distances[:, chosen].argmin(axis=1)]
    return result._replace(embedding=embedding, component=component, landmarks=chosen)


def _embed_best(
    matrix: Float64[np.ndarray, "points points"], settings: _Settings, previous: PhateResult | None
) -> PhateResult:
    """Return the result for the best of several numbers of neighbours.

    They are tried one after another, since each needs several (n, n) arrays.
    """
    most = len(matrix) - 2
    connecting = smallest_connecting_knn(matrix, knn=min(TRIED[0], most), decay=settings.decay)
    knns = sorted({connecting, *(knn for knn in (*TRIED, connecting * 3 // 2) if knn <= most)})
    trials = [_try(matrix, settings._replace(knn=knn), previous) for knn in knns]
    embedded = [trial for trial in trials if not np.isnan(trial.rank)]
    sound = [trial for trial in embedded if not trial.degenerate]
    # At least one number connects the graph, but its embedding may be degenerate.
    candidates = [trial for trial in sound if trial.n_connected_components == 1] or sound or embedded or trials
    best = max((trial.rank for trial in candidates), default=0.0)
    knn = next((trial.knn for trial in candidates if trial.rank >= best - AS_GOOD), candidates[0].knn)
    return _embed(matrix, settings._replace(knn=knn), previous)._replace(tried=tuple(trials))


def _try(matrix: Float64[np.ndarray, "points points"], settings: _Settings, previous: PhateResult | None) -> Trial:
    try:
        result = _embed(matrix, settings, previous)
    except _TooMuchDiffusionError as error:
        return Trial(int(settings.knn), 1, error.t, np.nan, str(error))
    rank = rank_correlation(matrix, result.embedding)
    return Trial(result.knn, result.n_connected_components, result.t, rank, result.degenerate)


class _TooMuchDiffusionError(ValueError):
    def __init__(self, t: int) -> None:
        super().__init__(f"t={t} is too large: after diffusion all points are the same; use a smaller t")
        self.t = t


def _embed(
    matrix: Float64[np.ndarray, "points points"], settings: _Settings, previous: PhateResult | None
) -> PhateResult:
    """Compute all stages, except those that can be reused from a previous result."""
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
        raise _TooMuchDiffusionError(t)
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


def _components(affinities: Float64[csr_array, "points points"]) -> tuple[int, Int[np.ndarray, " points"]]:
    """Return the number of components, and the component (n,) of each point.

    Components are numbered from the largest; of two with the same size the one with the first row comes first.
    """
    count, component = connected_components(affinities, directed=False)
    first = np.unique(component, return_index=True)[1]
    order = np.lexsort((first, -np.bincount(component)))
    return int(count), np.argsort(order)[component]


def diffusion_operator(affinities: Float64[csr_array, "points points"]) -> Float64[csr_array, "points points"]:
    """Return P (n, n): affinities divided by the sums of their rows."""
    return csr_array(diags_array(1 / affinities.sum(axis=1)) @ affinities)


def von_neumann_entropy(
    affinities: Float64[csr_array, "points points"], *, times: int = TIMES
) -> Float64[np.ndarray, " times"]:
    """Return the entropy (times,), in nats, of the normalised singular values of P to the powers 1, 2, ...

    Singular values below about 1e-7 of the largest are rounding error and count as zero.
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


def knee(values: Float64[np.ndarray, " times"]) -> int:
    """Return the index of the knee of a curve (m,): where two straight lines, left and right of it, fit best.

    Both are fitted by least squares and judged by the sum of absolute residuals; the value at the index counts in both.
    As in the `phate` package, the right line is fitted from one value before the index, so that the knee of two lines
    that meet is found one value late. A straight line has its knee at 1.
    """
    bends = np.arange(1, len(values) - 1)
    left = _residuals(values, 0, bends + 1)
    right = _residuals(values[::-1], 1, len(values) - bends)
    rounding = 1e-12 * len(values) * np.abs(values).max()
    return int(bends[np.argmin(np.maximum(left + right, rounding))])


def _residuals(
    values: Float64[np.ndarray, " times"], more: int, counts: Int[np.ndarray, " bends"]
) -> Float64[np.ndarray, " bends"]:
    """Return sums of absolute residuals of the first `counts` values from lines through the first `counts + more`."""
    x = np.arange(len(values), dtype=np.float64)
    fitted = np.arange(len(values)) < (counts + more)[:, None]
    number = fitted.sum(axis=1)
    mean_x, mean = (fitted * x).sum(axis=1) / number, (fitted * values).sum(axis=1) / number
    centred = fitted * (x - mean_x[:, None])
    slope = (centred * (values - mean[:, None])).sum(axis=1) / (centred**2).sum(axis=1)
    residuals = np.abs(values - mean[:, None] - slope[:, None] * (x - mean_x[:, None]))
    return (residuals * (np.arange(len(values)) < counts[:, None])).sum(axis=1)


def diffuse(affinities: Float64[csr_array, "points points"], t: int) -> Float64[np.ndarray, "points points"]:
    """Return P^t, float64 (n, n), with a relative error of about 1e-13 in every entry.

    Computed by repeated squaring of the symmetric matrix similar to P. It has no negative entries, so nothing cancels.
    """
    root = np.sqrt(affinities.sum(axis=1))
    step = _dense_if_full(csr_array(diags_array(1 / root) @ affinities @ diags_array(1 / root)))
    power = step
    for bit in bin(t)[3:]:  # the binary digits of t after the leading 1: square, and multiply where the digit is 1
        power = _dense_if_full(power @ power) if isinstance(power, csr_array) else gram_of_rows(power)
        if bit == "1":
            power = step @ power if isinstance(step, csr_array) else product(step, power)
    power = power.toarray() if isinstance(power, csr_array) else power
    return power * root / root[:, None]


def _dense_if_full(
    matrix: Float64[csr_array, "points points"],
) -> Float64[csr_array, "points points"] | Float64[np.ndarray, "points points"]:
    """Return a dense array if more than a tenth of the entries are not zero, since products are faster then."""
    return matrix.toarray() if matrix.nnz > matrix.shape[0] ** 2 / 10 else matrix


def potential_distances(
    potential: Float64[np.ndarray, "points features"], *, metric: str = "euclidean"
) -> Float64[np.ndarray, "points points"]:
    """Return the distances (n, n) between the rows of a matrix (n, k), euclidean or cosine."""
    return _distances(potential, None, metric)


def _distances(
    left: Float64[np.ndarray, "rows features"], right: Float64[np.ndarray, "others features"] | None, metric: str
) -> Float64[np.ndarray, "rows others"]:
    """Return the distances between the rows of two matrices, or of one if `right` is None."""
    if metric == "cosine":
        left = left / np.linalg.norm(left, axis=1, keepdims=True)
        right = None if right is None else right / np.linalg.norm(right, axis=1, keepdims=True)
    center = (left if right is None else right).mean(axis=0)
    left, right = left - center, None if right is None else right - center
    squared = _squared_distances(left, right)
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def _squared_distances(
    left: Float64[np.ndarray, "rows features"], right: Float64[np.ndarray, "others features"] | None
) -> Float64[np.ndarray, "rows others"]:
    """Compute squared distances from inner products, and those of near pairs, which would lose digits, directly."""
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


def project(
    new_distances: Real[np.ndarray | Array, "new points"], result: PhateResult
) -> Float64[np.ndarray, "new components"]:
    """Return the coordinates of new points in an existing embedding, which does not change.

    The first diffusion step of a new point leads to the old points, by the kernel of the embedding; the other steps
    stay among the old points. The point is placed where the stress of its potential distances to the old points is
    smallest. A point at distance 0 from an old one gets the coordinates of that point.

    Args:
        new_distances: (m, n), from m new points to the n embedded ones (the landmarks, if there are any), in the unit
            of the embedded distances.
        result: the result of `phate`.

    Returns:
        float64 (m, n_components).

    Raises:
        ValueError: if the number of columns is not the number of embedded points, an entry is negative, NaN, infinite
            or not a number, or result does not come from `phate`.
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
    probabilities = kernel / kernel.sum(axis=1, keepdims=True)
    transposed = csr_array(result.operator.T)
    for _ in range(result.t - 1):
        probabilities = (transposed @ probabilities.T).T
    target = _distances(-np.log(probabilities + FLOOR), result.potential, result.potential_metric)
    placed = place(target, places)
    return np.where(new.min(axis=1, initial=np.inf)[:, None] == 0, places[new.argmin(axis=1)], placed)


def farthest_points(distances: Float64[np.ndarray, "points points"], count: int) -> Int[np.ndarray, " landmarks"]:
    """Return the sorted row numbers (count,) of points far from one another: farthest-point sampling from row 0."""
    chosen, nearest = [0], distances[0]
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances[chosen[-1]])
    return np.sort(chosen)


def _check(matrix: Float64[np.ndarray, "points points"], settings: _Settings) -> None:
    n_components, knn, decay, t, metric, landmarks = settings
    points = len(matrix)
    if landmarks is not None:
        check_whole("landmarks", landmarks, max(3, n_components + 1), or_else="None")
        points = min(points, landmarks)
    elif points > MOST_POINTS:
        raise ValueError(
            f"{points} points are more than the {MOST_POINTS} that can be embedded exactly; give a number of "
            "landmarks, such as landmarks=5000"
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
