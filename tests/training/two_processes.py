"""Runs as two processes with two simulated devices each; writes the results of the first for test_devices.py.

python two_processes.py PROCESS PORT PATH
"""

import sys
from unittest import mock

import jax
import numpy as np
from eight_devices import dense, own_batches

from jaxscape import jump_grid, make_optimizer, retrain
from jaxscape.training import members
from jaxscape.training.devices import local_members, member_mesh, shard_members

# name -> members, strategy, whether an epoch is a program as on a GPU, whether the caller gives the batches
CASES = {
    "loop": (4, "loop", False, False),
    "loop, filled up": (5, "loop", False, False),
    "vmap_grad:2": (5, "vmap_grad:2", False, False),
    "auto": (4, "auto", False, False),
    "grad_vmap, by epoch": (5, "grad_vmap", True, False),
    "batches of one's own": (5, "loop", False, True),
}


def main(process, port, path):
    """Retrain every case on all devices, and on one device of this process alone."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 6, 6, 1), np.uint8)
    labels = generator.integers(0, 3, 20).astype(np.int32)
    arrays = {}
    for name, (count, strategy, by_epoch, own) in CASES.items():
        data = own_batches(images, labels) if own else (images, labels)
        with mock.patch.object(jax, "default_backend", return_value="gpu" if by_epoch else "cpu"):
            members._advance.cache_clear()
            for where, devices in {"alone": jax.local_devices()[:1], "together": None}.items():
                results = run(dense(images, labels), data, count, strategy, devices)
                arrays |= {f"{name}/{where}/{key}": values for key, values in results.items()}
    if int(process) == 0:
        np.savez(path, **arrays)


def run(problem, data, count, strategy, devices):
    """Return two epochs: metrics of every epoch, and the last parameters, gathered."""
    loss_fn, evaluate, params, model_state = problem
    grid = jump_grid(params, seeds=range(count), step_sizes=(0.5,))
    settings = {"evaluate": evaluate, "batch_size": 4, "strategy": strategy, "devices": devices}
    start, first, arrays = grid, 0, {}
    for last in (1, 2):  # a yielded state can be resumed from
        for epoch, states, metrics in retrain(
            loss_fn,
            make_optimizer("momentum", 0.01),
            start,
            data,
            epochs=last,
            first_epoch=first,
            key=jax.random.key(1),
            model_state=model_state,
            **settings,
        ):
            arrays |= {f"{metric}/{epoch}": values for metric, values in metrics.items()}
            start, first = states, epoch
    mesh = member_mesh(count, devices)
    rows = local_members(shard_members(states.params, mesh), mesh) if devices is None else states.params
    return arrays | {
        f"params{jax.tree_util.keystr(key)}": leaf for key, leaf in jax.tree_util.tree_leaves_with_path(rows)
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
