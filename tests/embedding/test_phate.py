"""PHATE against the `phate` package called directly, the formulas of the paper, and an own count of components."""

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.mds import normalized_stress
from jaxscape.embedding.phate import count_components, phate, smallest_connecting_knn


def star(*, petals=4, copies=2, epochs=8, wander=0.1, size=60, seed=0):
    """Copies thrown in a few directions that wander off: cosine distances from the minimum, which fall into petals."""
    generator = np.random.default_rng(seed)
    jumps = generator.standard_normal((petals, 1, 1, size)) * np.linspace(0.5, 1, copies)[:, None, None]
    walks = np.cumsum(wander * generator.standard_normal((petals, copies, epochs, size)), axis=2)
    points = (jumps + walks).reshape(-1, size)
    return squareform(pdist(points, "cosine"))


def walk(n=60, seed=0):
    return squareform(pdist(np.cumsum(np.random.default_rng(seed).standard_normal((n, 5)), axis=0)))


def clusters(sizes=(12, 20, 15), seed=0):
    generator = np.random.default_rng(seed)
    points = [100 * number + generator.standard_normal((size, 3)) for number, size in enumerate(sizes)]
    return squareform(pdist(np.concatenate(points)))


def with_duplicates(copies, seed=0):
    """A walk whose first point is there `copies` times."""
    points = np.cumsum(np.random.default_rng(seed).standard_normal((40, 5)), axis=0)
    return squareform(pdist(np.concatenate([np.tile(points[0], (copies - 1, 1)), points])))


DATA = {
    "walk": walk(),
    "star": star(wander=0.5),
    "star in petals": star(wander=0.05),
    "star of many petals": star(wander=0.2, petals=6, epochs=10),
    "clusters": clusters(),
    "duplicates": with_duplicates(4),
    "more duplicates than knn": with_duplicates(10),
    "groups of duplicates": squareform(pdist(np.repeat(np.random.default_rng(0).standard_normal((5, 4)), 9, axis=0))),
    "equidistant": 1 - np.eye(20),
}


def operator(distances, *, t="auto", **arguments):
    """The package itself, fitted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import phate as package

        fitted = package.PHATE(
            **arguments,
            t=t,
            knn_dist="precomputed_distance",
            n_landmark=None,
            mds_solver="smacof",
            random_state=0,
            verbose=0,
        )
        fitted.fit_transform(distances.copy())
    return fitted


def components(fitted):
    """Of the package's own kernel."""
    return connected_components(csr_array(np.asarray(fitted.graph.K)), directed=False)[0]


