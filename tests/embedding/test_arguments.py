"""Arguments that no function of jaxscape.embedding accepts, and the error messages."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist, squareform

from jaxscape.embedding.arguments import without_unit
from jaxscape.embedding.baselines import pca, phate_package, random_plane, tsne, umap
from jaxscape.embedding.mds import check_distances, classical_mds, mds, metric_mds, normalized_stress
from jaxscape.embedding.measures import (
    demap,
    procrustes_disparity,
    radial_trend,
    rank_correlation,
    successor_rank,
    successor_rank_of_distances,
)
from jaxscape.embedding.phate import phate, project
from jaxscape.embedding.tree import artificial_tree

PICTURE = np.random.default_rng(0).standard_normal((12, 2))
DISTANCES = squareform(pdist(PICTURE))
TRAJECTORY, ORDER = np.repeat([0, 1], 6), np.tile(np.arange(6), 2)
ALONG = {"trajectory": TRAJECTORY, "order": ORDER}


@pytest.fixture(scope="module")
def result():
    return phate(DISTANCES, t=2)


# A function, the argument that holds numbers, and the others that it needs.
TAKES_NUMBERS = [
    (check_distances, "distances", {}),
    (phate, "distances", {}),
    (phate_package, "distances", {}),
    (pca, "distances", {}),
    (random_plane, "distances", {"key": jax.random.key(0)}),
    (tsne, "distances", {}),
    (umap, "distances", {}),
    (classical_mds, "distances", {}),
    (metric_mds, "distances", {}),
    (mds, "distances", {}),
    (normalized_stress, "distances", {"embedding": PICTURE}),
    (normalized_stress, "embedding", {"distances": DISTANCES}),
    (demap, "geodesics", {"embedding": PICTURE}),
    (demap, "embedding", {"geodesics": DISTANCES}),
    (rank_correlation, "distances", {"embedding": PICTURE}),
    (rank_correlation, "embedding", {"distances": DISTANCES, "neighbours": 3}),
    (successor_rank, "embedding", ALONG),
    (successor_rank, "order", {"embedding": PICTURE, "trajectory": TRAJECTORY}),
    (successor_rank_of_distances, "distances", ALONG),
    (radial_trend, "embedding", ALONG),
    (radial_trend, "order", {"embedding": PICTURE, "trajectory": TRAJECTORY}),
    (procrustes_disparity, "first", {"second": PICTURE}),
    (procrustes_disparity, "second", {"first": PICTURE}),
    (project, "new_distances", {}),
]
NO_NUMBERS = {
    "sparse": csr_array(DISTANCES),
    "complex": DISTANCES + 0j,
    "objects": DISTANCES.astype(object),
    "strings": DISTANCES.astype(str),
    "booleans": DISTANCES > 1,
    "times": DISTANCES.astype("m8[s]"),
    "masked": np.ma.masked_greater(DISTANCES, 1),
    "NaN": np.full((12, 12), np.nan),
    "infinity": np.full((12, 12), np.inf),
    "too large for a float64": np.full((12, 12), np.longdouble("1e400")),
    "ragged": [[1], [1, 2]],
    "keys": jax.random.split(jax.random.key(0), 12),
    "None": None,
    "a number": 3.0,
    "a string": "abc",
    "no points": np.zeros((0, 0)),
    "three axes": DISTANCES[None],
}


def refusal(function, arguments):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**arguments)
    return str(caught.value)


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize(
    ("function", "name", "others"),
    TAKES_NUMBERS,
    ids=[f"{function.__name__}-{name}" for function, name, _ in TAKES_NUMBERS],
)
def test_anything_but_an_array_of_numbers_is_refused_by_argument_name(function, name, others, kind, result):
    others = others | ({"result": result} if function is project else {})
    words = refusal(function, {name: NO_NUMBERS[kind]} | others)
    assert words.startswith(f"{name} must ")
    assert "\n" not in words


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint64", "longdouble", "bfloat16"])
def test_real_numbers_of_any_dtype_are_accepted(dtype):
    numbers = np.abs(np.subtract.outer(np.arange(6), np.arange(6))).astype(dtype)
    np.testing.assert_array_equal(check_distances(numbers), numbers.astype(np.float64))
    np.testing.assert_array_equal(check_distances(jax.numpy.asarray(numbers.astype(np.float32))), numbers)


def test_a_masked_array_without_masked_entries_is_accepted():
    np.testing.assert_array_equal(check_distances(np.ma.masked_array(DISTANCES)), DISTANCES)


D, E = {"distances": DISTANCES}, {"embedding": PICTURE}


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        *[
            (function, D | others | {"n_components": value}, f"n_components must be a whole number from 1 to {most}")
            for function, most, others in [
                (phate, "n - 1 = 11", {}),
                (phate_package, "n - 1 = 11", {}),
                (pca, "n - 1 = 11", {}),
                (random_plane, "n - 1 = 11", {"key": jax.random.key(0)}),
                (tsne, "n - 1 = 11", {}),
                (umap, "n - 1 = 11", {}),
                (classical_mds, "n = 12", {}),
                (metric_mds, "n = 12", {}),
            ]
            for value in (True, 0, 13, 2.0, "2", None)
        ],
        (umap, D | {"n_components": 11}, "n_components must be a whole number from 1 to n - 2 = 10, got 11"),
        (umap, {"distances": DISTANCES[:2, :2], "n_components": 1}, "UMAP needs at least 3 points, got 2"),
        (phate, {"distances": DISTANCES[:2, :2], "n_components": 1}, "PHATE needs at least 3 points, got 2"),
        *[
            (phate, D | {"knn": value}, 'knn must be "connect", "auto" or a whole number from 1 to n - 2 = 10, got')
            for value in (True, 5.5, None, "5", 11, np.arange(9000))
        ],
        *[
            (phate_package, D | {"knn": value}, "knn must be a whole number from 1 to n - 2 = 10, got")
            for value in (True, 5.5, None, "connect", 11, 0)
        ],
        *[
            (function, D | {"decay": value}, "decay must be a positive number, got")
            for function in (phate, phate_package)
            for value in (None, np.nan, "a", True, 0, -1, 10**400, 1j, [40], Fraction(40))
        ],
        *[
            (function, D | {"t": value}, 't must be "auto" or a whole number from 1 to 1000000000, got')
            for function in (phate, phate_package)
            for value in (True, 0, 2.0, "knee", None, np.arange(2))
        ],
        *[
            (phate, D | {"landmarks": value}, "landmarks must be None or a whole number of at least 3, got")
            for value in (True, False, 2, 8.0, "8")
        ],
        (phate, D | {"potential_metric": ["cosine"]}, r"unknown potential_metric ['cosine']; known"),
        (phate, D | {"previous": PICTURE}, "previous must be None or a result of phate, got array("),
        (project, {"new_distances": DISTANCES, "result": PICTURE}, "result must be what phate returns, got array("),
        *[
            (tsne, D | {"perplexity": value}, "perplexity must be a number above 0 and below n = 12, got")
            for value in (np.nan, "5", True, 0, 12, np.inf, [5])
        ],
        *[
            (umap, D | {"n_neighbors": value}, "n_neighbors must be None or a whole number from 2 to n - 1 = 11, got")
            for value in (1, 12, 5.0, True, "5")
        ],
        *[
            (umap, D | {"min_dist": value}, "min_dist must be a number from 0 to 1, got")
            for value in (-0.1, 1.1, np.nan, "0.1", None, True)
        ],
        *[
            (umap, D | {"seed": value}, "seed must be a whole number from 0 to 2^32 - 1 = 4294967295, got")
            for value in (-1, 1.5, 2**32, None, True, "0")
        ],
        *[
            (random_plane, D | {"key": value}, "key must be one PRNG key, such as jax.random.key(0), got")
            for value in (
                0,
                None,
                "0",
                jax.random.split(jax.random.key(0)),
                jax.random.split(jax.random.PRNGKey(0)),
                np.zeros(2),
                np.zeros(3, np.uint32),
            )
        ],
        *[
            (artificial_tree, {name: value}, f"{name} must be a whole number of at least 1, got")
            for name in ("branches", "points", "size")
            for value in (0, 2.5, True, None, "3", np.nan)
        ],
        *[
            (artificial_tree, {"noise": value}, "noise must be a finite number of at least 0, got")
            for value in (np.nan, np.inf, -1, None, "0", True)
        ],
        *[
            (artificial_tree, {"seed": value}, "seed must be a whole number of at least 0, got")
            for value in (-1, 0.5, None, True, "0")
        ],
        *[
            (
                rank_correlation,
                D | E | {"neighbours": value},
                "neighbours must be None or a whole number from 3 to n - 1",
            )
            for value in (2, 12, 5.0, True, "5", np.nan)
        ],
        (phate, {"distances": np.zeros((12, 12))}, "distances must not all be zero: all points are the same"),
        (phate_package, {"distances": np.zeros((12, 12))}, "distances must not all be zero: all points are the same"),
        (rank_correlation, D | {"embedding": PICTURE[:5]}, "distances must have shape (5, 5), got (12, 12)"),
        (normalized_stress, D | {"embedding": PICTURE[:5]}, "distances must have shape (5, 5), got (12, 12)"),
        (demap, {"geodesics": DISTANCES + np.triu(DISTANCES)} | E, "geodesics must be symmetric"),
        (demap, {"geodesics": DISTANCES + 1} | E, "geodesics must be zero on the diagonal"),
        (demap, {"geodesics": -DISTANCES} | E, "geodesics must not be negative, got -"),
        *[
            (function, arguments, "with at least 3 points and one axis, got (2, 2)")
            for function, arguments in [
                (demap, {"geodesics": DISTANCES[:2, :2], "embedding": PICTURE[:2]}),
                (rank_correlation, {"distances": DISTANCES[:2, :2], "embedding": PICTURE[:2]}),
            ]
        ],
        (
            normalized_stress,
            {"distances": [[0]], "embedding": [[1]]},
            "with at least 2 points and one axis, got (1, 1)",
        ),
        (procrustes_disparity, {"first": [[1]], "second": [[1]]}, "with at least 2 points and one axis, got (1, 1)"),
        (
            procrustes_disparity,
            {"first": PICTURE, "second": PICTURE[:5]},
            "second must have the shape of first, (12, 2)",
        ),
        (procrustes_disparity, {"first": PICTURE, "second": PICTURE[:, :1]}, "second must have the shape of first"),
        *[
            (function, given | along, words)
            for function, given in ((successor_rank, E), (successor_rank_of_distances, D), (radial_trend, E))
            for along, words in [
                (ALONG | {"order": ORDER[:5]}, "order must have shape (12,), one position per point, got (5,)"),
                (ALONG | {"order": ORDER.astype(str)}, "order must hold real numbers, got dtype <U21"),
                (
                    ALONG | {"trajectory": TRAJECTORY[:5]},
                    "trajectory must have shape (12,), one label per point, got (5,)",
                ),
                (ALONG | {"trajectory": TRAJECTORY[:, None]}, "trajectory must have shape (12,)"),
                (ALONG | {"trajectory": np.full(12, np.nan)}, "trajectory must label every point, but NaN"),
                (ALONG | {"trajectory": [0, "a"] * 5 + [None] * 2}, "trajectory must hold numbers or strings"),
                (ALONG | {"trajectory": [[1], [1, 2]]}, "trajectory must be an array of shape (12,), got list"),
            ]
        ],
    ],
)
def test_an_argument_out_of_range_is_refused(function, arguments, words):
    found = refusal(function, arguments)
    assert words in found
    assert "\n" not in found
    assert len(found) < 200


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-18, 1e18, 1e155, 1e300, 5e-324, 1.7e308])
def test_the_unit_is_a_power_of_two_that_brings_the_largest_to_one(scale):
    values, unit = without_unit(scale * np.array([[-1.0, 0], [0.5, 1]]))
    assert np.frexp(unit)[0] == 0.5
    assert 1 <= np.abs(values).max() < 2
    assert (values * unit).tobytes() == (scale * np.array([[-1.0, 0], [0.5, 1]])).tobytes()


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1, 1e6])
def test_values_of_an_ordinary_scale_are_returned_unchanged(scale):
    values = scale * DISTANCES / DISTANCES.max()
    assert without_unit(values)[0] is values
    assert without_unit(np.zeros(3))[1] == 1
