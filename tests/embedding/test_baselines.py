"""PCA against scikit-learn; the random plane as a projection; t-SNE and UMAP on data whose clusters are known."""

import sys

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from jaxscape.embedding.baselines import pca, phate_package, random_plane, tsne, umap


def points_and_distances(n=30, size=100, seed=0):
    points = np.random.default_rng(seed).standard_normal((n, size)) * np.linspace(1, 3, size) + 5
    return points, squareform(pdist(points))


@pytest.mark.parametrize("size", [2, 10, 100])
def test_pca_equals_scikit_learns_up_to_sign(size):
    points, distances = points_and_distances(size=size)
    oracle = PCA(n_components=2).fit(points)
    result = pca(distances)
    np.testing.assert_allclose(np.abs(result.embedding), np.abs(oracle.transform(points)), atol=1e-9)
    np.testing.assert_allclose(result.explained, oracle.explained_variance_ratio_.sum(), rtol=1e-12)


def test_pca_in_three_dimensions_explains_the_variance_that_scikit_learn_explains():
    points, distances = points_and_distances()
    oracle = PCA(n_components=3).fit(points)
    result = pca(distances, n_components=3)
    assert result.embedding.shape == (30, 3)
    np.testing.assert_allclose(result.explained, oracle.explained_variance_ratio_.sum(), rtol=1e-12)


def test_pca_of_identical_points_explains_nothing():
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


def test_a_random_plane_explains_its_fraction_of_the_dimensions_on_average():
    """A random plane has 2 of n - 1 dimensions, and so explains 2 / (n - 1) of the squared distances on average."""
    _, distances = points_and_distances(n=10)
    explained = [random_plane(distances, key=jax.random.key(seed)).explained for seed in range(100)]
    np.testing.assert_allclose(np.mean(explained), 2 / 9, rtol=0.1)


def test_explained_is_the_fraction_of_the_squared_distances_in_the_plane():
    _, distances = points_and_distances()
    result = random_plane(distances, key=jax.random.key(0))
    share = (pdist(result.embedding) ** 2).sum() / (squareform(distances) ** 2).sum()
    np.testing.assert_allclose(result.explained, share, rtol=1e-12)


def test_explained_is_at_most_one_for_distances_that_are_not_euclidean():
    assert pca(np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]])).explained == pytest.approx(1)


