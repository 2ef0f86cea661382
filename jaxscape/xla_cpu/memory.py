"""Restart of a process with malloc settings that retain freed memory.

XLA's CPU backend allocates the working memory of every call anew. glibc returns blocks of that size to the system,
which maps them again page by page, each of them zeroed: 200,000 page faults in a training step of WRN-28-2. glibc
reads its settings from the environment when a process starts.

There is an arena per core. With a single one threads wait for each other: steps of small networks took 1.3 times as
long on two cores, compilation 1.2 times, and compilation for a GPU 4.6 times on 16. Steps of a WRN-28-2 were faster
with one (`benchmarks/malloc_settings.py`, docs/cpu.md).
"""

import os
import sys
from contextlib import suppress
from importlib.util import find_spec

_SETTINGS = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", f"top_pad={2**26}", f"arena_max={os.cpu_count()}")
TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in _SETTINGS)


def restart_with_kept_memory() -> None:
    """Restart this process with malloc settings that retain freed memory, in huge pages.

    Only on Linux, only for work on a CPU (as far as can be told before jax is imported: JAX_PLATFORMS=cpu, or no plugin
    of jax for another device is installed), and only if GLIBC_TUNABLES is not set yet (set it to any value to prevent
    the restart). Call it before any work. A process that cannot be restarted continues unchanged.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not _computes_on_cpu() or not _can_restart():
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    with suppress(OSError):  # no such file, or an argument list that is too long with one more variable
        os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": TUNABLES})


def _computes_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0].strip() == "cpu"
    # Plugins for GPUs are modules of the package jax_plugins, which does not exist without them.
    return find_spec("jax_plugins") is None and find_spec("libtpu") is None


def _can_restart() -> bool:
    """Return whether the command line reproduces this process: no interactive session, no program read from a pipe."""
    is_program = bool(sys.argv) and sys.argv[0] not in ("", "-")
    return is_program and not hasattr(sys, "ps1") and bool(sys.executable and sys.orig_argv)
