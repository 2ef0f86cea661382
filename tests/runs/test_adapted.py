"""Run folders of models of other frameworks: a minimum restored from a checkpoint, and resumed copies of it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxscape.runs.config import RetrainSettings, TrainSettings
from jaxscape.runs.progress import make_console
from jaxscape.runs.retrain import Retraining, retrain_copies
from jaxscape.runs.train import Training, find_minimum
from jaxscape.tasks.equinox import equinox_problem
from jaxscape.tasks.nnx import nnx_problem
from jaxscape.trajectories.store import TrajectoryStore

pytestmark = pytest.mark.slow

SGD = optax.sgd(0.1, momentum=0.9)
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


class Loader:
    """Two batches per pass, always the same."""

    def __iter__(self):
        return iter([X[:4], X[4:]])


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(self.norm(self.layers[0](x))))


def nnx_adapted():
    model = Net(nnx.Rngs(0))
    return nnx_problem(model, Loader(), loss=lambda model, batch, key: jnp.mean((model(batch) - batch) ** 2))


def equinox_adapted():
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")

    def loss(model, state, batch, key):
        found, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch, state)
        return jnp.mean((found - batch - 1) ** 2), state

    linear = eqx.nn.Linear(4, 4, key=jax.random.key(0))

    class Stack(eqx.Module):
        layers: tuple

        def __call__(self, x, state):
            return self.layers[1](self.layers[0](x), state)

    return equinox_problem(Stack((linear, norm)), X, loss=loss, state=state)


@pytest.mark.parametrize("make", [nnx_adapted, equinox_adapted])
def test_resumed_copies_of_an_adapted_minimum_have_the_bytes_of_a_single_run(make, tmp_path):
    console = make_console(silent=True)
    problem = make()

    def trajectories(run, *epochs):
        minimum = find_minimum(run, Training(TrainSettings(epochs=2, batch_size=4), problem, SGD), console=console)
        for last in epochs:
            settings = RetrainSettings(seeds=(0,), step_sizes=(0.5, 1.0), epochs=last, batch_size=4, strategy="loop")
            retrain_copies({run: Retraining(settings, problem, SGD)}, console=console)
        store = TrajectoryStore.open(run / "trajectories")
        return jax.tree.map(lambda leaf: leaf.tobytes(), store.read()), store.updates, minimum

    whole, updates, minimum = trajectories(tmp_path / "whole", 2)
    assert jax.tree.structure(minimum.params) == jax.tree.structure(problem.init(None)[0])
    assert trajectories(tmp_path / "parts", 1, 2)[:2] == (whole, updates)
    assert updates == [0, 2, 4]
