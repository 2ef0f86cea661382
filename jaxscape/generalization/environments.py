"""The sign error of a measure in environments: how often it misjudges what changing one hyperparameter does."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import erf

from jaxscape.arguments import count, finite_number
from jaxscape.generalization.arguments import factor_levels, numbers, paired, same_length
from jaxscape.generalization.pairs import comparable_pairs

LEAST_CERTAINTY = 0.5  # pairs whose order is less certain are left out


class SignErrorEnvironment(NamedTuple):
    """All pairs of minima that differ in one hyperparameter, from one of its values to another."""

    factor: str
    levels: tuple[Any, Any]  # the two values, the smaller one first
    error: float  # weighted share of wrong signs, 0 to 1; NaN without weight
    pairs: int  # with unequal gaps and a weight above 0
    effective_pairs: float  # (sum of weights)^2 / sum of squared weights; `pairs` if all weights are equal


class SignError(NamedTuple):
    """The sign error of a measure over environments; 0 is best, 1/2 is a coin's."""

    mean: float  # over the environments with enough pairs; NaN if there is none
    value: float  # the robust sign error: the largest of them
    worst: SignErrorEnvironment | None  # the first with the largest error; None if none has enough pairs
    environments: tuple[SignErrorEnvironment, ...]  # all of them, also those with too few pairs


def sign_error(
    measure: Any,
    gap: Any,
    factors: Any,
    *,
    test_size: int | None = None,
    standard_error: Any = None,
    least_pairs: float = 12,
) -> SignError:
    """Return the mean and the robust sign error of Dziugaite et al. (2020) over environments.

    An environment is a hyperparameter with two of its values; it holds all pairs of minima that differ in this
    hyperparameter alone, by these values. The error of a pair is (1 - sgn(dm) sgn(dg)) / 2, with the differences dm of
    the measure and dg of the gap: 0 if the measure predicts which network has the larger gap, 1 if it predicts the
    reverse, 1/2 if it ties them. An environment's error is the weighted mean over its pairs. The robust error is the
    largest: a measure is only as good as where it fails. The paper's environments also fix the values of the other
    hyperparameters, and average over repeated trainings; with one or two minima per cell, as here, they are pooled.

    Weights keep noise of the gap from counting as failure of the measure. A pair counts by how certain its order is,
    minus 1/2, and not at all below 1/2. With `test_size` the certainty is the paper's: (1 - 2 exp(-k dg^2 / 2))^2 for
    gaps in error rates on k test examples, a Hoeffding bound that both rates are within |dg| / 2 of their expectation.
    With `standard_error` it is the probability that a normal variable lies within |dg| / s of 0, with
    s^2 the sum of the squared standard errors: for gaps of any unit. With neither all pairs count alike.

    What it can be fooled by: the worst of many noisy environments is large even for a good measure, so compare with
    random measures, and look at the number of pairs. Pairs of one environment share minima and are not independent.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum.
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.
        test_size: number of test examples of gaps in error rates (0 to 1), at least 1.
        standard_error: a number, or (n,) numbers, at least 0: the standard error of each gap, in its unit.
        least_pairs: effective pairs that an environment needs to count, above 0; 12 as in the paper.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum, both kinds of weights at once, gaps
            beyond -1 and 1 with `test_size`, or numbers out of range.
    """
    x, y = paired(measure, gap)
    levels = factor_levels(factors, len(x))
    if finite_number("least_pairs", least_pairs) <= 0:
        raise ValueError(f"least_pairs must be above 0, got {least_pairs}")
    pairs = comparable_pairs(x, y)
    certainty = _certainty(y, pairs.first, pairs.second, test_size, standard_error)
    weight = np.maximum(certainty - LEAST_CERTAINTY, 0)
    codes = np.stack([each for _, each in levels.values()], axis=1)
    differs = codes[pairs.first] != codes[pairs.second]
    environments = []
    for position, (name, (values, code)) in enumerate(levels.items()):
        own = differs[:, position] & (differs.sum(axis=1) == 1) & (weight > 0)
        two = np.sort(np.stack([code[pairs.first], code[pairs.second]]), axis=0)
        for low in range(len(values)):
            for high in range(low + 1, len(values)):
                here = own & (two[0] == low) & (two[1] == high)
                error, effective = _weighted((1 - pairs.agreement[here]) / 2, weight[here])
                levels_here = values[low].item(), values[high].item()
                environments.append(SignErrorEnvironment(name, levels_here, error, int(here.sum()), effective))
    # Equal weights may sum to slightly less than the number of pairs.
    enough = [each for each in environments if each.effective_pairs >= least_pairs * (1 - 1e-9)]
    if not enough:
        return SignError(np.nan, np.nan, None, tuple(environments))
    worst = max(enough, key=lambda each: each.error)
    return SignError(float(np.mean([each.error for each in enough])), worst.error, worst, tuple(environments))


def _certainty(
    gap: Float64[np.ndarray, " minima"],
    first: Int64[np.ndarray, " pairs"],
    second: Int64[np.ndarray, " pairs"],
    test_size: int | None,
    standard_error: Any,
) -> Float64[np.ndarray, " pairs"]:
    """Return how certain the order of each pair of gaps is, 0 to 1."""
    if test_size is not None and standard_error is not None:
        raise ValueError("test_size and standard_error cannot both be given")
    difference = np.abs(gap[first] - gap[second])
    if test_size is not None:
        size = count("test_size", test_size)
        if np.abs(gap).max() > 1:
            raise ValueError(
                f"gap must be a difference of error rates, -1 to 1, got {np.abs(gap).max()} in absolute value"
            )
        return np.maximum(1 - 2 * np.exp(-size * difference**2 / 2), 0) ** 2
    if standard_error is None:
        return np.ones(len(first))
    error = np.asarray(standard_error)
    error = numbers("standard_error", np.full(len(gap), error) if error.ndim == 0 else error)
    same_length("standard_error", error, gap)
    if (error < 0).any():
        raise ValueError(f"standard_error must be at least 0, got {error.min()}")
    spread = np.sqrt(2 * (error[first] ** 2 + error[second] ** 2))
    with np.errstate(divide="ignore"):
        return erf(np.where(spread > 0, difference / spread, np.inf))


def _weighted(errors: Float64[np.ndarray, " pairs"], weights: Float64[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Return the weighted mean of errors and the effective number of pairs; NaN and 0 without pairs."""
    if not len(errors):
        return np.nan, 0.0
    total = weights.sum()
    return float((errors * weights).sum() / total), float(total**2 / (weights**2).sum())
