"""How far a picture can be trusted: what it keeps of the distances that it was drawn from.

J. Venna and S. Kaski, "Neighborhood preservation in nonlinear projection methods" (ICANN 2001), for trustworthiness and
continuity; the others are named where they are computed.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from jaxscape.embedding.arguments import check_whole, distance_matrix, labels, picture, real_array
from jaxscape.embedding.mds import normalized_stress
from jaxscape.embedding.measures import count_nearer, drawn_distances, rank_correlation

NEIGHBOURS = 50
BROKEN = 0.05  # of all points


class Fidelity(NamedTuple):
    """What a picture keeps; NaN where that is undefined, as for equal distances or without trajectories."""

    stress: float  # normalised, 0 is perfect: the share of the distances that the picture bends, as a root mean square
    rank: float  # Spearman's correlation of all distances, -1 to 1
    near_rank: float  # the same among the nearest of each point, its mean
    trustworthiness: float  # 0 to 1: whether neighbours in the picture are neighbours
    continuity: float  # 0 to 1: whether neighbours are neighbours in the picture
    broken: float  # share of the steps of trajectories that the picture tears
    radius: float  # mean over trajectories of Spearman's correlation of the distance from the centre with the true one
    inward: float  # share of trajectories that end nearer, or farther, than they began as they truly do


# The same for readers of tables.
MEANINGS = {
    "stress": "share of the distances that the picture bends, a root mean square; 0 is perfect",
    "rank": "rank correlation of all distances, 1 is perfect",
    "near_rank": "the same among the nearest of each point",
    "trustworthiness": "whether neighbours in the picture are neighbours, 0 to 1",
    "continuity": "whether neighbours are neighbours in the picture, 0 to 1",
    "broken": "share of the steps of trajectories that the picture tears",
    "radius": "rank correlation of the distance from the centre with the true one, mean over trajectories",
    "inward": "share of trajectories that end nearer, or farther, than they began as they truly do",
}


def fidelity(
    distances: np.ndarray,
    embedding: np.ndarray,
    *,
    trajectory: np.ndarray | None = None,
    order: np.ndarray | None = None,
    radius: np.ndarray | None = None,
    center: np.ndarray | None = None,
    neighbours: int = NEIGHBOURS,
) -> Fidelity:
    """Return how well a picture keeps the distances that it was drawn from.

    Args:
        distances: (n, n).
        embedding: (n, k) coordinates.
        trajectory: (n,), the name or number of each point's trajectory, for `broken`, `radius` and `inward`. A step is
            broken where more than a twentieth of all points lie nearer to its beginning than its end in the picture,
            beyond those that truly do.
        order: (n,), where a point comes in its trajectory.
        radius: (n,), true distances from a reference, the minimum, for `radius` and `inward`.
        center: (k,), the place of the reference in the picture; by default the mean of all points.
        neighbours: how many are near; fewer where there are not twice as many points.

    Raises:
        ValueError: for what is no distance matrix, coordinates that are not finite, columns of other lengths, order
            without trajectory or the reverse, and fewer than 3 points.
    """
    points = picture("embedding", embedding, fewest=3)
    given = distance_matrix("distances", distances, count=len(points))
    if (trajectory is None) != (order is None):
        raise ValueError("trajectory and order belong together, got one of them")
    check_whole("neighbours", neighbours, 1, None)
    near = min(neighbours, (len(points) - 1) // 2)
    drawn = drawn_distances(points)
    trust, continuous = _neighbourhoods(given, drawn, near)
    broken = to_center = inward = np.nan
    if trajectory is not None and order is not None:
        numbers, places = labels("trajectory", trajectory, len(points)), _column("order", order, len(points))
        broken = _broken(given, drawn, numbers, places)
        if radius is not None:
            true = _column("radius", radius, len(points))
            middle = points.mean(axis=0) if center is None else _column("center", center, points.shape[1])
            to_center, inward = _radii(true, np.linalg.norm(points - middle, axis=1), paths(numbers, places))
    return Fidelity(
        stress=normalized_stress(given, points),
        rank=rank_correlation(given, points),
        near_rank=rank_correlation(given, points, neighbours=near) if near >= 3 else np.nan,
        trustworthiness=trust,
        continuity=continuous,
        broken=broken,
        radius=to_center,
        inward=inward,
    )


def _column(name: str, values: np.ndarray, count: int) -> np.ndarray:
    found = real_array(name, values, shape="(n,)")
    if found.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), got {found.shape}")
    return found


def _neighbourhoods(given: np.ndarray, drawn: np.ndarray, near: int) -> tuple[float, float]:
    """Trustworthiness and continuity: 1 less a penalty for intruders, and for those that are missing."""
    count = len(given)
    if near < 1:
        return np.nan, np.nan
    true, seen = _ranks(given), _ranks(drawn)
    scale = 2 / (count * near * (2 * count - 3 * near - 1))
    intruders = (seen <= near) & (true > near)
    missing = (true <= near) & (seen > near)
    too_far = [(ranks[where] - near).sum(dtype=np.int64) for ranks, where in ((true, intruders), (seen, missing))]
    return 1 - scale * float(too_far[0]), 1 - scale * float(too_far[1])


def _ranks(distances: np.ndarray) -> np.ndarray:
    """The place of each column among the neighbours of each row: 1 is the nearest other point, 0 the point itself."""
    own = distances.copy()
    np.fill_diagonal(own, -1)
    order = np.argsort(own, axis=1, kind="stable")
    ranks = np.empty(own.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(len(own), dtype=np.int32)[None], axis=1)
    return ranks


def paths(numbers: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each trajectory (n,), in order."""
    rows = np.lexsort((order, numbers))
    return np.split(rows, np.flatnonzero(np.diff(numbers[rows])) + 1)


def _broken(given: np.ndarray, drawn: np.ndarray, numbers: np.ndarray, order: np.ndarray) -> float:
    nearer, truly = (count_nearer(each, numbers, order) for each in (drawn, given))
    return float((nearer - truly > BROKEN * len(given)).mean()) if len(nearer) else np.nan


def _radii(true: np.ndarray, drawn: np.ndarray, trajectories: list[np.ndarray]) -> tuple[float, float]:
    correlations, right = [], []
    for rows in trajectories:
        both = true[rows], drawn[rows]
        if len(rows) < 2 or np.ptp(both[0]) == 0:  # it stands still
            continue
        ranks = [rankdata(each) for each in both]
        correlations.append(np.corrcoef(*ranks)[0, 1] if np.ptp(both[1]) > 0 else 0.0)
        right.append(np.sign(both[0][-1] - both[0][0]) == np.sign(both[1][-1] - both[1][0]))
    if not correlations:
        return np.nan, np.nan
    return float(np.mean(correlations)), float(np.mean(right))
