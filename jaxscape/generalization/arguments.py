"""Checks of the arguments of the scores: measures, gaps, factors, and seeds.

Each raises a one-line error that names the argument, shows its value and says what is allowed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from jaxscape.arguments import typed_key, whole_number
from jaxscape.lazy import jax


def numbers(
    name: str, values: Any, *, least: int = 1, columns: bool = False
) -> Float64[np.ndarray, " values *columns"]:
    """Return finite real numbers as float64 (n,).

    Args:
        name: name of the argument.
        values: the numbers.
        least: smallest allowed n.
        columns: whether (n, k) is allowed too.

    Raises:
        ValueError: for anything but real numbers, a wrong shape, fewer numbers than `least`, NaN or infinity (says how
            many).
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unequal lengths
        raise ValueError(f"{name} must be an array of numbers, got rows of unequal lengths") from None
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, got {array.dtype}")
    if array.ndim != 1 and not (columns and array.ndim == 2):
        raise ValueError(f"{name} must have shape (n,){' or (n, k)' if columns else ''}, got {array.shape}")
    if len(array) < least:
        raise ValueError(f"{name} must have at least {least} values, got {len(array)}")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} must be finite, but {bad} of {array.size} values are NaN or infinite")
    return array.astype(np.float64)


def paired(measure: Any, gap: Any) -> tuple[Float64[np.ndarray, " minima"], Float64[np.ndarray, " minima"]]:
    """Return a measure and a gap as float64 (n,), n at least 2.

    Raises:
        ValueError: see `numbers`; also for different lengths.
    """
    x, y = numbers("measure", measure, least=2), numbers("gap", gap, least=2)
    same_length("measure", x, y)
    return x, y


def same_length(name: str, values: Shaped[np.ndarray, " _ *columns"], gap: Shaped[np.ndarray, " _"]) -> None:
    """Raise a ValueError unless an argument has one value per minimum."""
    if len(values) != len(gap):
        raise ValueError(f"{name} must have one value per gap, got {len(values)} values and {len(gap)} gaps")


def labels(name: str, values: Any, minima: int) -> Shaped[np.ndarray, " minima"]:
    """Return labels (n,) of any type that can be compared, such as numbers, strings or bools.

    Raises:
        ValueError: for a wrong shape, NaN, or objects (None among them).
    """
    array = np.asarray(values)
    if array.shape != (minima,):
        raise ValueError(f"{name} must have shape ({minima},), one label per minimum, got {array.shape}")
    if array.dtype.kind not in "biufUS":
        raise ValueError(f"{name} must be numbers, strings or bools, got {array.dtype}")
    if array.dtype.kind == "f" and (bad := int(np.isnan(array).sum())):
        raise ValueError(f"{name} must not be NaN, but {bad} of {minima} labels are")
    return array


def factor_levels(
    factors: Any, minima: int
) -> dict[str, tuple[Shaped[np.ndarray, " _"], Int64[np.ndarray, " minima"]]]:
    """Return for each factor its levels in ascending order, and the position (n,) of each minimum's level among them.

    Raises:
        ValueError: for anything but a mapping from names to labels (n,), or an empty one.
    """
    if not isinstance(factors, Mapping) or not factors:
        raise ValueError(f"factors must be a mapping from names to one value per minimum, got {_shown(factors)}")
    found = {}
    for name, values in factors.items():
        levels, codes = np.unique(labels(f"factors[{name!r}]", values, minima), return_inverse=True)
        found[str(name)] = levels, codes.astype(np.int64)
    return found


def factor_codes(factors: Any, minima: int) -> Int64[np.ndarray, "minima factors"]:
    """Return the level of each factor as a whole number from 0, int64 (n, factors).

    Raises:
        ValueError: see `factor_levels`.
    """
    return np.stack([codes for _, codes in factor_levels(factors, minima).values()], axis=1)


def share_of(name: str, value: Any) -> float:
    """Return a number strictly between 0 and 1.

    Raises:
        ValueError: for anything else.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {_shown(value)}")
    return float(value)


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return a string that is among the allowed ones.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {_shown(value)}")
    return value


def random_generator(seed: Any) -> np.random.Generator:
    """Return a generator from a whole number, a PRNG key of jax, or a generator, which is used as it is.

    Raises:
        TypeError: for anything else.
        ValueError: for a negative number.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    if hasattr(seed, "dtype") and not isinstance(seed, np.generic):
        return np.random.default_rng(np.asarray(jax.random.key_data(typed_key(seed))).tolist())
    if whole_number("seed", seed) < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    return np.random.default_rng(int(seed))


def _shown(value: Any) -> str:
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
