"""Measures against SciPy pair by pair, and on embeddings with known values."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata, spearmanr

from jaxscape.embedding.measures import (
    average_ranks,
    degeneracy,
    demap,
    procrustes_disparity,
    radial_trend,
    rank_correlation,
    successor_rank,
    successor_rank_of_distances,
)


def points(n=40, size=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, size))


def turned(picture):
    """Rotated, mirrored, scaled and moved."""
    return 7 * picture @ np.array([[0.6, -0.8], [-0.8, -0.6]]) + 3


@pytest.mark.parametrize("measure", [demap, rank_correlation])
def test_the_global_correlation_is_spearmans_over_pairs(measure):
    distances, picture = squareform(pdist(points())), points()[:, :2]
    assert measure(distances, picture) == pytest.approx(spearmanr(pdist(points()), pdist(picture)).statistic)
    assert measure(squareform(pdist(picture)), picture) == pytest.approx(1)
    assert measure(distances, turned(picture)) == pytest.approx(measure(distances, picture))


@pytest.mark.parametrize("neighbours", [3, 10, 39])
def test_the_local_correlation_is_spearmans_over_the_nearest(neighbours):
    distances, picture = squareform(pdist(points())), points()[:, :2]
    kept = squareform(pdist(picture))
    expected = []
    for i in range(40):
        nearest = [j for j in np.argsort(distances[i]) if j != i][:neighbours]
        expected.append(spearmanr(distances[i, nearest], kept[i, nearest]).statistic)
    assert rank_correlation(distances, picture, neighbours=neighbours) == pytest.approx(np.mean(expected))


CONSTANT = [(1 - np.eye(10), points(10)), (squareform(pdist(points(10))), np.ones((10, 2)))]


@pytest.mark.parametrize(("distances", "picture"), CONSTANT)
@pytest.mark.parametrize("neighbours", [None, 5])
def test_the_correlation_of_equal_distances_is_undefined(distances, picture, neighbours):
    assert np.isnan(rank_correlation(distances, picture, neighbours=neighbours))
    assert np.isnan(demap(distances, picture))


def test_a_point_whose_neighbours_are_equally_far_counts_as_zero():
    """The corners of a square are equally far from its centre, and the embedding is exact."""
    picture = np.array([[1.0, 1], [1, -1.1], [-1.2, -1.3], [-1.4, 1.5], [0, 0]])
    distances = squareform(pdist(picture))
    distances[4, :4] = distances[:4, 4] = 1
    alone = [
        spearmanr(distances[i, rows], np.linalg.norm(picture[rows] - picture[i], axis=1)).statistic
        for i, rows in ((i, [j for j in range(5) if j != i]) for i in range(4))
    ]
    assert rank_correlation(distances, picture, neighbours=4) == pytest.approx(sum(alone) / 5)


@pytest.mark.parametrize("unit", [1e-300, 1e-170, 1e170, 1e300])
def test_measures_do_not_depend_on_the_unit_of_either(unit):
    picture, trajectory, order = points(30, 2), np.repeat(np.arange(3), 10), np.tile(np.arange(10), 3)
    distances = squareform(pdist(points(30)[:, ::-1]))
    for neighbours in (None, 5):
        expected = rank_correlation(distances, picture, neighbours=neighbours)
        found = rank_correlation(unit * distances, unit * picture, neighbours=neighbours)
        assert found == pytest.approx(expected)
    assert demap(unit * distances, unit * picture) == pytest.approx(demap(distances, picture))
    where = trajectory, order
    np.testing.assert_array_equal(successor_rank(unit * picture, *where), successor_rank(picture, *where))
    found = successor_rank_of_distances(unit * distances, *where)
    np.testing.assert_array_equal(found, successor_rank_of_distances(distances, *where))
    np.testing.assert_allclose(radial_trend(unit * picture, *where), radial_trend(picture, *where))
    expected = procrustes_disparity(picture, points(30, 2, seed=1))
    assert procrustes_disparity(unit * picture, points(30, 2, seed=1)) == pytest.approx(expected)
    assert procrustes_disparity(points(30, 2, seed=1), unit * picture) == pytest.approx(expected)


@pytest.mark.parametrize("names", [list("cab"), np.array(list("cab"), object), [3.0, 1.0, 2.0], np.arange(3)])
def test_trajectories_have_names_or_numbers(names):
    picture, trajectory, order = points(30, 2), np.repeat(np.argsort(np.argsort(names)), 10), np.tile(np.arange(10), 3)
    named = [names[number] for number in np.repeat(np.arange(3), 10)]
    np.testing.assert_array_equal(successor_rank(picture, named, order), successor_rank(picture, trajectory, order))
    np.testing.assert_array_equal(radial_trend(picture, named, order), radial_trend(picture, trajectory, order))


def test_a_single_point_has_no_successor():
    assert successor_rank(np.zeros((1, 2)), [0], [0]).shape == (0,)


def test_the_disparity_of_a_single_point_is_undefined():
    assert np.isnan(procrustes_disparity(np.ones((5, 2)), points(5, 2)))
    assert np.isnan(procrustes_disparity(points(5, 2), np.ones((5, 2))))
    nearly = np.stack([np.ones(5), 1e-200 * np.arange(5)], axis=1)
    assert np.isnan(procrustes_disparity(nearly, points(5, 2)))


@pytest.mark.parametrize("neighbours", [2, 40])
def test_an_impossible_number_of_neighbours_is_refused(neighbours):
    with pytest.raises(
        ValueError, match=f"neighbours must be None or a whole number from 3 to n - 1 = 39, got {neighbours}"
    ):
        rank_correlation(squareform(pdist(points())), points(), neighbours=neighbours)


def test_distances_of_another_number_of_points_are_refused():
    with pytest.raises(ValueError, match=r"geodesics must have shape \(40, 40\), got \(39, 39\)"):
        demap(np.zeros((39, 39)), points())


def test_a_straight_walk_is_never_broken():
    walk = np.stack([np.arange(20) ** 1.1, np.zeros(20)], axis=1)
    ranks = successor_rank(walk, np.zeros(20), np.arange(20))
    # From the second point on the one before is nearer than the next.
    np.testing.assert_array_equal(ranks, [0] + [1] * 18)


def test_a_jump_over_others_is_counted():
    """Two walks side by side; the first has its halves far apart, with the second between."""
    first = np.array([[0, 0], [1, 0], [9, 0], [10, 0]], float)
    second = np.array([[3, 0], [4.5, 0], [6, 0]], float)
    picture = np.concatenate([first, second])
    trajectory, order = [0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2]
    ranks = successor_rank(picture, np.array(trajectory), np.array(order))
    # From 1 to 9 all of 0, 3, 4.5 and 6 are nearer.
    np.testing.assert_array_equal(ranks, [0, 4, 0, 0, 0])


def test_the_order_of_the_rows_does_not_matter():
    picture, trajectory, order = points(30, 2), np.repeat(np.arange(3), 10), np.tile(np.arange(10), 3)
    shuffled = np.random.default_rng(1).permutation(30)
    expected = successor_rank(picture, trajectory, order)
    assert expected.shape == (27,)
    found = successor_rank(turned(picture)[shuffled], trajectory[shuffled], order[shuffled])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(successor_rank_of_distances(squareform(pdist(picture)), trajectory, order), expected)


def test_coinciding_points_are_nearest_neighbours():
    np.testing.assert_array_equal(successor_rank(np.zeros((4, 2)), np.zeros(4), np.arange(4)), 0)


def test_disparity_is_zero_for_the_same_picture_turned_and_near_one_for_another():
    picture = points(200, 2)
    assert procrustes_disparity(picture, turned(picture)) < 1e-20
    assert 0.9 < procrustes_disparity(picture, points(200, 2, seed=1)) <= 1


def test_trends_are_spearmans_correlations_of_order_and_radius():
    generator = np.random.default_rng(0)
    picture, order = generator.normal(size=(40, 3)), generator.permutation(40)
    trajectory = np.repeat([7, 3], 20)
    radius = np.linalg.norm(picture - picture.mean(axis=0), axis=1)
    expected = [spearmanr(order[rows], radius[rows]).statistic for rows in (trajectory == 3, trajectory == 7)]
    np.testing.assert_allclose(radial_trend(picture, trajectory, order), expected)


def test_a_star_that_is_walked_inward_and_outward():
    angles, radii = np.arange(5) * 2 * np.pi / 5, np.linspace(1, 2, 8)
    petals = np.stack([np.outer(np.cos(angles), radii), np.outer(np.sin(angles), radii)], axis=-1)
    picture, trajectory = petals.reshape(-1, 2) + np.array([10, -4]), np.repeat(np.arange(5), 8)
    np.testing.assert_allclose(radial_trend(picture, trajectory, np.tile(np.arange(8), 5)), 1)
    np.testing.assert_allclose(radial_trend(picture, trajectory, np.tile(-np.arange(8), 5)), -1)


def test_a_trajectory_that_does_not_move_has_no_trend():
    picture = np.array([[0.0, 0], [0, 0], [1, 0], [2, 0], [5, 5]])
    found = radial_trend(picture, np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]))
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(-1)  # the centre is at (1.6, 1)


def rectangle(*sides, count=400, seed=0):
    """Points of a box with these sides, whose extents along the axes are the sides over the root of 12."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, len(sides))) * np.array(sides)


