"""Exact distances between parameter vectors, from one pass over blocks of parameters.

What the pass collects is not the Gram matrix of the points. Two epochs of one trajectory differ by a thousandth of
their norm or less, and their distance would be a difference of nearly equal inner products: at a relative
separation of 1e-4 a float64 Gram matrix has lost nine of sixteen digits. The pass collects the inner products of
the *increments*: the reference (the minimum), each start minus the reference, each snapshot minus its predecessor.
A distance along a trajectory is then a sum of small numbers. Sums over blocks, and over increments, are carried in
pairs of float64 (a value and the remainder that rounding cuts off), so that trajectories which start far apart and
come close together keep their distance too.

    gram(points) -> Gram                 one pass over the data, the only expensive part
    pairwise_distances(Gram) -> (n, n)   any metric and centring, from the Gram matrix alone
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any
Pair = tuple[np.ndarray, np.ndarray]  # a float64 value and its remainder: value + remainder is exact to 1e-32

METRICS = ("cosine", "euclidean")
CENTERS = (None, "mean", "reference")


class Gram(NamedTuple):
    """Inner products of the increments that lead to n points, with or without a reference; k = n (+ 1).

    Increment i leads from point parents[i] to point i. Where there is a reference it is row 0 and the starts of all
    trajectories are its children; without one the starts lead from the origin.
    """

    products: np.ndarray  # float64 (k, k)
    remainders: np.ndarray  # float64 (k, k): what rounding cut off the products
    parents: np.ndarray  # int64 (k,), parents[i] < i; -1 is the origin
    has_reference: bool
    dimension: int  # P, the number of parameters

    @property
    def num_points(self) -> int:
        """n, the reference not counted."""
        return len(self.parents) - int(self.has_reference)


def gram(
    points: TrajectoryStore | PyTree,
    *,
    reference: PyTree | None = None,
    members: Sequence[int] | None = None,
    parents: Sequence[int] | np.ndarray | None = None,
    max_bytes: int = 2**26,
) -> Gram:
    """The Gram matrix of the increments between points, in one pass with bounded memory.

    Args:
        points: a `TrajectoryStore` (rows epoch by epoch, members within); an array (n, P); or a pytree of arrays
            stacked on axis 0. Values are taken as float64; float32 data loses nothing.
        reference: the minimum: a pytree of one network, or an array (P,).
        members: of a store, those to take; all by default.
        parents: the row before each row on its trajectory, -1 for a start; parents[i] < i. By default a store's
            rows follow the same member's row of the previous epoch. Rows of anything else follow the nearest row
            before them, found by a pass of its own. Any choice gives the same distances, with more digits the
            shorter the increments are; geometry and null trajectories need the trajectories themselves.
        max_bytes: size of a block of the points as float32, of which two are held at a time.

    Raises:
        ValueError: for shapes that do not agree, or rows with NaN or infinity (names them).
    """
    blocks, num_rows, dimension, default_parents = _source(points, members, max_bytes)
    if parents is None:
        parents = default_parents
    if parents is None:
        parents = _nearest_before(gram(points, reference=reference, parents=[-1] * num_rows, max_bytes=max_bytes))
    rows_before = _check_parents(parents, num_rows)
    flat_reference = None if reference is None else _flatten_one(reference, dimension)
    if flat_reference is not None:
        rows_before = np.concatenate([[-1], rows_before + 1])
    total = np.zeros((len(rows_before),) * 2)
    remainder = np.zeros_like(total)
    width = int(np.clip(dimension // 300, 128, 1024))  # rounding averages out over some hundred sums
    for increments in _increments(blocks, rows_before, flat_reference, width):
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are named below
            total, error = _two_sum(total, increments @ increments.T)
            remainder += error
    _refuse_non_finite(total, has_reference=reference is not None)
    return Gram(*_two_sum(total, remainder), rows_before, reference is not None, dimension)


def _increments(
    blocks: Iterator[np.ndarray], rows_before: np.ndarray, reference: np.ndarray | None, width: int
) -> Iterator[np.ndarray]:
    """The increments, rotated (see `_rotate`), `width` columns at a time: float64 (k, width)."""
    moved = rows_before >= 0
    column = 0
    for block in blocks:
        for first in range(0, block.shape[1], width):
            rows = block[:, first : first + width].astype(np.float64)
            if reference is not None:
                rows = np.concatenate([reference[None, column : column + rows.shape[1]], rows])
            column += rows.shape[1]
            increments = rows.copy()
            with np.errstate(invalid="ignore"):
                increments[moved] -= rows[rows_before[moved]]
                increments = _rotate(increments)
            yield increments


def pairwise_distances(
    points: Gram | TrajectoryStore | PyTree,
    *,
    metric: str = "cosine",
    center: str | None = None,
    reference: PyTree | None = None,
    include_reference: bool = False,
) -> np.ndarray:
    """Distances between all pairs of points.

    Args:
        points: a `Gram`, or whatever `gram` takes. A bare array is points (n, P), square or not.
        metric: "cosine" (1 - cos, from 0 to 2) or "euclidean".
        center: None: cosines between the vectors themselves (the paper's formula); "mean": between their
            directions from the mean of all points; "reference": from the minimum. Euclidean distances do not
            depend on it.
        reference: the minimum, for points that are not yet a Gram.
        include_reference: make the reference row 0 of the result.

    Returns:
        float64 (n, n): symmetric, zero diagonal, never negative. Relative error about 1e-15 within a trajectory and
        below 1e-6 across trajectories down to separations of 1e-5 of the norm (held by the tests).

    Raises:
        ValueError: for an unknown metric or center (lists the known ones), a missing reference, or, for cosines, a
            row that is the centre itself and has no direction.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}")
    if center not in CENTERS:
        raise ValueError(f'unknown center {center!r}; known: None, "mean", "reference"')
    if not isinstance(points, Gram):
        points = gram(points, reference=reference)
    elif reference is not None:
        raise ValueError("a Gram carries its reference; give reference to gram() instead")
    if (center == "reference" or include_reference) and not points.has_reference:
        raise ValueError("center='reference' and include_reference=True need a reference, and there is none")
    about = "reference" if center == "reference" else None
    high, low = inner_products(points, center=about)
    first = int(points.has_reference and not include_reference)
    high, low = high[first:, first:], low[first:, first:]
    squared = _squared_distances(high, low)
    if metric == "euclidean":
        return np.sqrt(squared)
    norms, differences = _squared_norms(high, low, squared, center)
    rounding = 1e-14 * norms.max() if center == "mean" else squared_rounding(points, center=about)[first:]
    return _cosine_distances(squared, norms, differences, rounding)


