"""The convolutions of our networks one by one: compiled by XLA as they are, rewritten, and rewritten for oneDNN.

Timed are the forward pass, the gradient of the images and the gradient of the kernel, at batch size 128, with the kinds
interleaved. The result is the shortest time over the turns; GFLOP/s count the multiplications of the definition.

    python -m uv run python benchmarks/convolutions.py --json benchmarks/results/convolutions.json
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
from records import run_facts

from jaxscape.runs.folder import write_json
from jaxscape.xla_cpu.compiler import onednn_options
from jaxscape.xla_cpu.convolutions import rewrite_convolutions

BATCH = 128
# Image size, input and output channels, stride.
SHAPES = [
    *((8, 16, 16, 1), (8, 16, 32, 2), (4, 32, 32, 1), (4, 32, 64, 2), (2, 64, 64, 1)),  # WRN-10-1, digits
    *((28, 16, 16, 1), (28, 16, 32, 2), (14, 32, 32, 1), (14, 32, 64, 2), (7, 64, 64, 1)),  # WRN-10-1, 28x28
    *((32, 32, 32, 1), (32, 32, 64, 2), (16, 64, 64, 1), (16, 64, 128, 2), (8, 128, 128, 1)),  # WRN-28-2
]


def main() -> None:
    """Measure, print a table and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = [record for shape in SHAPES for record in measure(shape, options.repeats)]
    if options.json:
        write_json(options.json, records)


def measure(shape: tuple[int, int, int, int], repeats: int) -> list[dict[str, Any]]:
    """Return records of the three directions of one convolution in all three kinds."""
    size, channels, features, stride = shape
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.standard_normal((BATCH, size, size, channels)), jnp.float32)
    kernel = jnp.asarray(generator.standard_normal((3, 3, channels, features)), jnp.float32)
    convolution = partial(_convolution, stride)
    out = convolution(images, kernel)
    flops = 2 * out.size * 9 * channels
    directions: dict[str, Callable[..., Any]] = {
        "forward": convolution,
        "images": lambda i, k, o: jax.vjp(lambda i: convolution(i, k), i)[1](o),
        "kernel": lambda i, k, o: jax.vjp(lambda k: convolution(i, k), k)[1](o),
    }
    facts = run_facts(("jax", "jaxlib"), device=jax.devices()[0].device_kind)
    records = []
    for direction, function in directions.items():
        arguments = (images, kernel) if direction == "forward" else (images, kernel, out)
        kinds = {
            "xla": jax.jit(function),
            "rewritten": jax.jit(rewrite_convolutions(function)),
            "onednn": jax.jit(rewrite_convolutions(function, onednn=True), compiler_options=onednn_options()),
        }
        if not onednn_options():
            del kinds["onednn"]
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(repeats + 1):
            for kind, run in kinds.items():
                started = time.perf_counter()
                jax.block_until_ready(run(*arguments))
                times[kind] += [time.perf_counter() - started] if turn else []
        for kind, found in times.items():
            records.append(
                {
                    "shape": f"{size}x{size}, {channels} to {features}, stride {stride}",
                    "direction": direction,
                    "kind": kind,
                    "min_s": min(found),
                    "median_s": float(np.median(found)),
                    "gflops_per_s": flops / min(found) / 1e9,
                    "repeats": repeats,
                    "batch_size": BATCH,
                }
                | facts
            )
        line = ", ".join(f"{kind} {1e3 * min(found):.2f} ms" for kind, found in times.items())
        print(f"{records[-1]['shape']:28} {direction:8} {line}", flush=True)
    return records


def _convolution(stride: int, images: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers, padding = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(images, kernel, (stride, stride), padding, dimension_numbers=numbers)


if __name__ == "__main__":
    main()
