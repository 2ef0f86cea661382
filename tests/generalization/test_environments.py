"""The sign error: against a double loop, closed forms, and measures that fail in one environment only."""

import re
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from jaxscape.generalization.environments import sign_error

GRID = np.repeat(np.array(list(product([0.1, 0.2, 0.3], [0, 1], [0, 1], [0, 1]))), 2, axis=0)  # 24 cells, 2 each
FACTORS = dict(zip(("rate", "decay", "crops", "noise"), GRID.T, strict=True))
RNG = np.random.default_rng(11)


def loop(measure, gap, factor, low, high, weight):
    """The weighted error of one environment and its effective size, by the definition."""
    position = [*FACTORS].index(factor)
    errors, weights = [], []
    for i, j in product(range(len(gap)), repeat=2):
        alone = (GRID[i] != GRID[j]).sum() == 1
        if alone and GRID[i, position] == low and GRID[j, position] == high and gap[i] != gap[j]:
            errors.append((1 - np.sign(measure[i] - measure[j]) * np.sign(gap[i] - gap[j])) / 2)
            weights.append(max(weight(i, j) - 0.5, 0))
    errors, weights = np.array(errors), np.array(weights)
    return (errors * weights).sum() / weights.sum(), weights.sum() ** 2 / (weights**2).sum()


@pytest.mark.parametrize("kind", ["alike", "test_size", "standard_error"])
def test_environments_have_the_errors_of_the_definition(kind):
    measure = RNG.integers(0, 20, 48)
    gap = RNG.integers(0, 25, 48) / 50
    spread = RNG.uniform(0.01, 0.1, 48)

    def weight(i, j):
        difference = abs(gap[i] - gap[j])
        if kind == "test_size":
            return max(0, 1 - 2 * np.exp(-2 * 500 * (difference / 2) ** 2)) ** 2
        if kind == "standard_error":
            return 1 - 2 * norm.sf(difference / np.hypot(spread[i], spread[j]))
        return 1

    options = {"alike": {}, "test_size": {"test_size": 500}, "standard_error": {"standard_error": spread}}[kind]
    found = sign_error(measure, gap, FACTORS, least_pairs=1e-9, **options)
    assert len(found.environments) == 3 + 1 + 1 + 1
    for each in found.environments:
        error, effective = loop(measure, gap, each.factor, *each.levels, weight)
        assert each.error == pytest.approx(error, abs=1e-12)
        assert each.effective_pairs == pytest.approx(effective, rel=1e-9)
    assert found.mean == pytest.approx(np.mean([each.error for each in found.environments]))
    assert found.value == found.worst.error == max(each.error for each in found.environments)


def test_the_gap_makes_no_errors_its_reverse_all_and_a_constant_half():
    gap = RNG.normal(size=48).round(1)  # with ties, which are left out
    assert sign_error(gap, gap, FACTORS)[:2] == (0, 0)
    assert sign_error(-gap, gap, FACTORS)[:2] == (1, 1)
    assert sign_error(np.ones(48), gap, FACTORS)[:2] == (0.5, 0.5)


def test_the_worst_environment_is_the_one_where_a_good_measure_fails():
    noise = FACTORS["noise"]
    gap = 10 * FACTORS["rate"] + 2 * FACTORS["crops"] + 0.3 * FACTORS["decay"] + noise + 0.001 * RNG.normal(size=48)
    measure = gap - 2 * noise  # reads label noise the wrong way round
    found = sign_error(measure, gap, FACTORS)
    assert (found.value, found.worst.factor, found.worst.levels) == (1, "noise", (0, 1))
    assert found.mean == pytest.approx(1 / 6)


def test_pairs_whose_order_is_noise_do_not_count():
    gap = 0.1 * FACTORS["rate"] + 0.4 * FACTORS["noise"]
    gap = gap + 0.001 * RNG.permutation(48) / 48  # far below what 500 examples can tell apart
    found = sign_error(RNG.normal(size=48), gap, FACTORS, test_size=500)
    counted = {each.factor for each in found.environments if each.pairs}
    assert counted == {"noise"}
    assert found.worst.factor == "noise"
    assert np.isnan([each.error for each in found.environments if each.factor != "noise"]).all()


def test_small_environments_are_listed_but_do_not_count():
    gap = RNG.normal(size=48)
    found = sign_error(-gap, gap, FACTORS, least_pairs=40)  # 16 cells with 4 pairs: 64, or 32 between two rates
    assert {each.factor for each in found.environments if each.effective_pairs < 40} == {"rate"}
    assert sign_error(gap, gap, FACTORS, least_pairs=1000)[2] is None
    assert np.isnan(sign_error(gap, gap, FACTORS, least_pairs=1000).mean)


def test_levels_are_plain_values():
    found = sign_error([1, 2], [1, 2], {"kind": ["good", "bad"]}, least_pairs=1)
    assert found.worst.levels == ("bad", "good")
    assert all(type(level) is str for level in found.worst.levels)


def test_a_standard_error_of_zero_makes_every_order_certain():
    gap = RNG.normal(size=48)
    measure = RNG.normal(size=48)
    assert sign_error(measure, gap, FACTORS, standard_error=0) == sign_error(measure, gap, FACTORS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_size": 10, "standard_error": 0.1}, "test_size and standard_error cannot both be given"),
        ({"test_size": 0}, "test_size must be at least 1, got 0"),
        ({"test_size": 10}, "gap must be a difference of error rates, -1 to 1, got 3.0 in absolute value"),
        ({"standard_error": -1}, "standard_error must be at least 0, got -1"),
        ({"standard_error": [0.1]}, "standard_error must have one value per gap"),
        ({"least_pairs": 0}, "least_pairs must be above 0, got 0"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sign_error([1, 2], [1, 3], {"a": [0, 1]}, **options)
