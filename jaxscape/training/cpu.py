"""What a CPU needs to be fast: convolutions in its own forms, oneDNN where jaxlib has it, memory that is kept.

Three things were found to hold XLA's CPU backend back on convolutional networks (the README has the numbers): the
forms of the convolutions (`jaxscape.training.convolutions`), a library that is built in but switched off, and
working memory that is allocated anew for every call and handed over by the system page by page.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxscape.training.convolutions import rewrite_convolutions

# For the environment of a process before it starts, where its C library is glibc: freed memory stays with the
# process, in huge pages. A training step of WRN-28-2 otherwise meets 200,000 page faults.
MEMORY_TUNABLES = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", "arena_max=1", f"top_pad={2**26}")
)


def jit(function: Callable[..., Any], *, donate_argnums: int | Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.jit`; on a CPU with the convolutions rewritten and given to oneDNN.

    Args:
        function: of positional pytrees of arrays.
        donate_argnums: as in `jax.jit`.
    """
    if jax.default_backend() != "cpu":
        return jax.jit(function, donate_argnums=donate_argnums)
    options = onednn_options()
    return jax.jit(
        rewrite_convolutions(function, onednn=bool(options)), donate_argnums=donate_argnums, compiler_options=options
    )


@cache
def onednn_options() -> dict[str, bool]:
    """The compiler options that give convolutions to oneDNN; empty where this jaxlib has no oneDNN (off x86, say)."""
    options = {"xla_cpu_experimental_onednn_custom_call": True}
    images, kernel = jnp.zeros((1, 1, 8, 8, 16)), jnp.zeros((1, 3, 3, 16, 16))

    def convolution(images: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(images, kernel, (1, 1, 1), "SAME", dimension_numbers=numbers)

    try:
        program = jax.jit(convolution, compiler_options=options).lower(images, kernel).compile().as_text()
    except jax.errors.JaxRuntimeError:  # an option that this jaxlib does not know
        return {}
    return options if "onednn" in str(program) else {}
