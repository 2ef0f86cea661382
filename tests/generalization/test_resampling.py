"""Bootstrap and permutation tests of scores: scipy as an oracle, coverage, enumeration, error rates."""

import re
from itertools import permutations, product

import jax
import numpy as np
import pytest
from scipy import stats

from jaxscape.generalization.information import conditional_information
from jaxscape.generalization.rank import factor_cells, granulated_tau, kendall_tau, stratified_tau
from jaxscape.generalization.resampling import bootstrap, leave_one_out, permutation_test

GENERATOR = np.random.default_rng(21)


def mean_of(measure, gap):
    return measure.mean()


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    measure, gap = GENERATOR.normal(size=(2, 40))
    gap = measure + gap
    found = bootstrap(kendall_tau, measure, gap, draws=500, level=0.9, seed=1)
    oracle = stats.bootstrap(
        (measure, gap),
        lambda x, y: stats.kendalltau(x, y).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        confidence_level=0.9,
        n_resamples=1000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.value == pytest.approx(kendall_tau(measure, gap))
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.05)
    assert (found.low, found.high) == pytest.approx(np.quantile(found.draws, [0.05, 0.95]))
    assert found.undefined == 0


def test_clusters_are_drawn_whole_and_their_interval_covers():
    # Thirty clusters of four equal values: single minima give half the width that is right.
    outside = {"minima": 0, "clusters": 0}
    for trial in range(60):
        means = np.random.default_rng(trial).normal(size=30)
        values, label = np.repeat(means, 4), np.repeat(np.arange(30), 4)
        for name, clusters in (("minima", None), ("clusters", label)):
            found = bootstrap(mean_of, values, values, clusters=clusters, draws=60, seed=trial)
            outside[name] += not found.low <= 0 <= found.high
    assert outside["clusters"] <= 10  # 3 expected, and the percentile interval of 30 is a little narrow
    assert outside["minima"] >= 12  # 20 expected


def test_a_score_of_several_columns_compares_two_measures():
    gap = GENERATOR.normal(size=60)
    good, poor = gap + 0.3 * GENERATOR.normal(size=60), gap + 3 * GENERATOR.normal(size=60)

    def difference(measures, gap):
        return kendall_tau(measures[:, 0], gap) - kendall_tau(measures[:, 1], gap)

    found = bootstrap(difference, np.stack([good, poor], axis=1), gap, draws=300)
    assert found.value == pytest.approx(kendall_tau(good, gap) - kendall_tau(poor, gap))
    assert 0 < found.low < found.value < found.high


def test_records_factors_and_undefined_draws_are_understood():
    factors = {"a": np.repeat([0, 1], 3), "b": np.tile([0, 1, 2], 2)}
    gap = np.arange(6.0)
    found = bootstrap(granulated_tau, gap, gap, factors, draws=200)
    assert found.value == 1
    assert (found.low, found.high) == (1, 1)
    assert 0 < found.undefined == np.isnan(found.draws).sum() < 50


def test_the_same_seed_gives_the_same_draws_and_a_generator_is_advanced():
    measure, gap = GENERATOR.normal(size=(2, 12))
    first, again, other = (bootstrap(kendall_tau, measure, gap, draws=20, seed=seed).draws for seed in (5, 5, 6))
    assert first.tolist() == again.tolist() != other.tolist()
    generator = np.random.default_rng(5)
    assert bootstrap(kendall_tau, measure, gap, draws=20, seed=generator).draws.tolist() == first.tolist()
    assert bootstrap(kendall_tau, measure, gap, draws=20, seed=generator).draws.tolist() != first.tolist()


def test_keys_of_jax_are_seeds_too():
    measure, gap = GENERATOR.normal(size=(2, 12))
    draws = [
        bootstrap(kendall_tau, measure, gap, draws=20, seed=key).draws.tolist()
        for key in jax.random.split(jax.random.key(0))
    ]
    typed, legacy = jax.random.key(3), jax.random.PRNGKey(3)
    assert draws[0] != draws[1]
    of_key = [bootstrap(kendall_tau, measure, gap, draws=20, seed=key).draws.tolist() for key in (typed, legacy)]
    assert of_key[0] == of_key[1]


def test_leaving_out_finds_the_minimum_that_makes_the_score():
    measure, gap = GENERATOR.normal(size=(2, 10))
    found = leave_one_out(kendall_tau, measure, gap)
    rows = np.arange(10)
    expected = [kendall_tau(measure[rows != row], gap[rows != row]) for row in rows]
    assert found.without.tolist() == expected
    assert found.left_out.tolist() == rows.tolist()
    by_cluster = leave_one_out(kendall_tau, measure, gap, clusters=np.repeat(["x", "y"], 5))
    assert by_cluster.left_out.tolist() == ["x", "y"]
    assert by_cluster.without.tolist() == [kendall_tau(measure[5:], gap[5:]), kendall_tau(measure[:5], gap[:5])]


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_few_permutations_are_all_taken_as_by_scipy(alternative):
    measure, gap = GENERATOR.normal(size=(2, 6))
    found = permutation_test(kendall_tau, measure, gap, alternative=alternative)
    oracle = stats.permutation_test(
        (measure,),
        lambda x: stats.kendalltau(x, gap).statistic,
        permutation_type="pairings",
        vectorized=False,
        alternative=alternative,
        n_resamples=np.inf,
    )
    assert found.exact
    assert len(found.null) == 720
    assert found.p_value == pytest.approx(oracle.pvalue, abs=1e-12)