@pytest.mark.parametrize(
    ("true", "drawn", "words"),
    [
        ((1, 0.5), (1, 0.001), "on a line: axis 2 of the picture extends 0.1% as far as the first, that of the"),
        ((1, 0.5), (1, 0.5), ""),
        ((1, 0.5), (1, 0.03), ""),  # a band, but no line
        ((1, 0.001), (1, 0.001), ""),  # the points are on a line
        ((1, 0.001), (1, 0.5), ""),
        ((1, 0.8, 0.5), (1, 0.8, 0.001), "in a plane: axis 3"),
        ((1, 0.8, 0.5), (1, 0.001, 0.0001), "on a line: axis 2"),
        ((1, 0.8, 0.0), (1, 0.8, 0.0), ""),  # they are in a plane
        ((1, 0.0, 0.0), (1, 0.0, 0.0), ""),
        ((1, 0.8, 0.0), (1, 0.001, 0.0), "on a line: axis 2"),
        ((1, 0.9, 0.8, 0.5), (1, 0.9, 0.8, 0.001), ""),
        ((1, 0.9, 0.8, 0.5), (1, 0.9, 0.001, 0.001), "in a plane: axis 3"),
        ((1, 0.5), (1,), ""),  # one axis was asked for
    ],
)
def test_a_picture_that_is_flatter_than_its_distances_is_degenerate(true, drawn, words):
    distances, picture = squareform(pdist(rectangle(*true))), rectangle(*drawn)
    for unit in (1, 1e-200, 1e200):
        found = degeneracy(unit * distances, turned(picture) if picture.shape[1] == 2 else unit * picture)
        assert (found == "") == (words == "")
        assert words in found


