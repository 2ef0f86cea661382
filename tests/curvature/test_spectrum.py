"""Eigenvalues, eigenvectors and densities, beside dense matrices and matfree."""

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

pytestmark = pytest.mark.usefixtures("compiled")

PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)
MATRIX = symmetric(40)
QUADRATIC, AT = quadratic(MATRIX), {"x": jnp.ones(40)}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 3e-6), ("float64", 1e-12)])
@pytest.mark.parametrize(
    ("kind", "dense"), [("hessian", dense_hessian), ("gauss_newton", dense_gauss_newton)], ids=["hessian", "gn"]
)
def test_eigenpairs_of_a_network_are_those_of_the_dense_matrix(kind, dense, dtype, error):
    found = hessian_spectrum(PROBLEM, PARAMS, k=3, lowest=2, kind=kind, dtype=dtype, model_state=STATE, batch_size=10)
    matrix = dense(PROBLEM, PARAMS, STATE)
    exact = np.linalg.eigvalsh(matrix)
    scale = np.abs(exact).max()
    assert np.allclose(found.eigenvalues, exact[::-1][:3], rtol=0, atol=error * scale)
    assert np.allclose(found.lowest.values, exact[:2], rtol=0, atol=error * scale)
    vectors = flatten(found.eigenvectors, 1)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=0, atol=error)
    residuals = np.linalg.norm(vectors @ matrix - found.eigenvalues[:, None] * vectors, axis=1)
    assert np.allclose(found.residuals, residuals, rtol=0, atol=2 * error * scale)
    assert found.residuals.max() <= 2 * error * scale


def test_of_chosen_leaves_the_spectrum_is_that_of_their_block():
    found = hessian_spectrum(PROBLEM, PARAMS, k=3, leaves="head/kernel", dtype="float64", model_state=STATE)
    block = dense_hessian(PROBLEM, PARAMS, STATE)[-12:, -12:]
    assert np.allclose(found.eigenvalues, np.linalg.eigvalsh(block)[::-1][:3], rtol=0, atol=1e-12)
    assert not np.any(found.eigenvectors["first"]["kernel"])
    assert found.dimension == 12


def test_steps_end_when_the_pairs_have_converged_and_the_residuals_bound_the_error():
    exact = np.linalg.eigvalsh(MATRIX)
    found = hessian_spectrum(QUADRATIC, AT, k=3, lowest=1, probes=0, tolerance=1e-2, num_steps=40, dtype="float64")
    assert 5 < found.steps < 30
    assert found.density is None
    errors = np.abs(found.eigenvalues - exact[::-1][:3])
    assert np.all(errors <= found.residuals + 1e-13)
    assert 0 < found.residuals.max() <= 1e-2 * 9
    closer = hessian_spectrum(QUADRATIC, AT, k=3, lowest=1, probes=0, tolerance=1e-8, num_steps=40, dtype="float64")
    assert closer.steps > found.steps


def test_pairs_that_have_not_converged_are_warned_of():
    with pytest.warns(UserWarning, match="num_steps: after 5 steps an eigenpair has a residual of .* above the toler"):
        hessian_spectrum(QUADRATIC, AT, k=3, num_steps=5)


def test_repeated_eigenvalues_are_all_found_where_every_parameter_is_reached():
    problem = quadratic(np.diag([2.0, 2.0, 2.0, 1.0, 1.0]))
    found = hessian_spectrum(problem, {"x": jnp.zeros(5)}, k=4, lowest=1, dtype="float64")
    assert np.allclose(found.eigenvalues, [2, 2, 2, 1])
    assert np.allclose(found.lowest.values, [1])
    zero = hessian_spectrum(quadratic(np.zeros((4, 4))), {"x": jnp.ones(4)}, k=1)
    assert zero.eigenvalues == 0
    assert zero.residuals == 0


def test_the_run_is_that_of_matfree():
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