def test_permutations_within_groups_are_counted_by_enumeration():
    label = np.array([0, 1, 0, 1, 0])
    measure, gap = GENERATOR.normal(size=(2, 5))
    scores = []
    for order in permutations(range(5)):
        if (label[list(order)] == label).all():
            scores.append(kendall_tau(measure[list(order)], gap))
    found = permutation_test(kendall_tau, measure, gap, within=label)
    assert found.exact
    assert sorted(found.null) == pytest.approx(sorted(scores))
    assert len(scores) == 12
    assert found.p_value == pytest.approx(np.mean(np.array(scores) >= found.value - 1e-9))


def test_random_permutations_approach_the_exact_p_value():
    gap = np.arange(6.0)
    measure = np.array([1, 0, 4, 2, 5, 3.0])
    exact = permutation_test(kendall_tau, measure, gap)
    drawn = permutation_test(kendall_tau, measure, gap, draws=600)
    assert exact.exact
    assert not drawn.exact
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * np.sqrt(exact.p_value / 600))
    assert drawn.p_value == pytest.approx((1 + (drawn.null >= drawn.value - 1e-9).sum()) / 601)


def test_permuting_within_levels_removes_what_a_hyperparameter_does():
    factor = np.repeat([0, 1], 20)
    measure, gap = 3 * factor + GENERATOR.normal(size=(2, 40))
    assert permutation_test(kendall_tau, measure, gap, draws=200).p_value < 0.01
    assert permutation_test(kendall_tau, measure, gap, within=factor, draws=200).p_value > 0.05


def test_permuting_within_cells_leaves_nothing_of_a_measure_that_factors_determine():
    factors = {"a": np.repeat([0, 1], 6), "b": np.tile([0, 0, 0, 1, 1, 1], 2)}
    cell = factor_cells(factors)
    gap = GENERATOR.normal(size=12)
    assert permutation_test(kendall_tau, cell, gap, within=cell).p_value == 1
    assert permutation_test(stratified_tau, gap, gap, factors, within=cell).p_value == pytest.approx(6.0**-4)


def test_random_measures_are_rejected_as_often_as_claimed():
    factors = {"a": np.repeat([0, 1], 8), "b": np.tile(np.repeat([0, 1], 4), 2)}
    p_values = []
    for _ in range(120):
        measure, gap = GENERATOR.normal(size=(2, 16))
        p_values.append(permutation_test(kendall_tau, measure, gap, within=factor_cells(factors), draws=49).p_value)
    assert np.mean(np.array(p_values) <= 0.1) < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 120)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_information_of_random_measures_is_not_found_significant():
    factors = {"a": np.repeat([0, 1], 6), "b": np.tile([0, 1, 2], 4)}
    measure, gap = np.random.default_rng(0).normal(size=(2, 12))
    found = permutation_test(conditional_information, measure, gap, factors, draws=100)
    assert found.value > 0
    assert found.p_value > 0.05
    assert permutation_test(conditional_information, gap, gap, factors, draws=100).p_value == pytest.approx(1 / 101)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap(kendall_tau, [1, np.nan], [1, 2]), "measure must be finite, but 1 of 2"),
        (lambda: bootstrap(kendall_tau, [1, 2], [1, 2], draws=0), "draws must be at least 1, got 0"),
        (lambda: bootstrap(kendall_tau, [1, 2], [1, 2], level=95), "level must be a number between 0 and 1, got 95"),
        (lambda: bootstrap(kendall_tau, [1, 2], [1, 2], clusters=[0, 0]), "clusters must have at least two different"),
        (lambda: bootstrap(kendall_tau, [1, 2], [1, 2], clusters=[0]), "clusters must have shape (2,)"),
        (lambda: bootstrap(kendall_tau, [1, 2], [1, 2], seed=-1), "seed must be at least 0, got -1"),
        (lambda: bootstrap(lambda x, y: "high", [1, 2], [1, 2]), "score must return a number, or a record"),
        (lambda: permutation_test(kendall_tau, [1, 1], [1, 2]), "score must be defined for the minima as they are"),
        (lambda: permutation_test(kendall_tau, [1, 2], [1, 2], within=[0, 1]), "within must have at least two minima"),
        (lambda: permutation_test(kendall_tau, [1, 2], [1, 2], alternative="up"), "alternative must be one of greater"),
        (lambda: leave_one_out(kendall_tau, [1, 2], [1, 2]), "at least 2 minima must be left"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("seed", [True, 1.5, "0", None, np.random.RandomState(0)])
def test_other_seeds_are_refused(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        bootstrap(kendall_tau, [1, 2, 3], [1, 2, 3], seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("score", [kendall_tau, granulated_tau], ids=["plain", "granulated"])
def test_intervals_over_minima_of_a_factorial_design_cover_the_mean_score_of_the_design(score):
    grid = np.array(list(product([0, 1], repeat=6)))
    factors = dict(zip("abcdef", grid.T, strict=True))
    arguments = (factors,) if score is granulated_tau else ()

    def study(seed):
        rng = np.random.default_rng(seed)
        own = rng.normal(size=64)
        return grid @ [1, -1, 0.5, 0, 0, 1] + own + rng.normal(size=64), grid @ [2, 1, 0.5, 0.3, 0.2, 0] + own

    scores = [score(*study(1000 + seed), *arguments) for seed in range(200)]
    truth = np.mean([getattr(each, "value", each) for each in scores])
    found = [bootstrap(score, *study(seed), *arguments, draws=100, seed=seed) for seed in range(80)]
    assert np.mean([each.low <= truth <= each.high for each in found]) > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 80)
