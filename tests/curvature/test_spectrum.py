"""Eigenvalues, eigenvectors and densities are compared with dense matrices and matfree."""

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
from matfree import decomp

from jaxscape.curvature.points import points
from jaxscape.curvature.spectrum import hessian_spectrum, lanczos, spectral_density
from jaxscape.problem import Problem

PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)
MATRIX = symmetric(40)
QUADRATIC, AT = quadratic(MATRIX), {"x": jnp.ones(40)}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 3e-6), ("float64", 1e-12)])
@pytest.mark.parametrize(
    ("kind", "dense"), [("hessian", dense_hessian), ("gauss_newton", dense_gauss_newton)], ids=["hessian", "gn"]
)
def test_eigenpairs_match_those_of_the_dense_matrix(kind, dense, dtype, error):
    result = hessian_spectrum(PROBLEM, PARAMS, k=3, lowest=2, kind=kind, dtype=dtype, model_state=STATE, batch_size=10)
    matrix = dense(PROBLEM, PARAMS, STATE)
    exact = np.linalg.eigvalsh(matrix)
    scale = np.abs(exact).max()
    assert np.allclose(result.eigenvalues, exact[::-1][:3], rtol=0, atol=error * scale)
    assert np.allclose(result.lowest.values, exact[:2], rtol=0, atol=error * scale)
    vectors = flatten(result.eigenvectors, 1)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=error)
    residuals = np.linalg.norm(vectors @ matrix - result.eigenvalues[:, None] * vectors, axis=1)
    assert np.allclose(result.residuals, residuals, rtol=0, atol=2 * error * scale)
    assert result.residuals.max() <= 2 * error * scale


def test_the_spectrum_of_chosen_leaves_is_that_of_their_diagonal_block():
    result = hessian_spectrum(PROBLEM, PARAMS, k=3, leaves="head/kernel", dtype="float64", model_state=STATE)
    block = dense_hessian(PROBLEM, PARAMS, STATE)[-12:, -12:]
    assert np.allclose(result.eigenvalues, np.linalg.eigvalsh(block)[::-1][:3], rtol=0, atol=1e-12)
    assert not np.any(result.eigenvectors["first"]["kernel"])
    assert result.dimension == 12


def test_lanczos_stops_at_convergence_and_residuals_bound_the_errors():
    exact = np.linalg.eigvalsh(MATRIX)
    result = hessian_spectrum(QUADRATIC, AT, k=3, lowest=1, probes=0, tolerance=1e-2, num_steps=40, dtype="float64")
    assert 5 < result.steps < 30
    assert result.density is None
    errors = np.abs(result.eigenvalues - exact[::-1][:3])
    assert np.all(errors <= result.residuals + 1e-13)
    assert 0 < result.residuals.max() <= 1e-2 * 9
    closer = hessian_spectrum(QUADRATIC, AT, k=3, lowest=1, probes=0, tolerance=1e-8, num_steps=40, dtype="float64")
    assert closer.steps > result.steps


def test_pairs_that_have_not_converged_give_a_warning():
    with pytest.warns(UserWarning, match="num_steps: after 5 steps an eigenpair has a residual of .* above the toler"):
        hessian_spectrum(QUADRATIC, AT, k=3, num_steps=5)


def test_repeated_eigenvalues_of_a_small_matrix_are_all_found():
    problem = quadratic(np.diag([2.0, 2.0, 2.0, 1.0, 1.0]))
    result = hessian_spectrum(problem, {"x": jnp.zeros(5)}, k=4, lowest=1, dtype="float64")
    assert np.allclose(result.eigenvalues, [2, 2, 2, 1])
    assert np.allclose(result.lowest.values, [1])
    zero = hessian_spectrum(quadratic(np.zeros((4, 4))), {"x": jnp.ones(4)}, k=1)
    assert zero.eigenvalues == 0
    assert zero.residuals == 0


def test_a_lanczos_run_matches_matfree():
    with jax.enable_x64(True):
        point = points(QUADRATIC, AT, {"dtype": "float64"}).groups[0]
        run = lanczos(point, "hessian", jax.random.key(3), 12)
        start = jax.random.normal(jax.random.key(3), (40,), jnp.float32).astype(float)
        tridiagonal = decomp.tridiag_sym(12, reortho="full")(lambda v: jnp.asarray(MATRIX) @ v, start).J_small
        exact = np.asarray(tridiagonal)
    assert np.allclose(run.diagonal[0], np.diagonal(exact), rtol=0, atol=1e-11)
    assert np.allclose(run.off_diagonal[0, :-1], np.diagonal(exact, 1), rtol=0, atol=1e-11)
    basis = np.asarray(run.basis[0])
    assert np.allclose(basis @ basis.T, np.eye(12), rtol=0, atol=1e-14)


