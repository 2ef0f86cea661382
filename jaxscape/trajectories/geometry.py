"""Statistics of trajectories: return, outward movement, petals, lateral movement, lengths and angles.

All of them follow from the inner products of the increments (`jaxscape.trajectories.gram.gram`), without another pass
over the parameters, and can be computed from null trajectories too (`jaxscape.trajectories.null`).

Notation: theta_e are the parameters of a copy after epoch e, y_e its displacement from the minimum, and
m_e = y_e - y_(e-1) its movement.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from jaxscape.trajectories.gram import (
    IncrementGram,
    inner_products,
    require_gram,
    rows_by_depth,
    squared_distances,
    squared_rounding,
    unscaled,
)

# The statistics of `Geometry.summary`, in the order of tables. Lengths are in units of |y_0|: a jump, or the norm of a
# start.
STATISTICS = {
    "return": "1 - d(end) / d(start), d the distance from the minimum",
    "outward": "largest d / d(start), minus 1",
    "monotone": "share of epochs in which d falls",
    "petal": "cosine of end and start, seen from the minimum",
    "lateral": "share of movement across the line to the minimum",
    "path": "path length / {unit}",
    "tortuosity": "path length / distance of start and end",
    "travel": "distance of start and end / {unit}",
    "turning": "mean angle between movements, radians",
    "norm_change": "L2 norm at the end / at the start, minus 1",
    "end_spread": "mean distance between end points / {unit}",
}
WITHOUT_MINIMUM = ("norm_change", "travel", "path", "tortuosity", "turning", "end_spread")


def meanings(*, has_minimum: bool) -> dict[str, str]:
    """Return the names and meanings of the statistics, for trajectories with or without a minimum."""
    names = STATISTICS if has_minimum else WITHOUT_MINIMUM
    return {name: STATISTICS[name].format(unit="jump" if has_minimum else "norm of the start") for name in names}


class Geometry(NamedTuple):
    """The geometry of trajectories by epoch, NaN where a value is undefined.

    After the end of a trajectory that is shorter than the longest one, all values are NaN; "the end" is a member's own.
    Without a minimum (no reference in the IncrementGram) displacements are from the origin, and y_e is theta_e.
    """

    norm: Float64[np.ndarray, "epochs members"]  # |theta_e|, the L2 norm of the parameters
    distance: Float64[np.ndarray, "epochs members"]  # |y_e|, from the minimum; 0 if below 1e-7 of the path length
    chord: Float64[np.ndarray, "epochs members"]  # |y_e - y_0|, the distance from the start
    petal: Float64[np.ndarray, "epochs members"]  # cos(y_e, y_0): is the copy still where it was pushed?
    movement: Float64[np.ndarray, "epochs members"]  # |m_e|, from epoch 1
    lateral: Float64[np.ndarray, "epochs members"]  # sine of angle(m_e, y_(e-1)): 0 is straight in or out; from epoch 1
    turning: Float64[np.ndarray, "epochs members"]  # angle between m_e and m_(e-1), radians from 0 to pi; from epoch 2
    falling: Float64[np.ndarray, "epochs members"]  # 1 where |y_e| < |y_(e-1)|, else 0; from epoch 1
    end_spread: Float64[np.ndarray, " members"]  # mean distance of its end point from the others', NaN for one member

    def summary(self) -> dict[str, Float64[np.ndarray, " members"]]:
        """Return the `STATISTICS` of each member.

        return: 1 - |y_end| / |y_0|; outward: max over epochs of |y_e| / |y_0|, minus 1 (0 if it never exceeds the
        start); monotone: fraction of epochs in which the distance decreases; petal: cos(y_end, y_0); lateral: mean of
        `lateral`; path: path length over |y_0|; tortuosity: path length over |y_end - y_0| (1 is straight); travel:
        |y_end - y_0| over |y_0|; turning: mean turning angle; norm_change: |theta_end| / |theta_0| - 1; end_spread:
        mean distance between end points over |y_0|. Statistics that are undefined for a copy that does not move are
        NaN.
        """
        start = self.distance[0]
        ends = (~np.isnan(self.norm)).sum(axis=0) - 1, np.arange(self.norm.shape[1])
        end = self.distance[ends]
        path = np.nansum(self.movement[1:], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "return": 1 - end / start,
                "outward": np.fmax.reduce(self.distance, axis=0) / start - 1,
                "monotone": _mean_over_epochs(self.falling),
                "petal": self.petal[ends],
                "lateral": _mean_over_epochs(self.lateral),
                "path": path / start,
                "tortuosity": path / self.chord[ends],
                "travel": self.chord[ends] / start,
                "turning": _mean_over_epochs(self.turning),
                "norm_change": self.norm[ends] / self.norm[0] - 1,
                "end_spread": self.end_spread / start,
            }


class Departure(NamedTuple):
    """Displacements z_e of each trajectory from its own first point.

    Values are NaN after the end of a trajectory, and angles are NaN where a displacement is 0.
    """

    distance: Float64[np.ndarray, "epochs members"]  # |z_e|; 0 if below 1e-7 of the path length
    angle: Float64[np.ndarray, "epochs members"]  # between z_e and the final displacement z_end: radians from 0 to pi


def trajectory_departure(gram: IncrementGram) -> Departure:
    """Return the distance of each trajectory from its own first point, and its direction relative to the end.

    Both are sums of inner products of a trajectory's own movements, so they keep their digits if the first point is
    large and the movements are small. Neither the reference nor the other trajectories enter.

    Args:
        gram: trajectories of any lengths, with or without a reference.

    Raises:
        ValueError: if trajectories branch, lengths are beyond float64, or gram is not an IncrementGram.
    """
    rows = trajectory_rows(gram)
    movements = np.maximum(rows[1:], 0)
    blocks = gram.products[movements.T[:, :, None], movements.T[:, None, :]]  # [member, epoch, epoch]
    moves = (rows[1:] >= 0).T
    blocks = np.where(moves[:, :, None] & moves[:, None, :], blocks, 0)  # a shorter trajectory stays at its end
    path = np.sqrt(np.diagonal(blocks, axis1=1, axis2=2)).cumsum(axis=1)
    products = np.zeros((len(blocks),) + (len(rows),) * 2)  # z_i . z_j
    products[:, 1:, 1:] = blocks.cumsum(axis=1).cumsum(axis=2)
    squared = np.diagonal(products, axis1=1, axis2=2).copy()
    squared[:, 1:][squared[:, 1:] <= 1e-14 * path**2] = 0  # as in `squared_rounding`
    distance = np.sqrt(squared).T
    angle = np.arccos(_cosine(products[:, :, -1].T, distance, distance[-1]))
    exists = rows >= 0
    return Departure(distance=np.where(exists, unscaled(distance, gram), np.nan), angle=np.where(exists, angle, np.nan))


def trajectory_rows(gram: IncrementGram) -> Int[np.ndarray, "epochs members"]:
    """Return the row numbers (of the IncrementGram, counting the reference) of each trajectory.

    After the end of a trajectory that is shorter than the longest one, its rows are -1.

    Raises:
        ValueError: if trajectories branch, or gram is not an IncrementGram.
    """
    require_gram(gram)
    first = int(gram.has_reference)
    starts = [row for row in range(first, len(gram.parents)) if gram.parents[row] < first]
    rows = {start: [start] for start in starts}
    owner = {start: start for start in starts}
    for row in range(first, len(gram.parents)):
        parent = int(gram.parents[row])
        if parent < first:
            continue
        if rows[owner[parent]][-1] != parent:
            raise ValueError(
                f"trajectories must not branch, but row {parent - first} has several successors; give gram() the "
                f"parents of the rows if they do not come from a store"
            )
        owner[row] = owner[parent]
        rows[owner[row]].append(row)
    longest = max(map(len, rows.values()))
    return np.stack([np.pad(chain, (0, longest - len(chain)), constant_values=-1) for chain in rows.values()], axis=1)


def trajectory_geometry(gram: IncrementGram) -> Geometry:
    """Return the geometry of trajectories around their reference, or around the origin if there is none.

    Args:
        gram: trajectories of any lengths. For the geometry of one layer, or of adapters, pass `gram(..., leaves=...)`.

    Raises:
        ValueError: if trajectories branch, lengths are beyond float64, or gram is not an IncrementGram.
    """
    padded = trajectory_rows(gram)
    exists = padded >= 0
    ends = padded[exists.sum(axis=0) - 1, np.arange(padded.shape[1])]
    rows = np.where(exists, padded, ends)  # a shorter trajectory stays at its end; its values there are masked below
    before, after = rows[:-1], rows[1:]
    center = "reference" if gram.has_reference else None
    between = np.ix_(ends, ends)
    products, remainders = inner_products(gram, center=center)
    increments = gram.products
    squared = np.diag(products)
    absolute = np.maximum(squared + _from_origin(gram), 0)
    distance = np.sqrt(np.where(squared > squared_rounding(gram, center=center), squared, 0))[rows]
    length = np.sqrt(np.diag(increments))[after]
    # m_e . y_(e-1): the increments of y_(e-1) are the start and the movements up to it.
    outward = _along_path(gram)[after, before]
    turning = np.arccos(_cosine(increments[after[1:], after[:-1]], length[1:], length[:-1]))
    by_epoch = {
        "norm": unscaled(np.sqrt(absolute)[rows], gram),
        "distance": unscaled(distance, gram),
        "chord": unscaled(distance_from_start(increments, after), gram),
        "petal": _cosine(products[rows, rows[0]], distance, distance[0]),
        "movement": _from_epoch(1, unscaled(length, gram)),
        "lateral": _from_epoch(1, np.sqrt(1 - _cosine(outward, length, distance[:-1]) ** 2)),
        "turning": _from_epoch(2, turning)[: len(rows)],
        "falling": _from_epoch(1, (2 * outward + length**2 < 0).astype(np.float64)),
    }
    return Geometry(
        **{name: np.where(exists, values, np.nan) for name, values in by_epoch.items()},
        end_spread=_mean_distance(unscaled(np.sqrt(squared_distances(products[between], remainders[between])), gram)),
    )


def _from_origin(gram: IncrementGram) -> Float64[np.ndarray, " rows"]:
    """Return |theta|^2 - |y|^2 of each point, where y is its displacement from the reference r.

    |theta|^2 = |y|^2 + 2 y . r + |r|^2, and y . r is summed along the path.
    """
    if not gram.has_reference:
        return np.zeros(len(gram.parents))
    with_reference = gram.products[:, 0].copy()
    with_reference[0] = 0
    for rows in rows_by_depth(gram.parents):
        with_reference[rows] += with_reference[gram.parents[rows]]
    difference: np.ndarray = 2 * with_reference + gram.products[0, 0]
    return difference


def _along_path(gram: IncrementGram) -> Float64[np.ndarray, "rows rows"]:
    """Return inner products of increments (rows) with displacements from the reference (columns)."""
    products = gram.products.T.copy()
    depth = int(gram.has_reference)  # of the starts, whose increments are their displacements
    for rows in rows_by_depth(gram.parents)[depth:]:
        products[rows] += products[gram.parents[rows]]
    return products.T


def distance_from_start(
    increments: Float64[np.ndarray, "rows rows"], movements: Int[np.ndarray, "movements members"]
) -> Float64[np.ndarray, "movements+1 members"]:
    """Return |m_1 + ... + m_e|, from the products of the movements, whose rows are given.

    It is exactly 0 for a copy that does not move.
    """
    blocks = increments[movements.T[:, :, None], movements.T[:, None, :]]
    squared = np.diagonal(blocks.cumsum(axis=1).cumsum(axis=2), axis1=1, axis2=2).T
    return np.concatenate([np.zeros((1, movements.shape[1])), np.sqrt(np.maximum(squared, 0))])


def _cosine(
    products: Float64[np.ndarray, " *shape"], one: Float64[np.ndarray, "..."], other: Float64[np.ndarray, "..."]
) -> Float64[np.ndarray, " *shape"]:
    """Return cosines from inner products and lengths, NaN where a length is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(one * other > 0, np.clip(products / (one * other), -1, 1), np.nan)


def _from_epoch(first: int, values: Float64[np.ndarray, "later members"]) -> Float64[np.ndarray, "epochs members"]:
    return np.concatenate([np.full((first, values.shape[1]), np.nan), values])


def _mean_over_epochs(values: Float64[np.ndarray, "epochs members"]) -> Float64[np.ndarray, " members"]:
    """Return the mean of the defined values in each column, NaN if there are none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0)


def _mean_distance(distances: Float64[np.ndarray, "members members"]) -> Float64[np.ndarray, " members"]:
    with np.errstate(invalid="ignore"):
        return distances.sum(axis=1) / (len(distances) - 1)
