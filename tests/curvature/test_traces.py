"""Traces are compared with exact ones, with a direct computation and with matfree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_curvature import dense_gauss_newton, dense_hessian, network_problem, parameters, quadratic, symmetric
from matfree import stochtrace

from jaxscape.curvature.traces import trace, xtrace_estimates

PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)
MATRIX = symmetric(60)
QUADRATIC, AT = quadratic(MATRIX), {"x": jnp.ones(60)}


@pytest.mark.parametrize(
    ("kind", "dense"), [("hessian", dense_hessian), ("gauss_newton", dense_gauss_newton)], ids=["hessian", "gn"]
)
@pytest.mark.parametrize("method", ["xtrace", "hutchinson"])
def test_the_trace_matches_that_of_the_dense_matrix(kind, dense, method):
    exact = np.trace(dense(PROBLEM, PARAMS, STATE))
    result = trace(PROBLEM, PARAMS, kind=kind, method=method, probes=13, model_state=STATE, dtype="float64")
    assert 0 < abs(result.value - exact) < 4 * result.standard_error
    small = trace(PROBLEM, PARAMS, kind=kind, method=method, probes=14, model_state=STATE)  # 28 parameters
    assert np.isclose(small.value, exact, rtol=1e-5)
    assert small.standard_error == 0


def test_hutchinson_is_the_mean_of_quadratic_forms_of_random_signs():
    result = trace(QUADRATIC, AT, method="hutchinson", probes=7, key=jax.random.key(5))
    signs = [jax.random.rademacher(jax.random.fold_in(jax.random.key(5), i), (1, 60), jnp.float32)[0] for i in range(7)]
    forms = [z @ MATRIX @ z for z in np.asarray(signs, np.float64)]
    assert np.isclose(result.value, np.mean(forms), rtol=1e-5)
    assert np.isclose(result.standard_error, np.std(forms, ddof=1) / np.sqrt(7), rtol=1e-4)


def test_xtrace_estimates_match_matfree(users_broadcast):  # matfree relies on rank promotion
    probes = np.random.default_rng(0).standard_normal((12, 60))
    basis, factor = np.linalg.qr(MATRIX @ probes.T)
    with jax.enable_x64(True):
        integrand = stochtrace.leave_one_out_xtrace()
        exact = np.asarray(integrand(lambda v: jnp.asarray(MATRIX) @ v, jnp.asarray(probes)))
    assert np.allclose(xtrace_estimates(probes.T, basis, factor, MATRIX @ basis), exact, rtol=1e-10)


def test_xtrace_is_exact_for_a_matrix_of_low_rank():
    low_rank = MATRIX[:, :4] @ MATRIX[:4] + MATRIX[:, :4] @ MATRIX[:4]
    low_rank = low_rank @ low_rank.T
    result = trace(quadratic(low_rank), AT, probes=10, dtype="float64")
    assert np.isclose(result.value, np.trace(low_rank), rtol=1e-9)


def test_traces_of_stacks_and_of_chosen_leaves():
    members = parameters(SHAPES, seed=3, leading=(3,))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), STATE)
    options = {"dtype": "float64", "leaves": ["first/*", "head/kernel"], "probes": 5}
    result = trace(PROBLEM, members, model_state=states, strategy="vmap:2", **options)
    alone = [
        trace(PROBLEM, jax.tree.map(lambda leaf, i=i: leaf[i], members), model_state=STATE, **options) for i in range(3)
    ]
    assert np.allclose(np.transpose(result), alone, rtol=1e-8)
    block = trace(PROBLEM, PARAMS, leaves="head/*", model_state=STATE, dtype="float64")
    assert np.isclose(block.value, np.trace(dense_hessian(PROBLEM, PARAMS, STATE)[-12:, -12:]), rtol=1e-10)


def test_invalid_options_are_rejected():
    with pytest.raises(ValueError, match="method must be one of xtrace, hutchinson, got 'power'"):
        trace(QUADRATIC, AT, method="power")
    with pytest.raises(ValueError, match="probes must be at least 2, got 1"):
        trace(QUADRATIC, AT, probes=1)
    with pytest.raises(ValueError, match="kind must be one of hessian, gauss_newton"):
        trace(QUADRATIC, AT, kind="fisher")