def test_the_quadrature_has_the_moments_of_the_spectral_measure():
    result = hessian_spectrum(QUADRATIC, AT, k=1, num_steps=10, probes=4, dtype="float64", tolerance=1.0)
    assert result.ritz_values.shape == result.weights.shape == (4, 10)
    for probe in range(4):
        start = jax.random.normal(jax.random.fold_in(jax.random.key(0), probe), (40,), jnp.float32)
        start = np.asarray(start, np.float64)
        start = start / np.linalg.norm(start)
        for power in range(6):  # a quadrature of m nodes is exact up to degree 2 m - 1
            exact = start @ np.linalg.matrix_power(MATRIX, power) @ start
            assert np.isclose(result.weights[probe] @ result.ritz_values[probe] ** power, exact, rtol=1e-10, atol=1e-12)


def test_the_density_with_all_steps_matches_the_eigenvalues():
    matrix = symmetric(10)
    result = hessian_spectrum(
        quadratic(matrix), {"x": jnp.ones(10)}, k=1, num_steps=10, probes=200, width=1.0, dtype="float64"
    )
    exact = np.linalg.eigvalsh(matrix)
    gaussians = np.exp(-0.5 * (result.density.grid[:, None] - exact) ** 2).mean(axis=1) / np.sqrt(2 * np.pi)
    assert np.abs(result.density.values - gaussians).max() < 0.05 * gaussians.max()
    assert np.isclose(np.trapezoid(result.density.values, result.density.grid), 1, atol=1e-3)
    again = spectral_density(result.ritz_values, result.weights, width=0.5, grid=np.linspace(-3, 10, 50))
    assert again.values.shape == (50,)
    assert again.width == 0.5


@pytest.mark.parametrize("strategy", ["loop", pytest.param("threads:2", marks=pytest.mark.slow), "vmap"])
def test_the_spectra_of_a_stack_match_those_of_its_members(strategy):
    members = parameters(SHAPES, seed=3, leading=(3,))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), STATE)
    options = {"k": 2, "probes": 2, "num_steps": 15, "tolerance": 1.0, "dtype": "float64"}
    result = hessian_spectrum(PROBLEM, members, model_state=states, strategy=strategy, **options)
    for member in range(3):
        one = jax.tree.map(lambda leaf, i=member: leaf[i], members)
        alone = hessian_spectrum(PROBLEM, one, model_state=STATE, **options)
        of_member = jax.tree.map(
            lambda leaf, i=member: leaf[i], result._replace(dimension=np.full(3, result.dimension))
        )
        for a, b in zip(jax.tree.leaves(of_member), jax.tree.leaves(alone), strict=True):
            assert np.allclose(a, b, rtol=0, atol=1e-7 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(
    "strategy", ["vmap", *(pytest.param(each, marks=pytest.mark.slow) for each in ("loop", "threads:2"))]
)
def test_members_may_converge_after_different_numbers_of_steps(strategy):
    quartic = Problem(lambda p, s, b, k: (jnp.sum(p["x"] ** 4) / 12 + 0 * jnp.sum(b), (s, {})), jnp.zeros((5, 1)))
    members = {"x": jnp.stack([jnp.full(40, 3.0), jnp.linspace(1, 2, 40)])}  # the Hessian is diag(x^2)
    result = hessian_spectrum(quartic, members, k=1, lowest=0, probes=0, num_steps=40, strategy=strategy)
    assert np.allclose(result.eigenvalues[:, 0], [9, 4], rtol=1e-3)
    if strategy != "vmap":
        assert result.steps[0] < result.steps[1]


def test_a_diverged_member_has_nan_and_does_not_affect_the_others():
    members = {"x": jnp.stack([jnp.ones(40), jnp.full(40, jnp.nan)])}
    cubic = Problem(lambda p, s, b, k: (jnp.sum(p["x"] ** 3) / 6 + 0 * jnp.sum(b), (s, {})), jnp.zeros((5, 1)))
    result = hessian_spectrum(cubic, members, k=1, strategy="loop", num_steps=5)
    assert np.isclose(result.eigenvalues[0, 0], 1, rtol=1e-5)
    assert np.isnan(result.eigenvalues[1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 39, "lowest": 3, "num_steps": 50}, "k [+] lowest must be at most num_steps and .* 40; got 39 [+] 3"),
        ({"tolerance": 0}, "tolerance must be above 0, got 0"),
        ({"width": -1.0}, "width must be above 0, got -1.0"),
        ({"kind": "fisher"}, "kind must be one of hessian, gauss_newton, got 'fisher'"),
        ({"kind": "gauss_newton"}, "mode 'evaluate' needs a problem with predict and score"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        hessian_spectrum(QUADRATIC, AT, **options)
