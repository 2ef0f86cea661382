"""Pairs of minima whose order a measure can get right or wrong, and cells of minima with the same hyperparameters."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Pairs(NamedTuple):
    """Pairs of minima with unequal gaps; `first` has the lower index."""

    first: NDArray[np.int64]  # (pairs,) index of one minimum
    second: NDArray[np.int64]  # (pairs,) index of the other
    # (pairs,) 1 if the measure orders the two as the gap does, -1 if it reverses them, 0 if it ties them
    agreement: NDArray[np.float64]


def comparable_pairs(measure: NDArray[np.float64], gap: NDArray[np.float64]) -> Pairs:
    """Return all pairs of minima with unequal gaps."""
    first, second = np.triu_indices(len(gap), 1)
    unequal = gap[first] != gap[second]
    first, second = first[unequal], second[unequal]
    return Pairs(first, second, np.sign(measure[first] - measure[second]) * np.sign(gap[first] - gap[second]))


def cell_numbers(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each row (n, k) of whole numbers from 0 among the different rows, from 0; int64 (n,)."""
    cell = np.zeros(len(codes), np.int64)
    for column in codes.T:  # much faster than np.unique(axis=0)
        cell = np.unique(cell * (column.max() + 1) + column, return_inverse=True)[1]
    return cell
