"""The inner products from which all distances and geometric statistics follow, in one pass over the parameters.

The pass does not compute the Gram matrix of the points. Two epochs of one trajectory differ by 1/1000 of their norm or
less, and their distance would be a difference of nearly equal inner products: at a relative separation of 1e-4 a
float64 Gram matrix has lost nine of sixteen digits. The pass computes the Gram matrix of the *increments*: the
reference (the minimum), each start minus the reference, each snapshot minus its predecessor. A distance along a
trajectory is then a sum of small numbers. Sums over columns, and over increments, use double-double addition (a value
and the remainder that rounding cuts off, both float64), so that distances between trajectories that start far apart and
come close together keep their digits too.

Squares of finite float64 values may overflow or underflow. If they do, all points are divided by a power of two, which
is exact, and summed again; the IncrementGram keeps the exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Integer

from jaxscape.lazy import jax
from jaxscape.trajectories.increments import Points, sum_products
from jaxscape.trajectories.pairs import Pair, add_pairs
from jaxscape.trajectories.scales import TINY, is_narrow, out_of_range, scaled, scan
from jaxscape.trajectories.sources import Members, Source, check_parents, flatten_reference, integers, open_source
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

# A row may be reached by a path of at most this many times its distance from the root: a longer path costs more digits
# than a short step saves.
LONGEST_PATH = 1000


class IncrementGram(NamedTuple):
    """The Gram matrix of the increments that lead to n points, with or without a reference; k = n (+ 1).

    Increment i leads from point parents[i] to point i. A reference is row 0, and the starts of all trajectories are its
    children; without one the starts are increments from the origin.
    """

    products: Float64[np.ndarray, "rows rows"]
    remainders: Float64[np.ndarray, "rows rows"]  # the remainders that rounding cut off the products
    parents: Int[np.ndarray, " rows"]  # parents[i] < i; -1 is the origin
    has_reference: bool
    dimension: int  # P, the number of parameters
    exponent: int = 0  # the products are those of the increments divided by 2**exponent

    @property
    def num_points(self) -> int:
        """Return n, not counting the reference."""
        return len(self.parents) - int(self.has_reference)


def gram(
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    reference: PyTree | None = None,
    members: Members | None = None,
    leaves: str | Sequence[str] | None = None,
    parents: Sequence[int] | Integer[np.ndarray, " points"] | None = None,
    previous: IncrementGram | None = None,
    devices: Sequence[jax.Device] | None = None,
    max_bytes: int = 2**28,
) -> IncrementGram:
    """Return the Gram matrix of the increments between points, in one pass with bounded memory.

    Args:
        points: a `TrajectoryStore` (rows epoch by epoch, members within); a list of stores with the same arrays
            (rows store by store, of any numbers of epochs and members); a list or tuple of networks, pytrees with the
            same arrays, or of vectors of the same length; an array (n, P); or a pytree of arrays stacked on axis 0 (an
            array (n,) in it is a scalar parameter), such as a dictionary or NamedTuple, since the items of a plain list
            or tuple are points. Real floats up to float64 and integers up to 2**53, which float64 represents exactly.
        reference: the minimum: the arrays of one point, with the same key paths and shapes as in the points (in any
            order; a list or NamedTuple may be given as the dictionary that a store or a checkpoint makes of it), or an
            array (P,). With `leaves` it may include the other arrays or not.
        members: members of a store to include, in this order; all by default. For several stores, one selection each,
            such as [[0, 1], None].
        leaves: the arrays to include, by key path such as "head/kernel" or by patterns such as "group1*/*/kernel", in
            which `*` stands for any text, "/" included; all by default. The result, and the distances and the geometry
            that follow from it, are those of these parameters alone: of one layer, or of adapters on a frozen base.
            The other arrays of a store are not read.
        parents: the predecessor of each row on its trajectory, -1 for a start; parents[i] < i. By default the parent of
            a store's row is the same member's row of the previous epoch, never one of another store. For other points
            it is the nearest row before, found in an extra pass. Any choice gives the same distances, with more digits
            the shorter the increments are. A row far smaller than the path length to it has no digits left, and its
            cosines are refused. Geometry and null trajectories require the real trajectories.
        previous: the result for the first of these points, with the same reference. Its products are reused and only
            those of the new rows are computed. All points are read, since new rows have products with the old ones.
        devices: devices that take blocks of columns in turn; [] is the host, with the threads of NumPy's BLAS. By
            default this process's GPUs, or the host if there are none (a TPU has no float64).
        max_bytes: limit for the float32 points that are held at a time.

    Returns:
        An `IncrementGram`. On the host the same points give the same bytes; other devices, or a `previous`, change the
        rounding (about 1e-16 of the squared norms).

    Raises:
        ValueError: for shapes, key paths or dtypes that do not match, leaves that match no array (names some), stores
            whose arrays differ from those of the first (names the array), rows with NaN or infinity (names them), rows
            whose steps are below 1e-144 of the largest value, or a `previous` of other points.
    """
    _check_pass(devices, max_bytes)
    source = open_source(points, members, leaves)
    flat_reference = None if reference is None else flatten_reference(reference, source)
    rows_before = source.parents if parents is None else check_parents(parents, source.num_rows)
    if previous is not None:
        require_gram(previous, "previous")
    if rows_before is None:
        origins = np.full(source.num_rows, -1)
        rows_before = _nearest_before(_sum(source, flat_reference, origins, None, devices, int(max_bytes)))
    return _sum(source, flat_reference, rows_before, previous, devices, int(max_bytes))


def inner_products(
    gram: IncrementGram, *, center: str | None = None
) -> tuple[Float64[np.ndarray, "rows rows"], Float64[np.ndarray, "rows rows"]]:
    """Return the inner products of the points (reference included), as float64 (k, k) and remainders (k, k).

    They are those of the points divided by 2**gram.exponent, as are `products`.

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


