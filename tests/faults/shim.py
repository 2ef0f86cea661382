"""Build the shim between a process and its files (shim.c), and arm it in a process that has loaded it."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

KINDS = ("none", "before", "after", "middle", "full")  # in the order of shim.c's `enum kind`


def why_not() -> str | None:
    """Return why faults cannot be injected on this machine, or None if they can."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return "faults are injected between a process and glibc, on Linux"
    return None if shutil.which("cc") else "no C compiler (cc) builds the shim that injects faults"


def build(folder: Path) -> Path:
    """Compile the shim into a folder, and return the library."""
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = ["cc", "-O1", "-w", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def arm(library: str, fault: dict[str, Any]) -> None:
    """Count this process's operations on the files of `root`, and inject a fault at one of them.

    Args:
        library: the shim with which this process was started (LD_PRELOAD).
        fault: "root", a folder; "at", the number of an operation, from 1; "kind", one of KINDS; "log", a file or "".
    """
    root = str(Path(fault["root"]).resolve()).encode()
    ctypes.CDLL(library).fault_arm(root, ctypes.c_long(fault["at"]), KINDS.index(fault["kind"]), fault["log"].encode())
