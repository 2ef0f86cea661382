"""The inner products from which every distance and every geometric number comes, in one pass over the parameters.

What the pass collects is not the Gram matrix of the points. Two epochs of one trajectory differ by a thousandth of
their norm or less, and their distance would be a difference of nearly equal inner products: at a relative
separation of 1e-4 a float64 Gram matrix has lost nine of sixteen digits. The pass collects the inner products of
the *increments*: the reference (the minimum), each start minus the reference, each snapshot minus its predecessor.
A distance along a trajectory is then a sum of small numbers. Sums over columns, and over increments, are carried in
pairs of float64 (a value and the remainder that rounding cuts off), so that trajectories which start far apart and
come close together keep their distance too.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxscape.trajectories.increments import Points, sum_products
from jaxscape.trajectories.pairs import Pair, add_pairs
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any


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
    previous: Gram | None = None,
    devices: Sequence[jax.Device] | None = None,
    max_bytes: int = 2**28,
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
        previous: the Gram of the first of these points, with the same reference: its products are kept and only
            those of the new rows are computed. All points are read, for new rows have products with the old.
        devices: where to compute, each a share of the columns; [] is the host, with the threads of NumPy's BLAS.
            By default this process's GPUs, the host where there are none (a TPU has no float64).
        max_bytes: how much of the points is held at a time, as float32.

    Returns:
        A `Gram`. On the host the same points give the same bytes; other devices, or a `previous`, change the
        rounding (about 1e-16 of the squared norms).

    Raises:
        ValueError: for shapes that do not agree, rows with NaN or infinity (names them), or a `previous` of other
            points.
    """
    source = _source(points, members)
    if parents is None:
        parents = source.parents
    if parents is None:
        starts = gram(points, reference=reference, parents=[-1] * source.num_rows, devices=devices, max_bytes=max_bytes)
        parents = _nearest_before(starts)
    rows_before = _check_parents(parents, source.num_rows)
    flat_reference = None if reference is None else _flatten_one(reference, source.dimension)
    if flat_reference is not None:
        rows_before = np.concatenate([[-1], rows_before + 1])
    to_sum = Points(source.blocks, flat_reference, rows_before, source.dimension)
    first = 0 if previous is None else _first_to_compute(previous, to_sum)
    new = sum_products(to_sum, first, devices, max_bytes)
    _refuse_non_finite(np.diagonal(new[0], first), first, has_reference=reference is not None)
    products, remainders = new if previous is None else _extend(previous, new, first)
    return Gram(products, remainders, rows_before, reference is not None, source.dimension)


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
            high[rows], low[rows] = add_pairs((high[rows], low[rows]), (high[before], low[before]))
        high, low = np.ascontiguousarray(high.T), np.ascontiguousarray(low.T)
    return high, low


def take_points(gram: Gram, points: Sequence[int] | np.ndarray) -> Gram:
    """The Gram of some points, in order; with each point those before it on its trajectory must be taken.

    Args:
        gram: of all points.
        points: numbers of points, increasing, the reference not counted (it stays).

    Raises:
        ValueError: for numbers out of range or order, or a point whose predecessor is not taken.
    """
    first = int(gram.has_reference)
    rows = np.asarray(points, np.int64) + first
    if not len(rows) or np.any(np.diff(rows) <= 0) or rows[0] < first or rows[-1] >= len(gram.parents):
        raise ValueError(f"points must be increasing numbers from 0 to {gram.num_points - 1}, got {some_rows(rows)}")
    rows = np.concatenate([np.arange(first), rows])
    place = np.full(len(gram.parents) + 1, -2)  # the last entry is the origin's, parent -1
    place[rows], place[-1] = np.arange(len(rows)), -1
    parents = place[gram.parents[rows]]
    if np.any(parents == -2):
        missing = rows[parents == -2] - first
        raise ValueError(f"points {some_rows(missing)} are taken without those before them on their trajectories")
    grid = np.ix_(rows, rows)
    return gram._replace(products=gram.products[grid], remainders=gram.remainders[grid], parents=parents)


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


