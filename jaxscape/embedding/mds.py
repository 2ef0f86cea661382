"""Multidimensional scaling: coordinates from distances, and how well they keep them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult, minimize
from scipy.spatial.distance import pdist, squareform
from threadpoolctl import threadpool_limits

from jaxscape.embedding.arguments import check_whole, distance_matrix, picture, without_unit

_FEW = 300  # points that classical scaling gives a start to; of more, a sample does


class Layout(NamedTuple):
    """Coordinates found by metric scaling."""

    embedding: np.ndarray  # float64 (n, n_components), about their mean, along their principal axes
    stress: float  # normalised; see `normalized_stress`
    iterations: int
    converged: bool


def check_distances(distances: np.ndarray, *, n_components: int = 2) -> np.ndarray:
    """Return a distance matrix as a float64 copy (n, n), refused with a clear message where it is none.

    Raises:
        ValueError: where it is no array of real numbers, is not square, holds NaN, infinity or negative numbers, is not
            symmetric to 1e-8 of its largest entry, has a diagonal that is not zero, or is too small for `n_components`
            dimensions.
    """
    matrix = distance_matrix("distances", distances, fewest=2)
    check_whole("n_components", n_components, 1, len(matrix) - 1, most_is="n - 1")
    return np.array(matrix)


def double_center(distances: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of points about their mean, from their euclidean distances (n, n)."""
    squared = distances**2
    row = squared.mean(axis=1)
    return -(squared - row[:, None] - row + row.mean()) / 2


