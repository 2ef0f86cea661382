"""Statistics of networks, on synthetic trajectories."""

import numpy as np
import pytest
import run_statistics
from run_statistics import Runs

from jaxscape import gram, pairwise_distances


@pytest.fixture
def networks(monkeypatch):
    """Return three networks per optimiser, [epoch, network, P], in the form of a `compare` run."""
    starts = np.array([[10.0, 0, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0]])
    displacements = {
        "sgd": np.array([0, 0, 0, 1.0]),
        "momentum": np.array([0, 0, 3, 4.0]),
        "adam": np.array([0, 0, 0, -20.0]),
    }
    ends = np.concatenate([starts + displacement for displacement in displacements.values()])
    points = np.stack([np.tile(starts, (3, 1)), ends])
    products = gram(points.reshape(18, 4), parents=[-1] * 9 + list(range(9)))
    labels = {"optimizer": np.tile(np.repeat(list(displacements), 3), 2), "seed": np.tile([0, 1, 2], 6)}
    distances = pairwise_distances(products, metric="euclidean")
    monkeypatch.setattr(run_statistics, "_networks", lambda folder: (products, labels, distances))
    return Runs("", (), (), (0, 1, 2), ())


def test_statistics_of_networks_match_closed_forms(networks):
    cosine, other_seeds = run_statistics.same_direction("sgd", "momentum")(networks, 0)
    np.testing.assert_allclose([cosine, other_seeds], [0.8, 0.8])
    # |sgd - momentum| = |(0, 0, 3, 3)|, divided by the shorter displacement, 1.
    np.testing.assert_allclose(run_statistics.nearest_end(networks, 1)[0], np.sqrt(18))
    np.testing.assert_allclose(run_statistics.ratio_of_norms("adam", "sgd")(networks, 0)[0], np.sqrt(500 / 101))
    travel = run_statistics.ratio(run_statistics.network("adam", "travel"), run_statistics.network("sgd", "travel"))
    np.testing.assert_allclose(travel(networks, 2)[0], 20)
    np.testing.assert_allclose(run_statistics.ends_apart("adam")(networks, 0)[0], np.sqrt(200))


def test_contrasts_subtract_values_and_nulls():
    one, other = (lambda runs, seed: (3.0, 1.0)), (lambda runs, seed: (1.0, 0.5))
    assert run_statistics.contrast(one, other)(None, 0) == (2.0, 0.5)
    assert run_statistics.contrast(one, lambda runs, seed: (1.0, None))(None, 0) == (2.0, None)
