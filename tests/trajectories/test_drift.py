"""The drift of a minimum against explicit vectors."""

import numpy as np
import pytest

from jaxscape.trajectories.drift import drift
from jaxscape.trajectories.gram import gram

EPOCHS, MEMBERS, SIZE = 4, 5, 30
UNPERTURBED = np.array([False, True, False, False, True])


def drifting(*, start=None):
    generator = np.random.default_rng(0)
    minimum = generator.standard_normal(SIZE)
    points = minimum + np.cumsum(0.1 * generator.standard_normal((EPOCHS, MEMBERS, SIZE)), axis=0)
    points[0] = minimum + ~UNPERTURBED[:, None] * generator.standard_normal((MEMBERS, SIZE))
    parents = np.maximum(np.arange(EPOCHS * MEMBERS) - MEMBERS, -1)
    return minimum, points, gram(points.reshape(-1, SIZE), reference=minimum, parents=parents)


def test_drift_equals_that_of_the_explicit_vectors():
    minimum, points, products = drifting()
    found = drift(products, UNPERTURBED)
    ends = points[-1, UNPERTURBED]
    mean = ends.mean(axis=0)
    np.testing.assert_allclose(found.distance, np.linalg.norm(mean - minimum), rtol=1e-12)
    np.testing.assert_allclose(found.spread, np.sqrt(((ends - mean) ** 2).sum(axis=1).mean()), rtol=1e-12)
    expected = np.linalg.norm(points - points[:, UNPERTURBED].mean(axis=1)[:, None], axis=-1)
    np.testing.assert_allclose(found.to_mean, expected, rtol=1e-12, atol=1e-7)
    perturbed = ~UNPERTURBED
    jump = np.linalg.norm(points[0] - minimum, axis=-1)[perturbed]
    expected = 1 - np.linalg.norm(points[-1] - mean, axis=-1)[perturbed] / jump
    np.testing.assert_allclose(found.returned[perturbed], expected, rtol=1e-9)


def test_one_copy_has_no_spread_and_ends_at_the_mean():
    _, _, products = drifting()
    found = drift(products, np.arange(MEMBERS) == 4)
    assert np.isnan(found.spread)
    assert (found.to_mean[:, 4] < 1e-7).all()
    assert found.to_mean[-1, 1] > 0.1


def test_a_trajectory_that_ends_early_has_no_distance_after_its_end():
    generator = np.random.default_rng(1)
    minimum, points = generator.standard_normal(9), generator.standard_normal((5, 9))
    points[2] = minimum
    products = gram(points, reference=minimum, parents=[-1, 0, -1, 2, 3])
    found = drift(products, np.array([False, True]))
    expected = np.linalg.norm(points[:2] - points[2:4], axis=1)
    np.testing.assert_allclose(found.to_mean[:2, 0], expected)
    assert np.isnan(found.to_mean[2, 0])
    np.testing.assert_allclose(found.returned[0], 1 - expected[1] / expected[0])


def test_an_invalid_choice_of_members_is_refused():
    _, points, products = drifting()
    for wrong in (np.zeros(MEMBERS, bool), np.ones(3, bool), np.ones(MEMBERS)):
        with pytest.raises(ValueError, match="unperturbed must be 5 booleans, at least one of them true, got"):
            drift(products, wrong)
    with pytest.raises(ValueError, match="gram must have a reference, from which the drift is measured"):
        drift(gram(points[0]), UNPERTURBED)
