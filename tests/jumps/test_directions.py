"""Directions and jumps against the definition of filter normalisation, computed with NumPy in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxscape.jumps.directions import (
    filter_normalize,
    filter_normalized_distance,
    jump,
    jump_grid,
    random_direction,
)

KEY = jax.random.key(0)


def parameters(seed=0):
    """A convolution (H, W, in, out), a dense layer (in, out), an attention kernel (in, heads, head_dim), a bias."""
    generator = np.random.default_rng(seed)
    shapes = {"conv": (3, 3, 2, 4), "dense": (5, 6), "attention": (4, 2, 3), "bias": (6,), "temperature": ()}
    return {name: jnp.asarray(generator.normal(2.0, 3.0, shape), jnp.float32) for name, shape in shapes.items()}


def norms(leaf, kept_axes):
    """Return the norm of every filter, keeping the output axes."""
    leaf = np.asarray(leaf, np.float64)
    kept = {axis % leaf.ndim for axis in kept_axes}
    return np.sqrt((leaf**2).sum(axis=tuple(axis for axis in range(leaf.ndim) if axis not in kept)))


# Random directions.


def test_a_random_direction_is_standard_normal_and_independent_between_leaves():
    params = {"a": jnp.zeros((100, 100)), "b": jnp.zeros((100, 100))}
    direction = random_direction(KEY, params)
    for leaf in direction.values():
        assert abs(leaf.mean()) < 5 / 100
        assert abs(leaf.std() - 1) < 5 / np.sqrt(2 * 10_000)
    assert abs(np.corrcoef(direction["a"].ravel(), direction["b"].ravel())[0, 1]) < 5 / 100


def test_a_random_direction_follows_from_its_key_alone():
    params, other_values = parameters(0), parameters(1)
    same = jax.tree.map(np.array_equal, random_direction(KEY, params), random_direction(KEY, other_values))
    assert all(same.values())
    different = jax.tree.map(np.array_equal, random_direction(KEY, params), random_direction(jax.random.key(1), params))
    assert not any(different.values())


def test_the_direction_of_an_empty_pytree_is_empty():
    assert random_direction(KEY, {}) == {}


# Filter normalisation.


@pytest.mark.parametrize(
    ("filter_axis", "kept"),
    [
        (-1, {"conv": (3,), "dense": (1,), "attention": (2,)}),
        (0, {"conv": (0,), "dense": (0,), "attention": (0,)}),
        (np.int64(1), {"conv": (1,), "dense": (1,), "attention": (1,)}),
        ((0, 1), {"conv": (0, 1), "dense": (0, 1), "attention": (0, 1)}),
        ((), {"conv": (), "dense": (), "attention": ()}),
        (
            lambda path: (1, -1) if path[0].key == "attention" else -1,
            {"conv": (3,), "dense": (1,), "attention": (1, 2)},
        ),
    ],
    ids=["flax", "pytorch", "numpy integer", "two axes", "whole leaves", "by path"],
)
def test_every_filter_of_the_direction_gets_the_norm_of_the_parameters_filter(filter_axis, kept):
    params = parameters()
    raw = random_direction(KEY, params)
    direction = filter_normalize(raw, params, filter_axis=filter_axis)
    for name, axes in kept.items():
        np.testing.assert_allclose(norms(direction[name], axes), norms(params[name], axes), rtol=1e-5)
        # Each filter keeps its orientation: one positive factor per filter.
        factors = np.asarray(direction[name]) / np.asarray(raw[name])
        kept_axes = {axis % factors.ndim for axis in axes}
        spread = np.ptp(factors, axis=tuple(axis for axis in range(factors.ndim) if axis not in kept_axes))
        assert factors.min() > 0
        np.testing.assert_allclose(spread, 0, atol=1e-5 * factors.max())


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
    axis=st.integers(-4, 3),
    seed=st.integers(0, 2**32 - 1),
    zeroed=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_filter_norms_are_equal_for_any_shape_and_axis_and_zero_filters_stay_zero(shape, axis, seed, zeroed):
    axis = axis % len(shape)
    generator = np.random.default_rng(seed)
    raw, params = generator.normal(size=(2, *shape)).astype(np.float32)
    if zeroed:
        np.moveaxis(params, axis, 0)[0] = 0
    direction = filter_normalize(raw, params, filter_axis=axis)
    assert np.isfinite(direction).all()
    np.testing.assert_allclose(norms(direction, [axis]), norms(params, [axis]), rtol=1e-5)


def test_a_zero_filter_of_the_random_direction_stays_zero():
    direction = filter_normalize(jnp.array([[0.0, 1.0], [0.0, 0.0]]), jnp.ones((2, 2)))
    np.testing.assert_allclose(direction, [[0, np.sqrt(2)], [0, 0]], rtol=1e-6)


def test_leaves_of_one_dimension_do_not_move():
    params = parameters()
    direction = filter_normalize(random_direction(KEY, params), params)
    assert not direction["bias"].any()
    assert direction["temperature"] == 0


def test_leaves_of_one_dimension_are_one_filter_each_with_ignore_false():
    params = parameters()
    direction = filter_normalize(random_direction(KEY, params), params, ignore_1d=False)
    for name in ("bias", "temperature"):
        np.testing.assert_allclose(norms(direction[name], ()), norms(params[name], ()), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 2e-2), ("float16", 2e-3), ("float64", 1e-12)])
def test_the_dtype_is_kept_and_norms_are_accurate_to_its_precision(dtype, rtol):
    with jax.enable_x64(True):
        # 200 squared is out of the range of float16.
        params = {"kernel": jnp.full((3, 2), 200.0, dtype), "bias": jnp.ones(2, dtype)}
        grid = jump_grid(params, seeds=[0], step_sizes=np.array([1.0]))
        direction = filter_normalize(random_direction(KEY, params), params)
        for leaf in jax.tree.leaves((grid.params, direction)):
            assert leaf.dtype == dtype
        np.testing.assert_allclose(norms(direction["kernel"], [1]), norms(params["kernel"], [1]), rtol=rtol)


@pytest.mark.parametrize("factor", [4.0, 0.01])
def test_the_loss_along_the_direction_does_not_depend_on_how_a_relu_network_scales_its_layers(factor):
    # Li et al. 2018, section 4: f is the same function for (a W, V / a), and so is its picture.
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(20, 3)).astype(np.float32)
    params = {"first": jnp.array(generator.normal(size=(3, 8))), "second": jnp.array(generator.normal(size=(8, 2)))}
    scaled = {"first": params["first"] * factor, "second": params["second"] / factor}
    raw = random_direction(KEY, params)

    def curve(params):
        direction = filter_normalize(raw, params)
        moved = [jump(params, direction, step_size) for step_size in np.linspace(-1, 1, 5)]
        return [jnp.mean((jax.nn.relu(inputs @ p["first"]) @ p["second"] - 1) ** 2) for p in moved]

    np.testing.assert_allclose(curve(scaled), curve(params), rtol=1e-4)


# The jump.


def test_a_filter_normalized_distance_is_that_of_directions_in_the_norms_of_the_minimum():
    """Two filters of lengths 5 and 2, one turned by a right angle, one by 60 degrees; all else does not count."""
    minimum = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.array([1.0, 2.0])}
    turned = np.array([[-4.0, np.sin(np.pi / 3)], [3.0, np.cos(np.pi / 3)]])
    params = {"kernel": jnp.array(turned * [0.1, 70]), "bias": jnp.array([9.0, -2.0])}
    expected = np.sqrt(2 * 5**2 + 2**2)
    np.testing.assert_allclose(filter_normalized_distance(params, minimum), expected, rtol=1e-6)
    assert filter_normalized_distance(minimum, minimum) == 0
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, minimum)
    found = jax.vmap(filter_normalized_distance, (0, None))(stacked, minimum)
    np.testing.assert_allclose(found, [expected, 0], rtol=1e-6)


def test_a_filter_normalized_distance_sees_the_filters_of_the_axis_it_is_given():
    minimum, params = ({"w": jax.random.normal(jax.random.key(seed), (3, 4))} for seed in (0, 1))
    scaled = {"w": params["w"] * jnp.array([[0.5], [2.0], [7.0]])}
    kept, moved = (
        [float(filter_normalized_distance(each, minimum, filter_axis=axis)) for each in (params, scaled)]
        for axis in (0, 1)
    )
    assert kept[0] == pytest.approx(kept[1], rel=1e-6)
    assert moved[0] != pytest.approx(moved[1], rel=1e-2)


@pytest.mark.parametrize("minimum", [{"v": jnp.ones(2)}, {"w": jnp.ones(3)}])
def test_a_distance_from_another_kind_of_network_is_refused(minimum):
    with pytest.raises(ValueError, match=r"params and minimum must have the same"):
        filter_normalized_distance({"w": jnp.ones(2)}, minimum)


def test_a_jump_moves_by_the_step_size_times_the_direction():
    params, direction = parameters(0), parameters(1)
    landed = jump(params, direction, 0.25)
    for name in params:
        expected = np.asarray(params[name], np.float64) + 0.25 * np.asarray(direction[name], np.float64)
        np.testing.assert_allclose(landed[name], expected, rtol=1e-6, atol=1e-6)


def test_a_jump_may_be_compiled_over_its_step_size():
    params, direction = parameters(0), parameters(1)
    together = jax.vmap(lambda step_size: jump(params, direction, step_size))(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(together["conv"][1], jump(params, direction, 0.5)["conv"], rtol=1e-6)


@pytest.mark.parametrize("step_size", [float("nan"), np.inf, jnp.float32(np.nan)])
def test_a_step_size_that_is_not_finite_is_refused(step_size):
    with pytest.raises(ValueError, match=r"step_size must be a finite number, got (nan|inf)"):
        jump(parameters(), parameters(), step_size)


@pytest.mark.parametrize("step_size", ["abc", "1", None, True, 1j, jnp.ones(6), jnp.ones(1), [1.0]])
def test_a_step_size_that_is_no_number_is_refused(step_size):
    with pytest.raises(TypeError, match="step_size must be a number, got"):
        jump(parameters(), parameters(), step_size)


# The grid.


def test_the_grid_has_every_step_size_along_every_direction_seeds_outermost():
    grid = jump_grid(parameters(), seeds=[3, 1], step_sizes=[0.5, 1.0, 2.0])
    np.testing.assert_array_equal(grid.seed, [3, 3, 3, 1, 1, 1])
    np.testing.assert_array_equal(grid.step_size, [0.5, 1.0, 2.0] * 2)
    assert grid.step_size.dtype == np.float64
    assert grid.labels[4] == {"seed": 1, "step_size": 1.0}
    assert [type(value) for value in grid.labels[0].values()] == [int, float]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(grid.params)} == {6}


def test_the_papers_grid_is_five_seeds_and_four_step_sizes():
    grid = jump_grid(jnp.ones((2, 2)))
    assert [tuple(record.values()) for record in grid.labels] == [
        (seed, step_size) for seed in range(5) for step_size in (0.25, 0.5, 0.75, 1.0)
    ]


@pytest.mark.parametrize("ignore_1d", [True, False])
def test_every_member_is_the_minimum_plus_its_step_along_its_seeds_direction(ignore_1d):
    params = parameters()
    grid = jump_grid(params, seeds=[3, 1], step_sizes=[0.5, 2.0], filter_axis=0, ignore_1d=ignore_1d)
    for member, (seed, step_size) in enumerate(zip(grid.seed, grid.step_size, strict=True)):
        raw = random_direction(jax.random.key(seed), params)
        direction = filter_normalize(raw, params, filter_axis=0, ignore_1d=ignore_1d)
        for name in params:
            expected = np.float64(params[name]) + step_size * np.float64(direction[name])
            np.testing.assert_allclose(grid.params[name][member], expected, rtol=3e-7, atol=3e-7)


def test_the_copies_of_a_seed_depend_on_no_other_seed_or_step_size():
    alone = jump_grid(parameters(), seeds=[7], step_sizes=[0.5])
    among = jump_grid(parameters(), seeds=range(5, 9), step_sizes=[1.0, 0.5])
    for one, many in zip(jax.tree.leaves(alone.params), jax.tree.leaves(among.params), strict=True):
        np.testing.assert_array_equal(one[0], many[5])


def test_seeds_and_step_sizes_may_be_numpy_or_jax_arrays():
    grid = jump_grid(jnp.ones((2, 2)), seeds=jnp.arange(2), step_sizes=np.float32([0.5, 1.0]))
    assert grid.labels[1] == {"seed": 0, "step_size": 1.0}


def test_the_largest_seed_is_a_seed():
    grid = jump_grid(jnp.ones((2, 2)), seeds=[0, 2**32 - 1], step_sizes=[1.0])
    assert np.isfinite(grid.params).all()
    assert not np.array_equal(*grid.params)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [2**32]])
def test_seeds_that_are_repeated_or_out_of_range_are_refused(seeds):
    with pytest.raises(ValueError, match=r"seeds must be one or more distinct integers from 0 to 2\*\*32 - 1, got \["):
        jump_grid(parameters(), seeds=seeds)


@pytest.mark.parametrize("seeds", [[1.5], ["a"], [True], [None], np.array([0.0]), jnp.ones((2, 2), int), "01", 3])
def test_seeds_that_are_no_integers_are_refused(seeds):
    with pytest.raises(TypeError, match=r"seeds must be a (whole number|sequence of numbers), got"):
        jump_grid(parameters(), seeds=seeds)


@pytest.mark.parametrize("step_sizes", [[], [0.5, 0.5], [float("nan")], [np.inf]])
def test_step_sizes_that_are_repeated_or_not_finite_are_refused(step_sizes):
    with pytest.raises(ValueError, match=r"step_sizes must be one or more distinct finite numbers, got \["):
        jump_grid(parameters(), step_sizes=step_sizes)


@pytest.mark.parametrize("step_sizes", [["abc"], ["1"], [None], [1j], [True], np.ones((2, 2)), "12", 1.0, jnp.ones(())])
def test_step_sizes_that_are_no_numbers_are_refused(step_sizes):
    with pytest.raises(TypeError, match=r"step_sizes must be a (number|sequence of numbers), got"):
        jump_grid(parameters(), step_sizes=step_sizes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_minimum_that_is_not_finite_is_refused_by_the_leafs_name(value, dtype):
    params = {"dense": {"kernel": jnp.ones((2, 2), dtype).at[1, 0].set(value), "bias": jnp.ones(2)}}
    with pytest.raises(ValueError, match=r"params must be finite, got NaN or infinity at \['dense'\]\['kernel'\]"):
        jump_grid(params)


@pytest.mark.parametrize("params", [{}, [], None, {"a": {}}])
def test_a_grid_of_no_parameters_is_refused(params):
    with pytest.raises(ValueError, match="params must hold at least one array, got an empty pytree"):
        jump_grid(params)


# Keys and leaves.


@pytest.mark.parametrize("key", [3, None, "key", 1.5, jax.random.split(KEY, 2), jnp.zeros(2), np.zeros(3, np.uint32)])
def test_anything_but_one_prng_key_is_refused(key):
    with pytest.raises(TypeError, match=r"key must be a PRNG key, as from jax.random.key\(0\), got"):
        random_direction(key, parameters())


def test_a_legacy_key_gives_the_direction_of_the_typed_one():
    directions = (random_direction(key, parameters())["conv"] for key in (jax.random.PRNGKey(5), jax.random.key(5)))
    np.testing.assert_array_equal(*directions)


GOOD = jnp.ones((2, 2))
OTHER = [
    (np.ones((2, 2), np.int32), "int32"),
    (np.ones((2, 2), bool), "bool"),
    (np.ones((2, 2), np.complex64), "complex64"),
    (np.full((2, 2), "a"), "<U1"),
    (np.full((2, 2), None), "object"),
    (jax.random.split(KEY, (2, 2)), "key<fry>"),
]


@pytest.mark.parametrize(("leaf", "found"), OTHER, ids=[found for _, found in OTHER])
@pytest.mark.parametrize(
    "function",
    [
        lambda good, bad: random_direction(KEY, bad),
        lambda good, bad: filter_normalize(good, bad),
        lambda good, bad: filter_normalize(bad, good),
        lambda good, bad: filter_normalized_distance(good, bad),
        lambda good, bad: filter_normalized_distance(bad, good),
        lambda good, bad: jump(good, bad, 1.0),
        lambda good, bad: jump(bad, good, 1.0),
        lambda good, bad: jump_grid(bad),
    ],
)
def test_leaves_that_are_not_real_floating_point_numbers_are_refused_by_name(function, leaf, found):
    with pytest.raises(TypeError, match=rf"must hold arrays of real floating-point numbers, got {found} at \['bad'\]"):
        function({"a": GOOD, "bad": GOOD}, {"a": GOOD, "bad": leaf})


# What does not fit.


@pytest.mark.parametrize("function", [filter_normalize, lambda direction, params: jump(params, direction, 1.0)])
@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ({"a": jnp.ones((2, 3)), "c": jnp.ones(2)}, r"same structure, but \['b'\], \['c'\] differ"),
        ({"a": jnp.ones((2, 3))}, r"same structure, but \['b'\] differ"),
        ({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}, r"same shapes, got \(3,\) and \(2,\) at \['b'\]"),
    ],
)
def test_a_direction_of_another_structure_or_shape_is_refused_by_name(function, direction, message):
    with pytest.raises(ValueError, match=f"direction and params must have the {message}"):
        function(direction, {"a": jnp.ones((2, 3)), "b": jnp.ones(2)})


def test_containers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="same structure, but the containers differ"):
        jump((jnp.ones(2),), [jnp.ones(2)], 1.0)


@pytest.mark.parametrize("filter_axis", [4, -3, (0, 2)])
def test_a_filter_axis_out_of_range_is_refused_with_the_leafs_name(filter_axis):
    with pytest.raises(ValueError, match=r"out of range for the leaf \['dense'\] with 2 dimensions"):
        filter_normalize({"dense": jnp.ones((2, 3))}, {"dense": jnp.ones((2, 3))}, filter_axis=filter_axis)


@pytest.mark.parametrize("filter_axis", [None, "last", 1.5, True, (0, "1"), ((0,),), np.array([0.5]), {}])
def test_a_filter_axis_of_another_kind_is_refused(filter_axis):
    with pytest.raises(TypeError, match=r"filter_axis must be a whole number, a tuple of them, or a function .*, got"):
        filter_normalize({"bias": jnp.ones(2)}, {"bias": jnp.ones(2)}, filter_axis=filter_axis)


@pytest.mark.parametrize("answer", ["last", 1.5, True, (None,)])
def test_a_function_that_gives_no_axis_is_refused_with_the_leafs_name(answer):
    with pytest.raises(
        TypeError, match=rf"filter_axis must be .*, got {re.escape(repr(answer))} for the leaf \['dense'\]"
    ):
        jump_grid({"dense": jnp.ones((2, 3))}, filter_axis=lambda path: answer)