def embed(distances, **arguments):
    """Without the warning, for data whose graph may fall apart."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the graph of")
        return phate(distances, **arguments)


@pytest.mark.parametrize("name", DATA)
def test_every_stage_is_the_packages(name):
    fitted = operator(DATA[name])
    result = embed(DATA[name])
    assert result.t == fitted.optimal_t
    np.testing.assert_allclose(result.potential_distances, squareform(pdist(fitted.diff_potential)), atol=1e-9)
    np.testing.assert_allclose(result.entropy, fitted._von_neumann_entropy(t_max=100)[1], atol=1e-12)
    np.testing.assert_allclose(result.embedding, fitted.embedding, atol=1e-9)


@pytest.mark.parametrize(("knn", "decay", "t"), [(5, 40, 7), (4, 10, 3), (9, 2, 1)])
@pytest.mark.parametrize("name", ["walk", "star", "duplicates"])
def test_entropy_and_potential_are_the_formulas_of_the_paper(name, knn, decay, t):
    distances = DATA[name]
    bandwidth = np.sort(distances, axis=1)[:, knn]  # the first is the point itself
    kernel = np.exp(-((distances / bandwidth[:, None]) ** decay))
    kernel[kernel < 1e-4] = 0
    affinity = (kernel + kernel.T) / 2
    diffusion = affinity / affinity.sum(axis=1, keepdims=True)
    potential = -np.log(np.linalg.matrix_power(diffusion, t) + 1e-7)
    powers = np.linalg.svd(diffusion, compute_uv=False) ** np.arange(1, 101)[:, None]
    shares = powers / powers.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares + 1e-300)).sum(axis=1)

    result = embed(distances, knn=knn, decay=decay, t=t)
    assert result.t == t
    np.testing.assert_allclose(result.potential_distances, squareform(pdist(potential)), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-10)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("knn", "decay"), [(5, 40), (2, 40), (3, 2), (8, 10)])
def test_components_are_those_of_the_packages_kernel(name, knn, decay):
    expected = components(operator(DATA[name], knn=knn, decay=decay, t=2))
    result = embed(DATA[name], knn=knn, decay=decay, t=2)
    assert result.n_connected_components == expected
    assert len(result.warnings) == (expected > 1)


def test_the_data_of_these_tests_has_graphs_of_one_and_of_several_components():
    counts = {name: count_components(distances) for name, distances in DATA.items()}
    assert counts["walk"] == counts["equidistant"] == 1
    assert counts["star in petals"] == 4
    assert counts["clusters"] == 3
    assert counts["groups of duplicates"] == 5
    assert counts["star of many petals"] == 6


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("knn", [1, 5])
def test_the_connecting_knn_is_the_smallest_that_connects_the_packages_kernel(name, knn):
    distances = DATA[name]
    connecting = smallest_connecting_knn(distances, knn=knn)
    assert components(operator(distances, knn=connecting, t=1)) == 1
    if connecting > knn:
        assert components(operator(distances, knn=connecting - 1, t=1)) > 1


def test_clusters_connect_when_the_smallest_runs_out_of_neighbours_of_its_own():
    """12 points have 11 neighbours among themselves: the 12th is elsewhere."""
    assert embed(clusters((12, 40))).connecting_knn == 12
    assert embed(clusters((15, 20))).connecting_knn == 15


def test_a_graph_that_falls_apart_is_said_aloud_and_in_the_result():
    with pytest.warns(UserWarning, match="5 nearest neighbours has 3 separate components") as record:
        result = phate(clusters())
    (message,) = result.warnings
    assert str(record[0].message) == message
    assert message.endswith(f"The smallest knn that connects them is {result.connecting_knn}.")
    assert record[0].filename == __file__


def test_a_connected_graph_warns_of_nothing():
    result = phate(walk())
    assert (result.n_connected_components, result.connecting_knn, result.warnings) == (1, 5, ())


def test_stress_is_that_of_the_picture_against_the_potential_distances():
    result = phate(walk())
    np.testing.assert_allclose(result.stress, normalized_stress(result.potential_distances, result.embedding))
    assert 0 < result.stress < 0.1


@pytest.mark.parametrize("name", ["walk", "clusters"])
def test_the_same_input_gives_the_same_bytes_and_is_left_alone(name):
    distances = DATA[name].copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = embed(distances), embed(distances)
    assert one.embedding.tobytes() == other.embedding.tobytes()
    np.testing.assert_array_equal(distances, DATA[name])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_distances_does_not_matter(scale):
    one, other = phate(walk()), phate(scale * walk())
    np.testing.assert_allclose(other.embedding, one.embedding, atol=1e-7)


@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_the_picture_has_as_many_dimensions_as_asked_for(n_components):
    result = phate(walk(), n_components=n_components)
    assert result.embedding.shape == (60, n_components)
    assert result.embedding.dtype == np.float64
    assert result.entropy.shape == (100,)
    assert result.potential_distances.shape == (60, 60)


def test_whole_numbers_of_numpy_are_whole_numbers():
    result = phate(walk(), knn=np.int64(4), t=np.int64(3), n_components=np.int64(3))
    np.testing.assert_array_equal(result.embedding, phate(walk(), knn=4, t=3, n_components=3).embedding)
    assert type(result.t) is int


@pytest.mark.parametrize("copies", [2, 6, 7, 20])
def test_duplicates_lie_on_one_another_and_the_rest_is_drawn(copies):
    """From 7 on their bandwidth is zero: they know one another only, and the others may know them."""
    result = embed(with_duplicates(copies))
    assert np.isfinite(result.embedding).all()
    np.testing.assert_allclose(result.embedding[:copies], result.embedding[[0] * copies], atol=1e-6)
    assert (np.ptp(result.embedding[copies:], axis=0) > 0.1).all()


def test_extreme_decays_overflow_nothing():
    """A decay of almost 0 joins all, in the package too; an infinite one joins nearest neighbours and no others."""
    assert components(operator(clusters(), decay=1e-3, t=1)) == 1
    assert phate(clusters(), decay=1e-3, t=1).n_connected_components == 1
    assert components(operator(clusters(), decay=np.inf, t=1)) == 3
    assert embed(clusters(), decay=np.inf, t=1).n_connected_components == 3


def test_the_largest_knn_that_is_allowed_works():
    assert phate(walk(10), knn=8).n_connected_components == 1


def test_a_t_that_leaves_only_rounding_is_refused():
    with pytest.raises(ValueError, match="t=1000000000 leaves nothing to draw"):
        phate(walk(), t=10**9)


def spoiled(row, column, value):
    distances = walk()
    distances[row, column] = value
    return distances


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (spoiled(3, 5, np.nan), "distances must be finite"),
        (spoiled(3, 5, np.inf), "distances must be finite"),
        (spoiled(3, 5, -1.0), "distances must not be negative, got -1.0"),
        (spoiled(3, 5, 1.0), "distances must be symmetric"),
        (spoiled(3, 3, 1.0), "distances must be zero on the diagonal"),
        (np.ones((5, 4)), r"distances must be a square matrix \(n, n\), got shape \(5, 4\)"),
        (np.zeros((20, 20)), "all points are the same"),
        (walk(2), "n_components must be a whole number from 1 to n - 1 = 1, got 2"),
        (walk(6), "knn must be a whole number from 1 to n - 2 = 4, got 5"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(distances, message):
    with pytest.raises(ValueError, match=message):
        phate(distances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knn": 0}, "knn must be a whole number from 1 to n - 2 = 58, got 0"),
        ({"knn": 59}, "knn must be a whole number from 1 to n - 2 = 58, got 59"),
        ({"knn": 5.5}, "knn must be a whole number from 1 to n - 2 = 58, got 5.5"),
        ({"decay": 0}, "decay must be positive, got 0"),
        ({"decay": -40}, "decay must be positive, got -40"),
        ({"decay": np.nan}, "decay must be positive, got nan"),
        ({"t": 0}, 't must be "auto" or a whole number of at least 1, got 0'),
        ({"t": 2.5}, 't must be "auto" or a whole number of at least 1, got 2.5'),
        ({"t": "knee"}, "t must be \"auto\" or a whole number of at least 1, got 'knee'"),
        ({"n_components": 0}, "n_components must be a whole number from 1 to n - 1 = 59, got 0"),
        ({"n_components": 60}, "n_components must be a whole number from 1 to n - 1 = 59, got 60"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        phate(walk(), **arguments)
