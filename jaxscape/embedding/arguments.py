"""Argument checks of the embedding functions, and the scaling of their distances and coordinates.

Every check raises a one-line `ValueError`: the name of the argument, what it must be, and what it is.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int, Real, Shaped
from scipy.sparse import issparse

# Each diffusion step has a relative rounding error of 1e-16: after more steps the result would be rounding error alone.
MOST_TIMES = 10**9

# What public functions take, which convert it to NumPy arrays of float64.
Distances = Real[np.ndarray | Array, "points points"]
Coordinates = Real[np.ndarray | Array, "points components"]
Numbers = Real[np.ndarray | Array, " points"] | Sequence[float]
Labels = Shaped[np.ndarray | Array, " points"] | Sequence[str | float]

_ROWS = 256  # rows of a matrix that are compared with its columns at once


def require(accepted: bool, name: str, allowed: str, value: object) -> None:
    """Raise a ValueError that says what the argument `name` must be, unless its value is accepted."""
    if not accepted:
        shown = " ".join(repr(value).split())  # the repr of an array has several lines
        raise ValueError(f"{name} must be {allowed}, got {shown if len(shown) <= 80 else shown[:77] + '...'}")


def check_whole(
    name: str, value: object, least: int, most: int | None = None, *, most_is: str = "", or_else: str = ""
) -> None:
    """Raise a ValueError unless a value is a whole number in a range; True and 2.0 are rejected.

    Args:
        name: name of the argument.
        value: value of the argument.
        least: smallest allowed value.
        most: largest allowed value; None for no limit.
        most_is: what the largest value stands for, such as "n - 1".
        or_else: what else the message should allow, such as "None"; the caller has handled that value already.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    in_range = whole and least <= value and (most is None or value <= most)  # type: ignore[operator]
    top = f"{most_is} = {most}" if most_is else most
    range_ = f"of at least {least}" if most is None else f"from {least} to {top}"
    alternative = f"{or_else} or " if or_else else ""
    require(in_range, name, f"{alternative}a whole number {range_}", value)


def is_real(value: object) -> bool:
    """Return whether a value is a real number that a float can hold; False for NaN, bools and strings."""
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def is_word(value: object, word: str) -> bool:
    """Return whether a value is the string `word`; False for arrays, whatever they hold."""
    return isinstance(value, str) and value == word


def check_diffusion(*, knn: object, decay: object, t: object, points: int, words: tuple[str, ...] = ()) -> None:
    """Raise a ValueError if a setting of PHATE is out of range for this number of points.

    Args:
        knn: neighbours that set the bandwidth of the kernel.
        decay: exponent of the kernel.
        t: diffusion time.
        points: number of points.
        words: strings that knn may be instead of a number.
    """
    if points < 3:
        raise ValueError(f"PHATE needs at least 3 points, got {points}")
    if not any(is_word(knn, word) for word in words):
        check_whole("knn", knn, 1, points - 2, most_is="n - 2", or_else=", ".join(f'"{word}"' for word in words))
    require(is_real(decay) and decay > 0, "decay", "a positive number", decay)  # type: ignore[operator]
    if not is_word(t, "auto"):
        check_whole("t", t, 1, MOST_TIMES, or_else='"auto"')


def check_distinct(distances: Float64[np.ndarray, "points points"]) -> None:
    """Raise a ValueError if all points are the same: their kernel has no bandwidth."""
    if not distances.any():
        raise ValueError("distances must not all be zero: all points are the same")