def inner_products(gram: Gram, *, center: str | None = None) -> Pair:
    """Inner products of the points (reference included), as float64 (k, k) and remainders (k, k).

    Args:
        gram: the increments.
        center: None for the vectors themselves, "reference" for their differences from the reference.
    """
    high, low = gram.products.copy(), gram.remainders.copy()
    if center == "reference":
        high[0], low[0], high[:, 0], low[:, 0] = 0, 0, 0, 0
    levels = rows_by_depth(gram.parents)
    for _ in range(2):  # point = parent + increment, for the rows and then for the columns
        for rows in levels:
            before = gram.parents[rows]
            high[rows], low[rows] = _add_pairs((high[rows], low[rows]), (high[before], low[before]))
        high, low = np.ascontiguousarray(high.T), np.ascontiguousarray(low.T)
    return high, low


def rows_by_depth(parents: np.ndarray) -> list[np.ndarray]:
    """Row numbers of the points one increment from a root, two increments, and so on; roots are left out."""
    depth = np.zeros(len(parents), int)
    for row, parent in enumerate(parents):
        depth[row] = depth[parent] + 1 if parent >= 0 else 0
    return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]


def squared_rounding(gram: Gram, *, center: str | None = None) -> np.ndarray:
    """What rounding leaves at most of the squared norm of a point that is the centre itself, float64 (k,).

    Squared norms are right to about 1e-16 of the squared length of the way along the increments; this is 1e-14 of it.
    A point that comes back to within 1e-7 of its way has no direction that could be told from rounding.
    """
    way = np.sqrt(np.diag(gram.products))
    if center == "reference":
        way[0] = 0
    for rows in rows_by_depth(gram.parents):
        way[rows] += way[gram.parents[rows]]
    return 1e-14 * way**2


