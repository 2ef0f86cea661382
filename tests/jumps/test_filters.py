"""Which leaves of users' models are perturbed: biases by name and shape, masks, tied weights, rounding."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape.jumps.directions import filter_normalize, filter_normalized_distance, jump, jump_grid, random_direction
from jaxscape.problem import Problem
from jaxscape.tasks.models import WideResNet

KEY = jax.random.key(0)


class Layer(NamedTuple):
    """A layer whose key paths are attributes, as Equinox's are."""

    weight: jax.Array
    bias: jax.Array


def drawn(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(2.0, 3.0, shape), dtype)


def moving(params, **settings):
    """Return whether each leaf is perturbed."""
    direction = filter_normalize(random_direction(KEY, params), params, **settings)
    return jax.tree.map(lambda leaf: bool(np.any(leaf)), direction)


def last_name(path):
    return path[-1].key


# Biases and scales.


def test_the_biases_of_convolutions_and_attention_do_not_move_in_equinoxs_layout():
    params = {
        "conv1d": Layer(drawn((8, 3, 3)), drawn((8, 1))),
        "conv2d": Layer(drawn((8, 3, 3, 3)), drawn((8, 1, 1))),
        "conv3d": Layer(drawn((8, 3, 3, 3, 3)), drawn((8, 1, 1, 1))),
        "linear": Layer(drawn((1, 8)), drawn((1,))),
        "attention": Layer(drawn((4, 2, 3)), drawn((2, 3))),
    }
    assert moving(params, filter_axis=0) == dict.fromkeys(params, Layer(True, False))
    grid = jump_grid(params, seeds=[0], filter_axis=0).params
    for name, layer in params.items():
        np.testing.assert_array_equal(grid[name].bias, np.stack([layer.bias] * 4))


@pytest.mark.parametrize("name", ["kernel", "weight", "w", "W", "lora_a", "lora_b"])
@pytest.mark.parametrize("shape", [(64, 1), (1, 64), (1, 1, 8, 1), (1, 1, 1, 8), (1, 1)])
@pytest.mark.parametrize("filter_axis", [0, -1])
def test_a_leaf_named_as_a_weight_is_perturbed_whatever_its_shape(name, shape, filter_axis):
    assert moving({"dense": {name: drawn(shape)}}, filter_axis=filter_axis) == {"dense": {name: True}}


@pytest.mark.parametrize("shape", [(), (3,), (8, 1), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize(
    "path",
    [
        lambda leaf: {"bias": leaf},
        lambda leaf: {"Scale": leaf},
        lambda leaf: {"encoder.layer.0.bias": leaf},
        lambda leaf: {"encoder/norm/scale": leaf},
        lambda leaf: {"bias": [leaf]},
        lambda leaf: {"bias": {"value": leaf}},
    ],
)
def test_a_leaf_named_as_a_bias_or_a_scale_is_not_perturbed_whatever_its_shape(path, shape):
    params = {"kernel": drawn((2, 2)), "layer": path(drawn(shape))}
    assert jax.tree.leaves(moving(params)) == [True, False]


@pytest.mark.parametrize(
    ("shape", "filter_axis", "moves"),
    [
        ((8, 1, 1), 0, False),
        ((1, 1, 1, 8), -1, False),
        ((1, 8), -1, False),
        ((1, 1), -1, False),
        ((64, 1), -1, True),  # a dense kernel to one output, which nobody named
        ((1, 64), 0, True),
        ((1, 1, 4, 8), -1, True),
        ((2, 3), (0, 1), True),
        ((8,), 0, False),
    ],
)
def test_under_other_names_a_leaf_whose_filters_are_single_numbers_is_a_bias(shape, filter_axis, moves):
    for params in ({"b": drawn(shape)}, [drawn(shape)]):
        assert jax.tree.leaves(moving(params, filter_axis=filter_axis)) == [moves]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 3), (6,), ()])
