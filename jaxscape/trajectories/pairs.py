"""Double-double addition: a sum is a float64 value plus the remainder that rounding cut off (Knuth; Dekker)."""

from typing import Any

import numpy as np
from jaxtyping import Float64

# Value and remainder, of the same shape, whose sum has a relative error of about 1e-32.
Pair = tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """Return the exact sum of two arrays: the rounded sum and the remainder that rounding cut off."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add_pairs(a: Any, b: Any) -> Pair:
    """Return the normalised sum of two pairs of value and remainder."""
    total, error = two_sum(a[0], b[0])
    return two_sum(total, error + a[1] + b[1])
