"""PCA against scikit-learn; the random plane as a projection. The `phate` package's own stages: see test_phate.py."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from jaxscape.embedding.baselines import pca, random_plane


def points_and_distances(n=30, size=100, seed=0):
    points = np.random.default_rng(seed).standard_normal((n, size)) * np.linspace(1, 3, size) + 5
    return points, squareform(pdist(points))


@pytest.mark.parametrize("size", [2, 10, 100])
def test_pca_is_scikit_learns_up_to_sign(size):
    points, distances = points_and_distances(size=size)
    oracle = PCA(n_components=2).fit(points)
    result = pca(distances)
    np.testing.assert_allclose(np.abs(result.embedding), np.abs(oracle.transform(points)), atol=1e-9)
    np.testing.assert_allclose(result.explained, oracle.explained_variance_ratio_.sum(), rtol=1e-12)


def test_pca_in_three_dimensions_keeps_what_scikit_learn_keeps():
    points, distances = points_and_distances()
    oracle = PCA(n_components=3).fit(points)
    result = pca(distances, n_components=3)
    assert result.embedding.shape == (30, 3)
    np.testing.assert_allclose(result.explained, oracle.explained_variance_ratio_.sum(), rtol=1e-12)


def test_pca_of_points_that_are_all_the_same_keeps_nothing():
    result = pca(np.zeros((5, 5)))
    np.testing.assert_array_equal(result.embedding, 0)
    assert result.explained == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_random_plane_is_a_projection_and_lengthens_no_distance(seed):
    _, distances = points_and_distances()
    result = random_plane(distances, key=jax.random.key(seed))
    assert result.embedding.shape == (30, 2)
    assert (squareform(pdist(result.embedding)) <= distances * (1 + 1e-12)).all()


def test_a_random_plane_of_all_dimensions_keeps_every_distance():
    _, distances = points_and_distances(n=6)
    result = random_plane(distances, key=jax.random.key(0), n_components=5)
    np.testing.assert_allclose(squareform(pdist(result.embedding)), distances, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.explained, 1, rtol=1e-12)


def test_a_random_plane_keeps_its_share_of_the_dimensions_on_average():
    """Of n - 1 dimensions a random plane sees 2: of the squared distances too."""
    _, distances = points_and_distances(n=10)
    explained = [random_plane(distances, key=jax.random.key(seed)).explained for seed in range(100)]
    np.testing.assert_allclose(np.mean(explained), 2 / 9, rtol=0.1)


def test_explained_is_the_share_of_squared_distances_that_the_plane_keeps():
    _, distances = points_and_distances()
    result = random_plane(distances, key=jax.random.key(0))
    share = (pdist(result.embedding) ** 2).sum() / (squareform(distances) ** 2).sum()
    np.testing.assert_allclose(result.explained, share, rtol=1e-12)


def test_no_more_than_everything_is_explained_of_distances_that_no_points_have():
    assert pca(np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]])).explained == pytest.approx(1)


def test_the_same_key_gives_the_same_bytes_and_another_key_another_plane():
    _, distances = points_and_distances()
    one, same, other = (random_plane(distances, key=jax.random.key(seed)).embedding for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    assert not np.allclose(one, other)


def test_the_callers_matrix_is_left_alone():
    _, distances = points_and_distances()
    before = distances.copy()
    pca(distances)
    random_plane(distances, key=jax.random.key(0))
    np.testing.assert_array_equal(distances, before)


def test_what_is_no_distance_matrix_is_refused():
    with pytest.raises(ValueError, match="must be finite"):
        pca(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="must be a square matrix"):
        random_plane(np.zeros((4, 3)), key=jax.random.key(0))
