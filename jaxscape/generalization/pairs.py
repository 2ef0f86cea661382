"""Pairs of minima whose order a measure can get right or wrong, and cells of minima with the same hyperparameters."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64


class Pairs(NamedTuple):
    """Pairs of minima with unequal gaps; `first` has the lower index."""

    first: Int64[np.ndarray, " pairs"]  # index of one minimum
    second: Int64[np.ndarray, " pairs"]  # index of the other
    # 1 if the measure orders the two as the gap does, -1 if it reverses them, 0 if it ties them
    agreement: Float64[np.ndarray, " pairs"]


def comparable_pairs(measure: Float64[np.ndarray, " minima"], gap: Float64[np.ndarray, " minima"]) -> Pairs:
    """Return all pairs of minima with unequal gaps."""
    first, second = np.triu_indices(len(gap), 1)
    unequal = gap[first] != gap[second]
    first, second = first[unequal], second[unequal]
    return Pairs(first, second, np.sign(measure[first] - measure[second]) * np.sign(gap[first] - gap[second]))


def cell_numbers(codes: Int64[np.ndarray, "minima factors"]) -> Int64[np.ndarray, " minima"]:
    """Return the number of each row (n, k) of whole numbers from 0 among the different rows, from 0; int64 (n,)."""
    cell = np.zeros(len(codes), np.int64)
    for column in codes.T:  # much faster than np.unique(axis=0)
        cell = np.unique(cell * (column.max() + 1) + column, return_inverse=True)[1]
    return cell
