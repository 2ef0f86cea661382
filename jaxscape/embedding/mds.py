"""Multidimensional scaling: coordinates from distances, and how well they keep them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import pdist, squareform

_MEMORY = 8  # steps that the acceleration of SMACOF remembers


class Layout(NamedTuple):
    """Coordinates found by majorisation."""

    embedding: np.ndarray  # float64 (n, n_components), about their mean, along their principal axes
    stress: float  # normalised; see `normalized_stress`
    iterations: int
    converged: bool


def check_distances(distances: np.ndarray, *, n_components: int = 2) -> np.ndarray:
    """A distance matrix as float64 (n, n), refused with a clear message where it is none.

    Raises:
        ValueError: where it is not square, holds NaN, infinity or negative numbers, is not symmetric to 1e-8 of its
            largest entry, has a diagonal that is not zero, or is too small for `n_components` dimensions.
    """
    matrix = np.array(distances, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"distances must be a square matrix (n, n), got shape {matrix.shape}")
    if not (isinstance(n_components, int | np.integer) and 1 <= n_components < len(matrix)):
        raise ValueError(
            f"n_components must be a whole number from 1 to n - 1 = {len(matrix) - 1}, got {n_components!r}"
        )
    if not np.isfinite(matrix).all():
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise ValueError(f"distances must be finite, but {len(rows)} rows hold NaN or infinity, first row {rows[0]}")
    if (matrix < 0).any():
        raise ValueError(f"distances must not be negative, got {matrix.min()}")
    if np.abs(matrix - matrix.T).max() > 1e-8 * matrix.max():
        raise ValueError("distances must be symmetric")
    if np.diag(matrix).any():
        raise ValueError("distances must be zero on the diagonal")
    return matrix


def double_center(distances: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of points about their mean, from their euclidean distances (n, n)."""
    squared = distances**2
    row = squared.mean(axis=1)
    return -(squared - row[:, None] - row + row.mean()) / 2


def classical_mds(distances: np.ndarray, *, n_components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Torgerson's classical scaling.

    Args:
        distances: (n, n).
        n_components: number of axes.

    Returns:
        Coordinates (n, n_components): eigenvectors of the double-centred matrix times the root of their eigenvalue,
        largest first, each axis with its largest coordinate positive; and all eigenvalues (n,), largest first.
    """
    values, vectors = np.linalg.eigh(double_center(distances))
    values, vectors = values[::-1], vectors[:, ::-1]
    return _coordinates(values[:n_components], vectors[:, :n_components]), values


def leading_classical_mds(distances: np.ndarray, *, n_components: int = 2) -> np.ndarray:
    """The coordinates of `classical_mds` (n, n_components) without the rest of the spectrum, by subspace iteration.

    To about 1e-6 of the largest coordinate, and less exactly where an axis and the next but eight are of nearly the
    same length: enough for the start of SMACOF, in a small part of the time.
    """
    products = double_center(distances)
    width = min(n_components + 8, len(products))
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((len(products), width)))[0]
    before = np.zeros(n_components)
    for _ in range(300):
        image = products @ basis
        values, rotation = np.linalg.eigh(basis.T @ image)
        values, vectors = values[::-1], basis @ rotation[:, ::-1]
        if np.abs(values[:n_components] - before).max() <= 1e-12 * np.abs(values).max():
            break
        before = values[:n_components]
        basis = np.linalg.qr(image)[0]
    return _coordinates(values[:n_components], vectors[:, :n_components])


def _coordinates(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Axes of these eigenvalues, each with its largest coordinate positive."""
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return vectors * signs * np.sqrt(np.maximum(values, 0))


def smacof(distances: np.ndarray, start: np.ndarray, *, tolerance: float = 1e-5, max_iterations: int = 1000) -> Layout:
    """Metric scaling: coordinates of least stress sum (D - d)^2, by accelerated majorisation.

    Guttman's transform never raises the stress (de Leeuw, "Applications of convex analysis to multidimensional
    scaling", 1977), but crawls. Here its fixed point is sought by Anderson's acceleration ("Iterative procedures for
    nonlinear integral equations", Journal of the ACM 12, 1965); wherever that would raise the stress, the transform
    itself is the step.

    Args:
        distances: D (n, n).
        start: (n, n_components).
        tolerance: converged where the transform moves the points by no more than that share of their size (both as
            the root of summed squares).
        max_iterations: end there in any case.
    """
    with jax.enable_x64(True):
        target = jnp.asarray(distances)
        points = np.asarray(start, np.float64)
        stress, image = _majorize(target, points)
        history = _History([], [])
        iterations, converged = 0, False
        while iterations < max_iterations and not converged:
            ahead = history.accelerate(points, image)
            new_stress, new_image = _majorize(target, ahead)
            if history.images and not new_stress <= stress * (1 + 1e-14):  # but for rounding
                history, ahead = _History([], []), image
                new_stress, new_image = _majorize(target, ahead)
            history = history.extend(new_image - image, (new_image - ahead) - (image - points))
            points, image, stress = ahead, new_image, new_stress
            iterations += 1
            converged = bool(np.linalg.norm(image - points) <= tolerance * np.linalg.norm(points))
    points = points - points.mean(axis=0)
    points = _coordinates(*_principal(points))
    return Layout(points, normalized_stress(distances, points), iterations, converged)


class _History(NamedTuple):
    """The last steps of a fixed-point iteration: by how much images changed, and the moves from points to images."""

    images: list[np.ndarray]
    moves: list[np.ndarray]

    def extend(self, image: np.ndarray, move: np.ndarray) -> "_History":
        return _History([*self.images, image][-_MEMORY:], [*self.moves, move][-_MEMORY:])

    def accelerate(self, points: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Where the move would vanish if it were linear in the steps; the image itself where there are none."""
        if not self.images:
            return image
        columns = np.stack([move.ravel() for move in self.moves], axis=1)
        weights = np.linalg.lstsq(columns, (image - points).ravel(), rcond=1e-10)[0]
        return image - np.tensordot(weights, self.images, 1)


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


def _principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared lengths and directions of the principal axes of centred points."""
    vectors, lengths, _ = np.linalg.svd(points, full_matrices=False)
    return lengths**2, vectors


def _majorize(target: jax.Array, points: np.ndarray) -> tuple[float, np.ndarray]:
    """Raw stress of points (n, k), and their Guttman transform."""
    stress, image = _guttman(target, jnp.asarray(points))
    return float(stress), np.asarray(image)


@jax.jit
def _guttman(target: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    kept = _distances(points, points)
    ratio = jnp.where(kept > 0, target / kept, 0)
    image = (ratio.sum(axis=1, keepdims=True) * points - ratio @ points) / len(points)
    return ((target - kept) ** 2).sum() / 2, image


def _distances(points: jax.Array, others: jax.Array) -> jax.Array:
    # From differences: products would lose the digits of near points.
    axes = range(points.shape[1])
    return jnp.sqrt(sum((points[:, None, axis] - others[None, :, axis]) ** 2 for axis in axes))


def normalized_stress(distances: np.ndarray, embedding: np.ndarray) -> float:
    """sqrt(sum (D - s d)^2 / sum D^2) at the best scale s; 0 is perfect, and the scale of either does not matter.

    Args:
        distances: D (n, n), what should be kept.
        embedding: (n, k), whose euclidean distances are d.
    """
    kept = squareform(pdist(embedding))
    total = (distances**2).sum()
    if total == 0:
        return 0.0
    scale = (distances * kept).sum() / max((kept**2).sum(), np.finfo(float).tiny)
    return float(np.sqrt(((distances - scale * kept) ** 2).sum() / total))
