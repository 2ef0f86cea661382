"""Curvature of an Equinox model, and of the built-in network with batch norm."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_curvature import flatten

from jaxscape.curvature.products import gauss_newton, hessian
from jaxscape.curvature.spectrum import hessian_spectrum
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.images import ImageTask, image_problem


@pytest.mark.slow
def test_the_curvature_of_an_equinox_model_matches_dense_matrices():
    model = eqx.nn.MLP(2, 1, 5, 2, activation=jnp.tanh, key=jax.random.key(0))
    generator = np.random.default_rng(0)
    data = tuple(jnp.asarray(generator.standard_normal((30, size), np.float32)) for size in (2, 1))

    def predict(model, batch):
        return jax.vmap(model)(batch[0])

    def score(outputs, batch):
        return {"loss": 0.5 * jnp.sum((outputs - batch[1]) ** 2, axis=1)}

    problem = equinox_problem(
        model, data, loss=lambda model, batch, key: score(predict(model, batch), batch)["loss"].mean(),
        predict=predict, score=score,
    )  # fmt: skip
    params, state = problem.init(jax.random.key(0))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    loss = lambda vector: score(problem.predict(unravel(vector), state, data), data)["loss"].mean()  # noqa: E731
    outputs = lambda vector: problem.predict(unravel(vector), state, data)[:, 0]  # noqa: E731
    dense, jacobian = jax.jit(jax.hessian(loss))(flat), jax.jit(jax.jacobian(outputs))(flat)
    vector = unravel(jnp.asarray(generator.standard_normal(len(flat)), jnp.float32))
    for operator, matrix in ((hessian, dense), (gauss_newton, jacobian.T @ jacobian / 30)):
        product = operator(problem, params, model_state=state, batch_size=8).matvec(vector)
        assert jax.tree.structure(product) == jax.tree.structure(params)
        assert np.allclose(flatten(product), np.asarray(matrix) @ flatten(vector), rtol=1e-4, atol=1e-5)
    spectrum = hessian_spectrum(problem, params, k=2, model_state=state, num_steps=40)
    assert np.allclose(spectrum.eigenvalues, np.linalg.eigvalsh(np.asarray(dense, np.float64))[::-1][:2], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["evaluate", "train"])
def test_float32_products_of_the_built_in_network_match_float64(mode):
    problem = image_problem(ImageTask(train_size=20))
    params, state = problem.init(jax.random.key(0))
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).standard_normal(leaf.shape), leaf.dtype), params
    )
    options = {"model_state": state, "mode": mode, "leaves": "group3*"}
    float32, float64 = (
        flatten(hessian(problem, params, dtype=dtype, **options).matvec(vector)) for dtype in ("float32", "float64")
    )
    assert 0 < np.linalg.norm(float32 - float64) <= 2e-5 * np.linalg.norm(float64)


def test_float64_curvature_of_a_bfloat16_network_is_rejected():
    problem = image_problem(ImageTask(train_size=20, precision="bfloat16"))
    params, state = problem.init(jax.random.key(0))
    with pytest.raises(ValueError, match="this one rounds to bfloat16 on the way"):
        hessian(problem, params, model_state=state, mode="train", dtype="float64")
