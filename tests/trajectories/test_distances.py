"""Distances against extended precision, scikit-learn and closed forms."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances

from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import gram, inner_products
from jaxscape.trajectories.store import TrajectoryStore


def exact_distances(points, metric, center=None, reference=None):
    """The textbook formula on explicit differences, in extended precision (64 bits of mantissa on x86)."""
    x = np.asarray(points, np.longdouble)
    if center == "mean":
        x = x - x.mean(axis=0)
    if center == "reference":
        x = x - np.asarray(reference, np.longdouble)
    if metric == "cosine":
        x = x / np.sqrt((x * x).sum(axis=1, keepdims=True))
    squared = np.stack([((row - x) ** 2).sum(axis=1) for row in x])
    return squared / 2 if metric == "cosine" else np.sqrt(squared)


def jumped_trajectories(separation, *, epochs=6, members=4, size=30_000, seed=0):
    """A minimum and float32 copies displaced by its norm, which then move by `separation` of it per epoch."""
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(size).astype(np.float32)
    start = minimum + generator.standard_normal((members, size)).astype(np.float32)
    moves = separation * generator.standard_normal((epochs, members, size))
    moves[0] = 0
    return minimum, (start + np.cumsum(moves, axis=0)).astype(np.float32)


def epochs_then_members(points):
    """The rows of a store and their parents."""
    epochs, members, size = points.shape
    return points.reshape(-1, size), np.maximum(np.arange(epochs * members) - members, -1)


def relative_error(distances, exact):
    off_diagonal = ~np.eye(len(exact), dtype=bool)
    return np.abs(distances - exact)[off_diagonal] / exact[off_diagonal]


@pytest.mark.parametrize("center", [None, "mean", "reference"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("separation", [1e-5, *(pytest.param(each, marks=pytest.mark.slow) for each in (1e-2, 1e-4))])
def test_distances_within_a_trajectory_are_accurate_to_1e_9(metric, center, separation):
    minimum, points = jumped_trajectories(separation)
    rows, parents = epochs_then_members(points)
    products = gram(rows, reference=minimum, parents=parents)
    distances = pairwise_distances(products, metric=metric, center=center)
    exact = exact_distances(rows, metric, center, minimum)
    same_member = (np.arange(len(rows))[:, None] - np.arange(len(rows))) % points.shape[1] == 0
    np.fill_diagonal(same_member, False)
    assert (np.abs(distances - exact)[same_member] <= 1e-9 * exact[same_member]).all()
    assert relative_error(distances, exact).max() <= 1e-6


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("separation", "size"),
    [
        (1e-5, 300_000),
        pytest.param(1e-3, 300_000, marks=pytest.mark.slow),
        pytest.param(1e-4, 300_000, marks=pytest.mark.slow),
        pytest.param(1e-5, 1_467_610, marks=pytest.mark.slow),
    ],
)
def test_distances_between_trajectories_that_meet_are_accurate_to_1e_6(metric, separation, size):
    """Two copies displaced far apart, which end `separation` of their norm from each other."""
    generator = np.random.default_rng(1)
    minimum = generator.standard_normal(size)
    ends = minimum + separation * generator.standard_normal((2, size))
    starts = minimum + generator.standard_normal((2, size))
    points = np.stack([starts, (starts + ends) / 2, ends]).astype(np.float32)
    rows, parents = epochs_then_members(points)
    products = gram(rows, reference=minimum.astype(np.float32), parents=parents)
    distances = pairwise_distances(products, metric=metric)
    assert relative_error(distances, exact_distances(rows, metric)).max() <= 1e-6


def test_a_float64_gram_matrix_of_raw_vectors_is_not_accurate_enough():
    """The trap that the increments avoid, so that the tests above cannot pass by luck."""
    _, points = jumped_trajectories(1e-5)
    rows, _ = epochs_then_members(points)
    raw = rows.astype(np.float64) @ rows.astype(np.float64).T
    squared = np.diag(raw)[:, None] + np.diag(raw) - 2 * raw
    exact = exact_distances(rows, "euclidean")
    error = relative_error(np.sqrt(np.maximum(squared, 0)), exact)
    assert error.max() > 1e-7
    assert relative_error(pairwise_distances(rows, metric="euclidean"), exact).max() < 1e-9


def test_agrees_with_scikit_learn_on_separated_points():
    points = np.random.default_rng(0).standard_normal((20, 50))
    np.testing.assert_allclose(pairwise_distances(points), cosine_distances(points), atol=1e-14)
    np.testing.assert_allclose(
        pairwise_distances(points, metric="euclidean"), euclidean_distances(points), rtol=1e-12, atol=1e-14
    )
    centred = points - points.mean(axis=0)
    np.testing.assert_allclose(pairwise_distances(points, center="mean"), cosine_distances(centred), atol=1e-13)


def test_right_angles_and_opposites_have_their_closed_forms():
    points = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    np.testing.assert_allclose(pairwise_distances(points), [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-15)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=st.floats(-100, 100, width=16)))
@settings(max_examples=25, deadline=None)
def test_a_distance_matrix_is_symmetric_nonnegative_and_zero_on_the_diagonal(points):
    for metric in ("euclidean", "cosine"):
        if metric == "cosine" and (np.linalg.norm(points, axis=1) < 1e-3).any():
            continue
        distances = pairwise_distances(points, metric=metric)
        assert distances.dtype == np.float64
        assert (distances == distances.T).all()
        assert (distances >= 0).all()
        assert (np.diag(distances) == 0).all()


def test_cosine_ignores_the_scale_of_each_vector():
    points = np.random.default_rng(0).standard_normal((6, 40))
    scaled = points * np.array([1, 2, 0.5, 30, 0.02, 7])[:, None]
    np.testing.assert_allclose(pairwise_distances(scaled), pairwise_distances(points), rtol=1e-12)


def test_duplicates_are_at_distance_zero():
    points = np.tile(np.random.default_rng(0).standard_normal((1, 30)).astype(np.float32), (3, 1))
    assert (pairwise_distances(points) == 0).all()


def test_a_store_an_array_and_a_pytree_give_the_same(tmp_path):
    generator = np.random.default_rng(0)
    params = {"a": generator.standard_normal((5, 3, 4, 2)), "b": generator.standard_normal((5, 3, 7))}
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    with TrajectoryStore.create(tmp_path / "store", [{"seed": m} for m in range(3)]) as store:
        for epoch in range(5):
            store.append(epoch, {name: leaf[epoch] for name, leaf in params.items()})
        store.wait()
        from_store = pairwise_distances(gram(store, max_bytes=400))
        two_members = pairwise_distances(gram(store, members=[0, 2]))
    stacked = {name: leaf.reshape(15, *leaf.shape[2:]) for name, leaf in params.items()}
    flat = np.concatenate([leaf.reshape(15, -1) for leaf in stacked.values()], axis=1)
    np.testing.assert_allclose(from_store, pairwise_distances(flat), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(from_store, pairwise_distances(stacked), rtol=1e-12, atol=1e-15)
    keep = np.flatnonzero(np.arange(15) % 3 != 1)
    np.testing.assert_allclose(two_members, from_store[np.ix_(keep, keep)], rtol=1e-12, atol=1e-15)


def test_small_blocks_change_nothing_but_rounding():
    minimum, points = jumped_trajectories(1e-3, size=1000)
    rows, parents = epochs_then_members(points)
    whole = gram(rows, reference=minimum, parents=parents)
    blocks = gram(rows, reference=minimum, parents=parents, max_bytes=4 * len(rows) * 7)
    np.testing.assert_allclose(blocks.products, whole.products, rtol=1e-12, atol=1e-12)


def test_the_reference_can_be_a_row():
    minimum, points = jumped_trajectories(1e-2, size=200)
    rows, parents = epochs_then_members(points)
    products = gram(rows, reference=minimum, parents=parents)
    with_reference = pairwise_distances(products, metric="euclidean", include_reference=True)
    exact = exact_distances(np.concatenate([minimum[None], rows]), "euclidean")
    np.testing.assert_allclose(with_reference, exact.astype(float), rtol=1e-9)
    assert pairwise_distances(products).shape == (len(rows),) * 2


def test_inner_products_about_the_reference_are_those_of_the_differences():
    minimum, points = jumped_trajectories(1e-2, size=200)
    rows, parents = epochs_then_members(points)
    around, _ = inner_products(gram(rows, reference=minimum, parents=parents), center="reference")
    difference = rows.astype(np.float64) - minimum
    np.testing.assert_allclose(around[1:, 1:], difference @ difference.T, rtol=1e-9, atol=1e-9)


def test_an_infinite_or_nan_row_is_named():
    points = np.ones((4, 3))
    points[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity.*rows 2"):
        gram(points, parents=[-1, -1, -1, -1])
    with pytest.raises(ValueError, match="reference has NaN"):
        gram(np.ones((2, 3)), reference=np.full(3, np.inf))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "manhattan"}, "unknown metric 'manhattan'; known: cosine, euclidean"),
        ({"center": "median"}, "unknown center 'median'"),
        ({"center": "reference"}, "need a reference"),
        ({"include_reference": True}, "need a reference"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pairwise_distances(np.ones((3, 2)) + np.eye(3, 2), **arguments)


def test_a_zero_vector_has_no_cosine():
    with pytest.raises(ValueError, match="rows 1 are the centre itself"):
        pairwise_distances(np.array([[1.0, 0], [0, 0], [0, 1.0]]))


@pytest.mark.parametrize("size", [10, 1000, 30_000])
def test_a_row_that_comes_back_to_the_centre_has_no_cosine(size):
    """Exactly back, though the sum over its way leaves 1e-8 of it."""
    minimum, start, halfway = np.random.default_rng(0).standard_normal((3, size)).astype(np.float32)
    back = gram(np.stack([start, halfway, minimum]), reference=minimum, parents=[-1, 0, 1])
    with pytest.raises(ValueError, match="rows 2 are the centre itself"):
        pairwise_distances(back, center="reference")
    nothing = gram(np.stack([start, halfway, 0 * start]), parents=[-1, 0, 1])
    with pytest.raises(ValueError, match="rows 2 are the centre itself"):
        pairwise_distances(nothing)
    mean = np.stack([start, -start, halfway, -halfway, 0 * start]) + minimum.astype(np.float64)
    with pytest.raises(ValueError, match="rows 4 are the centre itself"):
        pairwise_distances(mean, center="mean")


def test_a_tiny_vector_among_large_ones_is_not_taken_for_the_centre():
    """Its digits are 16 less those of the ratio of the lengths."""
    points = np.random.default_rng(0).standard_normal((4, 30)) * np.array([1, 1e-8, 1e-4, 1])[:, None]
    np.testing.assert_allclose(pairwise_distances(points), cosine_distances(points), atol=1e-7)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="share a leading axis"):
        gram({"a": np.ones((3, 2)), "b": np.ones((4, 2))})
    with pytest.raises(ValueError, match="reference has 3 parameters, the points have 2"):
        gram(np.ones((3, 2)), reference=np.ones(3))
    with pytest.raises(ValueError, match="parents must be 3 row numbers"):
        gram(np.ones((3, 2)), parents=[0, 1, 2])
    with pytest.raises(ValueError, match="must not be empty"):
        gram(np.ones((0, 2)))


def test_jax_arrays_are_points_too():
    points = jax.random.normal(jax.random.key(0), (5, 8))
    np.testing.assert_array_equal(pairwise_distances(points), pairwise_distances(np.asarray(points)))
