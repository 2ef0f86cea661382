"""The lock on a run folder: one writer at a time.

The lock is an operating-system lock (flock) on the file `.lock` in the folder, which names its holder. The system
releases it however the holder ends, so that a lock is never stale on a local disk. Reading needs no lock: files are
replaced atomically, and a snapshot counts only once it is complete.
"""

import errno
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxscape.lazy import multihost_utils
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import has_joined, is_first
from jaxscape.trajectories.files import delete_unfinished, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

_POLL_SECONDS = 0.05
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunInUseError(OSError):
    """Raised when another process is writing to the run folder."""


@contextmanager
def writing(*runs: Path, wait: Console | None = None) -> Iterator[None]:
    """Hold the locks of run folders, which are created if they do not exist.

    Several processes of one program (`jax.distributed`) share a lock, which the first one acquires.

    Args:
        runs: the folders.
        wait: a console: wait for another holder, and print that there; by default another holder is an error.

    Raises:
        RunInUseError: if another process holds a lock; names the process.
        OSError: if a folder cannot be written to.
    """
    with ExitStack() as held:
        failure: Exception | None = None
        if is_first():
            try:
                for run in sorted(set(runs)):  # in a fixed order, so that two processes never deadlock
                    held.enter_context(_holding(RunFolder(run), wait))
            except OSError as error:
                failure = error
        _raise_in_all(failure)
        yield


@contextmanager
def _holding(run: RunFolder, wait: Console | None) -> Iterator[None]:
    make_folder(run)
    path = run / LOCK
    descriptor = _acquire(path)
    if descriptor is None:
        message = f"{run} is in use: {_describe_holder(path)}"
        if wait is None:
            raise RunInUseError(message)
        wait.print(f"{message}; waiting for it to end")
        while (descriptor := _acquire(path)) is None:
            time.sleep(_POLL_SECONDS)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_myself()).encode())
        # No other process writes to these folders, so unfinished files in them are left over from a crash.
        for folder in (run, run.minimum, run.resume, run.trajectories, *run.embeddings.glob("*")):
            delete_unfinished(folder)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that whoever has opened this file sees that it is gone
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Lock the file and return its descriptor; None if another process holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise type(error)(f"cannot write {path}: {error.strerror}") from None
        if not _lock(descriptor, path):
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its previous holder has deleted it in the meantime


def _lock(descriptor: int, path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(
            f"the file system of {path.parent} does not support locks ({error.strerror}): make sure that no other "
            "process writes to this folder",
            stacklevel=2,
        )
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _myself() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "command": command}


def _describe_holder(path: Path) -> str:
    """Describe the process that holds a lock, and what to do if it has crashed on another host."""
    try:
        holder = json.loads(path.read_text())
        pid, host, since, command = (holder[name] for name in ("pid", "host", "since", "command"))
    except (OSError, ValueError, KeyError, TypeError):  # the holder has only just started, or ended
        return "another process has just begun to write to it"
    stale = (
        ""
        if host == socket.gethostname()
        else (f" (a network file system may keep the lock of a host that has crashed: then delete {path})")
    )
    return f"process {pid} on {host} has been writing to it since {since}, `{command}`{stale}"


def _raise_in_all(failure: Exception | None) -> None:
    """Raise an error in all processes if the first one failed."""
    failed = failure is not None
    if has_joined():  # False again once the first process continues alone
        failed = bool(multihost_utils.broadcast_one_to_all(np.array(failed)))
    if failure is not None:
        raise failure
    if failed:
        raise OSError("the first process could not lock the run folder; see its error message")
