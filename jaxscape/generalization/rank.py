"""Rank correlations of a measure with the generalisation gap: plain, by hyperparameter, and partial.

A hyperparameter that changes both the measure and the gap makes them agree, whether or not the measure says anything of
the trained network. The plain coefficient is open to that; the others remove it, each in its own way and at its price.
"""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.stats import kendalltau, rankdata

from jaxscape.arguments import count
from jaxscape.generalization.arguments import factor_codes, factor_levels, numbers, paired, same_length
from jaxscape.generalization.pairs import cell_numbers, comparable_pairs


class GranulatedTau(NamedTuple):
    """Kendall's tau within groups of minima that differ in one hyperparameter, averaged over groups and factors."""

    value: float  # mean of by_factor over the factors that have groups; NaN if none has
    by_factor: dict[str, float]  # mean over the groups of a factor; NaN without groups
    groups: dict[str, int]  # number of groups with at least one pair of unequal gaps, by factor


class StratifiedTau(NamedTuple):
    """Agreement in the order of pairs of minima from the same cell."""

    value: float  # (concordant - discordant) / pairs, -1 to 1; NaN without pairs
    pairs: int  # pairs in the same cell with unequal gaps
    cells: int  # cells that have such pairs


def kendall_tau(measure: Any, gap: Any) -> float:
    """Return Kendall's rank correlation tau-b of a measure and the generalisation gap, -1 to 1.

    Tau-b divides by the pairs without ties in each variable. It is NaN if either is constant. It can be high for a
    measure that only recognises a hyperparameter: see `granulated_tau`.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.

    Raises:
        ValueError: for anything but finite numbers of the same length, at least 2.
    """
    return _tau(*paired(measure, gap))


def granulated_tau(measure: Any, gap: Any, factors: Any) -> GranulatedTau:
    """Return the granulated Kendall coefficient of Jiang et al. (2020), as a whole and by hyperparameter.

    Minima that agree in all factors but one form a group. The coefficient of a group is
    (concordant - discordant) / pairs, over the pairs that differ in that factor; it is averaged over the groups of a
    factor, then over factors. In a group of two minima it is 1 or -1: whether the measure tells which is the better.

    A measure that is a function of a single factor scores 0 in all others, so that of five it reaches 0.2 at most.
    What it can be fooled by: a measure that follows several factors in the right direction scores high without saying
    anything of networks that were trained alike.

    Pairs with equal gaps are left out; a pair with equal measures counts as 0, and stays in the denominator. Without
    ties, and with one minimum per cell, this is the paper's coefficient. Several minima of the same cell, such as
    seeds, are not compared with each other.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum.

    Example:
        >>> factors = {"rate": [0, 0, 1, 1], "decay": [0, 1, 0, 1]}
        >>> granulated_tau([1, 1, 2, 2], [0.1, 0.2, 0.3, 0.4], factors).by_factor
        {'rate': 1.0, 'decay': 0.0}
    """
    x, y = paired(measure, gap)
    levels = factor_levels(factors, len(x))
    codes = np.stack([each for _, each in levels.values()], axis=1)
    first, second, agreement = comparable_pairs(x, y)
    differs = codes[first] != codes[second]
    by_factor, groups = {}, {}
    for position, name in enumerate(levels):
        own = differs[:, position] & (differs.sum(axis=1) == 1)
        group = cell_numbers(np.delete(codes, position, axis=1))[first[own]]
        size = np.bincount(group)
        total = np.bincount(group, agreement[own])
        groups[name] = int((size > 0).sum())
        by_factor[name] = float((total[size > 0] / size[size > 0]).mean()) if groups[name] else np.nan
    defined = [each for each in by_factor.values() if not np.isnan(each)]
    return GranulatedTau(float(np.mean(defined)) if defined else np.nan, by_factor, groups)


def partial_tau(measure: Any, gap: Any, given: Any) -> float:
    """Return Kendall's partial rank correlation of a measure and the gap, given another measure; -1 to 1.

    With tau-b of the three pairs of variables it is
    (tau_mg - tau_mz tau_gz) / sqrt((1 - tau_mz^2) (1 - tau_gz^2)), z the given measure (Kendall, 1942): the correlation
    between the parts of both orders that z leaves open. A measure in the same order as z, or the reverse, adds nothing
    and scores 0. NaN if any of the three is constant, or if z orders the gaps completely, so that nothing is left.

    What it can be fooled by: it is no test of conditional independence. If measure and gap are two noisy readings of
    z, each with noise of its own, nothing but z connects them, and it is still above 0: 1/9 for normal variables with
    as much noise as signal.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        given: (n,) the other measure.

    Raises:
        ValueError: for anything but finite numbers of the same length, at least 2.
    """
    x, y = paired(measure, gap)
    z = numbers("given", given)
    same_length("given", z, y)
    direct, own, other = _tau(x, y), _tau(x, z), _tau(y, z)
    if np.isnan([direct, own, other]).any() or 1 - abs(other) < _ROUNDING:
        return np.nan
    if 1 - abs(own) < _ROUNDING:
        return 0.0
    return float((direct - own * other) / np.sqrt((1 - own**2) * (1 - other**2)))


