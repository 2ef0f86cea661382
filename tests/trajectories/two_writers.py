"""Writes a store as one of two processes with two simulated devices each, two members a process; see test_damage.py.

python two_writers.py PROCESS PORT PATH
"""

import sys

import jax
import numpy as np

from jaxscape.trajectories.store import TrajectoryStore


def main(process, port, path):
    """Write two epochs: arrays sharded by member, replicated arrays, and NumPy arrays."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    mesh = jax.make_mesh((4,), ("member",), axis_types=(jax.sharding.AxisType.Auto,))
    with TrajectoryStore.create(path, [{"seed": member} for member in range(4)]) as store:
        for epoch in range(2):
            values = (np.arange(8000, dtype=np.float32) + epoch).reshape(4, 2000)
            params = {"everywhere": values, "numpy": values, "shared": values, "small": values[:, :3]}
            for name, spec in {"everywhere": (), "shared": ("member",), "small": ("member",)}.items():
                sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
                params[name] = jax.make_array_from_callback(
                    values.shape[:1] + params[name].shape[1:], sharding, params[name].__getitem__
                )
            store.append(epoch, params, update=epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
