"""PHATE stage by stage against the `phate` package called directly, the formulas of the paper, and closed forms."""

import warnings

import numpy as np
import pytest
from phate.vne import find_knee_point
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.graph import affinity, smallest_connecting_knn
from jaxscape.embedding.mds import normalized_stress
from jaxscape.embedding.measures import rank_correlation
from jaxscape.embedding.phate import (
    diffuse,
    diffusion_operator,
    farthest_points,
    knee,
    phate,
    potential_distances,
    project,
    von_neumann_entropy,
)


def star(*, petals=4, copies=2, epochs=8, wander=0.1, size=60, seed=0):
    """Perturbed copies that wander off in a few directions: cosine distances from the minimum, grouped into petals."""
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
    """Return a walk whose first point occurs `copies` times."""
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


def two_starts(*, snapshots=21, size=2000, seed=0):
    """Cosine distances of trajectories from two starts by two optimisers each, collapsed to a line by knn="connect"."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.standard_normal(shape) / np.sqrt(size)

    time, points = np.linspace(0, 1, snapshots)[:, None], []
    for _ in range(2):
        start = normal(size)
        for speed in (0.3, 3.0):
            wander = 0.05 * np.cumsum(normal(snapshots, size), axis=0)
            points.append(start + time * (speed * normal(size) + wander))
    return squareform(pdist(np.concatenate(points), "cosine"))


def operator(distances, *, t="auto", **arguments):
    """Return the fitted `phate` package."""
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
    """Return the components of the package's own kernel."""
    return connected_components(csr_array(np.asarray(fitted.graph.K)), directed=False)[0]


