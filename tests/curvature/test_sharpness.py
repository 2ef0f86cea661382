"""Measures of sharpness are compared with closed forms on quadratic losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_curvature import dense_hessian, network_problem, parameters, quadratic, symmetric
from scipy.optimize import brentq

from jaxscape.curvature.sharpness import SHARPNESS, sharpness
from jaxscape.problem import Problem

SIZE = 6
MATRIX = symmetric(SIZE) @ symmetric(SIZE)  # positive semidefinite: random perturbations raise the loss on average
AT = np.array([0.3, -1.2, 0.8, 0.1, -0.5, 2.0])
SCALES = {"one": np.ones(SIZE), "element": np.abs(AT)}
SCALES["filter"] = np.tile(np.linalg.norm(AT.reshape(2, 3), axis=0), 2)
PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)


def filters(matrix=MATRIX):
    """Return a quadratic problem and its params: a kernel with three filters (columns) of two inputs."""

    def loss_fn(params, model_state, batch, key):
        x = params["kernel"].ravel()
        return 0.5 * x @ (jnp.asarray(matrix, x.dtype) @ x) + 0 * jnp.sum(batch).astype(x.dtype), (model_state, {})

    return Problem(loss_fn, jnp.zeros((5, 1))), {"kernel": jnp.asarray(AT.reshape(2, 3), jnp.float32)}


def measured(kind, **options):
    return sharpness(*filters(), kind=kind, dtype="float64", **options)


def at_float32():
    return np.asarray(np.float32(AT), np.float64)


def normal_draws(draws, scale):
    keys = [jax.random.fold_in(jax.random.key(0), draw) for draw in range(draws)]
    return scale * np.asarray([jax.random.normal(key, (SIZE,), jnp.float32) for key in keys], np.float64)


def largest_rise(matrix, gradient, radius):
    """Return the maximum of g e + e H e / 2 over ||e|| <= radius, by the secular equation of the trust region."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    along = vectors.T @ gradient
    length = lambda shift: np.linalg.norm(along / (shift - eigenvalues)) - radius  # noqa: E731
    shift = brentq(length, eigenvalues[-1] + 1e-9, eigenvalues[-1] + 1e6, xtol=1e-14)
    e = vectors @ (along / (shift - eigenvalues))
    return gradient @ e + 0.5 * e @ matrix @ e


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("worst_case", "one"), ("worst_case_adaptive", "element"), ("worst_case_filter", "filter")],
)
def test_the_worst_case_matches_the_trust_region_solution(kind, scale):
    s = SCALES[scale]
    matrix, gradient = s[:, None] * MATRIX * s, s * (MATRIX @ at_float32())
    result = measured(kind, radius=0.4, steps=60)
    assert np.isclose(result.value, largest_rise(matrix, gradient, 0.4), rtol=1e-6)
    assert result.standard_error is None
    # One step is that of SAM, or of ASAM.
    e = 0.4 * s * gradient / np.linalg.norm(gradient)
    once = (MATRIX @ at_float32()) @ e + 0.5 * e @ MATRIX @ e
    assert np.isclose(measured(kind, radius=0.4, steps=1).value, once, rtol=1e-6)


def test_at_a_minimum_the_worst_case_follows_from_the_top_eigenvalue():
    result = sharpness(
        quadratic(MATRIX, AT), {"x": jnp.asarray(np.float32(AT))}, kind="worst_case", radius=0.1, steps=30
    )
    assert np.isclose(result.value, 0.5 * 0.1**2 * np.linalg.eigvalsh(MATRIX)[-1], rtol=1e-3)
    centred = sharpness(quadratic(MATRIX), {"x": jnp.zeros(SIZE)}, kind="worst_case", radius=0.1, steps=30)
    assert np.isclose(centred.value, 0.5 * 0.1**2 * np.linalg.eigvalsh(MATRIX)[-1], rtol=1e-4)


@pytest.mark.parametrize(("kind", "scale"), [("average_case", "one"), ("average_case_adaptive", "element")])
def test_the_average_case_is_half_the_trace_times_the_variance(kind, scale):
    result = measured(kind, sigma=0.2, draws=40)
    matrix = SCALES[scale][:, None] * MATRIX * SCALES[scale]
    assert abs(result.value - 0.5 * 0.2**2 * np.trace(matrix)) < 4 * result.standard_error
    forms = [0.5 * 0.2**2 * z @ MATRIX @ z for z in normal_draws(40, SCALES[scale])]
    assert np.isclose(result.value, np.mean(forms), rtol=1e-5)
    assert np.isclose(result.standard_error, np.std(forms, ddof=1) / np.sqrt(40), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "scale"), [("pac_bayes", "one"), pytest.param("pac_bayes_adaptive", "element", marks=pytest.mark.slow)]
)
def test_the_pac_bayes_sigma_matches_its_closed_form(kind, scale):
    result = measured(kind, target=0.1, draws=40)
    matrix = SCALES[scale][:, None] * MATRIX * SCALES[scale]
    assert abs(result.value - np.sqrt(0.2 / np.trace(matrix))) < 4 * result.standard_error
    forms = np.array([z @ MATRIX @ z for z in normal_draws(40, SCALES[scale])])
    sigma = np.sqrt(0.2 / forms.mean())
    assert np.isclose(result.value, sigma, rtol=1e-3)
    error = sigma * forms.std(ddof=1) / np.sqrt(40) / (2 * forms.mean())
    assert np.isclose(result.standard_error, error, rtol=1e-2)


