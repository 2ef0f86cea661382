"""The best rates of a device that jax reaches, with which the speed of training is compared."""

import time
from collections.abc import Callable
from typing import Any

import jax


def matrix_rate(dtype: str) -> float:
    """Return the FLOP/s of a product of two 2,048 x 2,048 matrices (8,192 x 8,192 on an accelerator), best of ten."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jax.random.normal(jax.random.key(0), (size, size), jax.numpy.dtype(dtype))
    product = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / _shortest(lambda _: product(matrix, matrix), matrix)


def memory_rate() -> float:
    """Return the bytes read and written per second by y = x + y / 2 on 256 MB of float32 each, best of ten."""
    x = jax.random.normal(jax.random.key(0), (2**26,))
    triad = jax.jit(lambda x, y: x + y / 2, donate_argnums=1)
    return 3 * x.nbytes / _shortest(lambda y: triad(x, y), x + 1)


def _shortest(call: Callable[[Any], jax.Array], start: jax.Array) -> float:
    """Return the seconds per call, each on the result of the previous one; best of ten after one that compiles."""
    last = call(start).block_until_ready()
    calls = 1 if jax.default_backend() == "cpu" else 10  # several in flight, which hides the launch overhead
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(calls):
            last = call(last)
        last.block_until_ready()
        seconds.append((time.perf_counter() - started) / calls)
    return min(seconds)
