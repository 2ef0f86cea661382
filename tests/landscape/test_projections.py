"""Trajectories on planes: against dense projections in float64."""

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
    """Coordinates, distances and shares outside, with a QR factorisation in extended precision where it matters."""
    away = points.astype(np.longdouble) - origin.astype(np.longdouble)
    coordinates = np.linalg.solve((axes @ axes.T), (away @ axes.T.astype(np.longdouble)).T.astype(np.float64)).T
    rest = away - coordinates @ axes
    distance = np.sqrt((away**2).sum(axis=1))
    return coordinates, distance, np.sqrt((rest**2).sum(axis=1)) / distance


def straight(dimension=300, seed=0):
    """A plane through three vectors, and its origin and axes in float64."""
    corners = np.random.default_rng(seed).standard_normal((3, dimension)).astype(np.float32)
    found = plane(*corners)
    origin, *axes = found.matrix[:, :3].T @ corners.astype(np.float64)
    return found, origin, np.stack(axes)


def test_points_fall_where_a_dense_projection_puts_them():
    through, origin, axes = straight()
    points = np.random.default_rng(1).standard_normal((7, 300)).astype(np.float32)
    found = project_on_plane(through, points)
    coordinates, distance, outside = dense(points, origin, axes)
    np.testing.assert_allclose(found.coordinates, coordinates, rtol=1e-11)
    np.testing.assert_allclose(found.distance, distance.astype(float), rtol=1e-13)
    np.testing.assert_allclose(found.outside, outside.astype(float), rtol=1e-11)


def test_points_that_are_nearly_parallel_keep_their_differences():
    through, _, axes = straight()
    generator = np.random.default_rng(2)
    start = generator.standard_normal(300)
    steps = 1e-6 * np.linalg.norm(start) / np.sqrt(300) * generator.standard_normal((6, 300))
    points = (start + steps.cumsum(axis=0)).astype(np.float32)
    found = np.diff(project_on_plane(through, points).coordinates, axis=0)
    # Of the differences themselves, which float32 gives exactly.
    differences = np.diff(points.astype(np.longdouble), axis=0)
    expected = np.linalg.solve(axes @ axes.T, np.asarray(differences @ axes.T, np.float64).T).T
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_points_that_come_home_keep_their_share_outside():
    through, origin, axes = straight()
    away = np.random.default_rng(4).standard_normal((5, 300))
    points = (origin + away * np.array([1e3, 1, 1e-2, 1e-4, 0])[:, None]).astype(np.float32)
    points[-1] = through.vectors[0]
    found = project_on_plane(through, points)
    np.testing.assert_allclose(found.outside[:4], dense(points[:4], origin, axes)[2].astype(float), rtol=1e-9)
    assert found.outside[4] == found.distance[4] == 0


def test_axes_that_are_not_perpendicular_serve_as_well():
    start = quadratic_params(0)
    through = filter_plane(start, ignore=False)
    axes = np.stack([flatten(vector) for vector in through.vectors[1:]])
    networks = [quadratic_params(seed) for seed in range(1, 5)]
    found = project_on_plane(through, networks)
    coordinates, _, outside = dense(np.stack(list(map(flatten, networks))), flatten(start), axes)
    np.testing.assert_allclose(found.coordinates, coordinates, rtol=1e-9)
    np.testing.assert_allclose(found.outside, outside.astype(float), rtol=1e-9)


def test_points_of_the_plane_lie_in_it():
    through = plane(*(quadratic_params(seed) for seed in range(3)))
    at = [(0, 0), (1.5, -0.5), (2, 3)]
    found = project_on_plane(through, [plane_point(through, each) for each in at])
    np.testing.assert_allclose(found.coordinates, at, atol=1e-6)
    assert found.outside[0] == 0
    assert (found.outside < 1e-6).all()
    corner = project_on_plane(through, list(through.vectors))
    np.testing.assert_allclose(corner.coordinates, through.corners, atol=1e-12)


def test_principal_axes_give_the_principal_coordinates():
    points = np.random.default_rng(3).standard_normal((8, 30)).cumsum(axis=0).astype(np.float32)
    found = project_on_plane(trajectory_plane(points, origin="mean"), points)
    centred = points - points.astype(np.float64).mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (u * s)[:, :2]
    np.testing.assert_allclose(
        found.coordinates * np.sign((found.coordinates * expected).sum(axis=0)), expected, atol=1e-5
    )
    shares = 1 - (expected**2).sum(axis=1) / (centred**2).sum(axis=1)
    np.testing.assert_allclose(found.outside**2, shares, atol=1e-5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four snapshots of two networks, and these networks row by row."""
    networks = [quadratic_params(seed, scale=1 + 0.1 * seed) for seed in range(8)]
    with TrajectoryStore.create(tmp_path_factory.mktemp("store"), labels=[{"seed": 0}, {"seed": 1}]) as made:
        for epoch in range(4):
            made.append(epoch, jax.tree.map(lambda *leaves: np.stack(leaves), *networks[2 * epoch : 2 * epoch + 2]))
    return TrajectoryStore.open(made.path), networks


@pytest.mark.parametrize("how", [{"strategy": "loop"}, {"strategy": "vmap:3"}])
def test_points_are_evaluated_beside_the_plane_under_them(store, how):
    stored, networks = store
    through = trajectory_plane(stored, like=networks[0])
    seen = []
    found = trajectory_on_plane(quadratic(), through, stored, on_rows=lambda *each: seen.append(each), **how)
    np.testing.assert_allclose(found.metrics["loss"], [quadratic_loss(each) for each in networks], rtol=1e-5)
    feet = [plane_point(through, at) for at in found.projection.coordinates]
    np.testing.assert_allclose(found.plane_metrics["loss"], [quadratic_loss(foot) for foot in feet], rtol=1e-4)
    assert np.abs(found.metrics["loss"] - found.plane_metrics["loss"]).max() > 0.1
    assert seen[-1] == (16, 16)
    some = trajectory_on_plane(quadratic(), through, stored, rows=[5, 1], **how)
    np.testing.assert_allclose(some.metrics["loss"], found.metrics["loss"][[5, 1]], rtol=1e-6)
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


def test_what_cannot_be_projected_is_refused(store):
    stored, networks = store
    through = plane(*networks[:3])
    with pytest.raises(ValueError, match="cannot be projected on a bilinear patch"):
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