def test_a_bias_is_one_filter_where_it_is_not_ignored(shape):
    params = {"bias": drawn(shape)}
    direction = filter_normalize(random_direction(KEY, params), params, ignore=False)
    np.testing.assert_allclose(np.linalg.norm(direction["bias"]), np.linalg.norm(params["bias"]), rtol=1e-5)
    former = filter_normalize(random_direction(KEY, params), params, ignore_1d=False)
    np.testing.assert_array_equal(former["bias"], direction["bias"])
    assert jump_grid(params, ignore=False).params["bias"].std(axis=0).all()


def test_ignore_and_its_former_name_must_not_contradict_each_other():
    params = {"kernel": drawn((2, 2))}
    for function in (
        lambda **settings: filter_normalize(params, params, **settings),
        lambda **s: jump_grid(params, **s),
    ):
        with pytest.raises(ValueError, match="ignore_1d is the former name of ignore"):
            function(ignore=False, ignore_1d=True)
        with pytest.raises(TypeError, match="ignore must be True or False, got 'biases'"):
            function(ignore="biases")
        with pytest.raises(TypeError, match="ignore_1d must be True or False, got 1"):
            function(ignore_1d=1)


def test_a_bias_counts_for_the_distance_only_where_it_is_not_ignored():
    minimum = {"conv": Layer(drawn((4, 2, 2)), drawn((4, 1)))}
    turned = {"conv": minimum["conv"]._replace(bias=minimum["conv"].bias[::-1])}
    assert filter_normalized_distance(turned, minimum, filter_axis=0) == 0
    expected = np.linalg.norm(turned["conv"].bias - minimum["conv"].bias)
    found = filter_normalized_distance(turned, minimum, filter_axis=0, ignore=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_built_in_network_is_perturbed_byte_for_byte_as_by_the_number_of_dimensions():
    """The code of Li et al. leaves out leaves with one dimension; here the names of the leaves give the same choice."""
    shapes = jax.eval_shape(WideResNet(10, 1, 10).init, KEY, jnp.zeros((1, 8, 8, 1)))["params"]
    params = jax.tree.map(lambda leaf: drawn(leaf.shape), shapes)
    grid = jump_grid(params, seeds=[5], step_sizes=[0.5])

    def by_dimensions(d, w):
        if w.ndim <= 1:
            return w
        have, want = (jnp.sqrt(jnp.sum(x * x, axis=tuple(range(w.ndim - 1)), keepdims=True)) for x in (d, w))
        return w + 0.5 * (d * (want / have))

    expected = jax.tree.map(by_dimensions, random_direction(jax.random.key(5), params), params)
    for one, other in zip(jax.tree.leaves(grid.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one[0], other)


# A choice for each leaf.


@pytest.mark.parametrize("answer", [None, "ignore"])
@pytest.mark.parametrize("ignore", [True, False])
def test_a_function_of_the_path_may_leave_a_leaf_unperturbed(answer, ignore):
    params = {name: drawn((3, 2)) for name in ("first", "head", "bias")}

    def filter_axis(path):
        return answer if last_name(path) in ("head", "bias") else -1

    settings = {"filter_axis": filter_axis, "ignore": ignore}
    assert moving(params, **settings) == {"first": True, "head": False, "bias": False}
    grid = jump_grid(params, seeds=[0], step_sizes=[1.0], **settings)
    np.testing.assert_array_equal(grid.params["head"][0], params["head"])
    scaled = {**params, "head": 2 * params["head"].T.reshape(3, 2)}
    assert filter_normalized_distance(scaled, params, **settings) == 0


def test_a_function_of_the_path_is_not_asked_about_what_is_ignored():
    axes = {"w": -1}
    params = {"w": drawn((3, 2)), "b": drawn((2,)), "bias": drawn((2, 3))}
    assert moving(params, filter_axis=lambda path: axes[last_name(path)]) == {"w": True, "b": False, "bias": False}


# Selection.

LAYERS = {"base": {"kernel": drawn((4, 3)), "bias": drawn((3,))}, "lora_a": drawn((4, 2)), "lora_b": drawn((2, 3), 1)}
MASK = {"base": {"kernel": False, "bias": False}, "lora_a": True, "lora_b": np.True_}


@pytest.mark.parametrize("where", [MASK, lambda path: path[0].key != "base"], ids=["mask", "function"])
def test_only_selected_leaves_are_perturbed_and_in_the_same_direction_as_without_a_selection(where):
    params = {**LAYERS, "base": {"kernel": LAYERS["base"]["kernel"] * -0.0, "bias": LAYERS["base"]["bias"]}}
    grid, whole = (jump_grid(params, seeds=[3, 1], where=each).params for each in (where, None))
    for name, leaf in params["base"].items():
        assert np.asarray(grid["base"][name]).tobytes() == np.stack([leaf] * 8).tobytes()
    for name in ("lora_a", "lora_b"):
        np.testing.assert_array_equal(grid[name], whole[name])
        assert (np.asarray(grid[name]) != np.asarray(params[name])).any(axis=(1, 2)).all()
    expected = {"base": {"kernel": False, "bias": False}, "lora_a": True, "lora_b": True}
    assert moving(LAYERS, where=where, ignore=False) == expected


def test_leaves_that_are_not_selected_are_not_checked():
    params = {"w": drawn((3, 2)), "mask": jnp.full((2, 2), -jnp.inf), "step": jnp.arange(3), "key": jax.random.key(7)}
    grid = jump_grid(params, seeds=[0], step_sizes=[1.0], where=lambda path: last_name(path) == "w")
    np.testing.assert_array_equal(grid.params["step"], [[0, 1, 2]])
    np.testing.assert_array_equal(grid.params["mask"][0], params["mask"])
    np.testing.assert_array_equal(jax.random.key_data(grid.params["key"])[0], jax.random.key_data(params["key"]))


@jax.tree_util.register_pytree_node_class
class CallableModel:
    """A callable model, as in Equinox, whose mask is callable too."""

    def __init__(self, weight, head):
        self.weight, self.head = weight, head

    def __call__(self, inputs):
        raise AssertionError("a mask is not called")

    def tree_flatten(self):
        return (self.weight, self.head), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_a_mask_may_be_a_callable_model():
    model = CallableModel(drawn((3, 2)), drawn((3, 2), 1))
    found = moving(model, where=CallableModel(True, False))
    assert (found.weight, found.head) == (True, False)
    Problem(lambda params, state, batch, key: None, jnp.ones(3), where=CallableModel(True, False))


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"w": True}, ValueError, r"where and params must have the same structure, but \['v'\] differ"),
        (True, ValueError, "where and params must have the same structure, but"),
        ({"w": True, "v": 1}, TypeError, r"where must be a pytree of True and False .* got 1 for the leaf \['v'\]"),
        (lambda path: "yes", TypeError, r"got 'yes' for the leaf \['v'\]"),
        (lambda path: None, TypeError, r"got None for the leaf \['v'\]"),
        ({"w": False, "v": False}, ValueError, r"selects none of \['v'\], \['w'\]"),
        (lambda path: False, ValueError, r"where must select at least one leaf, but .* none of \['v'\], \['w'\]"),
    ],
)
def test_a_selection_that_does_not_match_the_parameters_is_refused(where, error, message):
    params = {"w": drawn((3, 2)), "v": drawn((3, 2), 1)}
    for function in (lambda: filter_normalize(params, params, where=where), lambda: jump_grid(params, where=where)):
        with pytest.raises(error, match=message):
            function()