def squared_distances(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """|x_i - x_j|^2 of all pairs, from inner products as pairs; row by row to keep the memory small."""
    diagonal = np.diag(high).copy(), np.diag(low).copy()
    squared = np.empty_like(high)
    for row in range(len(high)):
        norms = add_pairs((diagonal[0][row], diagonal[1][row]), diagonal)
        value, remainder = add_pairs(norms, (-2 * high[row], -2 * low[row]))
        squared[row] = value + remainder
    squared = np.triu(np.maximum(squared, 0), 1)
    return squared + squared.T


def _first_to_compute(previous: Gram, points: Points) -> int:
    """The last row of `previous` that moved: its products, computed again, tell whether the rows are the same."""
    found = (previous.has_reference, previous.dimension)
    expected = (points.reference is not None, points.dimension)
    if found != expected:
        raise ValueError(f"previous has (has_reference, dimension) = {found}, the points have {expected}")
    count = len(previous.parents)
    if not np.array_equal(previous.parents, points.parents[:count]):
        raise ValueError(
            f"previous must be of the first of these {len(points.parents)} rows (the reference counted), with the "
            f"same parents; it has {count} rows"
        )
    return int(np.flatnonzero(np.diag(previous.products) > 0).max(initial=0))


def _extend(previous: Gram, new: Pair, first: int) -> Pair:
    """The products of `previous`, with the rows from `first` on; what both have must agree."""
    count = len(previous.parents)
    length = np.sqrt(np.diag(previous.products))
    agrees = np.abs(new[0][0, :count] - previous.products[first]) <= 1e-9 * length * length[first]
    if not agrees.all():  # NaN does not agree either
        rows = np.flatnonzero(~agrees) - previous.has_reference
        raise ValueError(f"previous is of other points, or another reference: rows {some_rows(rows)} differ")
    return _around(previous.products, new[0], first), _around(previous.remainders, new[1], first)


def _around(old: np.ndarray, rows: np.ndarray, first: int) -> np.ndarray:
    """The symmetric matrix (k, k) with `old` in its corner and the given rows from `first` on."""
    matrix = np.empty((rows.shape[1],) * 2)
    matrix[first:], matrix[:, first:] = rows, rows.T
    matrix[: len(old), : len(old)] = old
    return matrix


def _nearest_before(gram: Gram) -> np.ndarray:
    """The nearest row before each row, -1 where the reference (the origin, without one) is nearer."""
    high, low = inner_products(gram)
    squared = squared_distances(high, low)
    first = int(gram.has_reference)
    parents = np.full(gram.num_points, -1)
    for row in range(first, len(squared)):
        nearest = int(np.argmin(squared[row, :row])) if row else -1
        if nearest >= first and (first or squared[row, nearest] < high[row, row]):
            parents[row - first] = nearest - first
    return parents


class _Source(NamedTuple):
    """What the points are, before any of them is read."""

    num_rows: int
    dimension: int
    parents: np.ndarray | None  # of the rows, where they are known
    blocks: Callable[[int], Iterator[np.ndarray]]  # given the bytes of a block as float32


def _source(points: TrajectoryStore | PyTree, members: Sequence[int] | None) -> _Source:
    if isinstance(points, TrajectoryStore):
        points.blocks(sys.maxsize, members=members)  # reads nothing; refuses an empty store, and members not in it
        count = points.num_members if members is None else len(members)
        num_rows = points.num_epochs * count
        parents = np.maximum(np.arange(num_rows) - count, -1)
        return _Source(num_rows, points.num_parameters, parents, partial(points.blocks, members=members))
    if members is not None:
        raise ValueError("members can be chosen from a TrajectoryStore only; index the arrays instead")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(points)]
    if not leaves or any(leaf.ndim == 0 or len(leaf) != len(leaves[0]) for leaf in leaves):
        raise ValueError(f"points must share a leading axis, got shapes {[leaf.shape for leaf in leaves]}")
    num_rows = len(leaves[0])
    if num_rows == 0 or sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(f"points must not be empty, got shapes {[leaf.shape for leaf in leaves]}")
    matrices = [leaf.reshape(num_rows, -1) for leaf in leaves]

    def blocks(max_bytes: int) -> Iterator[np.ndarray]:
        width = max(max_bytes // (4 * num_rows), 1)
        return (matrix[:, first : first + width] for matrix in matrices for first in range(0, matrix.shape[1], width))

    return _Source(num_rows, sum(matrix.shape[1] for matrix in matrices), None, blocks)


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


def _refuse_non_finite(squares: np.ndarray, first: int, *, has_reference: bool) -> None:
    bad = first + np.flatnonzero(~np.isfinite(squares))
    if len(bad) and has_reference and bad[0] == 0:
        raise ValueError("reference has NaN or infinity")
    if len(bad):
        raise ValueError(f"points have NaN or infinity in, or just before, rows {some_rows(bad - has_reference)}")


def some_rows(rows: np.ndarray) -> str:
    """The first row numbers of many, for a message."""
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
