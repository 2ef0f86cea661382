"""Scaling of points whose squares would overflow or underflow float64, by a power of two, which is exact.

float64 represents 1e-308 to 1e308, so squares limit values to 1e-154 to 1e154. float32 and narrower dtypes never reach
these limits.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Real

from jaxscape.trajectories.increments import Points, with_reference

TINY, HUGE = 2.0**-960, 2.0**960  # limits for squared lengths, with room for their remainders and for long sums


class Scan(NamedTuple):
    """Facts about the values of points that their products do not show."""

    is_finite: Bool[np.ndarray, " rows"]
    moved: Int[np.ndarray, " moved"]  # the given rows that differ from their parents
    exponent: int  # 2**(exponent - 1) <= largest finite value < 2**exponent


def is_narrow(values: Real[np.ndarray, "..."]) -> bool:
    """Return whether float32 represents the values exactly, so that float64 represents their squares."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return bool((values.astype(np.float32) == values).all())


def out_of_range(squares: Float64[np.ndarray, " rows"], *, narrow: bool) -> Int[np.ndarray, " _"]:
    """Return the indices of squared lengths that may have overflowed or lost digits.

    Args:
        squares: the squared lengths.
        narrow: whether the points are float32 or narrower, so that a square of zero is exact.
    """
    fits = (squares >= TINY) & (squares <= HUGE)
    return np.flatnonzero(~(fits | (squares == 0)) if narrow else ~fits)


def scan(points: Points, rows: Int[np.ndarray, " chosen"], max_bytes: int) -> Scan:
    """Read the points once, for the facts that decide how to scale them.

    Args:
        points: the points.
        rows: rows whose increments may have overflowed or underflowed.
        max_bytes: approximate limit for the memory that is used at a time.
    """
    is_finite = np.ones(len(points.parents), bool)
    is_moved = np.zeros(len(rows), bool)
    largest = 0.0
    before = points.parents[rows]
    for block, reference in with_reference(points, max(max_bytes // 4, 4 * len(is_finite))):
        values = np.concatenate([reference, np.asarray(block, np.float64)])
        finite = np.isfinite(values)
        is_finite &= finite.all(axis=1)
        largest = max(largest, float(np.abs(values).max(where=finite, initial=0)))
        is_moved |= (values[rows] != np.where(before[:, None] < 0, 0, values[before])).any(axis=1)
    return Scan(is_finite, rows[is_moved], int(np.frexp(largest)[1]))


def scaled(points: Points, exponent: int) -> Points:
    """Return the points divided by 2**exponent; only values below 1e-300 of the largest underflow."""
    if exponent == 0:
        return points

    def blocks(max_bytes: int) -> Iterator[Float64[np.ndarray, "points columns"]]:
        return (_divided(block, exponent) for block in points.blocks(max_bytes))

    reference = None if points.reference is None else _divided(points.reference, exponent)
    return points._replace(blocks=blocks, reference=reference)


def _divided(values: Real[np.ndarray, " *shape"], exponent: int) -> Float64[np.ndarray, " *shape"]:
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        divided: np.ndarray = np.ldexp(np.asarray(values, np.float64), -exponent)
    return divided
