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
    """A pytree whose leaves are not in alphabetical order."""

    kernel: np.ndarray
    bias: np.ndarray


A, B, C, D = (quadratic_params(seed) for seed in range(4))


def walk(points, dimension, seed=0, scale=1.0):
    """Return a float32 random walk (points, dimension) from a standard normal start."""
    generator = np.random.default_rng(seed)
    start = generator.standard_normal(dimension)
    return (start + scale * generator.standard_normal((points, dimension)).cumsum(axis=0)).astype(np.float32)


def test_a_line_interpolates_between_two_networks():
    result = plane(A, B)
    assert (result.kind, result.num_axes) == ("segment", 1)
    np.testing.assert_array_equal(plane_weights(result, [[0], [0.25], [1]]), [[1, 0], [0.75, 0.25], [0, 1]])
    np.testing.assert_allclose(flatten(plane_point(result, [0.25])), 0.75 * flatten(A) + 0.25 * flatten(B), rtol=1e-6)


def test_coordinates_of_a_plane_through_three_networks_are_distances():
    result = plane(A, B, C)
    assert np.linalg.norm(result.corners[1]) == pytest.approx(np.linalg.norm(flatten(B) - flatten(A)), rel=1e-12)
    np.testing.assert_allclose(
        pairwise_distances(result.corners, metric="euclidean"),
        pairwise_distances([A, B, C], metric="euclidean"),
        rtol=1e-12,
    )
    # Barycentric coordinates: each corner is its network, and the mean of the corners that of the networks.
    np.testing.assert_allclose(plane_weights(result, result.corners), np.eye(3), atol=1e-14)
    np.testing.assert_allclose(plane_weights(result, result.corners.mean(axis=0)[None]), [[1 / 3] * 3], rtol=1e-12)
    origin, x, y = (flatten(plane_point(result, at)) for at in ([0, 0], [1, 0], [0, 1]))
    axes = np.stack([x - origin, y - origin])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-6)


def test_a_plane_through_close_networks_is_accurate():
    near = [jax.tree.map(lambda a, b: (a + 1e-4 * b).astype(np.float32), A, other) for other in (B, C)]
    result = plane(A, *near)
    expected = pairwise_distances([A, *near], metric="euclidean")
    np.testing.assert_allclose(pairwise_distances(result.corners, metric="euclidean"), expected, rtol=1e-10)


def test_a_patch_between_four_networks_is_bilinear():
    result = plane(A, B, C, D)
    np.testing.assert_allclose(plane_weights(result, result.corners), np.eye(4), atol=1e-15)
    x, y = 0.3, 1.2
    expected = (1 - x) * (1 - y) * flatten(A) + x * (1 - y) * flatten(B) + (1 - x) * y * flatten(C) + x * y * flatten(D)
    np.testing.assert_allclose(flatten(plane_point(result, [x, y])), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ((A, A), "a and b must be different networks"),
        ((A, B, B), "b and c must be different networks"),
        ((A, B, None, D), "d must be None if c is None"),
        ((A, B, jax.tree.map(lambda a, b: 2 * b - a, A, B)), "are .* rad from one line"),
        ((A, B, jax.tree.map(lambda a, b, c: a + (b - a) / 2 + 1e-4 * c, A, B, C)), r"are 0\.000\d+ rad from one line"),
        ((A, {"bias": A["bias"]}), "the same structure"),
        ((A, {**B, "bias": np.array([np.nan, 1])}), r"b must be finite, got NaN or infinity at \['bias'\]"),
    ],
)
def test_networks_that_span_no_plane_are_rejected(networks, message):
    with pytest.raises(ValueError, match=message):
        plane(*networks)


def test_perturbed_copies_lie_on_the_axes_of_their_directions():
    result = filter_plane(A, seeds=(3, 5))
    jumps = jump_grid(A, seeds=(3, 5), step_sizes=(0.5, 1.0))
    for index, at in enumerate([(0.5, 0), (1, 0), (0, 0.5), (0, 1)]):
        start = jax.tree.map(lambda leaf, index=index: leaf[index], jumps.params)
        np.testing.assert_allclose(flatten(plane_point(result, at)), flatten(start), rtol=1e-6)
        np.testing.assert_array_equal(plane_point(result, at)["bias"], A["bias"])
    (one,) = filter_plane(A, seeds=(3,)).vectors[1:]
    np.testing.assert_array_equal(one["kernel"], result.vectors[1]["kernel"])


def test_a_bias_that_is_not_ignored_is_normalised():
    (direction,) = filter_plane(A, seeds=(0,), ignore=False).vectors[1:]
    assert np.linalg.norm(direction["bias"]) == pytest.approx(np.linalg.norm(A["bias"]), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": (0, 1, 2)}, "seeds must be one or two, one per direction"),
        ({"seeds": (0, 0)}, "distinct integers"),
        ({"params": {"bias": A["bias"]}}, "must have at least one nonzero filter that is perturbed"),
        ({"params": {"kernel": np.full((2, 2), np.inf)}}, "params must be finite"),
    ],
)
def test_directions_that_span_no_plane_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        filter_plane(**{"params": A, **arguments})


