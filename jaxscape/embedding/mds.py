"""Multidimensional scaling: coordinates computed from distances, and their stress."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64, Int
from scipy.optimize import OptimizeResult, minimize
from scipy.spatial.distance import pdist, squareform
from threadpoolctl import threadpool_limits

from jaxscape.embedding.arguments import Coordinates, Distances, check_whole, distance_matrix, picture, without_unit

_FEW = 300  # up to this many points the start is classical scaling of all; above, the layout of a sample


class Layout(NamedTuple):
    """The result of metric scaling."""

    embedding: Float64[np.ndarray, "points components"]  # centred and rotated to the principal axes
    stress: float  # normalised; see `normalized_stress`
    iterations: int
    converged: bool


def check_distances(distances: Distances, *, n_components: int = 2) -> Float64[np.ndarray, "points points"]:
    """Return a checked distance matrix as a float64 copy (n, n).

    Raises:
        ValueError: if it is not an array of real numbers, is not square, holds NaN, infinity or negative numbers, is
            not symmetric to 1e-8 of its largest entry, has a non-zero diagonal, or is too small for `n_components`
            dimensions.
    """
    matrix = distance_matrix("distances", distances, fewest=2)
    check_whole("n_components", n_components, 1, len(matrix) - 1, most_is="n - 1")
    return np.array(matrix)


def double_center(distances: Float64[np.ndarray, "points points"]) -> Float64[np.ndarray, "points points"]:
    """Return the inner products (n, n) of centred points, from their euclidean distances (n, n)."""
    squared = distances**2
    row = squared.mean(axis=1)
    return -(squared - row[:, None] - row + row.mean()) / 2


def classical_mds(
    distances: Distances, *, n_components: int = 2
) -> tuple[Float64[np.ndarray, "points components"], Float64[np.ndarray, " points"]]:
    """Return coordinates by Torgerson's classical scaling, and the eigenvalues of the double-centred matrix.

    Args:
        distances: (n, n), in any unit.
        n_components: number of axes.

    Returns:
        Coordinates (n, n_components): eigenvectors of the double-centred matrix times the square root of their
        eigenvalue, largest first, each axis signed so that its largest coordinate is positive; and all eigenvalues
        (n,), largest first, in the squared unit of the distances. Eigenvalues may underflow to 0 or overflow to
        infinity, as for distances of 1e-200 or 1e200.

    Raises:
        ValueError: for an invalid distance matrix, or n_components outside 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    values, vectors = np.linalg.eigh(double_center(matrix))
    values, vectors = values[::-1], vectors[:, ::-1]
    coordinates = _coordinates(values[:n_components], vectors[:, :n_components])
    with np.errstate(over="ignore"):
        return coordinates * unit, values * unit * unit


def _coordinates(
    values: Float64[np.ndarray, " components"], vectors: Float64[np.ndarray, "points components"]
) -> Float64[np.ndarray, "points components"]:
    """Scale eigenvectors by the square roots of their eigenvalues, and make the largest coordinate of each positive."""
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors * signs * np.sqrt(np.maximum(values, 0))


