"""Evaluate points on three simulated devices in a separate process, and write them for test_landscape_devices.py."""

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
    options = {"model_state": measured_statistics(networks[0])}
    results = {}
    for name, (count, strategy) in CASES.items():
        on_devices = {**options, "strategy": strategy, "devices": jax.devices()[-count:]}
        results[name] = evaluate_points(batch_norm(), networks, WEIGHTS, **on_devices)
    ends = evaluate_networks(batch_norm(), networks.__getitem__, 2, **options)  # on all devices
    losses = {name: np.concatenate([metrics["loss"] for _, metrics in chunks]) for name, chunks in results.items()}
    np.savez(sys.argv[1], ends=np.concatenate([metrics["loss"] for _, metrics in ends]), **losses)


if __name__ == "__main__":
    main()
