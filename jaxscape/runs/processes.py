"""Several processes at one run folder (`jax.distributed`), on one or several hosts.

Each process retrains the copies on its own devices. Only the first one prints, and writes the records of the run
folder; after the retraining the others exit, and the first one continues alone.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

_ADDRESS = re.compile(r".+:[0-9]{1,5}")
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"


@dataclass(frozen=True)
class Cluster:
    """Settings for connecting to other processes."""

    distributed: bool = False
    """Shard the copies over all processes that SLURM, Open MPI, Kubernetes or a TPU pod has started with this
    command."""
    coordinator: str | None = None
    """Without such a launcher: HOST:PORT of the first process, the same for all processes. It listens only at this
    address, or at JAX_COORDINATOR_BIND_ADDRESS if that is set."""
    num_processes: int | None = None
    """With --coordinator: the number of processes."""
    process_id: int | None = None
    """With --coordinator: the index of this process, from 0."""


def join(cluster: Cluster) -> None:
    """Connect to the other processes; must be called before any other use of jax.

    Raises:
        ValueError: if they cannot be found.
        OSError: if they do not answer.
    """
    named = (cluster.coordinator, cluster.num_processes, cluster.process_id)
    if not cluster.distributed and named == (None, None, None):
        return
    if None in named and named != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id must be given together, got "
            f"{cluster.coordinator}, {cluster.num_processes} and {cluster.process_id}"
        )
    if cluster.num_processes is not None and cluster.num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {cluster.num_processes}")
    if cluster.num_processes is not None and not 0 <= (cluster.process_id or 0) < cluster.num_processes:
        raise ValueError(f"process_id must be from 0 to {cluster.num_processes - 1}, got {cluster.process_id}")
    if cluster.coordinator is not None and not _ADDRESS.fullmatch(cluster.coordinator):
        raise ValueError(f"coordinator must be HOST:PORT, got {cluster.coordinator!r}")
    import jax

    # By default jax's coordinator listens at every address of the host.
    bind = None if cluster.coordinator is None else os.environ.get(_BIND, cluster.coordinator)
    try:
        jax.distributed.initialize(*named, coordinator_bind_address=bind)
    except ValueError as error:
        raise ValueError(
            f"no other processes were found ({error}). SLURM, Open MPI, Kubernetes and TPU pods are detected; "
            "elsewhere start every process with --coordinator HOST:PORT, --num-processes and --process-id"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise OSError(f"the other processes do not answer: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:  # called too late, or twice
        raise OSError(f"this process cannot join others: {str(error).splitlines()[0]}") from None


def check_devices() -> None:
    """Initialise the devices of jax, after `join`.

    Raises:
        OSError: if there are none, with jax's message.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError, without a message, if only CUDA is requested
        platforms = os.environ.get("JAX_PLATFORMS")
        kind = f" of JAX_PLATFORMS={platforms}" if platforms else ""
        lines = str(error).strip().splitlines()
        raise OSError(f"jax finds no device{kind}" + (f": {lines[0]}" if lines else "")) from None


def is_first() -> bool:
    """Return whether this is the process that prints and writes; True for a single process."""
    jax = sys.modules.get("jax")
    return jax is None or jax.process_index() == 0  # without jax there is only one process


def wait_for_all(what: str) -> None:
    """Block until all processes have reached this point."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def leave() -> None:
    """Disconnect the processes: the first one continues alone, the others exit."""
    import jax

    if jax.process_count() > 1:
        jax.distributed.shutdown()
        if not is_first():
            sys.exit(0)


def give_up(message: str, *, code: int = 1) -> NoReturn:
    """Exit with a message, without waiting for the other processes, which then end too."""
    if sys.stderr is not None:  # None if closed with `2>&-`
        print(message, file=sys.stderr, flush=True)
    if not has_joined():
        sys.exit(code)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(code)


def has_joined() -> bool:
    """Return whether this process is connected to others; imports nothing."""
    jax = sys.modules.get("jax")
    distributed = getattr(jax, "distributed", None)  # missing if the import of jax was interrupted
    return distributed is not None and distributed.is_initialized()


@contextmanager
def others_may_fail() -> Iterator[None]:
    """Turn the communication errors that follow the loss of another process into an OSError.

    Raises:
        OSError: replaces the original error, with a message for users.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # jax forwards the messages of Gloo and NCCL as one of these two types.
        if (
            not has_joined()
            or sys.modules["jax"].process_count() == 1
            or not re.match(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|\w+_EXCEEDED): ", str(error))
        ):
            raise
        raise OSError(
            f"another process was lost ({str(error).splitlines()[0]:.200}); restart all of them with the same command, "
            "and they resume from the last kept epoch"
        ) from None
