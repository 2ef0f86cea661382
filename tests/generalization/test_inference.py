"""Tests of means and corrections: scipy as an oracle, enumeration, and error rates as claimed."""

import re

import numpy as np
import pytest
from scipy import stats

from jaxscape.generalization.inference import equivalence_test, holm, mean_interval, mean_test, sign_flip_test

VALUES = np.random.default_rng(8).normal(0.3, 1, 9)


def test_the_interval_is_students():
    oracle = stats.ttest_1samp(VALUES, 0).confidence_interval(0.9)
    found = mean_interval(VALUES, level=0.9)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
    assert (found.mean, found.standard_error, found.size) == pytest.approx((VALUES.mean(), stats.sem(VALUES), 9))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_the_test_of_a_mean_is_students(alternative):
    oracle = stats.ttest_1samp(VALUES, 0.1, alternative=alternative).pvalue
    assert mean_test(VALUES, center=0.1, alternative=alternative) == pytest.approx(oracle)


def test_values_that_are_all_equal_are_certain():
    same = [0.1] * 7  # whose mean is not exactly 0.1
    assert mean_interval(same)[:3] == (0.1, 0.1, 0.1)
    assert mean_test(same, center=0.05) == 0
    assert mean_test(same, center=0.05, alternative="less") == 1
    assert mean_test(same, center=0.1) == mean_test(same, center=0.1, alternative="two-sided") == 1
    assert equivalence_test(same, margin=0.2).p_value == 0
    assert equivalence_test(same, margin=0.1).p_value == 1


def test_equivalence_is_two_one_sided_tests_and_the_interval_says_the_same():
    for margin in (0.1, 0.5, 1.0, 2.0):
        found = equivalence_test(VALUES, margin=margin, center=0.2)
        above = stats.ttest_1samp(VALUES, 0.2 - margin, alternative="greater").pvalue
        below = stats.ttest_1samp(VALUES, 0.2 + margin, alternative="less").pvalue
        assert found.p_value == pytest.approx(max(above, below))
        oracle = stats.ttest_1samp(VALUES, 0).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))
        assert found.is_equivalent == (0.2 - margin < found.low and found.high < 0.2 + margin)
    assert equivalence_test(VALUES, margin=2.0).is_equivalent
    assert not equivalence_test(VALUES, margin=0.1).is_equivalent


def test_few_values_are_never_equivalent_by_ignorance():
    assert not equivalence_test([-1.0, 1.1], margin=0.5).is_equivalent  # an ordinary test finds no difference
    assert mean_test([-1.0, 1.1], alternative="two-sided") > 0.9


def test_equivalence_is_claimed_wrongly_as_often_as_allowed():
    rng = np.random.default_rng(1)
    wrong = np.mean([equivalence_test(rng.normal(0.5, 1, 40), margin=0.5).is_equivalent for _ in range(400)])
    assert wrong == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 400))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_sign_flips_of_few_values_are_all_taken_as_by_scipy(alternative):
    found = sign_flip_test(VALUES, alternative=alternative)
    oracle = stats.permutation_test(
        (VALUES,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=np.inf, vectorized=False
    ).pvalue
    assert found.exact
    assert len(found.null) == 2**9
    assert found.p_value == pytest.approx(oracle, abs=1e-12)
    assert found.value == pytest.approx(VALUES.mean())


def test_the_smallest_p_value_of_sign_flips_is_two_over_two_to_the_n():
    assert sign_flip_test(np.arange(1, 6)).p_value == 2 / 2**5
    assert sign_flip_test(np.arange(1, 6), alternative="greater").p_value == 1 / 2**5
    assert sign_flip_test([0, 0, 0]).p_value == 1


def test_random_sign_flips_approach_the_exact_p_value():
    exact = sign_flip_test(VALUES).p_value
    drawn = sign_flip_test(VALUES, draws=500, seed=3)
    assert not drawn.exact
    assert drawn.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / 500))
    assert drawn.p_value == sign_flip_test(VALUES, draws=500, seed=3).p_value


def test_holm_has_the_values_of_the_paper_and_of_a_loop():
    assert holm([0.01, 0.02, 0.03, 0.04]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.9, 0.5]).tolist() == [1, 1]
    assert holm([0.3]).tolist() == [0.3]
    p = np.random.default_rng(0).uniform(size=12).round(1)  # with ties
    ranked = sorted(p)
    expected = [min(1, max((12 - j) * q for j, q in enumerate(ranked) if q <= each)) for each in p]
    assert holm(p).tolist() == pytest.approx(expected)


def test_rejecting_adjusted_p_values_is_holms_procedure():
    rng = np.random.default_rng(2)
    for _ in range(100):
        p = rng.uniform(size=6) ** 3
        rejected, order = np.zeros(6, bool), np.argsort(p)
        for step, index in enumerate(order):  # stop at the first that is not rejected
            if p[index] > 0.05 / (6 - step):
                break
            rejected[index] = True
        assert ((holm(p) <= 0.05) == rejected).all()


def test_holm_keeps_the_probability_of_any_wrong_rejection():
    rng = np.random.default_rng(3)
    true_nulls = rng.uniform(size=(2000, 5))
    shown = np.full((2000, 3), 1e-6)  # three effects that are there
    wrong = np.mean([(holm(np.concatenate(each))[:5] <= 0.05).any() for each in zip(true_nulls, shown, strict=True)])
    assert wrong == pytest.approx(1 - 0.99**5, abs=3 * np.sqrt(0.05 * 0.95 / 2000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), "values must have at least 2 values, got 1"),
        (lambda: mean_interval([1.0, np.nan]), "values must be finite, but 1 of 2"),
        (lambda: mean_test([1, 2], alternative="up"), "alternative must be one of greater, less, two-sided, got 'up'"),
        (lambda: equivalence_test([1, 2], margin=0), "margin must be above 0, got 0"),
        (lambda: equivalence_test([1, 2], margin=1, level=0.3), "level must be above 0.5, got 0.3"),
        (lambda: holm([0.1, 1.2]), "p_values must be from 0 to 1, got 1.2"),
        (lambda: holm([]), "p_values must have at least 1 values, got 0"),
        (lambda: holm([0.1, np.nan]), "p_values must be finite, but 1 of 2"),
        (lambda: sign_flip_test([1, 2], draws=0), "draws must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
