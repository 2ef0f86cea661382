"""Stacks of small networks for several tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.tasks.models import WideResNet
from jaxscape.training.train import init_states, member_update


def small_networks(members):
    """Return random parameters of WRN-10-1 [member, ...] and its first model state."""
    shapes = jax.eval_shape(WideResNet(10, 1, 10).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * generator.standard_normal((members, *leaf.shape), np.float32), shapes["params"]
    )
    return params, {"batch_stats": jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])}


# Small dense networks, for facts that do not depend on the layers.
FEATURES, EXAMPLES = 5, 12


def dense_loss(params, model_state, batch, key):
    inputs, targets = batch
    noisy = inputs + 0.01 * jax.random.normal(key, inputs.shape)
    hidden = jnp.tanh(noisy @ params["first"])
    outputs = (hidden - hidden.mean(axis=0, keepdims=True)) @ params["second"]
    seen = model_state["seen"] + 1
    loss = jnp.mean((outputs[:, 0] - targets) ** 2)
    return loss, ({"seen": seen}, {"loss": loss, "hidden": hidden.mean()})


def dense_members(members, optimizer=None):
    optimizer = optimizer or optax.adam(0.01)
    generator = np.random.default_rng(3)
    params = {
        "first": generator.standard_normal((members, FEATURES, 4), np.float32),
        "second": generator.standard_normal((members, 4, 1), np.float32),
    }
    data = (
        jnp.asarray(generator.standard_normal((EXAMPLES, FEATURES), np.float32)),
        jnp.asarray(generator.standard_normal(EXAMPLES, np.float32)),
    )
    keys = jax.random.split(jax.random.key(5), members)
    states = init_states(params, optimizer, keys=keys, model_state={"seen": jnp.zeros((), jnp.int32)})
    rows = jnp.asarray(generator.integers(0, EXAMPLES, (members, 5, 4)))
    return member_update(dense_loss, optimizer, from_arrays=True), states, data, rows
