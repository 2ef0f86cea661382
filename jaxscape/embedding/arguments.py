"""Checks of the arguments of this room's functions, and the unit of their distances and coordinates.

All refusals are a `ValueError` of one line: the name of the argument, what it must be, and what it is.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import issparse

# Each step of diffusion rounds by 1e-16 of its result: after more there is nothing but rounding.
MOST_TIMES = 10**9

_ROWS = 256  # of a matrix that are compared with its columns at once


def require(accepted: bool, name: str, allowed: str, value: object) -> None:
    """Raise a ValueError that says what the argument `name` must be, unless its value is accepted."""
    if not accepted:
        shown = " ".join(repr(value).split())  # an array's is of several lines
        raise ValueError(f"{name} must be {allowed}, got {shown if len(shown) <= 80 else shown[:77] + '...'}")


def check_whole(
    name: str, value: object, least: int, most: int | None = None, *, most_is: str = "", or_else: str = ""
) -> None:
    """Raise a ValueError unless a value is a whole number in a range; True and 2.0 are not.

    Args:
        name: of the argument.
        value: of the argument.
        least: the smallest that is allowed.
        most: the largest that is allowed; None is any.
        most_is: what the largest is, such as "n - 1".
        or_else: what else is allowed, for the message, such as "None"; the caller must have excluded it.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    in_range = whole and least <= value and (most is None or value <= most)  # type: ignore[operator]
    top = f"{most_is} = {most}" if most_is else most
    range_ = f"of at least {least}" if most is None else f"from {least} to {top}"
    alternative = f"{or_else} or " if or_else else ""
    require(in_range, name, f"{alternative}a whole number {range_}", value)


def is_real(value: object) -> bool:
    """Return whether a value is a real number that a float can hold; NaN, True and strings are not."""
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def is_word(value: object, word: str) -> bool:
    """Return whether a value is that string; an array is not, whatever it holds."""
    return isinstance(value, str) and value == word


def check_diffusion(*, knn: object, decay: object, t: object, points: int, words: tuple[str, ...] = ()) -> None:
    """Raise a ValueError where a setting of PHATE is out of range for that many points.

    Args:
        knn: of the kernel.
        decay: of the kernel.
        t: steps of diffusion.
        points: their number.
        words: what knn may be instead of a number.
    """
    if points < 3:
        raise ValueError(f"PHATE needs at least 3 points, got {points}")
    if not any(is_word(knn, word) for word in words):
        check_whole("knn", knn, 1, points - 2, most_is="n - 2", or_else=", ".join(f'"{word}"' for word in words))
    require(is_real(decay) and decay > 0, "decay", "a positive number", decay)  # type: ignore[operator]
    if not is_word(t, "auto"):
        check_whole("t", t, 1, MOST_TIMES, or_else='"auto"')


def check_distinct(distances: np.ndarray) -> None:
    """Raise a ValueError where all points are the same: their graph has no bandwidth."""
    if not distances.any():
        raise ValueError("distances must not all be zero: all points are the same")


