"""A process whose C library keeps the memory that it is given back.

XLA's CPU backend allocates the working memory of every call anew. glibc returns blocks of that size to the system,
which hands them out again page by page, each of them cleared: 200,000 page faults in a training step of WRN-28-2.
What glibc does is settled before a process starts, by its environment.
"""

import os
import sys

_SETTINGS = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", f"top_pad={2**26}", "arena_max=1")
TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in _SETTINGS)


def restart_with_kept_memory() -> None:
    """Start this process anew with freed memory kept, in huge pages.

    Only on Linux, and only where GLIBC_TUNABLES is not set yet (set it to anything to prevent this). Call it before
    any work.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": TUNABLES})
