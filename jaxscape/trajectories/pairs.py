"""Sums in pairs of float64, a value and the remainder that rounding cut off: twice the digits (Knuth; Dekker)."""

from typing import Any

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # value and remainder: their sum is exact to about 1e-32


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The sum of two arrays, exactly: the rounded sum and what rounding cut off."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add_pairs(a: Any, b: Any) -> Pair:
    """The sum of two value-and-remainder pairs, normalised."""
    total, error = two_sum(a[0], b[0])
    return two_sum(total, error + a[1] + b[1])