def test_principal_axes_match_scikit_learn():
    points = walk(9, 40)
    result = trajectory_plane(points, axes=(0, 2), origin="mean")
    oracle = PCA().fit(points.astype(np.float64))
    np.testing.assert_allclose(result.shares, oracle.explained_variance_ratio_[:8], rtol=1e-9)
    for axis, expected in zip(result.vectors[1:], oracle.components_[[0, 2]], strict=True):
        np.testing.assert_allclose(axis * np.sign(axis @ expected), expected, atol=1e-10)
    np.testing.assert_allclose(result.vectors[0], oracle.mean_, rtol=1e-6)
    assert result.axis_names[0] == f"principal axis 1 ({result.shares[0]:.1%} of the variance)"


def test_principal_axes_of_nearly_parallel_points_are_accurate():
    points = walk(6, 200, scale=1e-5)
    result = trajectory_plane(points)
    oracle = np.linalg.svd((points - points.astype(np.float64).mean(axis=0)), full_matrices=False)
    np.testing.assert_allclose(result.shares, (oracle.S**2 / np.sum(oracle.S**2))[:5], rtol=1e-7)
    axes = np.stack(result.vectors[1:])
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
    """Return a store of five snapshots of two networks, and its rows."""
    rows = [walk(5, 6, seed) for seed in (0, 1)]
    with TrajectoryStore.create(tmp_path_factory.mktemp("store"), labels=[{"seed": 0}, {"seed": 1}]) as made:
        for epoch in range(5):
            flat = np.stack([row[epoch] for row in rows])
            made.append(epoch, {"bias": flat[:, :2], "kernel": flat[:, 2:].reshape(2, 2, 2)})
    return TrajectoryStore.open(made.path), np.stack(rows, axis=1).reshape(10, 6)


def test_axes_of_a_store_have_the_requested_structure(store):
    stored, points = store
    result = trajectory_plane(stored, like=A)
    oracle = PCA(2).fit(points.astype(np.float64))
    np.testing.assert_allclose(flatten(result.vectors[0]), oracle.mean_, rtol=1e-6)  # several trajectories: the mean
    for axis, expected in zip(result.vectors[1:], oracle.components_, strict=True):
        assert jax.tree.structure(axis) == jax.tree.structure(A)
        np.testing.assert_allclose(np.abs(flatten(axis) @ expected), 1, rtol=1e-9)
    # In this structure the kernel comes before the bias.
    pairs = trajectory_plane(stored, like=Pair(A["kernel"], A["bias"]))
    np.testing.assert_array_equal(pairs.vectors[1].kernel, result.vectors[1]["kernel"])
    assert jax.tree.map(np.shape, trajectory_plane(stored).vectors[0]) == {"bias": (2,), "kernel": (2, 2)}


def test_members_and_precomputed_products_can_be_given(store):
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
        ({"origin": "last"}, "needs a single trajectory, but there are several"),
        ({"axes": (0, 0)}, "axes must be one or two distinct numbers of the 6 axes of these points"),
        ({"axes": (0, 6)}, "axes must be"),
        ({"axes": (0, 1, 2)}, "axes must be"),
        ({"like": {"bias": np.ones(2)}}, "'kernel' is absent there"),
        ({"products": gram(np.eye(3))}, "products must be those of the 10 points, got those of 3"),
    ],
)
def test_invalid_arguments_of_a_trajectory_plane_are_rejected(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        trajectory_plane(store[0], **arguments)


def test_points_on_a_line_have_one_principal_axis():
    points = np.arange(4.0)[:, None] * np.ones(5)
    with pytest.raises(ValueError, match="of the 1 axes of these points"):
        trajectory_plane(points)
    assert trajectory_plane(points, axes=(0,)).num_axes == 1
    with pytest.raises(ValueError, match="all the same"):
        principal_shares(np.ones((3, 5)))


def test_the_shares_of_a_long_random_walk_match_the_literature():
    shares = random_walk_shares(20_000)
    assert shares[0] == pytest.approx(0.608, abs=5e-4)
    assert shares[:2].sum() == pytest.approx(0.760, abs=5e-4)
    assert shares.sum() == pytest.approx(1)


def test_the_shares_of_a_short_random_walk_match_a_simulation():
    for points in (2, 5, 30):
        result = principal_shares(walk(points, 100_000, seed=points))
        np.testing.assert_allclose(result[:3], random_walk_shares(points)[:3], atol=0.01)


def test_the_random_null_has_the_shares_of_a_random_walk():
    products = gram(walk(20, 30_000))
    null = null_trajectories(products, kind="random", key=jax.random.key(0))
    # Steps of the original lengths in random directions form a random walk again.
    np.testing.assert_allclose(principal_shares(null)[:2], random_walk_shares(20)[:2], atol=0.03)


def test_coordinates_of_another_shape_are_rejected():
    with pytest.raises(ValueError, match=r"coordinates must have shape \(points, 2\), got \(2,\)"):
        plane_weights(plane(A, B, C), [0, 1])
    with pytest.raises(ValueError, match="num_points must be at least 2"):
        random_walk_shares(1)


def test_a_bfloat16_network_keeps_its_dtype():
    narrow = [jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), each) for each in (A, B)]
    assert plane_point(plane(*narrow), [0.5])["kernel"].dtype == jnp.bfloat16
