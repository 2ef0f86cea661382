"""Finished runs of every kind, of a network with 12 parameters, made in seconds."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape import Problem, Run


def loss_fn(params, model_state, batch, key):
    loss = jnp.mean((batch @ params["w"] - 1.0) ** 2)
    return loss, (model_state, {"loss": loss})


def evaluate(params, model_state):
    loss = jnp.mean((params["w"] - 1.0) ** 2)
    return {"train_loss": loss, "test_loss": 2 * loss}


def problem():
    return Problem(loss_fn, jnp.eye(4), evaluate=evaluate, init=lambda key: ({"w": jax.random.normal(key, (4, 3))}, {}))


def problem_to_train():
    return replace(problem(), optimizer=optax.sgd(0.05))


def retrained(path, *, step_sizes=(0.5, 1.0), epochs=3):
    """Copies of a minimum, embedded by metric scaling in three dimensions and by PHATE."""
    run = Run(path, problem(), quiet=True)
    run.train(optax.sgd(0.05), epochs=3, batch_size=2)
    run.retrain(optax.sgd(0.05), seeds=2, step_sizes=step_sizes, epochs=epochs, batch_size=2, strategy="loop")
    run.embed(method="mds", n_components=3)
    run.embed(method="phate", knn=2)
    return run


def compared(path):
    """Networks trained by two optimisers."""
    run = Run(path, problem(), quiet=True)
    run.compare({"sgd": optax.sgd(0.05), "adam": optax.adam(0.05)}, seeds=2, epochs=3, batch_size=2, strategy="loop")
    run.embed(method="mds")
    return run


def recorded(path, *, steps=6, name="walk", metrics=None):
    """A training that was recorded, without any losses unless metrics gives them."""
    random = np.random.default_rng(steps)
    with Run(path, quiet=True) as run:
        params = {"w": random.standard_normal((4, 3)).astype(np.float32)}
        for step in range(0, 10 * steps, 10):
            run.record(step, params, metrics, labels=[{"run": name}])
            params = {"w": 0.8 * params["w"] + 0.1 * random.standard_normal((4, 3)).astype(np.float32)}
    run.embed(method="mds")
    return run


def joined(path, runs):
    """Recorded trainings of different lengths in one distance matrix."""
    run = Run.join(path, [each.folder for each in runs], quiet=True)
    run.embed(method="mds")
    return run


# Of each kind, the name of its folder.
KINDS = {name: name for name in ("retrained", "diverged", "compared", "joined")} | {"recorded": "short"}


def make_all(folder):
    """Make a finished run of every kind, each in a folder of its own."""
    retrained(folder / "retrained")
    retrained(folder / "diverged", step_sizes=(0.5, 1e38))
    compared(folder / "compared")
    parts = [recorded(folder / name, steps=steps, name=name) for name, steps in (("short", 5), ("long", 8))]
    joined(folder / "joined", parts)


def opened(path):
    """Open a run that `make_all` has made."""
    has_problem = path.name in ("retrained", "diverged", "compared")
    return Run(path, problem() if has_problem else None, quiet=True)
