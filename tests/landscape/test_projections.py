"""Projections of trajectories onto planes are compared with dense projections in extended precision."""

import jax
import numpy as np
import pytest
from known_landscapes import flatten, quadratic, quadratic_loss, quadratic_params

from jaxscape import (
    TrajectoryStore,
    filter_plane,
    plane,
    plane_point,
    project_on_plane,
    trajectory_on_plane,
    trajectory_plane,
)


def dense(points, origin, axes):
    """Return coordinates, distances and fractions outside, computed in extended precision."""
    displacement = points.astype(np.longdouble) - origin.astype(np.longdouble)
    coordinates = np.linalg.solve((axes @ axes.T), (displacement @ axes.T.astype(np.longdouble)).T.astype(np.float64)).T
    perpendicular = displacement - coordinates @ axes
    distance = np.sqrt((displacement**2).sum(axis=1))
    return coordinates, distance, np.sqrt((perpendicular**2).sum(axis=1)) / distance


def random_plane_and_axes(dimension=300, seed=0):
    """Return a plane through three vectors, and its origin and axes in float64."""
    corners = np.random.default_rng(seed).standard_normal((3, dimension)).astype(np.float32)
    through = plane(*corners)
    origin, *axes = through.matrix[:, :3].T @ corners.astype(np.float64)
    return through, origin, np.stack(axes)


def test_projections_match_a_dense_projection():
    through, origin, axes = random_plane_and_axes()
    points = np.random.default_rng(1).standard_normal((7, 300)).astype(np.float32)
    result = project_on_plane(through, points)
    coordinates, distance, outside = dense(points, origin, axes)
    np.testing.assert_allclose(result.coordinates, coordinates, rtol=1e-11)
    np.testing.assert_allclose(result.distance, distance.astype(float), rtol=1e-13)
    np.testing.assert_allclose(result.outside, outside.astype(float), rtol=1e-11)


def test_projections_of_nearly_parallel_points_keep_their_differences():
    through, _, axes = random_plane_and_axes()
    generator = np.random.default_rng(2)
    start = generator.standard_normal(300)
    steps = 1e-6 * np.linalg.norm(start) / np.sqrt(300) * generator.standard_normal((6, 300))
    points = (start + steps.cumsum(axis=0)).astype(np.float32)
    result = np.diff(project_on_plane(through, points).coordinates, axis=0)
    # Project the differences themselves, which are exact in extended precision.
    differences = np.diff(points.astype(np.longdouble), axis=0)
    expected = np.linalg.solve(axes @ axes.T, np.asarray(differences @ axes.T, np.float64).T).T
    np.testing.assert_allclose(result, expected, rtol=1e-7)


def test_points_near_the_origin_keep_an_accurate_fraction_outside():
    through, origin, axes = random_plane_and_axes()
    displacement = np.random.default_rng(4).standard_normal((5, 300))
    points = (origin + displacement * np.array([1e3, 1, 1e-2, 1e-4, 0])[:, None]).astype(np.float32)
    points[-1] = through.vectors[0]
    result = project_on_plane(through, points)
    np.testing.assert_allclose(result.outside[:4], dense(points[:4], origin, axes)[2].astype(float), rtol=1e-9)
    assert result.outside[4] == result.distance[4] == 0


def test_axes_that_are_not_perpendicular_serve_as_well():
    start = quadratic_params(0)
    through = filter_plane(start, ignore=False)
    axes = np.stack([flatten(vector) for vector in through.vectors[1:]])
    networks = [quadratic_params(seed) for seed in range(1, 5)]
    result = project_on_plane(through, networks)
    coordinates, _, outside = dense(np.stack(list(map(flatten, networks))), flatten(start), axes)
    np.testing.assert_allclose(result.coordinates, coordinates, rtol=1e-9)
    np.testing.assert_allclose(result.outside, outside.astype(float), rtol=1e-9)


def test_points_of_the_plane_lie_in_it():
    through = plane(*(quadratic_params(seed) for seed in range(3)))
    at = [(0, 0), (1.5, -0.5), (2, 3)]
    result = project_on_plane(through, [plane_point(through, each) for each in at])
    np.testing.assert_allclose(result.coordinates, at, atol=1e-6)
    assert result.outside[0] == 0
    assert (result.outside < 1e-6).all()
    corner = project_on_plane(through, list(through.vectors))
    np.testing.assert_allclose(corner.coordinates, through.corners, atol=1e-12)