def test_the_quadrature_has_the_moments_that_the_probes_see():
    found = hessian_spectrum(QUADRATIC, AT, k=1, num_steps=10, probes=4, dtype="float64", tolerance=1.0)
    assert found.ritz_values.shape == found.weights.shape == (4, 10)
    for probe in range(4):
        start = jax.random.normal(jax.random.fold_in(jax.random.key(0), probe), (40,), jnp.float32)
        start = np.asarray(start, np.float64)
        start = start / np.linalg.norm(start)
        for power in range(6):  # a quadrature of m nodes is exact up to degree 2 m - 1
            exact = start @ np.linalg.matrix_power(MATRIX, power) @ start
            assert np.isclose(found.weights[probe] @ found.ritz_values[probe] ** power, exact, rtol=1e-10, atol=1e-12)


def test_the_density_of_all_steps_is_that_of_the_eigenvalues_in_the_mean_over_probes():
    matrix = symmetric(10)
    found = hessian_spectrum(
        quadratic(matrix), {"x": jnp.ones(10)}, k=1, num_steps=10, probes=200, width=1.0, dtype="float64"
    )
    exact = np.linalg.eigvalsh(matrix)
    gaussians = np.exp(-0.5 * (found.density.grid[:, None] - exact) ** 2).mean(axis=1) / np.sqrt(2 * np.pi)
    assert np.abs(found.density.values - gaussians).max() < 0.05 * gaussians.max()
    assert np.isclose(np.trapezoid(found.density.values, found.density.grid), 1, atol=1e-3)
    again = spectral_density(found.ritz_values, found.weights, width=0.5, grid=np.linspace(-3, 10, 50))
    assert again.values.shape == (50,)
    assert again.width == 0.5


@pytest.mark.parametrize("strategy", ["loop", "threads:2", "vmap"])
def test_a_stack_gives_what_its_members_give(strategy):
    members = parameters(SHAPES, seed=3, leading=(3,))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), STATE)
    asked = {"k": 2, "probes": 2, "num_steps": 15, "tolerance": 1.0, "dtype": "float64"}
    found = hessian_spectrum(PROBLEM, members, model_state=states, strategy=strategy, **asked)
    for member in range(3):
        one = jax.tree.map(lambda leaf, i=member: leaf[i], members)
        alone = hessian_spectrum(PROBLEM, one, model_state=STATE, **asked)
        of_member = jax.tree.map(lambda leaf, i=member: leaf[i], found._replace(dimension=np.full(3, found.dimension)))
        for a, b in zip(jax.tree.leaves(of_member), jax.tree.leaves(alone), strict=True):
            assert np.allclose(a, b, rtol=0, atol=1e-7 * max(1, np.abs(b).max()))


def test_a_member_that_diverged_has_nan_and_the_others_their_values():
    members = {"x": jnp.stack([jnp.ones(40), jnp.full(40, jnp.nan)])}
    cubic = Problem(lambda p, s, b, k: (jnp.sum(p["x"] ** 3) / 6 + 0 * jnp.sum(b), (s, {})), jnp.zeros((5, 1)))
    found = hessian_spectrum(cubic, members, k=1, strategy="loop", num_steps=5)
    assert np.isclose(found.eigenvalues[0, 0], 1, rtol=1e-5)
    assert np.isnan(found.eigenvalues[1, 0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 39, "lowest": 3, "num_steps": 50}, "k [+] lowest must be at most num_steps and .* 40; got 39 [+] 3"),
        ({"tolerance": 0}, "tolerance must be above 0, got 0"),
        ({"width": -1.0}, "width must be above 0, got -1.0"),
        ({"kind": "fisher"}, "kind must be one of hessian, gauss_newton, got 'fisher'"),
        ({"kind": "gauss_newton"}, "mode 'evaluate' needs a problem with predict and score"),
    ],
)
def test_what_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        hessian_spectrum(QUADRATIC, AT, **more)
