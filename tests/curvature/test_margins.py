"""Margins and norms are compared with direct computations, and path norms with a sum over paths."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_curvature import network_problem, parameters, quadratic

from jaxscape.curvature.margins import margins, norms, path_norm

PROBLEM, SHAPES, STATE = network_problem()
PARAMS = parameters(SHAPES)


def test_a_margin_is_the_output_of_the_true_class_minus_the_largest_other():
    result = margins(PROBLEM, PARAMS, model_state=STATE, batch_size=10)
    outputs = np.asarray(PROBLEM.predict(PARAMS, STATE, PROBLEM.data), np.float64)
    exact = [each[label] - np.delete(each, label).max() for each, label in zip(outputs, PROBLEM.data[1], strict=True)]
    assert np.allclose(result.values, exact, rtol=1e-5, atol=1e-6)
    assert np.isclose(result.mean, np.mean(exact), rtol=1e-5)
    assert np.isclose(result.percentile_10, np.percentile(exact, 10), rtol=1e-5)
    spread = np.sqrt(np.mean(np.sum((outputs - outputs.mean(axis=0)) ** 2, axis=1)))
    assert np.isclose(result.normalized_mean, np.mean(exact) / spread, rtol=1e-5)
    # Normalised margins are invariant to a common scale of the outputs.
    scaled = margins(PROBLEM, PARAMS | {"head": {"kernel": 7 * PARAMS["head"]["kernel"]}}, model_state=STATE)
    assert np.isclose(scaled.normalized_percentile_10, result.normalized_percentile_10, rtol=1e-4)
    assert np.isclose(scaled.percentile_10, 7 * result.percentile_10, rtol=1e-4)


def test_margins_of_stacks_test_sets_and_custom_labels():
    members = parameters(SHAPES, seed=3, leading=(2,))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), STATE)
    result = margins(PROBLEM, members, model_state=states, strategy="vmap", split="test")
    alone = margins(PROBLEM, jax.tree.map(lambda leaf: leaf[1], members), model_state=STATE, split="test")
    assert result.values.shape == (2, 7)
    assert np.allclose(result.values[1], alone.values, rtol=1e-5)
    other = margins(PROBLEM, PARAMS, model_state=STATE, labels=lambda batch: 0 * batch[1])
    assert not np.allclose(other.values, margins(PROBLEM, PARAMS, model_state=STATE).values)
    with pytest.raises(ValueError, match=r"margins need outputs \[example, class\] of two classes or more"):
        margins(PROBLEM, PARAMS, model_state=STATE, labels=lambda batch: batch[0])
    with pytest.raises(ValueError, match="needs a problem with predict and score"):
        margins(quadratic(np.eye(2)), {"x": jnp.ones(2)})


def test_norms_match_numpy():
    result = norms(PARAMS, initial=jax.tree.map(lambda leaf: leaf - 2, PARAMS))
    first, head = PARAMS["first"]["kernel"], PARAMS["head"]["kernel"]
    squares = sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(PARAMS))
    assert np.isclose(result.frobenius, np.sqrt(squares))
    assert np.isclose(result.distance, 2 * np.sqrt(28), rtol=1e-6)
    largest = [np.linalg.svd(np.asarray(each, np.float64))[1][0] for each in (first, head)]
    assert np.allclose(list(result.spectral.values()), largest)
    assert list(result.spectral) == ["first/kernel", "head/kernel"]
    assert np.isclose(result.log_spectral_product, np.log(largest).sum())
    assert norms(PARAMS).distance is None
    # A convolution's kernel (H, W, in, out) is the matrix of its filters.
    kernel = np.random.default_rng(0).standard_normal((3, 3, 2, 5))
    assert np.isclose(norms({"kernel": kernel}).spectral["kernel"], np.linalg.norm(kernel.reshape(18, 5), 2))
    with pytest.raises(ValueError, match="initial must have the structure of params"):
        norms(PARAMS, initial={"first": PARAMS["first"]})


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Dense(4, name="first")(x)))
        return nn.Dense(2, name="head")(x)


def test_the_path_norm_is_the_sum_over_all_paths_with_batch_norm_folded():
    module, inputs = Normed(), jnp.zeros((2, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    generator = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape), jnp.float32), shapes)
    state = {"batch_stats": jax.tree.map(jnp.abs, variables["batch_stats"])}
    params = variables["params"]
    result = path_norm(lambda p, s, x: module.apply({"params": p, **s}, x), params, state, inputs=inputs)

    p, stats = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (params, state))
    mean, var = (stats["batch_stats"]["norm"][name] for name in ("mean", "var"))
    factor = p["norm"]["scale"] / np.sqrt(var + 1e-5)
    shift = p["norm"]["bias"] - factor * mean
    total = 0.0
    for out in range(2):
        total += p["head"]["bias"][out] ** 2
        for unit in range(4):
            last = p["head"]["kernel"][unit, out]
            total += (last * shift[unit]) ** 2 + (last * factor[unit] * p["first"]["bias"][unit]) ** 2
            total += sum((last * factor[unit] * p["first"]["kernel"][i, unit]) ** 2 for i in range(3))
    assert np.isclose(result, np.sqrt(total), rtol=1e-9)


def test_a_model_state_that_cannot_be_folded_is_rejected():
    network = lambda p, s, x: x @ p["kernel"]  # noqa: E731
    params = {"kernel": jnp.array([[1.0, -2.0], [3.0, 4.0]])}
    assert np.isclose(path_norm(network, params, inputs=jnp.zeros((1, 2))), np.sqrt(30))
    with pytest.raises(ValueError, match="model_state must hold the mean and var of batch norms in batch_stats"):
        path_norm(network, params, {"seen": jnp.ones(2)}, inputs=jnp.zeros((1, 2)))
    state = {"batch_stats": {"norm": {"mean": jnp.ones(2), "var": jnp.ones(2)}}}
    with pytest.raises(ValueError, match="needs a bias, into which its mean is folded"):
        path_norm(network, params, state, inputs=jnp.zeros((1, 2)))
