"""Scaling against known points, scikit-learn, and a brute-force search."""

import warnings
from inspect import signature

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from sklearn import manifold

from jaxscape.embedding.mds import (
    check_distances,
    classical_mds,
    double_center,
    mds,
    metric_mds,
    minimize_stress,
    normalized_stress,
    place,
)

# scikit-learn 1.8 has renamed it.
PRECOMPUTED = {"metric" if "metric_mds" in signature(manifold.MDS).parameters else "dissimilarity": "precomputed"}


def points_and_distances(n=20, size=3, seed=0):
    points = np.random.default_rng(seed).standard_normal((n, size)) * np.arange(1, size + 1)
    return points, squareform(pdist(points))


def test_points_are_recovered_from_their_distances_up_to_rotation():
    points, distances = points_and_distances()
    coordinates, values = classical_mds(distances, n_components=3)
    assert coordinates.shape == (20, 3)
    np.testing.assert_allclose(squareform(pdist(coordinates)), distances, atol=1e-12)
    assert procrustes(points, coordinates)[2] < 1e-20
    np.testing.assert_allclose(values[3:], 0, atol=1e-10)


def test_eigenvalues_are_the_squared_singular_values_of_the_centred_points():
    points, distances = points_and_distances()
    _, values = classical_mds(distances)
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    assert values.shape == (20,)
    np.testing.assert_allclose(values[:3], singular**2, rtol=1e-12)


def test_double_centring_gives_inner_products_about_the_mean():
    points, distances = points_and_distances()
    centred = points - points.mean(axis=0)
    np.testing.assert_allclose(double_center(distances), centred @ centred.T, atol=1e-12)


@pytest.mark.skipif(not hasattr(manifold, "ClassicalMDS"), reason="scikit-learn before 1.8 has no ClassicalMDS")
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn_where_distances_are_not_euclidean(seed):
    matrix = np.triu(np.random.default_rng(seed).uniform(1, 2, (12, 12)), 1)
    matrix += matrix.T
    expected = manifold.ClassicalMDS(n_components=3, metric="precomputed").fit_transform(matrix)
    coordinates, _ = classical_mds(matrix, n_components=3)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(expected), atol=1e-10)


def test_the_largest_coordinate_of_each_axis_is_positive():
    _, distances = points_and_distances()
    coordinates, _ = classical_mds(distances, n_components=3)
    assert (coordinates.max(axis=0) == np.abs(coordinates).max(axis=0)).all()


def test_an_axis_of_negative_eigenvalue_is_empty():
    """No three points have the distances 1, 1 and 4."""
    coordinates, values = classical_mds(np.array([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]]), n_components=3)
    assert values[2] < -1
    np.testing.assert_allclose(coordinates[:, 2], 0)


def test_identical_points_lie_at_the_origin():
    coordinates, _ = classical_mds(np.zeros((4, 4)))
    np.testing.assert_array_equal(coordinates, 0)


def noisy(n=60, seed=0):
    """Distances in eight dimensions, which no planar layout preserves."""
    return squareform(pdist(np.random.default_rng(seed).standard_normal((n, 8))))