def test_the_pac_bayes_sigma_of_the_error_lowers_the_accuracy_by_the_target():
    result = sharpness(PROBLEM, PARAMS, kind="pac_bayes", metric="accuracy", draws=10, model_state=STATE)

    def fall(sigma):
        flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)
        accuracy = lambda w: float(  # noqa: E731
            PROBLEM.score(PROBLEM.predict(unravel(w), STATE, PROBLEM.data), PROBLEM.data)["accuracy"].mean()
        )
        draws = [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), flat.shape) for i in range(10)]
        return accuracy(flat) - np.mean([accuracy(flat + sign * sigma * z) for z in draws for sign in (1, -1)])

    assert fall(0.99 * result.value) <= 0.1 < fall(1.01 * result.value)


def test_the_pac_bayes_sigma_is_infinite_for_a_constant_loss_and_zero_for_a_steep_one():
    flat = Problem(lambda p, s, b, k: (0 * jnp.sum(p["x"]) + jnp.sum(b), (s, {})), jnp.zeros((5, 1)))
    assert sharpness(flat, {"x": jnp.ones(3)}, kind="pac_bayes").value == np.inf
    steep = quadratic(1e16 * np.eye(3))
    assert sharpness(steep, {"x": jnp.zeros(3)}, kind="pac_bayes").value == 0


def test_relative_flatness_matches_the_sum_over_pairs_of_neurons():
    result = sharpness(
        PROBLEM, PARAMS, kind="relative_flatness", leaves="head/kernel", probes=400, model_state=STATE, dtype="float64"
    )
    kernel = np.asarray(PARAMS["head"]["kernel"], np.float64)  # (in, out)
    block = dense_hessian(PROBLEM, PARAMS, STATE)[-12:, -12:].reshape(4, 3, 4, 3)
    exact = np.einsum("ai,aj,bibj->", kernel, kernel, block)
    assert 0 < abs(result.value - exact) < 4 * result.standard_error < 0.5 * exact


def test_trace_and_top_eigenvalue_match_the_dense_hessian():
    dense = dense_hessian(PROBLEM, PARAMS, STATE)
    options = {"model_state": STATE, "dtype": "float64"}
    assert np.isclose(sharpness(PROBLEM, PARAMS, kind="trace", **options).value, np.trace(dense))
    assert np.isclose(sharpness(PROBLEM, PARAMS, kind="top_eigenvalue", **options).value, np.linalg.eigvalsh(dense)[-1])


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("worst_case_filter", "average_case") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in sorted(SHARPNESS)
    ],
)
def test_sharpness_of_a_stack_matches_that_of_its_members(kind):
    members = parameters(SHAPES, seed=3, leading=(2,))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), STATE)
    options = {name: 3 for name in ("draws", "probes") if name in SHARPNESS[kind].options}
    options |= {"leaves": "head/kernel"} if kind == "relative_flatness" else {}
    result = sharpness(PROBLEM, members, kind=kind, model_state=states, strategy="vmap", **options)
    for member in range(2):
        one = jax.tree.map(lambda leaf, i=member: leaf[i], members)
        alone = sharpness(PROBLEM, one, kind=kind, model_state=STATE, **options)
        assert np.isclose(result.value[member], alone.value, rtol=2e-3)
        assert (result.standard_error is None) == (alone.standard_error is None)
        assert np.isfinite(alone.value)
        assert np.shape(alone.value) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "flatness"}, "kind must be one of worst_case, worst_case_adaptive, .*, got 'flatness'"),
        ({"kind": "trace", "radius": 1.0}, "kind 'trace' takes the options probes; got radius"),
        ({"kind": "worst_case", "radius": 0.0}, "radius must be above 0, got 0.0"),
        ({"kind": "average_case", "draws": 1}, "draws must be at least 2, got 1"),
        ({"kind": "pac_bayes", "metric": "f1"}, "metric must be one of accuracy, loss, got 'f1'"),
        ({"kind": "relative_flatness"}, "leaves must choose one weight array of two axes or more"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        sharpness(PROBLEM, PARAMS, model_state=STATE, **options)
