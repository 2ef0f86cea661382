"""One writer at a time: the lock on a run folder.

The lock is the operating system's (flock) on the file `.lock` in the folder, which names its holder. The system
releases it when the holder ends, in whatever way, so that a lock is never stale on a local disk. Reading needs no
lock: files are replaced as a whole, and a snapshot counts when it is complete.
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

_SECONDS_BETWEEN_TRIALS = 0.05
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunInUseError(OSError):
    """Another process writes to the run folder."""


@contextmanager
def writing(*runs: Path, wait: Console | None = None) -> Iterator[None]:
    """Hold the locks of run folders, which are made where they do not exist.

    Several processes of one program (`jax.distributed`) hold a lock together: the first one takes it.

    Args:
        runs: the folders.
        wait: wait for another holder, and say so there; by default another holder is an error.

    Raises:
        RunInUseError: names the process that holds a lock.
        OSError: where a folder cannot be written to.
    """
    with ExitStack() as held:
        failure: Exception | None = None
        if is_first():
            try:
                for run in sorted(set(runs)):  # in one order, so that two processes never wait for each other
                    held.enter_context(_holding(RunFolder(run), wait))
            except OSError as error:
                failure = error
        _agree(failure)
        yield


@contextmanager
def _holding(run: RunFolder, wait: Console | None) -> Iterator[None]:
    make_folder(run)
    path = run / LOCK
    descriptor = _take(path)
    if descriptor is None:
        message = f"{run} is in use: {_describe_holder(path)}"
        if wait is None:
            raise RunInUseError(message)
        wait.print(f"{message}; waiting for it to end")
        while (descriptor := _take(path)) is None:
            time.sleep(_SECONDS_BETWEEN_TRIALS)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_myself()).encode())
        # Others write to none of these folders.
        for folder in (run, run.minimum, run.resume, run.trajectories, *run.embeddings.glob("*")):
            delete_unfinished(folder)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever has opened this file sees that it is gone
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """Lock the file and return its descriptor; None where another process holds it."""
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
        os.close(descriptor)  # its last holder has deleted it meanwhile


def _lock(descriptor: int, path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {path.parent} has no locks ({error.strerror}): make sure that no other process "
            "writes to this folder",
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
    """Name the process that holds a lock, and say what to do where it is gone."""
    try:
        holder = json.loads(path.read_text())
        pid, host, since, command = (holder[name] for name in ("pid", "host", "since", "command"))
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or ended
        return "another process has just begun to write to it"
    stale = (
        ""
        if host == socket.gethostname()
        else (f" (a network file system may keep the lock of a host that has crashed: then delete {path})")
    )
    return f"process {pid} on {host} writes to it since {since}, `{command}`{stale}"


def _agree(failure: Exception | None) -> None:
    """Raise in all processes where the first one failed."""
    failed = failure is not None
    if has_joined():  # not any more when the first one goes on alone
        failed = bool(multihost_utils.broadcast_one_to_all(np.array(failed)))
    if failure is not None:
        raise failure
    if failed:
        raise OSError("the first process could not lock the run folder, and says why")