def check_key(key: object) -> None:
    """Raise a ValueError unless a value is a single JAX PRNG key, typed or legacy."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32
    shape = () if typed else jax.eval_shape(lambda: jax.random.PRNGKey(0)).shape
    of_shape = (typed or raw) and key.shape == shape  # type: ignore[attr-defined]
    require(of_shape, "key", "one PRNG key, such as jax.random.key(0)", key)


def real_array(name: str, values: Any, *, shape: str) -> Float64[np.ndarray, "..."]:
    """Return an array of finite real numbers as float64, without a copy if it is float64 already.

    Args:
        name: name of the argument.
        values: integers or floats of any width; no booleans, complex numbers, strings or objects.
        shape: the expected shape as text, such as "(n, k)", with one name per axis.

    Raises:
        ValueError: for anything else, including sparse matrices and masked arrays with masked entries.
    """
    if issparse(values):
        raise ValueError(f"{name} must be a dense array, got a sparse matrix; convert it with {name}.toarray()")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must have no masked entries, got {np.ma.count_masked(values)}")
    array = _as_array(name, values, shape)
    numeric = jnp.issubdtype(array.dtype, np.integer) or jnp.issubdtype(array.dtype, np.floating)
    if not numeric or array.dtype.kind == "m":  # timedelta64, which NumPy treats as a subtype of integers
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
    except (TypeError, ValueError):  # ragged rows, JAX keys
        raise ValueError(f"{name} must be an array of shape {shape}, got {type(values).__name__}") from None


def picture(name: str, values: Any, *, fewest: int) -> Float64[np.ndarray, "points components"]:
    """Return coordinates (n, k) as float64.

    Args:
        name: name of the argument.
        values: value of the argument.
        fewest: smallest allowed number of points.

    Raises:
        ValueError: if the values are not finite coordinates (n, k) of at least that many points.
    """
    array = real_array(name, values, shape="(n, k)")
    if len(array) < fewest or array.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, k) with at least {fewest} points and one axis, got {array.shape}")
    return array


def labels(name: str, values: Any, count: int) -> Int[np.ndarray, " points"]:
    """Return an integer code for each label, int (count,), in the sorted order of the labels (numbers or strings).

    Raises:
        ValueError: if there is not one label per point, a label is NaN, or the labels cannot be sorted.
    """
    array = _as_array(name, values, f"({count},)")
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one label per point, got {array.shape}")
    try:
        if np.ma.is_masked(values) or (array != array).any():
            raise ValueError(f"{name} must label every point, but NaN or a masked entry is among the labels")
        return np.unique(array, return_inverse=True)[1]
    except TypeError:
        raise ValueError(f"{name} must hold numbers or strings, got mixed types that cannot be sorted") from None


def distance_matrix(
    name: str, values: Any, *, fewest: int = 1, count: int | None = None
) -> Float64[np.ndarray, "points points"]:
    """Return distances (n, n) as float64, without a copy if they are float64 already.

    Args:
        name: name of the argument.
        values: value of the argument.
        fewest: smallest allowed number of points.
        count: required number of points; None for any.

    Raises:
        ValueError: if the matrix is not square, holds NaN, infinity or negative numbers, is not symmetric to 1e-8 of
            its largest entry, has a non-zero diagonal, or has another number of points.
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


def _asymmetry(matrix: Float64[np.ndarray, "points points"]) -> float:
    """Return the largest |m_ij - m_ji|, computed in blocks of rows to save memory."""
    starts = range(0, len(matrix), _ROWS)
    rows = ((matrix[start : start + _ROWS, start:], matrix[start:, start : start + _ROWS].T) for start in starts)
    return max((float(np.abs(one - other).max()) for one, other in rows), default=0.0)


def without_unit(values: Float64[np.ndarray, " *shape"]) -> tuple[Float64[np.ndarray, " *shape"], float]:
    """Return values divided by a power of two, and that power, so that their squares stay in range.

    Squares of float64 overflow above 1e154 and lose digits below 1e-154; those of float32, which t-SNE uses, at 1e19
    and 1e-19. Division by a power of two is exact. If the largest value is between 1e-6 and 1e6 the unit is 1 and the
    values are returned unchanged, so that results in this range do not depend on the scaling at all.
    """
    largest = float(max(values.max(initial=0), -values.min(initial=0)))
    if largest == 0 or 2**-20 <= largest <= 2**20:
        return values, 1.0
    unit = math.ldexp(1, math.frexp(largest)[1] - 1)
    return values / unit, unit
