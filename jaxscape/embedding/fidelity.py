"""Fidelity of an embedding: how well it preserves the distances from which it was computed.

Trustworthiness and continuity follow J. Venna and S. Kaski, "Neighborhood preservation in nonlinear projection methods"
(ICANN 2001).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float64, Int, Int32, Real

from jaxscape.embedding.arguments import (
    Coordinates,
    Distances,
    Labels,
    Numbers,
    check_whole,
    distance_matrix,
    labels,
    picture,
    real_array,
)
from jaxscape.embedding.mds import normalized_stress
from jaxscape.embedding.measures import average_ranks, count_nearer, embedded_distances, rank_correlation

NEIGHBOURS = 50
BROKEN = 0.05  # fraction of all points; see `fidelity`


class Fidelity(NamedTuple):
    """Fidelity measures of an embedding; NaN if undefined, as for equal distances or without trajectories."""

    stress: float  # normalised stress: root mean square error relative to that of the distances, 0 is perfect
    rank: float  # Spearman's correlation of all distances, -1 to 1
    near_rank: float  # the same over the nearest neighbours of each point, averaged over points
    trustworthiness: float  # 0 to 1: whether neighbours in the embedding are true neighbours
    continuity: float  # 0 to 1: whether true neighbours are neighbours in the embedding
    broken: float  # fraction of the steps of trajectories that the embedding breaks
    radius: float  # Spearman's correlation of embedded with true distances from the centre, averaged over trajectories
    inward: float  # fraction of trajectories that end nearer to (or farther from) the centre as they truly do


# The same as texts for tables.
MEANINGS = {
    "stress": "normalised stress, the relative root mean square error of the distances; 0 is perfect",
    "rank": "rank correlation of all distances, 1 is perfect",
    "near_rank": "the same over the nearest neighbours of each point",
    "trustworthiness": "whether neighbours in the picture are true neighbours, 0 to 1",
    "continuity": "whether true neighbours are neighbours in the picture, 0 to 1",
    "broken": "fraction of the steps of trajectories that the picture breaks",
    "radius": "rank correlation of the distance from the centre with the true one, mean over trajectories",
    "inward": "fraction of trajectories that end nearer to (or farther from) the centre as they truly do",
}


def fidelity(
    distances: Distances,
    embedding: Coordinates,
    *,
    trajectory: Labels | None = None,
    order: Numbers | None = None,
    radius: Numbers | None = None,
    center: Real[np.ndarray | Array, " components"] | Sequence[float] | None = None,
    neighbours: int = NEIGHBOURS,
) -> Fidelity:
    """Return how well an embedding preserves the distances from which it was computed.

    Args:
        distances: (n, n).
        embedding: (n, k) coordinates.
        trajectory: (n,), name or number of the trajectory of each point, for `broken`, `radius` and `inward`. A step is
            broken if the number of points that are nearer to its start than its end is larger in the embedding than in
            truth, by more than 5 % of all points.
        order: (n,), position of a point in its trajectory.
        radius: (n,), true distances from a reference such as the minimum, for `radius` and `inward`.
        center: (k,), coordinates of the reference in the embedding; by default the mean of all points.
        neighbours: size of a neighbourhood; at most (n - 1) // 2 is used.

    Raises:
        ValueError: for an invalid distance matrix, coordinates that are not finite, columns of other lengths, order
            without trajectory or the reverse, or fewer than 3 points.
    """
    points = picture("embedding", embedding, fewest=3)
    given = distance_matrix("distances", distances, count=len(points))
    if (trajectory is None) != (order is None):
        raise ValueError("trajectory and order belong together, got one of them")
    check_whole("neighbours", neighbours, 1, None)
    near = min(neighbours, (len(points) - 1) // 2)
    embedded = embedded_distances(points)
    trust, continuity = _trustworthiness_and_continuity(given, embedded, near)
    broken = to_center = inward = np.nan
    if trajectory is not None and order is not None:
        numbers, places = labels("trajectory", trajectory, len(points)), _column("order", order, len(points))
        broken = _broken(given, embedded, numbers, places)
        if radius is not None:
            true = _column("radius", radius, len(points))
            middle = points.mean(axis=0) if center is None else _column("center", center, points.shape[1])
            to_center, inward = _radii(true, np.linalg.norm(points - middle, axis=1), paths(numbers, places))
    return Fidelity(
        stress=normalized_stress(given, points),
        rank=rank_correlation(given, points),
        near_rank=rank_correlation(given, points, neighbours=near) if near >= 3 else np.nan,
        trustworthiness=trust,
        continuity=continuity,
        broken=broken,
        radius=to_center,
        inward=inward,
    )


def _column(
    name: str, values: Real[np.ndarray | Array, " entries"] | Sequence[float], count: int
) -> Float64[np.ndarray, " entries"]:
    column = real_array(name, values, shape="(n,)")
    if column.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), got {column.shape}")
    return column


def _trustworthiness_and_continuity(
    given: Float64[np.ndarray, "points points"], embedded: Float64[np.ndarray, "points points"], near: int
) -> tuple[float, float]:
    """Return trustworthiness and continuity: 1 minus a penalty for false neighbours, and for missing ones."""
    count = len(given)
    if near < 1:
        return np.nan, np.nan
    true, seen = _ranks(given), _ranks(embedded)
    scale = 2 / (count * near * (2 * count - 3 * near - 1))
    intruders = (seen <= near) & (true > near)
    missing = (true <= near) & (seen > near)
    too_far = [(ranks[where] - near).sum(dtype=np.int64) for ranks, where in ((true, intruders), (seen, missing))]
    return 1 - scale * float(too_far[0]), 1 - scale * float(too_far[1])


def _ranks(distances: Float64[np.ndarray, "points points"]) -> Int32[np.ndarray, "points points"]:
    """Return the neighbour rank of each column for each row: 1 is the nearest other point, 0 the point itself."""
    below = distances.copy()
    np.fill_diagonal(below, -1)  # the point itself comes first, before other points at distance 0
    order = np.argsort(below, axis=1, kind="stable")
    ranks = np.empty(below.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(len(below), dtype=np.int32)[None], axis=1)
    return ranks


def paths(numbers: Int[np.ndarray, " points"], order: Real[np.ndarray, " points"]) -> list[Int[np.ndarray, " _"]]:
    """Return the rows of each trajectory (n,), in order."""
    rows = np.lexsort((order, numbers))
    return np.split(rows, np.flatnonzero(np.diff(numbers[rows])) + 1)


def _broken(
    given: Float64[np.ndarray, "points points"],
    embedded: Float64[np.ndarray, "points points"],
    numbers: Int[np.ndarray, " points"],
    order: Float64[np.ndarray, " points"],
) -> float:
    nearer, truly = (count_nearer(each, numbers, order) for each in (embedded, given))
    return float((nearer - truly > BROKEN * len(given)).mean()) if len(nearer) else np.nan


def _radii(
    true: Float64[np.ndarray, " points"],
    drawn: Float64[np.ndarray, " points"],
    trajectories: list[Int[np.ndarray, " _"]],
) -> tuple[float, float]:
    correlations, right = [], []
    for rows in trajectories:
        both = true[rows], drawn[rows]
        if len(rows) < 2 or np.ptp(both[0]) == 0:  # its true distance is constant
            continue
        ranks = average_ranks(both[0]), average_ranks(both[1])
        correlations.append(np.corrcoef(ranks[0], ranks[1])[0, 1] if np.ptp(both[1]) > 0 else 0.0)
        right.append(np.sign(both[0][-1] - both[0][0]) == np.sign(both[1][-1] - both[1][0]))
    if not correlations:
        return np.nan, np.nan
    return float(np.mean(correlations)), float(np.mean(right))
