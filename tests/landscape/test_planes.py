"""Planes through networks, along directions and along principal axes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_landscapes import flatten, quadratic_params
from sklearn.decomposition import PCA

from jaxscape import (
    TrajectoryStore,
    filter_plane,
    gram,
    jump_grid,
    null_trajectories,
    pairwise_distances,
    plane,
    plane_point,
    plane_weights,
    principal_shares,
    random_walk_shares,
    trajectory_plane,
)


class Pair(NamedTuple):
    """A structure whose leaves come in another order than by name."""

    kernel: np.ndarray
    bias: np.ndarray


A, B, C, D = (quadratic_params(seed) for seed in range(4))


def walk(points, dimension, seed=0, scale=1.0):
    """A random walk (points, dimension) from a start of norm 1 times the square root of the dimension, float32."""
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(dimension)
    return (start + scale * generator.standard_normal((points, dimension)).cumsum(axis=0)).astype(np.float32)


def test_a_line_goes_from_one_network_to_the_other():
    found = plane(A, B)
    assert (found.kind, found.num_axes) == ("segment", 1)
    np.testing.assert_array_equal(plane_weights(found, [[0], [0.25], [1]]), [[1, 0], [0.75, 0.25], [0, 1]])
    np.testing.assert_allclose(flatten(plane_point(found, [0.25])), 0.75 * flatten(A) + 0.25 * flatten(B), rtol=1e-6)


def test_coordinates_of_a_plane_through_three_networks_are_distances():
    found = plane(A, B, C)
    assert np.linalg.norm(found.corners[1]) == pytest.approx(np.linalg.norm(flatten(B) - flatten(A)), rel=1e-12)
    np.testing.assert_allclose(
        pairwise_distances(found.corners, metric="euclidean"),
        pairwise_distances([A, B, C], metric="euclidean"),
        rtol=1e-12,
    )
    # Barycentric coordinates: each corner is its network, and the mean of the corners that of the networks.
    np.testing.assert_allclose(plane_weights(found, found.corners), np.eye(3), atol=1e-14)
    np.testing.assert_allclose(plane_weights(found, found.corners.mean(axis=0)[None]), [[1 / 3] * 3], rtol=1e-12)
    origin, x, y = (flatten(plane_point(found, at)) for at in ([0, 0], [1, 0], [0, 1]))
    axes = np.stack([x - origin, y - origin])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-6)


def test_networks_that_are_close_keep_their_plane():
    near = [jax.tree.map(lambda a, b: (a + 1e-4 * b).astype(np.float32), A, other) for other in (B, C)]
    found = plane(A, *near)
    expected = pairwise_distances([A, *near], metric="euclidean")
    np.testing.assert_allclose(pairwise_distances(found.corners, metric="euclidean"), expected, rtol=1e-10)


def test_a_patch_between_four_networks_is_bilinear():
    found = plane(A, B, C, D)
    np.testing.assert_allclose(plane_weights(found, found.corners), np.eye(4), atol=1e-15)
    x, y = 0.3, 1.2
    expected = (1 - x) * (1 - y) * flatten(A) + x * (1 - y) * flatten(B) + (1 - x) * y * flatten(C) + x * y * flatten(D)
    np.testing.assert_allclose(flatten(plane_point(found, [x, y])), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ((A, A), "a and b must be different networks"),
        ((A, B, B), "b and c must be different networks"),
        ((A, B, None, D), "d must be None where c is None"),
        ((A, B, jax.tree.map(lambda a, b: 2 * b - a, A, B)), "are .* rad from one line"),
        ((A, B, jax.tree.map(lambda a, b, c: a + (b - a) / 2 + 1e-4 * c, A, B, C)), r"are 0\.000\d+ rad from one line"),
        ((A, {"bias": A["bias"]}), "the same structure"),
        ((A, {**B, "bias": np.array([np.nan, 1])}), r"b must be finite, got NaN or infinity at \['bias'\]"),
    ],
)
def test_networks_that_span_no_plane_are_refused(networks, message):
    with pytest.raises(ValueError, match=message):
        plane(*networks)


def test_jumped_copies_lie_on_the_axes_of_their_directions():
    found = filter_plane(A, seeds=(3, 5))
    jumps = jump_grid(A, seeds=(3, 5), step_sizes=(0.5, 1.0))
    for place, at in enumerate([(0.5, 0), (1, 0), (0, 0.5), (0, 1)]):
        start = jax.tree.map(lambda leaf, place=place: leaf[place], jumps.params)
        np.testing.assert_allclose(flatten(plane_point(found, at)), flatten(start), rtol=1e-6)
        np.testing.assert_array_equal(plane_point(found, at)["bias"], A["bias"])
    (one,) = filter_plane(A, seeds=(3,)).vectors[1:]
    np.testing.assert_array_equal(one["kernel"], found.vectors[1]["kernel"])


def test_a_bias_that_is_not_ignored_is_normalised_once():
    (direction,) = filter_plane(A, seeds=(0,), ignore=False).vectors[1:]
    assert np.linalg.norm(direction["bias"]) == pytest.approx(np.linalg.norm(A["bias"]), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": (0, 1, 2)}, "seeds must be one or two, a direction each"),
        ({"seeds": (0, 0)}, "distinct integers"),
        ({"params": {"bias": A["bias"]}}, "must have a filter that moves and is not zero"),
        ({"params": {"kernel": np.full((2, 2), np.inf)}}, "params must be finite"),
    ],
)
def test_directions_that_span_no_plane_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_plane(**{"params": A, **arguments})


def test_principal_axes_are_those_of_scikit_learn():
    points = walk(9, 40)
    found = trajectory_plane(points, axes=(0, 2), origin="mean")
    oracle = PCA().fit(points.astype(np.float64))
    np.testing.assert_allclose(found.shares, oracle.explained_variance_ratio_[:8], rtol=1e-9)
    for axis, expected in zip(found.vectors[1:], oracle.components_[[0, 2]], strict=True):
        np.testing.assert_allclose(axis * np.sign(axis @ expected), expected, atol=1e-10)
    np.testing.assert_allclose(found.vectors[0], oracle.mean_, rtol=1e-6)
    assert found.axis_names[0] == f"principal axis 1 ({found.shares[0]:.1%} of the variance)"


def test_principal_axes_of_nearly_parallel_points_are_exact():
    points = walk(6, 200, scale=1e-5)
    found = trajectory_plane(points)
    oracle = np.linalg.svd((points - points.astype(np.float64).mean(axis=0)), full_matrices=False)
    np.testing.assert_allclose(found.shares, (oracle.S**2 / np.sum(oracle.S**2))[:5], rtol=1e-7)
    axes = np.stack(found.vectors[1:])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(np.abs(axes @ oracle.Vh[:2].T), np.eye(2), atol=1e-7)


def test_an_origin_is_the_last_point_the_mean_or_the_reference():
    points = walk(5, 12)
    reference = np.ones(12, np.float32)
    np.testing.assert_array_equal(trajectory_plane(points).vectors[0], points[-1])
    np.testing.assert_array_equal(trajectory_plane(points, reference=reference).vectors[0], reference)
    chosen = trajectory_plane(points, origin="last", reference=reference)
    np.testing.assert_array_equal(chosen.vectors[0], points[-1])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Five snapshots of two networks."""
    rows = [walk(5, 6, seed) for seed in (0, 1)]
    with TrajectoryStore.create(tmp_path_factory.mktemp("store"), labels=[{"seed": 0}, {"seed": 1}]) as made:
        for epoch in range(5):
            flat = np.stack([row[epoch] for row in rows])
            made.append(epoch, {"bias": flat[:, :2], "kernel": flat[:, 2:].reshape(2, 2, 2)})
    return TrajectoryStore.open(made.path), np.stack(rows, axis=1).reshape(10, 6)


