"""How well an embedding keeps what it should: distances along a tree, order of distances, trajectories.

All take coordinates (n, k) and give numbers that no rotation, reflection or scale of them changes.

One rule for all. A ValueError refuses what is no picture: NaN, infinity, what is no real number, shapes that do not
fit, too few points. NaN is the answer where the input is in order and the measure is undefined: a correlation of
values that are all the same (equal distances, a picture that is one point, a trajectory that does not move), and the
disparity of a picture that is one point.
"""

import numpy as np
from scipy.linalg import eigvalsh
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from jaxscape.embedding.arguments import check_whole, distance_matrix, labels, picture, real_array, without_unit
from jaxscape.embedding.mds import double_center

# A picture is degenerate below these shares, unless the distances are so themselves: below twice of them.
FLAT = 0.02  # its second or third axis, of the first: so narrow a band looks like a line
CROWDED = 0.01  # the radius of nine points of ten, of that of all: so small a dot looks like one point


def demap(geodesics: np.ndarray, embedding: np.ndarray) -> float:
    """Return DeMAP: the rank correlation of distances in the picture with geodesic ones, over all pairs.

    Moon et al. (2019), who take geodesics of the data without noise, and embed the data with it.

    Args:
        geodesics: (n, n).
        embedding: (n, k).

    Returns:
        Spearman's correlation, -1 to 1; NaN where all distances of either are the same.

    Raises:
        ValueError: for shapes that do not fit, what is no distance matrix, and fewer than 3 points.
    """
    points = picture("embedding", embedding, fewest=3)
    return _correlation(distance_matrix("geodesics", geodesics, count=len(points)), drawn_distances(points))


