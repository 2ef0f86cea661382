"""A convolutional Equinox model, on scikit-learn's digits: python equinox_conv.py RUN [EPOCHS]."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from jaxscape import Run, equinox_problem

images, labels = (jnp.asarray(array[:1000]) for array in load_digits(return_X_y=True))
keys = jax.random.split(jax.random.key(0), 2)
layers = [eqx.nn.Conv2d(1, 8, 3, key=keys[0]), jax.nn.relu, jnp.ravel, eqx.nn.Linear(288, 10, key=keys[1])]
model = eqx.nn.Sequential([layer if isinstance(layer, eqx.Module) else eqx.nn.Lambda(layer) for layer in layers])


def loss(model, batch, key):
    logits = jax.vmap(model)(batch[0].reshape(-1, 1, 8, 8) / 16)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


run = Run(sys.argv[1], equinox_problem(model, (images, labels), loss=loss, optimizer=optax.adam(1e-3)))
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
run.train(epochs=epochs, batch_size=100)
run.retrain(epochs=epochs, batch_size=100)
run.embed(knn=5)
run.embed(knn=5, null="rotated")
print(run.plot(), run.report()["geometry"]["real"]["return"])
