"""Rank correlations: against scipy, double loops and closed forms; what a hyperparameter alone can and cannot score."""

import re
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from jaxscape.generalization.rank import (
    adjusted_tau,
    factor_cells,
    granulated_tau,
    kendall_tau,
    partial_tau,
    stratified_tau,
)

GRID = np.array(list(product([0.03, 0.1, 0.3], [32, 128], [0, 1], [5, 6])))  # 24 cells
NAMES = ("rate", "batch", "decay", "width")


def design(repeats=1):
    grid = np.repeat(GRID, repeats, axis=0)
    return dict(zip(NAMES, grid.T, strict=True)), np.random.default_rng(7)


def loop_granulated(measure, gap, factors):
    """The definition by loops over factors, groups and pairs."""
    table = np.stack([*factors.values()], axis=1)
    taus = {}
    for position, name in enumerate(factors):
        groups = {}
        for i, j in combinations(range(len(gap)), 2):
            differs = table[i] != table[j]
            if differs[position] and differs.sum() == 1 and gap[i] != gap[j]:
                rest = tuple(np.delete(table[i], position))
                right = np.sign(measure[i] - measure[j]) * np.sign(gap[i] - gap[j])
                groups.setdefault(rest, []).append(right)
        taus[name] = np.mean([np.mean(group) for group in groups.values()]) if groups else np.nan
    return np.nanmean([*taus.values()]), taus