def _squared_distances(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """|x_i - x_j|^2 of all pairs, from inner products as pairs; row by row to keep the memory small."""
    diagonal = np.diag(high).copy(), np.diag(low).copy()
    squared = np.empty_like(high)
    for row in range(len(high)):
        norms = _add_pairs((diagonal[0][row], diagonal[1][row]), diagonal)
        value, remainder = _add_pairs(norms, (-2 * high[row], -2 * low[row]))
        squared[row] = value + remainder
    squared = np.triu(np.maximum(squared, 0), 1)
    return squared + squared.T


def _squared_norms(
    high: np.ndarray, low: np.ndarray, squared: np.ndarray, center: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared norms from the centre, and their differences between all pairs, both float64."""
    if center == "mean":
        norms = squared.mean(axis=1) - squared.mean() / 2
        return norms, norms[:, None] - norms
    diagonal = np.diag(high), np.diag(low)
    differences = (diagonal[0][:, None] - diagonal[0]) + (diagonal[1][:, None] - diagonal[1])
    return diagonal[0], differences


def _cosine_distances(
    squared: np.ndarray, norms: np.ndarray, differences: np.ndarray, rounding: np.ndarray | float
) -> np.ndarray:
    """1 - cos = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|), which cancels nothing that matters.

    |x| - |y| comes from the difference of the squares, which keeps its digits where the norms are nearly equal.
    """
    zero = np.flatnonzero(norms <= rounding)  # the centre itself, without a direction
    if len(zero):
        raise ValueError(f"cosine distances need non-zero vectors, but rows {_some(zero)} are the centre itself")
    length = np.sqrt(norms)
    radial = differences / (length[:, None] + length)
    distances = np.maximum(squared - radial**2, 0) / (2 * length[:, None] * length)
    distances = np.triu(np.minimum(distances, 2), 1)
    return distances + distances.T


def _nearest_before(gram: Gram) -> np.ndarray:
    """The nearest row before each row, -1 where the reference (the origin, without one) is nearer."""
    high, low = inner_products(gram)
    squared = _squared_distances(high, low)
    first = int(gram.has_reference)
    parents = np.full(gram.num_points, -1)
    for row in range(first, len(squared)):
        nearest = int(np.argmin(squared[row, :row])) if row else -1
        if nearest >= first and (first or squared[row, nearest] < high[row, row]):
            parents[row - first] = nearest - first
    return parents


def _source(
    points: TrajectoryStore | PyTree, members: Sequence[int] | None, max_bytes: int
) -> tuple[Iterator[np.ndarray], int, int, np.ndarray | None]:
    """Column blocks of the points, the number of rows and columns, and each row's natural parent if known."""
    if isinstance(points, TrajectoryStore):
        chosen = np.arange(points.num_members) if members is None else np.asarray(members)
        if chosen.size == 0 or not np.all((chosen >= 0) & (chosen < points.num_members)):
            raise ValueError(f"members must be some of 0 to {points.num_members - 1}, got {members}")
        rows = (np.arange(points.num_epochs)[:, None] * points.num_members + chosen).ravel()
        blocks = (block[rows] if members is not None else block for block in points.blocks(max_bytes))
        return blocks, len(rows), points.num_parameters, np.maximum(np.arange(len(rows)) - len(chosen), -1)
    if members is not None:
        raise ValueError("members can be chosen from a TrajectoryStore only; index the arrays instead")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(points)]
    if not leaves or any(leaf.ndim == 0 or len(leaf) != len(leaves[0]) for leaf in leaves):
        raise ValueError(f"points must share a leading axis, got shapes {[leaf.shape for leaf in leaves]}")
    num_rows = len(leaves[0])
    if num_rows == 0 or sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(f"points must not be empty, got shapes {[leaf.shape for leaf in leaves]}")
    matrices = [leaf.reshape(num_rows, -1) for leaf in leaves]
    width = max(max_bytes // (4 * num_rows), 1)
    blocks = (matrix[:, start : start + width] for matrix in matrices for start in range(0, matrix.shape[1], width))
    return blocks, num_rows, sum(matrix.shape[1] for matrix in matrices), None


def _flatten_one(reference: PyTree, dimension: int) -> np.ndarray:
    flat = np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(reference)])
    if flat.size != dimension:
        raise ValueError(f"reference has {flat.size} parameters, the points have {dimension}")
    return flat.astype(np.float64)


def _check_parents(parents: Sequence[int] | np.ndarray, num_rows: int) -> np.ndarray:
    array = np.asarray(parents, np.int64)
    if array.shape != (num_rows,) or not np.all((array >= -1) & (array < np.arange(num_rows))):
        raise ValueError(
            f"parents must be {num_rows} row numbers, each -1 (a start) or smaller than its own row, got {parents}"
        )
    return array


def _refuse_non_finite(products: np.ndarray, *, has_reference: bool) -> None:
    bad = np.flatnonzero(~np.isfinite(np.diag(products)))
    if len(bad) and has_reference and bad[0] == 0:
        raise ValueError("reference has NaN or infinity")
    if len(bad):
        raise ValueError(f"points have NaN or infinity in, or just before, rows {_some(bad - has_reference)}")


def _some(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")


def _rotate(rows: np.ndarray) -> np.ndarray:
    """Rows (n, k) with their columns mixed in pairs by a rotation, which leaves their inner products as they are.

    The square of a float32 ends in a pattern of bits (odd^2 = 1 mod 8) that a float64 sum rounds down again and
    again: squared norms came out 1e-15 too small while products of different rows did not, and two points 1e-5 of
    their norm apart lost 1e-5 of their distance. With mixed columns the rounding is random and averages out.
    """
    half = rows.shape[1] // 2
    left, right, rest = rows[:, :half], rows[:, half : 2 * half], rows[:, 2 * half :]
    cosine, sine = np.cos(1.0), np.sin(1.0)
    return np.concatenate([cosine * left - sine * right, sine * left + cosine * right, rest], axis=1)


def _two_sum(a: np.ndarray, b: np.ndarray) -> Pair:
    """The sum of two arrays, exactly: the rounded sum and what rounding cut off (Knuth's TwoSum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _add_pairs(a: Any, b: Any) -> Pair:
    """The sum of two value-and-remainder pairs, normalised."""
    total, error = _two_sum(a[0], b[0])
    return _two_sum(total, error + (a[1] + b[1]))
