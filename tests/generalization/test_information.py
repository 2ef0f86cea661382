"""Conditional mutual information: against scikit-learn, and closed forms."""

from itertools import combinations, product

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from jaxscape.generalization.information import conditional_information

GRID = np.array(list(product(range(3), range(2), range(2))))
FACTORS = dict(zip("abc", np.repeat(GRID, 3, axis=0).T, strict=True))
RNG = np.random.default_rng(5)


def by_definition(measure, gap, factors, chosen):
    """I / H of the signs over ordered pairs, given the values of both minima; mutual information from scikit-learn."""
    groups = {}
    for i, j in product(range(len(gap)), repeat=2):
        if gap[i] != gap[j]:
            condition = tuple((factors[name][i], factors[name][j]) for name in chosen)
            groups.setdefault(condition, []).append((np.sign(measure[i] - measure[j]), np.sign(gap[i] - gap[j])))
    information = entropy = 0.0
    for pairs in groups.values():
        measure_signs, gap_signs = np.array(pairs).T
        information += len(pairs) * mutual_info_score(measure_signs, gap_signs)
        entropy += len(pairs) * mutual_info_score(gap_signs, gap_signs)
    return information / entropy


@pytest.mark.parametrize("ties", [False, True])
def test_every_conditioning_set_has_the_value_of_the_definition(ties):
    measure, gap = RNG.integers(0, 6, (2, 36)) if ties else RNG.normal(size=(2, 36))
    found = conditional_information(measure, gap, FACTORS)
    expected = {
        chosen: by_definition(measure, gap, FACTORS, chosen)
        for size in range(3)
        for chosen in combinations("abc", size)
    }
    assert found.by_set == pytest.approx(expected, abs=1e-12)
    assert found.value == min(found.by_set.values())
    assert found.by_set[found.given] == found.value


def test_the_gap_explains_all_of_itself_in_either_direction():
    gap = RNG.normal(size=36)
    assert conditional_information(gap, gap, FACTORS).value == pytest.approx(1)
    assert conditional_information(-gap, gap, FACTORS).value == pytest.approx(1)


def test_a_function_of_hyperparameters_explains_nothing_once_they_are_known():
    gap = 5.0 * FACTORS["a"] + RNG.normal(size=36)
    found = conditional_information(FACTORS["a"], gap, FACTORS)
    assert found.by_set[()] > 0.3
    assert found.by_set["a",] == 0
    assert (found.value, found.given) == (0, ("a",))
    two = FACTORS["a"] + 10 * FACTORS["b"]
    gap = two + 0.1 * RNG.normal(size=36)
    assert conditional_information(two, gap, FACTORS).given == ("a", "b")
    assert conditional_information(two, gap, FACTORS).value == 0
    assert conditional_information(two, gap, FACTORS, largest=1).value > 0


def test_without_conditions_it_is_one_minus_the_entropy_of_the_share_of_right_pairs():
    measure, gap = RNG.normal(size=(2, 36))
    rows = np.triu_indices(36, 1)
    right = ((measure[rows[0]] > measure[rows[1]]) == (gap[rows[0]] > gap[rows[1]])).mean()
    expected = 1 + right * np.log2(right) + (1 - right) * np.log2(1 - right)
    assert conditional_information(measure, gap, FACTORS, largest=0).value == pytest.approx(expected, abs=1e-12)


def test_random_measures_score_little_but_above_zero():
    gap = RNG.normal(size=36)
    scores = [conditional_information(RNG.normal(size=36), gap, FACTORS).value for _ in range(50)]
    assert 0 < np.mean(scores) < 0.05  # the bias that the docstring names
    assert conditional_information(np.ones(36), gap, FACTORS).value == 0


def test_a_set_that_determines_the_order_of_gaps_is_undefined():
    factors = {"a": [0, 1, 2, 3], "b": [0, 0, 1, 1]}
    found = conditional_information([2, 1, 3, 4], [1, 2, 3, 4], factors)
    assert np.isnan(found.by_set["a",])
    assert not np.isnan(found.by_set["b",])
    assert np.isnan(conditional_information([1, 2], [3, 3], {"a": [0, 1]}).value)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="largest must be at least 0, got -1"):
        conditional_information([1, 2], [1, 2], {"a": [0, 1]}, largest=-1)
    with pytest.raises(ValueError, match="measure must be finite, but 1 of 2"):
        conditional_information([1, np.nan], [1, 2], {"a": [0, 1]})