def metric_mds(
    distances: Distances,
    *,
    n_components: int = 2,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> Layout:
    """Return coordinates that minimise the stress, sum (D - d)^2: metric scaling by L-BFGS.

    SMACOF (de Leeuw, "Applications of convex analysis to multidimensional scaling", 1977) iterates Guttman's transform,
    which never increases the stress but converges slowly. The gradient of the stress is 2n times the step to Guttman's
    transform, so L-BFGS with this scaling needs several times fewer steps. It starts from the layout of a quarter of
    the points, among which the others are placed. That layout starts from a quarter of those, and so on; the smallest
    starts from classical scaling.

    Args:
        distances: D (n, n), in any unit.
        n_components: number of axes.
        tolerance: converged if five steps reduce the stress by less than five times this fraction of it.
        max_iterations: largest number of iterations.

    Raises:
        ValueError: for an invalid distance matrix, or n_components outside 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    # Idle BLAS threads spin and compete with XLA's threads: twice the time at 1,000 points.
    with threadpool_limits(1, user_api="blas"):
        start = _coarse_layout(matrix, n_components, tolerance, max_iterations)
        return _layout(matrix, unit, start, tolerance, max_iterations)


def mds(
    distances: Distances,
    *,
    n_components: int = 2,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> Layout:
    """Return coordinates that minimise the stress by metric scaling, the better of two layouts.

    The stress has many local minima, and one layout may break a trajectory that another keeps whole. One layout starts
    like that of `metric_mds`, the other from classical scaling of all points, which takes O(n^3) operations.

    Args:
        distances: (n, n), in any unit, for example from `jaxscape.pairwise_distances`.
        n_components: number of axes.
        tolerance: converged if five steps reduce the stress by less than five times this fraction of it.
        max_iterations: largest number of iterations.

    Returns:
        The layout, with coordinates in the unit of the distances, centred and rotated to their principal axes.

    Raises:
        ValueError: for an invalid distance matrix, or n_components outside 1 to n.
    """
    matrix, unit = without_unit(distance_matrix("distances", distances))
    check_whole("n_components", n_components, 1, len(matrix), most_is="n")
    with threadpool_limits(1, user_api="blas"):
        starts = [classical_mds(matrix, n_components=n_components)[0]]
        starts.append(_coarse_layout(matrix, n_components, tolerance, max_iterations))
        layouts = [_layout(matrix, unit, start, tolerance, max_iterations) for start in starts]
    return min(layouts, key=lambda layout: layout.stress)


def _layout(
    matrix: Float64[np.ndarray, "points points"],
    unit: float,
    start: Float64[np.ndarray, "points components"],
    tolerance: float,
    max_iterations: int,
) -> Layout:
    points, iterations, converged = minimize_stress(matrix, start, tolerance=tolerance, max_iterations=max_iterations)
    points = points - points.mean(axis=0)
    vectors, lengths, _ = np.linalg.svd(points, full_matrices=False)
    points = _coordinates(lengths**2, vectors)
    return Layout(points * unit, _stress(matrix, points), iterations, converged)


def _coarse_layout(
    distances: Float64[np.ndarray, "points points"], n_components: int, tolerance: float, max_iterations: int
) -> Float64[np.ndarray, "points components"]:
    """Return a start (n, k): classical scaling, or for many points the layout of a sample with the rest placed."""
    if len(distances) <= max(_FEW, 8 * n_components):
        return classical_mds(distances, n_components=n_components)[0]
    # A random sample with a fixed seed: deterministic, and not aligned with the order of the rows.
    order = np.random.default_rng(0).permutation(len(distances))
    sample, others = np.sort(order[: len(distances) // 4]), np.sort(order[len(distances) // 4 :])
    within = distances[np.ix_(sample, sample)]
    start = _coarse_layout(within, n_components, tolerance, max_iterations)
    points = np.empty((len(distances), n_components))
    points[sample], *_ = minimize_stress(within, start, tolerance=tolerance, max_iterations=max_iterations)
    points[others] = place(distances[np.ix_(others, sample)], points[sample], tolerance=1e-2)
    return points


def minimize_stress(
    distances: Float64[np.ndarray, "points points"],
    start: Float64[np.ndarray, "points components"],
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float64[np.ndarray, "points components"], int, bool]:
    """Return coordinates (n, k) at a local minimum of the stress, the number of steps, and whether it converged."""
    total = (distances**2).sum() / 2
    if total == 0:
        return np.zeros_like(start), 0, True
    # In these units Guttman's transform is a gradient step with step size one.
    unit = np.sqrt(total / len(distances))
    stresses = []

    def stress_and_gradient(
        flat: Float64[np.ndarray, " coordinates"],
    ) -> tuple[float, Float64[np.ndarray, " coordinates"]]:
        points = flat.reshape(start.shape) * unit
        stress, image = jax.device_get(_guttman(target, points))
        return stress / total, (points - image).ravel() / unit

    def stop_when_converged(intermediate_result: OptimizeResult) -> None:
        stresses.append(intermediate_result.fun)
        if len(stresses) > 5 and stresses[-6] - stresses[-1] <= 5 * tolerance * stresses[-1] + 1e-15:
            raise StopIteration

    with jax.enable_x64(True):
        target = jnp.asarray(distances)
        result = minimize(
            stress_and_gradient,
            start.ravel() / unit,
            jac=True,
            method="L-BFGS-B",
            callback=stop_when_converged,
            options={"maxiter": max_iterations, "maxfun": 10 * max_iterations, "ftol": 0, "gtol": 1e-12},
        )
    return result.x.reshape(start.shape) * unit, int(result.nit), result.nit < max_iterations


def place(
    distances: Float64[np.ndarray, "new points"],
    places: Float64[np.ndarray, "points components"],
    *,
    tolerance: float = 1e-7,
    max_iterations: int = 1000,
) -> Float64[np.ndarray, "new components"]:
    """Return coordinates (m, n_components) of new points among fixed ones, minimising the stress of each new point.

    Each new point starts at its nearest fixed point and moves by majorisation.

    Args:
        distances: (m, n), from the new points to the fixed ones.
        places: (n, n_components), coordinates of the fixed points.
        tolerance: converged if no step is longer than this fraction of the size of the layout.
        max_iterations: largest number of iterations.
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


# Coordinates, the number of steps so far, and the length of the longest step.
_Step = tuple[Float64[Array, "new components"], Int[Array, ""], Float64[Array, ""]]


@jax.jit
def _place(
    target: Float64[Array, "new points"],
    places: Float64[Array, "points components"],
    first: Float64[Array, "new components"],
    shortest: float | Float64[Array, ""],
    most: int | Int[Array, ""],
) -> Float64[Array, "new components"]:
    def step(state: _Step) -> _Step:
        points, count, _ = state
        current = _distances(points, places)
        ratio = jnp.where(current > 0, target / current, 0)
        pull = places.sum(axis=0, keepdims=True) - ratio @ places
        new = (pull + ratio.sum(axis=1, keepdims=True) * points) / len(places)
        return new, count + 1, jnp.sqrt(((new - points) ** 2).sum(axis=1)).max()

    def unfinished(state: _Step) -> Bool[Array, ""]:
        return (state[1] < most) & (state[2] > shortest)

    return jax.lax.while_loop(unfinished, step, (first, jnp.int32(0), jnp.float64(jnp.inf)))[0]


@jax.jit
def _guttman(
    target: Float64[Array, "points points"], points: Float64[Array, "points components"]
) -> tuple[Float64[Array, ""], Float64[Array, "points components"]]:
    """Return the stress of points (n, k), and their Guttman transform."""
    current = _distances(points, points)
    ratio = jnp.where(current > 0, target / current, 0)
    image = (ratio.sum(axis=1, keepdims=True) * points - ratio @ points) / len(points)
    return ((target - current) ** 2).sum() / 2, image


def _distances(
    points: Float64[Array, "points components"], others: Float64[Array, "others components"]
) -> Float64[Array, "points others"]:
    # From differences of coordinates: inner products would lose the digits of nearby points.
    axes = range(points.shape[1])
    return jnp.sqrt(sum((points[:, None, axis] - others[None, :, axis]) ** 2 for axis in axes))


def normalized_stress(distances: Distances, embedding: Coordinates) -> float:
    """Return the normalised stress sqrt(sum (D - s d)^2 / sum D^2) at the best scale s; 0 is perfect.

    It does not depend on the scale of either. It is 1 for an embedding that is a single point, and 0 if all distances
    are zero.

    Args:
        distances: D (n, n), the target distances.
        embedding: (n, k), coordinates with euclidean distances d.

    Raises:
        ValueError: for an invalid distance matrix, coordinates that are not finite or of another number of points, or
            fewer than 2 points.
    """
    points = picture("embedding", embedding, fewest=2)
    matrix = distance_matrix("distances", distances, count=len(points))
    return _stress(without_unit(matrix)[0], without_unit(points)[0])


def _stress(
    distances: Float64[np.ndarray, "points points"], embedding: Float64[np.ndarray, "points components"]
) -> float:
    embedded = squareform(pdist(embedding))
    total = (distances**2).sum()
    if total == 0:
        return 0.0
    scale = (distances * embedded).sum() / max((embedded**2).sum(), np.finfo(float).tiny)
    return float(np.sqrt(((distances - scale * embedded) ** 2).sum() / total))
