"""Means of a few independent values, such as one per minimum: intervals, tests, equivalence, and several tests at once.

The intervals and p-values of Student hold for independent values from a normal distribution, and for the mean of many
from any. `sign_flip_test` needs symmetry alone.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.stats import t as student

from jaxscape.arguments import count, finite_number
from jaxscape.generalization.arguments import numbers, one_of, random_generator, share_of
from jaxscape.generalization.resampling import ALTERNATIVES, PermutationTest, p_value


class MeanInterval(NamedTuple):
    """A mean with Student's confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    level: float
    standard_error: float  # of the mean
    size: int  # number of values


class Equivalence(NamedTuple):
    """Two one-sided tests of a mean against a margin on both sides of a centre."""

    mean: float
    p_value: float  # the larger of both; small: the mean is within the margin
    low: float  # the interval of level 1 - 2 (1 - level); equivalent if it lies within the margin
    high: float
    is_equivalent: bool  # p_value <= 1 - level


def mean_interval(values: Any, *, level: float = 0.95) -> MeanInterval:
    """Return the mean of independent values with Student's two-sided confidence interval.

    It has no width if all values are equal, as counts and shares may be: a few such values are less certain than that.

    Args:
        values: (n,) at least 2; differences of paired values for a paired interval.
        level: above 0 and below 1.

    Raises:
        ValueError: for anything but finite numbers, fewer than 2, or a level out of range.
    """
    sample = numbers("values", values, least=2)
    mean, error = _mean_and_error(sample)
    half = float(student.ppf((1 + share_of("level", level)) / 2, len(sample) - 1)) * error
    return MeanInterval(mean, mean - half, mean + half, level, error, len(sample))


def mean_test(values: Any, *, center: float = 0.0, alternative: str = "greater") -> float:
    """Return the p-value of Student's test that a mean is not above a number (or not below it, or equal to it).

    If all values are equal the p-value is 0 if they differ from the number in the tested direction, otherwise 1.

    Args:
        values: (n,) independent values, at least 2.
        center: the number.
        alternative: "greater", "less" or "two-sided".

    Raises:
        ValueError: for anything but finite numbers, fewer than 2, or an unknown alternative.
    """
    sample = numbers("values", values, least=2)
    one_of("alternative", alternative, ALTERNATIVES)
    mean, error = _mean_and_error(sample)
    difference = mean - finite_number("center", center)
    if error == 0:
        above, below = float(difference <= 0), float(difference >= 0)
    else:
        above, below = (float(student.sf(sign * difference / error, len(sample) - 1)) for sign in (1, -1))
    return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[alternative]


def equivalence_test(values: Any, *, margin: float, center: float = 0.0, level: float = 0.95) -> Equivalence:
    """Return two one-sided tests that a mean is within a margin of a number (Schuirmann, 1987).

    A large p-value of an ordinary test does not show that two things are equal: it may come from few values. Here the
    null hypothesis is that they differ by at least the margin. The margin is the largest difference that does not
    matter; it must be fixed before the values are seen.

    Args:
        values: (n,) independent values, at least 2; differences of paired values for a paired test.
        margin: above 0, in the unit of the values.
        center: the number.
        level: above 0.5 and below 1.

    Raises:
        ValueError: for anything but finite numbers, fewer than 2, a margin that is not above 0, or a level out of
            range.
    """
    sample = numbers("values", values, least=2)
    if finite_number("margin", margin) <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    if share_of("level", level) <= 0.5:
        raise ValueError(f"level must be above 0.5, got {level}")
    p = max(
        mean_test(sample, center=center - margin, alternative="greater"),
        mean_test(sample, center=center + margin, alternative="less"),
    )
    interval = mean_interval(sample, level=2 * level - 1)
    return Equivalence(interval.mean, p, interval.low, interval.high, p <= 1 - level)


def sign_flip_test(values: Any, *, alternative: str = "two-sided", draws: int = 9999, seed: Any = 0) -> PermutationTest:
    """Return the permutation test of a mean by flipping signs: differences are symmetric about 0 if nothing acts.

    If there are no more than `draws` patterns of signs, 2^n, all are taken and the test is exact. With n values the
    smallest two-sided p-value is 2 / 2^n: 5 are too few for 0.05.

    Args:
        values: (n,) independent values, such as differences between paired minima, at least 2.
        alternative: "greater", "less" or "two-sided", of the mean compared with 0.
        draws: random patterns of signs, at least 1.
        seed: a whole number of at least 0, a PRNG key of jax, or a `numpy.random.Generator`, which is advanced.

    Returns:
        A `PermutationTest` of the mean, in the unit of the values.

    Raises:
        TypeError: if draws or seed are of a wrong type.
        ValueError: for anything but finite numbers, fewer than 2, draws below 1, or an unknown alternative.
    """
    sample = numbers("values", values, least=2)
    one_of("alternative", alternative, ALTERNATIVES)
    total, generator = count("draws", draws), random_generator(seed)
    exact = 2 ** len(sample) <= total
    if exact:
        signs = np.array(list(product((1, -1), repeat=len(sample))))
    else:
        signs = generator.choice((1, -1), size=(total, len(sample)))
    null = signs @ sample / len(sample)
    value = float(sample.mean())
    return PermutationTest(value, p_value(value, null, alternative, exact=exact), alternative, null, exact)


def holm(p_values: Any) -> Float64[np.ndarray, " tests"]:
    """Return Holm's step-down adjusted p-values, float64 (n,), in the order of the given ones.

    With p_(1) <= ... <= p_(n) the adjusted value of the i-th is the largest of (n - j + 1) p_(j) over j <= i, at most 1
    (Holm, 1979). If those of at most alpha are rejected, the probability of any wrong rejection is at most alpha,
    however the tests depend on each other. The family must be fixed before the p-values are seen.

    Args:
        p_values: (n,) from 0 to 1.

    Raises:
        ValueError: for anything but numbers from 0 to 1, at least one.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = numbers("p_values", p_values)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must be from 0 to 1, got {p[(p < 0) | (p > 1)][0]}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def _mean_and_error(sample: Float64[np.ndarray, " values"]) -> tuple[float, float]:
    """Return the mean of values (n,) and its standard error, 0 if all values are equal."""
    if np.ptp(sample) == 0:  # whose mean may be rounded
        return float(sample[0]), 0.0
    return float(sample.mean()), float(sample.std(ddof=1) / np.sqrt(len(sample)))
