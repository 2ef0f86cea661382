"""The inner products from which every distance and every geometric number comes, in one pass over the parameters.

What the pass collects is not the Gram matrix of the points. Two epochs of one trajectory differ by a thousandth of
their norm or less, and their distance would be a difference of nearly equal inner products: at a relative
separation of 1e-4 a float64 Gram matrix has lost nine of sixteen digits. The pass collects the inner products of
the *increments*: the reference (the minimum), each start minus the reference, each snapshot minus its predecessor.
A distance along a trajectory is then a sum of small numbers. Sums over columns, and over increments, are carried in
pairs of float64 (a value and the remainder that rounding cuts off), so that trajectories which start far apart and
come close together keep their distance too.

Squares of finite float64 values may overflow or vanish. Where they do, all points are divided by one power of two
(exactly) and summed again; the Gram keeps the exponent.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from jaxscape.lazy import jax
from jaxscape.trajectories.increments import Points, sum_products
from jaxscape.trajectories.pairs import Pair, add_pairs
from jaxscape.trajectories.scales import TINY, is_narrow, out_of_range, scaled, scan
from jaxscape.trajectories.sources import Members, Source, check_parents, flatten_reference, integers, open_source
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any

LONGEST_WAY = 1000  # times its distance from the root: a longer way to a row costs more digits than a short step gains


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
    exponent: int = 0  # the products are those of the increments divided by 2**exponent

    @property
    def num_points(self) -> int:
        """n, the reference not counted."""
        return len(self.parents) - int(self.has_reference)


def gram(
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    reference: PyTree | None = None,
    members: Members | None = None,
    leaves: str | Sequence[str] | None = None,
    parents: Sequence[int] | np.ndarray | None = None,
    previous: Gram | None = None,
    devices: Sequence[jax.Device] | None = None,
    max_bytes: int = 2**28,
) -> Gram:
    """Return the Gram matrix of the increments between points, in one pass with bounded memory.

    Args:
        points: a `TrajectoryStore` (rows epoch by epoch, members within); a list of stores with the same arrays
            (rows store by store, of any numbers of epochs and members); a list or tuple of networks, pytrees with the
            same arrays, or of vectors of one length; an array (n, P); or a pytree of arrays stacked on axis 0 (an
            array (n,) in it is a scalar parameter), such as a dictionary or NamedTuple, for the items of a plain list
            or tuple are points. Real floats up to float64 and integers up to 2**53; values are taken as float64,
            exactly.
        reference: the minimum: the arrays of one point, with the key paths and shapes that they have in the points
            (in any order; a list or NamedTuple may come as the dictionary that a store or a checkpoint makes of it),
            or an array (P,). With `leaves` the others may be in it or not.
        members: of a store, those to take, in this order; all by default. Of several stores one selection for each,
            such as [[0, 1], None].
        leaves: the arrays to take, by key path such as "head/kernel" or by patterns such as "group1*/*/kernel", in
            which `*` stands for any text, "/" included; all by default. The Gram, and the distances and the geometry
            that follow from it, are those of these parameters alone: of one layer, or of adapters on a frozen base.
            Of a store the others are not read.
        parents: the row before each row on its trajectory, -1 for a start; parents[i] < i. By default a store's
            rows follow the same member's row of the previous epoch, never one of another store. Rows of anything else
            follow the nearest row before them, found by a pass of its own. Any choice gives the same distances, with
            more digits the shorter the increments are; a row far smaller than the way to it has no digits left, and
            its cosines are refused. Geometry and null trajectories need the trajectories themselves.
        previous: the Gram of the first of these points, with the same reference: its products are kept and only
            those of the new rows are computed. All points are read, for new rows have products with the old.
        devices: where to compute, each a share of the columns; [] is the host, with the threads of NumPy's BLAS.
            By default this process's GPUs, the host where there are none (a TPU has no float64).
        max_bytes: how much of the points is held at a time, as float32.

    Returns:
        A `Gram`. On the host the same points give the same bytes; other devices, or a `previous`, change the
        rounding (about 1e-16 of the squared norms).

    Raises:
        ValueError: for shapes, key paths or types that do not fit, leaves that match no array (names some), stores
            with other arrays than the first (names the array), rows with NaN or infinity (names them), rows whose
            steps are below 1e-144 of the largest value, or a `previous` of other points.
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