def adjusted_tau(measure: Any, gap: Any, factors: Any, *, order: int = 1) -> float:
    """Return the rank correlation, given all hyperparameters: Kendall's tau of what they leave of both ranks.

    The ranks of measure and gap are regressed on the hyperparameters by least squares, a column per level (order 1),
    and also per pair of levels of two hyperparameters (order 2), and so on; the result is tau-b of the residuals. It
    is 0 if nothing is left of the measure, NaN if nothing is left of the gap.

    A regression is used because the strict definition, to compare only minima with the same hyperparameters, has no
    pairs if each cell holds one minimum. Where cells hold several, `stratified_tau` is the strict one.

    What it can be fooled by: effects of higher order. If two hyperparameters interact, in measure and gap alike,
    order 1 leaves that in both residuals. A larger order removes it, and leaves fewer degrees of freedom: n minus the
    number of columns that are linearly independent. Residuals of one regression are not exchangeable, so that the
    usual p-value of tau does not apply; permute the measure within levels, or compare with random measures.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.
        order: hyperparameters that may interact, at least 1.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum, an order below 1 or above the number of
            factors, or a regression that leaves fewer than 2 degrees of freedom.
    """
    x, y = paired(measure, gap)
    codes = factor_codes(factors, len(x))
    if count("order", order) > codes.shape[1]:
        raise ValueError(f"order must be at most the number of factors, {codes.shape[1]}, got {order}")
    chosen = [subset for size in range(1, order + 1) for subset in combinations(range(codes.shape[1]), size)]
    columns = [np.ones((len(x), 1))]
    for subset in chosen:
        cell = cell_numbers(codes[:, subset])
        columns.append((cell[:, None] == np.arange(cell.max() + 1)).astype(np.float64))
    left, values, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    basis = left[:, values > 1e-10 * values[0]]
    if len(x) - basis.shape[1] < 2:
        raise ValueError(
            f"factors of order {order} have {basis.shape[1]} independent columns for {len(x)} minima; at least 2 more "
            f"minima than columns are needed"
        )
    first, second = (_residual_order(rankdata(each), basis) for each in (x, y))
    if np.ptp(second) == 0:
        return np.nan
    return 0.0 if np.ptp(first) == 0 else _tau(first, second)


def stratified_tau(measure: Any, gap: Any, factors: Any) -> StratifiedTau:
    """Return how well a measure orders minima with the same hyperparameters, -1 to 1.

    All pairs of minima from the same cell count alike: (concordant - discordant) / pairs. No effect of the
    hyperparameters, of whatever order, can enter, so a measure that they determine scores 0. It needs several minima
    per cell, and what it can tell apart is only what differs between seeds, which may be mostly noise of the test set.

    Pairs with equal gaps are left out; a pair with equal measures counts as 0, and stays in the denominator.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.

    Raises:
        ValueError: for anything but finite numbers and one label per minimum.
    """
    x, y = paired(measure, gap)
    cell = factor_cells(factors, len(x))
    first, second, agreement = comparable_pairs(x, y)
    same = cell[first] == cell[second]
    value = float(agreement[same].mean()) if same.any() else np.nan
    return StratifiedTau(value, int(same.sum()), len(np.unique(cell[first[same]])))


def factor_cells(factors: Any, minima: int | None = None) -> Int64[np.ndarray, " minima"]:
    """Return the cell of each minimum, counted from 0: those with the same value of all factors share one; int64 (n,).

    Use it for the clusters of `bootstrap` and the groups of `permutation_test`; with some of the factors alone, cells
    are the combinations of these.

    Args:
        factors: name of each hyperparameter -> (n,) its value for each minimum: numbers, strings or bools.
        minima: n; by default the length of the first factor.

    Raises:
        ValueError: for anything but a mapping to one label per minimum.
    """
    if minima is None:
        minima = len(next(iter(factors.values()))) if hasattr(factors, "values") and len(factors) else 0
    return cell_numbers(factor_codes(factors, minima))


_ROUNDING = 1e-12  # of a tau
_FEW = 300  # minima up to which all pairs at once are faster than sorting


def _tau(x: Float64[np.ndarray, " minima"], y: Float64[np.ndarray, " minima"]) -> float:
    """Return tau-b, NaN if either is constant."""
    if len(x) > _FEW:
        return float(kendalltau(x, y, method="asymptotic").statistic)
    # Ten times faster than scipy's for the sizes of a study, and called thousands of times by permutation tests.
    one, other = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    untied = float((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / np.sqrt(untied)) if untied else np.nan


def _residual_order(
    ranks: Float64[np.ndarray, " minima"], basis: Float64[np.ndarray, "minima columns"]
) -> Float64[np.ndarray, " minima"]:
    """Return the ranks (n,) of residuals of a regression; residuals that differ by rounding alone are tied."""
    residual = ranks - basis @ (basis.T @ ranks)
    order = np.argsort(residual)
    steps = np.diff(residual[order]) > 1e-9 * len(ranks)
    ranked = np.empty(len(ranks))
    ranked[order] = np.concatenate([[0], np.cumsum(steps)])
    return ranked
