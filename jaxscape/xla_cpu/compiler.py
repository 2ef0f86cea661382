"""`jit` for CPUs: rewritten convolutions, and oneDNN, which jaxlib contains but leaves disabled."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.xla_cpu.convolutions import convolution_flops, rewrite_convolutions

# From here on oneDNN is faster than XLA's own kernels (docs/cpu.md, 9): a step of WRN-10-1 on 70 images of 8x8 pixels.
ONEDNN_FLOPS = 250e6


def jit(
    function: Callable[..., Any],
    *,
    donate_argnums: int | Sequence[int] = (),
    around: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
) -> Callable[..., Any]:
    """Compile like `jax.jit`; on a CPU with convolutions rewritten, and those of a large program given to oneDNN.

    A small program gains nothing from oneDNN, and without it is stored in JAX's compilation cache.

    Args:
        function: a function of positional pytrees of arrays.
        donate_argnums: as in `jax.jit`.
        around: a transformation such as `shard_map`, applied to the function with rewritten convolutions before it is
            compiled.
    """
    if jax.default_backend() != "cpu":
        return jax.jit(around(function), donate_argnums=donate_argnums)
    options = onednn_options()
    small = jax.jit(around(rewrite_convolutions(function)), donate_argnums=donate_argnums)
    if not options:
        return small
    for_onednn = around(rewrite_convolutions(function, onednn=True))
    large = jax.jit(for_onednn, donate_argnums=donate_argnums, compiler_options=options)
    programs: dict[tuple[Any, ...], Any] = {}
    compiled_keys = set()

    def program(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
        """Return the key of the arguments' types, and the compiled function for such arguments."""
        leaves = jax.tree.leaves(args)
        dtypes = [getattr(leaf, "dtype", type(leaf)) for leaf in leaves]
        key = (*dtypes, *map(np.shape, leaves))
        if key not in programs:
            has_float64 = np.float64 in dtypes  # oneDNN has none
            is_large = not has_float64 and convolution_flops(jax.make_jaxpr(around(function))(*args)) >= ONEDNN_FLOPS
            programs[key] = large if is_large else small
        return key, programs[key]

    @wraps(function)
    def compiled(*args: Any) -> Any:
        key, chosen = program(args)
        if chosen is small or key in compiled_keys:
            return chosen(*args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):  # then nothing is compiled
            return chosen(*args)
        with without_storing():
            result = chosen(*args)
        compiled_keys.add(key)
        return result

    compiled.lower = lambda *args: program(args)[1].lower(*args)  # type: ignore[attr-defined]  # as jax.jit has it
    return compiled


_CACHED_FROM = "jax_persistent_cache_min_compile_time_secs"
_changing_settings = threading.RLock()  # a program may compile another one while it is traced


@contextmanager
def without_storing() -> Iterator[None]:
    """Compile without writing to JAX's compilation cache (nor do other threads write at this time).

    A program that calls oneDNN cannot be serialised, and each attempt leaks its code (jaxlib 0.12): hundreds of memory
    maps, of which Linux allows a process 65,530. `jit` compiles such programs in this way.
    """
    with _changing_settings:
        before = getattr(jax.config, _CACHED_FROM)
        jax.config.update(_CACHED_FROM, float("inf"))
        try:
            yield
        finally:
            jax.config.update(_CACHED_FROM, before)


@cache
def onednn_options() -> dict[str, bool]:
    """Return the compiler options that give convolutions to oneDNN.

    Empty if this jaxlib has no oneDNN (on another architecture than x86), and if JAXSCAPE_ONEDNN=0 is in the
    environment: programs that call oneDNN cannot be stored in JAX's compilation cache (jaxlib 0.12).
    """
    if os.environ.get("JAXSCAPE_ONEDNN") == "0":
        return {}
    options = {"xla_cpu_experimental_onednn_custom_call": True}
    # float32 also where the first program is compiled in x64 mode: oneDNN has no float64, and the answer is cached.
    images, kernel = jnp.zeros((1, 1, 8, 8, 16), jnp.float32), jnp.zeros((1, 3, 3, 16, 16), jnp.float32)

    def convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(images, kernel, (1, 1, 1), "SAME", dimension_numbers=numbers)

    try:
        with without_storing():
            program = jax.jit(convolution, compiler_options=options).lower(images, kernel).compile().as_text()
    except jax.errors.JaxRuntimeError:  # this jaxlib does not know the option
        return {}
    return options if "__onednn$convolution" in str(program) else {}
