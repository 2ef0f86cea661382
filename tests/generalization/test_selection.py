"""Hit rate and regret: closed forms, and random tie-breaking by brute force."""

from itertools import permutations

import numpy as np
import pytest

from jaxscape.generalization.selection import hit_rate, regret

RNG = np.random.default_rng(2)


def test_the_gap_hits_all_and_its_reverse_none():
    gap = RNG.permutation(50)
    assert hit_rate(gap, gap) == 1
    assert hit_rate(-gap, gap) == 0


@pytest.mark.parametrize(("n", "share", "best"), [(10, 0.2, 2), (12, 0.2, 2), (13, 0.2, 3), (3, 0.1, 1), (10, 0.25, 3)])
def test_the_number_of_the_best_is_rounded_and_at_least_one(n, share, best):
    gap = np.arange(n)
    measure = np.where(gap == 0, 0, n - gap)  # finds the best one, and otherwise the worst
    assert hit_rate(measure, gap, share=share) == pytest.approx(1 / best)


def test_ties_have_the_expectation_over_random_order():
    measure, gap = np.array([1, 1, 1, 2, 3, 3]), np.array([0.1, 0.2, 0.2, 0.2, 0.1, 0.5])
    orders = [np.array(order) for order in permutations(range(6))]

    def tops(values):
        """The three smallest for each way to break ties."""
        return np.array(
            [np.isin(np.arange(6), order[np.argsort(values[order], kind="stable")[:3]]) for order in orders]
        )

    expected = (tops(measure).mean(axis=0) * tops(gap).mean(axis=0)).sum() / 3
    assert hit_rate(measure, gap, share=0.5) == pytest.approx(expected, abs=1e-12)


def test_random_and_constant_measures_hit_by_chance():
    gap = RNG.normal(size=50)
    assert hit_rate(np.ones(50), gap) == pytest.approx(0.2)
    assert np.mean([hit_rate(RNG.normal(size=50), gap) for _ in range(500)]) == pytest.approx(0.2, abs=0.02)


def test_a_measure_that_knows_one_hyperparameter_can_hit():
    noise = np.repeat([0, 1, 1, 1, 1], 10)
    gap = noise + 0.1 * RNG.normal(size=50)
    assert hit_rate(noise, gap) == 1  # as the docstring warns


def test_regret_is_the_gap_of_the_choice_over_the_best():
    assert regret([3, 1, 2], [0.1, 0.4, 0.7]) == pytest.approx((0.3, 0.3 / 0.3))
    assert regret([1, 2, 3], [0.1, 0.4, 0.7]) == (0, 0)
    assert regret([1, 1, 3], [0.1, 0.4, 0.7]).value == pytest.approx(0.15)


def test_a_random_choice_has_a_relative_regret_of_one():
    gap = RNG.normal(size=40)
    assert regret(np.zeros(40), gap).relative == pytest.approx(1)
    assert np.isnan(regret([1, 2], [3, 3]).relative)
    assert regret([1, 2], [3, 3]).value == 0


def test_bad_input_is_refused():
    for share in (0, 1, -0.1, np.nan, "half", True):
        with pytest.raises(ValueError, match="share must be a number between 0 and 1, got"):
            hit_rate([1, 2], [1, 2], share=share)
    with pytest.raises(ValueError, match="measure must be finite, but 1 of 2"):
        regret([1, np.nan], [1, 2])
