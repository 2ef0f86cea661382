"""The tree against shortest paths along it and the spaces between its points; counts against their moments."""

import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.tree import artificial_tree, count_noise


def test_neighbours_on_a_branch_are_at_distance_one_and_branches_begin_on_earlier_ones():
    tree = artificial_tree(branches=6, points=20, size=30)
    assert tree.points.shape == (120, 30)
    distances = squareform(pdist(tree.points))
    for branch in range(6):
        rows = np.flatnonzero(tree.branch == branch)
        np.testing.assert_array_equal(tree.place[rows], np.arange(20))
        np.testing.assert_allclose(distances[rows[:-1], rows[1:]], 1)
        if branch:
            assert distances[rows[0], : rows[0]].min() == pytest.approx(1)


def test_geodesics_are_the_shortest_paths_over_steps_of_length_one():
    tree = artificial_tree(branches=6, points=20, size=500)
    steps = squareform(pdist(tree.points))
    # In 500 dimensions directions are nearly orthogonal: only steps along the tree are that short.
    steps[steps > 1 + 1e-9] = 0
    np.testing.assert_allclose(shortest_path(steps), tree.geodesics, atol=1e-9)


def test_noise_moves_points_but_changes_no_geodesic():
    exact, noisy = artificial_tree(seed=3), artificial_tree(seed=3, noise=0.5)
    np.testing.assert_array_equal(noisy.geodesics, exact.geodesics)
    assert (noisy.points - exact.points).std() == pytest.approx(0.5, rel=0.02)


def test_a_seed_determines_the_tree():
    one, same, other = (artificial_tree(seed=seed).points for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": 0}, "branches must be a whole number of at least 1, got 0"),
        ({"points": 0}, "points must be a whole number of at least 1, got 0"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"noise": -1}, "noise must be a finite number of at least 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        artificial_tree(**options)


@pytest.mark.parametrize(
    ("dispersion", "dropout", "library"), [(0, 0, 0), (0.5, 0, 0), (0, 0.4, 0), (0, 0, 0.3), (0.5, 0.4, 0.3)]
)
def test_counts_have_the_means_and_variances_of_their_model(dispersion, dropout, library):
    rates = np.array([0.5, 2.0, 8.0])
    points = np.tile(np.log(rates), (200_000, 1))
    counts = count_noise(points, dispersion=dispersion, dropout=dropout, library=library, seed=1)
    kept = 1 - dropout
    variance = kept * rates + kept * rates**2 * ((1 + dispersion) * np.exp(library**2) - kept)
    np.testing.assert_allclose(counts.mean(axis=0), kept * rates, rtol=0.02)
    np.testing.assert_allclose(counts.var(axis=0), variance, rtol=0.05)


def test_counts_of_a_point_share_its_library_size():
    # Cov(m1 L, m2 L) = m1 m2 (exp(library^2) - 1); counts of one point are otherwise independent.
    counts = count_noise(np.log(np.tile([4.0, 6.0], (200_000, 1))), dispersion=0.2, library=0.5)
    assert np.cov(counts.T)[0, 1] == pytest.approx(24 * np.expm1(0.25), rel=0.05)
    independent = count_noise(np.log(np.tile([4.0, 6.0], (200_000, 1))), dispersion=0.2)
    assert abs(np.corrcoef(independent.T)[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dispersion": -1}, "dispersion must be a finite number of at least 0, got -1"),
        ({"library": np.inf}, "library must be a finite number of at least 0, got inf"),
        ({"dropout": 1}, "dropout must be a number from 0 to below 1, got 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"log_rates": [[31.0, 0.0]]}, "log_rates must be at most 30, got 31"),
    ],
)
def test_counts_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        count_noise(**{"log_rates": [[0.0, 1.0]]} | options)