def raw_stress(distances, points):
    return ((distances - squareform(pdist(points))) ** 2).sum() / 2


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_metric_scaling_reaches_the_stress_of_scikit_learns(n_components, seed):
    distances = noisy(seed=seed)
    start, _ = classical_mds(distances, n_components=n_components)
    model = manifold.MDS(
        n_components=n_components, **PRECOMPUTED, n_init=1, max_iter=10_000, eps=1e-12, normalized_stress=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of another start, in the future, than the one that is given
        expected = raw_stress(distances, model.fit_transform(distances, init=start))
    found = metric_mds(distances, n_components=n_components)
    assert found.converged
    # On a line there are as many minima as orders of the points.
    assert raw_stress(distances, found.embedding) <= expected * (1.05 if n_components == 1 else 1.001)
    assert found.stress == normalized_stress(distances, found.embedding)


def test_no_small_displacement_lowers_the_stress():
    distances = noisy()
    found = metric_mds(distances, tolerance=1e-12).embedding
    generator = np.random.default_rng(0)
    best = raw_stress(distances, found)
    for _ in range(100):
        assert raw_stress(distances, found + 1e-4 * generator.standard_normal(found.shape)) > best


@pytest.mark.parametrize("n", [3, 40, 1300])
def test_points_in_the_plane_are_recovered(n):
    """1,300 are laid out in three levels: 81, 325 and all."""
    points, distances = points_and_distances(n=n, size=2)
    found = metric_mds(distances)
    assert found.stress < 1e-4
    assert procrustes(points, found.embedding)[2] < 1e-8


def test_the_gradient_is_that_of_the_stress():
    """L-BFGS finds a minimum by finite differences too, if a far slower one."""
    distances = noisy(n=12)
    start, _ = classical_mds(distances)
    found, *_ = minimize_stress(distances, start, tolerance=1e-12, max_iterations=500)
    oracle = minimize(lambda flat: raw_stress(distances, flat.reshape(12, 2)), start.ravel(), method="BFGS")
    assert raw_stress(distances, found) == pytest.approx(oracle.fun, rel=1e-6)


def test_lbfgs_takes_far_fewer_steps_than_guttmans_transform_alone():
    distances = noisy(200)
    start, _ = classical_mds(distances)
    found, steps, converged = minimize_stress(distances, start, tolerance=1e-5, max_iterations=1000)
    assert converged
    points = start
    for _ in range(2 * steps):
        kept = squareform(pdist(points))
        ratio = np.where(kept > 0, distances / np.where(kept > 0, kept, 1), 0)
        points = (ratio.sum(axis=1, keepdims=True) * points - ratio @ points) / len(points)
    assert raw_stress(distances, found) < raw_stress(distances, points)


def test_a_start_from_a_sample_does_not_raise_the_stress():
    distances = noisy(400)
    start, _ = classical_mds(distances)
    found, *_ = minimize_stress(distances, start, tolerance=1e-6, max_iterations=1000)
    assert raw_stress(distances, metric_mds(distances).embedding) < 1.01 * raw_stress(distances, found)


def test_many_points_can_be_laid_out_along_many_axes():
    _, distances = points_and_distances(n=320, size=90)
    assert metric_mds(distances, n_components=90).stress < 1e-6


def test_stopping_before_convergence_is_reported():
    found = metric_mds(noisy(), max_iterations=2)
    assert (found.iterations, found.converged) == (2, False)


def test_a_layout_is_centred_and_rotated_to_its_principal_axes():
    found = metric_mds(noisy()).embedding
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-10)
    products = found.T @ found
    np.testing.assert_allclose(products[0, 1], 0, atol=1e-9 * products[0, 0])
    assert products[0, 0] > products[1, 1]
    assert (found.max(axis=0) == np.abs(found).max(axis=0)).all()


def test_coinciding_points_stay_together_without_division_by_zero():
    found = metric_mds(np.zeros((5, 5)))
    np.testing.assert_array_equal(found.embedding, 0)
    assert found.converged


def test_a_new_point_is_placed_by_its_distances():
    points, _ = points_and_distances(n=30, size=2)
    new = np.random.default_rng(5).standard_normal((4, 2))
    to_points = np.linalg.norm(new[:, None] - points, axis=2)
    np.testing.assert_allclose(place(to_points, points, tolerance=1e-10, max_iterations=5000), new, atol=1e-6)


def test_stress_is_zero_for_exact_distances_at_any_scale():
    points, distances = points_and_distances()
    assert normalized_stress(distances, 7 * points) < 1e-14


def test_stress_is_the_smallest_that_any_scale_gives():
    points, distances = points_and_distances()
    embedding = points[:, :2] ** 3
    kept = squareform(pdist(embedding))

    def stress(scale):
        return np.sqrt(((distances - scale * kept) ** 2).sum() / (distances**2).sum())

    best = minimize_scalar(stress, bounds=(0, 10), method="bounded", options={"xatol": 1e-12})
    np.testing.assert_allclose(normalized_stress(distances, embedding), best.fun, rtol=1e-9)


def test_stress_ignores_the_scale_of_either():
    points, distances = points_and_distances()
    embedding = points[:, :2]
    stress = normalized_stress(distances, embedding)
    np.testing.assert_allclose(normalized_stress(1e-9 * distances, embedding), stress, rtol=1e-12)
    np.testing.assert_allclose(normalized_stress(distances, 1e9 * embedding), stress, rtol=1e-12)


def test_stress_of_a_picture_that_is_one_point_is_one_and_of_no_distances_is_zero():
    points, distances = points_and_distances()
    assert normalized_stress(distances, np.zeros((20, 2))) == 1
    assert normalized_stress(np.zeros((20, 20)), np.zeros((20, 2))) == 0
    assert normalized_stress(np.zeros((20, 20)), points) == 0