def classical_mds(distances: np.ndarray, *, n_components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates by Torgerson's classical scaling, and the eigenvalues that they are made of.

    Args:
        distances: (n, n), in any unit.
        n_components: number of axes.

    Returns:
        Coordinates (n, n_components): eigenvectors of the double-centred matrix times the root of their eigenvalue,
        largest first, each axis with its largest coordinate positive; and all eigenvalues (n,), largest first, in the
        squared unit, whose range may end before theirs: 0 or infinity from distances of 1e-200 or 1e200.

    Raises:
        ValueError: for a matrix that is no distance matrix, or n_components out of 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    values, vectors = np.linalg.eigh(double_center(matrix))
    values, vectors = values[::-1], vectors[:, ::-1]
    coordinates = _coordinates(values[:n_components], vectors[:, :n_components])
    with np.errstate(over="ignore"):
        return coordinates * unit, values * unit * unit


def _coordinates(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Axes of these eigenvalues, each with its largest coordinate positive."""
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors * signs * np.sqrt(np.maximum(values, 0))


def metric_mds(
    distances: np.ndarray, *, n_components: int = 2, tolerance: float = 1e-5, max_iterations: int = 1000
) -> Layout:
    """Return coordinates of least stress, sum (D - d)^2: metric scaling, by accelerated majorisation.

    The gradient of the stress is twice the number of points times the way to Guttman's transform, which never raises it
    but crawls (SMACOF; de Leeuw, "Applications of convex analysis to multidimensional scaling", 1977). Here L-BFGS goes
    that way, in several times fewer steps. It starts from a layout of a quarter of the points (and that from one
    of a quarter of these, and the smallest from classical scaling) among which the others are placed.

    Args:
        distances: D (n, n), in any unit.
        n_components: number of axes.
        tolerance: converged where five steps lower the stress by less than five times that share of it.
        max_iterations: end there in any case.

    Raises:
        ValueError: for a matrix that is no distance matrix, or n_components out of 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    # Threads of BLAS that wait for more work keep XLA's from theirs: twice the time at 1,000 points.
    with threadpool_limits(1, user_api="blas"):
        start = _coarse_layout(matrix, n_components, tolerance, max_iterations)
        return _layout(matrix, unit, start, tolerance, max_iterations)


def mds(distances: np.ndarray, *, n_components: int = 2, tolerance: float = 1e-6, max_iterations: int = 1000) -> Layout:
    """Return coordinates of least stress by metric scaling, the better of two layouts.

    The stress has many minima, and one layout may tear a trajectory that another keeps whole. One starts as that of
    `metric_mds`, the other from classical scaling of all points, which takes n^3 operations.

    Args:
        distances: (n, n), in any unit, as `jaxscape.pairwise_distances` gives them.
        n_components: number of axes.
        tolerance: converged where five steps lower the stress by less than five times that share of it.
        max_iterations: end there in any case.

    Returns:
        The layout: coordinates in the unit of the distances, about their mean, along their principal axes.

    Raises:
        ValueError: for a matrix that is no distance matrix, or n_components out of 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    with threadpool_limits(1, user_api="blas"):
        starts = [classical_mds(matrix, n_components=n_components)[0]]
        starts.append(_coarse_layout(matrix, n_components, tolerance, max_iterations))
        layouts = [_layout(matrix, unit, start, tolerance, max_iterations) for start in starts]
    return min(layouts, key=lambda layout: layout.stress)


def _layout(matrix: np.ndarray, unit: float, start: np.ndarray, tolerance: float, max_iterations: int) -> Layout:
    points, iterations, converged = minimize_stress(matrix, start, tolerance=tolerance, max_iterations=max_iterations)
    points = points - points.mean(axis=0)
    vectors, lengths, _ = np.linalg.svd(points, full_matrices=False)
    points = _coordinates(lengths**2, vectors)
    return Layout(points * unit, _stress(matrix, points), iterations, converged)


def _coarse_layout(distances: np.ndarray, n_components: int, tolerance: float, max_iterations: int) -> np.ndarray:
    """A start (n, n_components): classical scaling of few points, or few points laid out and the others among them."""
    if len(distances) <= max(_FEW, 8 * n_components):
        return classical_mds(distances, n_components=n_components)[0]
    # Any sample that is not in step with the order of the rows, the same every time.
    order = np.random.default_rng(0).permutation(len(distances))
    some, others = np.sort(order[: len(distances) // 4]), np.sort(order[len(distances) // 4 :])
    among = distances[np.ix_(some, some)]
    start = _coarse_layout(among, n_components, tolerance, max_iterations)
    points = np.empty((len(distances), n_components))
    points[some], *_ = minimize_stress(among, start, tolerance=tolerance, max_iterations=max_iterations)
    points[others] = place(distances[np.ix_(others, some)], points[some], tolerance=1e-2)
    return points


def minimize_stress(
    distances: np.ndarray, start: np.ndarray, *, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, int, bool]:
    """Coordinates (n, n_components) of a least stress near a start, the number of steps, and whether it converged."""
    total = (distances**2).sum() / 2
    if total == 0:
        return np.zeros_like(start), 0, True
    # In these units Guttman's transform is a step of length one down the gradient.
    unit = np.sqrt(total / len(distances))
    stresses = []

    def stress_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        points = flat.reshape(start.shape) * unit
        stress, image = jax.device_get(_guttman(target, points))
        return stress / total, (points - image).ravel() / unit

    def stop_when_converged(intermediate_result: OptimizeResult) -> None:
        stresses.append(intermediate_result.fun)
        if len(stresses) > 5 and stresses[-6] - stresses[-1] <= 5 * tolerance * stresses[-1] + 1e-15:
            raise StopIteration

    with jax.enable_x64(True):
        target = jnp.asarray(distances)
        found = minimize(
            stress_and_gradient,
            start.ravel() / unit,
            jac=True,
            method="L-BFGS-B",
            callback=stop_when_converged,
            options={"maxiter": max_iterations, "maxfun": 10 * max_iterations, "ftol": 0, "gtol": 1e-12},
        )
    return found.x.reshape(start.shape) * unit, int(found.nit), found.nit < max_iterations


def place(
    distances: np.ndarray, places: np.ndarray, *, tolerance: float = 1e-7, max_iterations: int = 1000
) -> np.ndarray:
    """Places (m, n_components) of new points among others that stay, by majorisation of the stress of each alone.

    Each starts at the point that is the nearest to it.

    Args:
        distances: (m, n), from the new points to the others.
        places: (n, n_components).
        tolerance: ends where no step is longer than that share of the size of the picture.
        max_iterations: ends there in any case.
    """
    size = float(np.linalg.norm(places - places.mean(axis=0), axis=1).max())
    chunk = max(1, 2**22 // len(places))  # rows at once: 32 MB
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(distances), chunk):
            target = jnp.asarray(distances[start : start + chunk])
            first = places[distances[start : start + chunk].argmin(axis=1)]
            parts.append(np.asarray(_place(target, jnp.asarray(places), first, tolerance * size, max_iterations)))
    return np.concatenate([np.empty((0, places.shape[1])), *parts])


@jax.jit
def _place(target: jax.Array, places: jax.Array, first: jax.Array, shortest: float, most: int) -> jax.Array:
    def step(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        points, count, _ = state
        kept = _distances(points, places)
        ratio = jnp.where(kept > 0, target / kept, 0)
        pull = places.sum(axis=0, keepdims=True) - ratio @ places
        new = (pull + ratio.sum(axis=1, keepdims=True) * points) / len(places)
        return new, count + 1, jnp.sqrt(((new - points) ** 2).sum(axis=1)).max()

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (state[1] < most) & (state[2] > shortest)

    return jax.lax.while_loop(unfinished, step, (first, jnp.int32(0), jnp.float64(jnp.inf)))[0]


@jax.jit
def _guttman(target: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The stress of points (n, k), and their Guttman transform."""
    kept = _distances(points, points)
    ratio = jnp.where(kept > 0, target / kept, 0)
    image = (ratio.sum(axis=1, keepdims=True) * points - ratio @ points) / len(points)
    return ((target - kept) ** 2).sum() / 2, image


def _distances(points: jax.Array, others: jax.Array) -> jax.Array:
    # From differences: products would lose the digits of near points.
    axes = range(points.shape[1])
    return jnp.sqrt(sum((points[:, None, axis] - others[None, :, axis]) ** 2 for axis in axes))


def normalized_stress(distances: np.ndarray, embedding: np.ndarray) -> float:
    """Return sqrt(sum (D - s d)^2 / sum D^2) at the best scale s; 0 is perfect, the scale of either does not matter.

    Of a picture that is one point it is 1, and of distances that are all zero it is 0: no picture is nearer to them.

    Args:
        distances: D (n, n), what should be kept.
        embedding: (n, k), whose euclidean distances are d.

    Raises:
        ValueError: for a matrix that is no distance matrix, coordinates that are not finite or of another number of
            points, and fewer than 2 points.
    """
    points = picture("embedding", embedding, fewest=2)
    matrix = distance_matrix("distances", distances, count=len(points))
    return _stress(without_unit(matrix)[0], without_unit(points)[0])


def _stress(distances: np.ndarray, embedding: np.ndarray) -> float:
    kept = squareform(pdist(embedding))
    total = (distances**2).sum()
    if total == 0:
        return 0.0
    scale = (distances * kept).sum() / max((kept**2).sum(), np.finfo(float).tiny)
    return float(np.sqrt(((distances - scale * kept) ** 2).sum() / total))
