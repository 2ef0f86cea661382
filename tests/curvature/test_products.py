"""Products with the Hessian and the Gauss-Newton matrix are compared with dense float64 matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_curvature import (
    dense_gauss_newton,
    dense_hessian,
    flatten,
    network_problem,
    parameters,
    quadratic,
    symmetric,
)

from jaxscape.curvature.points import points
from jaxscape.curvature.products import gauss_newton, hessian, hvp, products_together
from jaxscape.problem import Problem

PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)
VECTOR = parameters(SHAPES, seed=1)
ROUNDING = {"float32": 3e-6, "float64": 1e-13}


@pytest.fixture(scope="module")
def dense():
    return dense_hessian(PROBLEM, PARAMS, STATE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["evaluate", "train"])
def test_hessian_products_match_the_dense_hessian(dense, dtype, mode):
    product = hvp(PROBLEM, PARAMS, VECTOR, model_state=STATE, dtype=dtype, mode=mode, batch_size=10)
    exact = dense @ flatten(VECTOR)
    assert np.linalg.norm(flatten(product) - exact) <= ROUNDING[dtype] * np.linalg.norm(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(product)} == {np.dtype(dtype)}
    assert jax.tree.structure(product) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gauss_newton_products_match_the_dense_matrix(dtype):
    operator = gauss_newton(PROBLEM, PARAMS, model_state=STATE, dtype=dtype, batch_size=10)
    exact = dense_gauss_newton(PROBLEM, PARAMS, STATE) @ flatten(VECTOR)
    result = flatten(operator.matvec(VECTOR))
    assert np.linalg.norm(result - exact) <= ROUNDING[dtype] * np.linalg.norm(exact)
    assert operator.dimension == len(exact) == 28


def test_the_test_set_or_the_first_examples_can_be_selected():
    for options, data in (({"split": "test"}, PROBLEM.test_data), ({"examples": 7}, PROBLEM.test_data)):
        product = hvp(PROBLEM, PARAMS, VECTOR, model_state=STATE, dtype="float64", batch_size=4, **options)
        exact = dense_hessian(PROBLEM, PARAMS, STATE, data) @ flatten(VECTOR)
        assert np.allclose(flatten(product), exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "leaves",
    [
        ["first/bias", "head/*"],
        {"first": {"kernel": False, "bias": True}, "head": {"kernel": True}},
        lambda path: "first" not in str(path) or "bias" in str(path),
    ],
    ids=["names", "mask", "function"],
)
def test_products_with_chosen_leaves_match_their_diagonal_block(dense, leaves):
    operator = hessian(PROBLEM, PARAMS, model_state=STATE, dtype="float64", leaves=leaves)
    chosen = flatten({"first": {"kernel": np.zeros((3, 4)), "bias": np.ones(4)}, "head": {"kernel": np.ones((4, 3))}})
    exact = chosen * (dense @ (chosen * flatten(VECTOR)))
    assert np.allclose(flatten(operator.matvec(VECTOR)), exact, rtol=1e-11, atol=1e-13)
    assert operator.dimension == 16


@pytest.mark.parametrize("matrix", [hessian, gauss_newton])
def test_products_with_several_vectors_match_those_with_each(matrix):
    vectors = parameters(SHAPES, seed=2, leading=(6,))
    operator = matrix(PROBLEM, PARAMS, model_state=STATE, batch_size=10)
    result = operator.matvecs(vectors)
    alone = [operator.matvec(jax.tree.map(lambda leaf, i=i: leaf[i], vectors)) for i in range(6)]
    assert np.allclose(flatten(result, 1), [flatten(each) for each in alone], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_several_vectors_in_one_program_give_the_same_products(kind):
    at = points(PROBLEM, PARAMS, {"model_state": STATE, "batch_size": 10})
    vectors = at.layout.flatten(parameters(SHAPES, seed=2, leading=(6,)), leading_axes=1)[None]
    operator = {"hessian": hessian, "gauss_newton": gauss_newton}[kind](PROBLEM, PARAMS, model_state=STATE)
    exact = flatten(operator.matvecs(at.layout.unflatten(vectors[0])), 1)
    assert np.allclose(products_together(at.groups[0], kind, vectors)[0], exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "strategy"),
    [
        ("float64", "loop"),
        ("float32", "threads:2"),
        ("float64", "vmap"),
        ("float32", "vmap:2"),
        pytest.param("float32", "loop", marks=pytest.mark.slow),
        pytest.param("float64", "threads:2", marks=pytest.mark.slow),
        pytest.param("float32", "vmap", marks=pytest.mark.slow),
        pytest.param("float64", "vmap:2", marks=pytest.mark.slow),
    ],
)
def test_products_of_a_stack_match_those_of_its_members(strategy, dtype):
    members, vectors = (parameters(SHAPES, seed=seed, leading=(3,)) for seed in (3, 4))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, 3 * leaf]), STATE)
    result = hvp(PROBLEM, members, vectors, model_state=states, strategy=strategy, dtype=dtype, batch_size=10)
    for member in range(3):
        one = [jax.tree.map(lambda leaf, i=member: leaf[i], tree) for tree in (members, vectors, states)]
        alone = hvp(PROBLEM, *one[:2], model_state=one[2], dtype=dtype, batch_size=10)
        of_member = jax.tree.map(lambda leaf, i=member: leaf[i], result)
        assert np.allclose(flatten(of_member), flatten(alone), rtol=0, atol=10 * ROUNDING[dtype])


def test_the_hessian_of_a_quadratic_is_its_matrix():
    matrix = symmetric(8)
    operator = hessian(quadratic(matrix), {"x": jnp.arange(8.0)}, dtype="float64")
    assert np.allclose(operator.matvecs({"x": np.eye(8)})["x"], matrix, rtol=0, atol=1e-13)


def test_a_loss_that_rounds_to_float32_is_rejected_in_float64():
    def loss_fn(params, model_state, batch, key):
        return jnp.sum(jnp.tanh(params.astype(jnp.float32))).astype(jnp.float64), (model_state, {})

    with jax.enable_x64(True), pytest.raises(ValueError, match="this one rounds to float32"):
        hessian(Problem(loss_fn, jnp.zeros((2, 1))), jnp.ones(3), dtype="float64")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"strategy": "grad_vmap"}, "unknown strategy 'grad_vmap'; known: loop, threads, vmap"),
        ({"strategy": "vmap:0"}, "the number of members at once must be a whole number of at least 1, got 'vmap:0'"),
        ({"leaves": "tail/*"}, "leaves: 'tail/\\*' is the name of no array"),
        ({"mode": "test"}, "mode must be one of evaluate, train"),
        ({"split": "valid"}, "split must be one of train, test"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        hessian(PROBLEM, PARAMS, **{"model_state": STATE} | options)


def test_invalid_vectors_and_parameters_are_rejected():
    operator = hessian(PROBLEM, PARAMS, model_state=STATE)
    with pytest.raises(ValueError, match="vector must have the structure of params"):
        operator.matvec({"first": VECTOR["first"]})
    with pytest.raises(
        ValueError, match=r"vector must have the shape \(4, 3\) at \['head'\]\['kernel'\], got \(3, 4\)"
    ):
        operator.matvec(VECTOR | {"head": {"kernel": np.zeros((3, 4))}})
    with pytest.raises(ValueError, match=r"vectors must have the shape \(n, 4\)"):
        operator.matvecs(VECTOR)
    with pytest.raises(ValueError, match="params must be finite"):
        hessian(PROBLEM, jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS))
    with pytest.raises(TypeError, match="unknown options speed; the options of the loss are model_state"):
        hessian(PROBLEM, PARAMS, speed=1)
    with pytest.raises(ValueError, match="needs mode 'evaluate', got 'train'"):
        gauss_newton(PROBLEM, PARAMS, mode="train")
    with pytest.raises(ValueError, match="model_state must be a stack of 2 members like params, got 4"):
        hessian(PROBLEM, parameters(SHAPES, leading=(2,)), model_state=STATE, strategy="loop")