def test_the_reported_extents_are_those_of_the_points():
    points, picture = rectangle(1, 0.5), rectangle(1, 0.01)
    true, seen = (np.linalg.svd(each - each.mean(axis=0), compute_uv=False) for each in (points, picture))
    words = f"extends {seen[1] / seen[0]:.1%} as far as the first, that of the distances {true[1] / true[0]:.0%}"
    assert degeneracy(squareform(pdist(points)), picture).endswith(words)


@pytest.mark.parametrize(("radius", "crowded"), [(0.001, True), (0.009, True), (0.011, False), (1.0, False)])
def test_a_picture_of_points_in_one_place_is_degenerate(radius, crowded):
    """A point in the middle, 380 about it, and 20 at distance 1."""
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.concatenate([np.zeros((1, 2)), np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    picture = np.where(np.arange(401)[:, None] % 20 == 1, 1, radius) * circle
    found = degeneracy(squareform(pdist(circle)), picture)
    expected = f"nine points of ten lie in one place: within {radius:.1%} of the picture's radius, by their distances"
    assert found == (f"{expected} within 100%" if crowded else "")
    assert degeneracy(squareform(pdist(picture)), picture) == ""  # they lie so


def test_a_picture_that_is_one_point_is_degenerate_unless_the_points_are_one():
    assert degeneracy(squareform(pdist(points())), np.ones((40, 2))) == "all points lie in one place"
    assert degeneracy(np.zeros((5, 5)), np.ones((5, 2))) == ""


def test_degeneracy_refuses_invalid_coordinates():
    with pytest.raises(ValueError, match="distances must have shape"):
        degeneracy(np.zeros((4, 4)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="embedding must be finite"):
        degeneracy(np.zeros((5, 5)), np.full((5, 2), np.nan))


@pytest.mark.parametrize("shape", [(0,), (1,), (200,), (7, 30)], ids=str)
def test_ranks_are_those_of_scipy(shape):
    generator = np.random.default_rng(0)
    for values in (generator.normal(size=shape), generator.integers(0, 5, shape)):
        np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=-1))
