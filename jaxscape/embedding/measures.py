"""How well an embedding keeps what it should: distances along a tree, order of distances, trajectories.

All take coordinates (n, k) and give numbers that no rotation, reflection or scale of them changes.
"""

import numpy as np
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr


def demap(geodesics: np.ndarray, embedding: np.ndarray) -> float:
    """DeMAP: the rank correlation of distances in the picture with geodesic ones, over all pairs.

    Moon et al. (2019), who take geodesics of the data without noise, and embed the data with it.

    Args:
        geodesics: (n, n).
        embedding: (n, k).

    Returns:
        Spearman's correlation, -1 to 1.
    """
    return rank_correlation(geodesics, embedding)


def rank_correlation(distances: np.ndarray, embedding: np.ndarray, *, neighbours: int | None = None) -> float:
    """Spearman's correlation, -1 to 1, of distances in the picture with given ones.

    Args:
        distances: (n, n).
        embedding: (n, k).
        neighbours: None is global, over all pairs. A number is local: the mean over points of the correlation over
            that many points nearest to each by `distances`.

    Raises:
        ValueError: for shapes that do not fit, or neighbours out of 3 to n - 1.
    """
    kept = _kept(distances, embedding)
    if neighbours is None:
        return float(spearmanr(squareform(distances, checks=False), squareform(kept, checks=False)).statistic)
    if not 3 <= neighbours < len(kept):
        raise ValueError(f"neighbours must be from 3 to n - 1 = {len(kept) - 1}, got {neighbours}")
    given = np.array(distances, np.float64)
    np.fill_diagonal(given, -1)
    nearest = np.argsort(given, axis=1, kind="stable")[:, 1 : neighbours + 1]
    ranks = [rankdata(np.take_along_axis(matrix, nearest, axis=1), axis=1) for matrix in (given, kept)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    # Where all ranks are tied there is no order to keep.
    return float(np.divide((first * second).sum(axis=1), spread, out=np.zeros(len(kept)), where=spread > 0).mean())


def continuity(embedding: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each point but the last of a trajectory, how many other points are nearer to it than the next one.

    0 everywhere is a trajectory that is never broken: each point's nearest neighbour is the next (or, as it may be
    half of the time, 1: the one before). A large number is a jump over others. What the data itself has, which may have
    no coordinates, is in `continuity_of_distances`.

    Args:
        embedding: (n, k).
        trajectory: (n,), the name or number of each point's trajectory.
        order: (n,), where it comes in that, such as its epoch.

    Returns:
        int (n - number of trajectories,).
    """
    return continuity_of_distances(squareform(pdist(embedding)), trajectory, order)


def continuity_of_distances(distances: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """As `continuity`, from distances (n, n)."""
    rows = np.lexsort((order, trajectory))
    here, following = rows[:-1], rows[1:]
    same = np.asarray(trajectory)[here] == np.asarray(trajectory)[following]
    here, following = here[same], following[same]
    to_next = distances[here, following]
    nearer = (distances[here] < to_next[:, None]).sum(axis=1)
    return nearer - (to_next > 0)  # the point itself is nearer too


def radial_trend(embedding: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each trajectory, whether it moves out of the picture's centre or into it as it goes on.

    Args:
        embedding: (n, k); its centre is the mean of all points.
        trajectory: (n,), the name or number of each point's trajectory.
        order: (n,), where it comes in that, such as its epoch.

    Returns:
        float64 (number of trajectories,): Spearman's correlation of the order with the distance from the centre; -1
        moves inward at every point, 1 outward. NaN for a trajectory that does not move, or of one point.
    """
    embedding, trajectory, order = np.asarray(embedding), np.asarray(trajectory), np.asarray(order)
    radius = np.linalg.norm(embedding - embedding.mean(axis=0), axis=1)
    trends = []
    for name in np.unique(trajectory):
        rows = trajectory == name
        ranks = [rankdata(values[rows]) for values in (order, radius)]
        moves = all(np.ptp(each) > 0 for each in ranks)
        trends.append(np.corrcoef(*ranks)[0, 1] if moves else np.nan)
    return np.array(trends)


def procrustes_disparity(first: np.ndarray, second: np.ndarray) -> float:
    """How unlike two pictures (n, k) of the same points are, 0 to 1: what is left of their squared distances.

    After both are centred and scaled to one size, and one is turned and mirrored to lie best on the other.
    """
    return float(procrustes(first, second)[2])


def _kept(distances: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    if np.shape(distances) != (len(embedding), len(embedding)):
        raise ValueError(f"distances must have shape {(len(embedding),) * 2}, got {np.shape(distances)}")
    return squareform(pdist(embedding))
