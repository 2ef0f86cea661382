"""What `gram` and what follows it take, and what they refuse in words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse as jax_sparse
from scipy import sparse

from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.geometry import trajectory_geometry, trajectory_rows
from jaxscape.trajectories.gram import gram, take_points
from jaxscape.trajectories.null import null_trajectories
from jaxscape.trajectories.store import TrajectoryStore

ROWS = np.random.default_rng(0).standard_normal((4, 3))
PARENTS = [-1, -1, 0, 1]
TREE = {"b": ROWS, "w": np.arange(24.0).reshape(4, 2, 3) ** 2}


def one(tree):
    """The last of stacked networks."""
    return jax.tree.map(lambda leaf: leaf[-1], tree)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.ones(5), r"points must be an array \(n, P\), or a pytree of stacked arrays, got the shape \(5,\)"),
        (3.0, "share a leading axis"),
        (None, r"points must be an array .* got None, without any"),
        ({}, "got {}, without any"),
        ([], r"got \[\], without any"),
        ("abc", "points is a str"),
        ((row for row in ROWS), "not a generator"),
        ([1.0, 2.0], r"or a pytree of stacked arrays, got a list of numbers; stack points on axis 0"),
        (
            (np.ones((3, 2)), np.ones((3, 2))),
            r"got a tuple of arrays of shape \(3, 2\), which may be stacked themselves",
        ),
        ([np.ones((3, 2))], "give arrays that are stacked already in a dictionary"),
        ([np.ones(3), np.ones(4)], r"is of shape \(3,\) in points\[0\] and of shape \(4,\) in points\[1\]"),
        ([[1.0, 2.0], [3.0]], r"is of shape \(2,\) in points\[0\] and of shape \(1,\) in points\[1\]"),
        ([TREE, TREE, {"b": ROWS}], r"'w' is of shape \(4, 2, 3\) in points\[0\] and absent in points\[2\]"),
        ([{"a": np.ones(3)}, {"b": np.ones(3)}], r"'a' is of shape \(3,\) in points\[0\] and absent in points\[1\]"),
        ([np.ones((3, 2)), np.ones((3, 4))], "give arrays that are stacked already in a dictionary"),
        ([{"a": ROWS}, {"a": "text"}], r"points\[1\]: 'a' is a str"),
        ([None, None], r"points\[0\] is None, without any"),
        ([{"a": np.ones((0, 2))}] * 2, r"points must not be empty, got shapes \[\(2, 0, 2\)\]"),
        (np.ma.masked_array(ROWS, ROWS > 0), "points is a MaskedArray"),
        (sparse.csr_matrix(ROWS), "points is a csr_matrix"),
        ({"a": sparse.coo_array(ROWS)}, "points: 'a' is a coo_array"),
        (jax_sparse.BCOO.fromdense(jnp.asarray(ROWS, np.float32)), "points is a BCOO"),
        (jax.random.split(jax.random.key(0), 4), "points is a PRNGKeyArray"),
        ({"a": ROWS, "b": 1j * ROWS}, "points: 'b' is a ndarray of complex128; allowed: real floats up to float64"),
        (ROWS.astype(object), "points is a ndarray of object"),
        (ROWS.astype(str), "points is a ndarray of <U"),
        (ROWS > 0, "points is a ndarray of bool"),
        (np.full((2, 2), 2**53 + 1), r"points has integers beyond 2\*\*53"),
        (np.full((2, 2), 2**64 - 1, np.uint64), r"points has integers beyond 2\*\*53"),
        ({"a/b": ROWS, "a": {"b": ROWS}}, "two arrays have the key path 'a/b'"),
    ],
)
def test_anything_but_points_is_refused(points, message):
    for function in (gram, pairwise_distances):
        with pytest.raises(ValueError, match=message):
            function(points)


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, jnp.bfloat16, np.float32])
def test_every_type_that_float64_holds_exactly_gives_the_same(dtype):
    whole = np.round(10 * np.abs(ROWS))
    np.testing.assert_array_equal(gram(whole.astype(dtype)).products, gram(whole).products)


def networks():
    """Three networks, and their parameters as a matrix."""
    generator = np.random.default_rng(1)
    made = [{"w": generator.standard_normal((2, 3)), "b": generator.standard_normal(3)} for _ in range(3)]
    return made, np.stack([np.concatenate([each["b"], each["w"].ravel()]) for each in made])


@pytest.mark.parametrize("as_list", [list, tuple])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, jnp.bfloat16])
def test_networks_in_a_list_are_stacked_into_points(as_list, dtype):
    made, _ = networks()
    made = [jax.tree.map(lambda leaf: leaf.astype(dtype), each) for each in made]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    for max_bytes in (2**28, 100):
        found, expected = (gram(points, max_bytes=max_bytes) for points in (as_list(made), stacked))
        np.testing.assert_array_equal(found.products, expected.products)
        np.testing.assert_array_equal(found.parents, expected.parents)
    np.testing.assert_array_equal(pairwise_distances(as_list(made)), pairwise_distances(stacked))
    assert pairwise_distances(as_list(made), reference=made[1], metric="euclidean", include_reference=True)[0, 2] == 0


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray, list, tuple])
def test_vectors_in_a_list_are_points(to):
    matrix = np.round(100 * networks()[1])
    for points in ([to(row.tolist()) for row in matrix], [to(matrix[0].tolist())]):
        np.testing.assert_array_equal(gram(points).products, gram(matrix[: len(points)]).products)


def test_networks_of_several_types_and_containers_are_points_by_key_path():
    made, matrix = networks()
    exact = [made[0], Layer(**made[1]), {"b": jnp.asarray(made[2]["b"], jnp.bfloat16), "w": np.ones((2, 3), int)}]
    matrix[2] = np.concatenate([np.asarray(exact[2]["b"], np.float64), np.ones(6)])
    np.testing.assert_allclose(gram(exact).products, gram(matrix).products, rtol=1e-14)


def test_a_dictionary_of_layers_that_are_stacked_is_a_pytree():
    layers = {"0": {"w": TREE["w"]}, "1": {"w": ROWS, "b": ROWS[:, 0]}}
    flat = np.concatenate([TREE["w"].reshape(4, -1), ROWS[:, :1], ROWS], axis=1)
    np.testing.assert_allclose(pairwise_distances(layers), pairwise_distances(flat), atol=1e-15)


# The reference


class Layer(NamedTuple):
    """The arrays of TREE in another container."""

    b: np.ndarray
    w: np.ndarray


@pytest.mark.parametrize(
    "points",
    [TREE, Layer(**TREE), {"w": TREE["w"], "b": jnp.asarray(ROWS, np.float32)}],
    ids=["dictionary", "NamedTuple", "jax"],
)
def test_the_reference_may_come_in_another_container_with_the_same_key_paths(points):
    last = one(TREE)
    for reference in (
        last,
        {"w": last["w"], "b": last["b"]},
        Layer(**last),
        np.concatenate([last["b"], last["w"].ravel()]),
    ):
        found = pairwise_distances(points, reference=reference, metric="euclidean", include_reference=True)
        assert found[0, -1] <= 1e-7


def test_a_store_takes_its_arrays_as_it_gives_them_back(tmp_path):
    """Twelve arrays in a list come back as a dictionary in which "10" stands before "2"."""
    generator = np.random.default_rng(0)
    params = {"w": [generator.standard_normal((2, 2, 2)).astype(np.float32) for _ in range(12)]}
    with TrajectoryStore.create(tmp_path / "store", [{"seed": 0}, {"seed": 1}]) as store:
        store.append(0, params)
        store.wait()
        assert store.leaf_shapes == [(2, 2)] * 12
        back = jax.tree.map(lambda leaf: leaf[0, 1], store.read())
        for reference in (back, one(params), np.concatenate([leaf[-1].ravel() for leaf in params["w"]])):
            found = gram(store, reference=reference)
            assert pairwise_distances(found, metric="euclidean", include_reference=True)[0, 2] == 0
        with pytest.raises(ValueError, match=r"reference must have .* 'w/0' is absent in the reference"):
            gram(store, reference={"v": back["w"]})


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        (TREE, {"b": ROWS[0], "w": TREE["w"][0].T}, r"'w' is of shape \(3, 2\) in the reference and of shape \(2, 3\)"),
        (TREE, {"c": ROWS[0], "w": TREE["w"][0]}, "'b' is absent in the reference"),
        (TREE, {**one(TREE), "z": np.ones(2)}, r"'z' is of shape \(2,\) in the reference and absent in a point"),
        (TREE, [ROWS[0], TREE["w"][0]], "'b' is absent in the reference"),
        (TREE, TREE, r"'b' is of shape \(4, 3\)"),
        (TREE, np.ones((1, 9)), r"or be an array \(9,\)"),
        (TREE, np.ones(8), "reference has 8 parameters, the points have 9"),
        (TREE, {}, "reference must have the arrays of one point"),
        (TREE, {"b": 1j * ROWS[0], "w": TREE["w"][0]}, "reference: 'b' is a ndarray of complex128"),
        (TREE, "abc", "reference is a str"),
        (ROWS, ROWS[:1], r"of shape \(1, 3\) in the reference"),
        (ROWS, (), "reference has 0 parameters"),
    ],
)
def test_a_reference_that_does_not_match_is_refused(points, reference, message):
    with pytest.raises(ValueError, match=message):
        gram(points, reference=reference)


def test_a_list_of_numbers_is_a_flat_reference():
    np.testing.assert_array_equal(
        gram(ROWS, reference=[1.0, 2.0, 3.0]).products, gram(ROWS, reference=np.array([1.0, 2.0, 3.0])).products
    )


# Leaves

LAYERS = {"a": {"kernel": ROWS, "bias": ROWS[:, :2] + 1}, "b": {"kernel": TREE["w"] - 3}, "head[0]": ROWS[:, 0]}


@pytest.mark.parametrize(
    ("leaves", "names"),
    [
        (["a/kernel"], ["a/kernel"]),
        ("*/kernel", ["a/kernel", "b/kernel"]),
        (["b/*", "a/k*", "b/kernel"], ["a/kernel", "b/kernel"]),
        (("head[0]",), ["head[0]"]),
        ("*", ["a/bias", "a/kernel", "b/kernel", "head[0]"]),
    ],
)
def test_the_gram_of_some_leaves_is_that_of_their_columns(leaves, names):
    columns = {
        "a/bias": LAYERS["a"]["bias"],
        "a/kernel": ROWS,
        "b/kernel": LAYERS["b"]["kernel"],
        "head[0]": ROWS[:, 0],
    }
    matrix = np.concatenate([columns[name].reshape(4, -1) for name in names], axis=1)
    as_list = [jax.tree.map(lambda leaf, row=row: leaf[row], LAYERS) for row in range(4)]
    everything = np.concatenate([leaf[-1].ravel() for leaf in columns.values()])
    expected = gram(matrix, reference=matrix[-1], parents=PARENTS)
    for points in (LAYERS, as_list):
        for reference in (one(LAYERS), matrix[-1], everything):
            found = gram(points, reference=reference, parents=PARENTS, leaves=leaves)
            np.testing.assert_allclose(found.products, expected.products, rtol=1e-13, atol=1e-13)
            assert found.dimension == matrix.shape[1]


def test_a_reference_may_have_the_chosen_leaves_alone():
    chosen = {"a": {"kernel": ROWS[0]}}
    found, expected = (gram(LAYERS, reference=each, leaves="a/kernel") for each in (chosen, one(LAYERS)))
    assert found.num_points == 4
    np.testing.assert_array_equal(gram(LAYERS, reference=chosen, leaves="a/k*").products, found.products)
    assert (found.products != expected.products).any()  # the reference is another
    with pytest.raises(ValueError, match="'a/bias' is absent in the reference"):
        gram(LAYERS, reference=chosen, leaves="a/*")
    with pytest.raises(ValueError, match=r"'c' is of shape .* in the reference and absent in a point"):
        gram(LAYERS, reference={**chosen, "c": ROWS}, leaves="a/kernel")


def test_more_rows_of_some_leaves_extend_a_previous_result():
    for leaves in (["a/*"], "b/kernel"):
        old = gram(jax.tree.map(lambda leaf: leaf[:3], LAYERS), parents=PARENTS[:3], leaves=leaves)
        found = gram(LAYERS, parents=PARENTS, leaves=leaves, previous=old)
        np.testing.assert_allclose(found.products, gram(LAYERS, parents=PARENTS, leaves=leaves).products, rtol=1e-12)
    with pytest.raises(ValueError, match=r"previous has \(has_reference, dimension\)"):
        gram(LAYERS, parents=PARENTS, leaves="a/*", previous=old)


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        (
            ["a/weight"],
            r"leaves: 'a/weight' is the name of no array and matches none; known: a/bias, a/kernel, b/kernel",
        ),
        (["*", "c*"], r"leaves: 'c\*' is the name of no array"),
        ([], r"leaves=\[\] must be names or patterns"),
        (3, "leaves=3 must be names or patterns"),
        (iter(["*"]), "leaves=<list_iterator .*> must be names or patterns"),
        ([0], r"leaves=\[0\] must be names or patterns"),
    ],
)
def test_unknown_leaves_are_refused_with_some_known_ones(leaves, message, store):
    with pytest.raises(ValueError, match=message):
        gram(LAYERS, leaves=leaves)
    with pytest.raises(ValueError, match=message.split("; known")[0]):
        gram(store, leaves=leaves)
    with pytest.raises(ValueError, match=message.split("; known")[0]):
        store.blocks(2**20, leaves=leaves)


# Members, parents and the rest


@pytest.fixture
def store(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", [{"seed": member} for member in range(3)]) as made:
        for epoch in range(2):
            made.append(epoch, np.random.default_rng(epoch).standard_normal((3, 5)).astype(np.float32))
        made.wait()
        yield made


def test_members_are_returned_in_the_requested_order(store):
    rows = store.read()["params"].reshape(6, 5)
    for members, numbers in (([2, 0], [2, 0, 5, 3]), ([1, 1], [1, 1, 4, 4]), (1, [1, 4]), (range(2), [0, 1, 3, 4])):
        count = len(numbers) // 2
        expected = gram(rows[numbers], parents=np.maximum(np.arange(2 * count) - count, -1))
        found = gram(store, members=members)
        np.testing.assert_allclose(found.products, expected.products, rtol=1e-12)
        np.testing.assert_array_equal(found.parents, expected.parents)


@pytest.mark.parametrize(
    "members",
    [True, [True, False, True], [0.0], "01", {0, 1}, [[0, 1]], [[0], [1, 2]], [], [3], [-1], [None]],
    ids=repr,
)
def test_invalid_members_are_refused(store, members):
    with pytest.raises(ValueError, match="members"):
        gram(store, members=members)


@pytest.mark.parametrize(
    "parents",
    [
        [0.5] * 4,
        [-1, 0, 1],
        "abcd",
        [[1], [2, 3]],
        [True] * 4,
        [np.nan] * 4,
        3,
        [-2, 0, 0, 0],
        [-1, 0, 1, 3],
        [2**70] * 4,
    ],
    ids=repr,
)
def test_parents_that_are_not_earlier_rows_are_refused(parents):
    with pytest.raises(ValueError, match="parents must be 4 row numbers, each -1"):
        gram(ROWS, parents=parents)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_bytes": 0}, "max_bytes must be a positive number of bytes, got 0"),
        ({"max_bytes": np.nan}, "max_bytes must be a positive number"),
        ({"max_bytes": "all"}, "max_bytes must be a positive number"),
        ({"devices": "cpu"}, r"devices must be a sequence of jax.Device, \[\] for the host, got 'cpu'"),
        ({"devices": [0]}, "devices must be a sequence"),
        ({"previous": ROWS}, "previous must be an IncrementGram, as returned by gram"),
        ({"members": [0]}, "members can be chosen from a TrajectoryStore only"),
    ],
)
def test_other_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gram(ROWS, parents=PARENTS, **arguments)


FOUND = gram(ROWS, parents=PARENTS)
NO_GRAMS = [
    *(None, 3, "x", ROWS, (1, 2), FOUND._asdict()),
    FOUND._replace(products=np.nan * FOUND.products),
    FOUND._replace(remainders=np.inf + FOUND.remainders),
    FOUND._replace(products=None),
    FOUND._replace(parents=FOUND.parents[:2]),
    FOUND._replace(parents=[-1, -1, 0, 1]),
    FOUND._replace(parents=FOUND.parents[::-1].copy()),
    FOUND._replace(products=np.empty((0, 0)), remainders=np.empty((0, 0)), parents=np.empty(0, int)),
]


@pytest.mark.parametrize("number", range(len(NO_GRAMS)))
def test_anything_but_an_increment_gram_is_refused(number):
    for function in (
        trajectory_geometry,
        trajectory_rows,
        lambda gram: take_points(gram, [0]),
        lambda gram: null_trajectories(gram, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match=r"gram (must be an IncrementGram|has )"):
            function(NO_GRAMS[number])


@pytest.mark.parametrize("points", [[True, False], [0.5], None, 0, [[0], [1, 2]], "01"], ids=repr)
def test_points_to_take_are_integers(points):
    with pytest.raises(ValueError, match="points must be a sequence of integers"):
        take_points(FOUND, points)


@pytest.mark.parametrize(
    "key",
    [
        *(0, 1.5, None, "a", True, np.uint32(3), np.arange(2), np.arange(3, dtype=np.uint32)),
        jax.random.split(jax.random.key(0), 2),
        jax.random.split(jax.random.PRNGKey(0), 2),
    ],
    ids=lambda key: str(type(key).__name__),
)
@pytest.mark.parametrize("kind", ["rotated", "shuffled"])
def test_a_seed_or_a_stack_of_keys_is_not_a_key(key, kind):
    with pytest.raises(ValueError, match="key must be one PRNG key"):
        null_trajectories(FOUND, kind=kind, key=key)


def test_a_legacy_key_draws_the_same_as_a_typed_one():
    old, new = (null_trajectories(FOUND, key=key) for key in (jax.random.PRNGKey(3), jax.random.key(3)))
    np.testing.assert_array_equal(old.products, new.products)


def test_one_point_has_distances_and_a_geometry():
    alone = gram(ROWS[:1])
    for metric in ("cosine", "euclidean"):
        assert pairwise_distances(alone, metric=metric).tolist() == [[0.0]]
    geometry = trajectory_geometry(alone)
    np.testing.assert_allclose(geometry.norm, [[np.linalg.norm(ROWS[0])]])
    assert np.isnan(geometry.end_spread).all()
    assert null_trajectories(alone, key=jax.random.key(0)).num_points == 1
    with pytest.raises(ValueError, match="rows 0 are the centre itself"):
        pairwise_distances(alone, center="mean")


def test_include_reference_is_a_bool():
    with pytest.raises(ValueError, match="include_reference must be True or False, got 'no'"):
        pairwise_distances(ROWS, reference=ROWS[0], include_reference="no")
