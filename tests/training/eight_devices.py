"""Runs in a process of its own with eight simulated devices; writes its results for test_devices.py."""

import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape import WideResNet, flax_evaluate, flax_loss, jump_grid, make_optimizer, retrain
from jaxscape.training import members

MEMBERS = 5
# network -> name -> number of devices, strategy, whether an epoch is a program as on a GPU
CASES = {
    "residual": {
        "alone": (1, "loop", False),
        "loop on 8": (8, "loop", False),
        "vmap_grad on 3": (3, "vmap_grad", False),
    },
    "dense": {
        "alone": (1, "loop", False),
        "loop on 2": (2, "loop", False),
        "threads on 3": (3, "threads", False),
        "vmap_grad:1 on 3": (3, "vmap_grad:1", False),
        "vmap_grad:2 on 2": (2, "vmap_grad:2", False),
        "grad_vmap on 8": (8, "grad_vmap", False),
        "auto on 2": (2, "auto", False),
        "loop on 3, by epoch": (3, "loop", True),
        "vmap_grad:2 on 2, by epoch": (2, "vmap_grad:2", True),
        "grad_vmap on 3, by epoch": (3, "grad_vmap", True),
        "batches of one's own on 2": (2, "vmap_grad", False),
        "batches of a loader": (1, "loop", False),
        "batches of a loader on 3": (3, "grad_vmap", False),
        "batches of a loader on 2, by epoch": (2, "loop", True),
    },
}


def residual(images, labels):
    """Return loss, evaluation, parameters and statistics of a WRN-10-1."""
    module = WideResNet(10, 1, 3)
    variables = dict(module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1))))

    def prepare(batch):
        return batch.astype(jnp.float32) / 255

    evaluate = flax_evaluate(module, train=(images, labels), test=(images[:7], labels[:7]), preprocess=prepare)
    return flax_loss(module, preprocess=prepare), evaluate, variables.pop("params"), variables


def dense(images, labels):
    """Return the same for a network without convolutions, with noise from the step's key and an evaluation in NumPy."""
    generator = np.random.default_rng(1)
    params = {
        "hidden": generator.standard_normal((36, 8)).astype(np.float32) / 6,
        "head": generator.standard_normal((8, 3)).astype(np.float32) / 3,
    }

    def loss_fn(params, model_state, batch, key):
        images, labels = batch
        flat = images.reshape(len(images), -1) / 255 + 0.1 * jax.random.normal(key, (len(images), 36))
        logits = jnp.tanh(flat @ params["hidden"]) @ params["head"]
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
        return loss, ({"mean": 0.9 * model_state["mean"] + 0.1 * loss}, {"loss": loss})

    def evaluate(params, model_state):
        return {"norm": np.linalg.norm(np.asarray(params["hidden"])), "mean": model_state["mean"]}

    return loss_fn, evaluate, params, {"mean": jnp.zeros(())}


def own_batches(images, labels):
    """Return the data as a user's function."""

    def batches(epoch, keys):
        orders = [np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 20)) for key in keys]
        return tuple(np.stack([array[order.reshape(5, 4)] for order in orders]) for array in (images, labels))

    return batches


class Loader:
    """Passes over the data, which all members share."""

    def __init__(self, images, labels):
        self.batches = [(images[start : start + 4], labels[start : start + 4]) for start in range(0, 20, 4)]

    def __iter__(self):
        return iter(self.batches)


def data_of(name, images, labels):
    """Return the data of a case."""
    if "loader" in name:
        return Loader(images, labels)
    return own_batches(images, labels) if name.startswith("batches") else (images, labels)


def main(path):
    """Retrain every case and write all states and metrics."""
    jax.config.update("jax_num_cpu_devices", 8)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 6, 6, 1), np.uint8)
    labels = generator.integers(0, 3, 20).astype(np.int32)
    arrays = {}
    for network, make in {"residual": residual, "dense": dense}.items():
        problem = make(images, labels)
        for name, (count, strategy, by_epoch) in CASES[network].items():
            data = data_of(name, images, labels)
            with mock.patch.object(jax, "default_backend", return_value="gpu" if by_epoch else "cpu"):
                members._advance.cache_clear()
                results = run(problem, data, strategy, jax.devices()[:count])
            arrays |= {f"{network}: {name}/{key}": values for key, values in results.items()}
    np.savez(path, **arrays)


def run(problem, data, strategy, devices):
    """Return two epochs of five copies: metrics of every epoch, the last states."""
    loss_fn, evaluate, params, model_state = problem
    epochs = retrain(
        loss_fn,
        make_optimizer("momentum", 0.01),
        jump_grid(params, seeds=range(MEMBERS), step_sizes=(0.5,)),
        data,
        epochs=2,
        key=jax.random.key(1),
        model_state=model_state,
        evaluate=evaluate,
        batch_size=4,
        strategy=strategy,
        devices=devices,
    )
    arrays = {}
    for epoch, states, metrics in epochs:
        arrays |= {f"{metric}/{epoch}": values for metric, values in metrics.items()}
        used = states.key.devices()
        last = states._replace(key=jax.random.key_data(states.key))
    arrays |= {f"states{jax.tree_util.keystr(key)}": leaf for key, leaf in jax.tree_util.tree_leaves_with_path(last)}
    return arrays | {"devices": np.array(len(used))}


if __name__ == "__main__":
    main(sys.argv[1])
