"""Exact distances between parameter vectors.

gram(points) -> IncrementGram                 One pass over the data, the only expensive part (see `gram.py`).
pairwise_distances(IncrementGram) -> (n, n)   Any metric and centring, computed from these inner products alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from jaxscape.trajectories.gram import (
    IncrementGram,
    gram,
    inner_products,
    longest_path_between,
    path_lengths,
    require_gram,
    some_rows,
    squared_distances,
    unscaled,
)
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

METRICS = ("cosine", "euclidean")
CENTERS = (None, "mean", "reference")
# Squared norms have an error of 2e-16 of the squared path length to a point, and cosines must be accurate to 1e-6. A
# point must therefore be farther from the centre than 2e-5 of its path length. This is the square of that ratio.
FEW_DIGITS = 4e-10
# Norms that differ by more than this factor: |x - y|^2 is then nearly (|x| - |y|)^2, and their difference cancels.
UNEQUAL = 100


def pairwise_distances(
    points: IncrementGram | TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    metric: str = "cosine",
    center: str | None = None,
    reference: PyTree | None = None,
    include_reference: bool = False,
) -> Float64[np.ndarray, "points points"]:
    """Return the distances between all pairs of points.

    Args:
        points: an `IncrementGram`, or anything that `gram` accepts, such as a list of networks. A bare array is points
            (n, P), square or not. To use only some members or leaves, pass the result of `gram` for those.
        metric: "cosine" (1 - cos, from 0 to 2) or "euclidean".
        center: None for cosines between the vectors themselves (the paper's formula); "mean" between their directions
            from the mean of all points; "reference" from the minimum. Euclidean distances do not depend on it.
        reference: the minimum, for points that are not an IncrementGram yet.
        include_reference: make the reference row 0 of the result.

    Returns:
        float64 (n, n): symmetric, zero diagonal, never negative. The relative error is about 1e-15 within a trajectory
        and below 1e-6 across trajectories, down to separations of 1e-5 of the norm (held by the tests). Cosine
        distances are accurate to 1e-6, whatever the norms are. Euclidean distances have an absolute error of about 1e-8
        of the path length between the two points along `parents`, if that is more: choose parents that are not much
        larger than their rows.

    Raises:
        ValueError: for an unknown metric or center (lists the known ones), a missing reference, a distance beyond
            float64, or, for cosines, a row without a direction: the centre itself, or a row so close to it (2e-5 of the
            path length along `parents`; for the mean, of the longest path between two points) that fewer than six
            digits are left.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if center not in CENTERS:
        raise ValueError(f'unknown center {center!r}; known: None, "mean", "reference"')
    if not isinstance(include_reference, bool | np.bool_):
        raise ValueError(f"include_reference must be True or False, got {include_reference!r}")
    if not isinstance(points, IncrementGram):
        points = gram(points, reference=reference)
    else:
        require_gram(points, "points")
        if reference is not None:
            raise ValueError("an IncrementGram carries its reference; give reference to gram() instead")
    if (center == "reference" or include_reference) and not points.has_reference:
        raise ValueError("center='reference' and include_reference=True need a reference, and there is none")
    about = "reference" if center == "reference" else None
    high, low = inner_products(points, center=about)
    first = int(points.has_reference and not include_reference)
    high, low = high[first:, first:], low[first:, first:]
    squared = squared_distances(high, low)
    if metric == "euclidean":
        return unscaled(np.sqrt(squared), points)
    norms, differences = _squared_norms(high, low, squared, center)
    if center == "mean":
        path = np.full(len(norms), max(longest_path_between(points), np.sqrt(10 * max(norms.max(), 0))))
    else:
        path = path_lengths(points, center=about)[first:]
    _refuse_without_direction(norms, path)
    return _cosine_distances(squared, norms, differences, None if center == "mean" else high)


def _squared_norms(
    high: Float64[np.ndarray, "points points"],
    low: Float64[np.ndarray, "points points"],
    squared: Float64[np.ndarray, "points points"],
    center: str | None,
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, "points points"]]:
    """Return squared norms from the centre, and their differences between all pairs, both float64."""
    if center == "mean":
        norms = squared.mean(axis=1) - squared.mean() / 2
        return norms, norms[:, None] - norms
    diagonal = np.diag(high), np.diag(low)
    differences = (diagonal[0][:, None] - diagonal[0]) + (diagonal[1][:, None] - diagonal[1])
    return diagonal[0], differences


def _refuse_without_direction(norms: Float64[np.ndarray, " points"], path: Float64[np.ndarray, " points"]) -> None:
    rows = np.flatnonzero(norms <= FEW_DIGITS * path**2)
    if len(rows):
        raise ValueError(
            f"cosine distances need vectors with a direction, but rows {some_rows(rows)} are the centre itself, or "
            f"within {FEW_DIGITS**0.5:.0e} of their path length, which leaves fewer than six digits; give gram() "
            f"parents that lead there directly (-1), choose another center, or leave these rows out"
        )


def _cosine_distances(
    squared: Float64[np.ndarray, "points points"],
    norms: Float64[np.ndarray, " points"],
    differences: Float64[np.ndarray, "points points"],
    products: Float64[np.ndarray, "points points"] | None,
) -> Float64[np.ndarray, "points points"]:
    """Compute 1 - cos = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|), which avoids catastrophic cancellation.

    |x| - |y| comes from the difference of the squares, which keeps its digits if the norms are nearly equal. If they
    are very different, 1 - x.y / (|x| |y|) is computed from the products, if these are given.
    """
    length = np.sqrt(norms)
    both = length[:, None] * length
    radial = differences / (length[:, None] + length)
    distances = np.maximum(squared - radial**2, 0) / (2 * both)
    if products is not None:
        rows, columns = np.nonzero(squared > UNEQUAL * both)
        distances[rows, columns] = np.maximum(1 - products[rows, columns] / both[rows, columns], 0)
    distances = np.triu(np.minimum(distances, 2), 1)
    return distances + distances.T
