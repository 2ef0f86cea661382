"""Persistence and merge trees against diagrams made by hand, a union-find of this test, and what must not change."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from jaxscape.topology.domain import neighbour_graph
from jaxscape.topology.persistence import lifetimes, persistence
from jaxscape.topology.tree import merge_tree

INF = np.inf
#                 0  1  2  3  4  5  6
LINE = np.array([5, 0, 4, 2, 6, 1, 3.0])  # minima 0, 2, 1 at points 1, 3, 5; saddles 4 and 6 at points 2 and 4


def pairs(found, dimension=0):
    rows = found.dimension == dimension
    columns = (found.birth, found.death, found.birth_index, found.death_index)
    return list(zip(*(column[rows].tolist() for column in columns), strict=True))


def points(count, seed=0):
    return squareform(pdist(np.random.default_rng(seed).normal(size=(count, 3))))


def elder_rule(values, edges):
    """Births and deaths in dimension 0, by merging edges in ascending order of their higher end."""
    parent = list(range(len(values)))

    def find(point):
        while parent[point] != point:
            point = parent[point]
        return point

    found = []
    for one, other in sorted(edges.tolist(), key=lambda edge: max(values[edge[0]], values[edge[1]])):
        low, high = sorted((find(one), find(other)), key=lambda point: values[point])
        if low != high:
            found.append((values[high], max(values[one], values[other])))
            parent[high] = low
    found += [(values[point], INF) for point in range(len(values)) if find(point) == point]
    return sorted((birth, death) for birth, death in found if death > birth)


def test_a_line_has_the_minima_and_saddles_it_was_built_with():
    found = persistence(LINE)
    assert pairs(found) == [(0, INF, 1, -1), (1, 6, 5, 4), (2, 4, 3, 2)]
    assert found.total == {0: 7.0, 1: 0.0}
    assert (found.components, found.left_out, found.knn) == (1, 0, None)
    np.testing.assert_array_equal(lifetimes(found), [5, 2])


def test_a_grid_with_a_summit_in_a_ring_has_a_loop_that_the_summit_fills():
    grid = np.array([[0, 1, 2], [3, 9, 4], [5, 6, 7.0]])
    found = persistence(grid)
    assert pairs(found) == [(0, INF, 0, -1)]
    assert pairs(found, 1) == [(7, 9, 8, 4)]  # closed at the corner, filled at the middle, points row by row


def test_two_basins_of_a_grid_meet_at_the_pass_and_not_across_a_diagonal():
    grid = np.array([[1, 8, 9, 9], [8, 2, 5, 3]], float)
    assert pairs(persistence(grid, dimensions=[0])) == [(1, INF, 0, -1), (2, 8, 5, 1), (3, 5, 7, 6)]


def test_nan_and_infinity_of_a_grid_are_a_wall_that_no_basin_passes():
    for wall in (np.nan, np.inf):
        grid = np.array([[1, wall, 0], [2, wall, 3.0]])
        found = persistence(grid)
        assert pairs(found) == [(0, INF, 2, -1), (1, INF, 0, -1)]
        assert (found.components, found.left_out) == (2, 2)
        tree = merge_tree(grid)
        assert tree.minima.tolist() == [2, 0]
        assert tree.parent.tolist() == [-1, -1]
        ring = np.array([[0, 1, 2], [3, wall, 4], [5, 6, 7.0]])
        assert pairs(persistence(ring), 1) == [(7, INF, 8, -1)]


def test_plateaus_have_one_basin_each():
    assert pairs(persistence(np.zeros((3, 4)))) == [(0, INF, 0, -1)]
    steps = np.array([1, 1, 2, 2, 0, 0, 2, 1.0])
    assert pairs(persistence(steps)) == [(0, INF, 4, -1), (1, 2, 0, 3), (1, 2, 7, 6)]
    assert merge_tree(np.zeros((3, 4))).minima.tolist() == [0]
    assert merge_tree(steps).minima.tolist() == [4, 0, 7]
    crooked = np.array([[3, 0, 0], [0, 0, 3.0]])  # points 1 and 3 both enter before the point that joins them
    assert merge_tree(crooked).minima.tolist() == [1]
    assert merge_tree(crooked).saddles.tolist() == []


def test_the_tree_of_a_line():
    tree = merge_tree(LINE)
    assert tree.minima.tolist() == [1, 5, 3]
    assert tree.saddles.tolist() == [2, 4]
    # Nodes: minima 0, 1, 2 at heights 0, 1, 2; saddles 3 and 4 at heights 4 and 6.
    assert tree.parent.tolist() == [3, 4, 3, 4, -1]
    assert tree.value.tolist() == [0, 1, 2, 4, 6]
    assert tree.persistence.tolist() == [INF, 5, 2]


def test_three_basins_that_meet_at_one_point_have_one_saddle():
    grid = np.array([[9, 1, 9], [2, 5, 3], [9, 9, 9.0]])
    tree = merge_tree(grid)
    assert tree.saddles.tolist() == [4]
    assert tree.parent.tolist() == [3, 3, 3, -1]
    assert tree.persistence.tolist() == [INF, 3, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31), st.booleans())
def test_basins_of_a_graph_are_those_of_the_elder_rule(count, knn, seed, tied):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, count).astype(float) if tied else rng.normal(size=count)
    distances, knn = points(count, seed), min(knn, count - 1)
    graph = neighbour_graph(distances, knn=knn)
    found = persistence(values, distances, knn=knn)
    expected = elder_rule(values, graph.edges)
    assert sorted(zip(found.birth[found.dimension == 0], found.death[found.dimension == 0], strict=True)) == expected
    essential = (found.dimension == 0) & np.isinf(found.death)
    assert essential.sum() == found.components == graph.components
    tree = merge_tree(values, distances, knn=knn)
    assert sorted(zip(tree.value[: len(tree.minima)], tree.persistence, strict=True)) == [
        (birth, death - birth) for birth, death in sorted(expected, key=lambda pair: (pair[0], pair[1] - pair[0]))
    ]
    assert (tree.parent == -1).sum() == graph.components


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_basins_of_a_grid_are_those_of_the_elder_rule_on_its_neighbours(rows, columns, seed):
    grid = np.random.default_rng(seed).integers(0, 9, (rows, columns)).astype(float)
    index = np.arange(grid.size).reshape(grid.shape)
    edges = [*zip(index[:-1].ravel(), index[1:].ravel(), strict=True)]
    edges += zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True)
    found = persistence(grid)
    expected = elder_rule(grid.ravel(), np.array(edges, int).reshape(-1, 2))
    assert sorted((birth, death) for birth, death, *_ in pairs(found)) == expected
    tree = merge_tree(grid)
    assert len(tree.minima) == len(expected)
    assert np.isinf(tree.persistence).sum() == 1
    # Euler's number of each sublevel set: components less loops are vertices less edges plus squares.
    for level in range(9):
        inside = grid <= level
        squares = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
        euler = inside.sum() - sum(inside.ravel()[one] and inside.ravel()[other] for one, other in edges)
        alive = [((found.birth <= level) & (found.death > level) & (found.dimension == each)).sum() for each in (0, 1)]
        assert alive[0] - alive[1] == euler + squares.sum()


@pytest.mark.parametrize("dimension", [0, 1])
def test_the_diagram_does_not_depend_on_the_order_of_points(dimension):
    values, distances = np.random.default_rng(1).normal(size=60), points(60)
    order = np.random.default_rng(2).permutation(60)
    first = persistence(values, distances, knn=4)
    again = persistence(values[order], distances[np.ix_(order, order)], knn=4)
    assert len(pairs(first, dimension)) > 3
    for (birth, death, born, died), (birth_, death_, born_, died_) in zip(
        pairs(first, dimension), pairs(again, dimension), strict=True
    ):
        assert (birth, death, born) == (birth_, death_, order[born_])
        assert died == (order[died_] if died_ >= 0 else -1)


def test_the_diagram_follows_a_scale_and_a_shift_of_the_losses():
    values, distances = np.random.default_rng(1).integers(0, 9, 60), points(60)
    first, again = persistence(values, distances), persistence(4.0 * values + 8, distances)
    np.testing.assert_array_equal(again.birth, 4 * first.birth + 8)
    np.testing.assert_array_equal(again.death, 4 * first.death + 8)
    np.testing.assert_array_equal(again.birth_index, first.birth_index)
    assert again.total[0] == 4 * first.total[0]


def test_a_cycle_of_neighbours_is_a_loop_that_lasts_and_a_triangle_is_filled():
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = squareform(pdist(np.stack([np.cos(angle), np.sin(angle)], axis=1)))
    found = persistence(np.arange(8), circle, knn=2)
    assert pairs(found, 1) == [(7, INF, 7, -1)]
    assert pairs(persistence(np.arange(3), points(3), knn=2), 1) == []


def test_neighbours_are_the_nearest_points_and_not_the_farthest():
    places = np.array([0.0, 1.0, 2.5, 100.0, 101.0, 102.5])
    distances = np.abs(places[:, None] - places[None])
    graph = neighbour_graph(distances, knn=1)
    assert graph.edges.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert graph.component.tolist() == [0, 0, 0, 1, 1, 1]
    assert graph.components == 2
    assert persistence(places, distances, knn=1).components == 2
    assert neighbour_graph(distances, knn=3).components == 1


def test_points_at_one_place_are_neighbours_of_each_other_and_not_of_themselves():
    distances = np.zeros((3, 3))
    assert neighbour_graph(distances, knn=1).edges.tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("values", "distances", "options", "message"),
    [
        ([1, np.nan, 2, np.inf], np.zeros((4, 4)), {}, "values must be finite .* 2 NaN or infinite .* index 1"),
        ([1, 2], np.zeros((3, 3)), {"knn": 1}, "distances must have shape"),
        ([[1, 2]], np.zeros((2, 2)), {}, r"values must have shape \(n,\)"),
        ([1, 2], np.array([[0, 1], [2, 0]]), {"knn": 1}, "distances must be symmetric"),
        ([1, 2], np.array([[0, -1], [-1, 0]]), {"knn": 1}, "distances must not be negative, got -1"),
        ([1, 2], np.array([[1, 1], [1, 0]]), {"knn": 1}, "distances must be 0 on the diagonal"),
        ([1, 2], np.full((2, 2), np.nan), {"knn": 1}, "distances must be finite, but 2 rows"),
        ([1, 2], np.zeros((2, 2)), {}, "knn must be from 1 to n - 1 = 1, got 5"),
        ([1, 2], None, {"knn": 1}, "knn must be None without distances, got 1"),
        ([1, 2], None, {"dimensions": [2]}, r"dimensions must be one or both of 0 and 1, got \(2,\)"),
        ([1, 2], None, {"dimensions": []}, r"dimensions must be one or both of 0 and 1, got \(\)"),
        (["a", "b"], None, {}, "values must hold real numbers, got dtype <U1"),
        ([[1, 2], [3]], None, {}, "values must be an array of numbers, got list"),
        (np.ma.masked_equal([1, 2], 1), None, {}, "values must have no masked entries, got 1"),
        ([], None, {}, "values must have shape"),
        ([np.nan, np.inf], None, {}, "values must have at least one finite value"),
        ([0, -np.inf], None, {}, "values must not be minus infinity"),
        (np.zeros((2, 2, 2)), None, {}, r"values must have shape \(n,\) or \(rows, columns\)"),
    ],
)
def test_bad_input_is_refused(values, distances, options, message):
    with pytest.raises(ValueError, match=message):
        persistence(values, distances, **options)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(
        ImportError, match=r"needs gudhi, which is not installed: pip install 'jaxscape-phate\[topology"
    ):
        persistence([1, 0, 2])


def test_arguments_are_not_changed():
    values, distances = np.arange(6.0), points(6)
    before = distances.copy()
    persistence(values, distances, knn=2)
    np.testing.assert_array_equal(distances, before)