def test_a_problem_refuses_a_selection_that_takes_no_path():
    with pytest.raises(TypeError, match=r"where must be a function where\(path\) -> bool"):
        Problem(lambda params, state, batch, key: None, jnp.ones(3), where=lambda: True)


# Tied weights.


def test_tied_leaves_that_are_perturbed_are_refused_by_name():
    table = drawn((4, 3))
    params = {"embedding": table, "head": table, "kernel": drawn((3, 3))}
    message = r"one array in two leaves, but \['embedding'\] and \['head'\] are the same object and would not stay tied"
    for settings in ({}, {"where": lambda path: last_name(path) == "head"}):
        with pytest.raises(ValueError, match=message):
            jump_grid(params, **settings)
        with pytest.raises(ValueError, match=message):
            filter_normalize(random_direction(KEY, params), params, **settings)
    with pytest.raises(ValueError, match=message):
        jump(params, random_direction(KEY, params), 0.5)


def test_tied_leaves_that_are_not_perturbed_are_accepted():
    zeros, table = jnp.zeros(3), drawn((4, 3))
    params = {"a": {"bias": zeros}, "b": {"bias": zeros}, "embedding": table, "head": table, "kernel": drawn((3, 3))}
    grid = jump_grid(params, where=lambda path: last_name(path) in ("kernel", "bias")).params
    np.testing.assert_array_equal(grid["embedding"], grid["head"])
    direction = {**jax.tree.map(jnp.ones_like, params), "kernel": drawn((3, 3), 2)}
    landed = jump(params, direction, 0.5)
    np.testing.assert_array_equal(landed["embedding"], landed["head"])