def test_the_same_key_gives_the_same_bytes_and_another_key_another_plane():
    _, distances = points_and_distances()
    one, same, other = (random_plane(distances, key=jax.random.key(seed)).embedding for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    assert not np.allclose(one, other)


def test_the_callers_matrix_is_not_changed():
    _, distances = points_and_distances()
    before = distances.copy()
    pca(distances)
    random_plane(distances, key=jax.random.key(0))
    np.testing.assert_array_equal(distances, before)


def test_an_invalid_distance_matrix_is_refused():
    with pytest.raises(ValueError, match="must be finite"):
        pca(np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="must be a square matrix"):
        random_plane(np.zeros((4, 3)), key=jax.random.key(0))


def clusters(sizes=(20, 25, 15), seed=0):
    """Distances of points in groups far from one another, and their groups."""
    generator = np.random.default_rng(seed)
    rows = [20 * generator.standard_normal(6) + generator.standard_normal((size, 6)) for size in sizes]
    return squareform(pdist(np.concatenate(rows))), np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(
    "embed",
    [
        lambda d: tsne(d, perplexity=8),
        pytest.param(lambda d: umap(d, n_neighbors=8), marks=pytest.mark.slow),
    ],
)
def test_neighbour_embeddings_keep_groups_together(embed):
    distances, group = clusters()
    before = distances.copy()
    result = embed(distances)
    assert result.embedding.shape == (60, 2)
    assert result.embedding.dtype == np.float64
    assert result.explained is None
    kept = squareform(pdist(result.embedding))
    np.fill_diagonal(kept, np.inf)
    np.testing.assert_array_equal(group[kept.argmin(axis=1)], group)
    np.testing.assert_array_equal(distances, before)
    assert embed(distances).embedding.tobytes() == result.embedding.tobytes()


def test_tsne_has_no_more_divergence_than_scikit_learns_own():
    from sklearn.manifold import TSNE

    points = np.random.default_rng(0).standard_normal((60, 5))
    ours = tsne(squareform(pdist(points)), perplexity=10)
    start = 1e-4 * PCA(2).fit_transform(points)
    model = TSNE(perplexity=10, init=start / start[:, 0].std() * 1e-4, random_state=0).fit(points)
    assert rank_of(ours.embedding, points) > rank_of(model.embedding_, points) - 0.05


@pytest.mark.parametrize("unit", [1e-300, 1e-162, 1e-18, 1e18, 1e155, 1e300])
@pytest.mark.parametrize("project", [pca, lambda d: random_plane(d, key=jax.random.key(0))])
def test_projections_are_in_the_unit_of_the_distances(project, unit):
    _, distances = points_and_distances()
    expected, found = project(distances), project(unit * distances)
    np.testing.assert_allclose(found.embedding / unit, expected.embedding, atol=1e-9)
    assert found.explained == pytest.approx(expected.explained)


@pytest.mark.parametrize("unit", [1e-162, 1e-18, 1e155])
def test_tsne_does_not_depend_on_the_unit(unit):
    """Unscaled it ended the process at 1e-162 and 1e155, and gave noise at 1e-18."""
    points = np.random.default_rng(0).standard_normal((30, 5))
    picture = tsne(unit * squareform(pdist(points)), perplexity=8).embedding
    assert rank_of(picture, points) > 0.5


@pytest.mark.parametrize("embed", [pytest.param(umap, marks=pytest.mark.slow), phate_package])
def test_far_units_that_are_powers_of_two_change_no_byte(embed):
    _, distances = points_and_distances()
    one, other = (embed(unit * distances).embedding for unit in (2.0**-600, 2.0**600))
    assert one.tobytes() == other.tobytes()


def test_the_package_does_not_depend_on_the_unit():
    _, distances = points_and_distances()
    expected = phate_package(distances)
    for unit in (1e-200, 1e-20, 1e200):
        found = phate_package(unit * distances)
        assert found.t == expected.t
        np.testing.assert_allclose(found.potential_distances, expected.potential_distances, atol=1e-9)


@pytest.mark.parametrize("embed", [pca, tsne, pytest.param(umap, marks=pytest.mark.slow)])
def test_identical_points_have_finite_coordinates(embed):
    assert np.isfinite(embed(np.zeros((20, 20))).embedding).all()


def test_a_legacy_key_gives_the_same_plane():
    _, distances = points_and_distances()
    old, new = (random_plane(distances, key=key) for key in (jax.random.PRNGKey(3), jax.random.key(3)))
    assert old.embedding.tobytes() == new.embedding.tobytes()


def rank_of(picture, points):
    return spearmanr(pdist(picture), pdist(points)).statistic


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda d: tsne(d, perplexity=30), "perplexity must be a number above 0 and below n = 30, got 30"),
        (lambda d: tsne(d, n_components=4), "n_components of t-SNE must be from 1 to 3, got 4"),
        (lambda d: umap(d, n_neighbors=30), "n_neighbors must be None or a whole number from 2 to n - 1 = 29, got 30"),
        (lambda d: tsne(d[:, :-1]), "must be a square matrix"),
        (lambda d: umap(d * np.nan), "must be finite"),
        (lambda d: phate_package(-d), "must not be negative"),
    ],
)
def test_what_cannot_be_embedded_is_refused(embed, message):
    with pytest.raises(ValueError, match=message):
        embed(points_and_distances()[1])


@pytest.mark.parametrize(("embed", "module", "extra"), [(umap, "umap", "umap"), (phate_package, "phate", "phate")])
def test_a_missing_package_is_named(monkeypatch, embed, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install 'jaxscape-phate.{extra}.'"):
        embed(points_and_distances()[1])