def test_axes_of_a_store_come_in_the_structure_that_is_asked_for(store):
    stored, points = store
    found = trajectory_plane(stored, like=A)
    oracle = PCA(2).fit(points.astype(np.float64))
    np.testing.assert_allclose(flatten(found.vectors[0]), oracle.mean_, rtol=1e-6)  # several trajectories: the mean
    for axis, expected in zip(found.vectors[1:], oracle.components_, strict=True):
        assert jax.tree.structure(axis) == jax.tree.structure(A)
        np.testing.assert_allclose(np.abs(flatten(axis) @ expected), 1, rtol=1e-9)
    # In the order of another structure's leaves the kernel stands before the bias.
    pairs = trajectory_plane(stored, like=Pair(A["kernel"], A["bias"]))
    np.testing.assert_array_equal(pairs.vectors[1].kernel, found.vectors[1]["kernel"])
    assert jax.tree.map(np.shape, trajectory_plane(stored).vectors[0]) == {"bias": (2,), "kernel": (2, 2)}


def test_some_members_and_known_products_may_be_given(store):
    stored, points = store
    one = trajectory_plane(stored, members=[1])
    np.testing.assert_allclose(flatten(one.vectors[0]), points[-1], rtol=1e-6)  # one trajectory: its last point
    again = trajectory_plane(stored, members=[1], products=gram(stored, members=[1]))
    np.testing.assert_array_equal(one.vectors[1]["kernel"], again.vectors[1]["kernel"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"origin": "first"}, "origin must be one of last, mean, reference, or None, got 'first'"),
        ({"origin": "reference"}, 'origin "reference" needs a reference'),
        ({"origin": "last"}, "for one trajectory, and these are several"),
        ({"axes": (0, 0)}, "axes must be one or two distinct numbers of the 6 axes of these points"),
        ({"axes": (0, 6)}, "axes must be"),
        ({"axes": (0, 1, 2)}, "axes must be"),
        ({"like": {"bias": np.ones(2)}}, "'kernel' is absent there"),
        ({"products": gram(np.eye(3))}, "products must be of the 10 points, got those of 3"),
    ],
)
def test_axes_that_there_are_not_are_refused(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        trajectory_plane(store[0], **arguments)


def test_points_of_a_line_have_one_axis():
    points = np.arange(4.0)[:, None] * np.ones(5)
    with pytest.raises(ValueError, match="of the 1 axes of these points"):
        trajectory_plane(points)
    assert trajectory_plane(points, axes=(0,)).num_axes == 1
    with pytest.raises(ValueError, match="all the same"):
        principal_shares(np.ones((3, 5)))


def test_the_shares_of_a_long_random_walk_are_known():
    shares = random_walk_shares(20_000)
    assert shares[0] == pytest.approx(0.608, abs=5e-4)
    assert shares[:2].sum() == pytest.approx(0.760, abs=5e-4)
    assert shares.sum() == pytest.approx(1)


def test_the_shares_of_a_short_random_walk_are_those_of_many_dimensions():
    for points in (2, 5, 30):
        found = principal_shares(walk(points, 100_000, seed=points))
        np.testing.assert_allclose(found[:3], random_walk_shares(points)[:3], atol=0.01)


def test_the_shares_of_a_null_are_those_of_its_products():
    products = gram(walk(20, 30_000))
    null = null_trajectories(products, kind="random", key=jax.random.key(0))
    # Steps of their own lengths and random directions: a random walk again.
    np.testing.assert_allclose(principal_shares(null)[:2], random_walk_shares(20)[:2], atol=0.03)


def test_coordinates_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"coordinates must have shape \(points, 2\), got \(2,\)"):
        plane_weights(plane(A, B, C), [0, 1])
    with pytest.raises(ValueError, match="num_points must be at least 2"):
        random_walk_shares(1)


def test_a_narrow_network_keeps_its_type():
    narrow = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), each) for each in (A, B)]
    assert plane_point(plane(*narrow), [0.5])["kernel"].dtype == jnp.bfloat16
