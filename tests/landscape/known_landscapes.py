"""Problems with known landscapes: a quadratic form, and a network with batch norm."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape import Problem

DIMENSION = 6
GENERATOR = np.random.default_rng(0)
HALF = GENERATOR.standard_normal((DIMENSION, DIMENSION))
HESSIAN = HALF @ HALF.T / DIMENSION
GRADIENT = GENERATOR.standard_normal(DIMENSION)


def flatten(params):
    """Return the parameters as one vector in tree order: float64 (6,)."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def quadratic_loss(params):
    """Return x H x / 2 + g x, in float64."""
    x = flatten(params)
    return x @ HESSIAN @ x / 2 + GRADIENT @ x


def quadratic(evaluate=True):
    """Return a problem with that loss and params {"bias": (2,), "kernel": (2, 2)}."""

    def loss_of(params):
        x = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
        return x @ jnp.asarray(HESSIAN, x.dtype) @ x / 2 + jnp.asarray(GRADIENT, x.dtype) @ x

    def loss_fn(params, model_state, batch, key):
        loss = loss_of(params) + 0 * batch.mean()
        return loss, (model_state, {"loss": loss})

    def metrics(params, model_state):
        loss = loss_of(params)
        return {"loss": loss, "accuracy": -loss}

    return Problem(loss_fn, np.zeros((4, 1), np.float32), evaluate=metrics if evaluate else None)


def quadratic_params(seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return {
        "bias": scale * generator.standard_normal(2).astype(np.float32),
        "kernel": scale * generator.standard_normal((2, 2)).astype(np.float32),
    }


INPUTS = GENERATOR.standard_normal((10, 3)).astype(np.float32)
TARGETS = (INPUTS[:, 0] > 0).astype(np.float32)
TEST_INPUTS, TEST_TARGETS = INPUTS[:4] + 1, TARGETS[:4]
EPSILON = 1e-3


def hidden(params, inputs):
    return inputs @ params["first"]["kernel"]


def normalized_outputs(xp, params, hidden, mean, var):
    units = xp.tanh((hidden - mean[None]) / xp.sqrt(var[None] + EPSILON))
    return (units * params["last"]["kernel"][None]).sum(axis=1)


def batch_norm():
    """Return a problem with batch norm: mean squared error, and the accuracy of outputs thresholded at 0.5."""

    def loss_fn(params, model_state, batch, key):
        inputs, targets = batch
        units = hidden(params, inputs)
        mean, var = units.mean(axis=0), units.var(axis=0)
        outputs = normalized_outputs(jnp, params, units, mean, var)
        loss = jnp.mean((outputs - targets) ** 2)
        new = {"mean": 0.9 * model_state["mean"] + 0.1 * mean, "var": 0.9 * model_state["var"] + 0.1 * var}
        return loss, ({**new, "seen": model_state["seen"] + 1}, {"loss": loss})

    def predict(params, model_state, batch):
        return normalized_outputs(jnp, params, hidden(params, batch[0]), model_state["mean"], model_state["var"])

    def score(outputs, batch):
        right = (outputs > 0.5) == (batch[1] > 0.5)
        return {"loss": (outputs - batch[1]) ** 2, "accuracy": right.astype(outputs.dtype)}

    return Problem(loss_fn, (INPUTS, TARGETS), predict=predict, score=score, test_data=(TEST_INPUTS, TEST_TARGETS))


def batch_norm_params(seed):
    generator = np.random.default_rng(seed)
    return {
        "first": {"kernel": generator.standard_normal((3, 4)).astype(np.float32)},
        "last": {"kernel": generator.standard_normal(4).astype(np.float32)},
    }


def measured_statistics(params):
    """Return the running statistics of the whole data set in one batch, in the form of `batch_norm`."""
    units = hidden(params, INPUTS)
    return {"mean": units.mean(axis=0), "var": units.var(axis=0), "seen": np.int32(0)}


def batch_norm_loss(params, model_state, inputs=INPUTS, targets=TARGETS):
    """Return the loss of `predict` and `score`, in float64."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, model_state))
    outputs = normalized_outputs(np, wide[0], hidden(wide[0], inputs), wide[1]["mean"], wide[1]["var"])
    return float(np.mean((outputs - targets) ** 2))