def test_principal_axes_give_the_principal_coordinates():
    points = np.random.default_rng(3).standard_normal((8, 30)).cumsum(axis=0).astype(np.float32)
    result = project_on_plane(trajectory_plane(points, origin="mean"), points)
    centred = points - points.astype(np.float64).mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :2]
    np.testing.assert_allclose(
        result.coordinates * np.sign((result.coordinates * expected).sum(axis=0)), expected, atol=1e-5
    )
    shares = 1 - (expected**2).sum(axis=1) / (centred**2).sum(axis=1)
    np.testing.assert_allclose(result.outside**2, shares, atol=1e-5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Return a store of four snapshots of two networks, and these networks row by row."""
    networks = [quadratic_params(seed, scale=1 + 0.1 * seed) for seed in range(8)]
    with TrajectoryStore.create(tmp_path_factory.mktemp("store"), labels=[{"seed": 0}, {"seed": 1}]) as made:
        for epoch in range(4):
            made.append(epoch, jax.tree.map(lambda *leaves: np.stack(leaves), *networks[2 * epoch : 2 * epoch + 2]))
    return TrajectoryStore.open(made.path), networks


@pytest.mark.parametrize("strategy", ["loop", "vmap:3"])
def test_points_and_their_projections_are_evaluated(store, strategy):
    stored, networks = store
    through = trajectory_plane(stored, like=networks[0])
    seen = []
    result = trajectory_on_plane(
        quadratic(), through, stored, on_rows=lambda *each: seen.append(each), strategy=strategy
    )
    np.testing.assert_allclose(result.metrics["loss"], [quadratic_loss(each) for each in networks], rtol=1e-5)
    projected = [plane_point(through, at) for at in result.projection.coordinates]
    np.testing.assert_allclose(result.plane_metrics["loss"], [quadratic_loss(each) for each in projected], rtol=1e-4)
    assert np.abs(result.metrics["loss"] - result.plane_metrics["loss"]).max() > 0.1
    assert seen[-1] == (16, 16)
    some = trajectory_on_plane(quadratic(), through, stored, rows=[5, 1], strategy=strategy)
    np.testing.assert_allclose(some.metrics["loss"], result.metrics["loss"][[5, 1]], rtol=1e-6)
    assert len(some.projection.distance) == 8


def test_members_and_several_stores_are_read_in_the_order_of_rows(store):
    stored, networks = store
    through = trajectory_plane(stored, like=networks[0])
    one = trajectory_on_plane(quadratic(), through, stored, members=[1])
    np.testing.assert_allclose(one.metrics["loss"], [quadratic_loss(each) for each in networks[1::2]], rtol=1e-5)
    both = trajectory_on_plane(quadratic(), through, [stored, stored], members=[[1], None])
    expected = [quadratic_loss(each) for each in networks[1::2] + networks]
    np.testing.assert_allclose(both.metrics["loss"], expected, rtol=1e-5)
    listed = trajectory_on_plane(quadratic(), through, networks)
    np.testing.assert_allclose(listed.metrics["loss"], [quadratic_loss(each) for each in networks], rtol=1e-5)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *networks)
    np.testing.assert_array_equal(
        trajectory_on_plane(quadratic(), through, stacked).metrics["loss"], listed.metrics["loss"]
    )


def test_invalid_projections_are_rejected(store):
    stored, networks = store
    through = plane(*networks[:3])
    with pytest.raises(ValueError, match="cannot be projected onto a bilinear patch"):
        project_on_plane(plane(*networks[:4]), stored)
    with pytest.raises(TypeError, match="plane must be a Plane"):
        project_on_plane(networks[0], stored)
    with pytest.raises(ValueError, match=r"points have NaN or infinity in rows \[1\]"):
        project_on_plane(through, [networks[0], {**networks[1], "bias": np.array([np.nan, 0])}])
    with pytest.raises(ValueError, match="'kernel' is"):
        project_on_plane(through, [{"bias": networks[0]["bias"]}])
    with pytest.raises(ValueError, match=r"rows must be numbers from 0 to 7, got \[8\]"):
        trajectory_on_plane(quadratic(), through, stored, rows=[8])
    with pytest.raises(ValueError, match="give one model_state for networks"):
        trajectory_on_plane(quadratic(), through, stored, model_states=[{}, {}, {}])
