"""Restart of a process with malloc settings that retain freed memory.

XLA's CPU backend allocates the working memory of every call anew. glibc returns blocks of that size to the system,
which maps them again page by page, each of them zeroed: 200,000 page faults in a training step of WRN-28-2. glibc
reads its settings from the environment when a process starts.
"""

import os
import sys
from contextlib import suppress

_SETTINGS = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", f"top_pad={2**26}", "arena_max=1")
TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in _SETTINGS)


def restart_with_kept_memory() -> None:
    """Restart this process with malloc settings that retain freed memory, in huge pages.

    Only on Linux, and only if GLIBC_TUNABLES is not set yet (set it to any value to prevent the restart). Call it
    before any work. A process that cannot be restarted continues unchanged.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not _can_restart():
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    with suppress(OSError):  # no such file, or an argument list that is too long with one more variable
        os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": TUNABLES})


def _can_restart() -> bool:
    """Return whether the command line reproduces this process: no interactive session, no program read from a pipe."""
    is_program = bool(sys.argv) and sys.argv[0] not in ("", "-")
    return is_program and not hasattr(sys, "ps1") and bool(sys.executable and sys.orig_argv)