def take_points(gram: IncrementGram, points: Sequence[int] | Integer[np.ndarray, " chosen"]) -> IncrementGram:
    """Return the IncrementGram of some points, in order; they must include the predecessors of each of them.

    Args:
        gram: the result for all points.
        points: increasing numbers of points, not counting the reference, which stays.

    Raises:
        ValueError: if numbers are out of range or not increasing, or the predecessor of a point is missing.
    """
    require_gram(gram)
    first = int(gram.has_reference)
    rows = integers(points, "points must be a sequence of integers") + first
    if not len(rows) or np.any(np.diff(rows) <= 0) or rows[0] < first or rows[-1] >= len(gram.parents):
        raise ValueError(
            f"points must be increasing numbers from 0 to {gram.num_points - 1}, got {some_rows(rows - first)}"
        )
    rows = np.concatenate([np.arange(first), rows])
    place = np.full(len(gram.parents) + 1, -2)  # the last entry is the origin's, parent -1
    place[rows], place[-1] = np.arange(len(rows)), -1
    parents = place[gram.parents[rows]]
    if np.any(parents == -2):
        missing = rows[parents == -2] - first
        raise ValueError(f"points must include the predecessors of points {some_rows(missing)} on their trajectories")
    grid = np.ix_(rows, rows)
    return gram._replace(products=gram.products[grid], remainders=gram.remainders[grid], parents=parents)


def rows_by_depth(parents: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " _"]]:
    """Return the row numbers of the points one increment from a root, two increments, and so on, without the roots."""
    depth = np.zeros(len(parents), int)
    for row, parent in enumerate(parents):
        depth[row] = depth[parent] + 1 if parent >= 0 else 0
    return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]


def squared_rounding(gram: IncrementGram, *, center: str | None = None) -> Float64[np.ndarray, " rows"]:
    """Return a bound on the rounding error of the squared norms, float64 (k,).

    Their error is about 1e-16 of the squared path length along the increments; this is 1e-14 of it. The direction of a
    point that returns to within 1e-7 of its path length cannot be distinguished from rounding error.
    """
    return 1e-14 * path_lengths(gram, center=center) ** 2


def path_lengths(gram: IncrementGram, *, center: str | None = None) -> Float64[np.ndarray, " rows"]:
    """Return the path length along the increments, from the origin or the reference, to each point (k,)."""
    path = np.sqrt(np.diag(gram.products))
    if center == "reference":
        path[0] = 0
    for rows in rows_by_depth(gram.parents):
        path[rows] += path[gram.parents[rows]]
    return path


def longest_path_between(gram: IncrementGram) -> float:
    """Return the largest path length between two points along the increments, not counting the reference."""
    step, from_root = np.sqrt(np.diag(gram.products)), path_lengths(gram)
    path = np.zeros((len(step),) * 2)
    for row, parent in enumerate(gram.parents):
        path[row, :row] = step[row] + (path[parent, :row] if parent >= 0 else from_root[:row])
        path[:row, row] = path[row, :row]
    first = int(gram.has_reference)
    return float(path[first:, first:].max())


