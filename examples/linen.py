"""A Flax Linen module with batch norm and dropout, on scikit-learn's digits: python linen.py RUN [EPOCHS]."""

import sys

import flax.linen as nn
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from jaxscape import Run, flax_problem

images, labels = (jnp.asarray(array[:1000]) for array in load_digits(return_X_y=True))


class Network(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(32)(images / 16)))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))


run = Run(sys.argv[1], flax_problem(Network(), (images, labels), optimizer=optax.adam(1e-3)))
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
run.train(epochs=epochs, batch_size=100)
run.retrain(epochs=epochs, batch_size=100)
run.embed(knn=5)
run.embed(knn=5, null="rotated")
print(run.plot(), run.report()["geometry"]["real"]["return"])
