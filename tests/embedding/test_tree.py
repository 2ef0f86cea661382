"""The tree against shortest paths along it, and the spaces between its points."""

import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.tree import artificial_tree


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
