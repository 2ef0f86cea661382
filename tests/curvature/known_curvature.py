"""Problems with known curvature: a quadratic, and a small network with dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.problem import Problem


def symmetric(size, seed=0):
    """Return a symmetric matrix with eigenvalues of both signs, of which the largest are well separated."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.standard_normal((size, size)))[0]
    eigenvalues = np.concatenate([[9.0, 6.0, 4.0, -2.0], generator.uniform(-0.5, 0.5, size - 4)])
    return rotation * eigenvalues @ rotation.T


def quadratic(matrix, center=None):
    """Return a problem with the loss 0.5 (x - c)^T H (x - c), which does not depend on the examples."""
    center = np.zeros(len(matrix)) if center is None else center

    def loss_fn(params, model_state, batch, key):
        x = params["x"] - jnp.asarray(center, params["x"].dtype)
        loss = 0.5 * x @ (jnp.asarray(matrix, x.dtype) @ x)
        return loss + 0 * jnp.sum(batch).astype(x.dtype), (model_state, {})

    return Problem(loss_fn, jnp.zeros((5, 1)))


def network_problem(examples=23, features=3, hidden=4, classes=3):
    """Return a problem with a dense network, a scale in its model state, cross-entropy and unequal batches."""
    generator = np.random.default_rng(1)
    data = tuple(
        jnp.asarray(each)
        for each in (
            generator.standard_normal((examples, features), np.float32),
            generator.integers(0, classes, examples).astype(np.int32),
        )
    )
    test = jax.tree.map(lambda leaf: leaf[:7], data)

    def predict(params, model_state, batch):
        values = jnp.tanh(batch[0] @ params["first"]["kernel"] + params["first"]["bias"][None])
        return (values * model_state["scale"][None]) @ params["head"]["kernel"]

    def score(outputs, batch):
        losses = -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch[1][:, None], axis=1)[:, 0]
        return {"loss": losses, "accuracy": (outputs.argmax(axis=1) == batch[1]).astype(losses.dtype)}

    def loss_fn(params, model_state, batch, key):
        losses = score(predict(params, model_state, batch), batch)["loss"]
        return losses.mean(), (model_state, {})

    problem = Problem(loss_fn, data, predict=predict, score=score, test_data=test)
    shapes = {
        "first": {"kernel": (features, hidden), "bias": (hidden,)},
        "head": {"kernel": (hidden, classes)},
    }
    return problem, shapes, {"scale": jnp.asarray(generator.uniform(0.5, 2, hidden), jnp.float32)}


def parameters(shapes, seed=0, leading=()):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal((*leading, *shape)), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def dense_hessian(problem, params, model_state, data=None):
    """Return the Hessian of the mean loss, float64 (P, P), by jax.hessian."""
    with jax.enable_x64(True):
        params, state, batch = to_float64((params, model_state, problem.data if data is None else data))
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(vector):
            return problem.score(problem.predict(unravel(vector), state, batch), batch)["loss"].mean()

        return np.asarray(jax.jit(jax.hessian(loss))(flat))


def dense_gauss_newton(problem, params, model_state):
    """Return J^T H_outputs J / n for cross-entropy, float64 (P, P), by jax.jacobian and its closed-form Hessian."""
    with jax.enable_x64(True):
        params, state, batch = to_float64((params, model_state, problem.data))
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        outputs_of = jax.jit(lambda vector: problem.predict(unravel(vector), state, batch))
        jacobian = np.asarray(jax.jacobian(outputs_of)(flat))
        probabilities = np.asarray(jax.nn.softmax(outputs_of(flat)))
    hessians = np.stack([np.diag(each) - np.outer(each, each) for each in probabilities])
    return np.einsum("nip,nij,njq->pq", jacobian, hessians, jacobian) / len(probabilities)


def to_float64(tree):
    """Return a pytree with floating-point leaves cast to float64; call it in 64-bit mode."""
    leaves, treedef = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    is_float = [np.issubdtype(leaf.dtype, np.floating) for leaf in leaves]
    cast = [jnp.asarray(leaf, float if own else None) for leaf, own in zip(leaves, is_float, strict=True)]
    return jax.tree.unflatten(treedef, cast)


def flatten(tree, leading_axes=0):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(*leaf.shape[:leading_axes], -1) for leaf in leaves], axis=-1)
