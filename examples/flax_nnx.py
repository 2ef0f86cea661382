"""A Flax NNX module with dropout, on scikit-learn's digits: python flax_nnx.py RUN [EPOCHS]."""

import sys

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from jaxscape import Run, nnx_problem

images, labels = (jnp.asarray(array[:1000]) for array in load_digits(return_X_y=True))
rngs = nnx.Rngs(0)
model = nnx.Sequential(
    nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Dropout(0.1, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)
)
model.train()


def loss(model, batch, key):
    return optax.softmax_cross_entropy_with_integer_labels(model(batch[0] / 16), batch[1]).mean()


run = Run(sys.argv[1], nnx_problem(model, (images, labels), loss=loss, optimizer=optax.adam(1e-3)))
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
run.train(epochs=epochs, batch_size=100)
run.retrain(epochs=epochs, batch_size=100)
run.embed(knn=5)
run.embed(knn=5, null="rotated")
print(run.plot(), run.report()["geometry"]["real"]["return"])