def embed(distances, **arguments):
    """Without the warnings, for data whose graph may be disconnected and whose picture may collapse."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (graph of|picture is degenerate)")
        return phate(distances, **arguments)


@pytest.mark.parametrize("name", DATA)
def test_every_stage_equals_the_packages(name):
    fitted = operator(DATA[name])
    result = embed(DATA[name])
    np.testing.assert_allclose(result.affinity.toarray(), np.asarray(fitted.graph.K), atol=1e-12)
    np.testing.assert_allclose(result.operator.toarray(), np.asarray(fitted.diff_op), atol=1e-12)
    # Singular values that are rounding are zero here and about 1e-17 there.
    np.testing.assert_allclose(result.entropy, fitted._von_neumann_entropy(t_max=100)[1], atol=1e-6)
    assert result.t == fitted.optimal_t
    np.testing.assert_allclose(result.potential, fitted.diff_potential, atol=1e-9)
    np.testing.assert_allclose(
        result.potential_distances, squareform(pdist(fitted.diff_potential)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", DATA)
def test_the_layout_has_no_more_stress_than_the_packages(name):
    fitted = operator(DATA[name])
    between = squareform(pdist(fitted.diff_potential))
    result = embed(DATA[name])
    assert result.stress <= 1.01 * normalized_stress(between, fitted.embedding) + 1e-6


@pytest.mark.parametrize("name", ["walk", "duplicates", "more duplicates than knn"])
def test_the_layout_looks_like_the_packages(name):
    assert procrustes(embed(DATA[name]).embedding, operator(DATA[name]).embedding)[2] < 0.03


@pytest.mark.parametrize(("knn", "decay", "t"), [(5, 40, 7), (4, 10, 3), (9, 2, 1)])
@pytest.mark.parametrize("name", ["walk", "star", "duplicates"])
def test_stages_are_the_formulas_of_the_paper(name, knn, decay, t):
    distances = DATA[name]
    bandwidth = np.sort(distances, axis=1)[:, knn]  # the first is the point itself
    kernel = np.exp(-((distances / bandwidth[:, None]) ** decay))
    kernel[kernel < 1e-4] = 0
    affinities = (kernel + kernel.T) / 2
    diffusion = affinities / affinities.sum(axis=1, keepdims=True)
    potential = -np.log(np.linalg.matrix_power(diffusion, t) + 1e-7)
    powers = np.linalg.svd(diffusion, compute_uv=False) ** np.arange(1, 101)[:, None]
    shares = powers / powers.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares + 1e-300)).sum(axis=1)

    result = embed(distances, knn=knn, decay=decay, t=t)
    assert (result.t, result.entropy) == (t, None)
    np.testing.assert_allclose(result.potential_distances, squareform(pdist(potential)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(von_neumann_entropy(result.affinity), entropy, atol=1e-6)


def test_cosine_compares_the_directions_of_the_potentials():
    result = embed(DATA["star"], potential_metric="cosine")
    expected = squareform(pdist(result.potential, "cosine"))
    np.testing.assert_allclose(result.potential_distances, expected, atol=1e-12)


@pytest.mark.parametrize("t", [1, 2, 3, 7, 22, 64, 100])
@pytest.mark.parametrize("name", ["walk", "equidistant", "groups of duplicates"])
def test_diffusion_is_the_power_of_the_operator(name, t):
    affinities = affinity(DATA[name])
    expected = np.linalg.matrix_power(diffusion_operator(affinities).toarray(), t)
    np.testing.assert_allclose(diffuse(affinities, t), expected, rtol=1e-11, atol=1e-300)


def test_diffusion_between_two_points_has_the_closed_form():
    """A walker among two points, who stays with chance p, is at the other after t steps with (1 - (2p - 1)^t) / 2."""
    a = np.exp(-1)
    stay = 1 / (1 + a)
    for t in (1, 2, 5, 30):
        changed = (1 - (2 * stay - 1) ** t) / 2
        expected = [[1 - changed, changed], [changed, 1 - changed]]
        np.testing.assert_allclose(diffuse(csr_array([[1, a], [a, 1]]), t), expected, rtol=1e-13)


def test_the_entropy_of_points_without_neighbours_is_the_logarithm_of_their_number():
    np.testing.assert_allclose(von_neumann_entropy(csr_array(np.eye(7))), np.log(7), rtol=1e-13)
    np.testing.assert_allclose(von_neumann_entropy(csr_array(np.ones((7, 7)))), 0, atol=1e-12)


@pytest.mark.parametrize("bend", [1, 3, 17, 60, 96])
def test_the_knee_of_two_straight_lines_is_where_they_meet_or_one_after(bend):
    at = np.arange(100)
    curve = np.where(at < bend, 5 - at, 5 - bend - 0.01 * (at - bend))
    assert knee(curve) == find_knee_point(curve)
    assert knee(curve) in (bend, bend + 1)


def test_a_curve_without_a_bend_has_its_knee_at_one():
    assert knee(np.full(100, 3.2)) == knee(np.linspace(3.2, 1, 100)) == 1


@pytest.mark.parametrize("name", ["walk", "star", "clusters"])
def test_the_knee_is_the_packages(name):
    entropy = von_neumann_entropy(affinity(DATA[name]))
    assert knee(entropy) == find_knee_point(entropy)


def test_potential_distances_keep_their_digits_between_near_points():
    """Two rows 1e-6 apart and far from the mean: their distance is lost in inner products."""
    rows = 10 * np.random.default_rng(0).standard_normal((50, 50))
    rows[1] = rows[0]
    rows[1, 3] += 1e-6
    rows[2] = rows[0]
    found = potential_distances(rows)
    np.testing.assert_allclose(found[0, 1], rows[1, 3] - rows[0, 3], rtol=1e-8)
    assert found[0, 2] == found[2, 0] == 0
    np.testing.assert_allclose(found, squareform(pdist(rows)), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("knn", "decay"), [(5, 40), (2, 40), (3, 2), (8, 10)])
def test_components_are_those_of_the_packages_kernel(name, knn, decay):
    expected = components(operator(DATA[name], knn=knn, decay=decay, t=2))
    result = embed(DATA[name], knn=knn, decay=decay, t=2)
    assert result.n_connected_components == expected
    assert len(result.warnings) == (expected > 1)


def test_the_test_data_has_connected_and_disconnected_graphs():
    counts = {name: connected_components(affinity(data), directed=False)[0] for name, data in DATA.items()}
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


def test_a_disconnected_graph_is_warned_about_and_recorded_in_the_result():
    with pytest.warns(UserWarning, match="5 nearest neighbours has 3 disconnected components") as record:
        result = phate(clusters())
    (message,) = result.warnings
    assert str(record[0].message) == message
    assert message.endswith(f"The smallest knn that connects them is {result.connecting_knn}.")
    assert record[0].filename == __file__


def test_a_connected_graph_raises_no_warning():
    result = phate(walk())
    assert (result.n_connected_components, result.connecting_knn, result.warnings) == (1, 5, ())


def test_stress_is_that_of_the_picture_against_the_potential_distances():
    result = phate(walk())
    np.testing.assert_allclose(result.stress, normalized_stress(result.potential_distances, result.embedding))
    assert 0 < result.stress < 0.1


@pytest.mark.parametrize("name", ["walk", "clusters"])
def test_the_same_input_gives_the_same_bytes_and_is_not_changed(name):
    distances = DATA[name].copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = embed(distances), embed(distances)
    assert one.embedding.tobytes() == other.embedding.tobytes()
    np.testing.assert_array_equal(distances, DATA[name])
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e12, 1e200])
def test_the_scale_of_the_distances_does_not_matter(scale):
    one, other = phate(walk()), phate(scale * walk())
    np.testing.assert_allclose(other.embedding, one.embedding, atol=1e-7)


@pytest.mark.parametrize("unit", [2.0**-700, 2.0**700])
def test_a_unit_that_is_a_power_of_two_changes_no_byte(unit):
    one, other = phate(walk(), knn="connect", decay=1e-3, t=3), phate(unit * walk(), knn="connect", decay=1e-3, t=3)
    assert one.embedding.tobytes() == other.embedding.tobytes()
    assert other.bandwidth.tobytes() == (unit * one.bandwidth).tobytes()
    assert project(unit * walk()[:3] * 1.1, other).tobytes() == project(walk()[:3] * 1.1, one).tobytes()
    one, other = phate(walk(), landmarks=30), phate(unit * walk(), landmarks=30)
    assert one.embedding.tobytes() == other.embedding.tobytes()


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
def test_duplicates_coincide_and_the_other_points_are_embedded(copies):
    """From 7 duplicates on their bandwidth is zero: their kernel reaches only one another, others may reach them."""
    result = embed(with_duplicates(copies))
    assert np.isfinite(result.embedding).all()
    np.testing.assert_allclose(result.embedding[:copies], result.embedding[[0] * copies], atol=1e-3)
    assert (np.ptp(result.embedding[copies:], axis=0) > 0.1).all()


def test_extreme_decays_do_not_overflow():
    """A decay of almost 0 joins all, in the package too; an infinite one joins nearest neighbours and no others."""
    assert components(operator(clusters(), decay=1e-3, t=1)) == 1
    assert phate(clusters(), decay=1e-3, t=1).n_connected_components == 1
    assert components(operator(clusters(), decay=np.inf, t=1)) == 3
    assert embed(clusters(), decay=np.inf, t=1).n_connected_components == 3


def test_the_largest_knn_that_is_allowed_works():
    assert phate(walk(10), knn=8).n_connected_components == 1


def test_a_diffusion_time_that_leaves_only_rounding_error_is_refused():
    with pytest.raises(ValueError, match="t=1000000000 is too large"):
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
        (walk(6), "a whole number from 1 to n - 2 = 4, got 5"),
    ],
)
def test_an_invalid_distance_matrix_is_refused(distances, message):
    with pytest.raises(ValueError, match=message):
        phate(distances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knn": 0}, "a whole number from 1 to n - 2 = 58, got 0"),
        ({"knn": 59}, "a whole number from 1 to n - 2 = 58, got 59"),
        ({"knn": 5.5}, "a whole number from 1 to n - 2 = 58, got 5.5"),
        ({"decay": 0}, "decay must be a positive number, got 0"),
        ({"decay": -40}, "decay must be a positive number, got -40"),
        ({"decay": np.nan}, "decay must be a positive number, got nan"),
        ({"t": 10**30}, 't must be "auto" or a whole number from 1 to 1000000000, got 1000'),
        ({"t": 0}, 't must be "auto" or a whole number from 1 to 1000000000, got 0'),
        ({"t": 2.5}, 't must be "auto" or a whole number from 1 to 1000000000, got 2.5'),
        ({"t": "knee"}, "t must be \"auto\" or a whole number from 1 to 1000000000, got 'knee'"),
        ({"n_components": 0}, "n_components must be a whole number from 1 to n - 1 = 59, got 0"),
        ({"n_components": 60}, "n_components must be a whole number from 1 to n - 1 = 59, got 60"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        phate(walk(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knn": "all"}, 'knn must be "connect", "auto" or a whole number from 1 to n - 2 = 58, got \'all\''),
        ({"potential_metric": "l1"}, "unknown potential_metric 'l1'; known: euclidean, cosine"),
        ({"landmarks": 2}, "landmarks must be None or a whole number of at least 3, got 2"),
        ({"landmarks": 10.0}, "landmarks must be None or a whole number of at least 3, got 10.0"),
        ({"landmarks": 8, "n_components": 8}, "landmarks must be None or a whole number of at least 9, got 8"),
        ({"landmarks": 6}, "from 1 to n - 2 = 4, got 5"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        phate(walk(), **arguments)


@pytest.mark.parametrize("name", ["clusters", "star in petals", "walk"])
def test_connect_takes_the_smallest_number_of_neighbours_that_connects(name):
    result = phate(DATA[name], knn="connect")
    assert result.n_connected_components == 1
    assert result.knn == result.connecting_knn == smallest_connecting_knn(DATA[name])
    assert result.embedding.tobytes() == phate(DATA[name], knn=result.knn).embedding.tobytes()


def test_connect_works_for_very_few_points():
    assert phate(walk(4), knn="connect", t=2).knn == 2


def test_an_embedding_that_collapses_to_a_line_is_warned_about_and_recorded_in_the_result():
    with pytest.warns(UserWarning, match="the picture is degenerate: all points lie on a line: axis 2") as record:
        result = phate(two_starts(), knn="connect")
    assert (result.knn, result.n_connected_components) == (42, 1)
    assert result.stress < 1e-6
    extents = np.linalg.svd(result.embedding, compute_uv=False)
    assert extents[1] < 0.002 * extents[0]
    (message,) = (str(warning.message) for warning in record)
    assert result.warnings == (message,)
    assert message == f"the picture is degenerate: {result.degenerate}"


def test_points_on_a_line_are_not_a_degenerate_embedding():
    places = np.random.default_rng(0).uniform(size=(60, 1))
    result = phate(squareform(pdist(places)), knn=20)
    assert (result.degenerate, result.warnings) == ("", ())


@pytest.mark.parametrize("name", ["clusters", "star in petals", "star of many petals", "walk", "two starts"])
def test_auto_takes_the_smallest_of_the_best_of_those_that_connect_and_are_not_degenerate(name):
    distances = {**DATA, "two starts": two_starts()}[name]
    result = embed(distances, knn="auto")
    connecting, most = smallest_connecting_knn(distances), len(distances) - 2
    knns = {5, 10, 15, 20, 30, 40, connecting, connecting * 3 // 2}
    assert [trial.knn for trial in result.tried] == sorted(knn for knn in knns if knn <= most)
    for trial in result.tried:
        alone = embed(distances, knn=trial.knn)
        assert trial.rank == rank_correlation(distances, alone.embedding)
        assert trial[1:3] == (alone.n_connected_components, alone.t)
        assert trial.degenerate == alone.degenerate
    sound = [trial for trial in result.tried if not trial.degenerate]
    choice = [trial for trial in sound if trial.n_connected_components == 1] or sound
    best = max(trial.rank for trial in choice)
    assert result.knn == min(trial.knn for trial in choice if trial.rank >= best - 0.01)
    assert result.embedding.tobytes() == embed(distances, knn=result.knn).embedding.tobytes()
    assert embed(distances, knn=result.knn).tried is None
    again = embed(distances, knn="auto", previous=result)
    assert again.embedding.tobytes() == result.embedding.tobytes()
    assert again.tried == result.tried


def test_auto_avoids_the_collapse():
    result = embed(two_starts(), knn="auto")
    assert result.degenerate == ""
    assert [trial.knn for trial in result.tried if trial.degenerate] == [20, 30, 40, 42, 63]


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_auto_works_for_few_points(count):
    result = embed(walk(count), knn="auto", t=1)
    assert result.knn in [trial.knn for trial in result.tried]
    assert all(trial.knn <= count - 2 for trial in result.tried)


def test_auto_raises_an_error_if_t_is_too_large():
    with pytest.raises(ValueError, match="t=1000000 is too large"):
        phate(DATA["walk"], knn="auto", t=10**6)


def test_components_are_numbered_from_the_largest():
    component = embed(clusters((12, 20, 15))).component
    np.testing.assert_array_equal(component, np.repeat([2, 0, 1], [12, 20, 15]))
    np.testing.assert_array_equal(embed(clusters((12, 12, 12))).component, np.repeat([0, 1, 2], 12))
    assert not phate(walk()).component.any()


def test_points_other_than_landmarks_have_the_component_of_the_nearest_landmark():
    result = embed(clusters((12, 20, 15)), landmarks=30)
    np.testing.assert_array_equal(result.component, result.component[[0] * 12 + [12] * 20 + [32] * 15])
    assert len(set(result.component)) == 3


@pytest.mark.parametrize(
    "changed",
    [{"t": 3}, {"t": "auto"}, {"potential_metric": "cosine"}, {"n_components": 3}, {"knn": 4}, {"decay": 10}, {"t": 5}],
)
def test_reused_stages_change_no_byte(changed):
    distances = DATA["star"]
    before = embed(distances, t=5)
    fresh, again = embed(distances, **{"t": 5} | changed), embed(distances, **{"t": 5} | changed, previous=before)
    assert fresh.embedding.tobytes() == again.embedding.tobytes()
    assert fresh.potential_distances.tobytes() == again.potential_distances.tobytes()
    assert (fresh.t, fresh.warnings) == (again.t, again.warnings)


def test_stages_of_the_same_settings_are_not_computed_again(monkeypatch):
    distances = DATA["star"]
    before = embed(distances)
    for stage in ("affinity_from_bandwidth", "von_neumann_entropy", "diffuse", "potential_distances"):
        monkeypatch.setattr(f"jaxscape.embedding.phate.{stage}", lambda *_, **__: pytest.fail("computed again"))
    assert embed(distances, n_components=3, previous=before).embedding.shape == (len(distances), 3)


def test_stages_of_other_distances_are_refused():
    with pytest.raises(ValueError, match="previous must be a result for the same distances"):
        phate(walk(), previous=phate(walk(seed=1)))


def test_an_old_point_is_projected_on_itself():
    result = phate(walk())
    np.testing.assert_array_equal(project(walk()[[3, 40]], result), result.embedding[[3, 40]])


def test_new_points_lie_between_the_old_ones_that_they_lie_between():
    points = np.cumsum(np.random.default_rng(0).standard_normal((80, 5)), axis=0)
    distances = squareform(pdist(points))
    old, new = np.arange(0, 80, 2), np.arange(1, 79, 2)
    result = phate(distances[np.ix_(old, old)])
    before = result.embedding.copy()
    found = project(distances[np.ix_(new, old)], result)
    np.testing.assert_array_equal(result.embedding, before)
    neighbours = (before[:-1] + before[1:]) / 2
    assert np.linalg.norm(found - neighbours, axis=1).mean() < 0.15 * np.linalg.norm(before, axis=1).mean()
    # Near where they lie when they are embedded with the others.
    together = phate(distances).embedding
    assert procrustes(together[np.r_[old, new]], np.concatenate([before, found]))[2] < 0.15


def test_a_projected_point_has_the_least_stress():
    distances = walk(60)
    old = np.arange(0, 60, 2)
    result = phate(distances[np.ix_(old, old)])
    rows = distances[np.ix_([1], old)]
    found = project(rows, result)[0]
    # Its potential distances, from the definition.
    kernel = [
        np.exp(-((rows[0] / bandwidth) ** 40)) for bandwidth in (np.sort(rows[0])[result.knn - 1], result.bandwidth)
    ]
    chances = sum(np.where(part < 1e-4, 0, part) for part in kernel)
    chances = chances / chances.sum() @ np.linalg.matrix_power(result.operator.toarray(), result.t - 1)
    target = np.linalg.norm(-np.log(chances + 1e-7) - result.potential, axis=1)

    def stress(place):
        return ((np.linalg.norm(place - result.embedding, axis=1) - target) ** 2).sum()

    nearby = found + 1e-3 * np.random.default_rng(0).standard_normal((100, 2))
    assert all(stress(found) <= stress(place) + 1e-9 for place in nearby)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (np.ones((3, 59)), r"new_distances must have shape \(m, 60\), one row per new point, got \(3, 59\)"),
        (np.ones(60), r"new_distances must have shape \(m, n\), got \(60,\)"),
        (np.full((1, 60), np.nan), "new_distances must be finite"),
        (np.full((1, 60), -1.0), "new_distances must not be negative, got -1.0"),
    ],
)
def test_new_distances_of_the_wrong_shape_or_value_are_refused(new, message):
    with pytest.raises(ValueError, match=message):
        project(new, phate(walk()))


def test_projecting_no_points_returns_no_coordinates():
    assert project(np.empty((0, 60)), phate(walk())).shape == (0, 2)


def test_landmarks_are_embedded_exactly_and_the_others_among_them():
    distances = walk(300)
    result = phate(distances, landmarks=100)
    np.testing.assert_array_equal(result.landmarks, farthest_points(distances, 100))
    exact = phate(distances[np.ix_(result.landmarks, result.landmarks)])
    np.testing.assert_array_equal(result.embedding[result.landmarks], exact.embedding)
    others = np.setdiff1d(np.arange(300), result.landmarks)
    rows = distances[np.ix_(others, result.landmarks)]
    np.testing.assert_array_equal(result.embedding[others], project(rows, exact))
    assert procrustes(result.embedding, phate(distances).embedding)[2] < 0.2


def test_as_many_landmarks_as_points_are_all_points():
    assert phate(walk(), landmarks=60).embedding.tobytes() == phate(walk()).embedding.tobytes()
    assert phate(walk(), landmarks=60).landmarks is None


def test_farthest_points_are_far_from_one_another():
    line = np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0)))
    np.testing.assert_array_equal(farthest_points(line, 3), [0, 4, 8])


def test_too_many_points_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("jaxscape.embedding.phate.MOST_POINTS", 50)
    with pytest.raises(ValueError, match="60 points are more than the 50 that can be embedded exactly"):
        phate(walk())
    assert phate(walk(), landmarks=40).embedding.shape == (60, 2)
