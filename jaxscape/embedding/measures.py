"""Quality measures of embeddings: distances along a tree, the order of distances, trajectories.

All measures take coordinates (n, k) and are invariant under rotation, reflection and scaling of them.

Invalid input raises a ValueError: NaN, infinity, anything but real numbers, shapes that do not match, too few points.
The result is NaN if the input is valid but the measure is undefined: a correlation of constant values (equal distances,
an embedding that is one point, a trajectory that does not move), or the disparity of an embedding that is one point.
"""

import numpy as np
from jaxtyping import Float64, Int, Shaped
from scipy.linalg import eigvalsh
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

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
    without_unit,
)
from jaxscape.embedding.mds import double_center

# An embedding is degenerate below these ratios, unless the distances themselves have a ratio below twice of that.
FLAT = 0.02  # extent of the second or third axis over that of the first: so narrow a band looks like a line
CROWDED = 0.01  # radius of 90 % of the points over that of all: so small a dot looks like one point


def demap(geodesics: Distances, embedding: Coordinates) -> float:
    """Return DeMAP: the rank correlation of embedded distances with geodesic distances, over all pairs.

    Moon et al. (2019) compute the geodesics from the data without noise and embed the noisy data.

    Args:
        geodesics: (n, n), geodesic distances.
        embedding: (n, k).

    Returns:
        Spearman's correlation, -1 to 1; NaN if all distances of either are equal.

    Raises:
        ValueError: for shapes that do not match, an invalid distance matrix, or fewer than 3 points.
    """
    points = picture("embedding", embedding, fewest=3)
    return _correlation(distance_matrix("geodesics", geodesics, count=len(points)), embedded_distances(points))


