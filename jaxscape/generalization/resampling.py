"""Intervals and tests of any score: a bootstrap over minima, and permutations of the measure.

A score is a function `score(measure, gap)` or, where factors are given, `score(measure, gap, factors)`. It returns a
number, or a record with the number in `.value`, as the scores of this package do. Other values per minimum, such as the
given measure of `partial_tau`, are further columns of the measure. A permutation test would permute them too: there let
the score take them from its surroundings, `lambda measure, gap: partial_tau(measure, gap, given)`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations, product
from math import factorial, prod
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from jaxscape.arguments import count
from jaxscape.generalization.arguments import (
    factor_levels,
    labels,
    numbers,
    one_of,
    random_generator,
    same_length,
    share_of,
)

type Score = Callable[..., Any]
type Columns = dict[str, Shaped[np.ndarray, " _"]]

ALTERNATIVES = ("greater", "less", "two-sided")


class Bootstrap(NamedTuple):
    """A score with its percentile interval over resampled minima."""

    value: float  # of the minima as they are
    low: float  # quantile (1 - level) / 2 of the defined draws; NaN if none is defined
    high: float  # quantile (1 + level) / 2
    level: float
    draws: Float64[np.ndarray, " draws"]  # the score of each resample; NaN where it is undefined
    undefined: int  # draws that are NaN


class LeaveOneOut(NamedTuple):
    """A score without each minimum, or without each cluster."""

    value: float  # of all minima
    without: Float64[np.ndarray, " units"]  # the score without a unit; NaN where it is undefined
    left_out: Shaped[np.ndarray, " units"]  # index of the minimum, or label of the cluster, in ascending order


class PermutationTest(NamedTuple):
    """A statistic with its distribution if the null hypothesis holds."""

    value: float  # of the data as they are
    p_value: float
    alternative: str  # greater, less or two-sided
    # Of random permutations, or of all of them, the identity included, if the test is exact
    null: Float64[np.ndarray, " draws"]
    exact: bool  # whether all permutations were taken


def bootstrap(
    score: Score,
    measure: Any,
    gap: Any,
    factors: Mapping[str, Any] | None = None,
    *,
    clusters: Any = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: Any = 0,
) -> Bootstrap:
    """Return a score with a percentile bootstrap interval: minima are drawn with replacement, all columns together.

    With `clusters` whole clusters are drawn instead of minima. Minima that share training images, an initialisation or
    a cell are not independent, and an interval over single minima is then too narrow.

    What it can be fooled by: the interval is that of repeating the study with other minima from the same
    hyperparameters, not with other hyperparameters, data or architectures. A resample holds minima several times.
    Scores take these for ties of the gap and leave their pairs out, but fewer different minima make the conditional
    information of a resample too large, and a factorial design loses cells. The interval of such a score need not
    contain its value; then compare with random measures instead. For the smallest or largest of something, such as
    `regret`, a bootstrap does not work.

    Args:
        score: see the module; undefined results are NaN.
        measure: (n,) a value per minimum; or (n, k) several columns, of which the score makes one number, such as the
            difference of the scores of two measures.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum; None for scores without factors.
        clusters: (n,) a label per minimum, such as `factor_cells(factors)`.
        draws: number of resamples, at least 1.
        level: of the interval, above 0 and below 1.
        seed: a whole number of at least 0, a PRNG key of jax, or a `numpy.random.Generator`, which is advanced.

    Raises:
        TypeError: if draws or seed are of a wrong type.
        ValueError: for anything but finite numbers and one label per minimum, fewer than 2 minima or clusters, numbers
            out of range, or a score that returns no number.
    """
    x, y, columns = _table(measure, gap, factors)
    share_of("level", level)
    units = _units(clusters, len(y))
    generator, total = random_generator(seed), count("draws", draws)
    value = _value(score, x, y, columns)
    results = np.empty(total)
    for draw in range(total):
        chosen = generator.integers(len(units), size=len(units))
        rows = chosen if clusters is None else np.concatenate([units[each] for each in chosen])
        results[draw] = _value(score, x[rows], y[rows], _rows(columns, rows))
    defined = results[~np.isnan(results)]
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]) if len(defined) else (np.nan, np.nan)
    return Bootstrap(value, float(low), float(high), level, results, total - len(defined))


def leave_one_out(
    score: Score,
    measure: Any,
    gap: Any,
    factors: Mapping[str, Any] | None = None,
    *,
    clusters: Any = None,
) -> LeaveOneOut:
    """Return a score without each minimum, or without each cluster: does it rest on a few of them?

    Args:
        score: see the module; undefined results are NaN.
        measure: (n,) a value per minimum, or (n, k) several columns.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum; None for scores without factors.
        clusters: (n,) a label per minimum, such as `factor_cells(factors)`; None to leave out single minima.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum, fewer than 2 clusters, fewer than 2
            minima left, or a score that returns no number.
    """
    x, y, columns = _table(measure, gap, factors)
    units = _units(clusters, len(y))
    if len(y) - max(map(len, units)) < 2:
        raise ValueError("at least 2 minima must be left without each cluster, got fewer")
    kept = (np.delete(np.arange(len(y)), unit) for unit in units)
    without = np.array([_value(score, x[rows], y[rows], _rows(columns, rows)) for rows in kept])
    left_out = np.arange(len(y)) if clusters is None else np.unique(labels("clusters", clusters, len(y)))
    return LeaveOneOut(_value(score, x, y, columns), without, left_out)


def permutation_test(
    score: Score,
    measure: Any,
    gap: Any,
    factors: Mapping[str, Any] | None = None,
    *,
    within: Any = None,
    alternative: str = "greater",
    draws: int = 9999,
    seed: Any = 0,
) -> PermutationTest:
    """Return the p-value of a score under permutations of the measure over minima.

    The null hypothesis is that the measure is exchangeable: over all minima, or over those with the same label in
    `within`. Permuting within levels of a hyperparameter keeps what this hyperparameter does to the measure, so that a
    small p-value cannot come from it; permuting within cells keeps the effects of all of them, and needs several minima
    per cell. If there are no more permutations than `draws`, all are taken, and the p-value is the share whose score is
    at least as extreme, exactly. Otherwise it is (1 + draws at least as extreme) / (1 + draws). Two-sided is twice the
    smaller of both sides, at most 1. A permutation whose score is undefined counts as extreme.

    Args:
        score: see the module.
        measure: (n,) a value per minimum; or (n, k) several columns, which are permuted together.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum; None for scores without factors.
        within: (n,) labels, such as `factor_cells(factors)` or one factor; None to permute over all minima.
        alternative: "greater", "less" or "two-sided".
        draws: number of random permutations, at least 1; the smallest p-value is then 1 / (1 + draws).
        seed: a whole number of at least 0, a PRNG key of jax, or a `numpy.random.Generator`, which is advanced.

    Raises:
        TypeError: if draws or seed are of a wrong type.
        ValueError: for anything but finite numbers and one label per minimum, labels that are all different, an unknown
            alternative, numbers out of range, or a score that is undefined for the minima as they are.
    """
    x, y, columns = _table(measure, gap, factors)
    one_of("alternative", alternative, ALTERNATIVES)
    codes = (
        np.zeros(len(y), int) if within is None else np.unique(labels("within", within, len(y)), return_inverse=True)[1]
    )
    groups = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    if max(map(len, groups)) < 2:
        raise ValueError(
            f"within must have at least two minima with the same label, got {len(groups)} different labels"
        )
    generator, total = random_generator(seed), count("draws", draws)
    value = _value(score, x, y, columns)
    if np.isnan(value):
        raise ValueError("score must be defined for the minima as they are, got NaN")
    exact = prod(factorial(len(rows)) for rows in groups) <= total
    orders = _all_orders(groups, len(y)) if exact else (_one_order(groups, len(y), generator) for _ in range(total))
    null = np.array([_value(score, x[order], y, columns) for order in orders])
    return PermutationTest(value, p_value(value, null, alternative, exact=exact), alternative, null, exact)


def p_value(value: float, null: Float64[np.ndarray, " draws"], alternative: str, *, exact: bool) -> float:
    """Return the p-value of a statistic with its null distribution (draws,), which has the value itself if exact.

    Equal up to rounding counts as extreme, and so does NaN.
    """
    # Sums of the same numbers in another order differ by rounding.
    margin = 1e-9 * max(abs(value), float(np.abs(null[~np.isnan(null)]).max(initial=0)))
    extra = 0 if exact else 1
    greater = (extra + int((~(null < value - margin)).sum())) / (extra + len(null))
    less = (extra + int((~(null > value + margin)).sum())) / (extra + len(null))
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def _table(
    measure: Any, gap: Any, factors: Mapping[str, Any] | None
) -> tuple[Float64[np.ndarray, " minima *columns"], Float64[np.ndarray, " minima"], Columns | None]:
    x, y = numbers("measure", measure, least=2, columns=True), numbers("gap", gap, least=2)
    same_length("measure", x, y)
    if factors is None:
        return x, y, None
    return x, y, {name: levels[codes] for name, (levels, codes) in factor_levels(factors, len(y)).items()}


def _units(clusters: Any, minima: int) -> list[Int64[np.ndarray, " _"]]:
    """Return the rows of each unit that is drawn: of each minimum, or of each cluster."""
    if clusters is None:
        return list(np.arange(minima)[:, None])
    codes = np.unique(labels("clusters", clusters, minima), return_inverse=True)[1]
    if codes.max() < 1:
        raise ValueError("clusters must have at least two different labels, got one")
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def _rows(columns: Columns | None, rows: Int64[np.ndarray, " rows"]) -> Columns | None:
    return None if columns is None else {name: values[rows] for name, values in columns.items()}


def _value(
    score: Score,
    x: Float64[np.ndarray, " minima *columns"],
    y: Float64[np.ndarray, " minima"],
    columns: Columns | None,
) -> float:
    result = score(x, y) if columns is None else score(x, y, columns)
    try:
        return float(result.value if hasattr(result, "value") else result)
    except (TypeError, ValueError):
        raise ValueError(
            f"score must return a number, or a record with a number in .value, got {type(result).__name__}"
        ) from None


def _all_orders(groups: list[Int64[np.ndarray, " _"]], minima: int) -> Iterator[Int64[np.ndarray, " minima"]]:
    """Yield every permutation of the minima within groups, the identity first."""
    for choice in product(*(permutations(rows) for rows in groups)):
        order = np.arange(minima)
        for rows, permuted in zip(groups, choice, strict=True):
            order[rows] = permuted
        yield order


def _one_order(
    groups: list[Int64[np.ndarray, " _"]], minima: int, generator: np.random.Generator
) -> Int64[np.ndarray, " minima"]:
    order = np.arange(minima)
    for rows in groups:
        order[rows] = generator.permutation(rows)
    return order