def check_key(key: object) -> None:
    """Raise a ValueError unless a value is one key of jax, typed or of the older kind."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32
    shape = () if typed else jax.eval_shape(lambda: jax.random.PRNGKey(0)).shape
    of_shape = (typed or raw) and key.shape == shape  # type: ignore[attr-defined]
    require(of_shape, "key", "one key, such as jax.random.key(0)", key)


def real_array(name: str, values: Any, *, shape: str) -> np.ndarray:
    """Return an array of finite real numbers as float64, without a copy where it is that.

    Args:
        name: of the argument.
        values: integers or floats of any size; no booleans, complex numbers, strings or objects.
        shape: in words, such as "(n, k)", with as many names as there must be axes.

    Raises:
        ValueError: where it is anything else; also for sparse matrices, and for masked arrays that mask something.
    """
    if issparse(values):
        raise ValueError(f"{name} must be a dense array, got a sparse matrix; {name}.toarray() makes it one")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must have no masked entries, got {np.ma.count_masked(values)}")
    array = _as_array(name, values, shape)
    numeric = jnp.issubdtype(array.dtype, np.integer) or jnp.issubdtype(array.dtype, np.floating)
    if not numeric or array.dtype.kind == "m":  # durations, which NumPy counts among the integers
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != len(shape.strip("(),").split(",")):
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        rows = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
        raise ValueError(f"{name} must be finite, but {len(rows)} rows hold NaN or infinity, first row {rows[0]}")
    return array


def _as_array(name: str, values: Any, shape: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError):  # rows of several lengths, keys of jax
        raise ValueError(f"{name} must be an array of shape {shape}, got {type(values).__name__}") from None


def picture(name: str, values: Any, *, fewest: int) -> np.ndarray:
    """Return coordinates (n, k) as float64, of at least that many points.

    Raises:
        ValueError: where they are anything else.
    """
    array = real_array(name, values, shape="(n, k)")
    if len(array) < fewest or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, k) with at least {fewest} points and one axis, got {array.shape}")
    return array


def labels(name: str, values: Any, count: int) -> np.ndarray:
    """Return a number for each label, int (count,), in the order of the labels, which are numbers or strings.

    Raises:
        ValueError: for another number of labels, NaN, or labels that have no order.
    """
    array = _as_array(name, values, f"({count},)")
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label per point, got {array.shape}")
    try:
        if np.ma.is_masked(values) or (array != array).any():
            raise ValueError(f"{name} must name every point, but NaN or a masked entry is among the labels")
        return np.unique(array, return_inverse=True)[1]
    except TypeError:
        raise ValueError(f"{name} must hold numbers or strings, got several types that have no order") from None


def distance_matrix(name: str, values: Any, *, fewest: int = 1, count: int | None = None) -> np.ndarray:
    """Return distances (n, n) as float64, without a copy where they are that.

    Args:
        name: of the argument.
        values: of the argument.
        fewest: how many points there must be at least.
        count: how many points there must be; None is any number.

    Raises:
        ValueError: where they are not square, hold NaN, infinity or negative numbers, are not symmetric to 1e-8 of the
            largest, have a diagonal that is not zero, or are of another number of points.
    """
    matrix = real_array(name, values, shape="(n, n)")
    if count is not None and matrix.shape != (count, count):
        raise ValueError(f"{name} must have shape {(count, count)}, got {matrix.shape}")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be a square matrix (n, n), got shape {matrix.shape}")
    if len(matrix) < fewest:
        raise ValueError(f"{name} must be of at least {fewest} points, got {len(matrix)}")
    if matrix.min(initial=0) < 0:
        raise ValueError(f"{name} must not be negative, got {matrix.min()}")
    if _asymmetry(matrix) > 1e-8 * matrix.max(initial=0):
        raise ValueError(f"{name} must be symmetric")
    if np.diag(matrix).any():
        raise ValueError(f"{name} must be zero on the diagonal")
    return matrix


def _asymmetry(matrix: np.ndarray) -> float:
    """The largest difference of two entries that should be the same, by blocks of rows to save memory."""
    starts = range(0, len(matrix), _ROWS)
    rows = ((matrix[start : start + _ROWS, start:], matrix[start:, start : start + _ROWS].T) for start in starts)
    return max((float(np.abs(one - other).max()) for one, other in rows), default=0.0)


def without_unit(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return values divided by a unit, a power of two, and the unit, so that their squares stay in range.

    Squares of float64 overflow from 1e154 on and lose their digits below 1e-154; float32, in which t-SNE squares,
    does so at 1e19 and 1e-19. A power of two changes no digit. Where the largest value is from 1e-6 to 1e6 the unit is
    1, and the values are returned as they are: there every method keeps its bytes.
    """
    largest = float(max(values.max(initial=0), -values.min(initial=0)))
    if largest == 0 or 2**-20 <= largest <= 2**20:
        return values, 1.0
    unit = math.ldexp(1, math.frexp(largest)[1] - 1)
    return values / unit, unit