def squared_distances(
    high: Float64[np.ndarray, "rows rows"], low: Float64[np.ndarray, "rows rows"]
) -> Float64[np.ndarray, "rows rows"]:
    """Return |x_i - x_j|^2 of all pairs, from double-double inner products; row by row to save memory."""
    diagonal = np.diag(high).copy(), np.diag(low).copy()
    squared = np.empty_like(high)
    for row in range(len(high)):
        norms = add_pairs((diagonal[0][row], diagonal[1][row]), diagonal)
        value, remainder = add_pairs(norms, (-2 * high[row], -2 * low[row]))
        squared[row] = value + remainder
    squared = np.triu(np.maximum(squared, 0), 1)
    return squared + squared.T


def require_gram(gram: IncrementGram, argument: str = "gram") -> None:
    """Raise a ValueError if an argument is not an `IncrementGram` that `gram` could have returned."""
    if not isinstance(gram, IncrementGram):
        raise ValueError(f"{argument} must be an IncrementGram, as returned by gram(), got {type(gram).__name__}")
    parents, k = gram.parents, len(gram.parents)
    are_rows = isinstance(parents, np.ndarray) and parents.shape == (k,) and parents.dtype.kind == "i"
    if not are_rows or np.any((parents < -1) | (parents >= np.arange(k))):
        raise ValueError(f"{argument} has parents that are not row numbers, each smaller than its own row or -1")
    shapes = [np.shape(gram.products), np.shape(gram.remainders)]
    if shapes != [(k, k)] * 2 or gram.num_points < 1:
        raise ValueError(f"{argument} has products and remainders of shapes {shapes} for {k} parents")
    if not (np.isfinite(gram.products).all() and np.isfinite(gram.remainders).all()):
        raise ValueError(f"{argument} has products that are NaN or infinite")


def unscaled(lengths: Float64[np.ndarray, " *shape"], gram: IncrementGram) -> Float64[np.ndarray, " *shape"]:
    """Return lengths, computed from the products of an IncrementGram, in the units of the points.

    Raises:
        ValueError: if a length is beyond float64.
    """
    if gram.exponent == 0:
        return lengths
    with np.errstate(over="ignore", under="ignore"):
        original = np.ldexp(lengths, gram.exponent)
    if np.isinf(original).any():
        raise ValueError("points are so large that lengths between them are beyond float64; divide them all by 1e10")
    return original


def _check_pass(devices: Sequence[jax.Device] | None, max_bytes: int) -> None:
    if not isinstance(max_bytes, Real) or isinstance(max_bytes, bool) or not 1 <= max_bytes < np.inf:
        raise ValueError(f"max_bytes must be a positive number of bytes, got {max_bytes!r}")
    if devices is None:
        return
    if not isinstance(devices, Sequence) or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(f"devices must be a sequence of jax.Device, [] for the host, got {devices!r}")


def _sum(
    source: Source,
    reference: Float64[np.ndarray, " parameters"] | None,
    rows_before: Int[np.ndarray, " points"],
    previous: IncrementGram | None,
    devices: Sequence[jax.Device] | None,
    max_bytes: int,
) -> IncrementGram:
    """Sum the products in one pass, and again with all points scaled if their squares overflow or underflow."""
    parents = rows_before if reference is None else np.concatenate([[-1], rows_before + 1])
    points = Points(source.blocks, reference, parents, source.dimension)
    first = 0 if previous is None else _first_to_compute(previous, points)
    exponent = 0 if previous is None else previous.exponent
    new = sum_products(scaled(points, exponent), first, devices, max_bytes)
    narrow = exponent == 0 and source.is_narrow and (reference is None or is_narrow(reference))
    doubtful = first + out_of_range(np.diagonal(new[0], first), narrow=narrow)
    if len(doubtful):
        values = scan(points, doubtful, max_bytes)
        _refuse_non_finite(values.is_finite, has_reference=reference is not None)
        if len(values.moved):
            exponent = values.exponent
            new = sum_products(scaled(points, exponent), first, devices, max_bytes)
            squares = np.diagonal(new[0], first)[values.moved - first]
            _refuse_vanished(values.moved[squares < TINY] - int(reference is not None))
    if previous is not None:
        new = _extend(_rescaled(previous, exponent), new, first)
    return IncrementGram(*new, parents, reference is not None, source.dimension, exponent)