# Types.


@pytest.mark.parametrize(
    ("leaf", "way_out"),
    [
        (np.ones((2, 2), np.int32), "leave it out: keep what is not trained in model_state, or split the model"),
        (np.ones((2, 2), bool), "leave it out"),
        (jax.random.split(KEY, (2, 2)), "leave it out"),
        (np.ones((2, 2), np.complex64), "keep a complex array as two real ones"),
    ],
)
def test_a_leaf_of_another_type_is_refused_with_a_suggestion(leaf, way_out):
    with pytest.raises(TypeError, match=rf"params must hold .* at \['bad'\]; {way_out}"):
        jump_grid({"w": drawn((2, 2)), "bad": leaf})


@pytest.mark.parametrize(("dtype", "step_size"), [("bfloat16", 1e-3), ("float16", 1e-4), ("float32", 1e-8)])
def test_a_step_lost_in_rounding_is_warned_about_with_the_fraction_of_unchanged_parameters(dtype, step_size):
    params = {"kernel": drawn((200, 50), dtype=dtype), "bias": drawn((50,), dtype=dtype)}
    with pytest.warns(UserWarning, match=f"lost in the rounding of {dtype}; give params of a wider dtype") as caught:
        grid = jump_grid(params, seeds=[0, 1], step_sizes=[0.5, step_size, -1.0, 0.0])
    assert len(caught) == 1
    stayed = (np.asarray(grid.params["kernel"]) == np.asarray(params["kernel"]))[[1, 5]]
    assert f"at {step_size} {float(stayed.mean()):.0%} of the parameters" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_the_fraction_of_normal_weights_unchanged_in_bfloat16_is_the_one_that_rounding_predicts():
    """|d / w| is Cauchy; a step is lost below half of bfloat16's spacing, 2**-9 to 2**-8 of a weight."""
    params = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((300, 100)), jnp.bfloat16)}
    with pytest.warns(UserWarning, match="at 0.001 (7[5-9]|80)% of the parameters"):
        jump_grid(params, seeds=[0], step_sizes=[0.001])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_papers_steps_survive_rounding_in_every_dtype_without_a_warning(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jump_grid({"kernel": drawn((200, 50), dtype=dtype)})
        jump_grid({"kernel": jnp.zeros((20, 5), dtype)}, step_sizes=[1e-3, 0.0])  # nothing is to move


def test_rounding_is_judged_in_the_dtype_in_which_the_step_is_taken():
    """NumPy's float64 becomes float32 where JAX has no float64."""
    with pytest.warns(UserWarning, match="100% of the parameters .* lost in the rounding of float32"):
        jump_grid({"kernel": np.random.default_rng(0).standard_normal((40, 5))}, seeds=[0], step_sizes=[1e-12, 0.0])


def test_a_grid_may_be_compiled():
    params = {"kernel": drawn((20, 5)), "bias": drawn((5,))}
    expected = jump_grid(params, seeds=[0]).params
    for compiled in (
        jax.jit(lambda: jump_grid(params, seeds=[0]).params)(),
        jax.jit(lambda p: jump_grid(p, seeds=[0]).params)(params),
    ):
        for name in params:
            np.testing.assert_allclose(compiled[name], expected[name], rtol=1e-6, atol=1e-6)
