"""A network that is a pytree and a function, on scikit-learn's digits: python plain.py RUN [EPOCHS]."""

import sys

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from jaxscape import Problem, Run

images, labels = (jnp.asarray(array[:1000]) for array in load_digits(return_X_y=True))


def init(key):
    return {"in": 0.1 * jax.random.normal(key, (64, 32)), "out": 0.1 * jax.random.normal(key, (32, 10))}, {}


def loss_fn(params, model_state, batch, key):
    logits = jnp.tanh(batch[0] / 16 @ params["in"]) @ params["out"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
    return loss, (model_state, {"accuracy": (logits.argmax(-1) == batch[1]).mean()})


problem = Problem(loss_fn, (images, labels), init=init, optimizer=optax.adam(1e-3), describe={"model": "MLP"})
run, epochs = Run(sys.argv[1], problem), int(sys.argv[2]) if len(sys.argv) > 2 else 20
run.train(epochs=epochs, batch_size=100)
run.retrain(epochs=epochs, batch_size=100)
run.embed(knn=5)
run.embed(knn=5, null="rotated")
print(run.plot(), run.report()["geometry"]["real"]["return"])