def _rescaled(gram: IncrementGram, exponent: int) -> IncrementGram:
    if gram.exponent == exponent:
        return gram
    squares = np.diag(gram.products)
    with np.errstate(under="ignore", over="ignore"):
        high, low = (np.ldexp(part, 2 * (gram.exponent - exponent)) for part in (gram.products, gram.remainders))
    if not np.isfinite(high).all():
        raise ValueError("previous is of other points, or another reference: its points are far larger than these")
    _refuse_vanished(np.flatnonzero((squares > 0) & (np.diag(high) < TINY)) - int(gram.has_reference))
    return gram._replace(products=high, remainders=low, exponent=exponent)


def _refuse_non_finite(is_finite: Bool[np.ndarray, " rows"], *, has_reference: bool) -> None:
    bad = np.flatnonzero(~is_finite)
    if len(bad) and has_reference and bad[0] == 0:
        raise ValueError("reference has NaN or infinity")
    if len(bad):
        raise ValueError(f"points have NaN or infinity in rows {some_rows(bad - has_reference)}")


def _refuse_vanished(rows: Int[np.ndarray, " rows"]) -> None:
    """Refuse rows (-1 is the reference) whose squared steps underflow after scaling by the largest value."""
    if len(rows):
        raise ValueError(
            f"points differ too much in size: the step to rows {some_rows(rows)} (-1: the reference) is below 1e-144 "
            f"of the largest value, and its square is lost in float64"
        )


def _first_to_compute(previous: IncrementGram, points: Points) -> int:
    """Return the last row of `previous` that moved: its products are computed again, to check that the rows agree."""
    kind = (previous.has_reference, previous.dimension)
    expected = (points.reference is not None, points.dimension)
    if kind != expected:
        raise ValueError(f"previous has (has_reference, dimension) = {kind}, the points have {expected}")
    count = len(previous.parents)
    if not np.array_equal(previous.parents, points.parents[:count]):
        raise ValueError(
            f"previous must be of the first of these {len(points.parents)} rows (counting the reference), with the "
            f"same parents; it has {count} rows"
        )
    return int(np.flatnonzero(np.diag(previous.products) > 0).max(initial=0))


def _extend(previous: IncrementGram, new: Pair, first: int) -> Pair:
    """Return the products of `previous` extended by the rows from `first` on; rows in both must agree."""
    count = len(previous.parents)
    length = np.sqrt(np.diag(previous.products))
    agrees = np.abs(new[0][0, :count] - previous.products[first]) <= 1e-9 * length * length[first]
    if not agrees.all():  # NaN does not agree either
        rows = np.flatnonzero(~agrees) - previous.has_reference
        raise ValueError(f"previous is of other points, or another reference: rows {some_rows(rows)} differ")
    return _bordered(previous.products, new[0], first), _bordered(previous.remainders, new[1], first)


def _bordered(
    old: Float64[np.ndarray, "old old"], rows: Float64[np.ndarray, "new rows"], first: int
) -> Float64[np.ndarray, "rows rows"]:
    """Return the symmetric matrix (k, k) with `old` in its upper left corner and the given rows from `first` on."""
    matrix = np.empty((rows.shape[1],) * 2)
    matrix[first:], matrix[:, first:] = rows, rows.T
    matrix[: len(old), : len(old)] = old
    return matrix


def _nearest_before(starts: IncrementGram) -> Int[np.ndarray, " points"]:
    """Return the nearest row before each row, or -1 if the reference (the origin, without one) is the better parent.

    Args:
        starts: the IncrementGram of rows that are all increments from the reference, or the origin.
    """
    high, low = inner_products(starts)
    squared = squared_distances(high, low)
    first = int(starts.has_reference)
    from_root = np.diag(starts.products)
    path = np.sqrt(from_root)  # path lengths along the chosen increments
    parents = np.full(starts.num_points, -1)
    for row in range(first, len(squared)):
        nearest = int(np.argmin(squared[row, :row])) if row else -1
        if nearest < first or (not first and squared[row, nearest] >= high[row, row]):
            continue
        length = path[nearest] + np.sqrt(squared[row, nearest])
        if length <= LONGEST_PATH * path[row]:
            parents[row - first], path[row] = nearest - first, length
    return parents


def some_rows(rows: Int[np.ndarray, " rows"]) -> str:
    """Return row numbers as text for a message, the first ten of many."""
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
