"""A process whose C library keeps the memory that it is given back.

XLA's CPU backend allocates the working memory of every call anew. glibc returns blocks of that size to the system,
which hands them out again page by page, each of them cleared: 200,000 page faults in a training step of WRN-28-2.
What glibc does is settled before a process starts, by its environment.
"""

import os
import sys
from contextlib import suppress

_SETTINGS = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", f"top_pad={2**26}", "arena_max=1")
TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in _SETTINGS)


def restart_with_kept_memory() -> None:
    """Start this process anew with freed memory kept, in huge pages.

    Only on Linux, and only where GLIBC_TUNABLES is not set yet (set it to anything to prevent this). Call it before
    any work. A process that cannot be started anew goes on as it is.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not _can_start_anew():
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    with suppress(OSError):  # no such file, or arguments that are too long beside one variable more
        os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": TUNABLES})


def _can_start_anew() -> bool:
    """Whether the command line is all of this process: no session, no program that was read from a pipe."""
    is_program = bool(sys.argv) and sys.argv[0] not in ("", "-")
    return is_program and not hasattr(sys, "ps1") and bool(sys.executable and sys.orig_argv)
