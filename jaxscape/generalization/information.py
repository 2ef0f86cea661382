"""Conditional mutual information between the order of a measure and the order of the generalisation gap."""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from jaxscape.arguments import count
from jaxscape.generalization.arguments import factor_levels, paired
from jaxscape.generalization.pairs import cell_numbers


class ConditionalInformation(NamedTuple):
    """Share of the order of gaps that a measure explains, by conditioning set and at worst."""

    value: float  # the smallest of by_set, 0 to 1; NaN if none is defined
    given: tuple[str, ...]  # the set of hyperparameters with the smallest value; the smaller set if two are equal
    # set of hyperparameters -> its value; NaN where their values determine the order of gaps
    by_set: dict[tuple[str, ...], float]


def conditional_information(measure: Any, gap: Any, factors: Any, *, largest: int = 2) -> ConditionalInformation:
    """Return the conditional mutual information of Jiang et al. (2020), normalised, and its minimum.

    Over ordered pairs of different minima, let V_m and V_g be the signs of the differences of measure and gap, and
    U_S the values of the hyperparameters S of both minima. For each set S the result is
    I(V_m; V_g | U_S) / H(V_g | U_S): the share of the uncertainty of which network is the better that the measure
    removes once these hyperparameters of both are known. All pairs have the same probability. The score is the
    smallest value over all sets of at most `largest` hyperparameters, the empty set included. A function of these
    hyperparameters has no information left and scores 0; the gap itself scores 1.

    What it can be fooled by: it is blind to direction, a measure that always orders wrongly scores 1 as well; read it
    beside `granulated_tau`. A function of more than `largest` hyperparameters is not found out. The frequencies are
    plugged into the formulas, which are biased upwards: random measures score above 0, the more so the fewer pairs
    share a value of U_S. So compare with random measures, or use `permutation_test`. The minimum over sets lowers the
    score of every measure.

    Pairs with equal gaps are left out. Equal measures are a third sign, 0.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.
        largest: hyperparameters in the largest conditioning set, at least 0; 2 in the paper.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum, or a negative size.
    """
    x, y = paired(measure, gap)
    levels = factor_levels(factors, len(x))
    names, codes = tuple(levels), np.stack([each for _, each in levels.values()], axis=1)
    sizes = range(min(count("largest", largest, least=0), len(names)) + 1)
    first, second = np.nonzero(y[:, None] != y)
    higher_gap = (y[first] > y[second]).astype(np.int64)
    sign = np.sign(x[first] - x[second]).astype(np.int64) + 1
    by_set = {}
    for positions in (each for size in sizes for each in combinations(range(len(names)), size)):
        cell = cell_numbers(codes[:, positions])
        condition = cell[first] * (cell.max() + 1) + cell[second]
        table = np.bincount(condition * 6 + sign * 2 + higher_gap, minlength=6 * (cell.max() + 1) ** 2)
        by_set[tuple(names[each] for each in positions)] = _explained(table.reshape(-1, 3, 2))
    defined = {chosen: value for chosen, value in by_set.items() if not np.isnan(value)}
    if not defined:
        return ConditionalInformation(np.nan, (), by_set)
    given = min(defined, key=lambda chosen: (defined[chosen], len(chosen)))
    return ConditionalInformation(defined[given], given, by_set)


def _explained(table: Int64[np.ndarray, "conditions 3 2"]) -> float:
    """Return I(V_m; V_g | U) / H(V_g | U) of counts (values of U, signs of the measure, signs of the gap)."""
    left = _entropy(table.sum(axis=1))  # of the gap's sign, given U
    if left <= 0:
        return np.nan
    # I = H(V_g | U) - H(V_g | V_m, U); rounding may leave it below 0 or above H.
    return float(np.clip(1 - _entropy(table.reshape(-1, 2)) / left, 0, 1))


def _entropy(counts: Int64[np.ndarray, "rows symbols"]) -> float:
    """Return the sum over rows of the entropy of a row in bits, times its sum: the mean entropy, up to a factor."""
    total = counts.sum(axis=-1, keepdims=True)
    share = counts / np.maximum(total, 1)
    return float(-(counts * np.log2(np.where(counts > 0, share, 1))).sum())