def rank_correlation(distances: np.ndarray, embedding: np.ndarray, *, neighbours: int | None = None) -> float:
    """Return Spearman's correlation, -1 to 1, of distances in the picture with given ones.

    Args:
        distances: (n, n).
        embedding: (n, k).
        neighbours: None is global, over all pairs. A number is local: the mean over points of the correlation over
            that many points nearest to each by `distances`, which counts as 0 where these are all equally far.

    Returns:
        The correlation; NaN where all distances of either are the same, or, if local, the neighbours of every point
        are equally far.

    Raises:
        ValueError: for shapes that do not fit, what is no distance matrix, fewer than 3 points, or neighbours out of 3
            to n - 1.
    """
    points = picture("embedding", embedding, fewest=3)
    given, kept = distance_matrix("distances", distances, count=len(points)), drawn_distances(points)
    if neighbours is None:
        return _correlation(given, kept)
    check_whole("neighbours", neighbours, 3, len(points) - 1, most_is="n - 1", or_else="None")
    given = given.copy()
    np.fill_diagonal(given, -1)
    nearest = np.argsort(given, axis=1, kind="stable")[:, 1 : neighbours + 1]
    ranks = [rankdata(np.take_along_axis(matrix, nearest, axis=1), axis=1) for matrix in (given, kept)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    if not spread.any():
        return np.nan
    return float(np.divide((first * second).sum(axis=1), spread, out=np.zeros(len(kept)), where=spread > 0).mean())


def successor_rank(embedding: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return, for each point but the last of a trajectory, how many other points are nearer to it than the next one.

    0 everywhere is a trajectory that is never broken: each point's nearest neighbour is the next (or, as it may be
    half of the time, 1: the one before). A large number is a jump over others. What the data itself has, which may have
    no coordinates, is in `successor_rank_of_distances`.

    Args:
        embedding: (n, k).
        trajectory: (n,), the name or number of each point's trajectory.
        order: (n,), where it comes in that, such as its epoch.

    Returns:
        int (n - number of trajectories,).

    Raises:
        ValueError: for coordinates or orders that are not finite, or other lengths than the embedding's.
    """
    return _successor_rank(drawn_distances(picture("embedding", embedding, fewest=1)), trajectory, order)


def successor_rank_of_distances(distances: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the `successor_rank` of given distances (n, n).

    Raises:
        ValueError: for a matrix that is no distance matrix, and as `successor_rank`.
    """
    return _successor_rank(distance_matrix("distances", distances), trajectory, order)


def _successor_rank(distances: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    return count_nearer(distances, *_along(trajectory, order, len(distances)))


def count_nearer(distances: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the `successor_rank` of points whose trajectories are numbered and whose arguments are checked."""
    rows = np.lexsort((order, trajectory))
    here, following = rows[:-1], rows[1:]
    same = trajectory[here] == trajectory[following]
    here, following = here[same], following[same]
    to_next = distances[here, following]
    nearer = (distances[here] < to_next[:, None]).sum(axis=1)
    return nearer - (to_next > 0)  # the point itself is nearer too


def radial_trend(embedding: np.ndarray, trajectory: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return, for each trajectory, whether it moves out of the picture's centre or into it as it goes on.

    Args:
        embedding: (n, k); its centre is the mean of all points.
        trajectory: (n,), the name or number of each point's trajectory.
        order: (n,), where it comes in that, such as its epoch.

    Returns:
        float64 (number of trajectories,): Spearman's correlation of the order with the distance from the centre; -1
        moves inward at every point, 1 outward. NaN for a trajectory whose distance from the centre or whose order does
        not change, such as one of one point. Trajectories come in the order of their names.

    Raises:
        ValueError: for coordinates or orders that are not finite, or other lengths than the embedding's.
    """
    points, _ = without_unit(picture("embedding", embedding, fewest=1))
    numbers, order = _along(trajectory, order, len(points))
    radius = np.linalg.norm(points - points.mean(axis=0), axis=1)
    trends = []
    for number in range(numbers.max() + 1):
        rows = numbers == number
        ranks = [rankdata(values[rows]) for values in (order, radius)]
        moves = all(np.ptp(each) > 0 for each in ranks)
        trends.append(np.corrcoef(*ranks)[0, 1] if moves else np.nan)
    return np.array(trends)


def procrustes_disparity(first: np.ndarray, second: np.ndarray) -> float:
    """Return how unlike two pictures (n, k) of the same points are, 0 to 1: what is left of their squared distances.

    After both are centred and scaled to one size, and one is turned and mirrored to lie best on the other. NaN where
    either is one point, which has no size.

    Raises:
        ValueError: for coordinates that are not finite, shapes that differ, and fewer than 2 points.
    """
    one, _ = without_unit(picture("first", first, fewest=2))
    other, _ = without_unit(picture("second", second, fewest=2))
    if one.shape != other.shape:
        raise ValueError(f"second must have the shape of first, {one.shape}, got {other.shape}")
    if _is_one_point(one) or _is_one_point(other):
        return np.nan
    return float(procrustes(one, other)[2])


def degeneracy(distances: np.ndarray, embedding: np.ndarray) -> str:
    """Return in words how a picture has collapsed; "" where it has not.

    It is flat where its second or third axis extends less than a fiftieth as far as the first: a picture in the plane
    has then become a line, one in space a line or a plane. It is crowded where nine points of ten lie within a
    hundredth of the radius that holds all. It is neither where the distances are so themselves (below twice of these
    shares), as those of points on a line are.

    Extents are root mean squares along the principal axes, those of the distances by classical scaling; radii are seen
    from the point that is nearest to the median of the coordinates.

    Args:
        distances: (n, n), what was drawn.
        embedding: (n, k).

    Raises:
        ValueError: for a matrix that is no distance matrix, coordinates that are not finite or of another number of
            points, and fewer than 3 points.
    """
    points, _ = without_unit(picture("embedding", embedding, fewest=3))
    given, _ = without_unit(distance_matrix("distances", distances, count=len(points)))
    if not given.any():
        return ""
    if _is_one_point(points):
        return "all points lie in one place"
    axes = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[:3]
    seen = axes / axes[0]
    thin = np.flatnonzero(seen < FLAT)
    if len(thin):
        true = _extents(given, len(axes))
        flat = thin[true[thin] > 2 * FLAT]
        if len(flat):
            first = int(flat[0])
            kept = "on a line" if first == 1 else "in a plane"
            return (
                f"all points lie {kept}: axis {first + 1} of the picture extends {seen[first]:.1%} as far as the "
                f"first, that of the distances {true[first]:.0%}"
            )
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    middle = int(away.argmin())
    radii = np.linalg.norm(points - points[middle], axis=1), given[middle]
    drawn, actual = (float(np.quantile(each, 0.9) / each.max()) if each.max() > 0 else 0.0 for each in radii)
    if drawn < CROWDED and actual > 2 * CROWDED:
        return (
            f"nine points of ten lie in one place: within {drawn:.1%} of the picture's radius, by their distances "
            f"within {actual:.0%}"
        )
    return ""


def describe_degeneracy(reason: str) -> str:
    """Return the warning of a degenerate picture."""
    return f"the picture is degenerate: {reason}"


def _extents(distances: np.ndarray, count: int) -> np.ndarray:
    """Extents along the first axes (count,) of classical scaling, as shares of the first."""
    most = len(distances) - 1
    values = eigvalsh(double_center(distances), subset_by_index=(max(0, most - count + 1), most))[::-1]
    found = np.zeros(count)
    found[: len(values)] = np.sqrt(np.maximum(values, 0))
    return found / found[0] if found[0] > 0 else found


def _is_one_point(points: np.ndarray) -> bool:
    # The norm too: differences may be so small beside the coordinates that their squares vanish.
    return bool((points == points[0]).all() or np.linalg.norm(points - points.mean(axis=0)) == 0)


def drawn_distances(points: np.ndarray) -> np.ndarray:
    """Return the distances (n, n) of points, in a unit in which their squares neither overflow nor vanish."""
    return squareform(pdist(without_unit(points)[0]))


def _correlation(given: np.ndarray, kept: np.ndarray) -> float:
    one, other = (squareform(matrix, checks=False) for matrix in (given, kept))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(spearmanr(one, other).statistic)


def _along(trajectory: np.ndarray, order: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A number for the trajectory of each point, and its place in it."""
    place = real_array("order", order, shape="(n,)")
    if len(place) != count:
        raise ValueError(f"order must have shape ({count},), one place per point, got {place.shape}")
    return labels("trajectory", trajectory, count), place