def rank_correlation(
    distances: Distances,
    embedding: Coordinates,
    *,
    neighbours: int | None = None,
) -> float:
    """Return Spearman's correlation, -1 to 1, of embedded distances with the given ones.

    Args:
        distances: (n, n).
        embedding: (n, k).
        neighbours: None for the global correlation, over all pairs. A number k for the local one: the mean over points
            of the correlation over the k nearest neighbours of each by `distances`. A point whose neighbours are all at
            the same distance counts as 0.

    Returns:
        The correlation; NaN if all distances of either are equal, or, for the local one, if the neighbours of every
        point are at the same distance.

    Raises:
        ValueError: for shapes that do not match, an invalid distance matrix, fewer than 3 points, or neighbours outside
            3 to n - 1.
    """
    points = picture("embedding", embedding, fewest=3)
    given, embedded = distance_matrix("distances", distances, count=len(points)), embedded_distances(points)
    if neighbours is None:
        return _correlation(given, embedded)
    check_whole("neighbours", neighbours, 3, len(points) - 1, most_is="n - 1", or_else="None")
    given = given.copy()
    np.fill_diagonal(given, -1)
    nearest = np.argsort(given, axis=1, kind="stable")[:, 1 : neighbours + 1]
    ranks = [average_ranks(np.take_along_axis(matrix, nearest, axis=1)) for matrix in (given, embedded)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    if not spread.any():
        return np.nan
    return float(np.divide((first * second).sum(axis=1), spread, out=np.zeros(len(points)), where=spread > 0).mean())


def successor_rank(embedding: Coordinates, trajectory: Labels, order: Numbers) -> Int[np.ndarray, " steps"]:
    """Return, for each point but the last of a trajectory, how many other points are nearer to it than its successor.

    0 means that the nearest neighbour of a point is the next one of its trajectory; 1 is common, since the previous one
    may be nearer. A large number means that the embedding breaks the trajectory there. For the same number of the
    original distances, use `successor_rank_of_distances`.

    Args:
        embedding: (n, k).
        trajectory: (n,), name or number of the trajectory of each point.
        order: (n,), position of the point in its trajectory, such as its epoch.

    Returns:
        int (n - number of trajectories,).

    Raises:
        ValueError: for coordinates or orders that are not finite, or lengths that differ from the embedding's.
    """
    return _successor_rank(embedded_distances(picture("embedding", embedding, fewest=1)), trajectory, order)


def successor_rank_of_distances(distances: Distances, trajectory: Labels, order: Numbers) -> Int[np.ndarray, " steps"]:
    """Return the `successor_rank` of given distances (n, n).

    Raises:
        ValueError: for an invalid distance matrix; see also `successor_rank`.
    """
    return _successor_rank(distance_matrix("distances", distances), trajectory, order)


def _successor_rank(
    distances: Float64[np.ndarray, "points points"], trajectory: Labels, order: Numbers
) -> Int[np.ndarray, " steps"]:
    return count_nearer(distances, *_numbered(trajectory, order, len(distances)))


def count_nearer(
    distances: Float64[np.ndarray, "points points"],
    trajectory: Int[np.ndarray, " points"],
    order: Float64[np.ndarray, " points"],
) -> Int[np.ndarray, " steps"]:
    """Return the `successor_rank` of points whose trajectories are numbered and whose arguments are checked."""
    rows = np.lexsort((order, trajectory))
    here, following = rows[:-1], rows[1:]
    same = trajectory[here] == trajectory[following]
    here, following = here[same], following[same]
    to_next = distances[here, following]
    nearer = (distances[here] < to_next[:, None]).sum(axis=1)
    return nearer - (to_next > 0)  # the point itself is nearer too


def radial_trend(embedding: Coordinates, trajectory: Labels, order: Numbers) -> Float64[np.ndarray, " trajectories"]:
    """Return, for each trajectory, whether it moves away from the centre of the embedding or towards it.

    Args:
        embedding: (n, k); its centre is the mean of all points.
        trajectory: (n,), name or number of the trajectory of each point.
        order: (n,), position of the point in its trajectory, such as its epoch.

    Returns:
        float64 (number of trajectories,): Spearman's correlation of the order with the distance from the centre. -1
        moves inward at every point, 1 outward. NaN if the distance from the centre or the order is constant, as for a
        trajectory of one point. Trajectories are sorted by name.

    Raises:
        ValueError: for coordinates or orders that are not finite, or lengths that differ from the embedding's.
    """
    points, _ = without_unit(picture("embedding", embedding, fewest=1))
    numbers, order = _numbered(trajectory, order, len(points))
    radius = np.linalg.norm(points - points.mean(axis=0), axis=1)
    trends = []
    for number in range(numbers.max() + 1):
        rows = numbers == number
        places, lengths = average_ranks(order[rows]), average_ranks(radius[rows])
        moves = np.ptp(places) > 0 and np.ptp(lengths) > 0
        trends.append(np.corrcoef(places, lengths)[0, 1] if moves else np.nan)
    return np.array(trends)


def procrustes_disparity(first: Coordinates, second: Coordinates) -> float:
    """Return the Procrustes disparity of two embeddings (n, k) of the same points, 0 (the same) to 1.

    It is the residual sum of squares after both are centred and scaled to unit norm, and one is rotated and reflected
    to fit the other best. NaN if either is a single point, which cannot be scaled.

    Raises:
        ValueError: for coordinates that are not finite, shapes that differ, or fewer than 2 points.
    """
    one, _ = without_unit(picture("first", first, fewest=2))
    other, _ = without_unit(picture("second", second, fewest=2))
    if one.shape != other.shape:
        raise ValueError(f"second must have the shape of first, {one.shape}, got {other.shape}")
    if _is_one_point(one) or _is_one_point(other):
        return np.nan
    return float(procrustes(one, other)[2])


def degeneracy(distances: Distances, embedding: Coordinates) -> str:
    """Return in words how an embedding has collapsed; "" if it has not.

    An embedding is flat if its second or third axis extends less than 1/50 as far as the first: in the plane it has
    become a line, in space a line or a plane. It is crowded if 90 % of the points lie within 1/100 of the radius of
    all. It is neither if the distances themselves have that property (at twice these ratios), as for points on a line.

    Extents are root mean squares along the principal axes; those of the distances come from classical scaling. Radii
    are measured from the point nearest to the median of the coordinates.

    Args:
        distances: (n, n), the distances that were embedded.
        embedding: (n, k).

    Raises:
        ValueError: for an invalid distance matrix, coordinates that are not finite or of another number of points, or
            fewer than 3 points.
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
            shape = "on a line" if first == 1 else "in a plane"
            return (
                f"all points lie {shape}: axis {first + 1} of the picture extends {seen[first]:.1%} as far as the "
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
    """Return the warning text for a degenerate embedding."""
    return f"the picture is degenerate: {reason}"


def _extents(distances: Float64[np.ndarray, "points points"], count: int) -> Float64[np.ndarray, " axes"]:
    """Return the extents along the first axes (count,) of classical scaling, relative to the first."""
    most = len(distances) - 1
    values = eigvalsh(double_center(distances), subset_by_index=(max(0, most - count + 1), most))[::-1]
    extents = np.zeros(count)
    extents[: len(values)] = np.sqrt(np.maximum(values, 0))
    return extents / extents[0] if extents[0] > 0 else extents


def _is_one_point(points: Float64[np.ndarray, "points components"]) -> bool:
    # The norm is checked too: differences may be so small relative to the coordinates that their squares underflow.
    return bool((points == points[0]).all() or np.linalg.norm(points - points.mean(axis=0)) == 0)


def embedded_distances(points: Float64[np.ndarray, "points components"]) -> Float64[np.ndarray, "points points"]:
    """Return the distances (n, n) of points, in a unit in which their squares neither overflow nor underflow."""
    return squareform(pdist(without_unit(points)[0]))


def average_ranks(values: Shaped[np.ndarray, "*rows n"]) -> Float64[np.ndarray, "*rows n"]:
    """Return the ranks from 1 of values (..., n) along the last axis, float64; equal values share their mean rank.

    The same as `scipy.stats.rankdata`. The import of `scipy.stats` takes longer than an embedding of 1,000 points.
    """
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    begins = np.ones(values.shape, bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = begins[..., 1:]
    last = np.minimum.accumulate(np.where(ends, places, values.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def _correlation(given: Float64[np.ndarray, "points points"], embedded: Float64[np.ndarray, "points points"]) -> float:
    one, other = (squareform(matrix, checks=False) for matrix in (given, embedded))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(np.corrcoef(average_ranks(one), average_ranks(other))[0, 1])


def _numbered(
    trajectory: Labels, order: Numbers, count: int
) -> tuple[Int[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Return an integer code for the trajectory of each point, and its checked position in that trajectory."""
    position = real_array("order", order, shape="(n,)")
    if len(position) != count:
        raise ValueError(f"order must have shape ({count},), one position per point, got {position.shape}")
    return labels("trajectory", trajectory, count), position