def inner_products(gram: Gram, *, center: str | None = None) -> Pair:
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


def take_points(gram: Gram, points: Sequence[int] | np.ndarray) -> Gram:
    """The Gram of some points, in order; with each point those before it on its trajectory must be taken.

    Args:
        gram: of all points.
        points: numbers of points, increasing, the reference not counted (it stays).

    Raises:
        ValueError: for numbers out of range or order, or a point whose predecessor is not taken.
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
    return 1e-14 * ways(gram, center=center) ** 2


def ways(gram: Gram, *, center: str | None = None) -> np.ndarray:
    """Return the length of the way along the increments, from the origin or the reference, to each point (k,)."""
    way = np.sqrt(np.diag(gram.products))
    if center == "reference":
        way[0] = 0
    for rows in rows_by_depth(gram.parents):
        way[rows] += way[gram.parents[rows]]
    return way


def longest_way_between(gram: Gram) -> float:
    """Return the length of the longest way between two points along the increments, the reference not counted."""
    step, from_root = np.sqrt(np.diag(gram.products)), ways(gram)
    way = np.zeros((len(step),) * 2)
    for row, parent in enumerate(gram.parents):
        way[row, :row] = step[row] + (way[parent, :row] if parent >= 0 else from_root[:row])
        way[:row, row] = way[row, :row]
    first = int(gram.has_reference)
    return float(way[first:, first:].max())


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


def require_gram(gram: Gram, argument: str = "gram") -> None:
    """Raise a ValueError where an argument is not a `Gram` that `gram` could have made."""
    if not isinstance(gram, Gram):
        raise ValueError(f"{argument} must be a Gram, as made by gram(), got {type(gram).__name__}")
    parents, k = gram.parents, len(gram.parents)
    are_rows = isinstance(parents, np.ndarray) and parents.shape == (k,) and parents.dtype.kind == "i"
    if not are_rows or np.any((parents < -1) | (parents >= np.arange(k))):
        raise ValueError(f"{argument} has parents that are not row numbers, each smaller than its own row or -1")
    shapes = [np.shape(gram.products), np.shape(gram.remainders)]
    if shapes != [(k, k)] * 2 or gram.num_points < 1:
        raise ValueError(f"{argument} has products and remainders of shapes {shapes} for {k} parents")
    if not (np.isfinite(gram.products).all() and np.isfinite(gram.remainders).all()):
        raise ValueError(f"{argument} has products that are NaN or infinite")


def unscaled(lengths: np.ndarray, gram: Gram) -> np.ndarray:
    """Return lengths that were computed from the products of a Gram in the units of the points.

    Raises:
        ValueError: where a length is beyond float64.
    """
    if gram.exponent == 0:
        return lengths
    with np.errstate(over="ignore", under="ignore"):
        found = np.ldexp(lengths, gram.exponent)
    if np.isinf(found).any():
        raise ValueError("points are so large that lengths between them are beyond float64; divide them all by 1e10")
    return found


def _check_pass(devices: Sequence[jax.Device] | None, max_bytes: int) -> None:
    if not isinstance(max_bytes, Real) or isinstance(max_bytes, bool) or not 1 <= max_bytes < np.inf:
        raise ValueError(f"max_bytes must be a positive number of bytes, got {max_bytes!r}")
    if devices is None:
        return
    if not isinstance(devices, Sequence) or not all(isinstance(device, jax.Device) for device in devices):
        raise ValueError(f"devices must be a sequence of jax.Device, [] for the host, got {devices!r}")


def _sum(
    source: Source,
    reference: np.ndarray | None,
    rows_before: np.ndarray,
    previous: Gram | None,
    devices: Sequence[jax.Device] | None,
    max_bytes: int,
) -> Gram:
    """Sum the products in one pass, and once more with all points scaled where their squares do not fit float64."""
    parents = rows_before if reference is None else np.concatenate([[-1], rows_before + 1])
    points = Points(source.blocks, reference, parents, source.dimension)
    first = 0 if previous is None else _first_to_compute(previous, points)
    exponent = 0 if previous is None else previous.exponent
    new = sum_products(scaled(points, exponent), first, devices, max_bytes)
    narrow = exponent == 0 and source.is_narrow and (reference is None or is_narrow(reference))
    doubtful = first + out_of_range(np.diagonal(new[0], first), narrow=narrow)
    if len(doubtful):
        found = scan(points, doubtful, max_bytes)
        _refuse_non_finite(found.is_finite, has_reference=reference is not None)
        if len(found.moved):
            exponent = found.exponent
            new = sum_products(scaled(points, exponent), first, devices, max_bytes)
            squares = np.diagonal(new[0], first)[found.moved - first]
            _refuse_vanished(found.moved[squares < TINY] - int(reference is not None))
    if previous is not None:
        new = _extend(_rescaled(previous, exponent), new, first)
    return Gram(*new, parents, reference is not None, source.dimension, exponent)


def _rescaled(gram: Gram, exponent: int) -> Gram:
    if gram.exponent == exponent:
        return gram
    squares = np.diag(gram.products)
    with np.errstate(under="ignore", over="ignore"):
        high, low = (np.ldexp(part, 2 * (gram.exponent - exponent)) for part in (gram.products, gram.remainders))
    if not np.isfinite(high).all():
        raise ValueError("previous is of other points, or another reference: its points are far larger than these")
    _refuse_vanished(np.flatnonzero((squares > 0) & (np.diag(high) < TINY)) - int(gram.has_reference))
    return gram._replace(products=high, remainders=low, exponent=exponent)


def _refuse_non_finite(is_finite: np.ndarray, *, has_reference: bool) -> None:
    bad = np.flatnonzero(~is_finite)
    if len(bad) and has_reference and bad[0] == 0:
        raise ValueError("reference has NaN or infinity")
    if len(bad):
        raise ValueError(f"points have NaN or infinity in rows {some_rows(bad - has_reference)}")


def _refuse_vanished(rows: np.ndarray) -> None:
    """Refuse rows (-1 is the reference) whose squared steps are lost beside the largest value of all points."""
    if len(rows):
        raise ValueError(
            f"points differ too much in size: the step to rows {some_rows(rows)} (-1: the reference) is below 1e-144 "
            f"of the largest value, and its square is lost in float64"
        )


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


def _nearest_before(starts: Gram) -> np.ndarray:
    """The nearest row before each row, -1 where the reference (the origin, without one) is the better start.

    Args:
        starts: the Gram of rows that all lead from the reference, or the origin.
    """
    high, low = inner_products(starts)
    squared = squared_distances(high, low)
    first = int(starts.has_reference)
    from_root = np.diag(starts.products)
    way = np.sqrt(from_root)  # along the increments that are chosen
    parents = np.full(starts.num_points, -1)
    for row in range(first, len(squared)):
        nearest = int(np.argmin(squared[row, :row])) if row else -1
        if nearest < first or (not first and squared[row, nearest] >= high[row, row]):
            continue
        length = way[nearest] + np.sqrt(squared[row, nearest])
        if length <= LONGEST_WAY * way[row]:
            parents[row - first], way[row] = nearest - first, length
    return parents


def some_rows(rows: np.ndarray) -> str:
    """The first row numbers of many, for a message."""
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