@pytest.mark.parametrize("unit", [1e-300, 1e-170, 1e170, 1e300])
def test_scaling_and_its_stress_do_not_depend_on_the_unit(unit):
    points, distances = points_and_distances()
    for scale in (classical_mds, metric_mds):
        expected, found = scale(distances)[0], scale(unit * distances)[0]
        np.testing.assert_allclose(found / unit, expected, atol=1e-6 * expected.max())
    stress = normalized_stress(distances, points[:, :2])
    assert metric_mds(unit * distances).stress == pytest.approx(metric_mds(distances).stress, rel=1e-4)
    assert normalized_stress(unit * distances, points[:, :2]) == pytest.approx(stress, rel=1e-12)
    assert normalized_stress(distances, unit * points[:, :2]) == pytest.approx(stress, rel=1e-12)


def test_eigenvalues_are_in_the_squared_unit():
    _, distances = points_and_distances()
    np.testing.assert_allclose(classical_mds(1e100 * distances)[1][:3], 1e200 * classical_mds(distances)[1][:3])


def test_a_large_matrix_is_compared_with_its_transpose_in_every_place():
    _, distances = points_and_distances(n=600)
    check_distances(distances)
    for place_of_fault in [(599, 0), (0, 599), (300, 270), (255, 256), (597, 598)]:
        faulty = distances.copy()
        faulty[place_of_fault] *= 1.001
        with pytest.raises(ValueError, match="distances must be symmetric"):
            check_distances(faulty)


def test_a_distance_matrix_passes_as_a_float64_copy():
    _, distances = points_and_distances()
    checked = check_distances(distances.astype(np.float32))
    assert checked.dtype == np.float64
    same = check_distances(distances)
    assert same is not distances
    np.testing.assert_array_equal(same, distances)


def spoiled(row, column, value):
    _, distances = points_and_distances()
    distances[row, column] = value
    return distances


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.zeros((4, 5)), r"square matrix \(n, n\), got shape \(4, 5\)"),
        (np.zeros(4), r"distances must have shape \(n, n\), got \(4,\)"),
        (np.zeros((2, 2)), "n_components must be a whole number from 1 to n - 1 = 1, got 2"),
        (np.zeros((0, 0)), "distances must be of at least 2 points, got 0"),
        (spoiled(3, 5, np.nan), "finite, but 1 rows hold NaN or infinity, first row 3"),
        (spoiled(3, 5, np.inf), "finite, but 1 rows hold NaN or infinity, first row 3"),
        (spoiled(3, 5, -1e-9), "not be negative, got -1e-09"),
        (spoiled(3, 5, points_and_distances()[1][3, 5] + 1e-6), "symmetric"),
        (spoiled(3, 3, 1e-9), "zero on the diagonal"),
    ],
)
def test_an_invalid_distance_matrix_is_refused(distances, message):
    with pytest.raises(ValueError, match=message):
        check_distances(distances)


def test_symmetry_is_required_up_to_rounding():
    _, distances = points_and_distances()
    distances[0, 1] *= 1 + 1e-12
    check_distances(distances)


@pytest.mark.parametrize("n_components", [0, 20, 1.5, 2.0, "2", True, None])
def test_an_impossible_number_of_axes_is_refused(n_components):
    _, distances = points_and_distances()
    with pytest.raises(ValueError, match="n_components must be a whole number from 1 to n - 1 = 19"):
        check_distances(distances, n_components=n_components)


# The better of two layouts


def test_mds_is_never_worse_than_either_start():
    generator = np.random.default_rng(5)
    points = np.concatenate(
        [generator.standard_normal((1, 40)) * 5 + 0.2 * generator.standard_normal((90, 40)) for _ in range(5)]
    )
    distances = squareform(pdist(points))
    found, one = mds(distances), metric_mds(distances, tolerance=1e-6)
    assert found.stress <= one.stress
    assert found.stress == pytest.approx(normalized_stress(distances, found.embedding), rel=1e-9)
    np.testing.assert_allclose(found.embedding.mean(axis=0), 0, atol=1e-9)


def test_mds_of_points_of_the_plane_is_exact_in_any_unit():
    points = np.random.default_rng(6).standard_normal((60, 2))
    for unit in (1.0, 1e-150, 1e150):
        distances = squareform(pdist(points)) * unit
        found = mds(distances)
        np.testing.assert_allclose(squareform(pdist(found.embedding)), distances, rtol=1e-6, atol=1e-6 * unit)
        assert found.converged
