"""The permutation null of persistence."""

import itertools

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from jaxscape.topology.null import STATISTICS, p_value, persistence_null
from jaxscape.topology.persistence import lifetimes, persistence

PLACES = np.random.default_rng(0).normal(size=(80, 2))
DISTANCES = squareform(pdist(PLACES))


def test_a_smooth_loss_has_fewer_and_shallower_basins_than_shuffled_ones():
    bowl = (PLACES**2).sum(axis=1)
    found = persistence_null(bowl, DISTANCES, key=jax.random.key(1))
    assert found.observed == persistence(bowl, DISTANCES).total[0]
    assert found.observed < found.null.min()
    assert found.p_value == 1 / 100
    assert persistence_null(bowl, DISTANCES, alternative="greater").p_value == 1
    assert persistence_null(bowl, DISTANCES, alternative="two-sided").p_value == 2 / 100


def test_p_values_of_losses_without_order_are_spread_from_0_to_1():
    rng = np.random.default_rng(3)
    options = {"draws": 19, "knn": 3}
    found = [persistence_null(rng.normal(size=80), DISTANCES, **options).p_value for _ in range(40)]
    # The mean of 40 uniform numbers from 0.05 to 1: 0.525, standard error 0.046.
    assert abs(np.mean(found) - 0.525) < 4 * 0.046
    assert min(found) < 0.25
    assert max(found) > 0.75


def test_shuffles_of_three_losses_on_a_line_have_the_distribution_of_all_permutations():
    losses = np.array([0.0, 2.0, 1.0])
    found = persistence_null(losses, draws=600, key=jax.random.key(4))
    every = [persistence(np.array(order)).total[0] for order in itertools.permutations(losses)]
    assert set(found.null) == set(every) == {0.0, 1.0}  # a basin of depth 1 where 2 stands in the middle
    assert found.null.mean() == pytest.approx(1 / 3, abs=4 * (2 / 9 / 600) ** 0.5)


def test_statistics_are_those_of_the_pairs():
    values = np.random.default_rng(5).normal(size=80)
    pairs = persistence(values, DISTANCES)
    expected = {"total": lifetimes(pairs).sum(), "largest": lifetimes(pairs)[0], "basins": len(lifetimes(pairs)) + 1}
    assert expected.keys() == STATISTICS.keys()
    for name, number in expected.items():
        found = persistence_null(values, DISTANCES, statistic=name, draws=3)
        assert found.observed == pytest.approx(number)
        assert found.statistic == STATISTICS[name].words
    own = persistence_null(values, DISTANCES, statistic=lambda found: -found.total[0], draws=3)
    assert own.observed == -pairs.total[0]


def test_lifetimes_of_draws_are_sorted_padded_and_sum_to_the_statistic():
    values = np.random.default_rng(6).normal(size=80)
    found = persistence_null(values, DISTANCES, draws=9)
    assert found.null_lifetimes.shape[0] == 9
    assert found.null_lifetimes.shape[1] >= len(found.lifetimes)
    assert np.all(np.diff(found.null_lifetimes, axis=1) <= 0)
    np.testing.assert_allclose(found.null_lifetimes.sum(axis=1), found.null)


def test_shuffling_on_a_grid_leaves_excluded_points_in_place():
    grid = np.array([[1, np.nan, 0], [2, np.nan, 3.0]])
    found = persistence_null(grid, draws=20, statistic=lambda each: each.components)
    assert set(found.null) == {2.0}


def test_the_same_key_gives_the_same_draws():
    values = np.random.default_rng(7).normal(size=80)
    one, same, other = (persistence_null(values, DISTANCES, draws=5, key=jax.random.key(k)).null for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_p_values_count_the_observation_itself_and_equal_draws_on_both_sides():
    null = np.array([1.0, 2.0, 3.0, 4.0])
    assert p_value(2.0, null, "less") == 3 / 5
    assert p_value(2.0, null, "greater") == 4 / 5
    assert p_value(0.0, null, "less") == 1 / 5
    assert p_value(0.0, null, "two-sided") == 2 / 5
    assert p_value(0.1 + 0.2, np.full(4, 0.3), "less") == p_value(0.3, np.full(4, 0.1 + 0.2), "less") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "mean"}, "statistic must be one of total, largest, basins, or a function, got 'mean'"),
        ({"alternative": "more"}, "alternative must be one of less, greater, two-sided, got 'more'"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"statistic": lambda found: np.nan}, "statistic must return a finite number, got nan"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        persistence_null(np.arange(80.0), DISTANCES, **options)
