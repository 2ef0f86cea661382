"""Functions and a record whose signatures are wrong, for tests/test_checked_shapes.py."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float64


class Norms(NamedTuple):
    """The norms of members."""

    first: Float[np.ndarray, " members"]
    last: Float[np.ndarray, " members"]


def outer(rows: Float[np.ndarray, " n"], columns: Float[np.ndarray, " m"]) -> Float[np.ndarray, "n n"]:
    """Return products, whose shape is (n, m)."""
    if rows.ndim != 1:
        raise ValueError(f"rows must be a vector, got {rows.ndim} axes")
    return np.outer(rows, columns)


def wide(values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the values, of any precision."""
    return values


def norms(first: Float[np.ndarray, "..."], last: Float[np.ndarray, "..."]) -> Norms:
    """Return a record of what is given."""
    return Norms(first, last)


def blocks(width: int) -> Iterator[Float[np.ndarray, "rows 2"]]:
    """Yield a block of the promised width, and one of another."""
    yield np.zeros((3, 2))
    yield np.zeros((3, width))


def stacked(arrays: list[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "count n"]:
    """Return a list of arrays, end to end or one above the other."""
    same = len({len(array) for array in arrays}) == 1
    return np.stack(arrays) if same else np.concatenate(arrays)[None]


def lengths(points: Float[Array, "n 2"]) -> Float[Array, " n"]:
    """Return the lengths of points in the plane, and anything else as it is."""
    return (points**2).sum(axis=-1) ** 0.5 if points.ndim == 2 else points
