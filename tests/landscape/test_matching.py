"""Matched units are compared with an exhaustive search, and networks keep their functions."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape.landscape.matching import array_names, match_units, permute_units
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.models import WideResNet, wide_resnet_axes

KEY = jax.random.key(0)
AXES = {
    "0/kernel": (None, "first"),
    "0/bias": ("first",),
    "1/kernel": ("first", "second"),
    "1/bias": ("second",),
    "2/kernel": ("second", None),
}


def mlp(generator, width, draw=None):
    """Return the parameters of a network with two hidden layers, in float64."""
    draw = draw or generator.standard_normal
    sizes = [3, width, width, 2]
    return {
        str(layer): {"kernel": draw(size=sizes[layer : layer + 2]), "bias": draw(size=sizes[layer + 1])}
        for layer in range(3)
    }


def outputs(params, x):
    for layer in ("0", "1"):
        x = np.maximum(x @ params[layer]["kernel"] + params[layer]["bias"], 0)
    return x @ params["2"]["kernel"] + params["2"]["bias"]


def squared_distance(a, b):
    return sum(((x - y) ** 2).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def permuted_by_hand(params, first, second):
    """Return the permuted network, written out by hand."""
    return {
        "0": {"kernel": params["0"]["kernel"][:, first], "bias": params["0"]["bias"][first]},
        "1": {"kernel": params["1"]["kernel"][first][:, second], "bias": params["1"]["bias"][second]},
        "2": {"kernel": params["2"]["kernel"][second], "bias": params["2"]["bias"]},
    }


def least_distance(a, b, width):
    """Return the least squared distance over all permutations of both layers."""
    orders = [list(order) for order in itertools.permutations(range(width))]
    return min(squared_distance(a, permuted_by_hand(b, *both)) for both in itertools.product(orders, orders))


def random_pairs(width, count):
    generator = np.random.default_rng(width)
    return [(mlp(generator, width), mlp(generator, width)) for _ in range(count)]


# With its default restarts, coordinate descent finds the optimum for 99 (3 units) and 96 (4 units) of 100 pairs; from
# the original order alone, for 80 and 55.
@pytest.mark.parametrize(("width", "count", "expected"), [(3, 100, 95), (4, 20, 18)])
def test_matching_mostly_finds_the_optimum_of_an_exhaustive_search(width, count, expected):
    optimal = 0
    for number, (a, b) in enumerate(random_pairs(width, count)):
        least = least_distance(a, b, width)
        matching = match_units(a, b, AXES, key=jax.random.key(number))
        assert matching.converged
        assert least - 1e-9 <= matching.squared_distance <= matching.squared_distance_before
        assert matching.squared_distance == pytest.approx(squared_distance(a, matching.params))
        assert matching.squared_distance_before == pytest.approx(squared_distance(a, b))
        optimal += matching.squared_distance <= least + 1e-9
    assert optimal >= expected


@pytest.mark.parametrize("width", [3, 4, 20])
def test_an_applied_permutation_is_recovered(width):
    for seed in range(20):
        generator = np.random.default_rng(seed)
        a = mlp(generator, width)
        orders = {name: generator.permutation(width) for name in ("first", "second")}
        b, _ = permute_units(a, AXES, orders)
        matching = match_units(a, b, AXES, key=jax.random.key(seed))
        assert matching.squared_distance == 0
        for name, order in orders.items():
            assert np.array_equal(order[matching.permutations[name]], np.arange(width))


def test_permuted_units_match_a_permutation_by_hand():
    generator = np.random.default_rng(0)
    params = mlp(generator, 4)
    orders = {"first": [2, 0, 3, 1], "second": [3, 1, 0, 2]}
    permuted, nothing = permute_units(params, AXES, orders)
    assert nothing is None
    assert squared_distance(permuted, permuted_by_hand(params, *orders.values())) == 0
    jitted, _ = jax.jit(lambda params: permute_units(params, AXES, orders))(params)
    assert squared_distance(jax.tree.map(np.float32, permuted), jitted) == 0


def test_matching_keeps_the_function_bitwise_on_integers():
    generator = np.random.default_rng(0)
    params = mlp(generator, 4, draw=lambda size: generator.integers(-3, 4, size).astype(float))
    other = mlp(generator, 4, draw=lambda size: generator.integers(-3, 4, size).astype(float))
    x = generator.integers(-5, 6, (10, 3)).astype(float)
    matching = match_units(other, params, AXES, key=KEY)
    assert any((order != np.arange(4)).any() for order in matching.permutations.values())
    assert np.array_equal(outputs(matching.params, x), outputs(params, x))
    assert not np.array_equal(outputs(other, x), outputs(params, x))


def test_the_same_key_gives_the_same_matching():
    ((a, b),) = random_pairs(20, 1)
    first, again = (match_units(a, b, AXES, key=jax.random.key(5)) for _ in range(2))
    assert first.permutations.keys() == again.permutations.keys()
    for name, order in first.permutations.items():
        assert np.array_equal(order, again.permutations[name])
    assert first[3:] == again[3:]


def test_equal_units_are_not_permuted():
    params = jax.tree.map(np.ones_like, mlp(np.random.default_rng(0), 4))
    matching = match_units(params, params, AXES, key=KEY)
    assert all(np.array_equal(order, np.arange(4)) for order in matching.permutations.values())
    assert matching.start == 0


def test_a_permutation_on_two_axes_of_one_array_never_increases_the_distance():
    axes = {"in": (None, "units"), "recurrent": ("units", "units")}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        draw = generator.standard_normal
        a, b = ({"in": draw((2, 4)), "recurrent": draw((4, 4))} for _ in range(2))
        matching = match_units(a, b, axes, key=jax.random.key(seed))
        orders = [list(order) for order in itertools.permutations(range(4))]
        by_hand = [squared_distance(a, {"in": b["in"][:, o], "recurrent": b["recurrent"][o][:, o]}) for o in orders]
        assert min(by_hand) - 1e-9 <= matching.squared_distance <= matching.squared_distance_before
        assert np.isclose(by_hand, matching.squared_distance).any()


def test_max_sweeps_ends_the_descent():
    ((a, b),) = random_pairs(20, 1)
    assert not match_units(a, b, AXES, key=KEY, restarts=0, max_sweeps=1).converged
    assert match_units(a, b, AXES, key=KEY, restarts=0).converged


# The built-in network.


def distinct_channels(module, seed):
    """Return random parameters and statistics in which no two channels are equal."""
    generator = np.random.default_rng(seed)
    variables = jax.eval_shape(module.init, KEY, jnp.zeros((1, 8, 8, 1)))
    draw = jax.tree.map(lambda leaf: generator.uniform(0.1, 0.3, leaf.shape).astype(np.float32), variables)
    signs = jax.tree.map(lambda leaf: generator.choice([-1, 1], leaf.shape).astype(np.float32), variables["params"])
    return jax.tree.map(np.multiply, draw["params"], signs), {"batch_stats": draw["batch_stats"]}


@pytest.mark.parametrize(("depth", "width", "orders"), [(10, 1, 6), (10, 2, 7), (16, 1, 9)])
def test_permuting_a_wide_resnet_keeps_its_function(depth, width, orders):
    module = WideResNet(depth, width, 3)
    params, model_state = distinct_channels(module, 0)
    axes = wide_resnet_axes(params, model_state)
    named = {*array_names(params), *array_names(model_state)}
    assert {*axes} == named - {"head/bias"}
    sizes = {name: size for key, entry in axes.items() for name, size in axis_sizes(params, model_state, key, entry)}
    assert len(sizes) == orders
    generator = np.random.default_rng(1)
    permutations = {name: generator.permutation(size) for name, size in sizes.items()}
    permuted_network = permute_units(params, axes, permutations, model_state=model_state)
    images = generator.standard_normal((4, 8, 8, 1)).astype(np.float32)

    @jax.jit
    def logits(params, model_state):
        with jax.numpy_rank_promotion("allow"):
            return module.apply({"params": params, **model_state}, images)

    before, after = logits(params, model_state), logits(*permuted_network)
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * np.abs(before).max())
    # With unpermuted statistics the function is different.
    assert np.abs(logits(permuted_network[0], model_state) - before).max() > 1e-2 * np.abs(before).max()
    matching = match_units(params, permuted_network[0], axes, key=KEY, model_state=permuted_network[1], restarts=1)
    assert matching.squared_distance == 0 < matching.squared_distance_before
    assert squared_distance(matching.model_state, model_state) == 0


def axis_sizes(params, model_state, name, entry):
    leaves = dict(zip(array_names(params), jax.tree.leaves(params), strict=True))
    leaves |= dict(zip(array_names(model_state), jax.tree.leaves(model_state), strict=True))
    return [(acting, size) for acting, size in zip(entry, leaves[name].shape, strict=True) if acting is not None]


def test_axes_of_a_wide_resnet_with_ten_blocks_per_group_follow_the_residual_stream():
    params = jax.eval_shape(WideResNet(64, 1, 3).init, KEY, jnp.zeros((1, 8, 8, 1)))["params"]
    axes = wide_resnet_axes(params)
    assert {*axes} == {*array_names(params)} - {"head/bias"}
    assert axes["group1_block10/conv2/kernel"] == (None, None, "group1_block10", "stem")
    assert axes["group2_block1/conv1/kernel"] == (None, None, "stem", "group2_block1")
    assert axes["group2_block10/norm1/scale"] == ("group2_block1/shortcut",)
    assert axes["head/kernel"] == ("group3_block1/shortcut", None)


def test_wide_resnet_axes_rejects_other_networks():
    with pytest.raises(ValueError, match="params must be those of a WideResNet"):
        wide_resnet_axes({"dense": {"kernel": np.zeros((2, 2))}})


def test_an_equinox_model_is_matched_by_patterns():
    def model(seed):
        problem = equinox_problem(
            eqx.nn.MLP(4, 3, width_size=8, depth=1, key=jax.random.key(seed)),
            (np.zeros((2, 4), np.float32), np.zeros(2, np.int32)),
            loss=lambda model, batch, key: jax.vmap(model)(batch[0]).sum(),
        )
        return problem.init(KEY)[0], problem.loss_fn.merge

    (a, _), (b, merge) = model(0), model(1)
    axes = {"*0/weight": ("units", None), "*0/bias": ("units",), "*1/weight": (None, "units")}
    matching = match_units(a, b, axes, key=KEY)
    assert matching.squared_distance < matching.squared_distance_before
    x = np.arange(4.0, dtype=np.float32)
    np.testing.assert_allclose(merge(matching.params, {})(x), merge(b, {})(x), rtol=1e-5)


# Invalid arguments.


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({**AXES, "3/kernel": (None, "first")}, "axes name '3/kernel', which matches no array; there are 0/bias, "),
        ({**AXES, "*/scale": ("first",)}, r"axes name '\*/scale', which matches no array"),
        ({**AXES, "0/kernel": (None, None, "first")}, r"one entry for each axis of '0/kernel' of shape \(3, 4\)"),
        ({**AXES, "0/kernel": ("first", None)}, "axes give 'first' 4 units in '0/bias' and 3 in '0/kernel'"),
        ({"*/bias": (None,), "0/*": ("first",)}, r"'\*/bias' and '0/\*' both match '0/bias'"),
        ({"0/bias": "first"}, "axes must give a name or None for each axis of '0/bias', got 'first'"),
        ({"0/bias": None}, "axes must give a name or None for each axis of '0/bias', got None"),
        ({"0/bias": (None,)}, "axes must name at least one permutation"),
        ({}, "axes must map names of arrays"),
    ],
)
def test_invalid_axes_are_rejected(axes, message):
    params = mlp(np.random.default_rng(0), 4)
    with pytest.raises(ValueError, match=message):
        match_units(params, params, axes, key=KEY)


def test_a_permutation_of_the_model_state_alone_is_rejected():
    params, state = mlp(np.random.default_rng(0), 4), {"mean": np.arange(3.0)}
    with pytest.raises(ValueError, match="axes must let 'norm' act on an array of params"):
        match_units(params, params, {**AXES, "mean": ("norm",)}, key=KEY, model_state=state)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"restarts": -1}, ValueError, "restarts must be at least 0, got -1"),
        ({"max_sweeps": 0}, ValueError, "max_sweeps must be at least 1, got 0"),
        ({"key": 3}, TypeError, "key must be a PRNG key"),
        ({"b": mlp(np.random.default_rng(0), 3)}, ValueError, "b and a must have the same shapes"),
        ({"a": mlp(None, 4, draw=lambda size: np.full(size, np.nan))}, ValueError, "a must be finite, got NaN"),
    ],
)
def test_other_invalid_arguments_are_rejected(changed, error, message):
    params = mlp(np.random.default_rng(0), 4)
    with pytest.raises(error, match=message):
        match_units(**{"a": params, "b": params, "axes": AXES, "key": KEY, **changed})


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        ({"first": [0, 1, 2, 3]}, "permutations must have 'second', got 'first'"),
        ({"first": [0, 1, 2, 2], "second": [0, 1, 2, 3]}, r"must order the 4 units of 'first', got \[0 1 2 2\]"),
        ({"first": [0, 1, 2], "second": [0, 1, 2, 3]}, r"must order the 4 units of 'first', got \[0 1 2\]"),
    ],
)
def test_invalid_permutations_are_rejected(orders, message):
    with pytest.raises(ValueError, match=message):
        permute_units(mlp(np.random.default_rng(0), 4), AXES, orders)


def test_a_name_takes_precedence_over_a_pattern():
    module = nn.Dense(2)
    params = module.init(KEY, np.zeros((1, 3), np.float32))["params"]
    permuted, _ = permute_units(params, {"*": (None, "out"), "bias": ("out",)}, {"out": [1, 0]})
    assert np.array_equal(permuted["kernel"], params["kernel"][:, ::-1])