@pytest.mark.parametrize("n", [2, 3, 40, 300, 301, 1000])
def test_kendall_tau_is_scipys_tau_b(n):
    rng = np.random.default_rng(n)
    for x, y in (rng.normal(size=(2, n)), rng.integers(0, n // 2 + 1, (2, n))):
        assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-14, nan_ok=True)
    assert kendall_tau(np.arange(n), np.arange(n)) == pytest.approx(1)
    assert kendall_tau(-np.arange(n), np.arange(n)) == pytest.approx(-1)
    assert np.isnan(kendall_tau(np.ones(n), np.arange(n)))


@pytest.mark.parametrize("repeats", [1, 3])
def test_granulated_tau_follows_its_definition_with_ties_and_repeats(repeats):
    factors, rng = design(repeats)
    n = len(factors["rate"])
    measure, gap = rng.integers(0, 6, n), rng.integers(0, 8, n)
    value, taus = loop_granulated(measure, gap, factors)
    found = granulated_tau(measure, gap, factors)
    assert found.value == pytest.approx(value, abs=1e-14)
    assert found.by_factor == pytest.approx(taus, abs=1e-14)


def test_without_ties_a_group_has_kendalls_tau():
    factors, rng = design()
    measure, gap = rng.normal(size=(2, 24))
    groups = [np.flatnonzero((GRID[:, 1:] == rest).all(axis=1)) for rest in np.unique(GRID[:, 1:], axis=0)]
    taus = [kendalltau(measure[group], gap[group]).statistic for group in groups]
    found = granulated_tau(measure, gap, factors)
    assert found.by_factor["rate"] == pytest.approx(np.mean(taus))
    assert found.groups == {"rate": 8, "batch": 12, "decay": 12, "width": 12}


def test_the_gap_itself_scores_one_and_its_reverse_minus_one():
    factors, rng = design(2)
    gap = rng.normal(size=48).round(1)  # with ties
    given = rng.normal(size=48)
    for score in (
        lambda measure: granulated_tau(measure, gap, factors).value,
        lambda measure: stratified_tau(measure, gap, factors).value,
        lambda measure: adjusted_tau(measure, gap, factors),
        lambda measure: partial_tau(measure, gap, given),
    ):
        assert score(gap) == pytest.approx(1)
        assert score(-gap) == pytest.approx(-1)


def test_a_measure_that_only_knows_one_hyperparameter_is_exposed():
    factors, rng = design(2)
    rate = factors["rate"]
    gap = 10 * rate + 0.01 * rng.normal(size=48)  # the rate rules the gap
    assert kendall_tau(rate, gap) > 0.8
    granulated = granulated_tau(rate, gap, factors)
    assert granulated.by_factor == {"rate": 1.0, "batch": 0.0, "decay": 0.0, "width": 0.0}
    assert granulated.value == 0.25
    assert adjusted_tau(rate, gap, factors) == 0
    assert stratified_tau(rate, gap, factors) == (0.0, 24, 24)
    assert partial_tau(rate, gap, rate) == 0


def test_a_measure_that_knows_more_than_the_hyperparameters_keeps_its_score():
    factors, rng = design(4)
    effect = 3 * factors["rate"] + 0.5 * factors["decay"]
    own = rng.normal(size=96)
    measure, gap = effect + own, effect + own + 0.1 * rng.normal(size=96)
    assert adjusted_tau(measure, gap, factors) > 0.85
    assert stratified_tau(measure, gap, factors).value > 0.85
    # Without the part that both share, only the effect of the hyperparameters is left, and none of these sees it.
    unrelated = 20 * effect + rng.normal(size=96)
    strong = 20 * effect + own
    assert kendall_tau(unrelated, strong) > 0.75
    assert abs(adjusted_tau(unrelated, strong, factors)) < 0.2
    assert abs(stratified_tau(unrelated, strong, factors).value) < 0.2


def test_an_independent_measure_scores_zero_on_average():
    factors, rng = design(2)
    scores = []
    for _ in range(80):
        measure, gap, given = rng.normal(size=(3, 48))
        scores.append(
            [
                granulated_tau(measure, gap, factors).value,
                adjusted_tau(measure, gap, factors),
                stratified_tau(measure, gap, factors).value,
                partial_tau(measure, gap, given),
            ]
        )
    errors = np.std(scores, axis=0, ddof=1) / np.sqrt(80)
    assert (np.abs(np.mean(scores, axis=0)) < 3 * errors).all()


def test_partial_tau_has_kendalls_value_and_the_one_ninth_of_two_noisy_readings():
    rng = np.random.default_rng(3)
    z, *noise = rng.normal(size=(3, 20000))
    measure, gap = z + noise[0], z + noise[1]
    xy, xz, yz = (kendalltau(*each).statistic for each in ((measure, gap), (measure, z), (gap, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_tau(measure, gap, z) == pytest.approx(expected, abs=1e-12)
    # tau = 2/pi asin(rho): 1/3 and 1/2, so that (1/3 - 1/4) / (1 - 1/4) is 1/9. Standard error of tau: below 0.005.
    assert partial_tau(measure, gap, z) == pytest.approx(1 / 9, abs=0.02)


def test_partial_tau_where_nothing_is_left():
    rng = np.random.default_rng(4)
    measure, gap = rng.normal(size=(2, 30))
    assert partial_tau(measure, gap, np.exp(measure)) == 0
    assert partial_tau(measure, gap, -measure) == 0
    assert np.isnan(partial_tau(measure, gap, gap**3))
    assert np.isnan(partial_tau(measure, gap, np.ones(30)))


def test_adjusted_tau_is_that_of_residuals_of_a_regression_and_order_two_removes_an_interaction():
    factors, rng = design(2)
    measure, gap = rng.normal(size=(2, 48))
    columns = np.concatenate([(value[:, None] == np.unique(value)).astype(float) for value in factors.values()], axis=1)
    residuals = []
    for each in (measure, gap):
        ranks = rankdata(each)
        residuals.append(
            np.round(ranks - columns @ np.linalg.lstsq(columns, ranks, rcond=None)[0], 9)
        )  # ties stay ties
    assert adjusted_tau(measure, gap, factors) == pytest.approx(kendalltau(*residuals).statistic, abs=1e-12)
    interaction = np.where((factors["batch"] == 32) == (factors["decay"] == 0), 1.0, -1.0)
    both = [interaction + 0.2 * rng.normal(size=48) for _ in range(2)]
    assert adjusted_tau(*both, factors) > 0.4
    assert abs(adjusted_tau(*both, factors, order=2)) < 0.25


def test_adjusted_tau_of_a_gap_that_the_hyperparameters_determine_is_undefined():
    factors, rng = design(2)
    measure = rng.normal(size=48)
    assert np.isnan(adjusted_tau(measure, factors["batch"], factors))


def test_factors_may_be_words_and_their_names_and_order_do_not_matter():
    factors, rng = design()
    measure, gap = rng.normal(size=(2, 24))
    words = {"w": np.where(factors["width"] == 5, "narrow", "wide"), "d": factors["decay"].astype(bool)}
    words |= {"b": factors["batch"], "r": factors["rate"].astype(str)}
    assert granulated_tau(measure, gap, words).value == pytest.approx(granulated_tau(measure, gap, factors).value)
    assert adjusted_tau(measure, gap, words) == pytest.approx(adjusted_tau(measure, gap, factors))


def test_cells_share_all_factors():
    assert factor_cells({"a": [0, 0, 1, 1, 0], "b": ["x", "y", "x", "y", "x"]}).tolist() == [0, 1, 2, 3, 0]


def test_a_factor_without_pairs_is_undefined_and_left_out_of_the_mean():
    found = granulated_tau([1, 2, 3], [1, 2, 3], {"a": [0, 1, 2], "constant": [1, 1, 1]})
    assert found.value == 1
    assert np.isnan(found.by_factor["constant"])
    assert found.groups == {"a": 1, "constant": 0}
    assert np.isnan(granulated_tau([1, 2], [1, 2], {"a": [0, 1], "b": [0, 1]}).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kendall_tau([1, np.nan, np.nan], [1, 2, 3]), "measure must be finite, but 2 of 3 values are NaN"),
        (lambda: kendall_tau([1, 2, 3], [1, np.inf, 3]), "gap must be finite, but 1 of 3"),
        (lambda: kendall_tau([1, 2, 3], [1, 2]), "measure must have one value per gap, got 3 values and 2 gaps"),
        (lambda: kendall_tau([1], [1]), "measure must have at least 2 values, got 1"),
        (lambda: kendall_tau([[1, 2]], [1]), "measure must have shape (n,), got (1, 2)"),
        (lambda: kendall_tau(["a", "b"], [1, 2]), "measure must be real numbers, got <U1"),
        (lambda: partial_tau([1, 2], [1, 2], [1, 2, 3]), "given must have one value per gap"),
        (lambda: granulated_tau([1, 2], [1, 2], {}), "factors must be a mapping from names to one value per minimum"),
        (lambda: granulated_tau([1, 2], [1, 2], [[1, 2]]), "factors must be a mapping"),
        (lambda: granulated_tau([1, 2], [1, 2], {"a": [1]}), "factors['a'] must have shape (2,), one label per"),
        (lambda: granulated_tau([1, 2], [1, 2], {"a": [1, np.nan]}), "factors['a'] must not be NaN, but 1 of 2"),
        (lambda: granulated_tau([1, 2], [1, 2], {"a": [1, None]}), "factors['a'] must be numbers, strings or bools"),
        (lambda: adjusted_tau([1, 2, 3], [1, 2, 3], {"a": [0, 0, 1]}, order=2), "order must be at most the number of"),
        (lambda: adjusted_tau([1, 2, 3], [1, 2, 3], {"a": [0, 0, 1]}), "have 2 independent columns for 3 minima"),
        (lambda: factor_cells([1, 2]), "factors must be a mapping"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
