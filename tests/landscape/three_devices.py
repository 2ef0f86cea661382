"""Runs in a process of its own with three simulated devices; writes what it found for test_landscape_devices.py."""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 3)

import numpy as np  # noqa: E402
from known_landscapes import batch_norm, batch_norm_params, measured_statistics  # noqa: E402

from jaxscape import evaluate_networks, evaluate_points  # noqa: E402

WEIGHTS = np.stack([1 - np.linspace(0, 1, 5), np.linspace(0, 1, 5)], axis=1)
# name -> devices, strategy
CASES = {"one": (1, "loop"), "threads on 2": (2, "threads"), "vmap:2 on 3": (3, "vmap:2")}


def main():
    networks = [batch_norm_params(seed) for seed in range(2)]
    how = {"model_state": measured_statistics(networks[0])}
    found = {}
    for name, (count, strategy) in CASES.items():
        chosen = {**how, "strategy": strategy, "devices": jax.devices()[-count:]}
        found[name] = evaluate_points(batch_norm(), networks, WEIGHTS, **chosen)
    ends = evaluate_networks(batch_norm(), networks.__getitem__, 2, **how)  # on all devices
    losses = {name: np.concatenate([metrics["loss"] for _, metrics in chunks]) for name, chunks in found.items()}
    np.savez(sys.argv[1], ends=np.concatenate([metrics["loss"] for _, metrics in ends]), **losses)


if __name__ == "__main__":
    main()
