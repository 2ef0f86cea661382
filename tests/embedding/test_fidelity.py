"""Fidelity measures against scikit-learn, and on embeddings with known values."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import trustworthiness

from jaxscape.embedding.fidelity import Fidelity, fidelity

COUNT = 120


def scattered(dimensions=10, seed=0, count=COUNT):
    return np.random.default_rng(seed).standard_normal((count, dimensions))


def between(points):
    return squareform(pdist(points))


@pytest.mark.parametrize("neighbours", [1, 5, 50])
def test_trustworthiness_and_continuity_are_those_of_scikit_learn(neighbours):
    points = scattered()
    drawn = points[:, :2]
    found = fidelity(between(points), drawn, neighbours=neighbours)
    assert found.trustworthiness == pytest.approx(trustworthiness(points, drawn, n_neighbors=neighbours))
    assert found.continuity == pytest.approx(trustworthiness(drawn, points, n_neighbors=neighbours))


def test_an_exact_embedding_is_perfect():
    points = scattered(2)
    paths, order = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
    radius = np.linalg.norm(points - points.mean(axis=0), axis=1)
    turned = 3 * points @ np.array([[0, 1], [-1, 0]]) + 7
    found = fidelity(between(points), turned, trajectory=paths, order=order, radius=radius)
    np.testing.assert_allclose(found, Fidelity(0, 1, 1, 1, 1, 0, 1, 1), atol=1e-7)


def test_the_radius_is_seen_from_the_place_of_the_reference():
    order = np.arange(10)
    points = np.stack([np.linspace(5, 1, 10), np.zeros(10)], axis=1)
    labels = {"trajectory": np.zeros(10), "order": order, "radius": np.linspace(5, 1, 10)}
    assert fidelity(between(points), points, **labels, center=np.zeros(2)).radius == pytest.approx(1)
    away = fidelity(between(points), points, **labels, center=np.array([9.0, 0.0]))
    assert (away.radius, away.inward) == (pytest.approx(-1), 0)


def test_a_broken_trajectory_has_broken_steps():
    points = np.stack([np.arange(100.0), np.zeros(100)], axis=1)
    torn = points.copy()
    torn[50:, 0] += 1000
    torn[:50, 0] = torn[:50, 0][::-1]  # the two that were next to one another are the farthest apart
    labels = {"trajectory": np.zeros(100), "order": np.arange(100)}
    assert fidelity(between(points), points, **labels).broken == 0
    assert fidelity(between(points), torn, **labels).broken == pytest.approx(1 / 99)


def test_a_step_of_length_zero_has_no_point_nearer_than_its_end():
    """One point between the ends of a step is within 5 % of 20 points, even if the true step has length zero."""
    points = np.stack([np.arange(20.0) ** 2, np.zeros(20)], axis=1)
    points[1] = points[0]
    drawn = points.copy()
    drawn[1] = [2, 0]
    drawn[2] = [1, 0]  # between the first two
    labels = {"trajectory": [0, 0, *range(2, 20)], "order": np.arange(20)}  # the first step is the only one
    assert fidelity(between(points), drawn, **labels).broken == 0
    drawn[3] = [0, 1]  # and another: two are more than a twentieth
    assert fidelity(between(points), drawn, **labels).broken == 1


def test_undefined_measures_are_nan():
    points = scattered(2, count=12)
    alone = fidelity(between(points), points)
    assert np.isnan([alone.broken, alone.radius, alone.inward]).all()
    still = fidelity(between(points), points, trajectory=np.zeros(12), order=np.arange(12), radius=np.ones(12))
    assert np.isnan([still.radius, still.inward]).all()
    assert np.isfinite(still.broken)
    few = fidelity(between(points[:3]), points[:3])
    assert np.isnan(few.near_rank)
    assert few.trustworthiness == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trajectory": np.zeros(COUNT)}, "trajectory and order belong together"),
        ({"trajectory": np.zeros(COUNT), "order": np.arange(3)}, "order must have shape"),
        ({"neighbours": 0}, "neighbours must be a whole number of at least 1, got 0"),
        (
            {"trajectory": np.zeros(COUNT), "order": np.arange(COUNT), "radius": np.ones(3)},
            "radius must have shape",
        ),
        (
            {
                "trajectory": np.zeros(COUNT),
                "order": np.arange(COUNT),
                "radius": np.ones(COUNT),
                "center": np.ones(3),
            },
            "center must have shape",
        ),
    ],
)
def test_columns_of_the_wrong_shape_are_refused(changes, words):
    points = scattered()
    with pytest.raises(ValueError, match=words):
        fidelity(between(points), points[:, :2], **changes)


def test_distances_of_another_number_of_points_are_refused():
    with pytest.raises(ValueError, match="distances"):
        fidelity(between(scattered(count=5)), scattered(2, count=6))
