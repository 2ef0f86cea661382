"""Multidimensional scaling: coordinates from distances, and how well they keep them."""

import numpy as np


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
    axes = vectors[:, :n_components]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
    return axes * signs * np.sqrt(np.maximum(values[:n_components], 0)), values


def normalized_stress(distances: np.ndarray, embedding: np.ndarray) -> float:
    """sqrt(sum (D - s d)^2 / sum D^2) at the best scale s; 0 is perfect, and the scale of either does not matter.

    Args:
        distances: D (n, n), what should be kept.
        embedding: (n, k), whose euclidean distances are d.
    """
    kept = np.sqrt(((embedding[:, None] - embedding) ** 2).sum(axis=-1))
    total = (distances**2).sum()
    if total == 0:
        return 0.0
    scale = (distances * kept).sum() / max((kept**2).sum(), np.finfo(float).tiny)
    return float(np.sqrt(((distances - scale * kept) ** 2).sum() / total))
