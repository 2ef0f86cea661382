"""Several processes at one run folder (`jax.distributed`), on one host or many.

Each retrains copies of its own devices. The first one alone prints and writes the records of the run folder; when the
retraining is done the others end, and it goes on by itself.
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
    """How this process finds the others."""

    distributed: bool = False
    """Share the copies with other processes that run the same command, as SLURM, Open MPI, Kubernetes or a TPU pod
    start them."""
    coordinator: str | None = None
    """Where nothing of that kind starts them: HOST:PORT of the first process, the same for all. It listens at this
    address alone, or at JAX_COORDINATOR_BIND_ADDRESS where that is set."""
    num_processes: int | None = None
    """With --coordinator: how many there are."""
    process_id: int | None = None
    """With --coordinator: which one this is, from 0."""


def join(cluster: Cluster) -> None:
    """Meet the other processes; before anything else is done with jax.

    Raises:
        ValueError: where they cannot be found.
        OSError: where they do not answer.
    """
    named = (cluster.coordinator, cluster.num_processes, cluster.process_id)
    if not cluster.distributed and named == (None, None, None):
        return
    if None in named and named != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id belong together, got "
            f"{cluster.coordinator}, {cluster.num_processes} and {cluster.process_id}"
        )
    if cluster.num_processes is not None and cluster.num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {cluster.num_processes}")
    if cluster.num_processes is not None and not 0 <= (cluster.process_id or 0) < cluster.num_processes:
        raise ValueError(f"process_id must be from 0 to {cluster.num_processes - 1}, got {cluster.process_id}")
    if cluster.coordinator is not None and not _ADDRESS.fullmatch(cluster.coordinator):
        raise ValueError(f"coordinator must be HOST:PORT, got {cluster.coordinator!r}")
    import jax

    # By itself jax's coordinator listens at every address of the host.
    bind = None if cluster.coordinator is None else os.environ.get(_BIND, cluster.coordinator)
    try:
        jax.distributed.initialize(*named, coordinator_bind_address=bind)
    except ValueError as error:
        raise ValueError(
            f"no other processes were found ({error}). SLURM, Open MPI, Kubernetes and TPU pods are known; elsewhere "
            "give every process --coordinator HOST:PORT, --num-processes and --process-id"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise OSError(f"the other processes do not answer: {str(error).splitlines()[0]}") from None
    except RuntimeError as error:  # called too late, or twice
        raise OSError(f"this process cannot join others: {str(error).splitlines()[0]}") from None


def check_devices() -> None:
    """Find the devices of jax, after `join`.

    Raises:
        OSError: where there are none, with what jax says.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without a word, where only CUDA is asked for
        asked = os.environ.get("JAX_PLATFORMS")
        kind = f" of JAX_PLATFORMS={asked}" if asked else ""
        said = str(error).strip().splitlines()
        raise OSError(f"jax finds no device{kind}" + (f": {said[0]}" if said else "")) from None


def is_first() -> bool:
    """Whether this process prints and writes; a process alone does."""
    jax = sys.modules.get("jax")
    return jax is None or jax.process_index() == 0  # without jax a process is alone


def wait_for_all(what: str) -> None:
    """Go on when all processes have come here."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def leave() -> None:
    """End what is shared: the first process goes on alone, the others exit."""
    import jax

    if jax.process_count() > 1:
        jax.distributed.shutdown()
        if not is_first():
            sys.exit(0)


def give_up(message: str, *, code: int = 1) -> NoReturn:
    """Exit with a message and without waiting for other processes, which then end too."""
    if sys.stderr is not None:  # `2>&-`
        print(message, file=sys.stderr, flush=True)
    if not has_joined():
        sys.exit(code)
    if sys.stdout is not None:
        sys.stdout.flush()
    os._exit(code)


def has_joined() -> bool:
    """Return whether this process and others have met; imports nothing."""
    jax = sys.modules.get("jax")
    distributed = getattr(jax, "distributed", None)  # jax may have been interrupted while it was imported
    return distributed is not None and distributed.is_initialized()


@contextmanager
def others_may_fail() -> Iterator[None]:
    """What a process sees of another one that was lost is an error of the communication.

    Raises:
        OSError: in its place, in words.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        # jax passes on what Gloo or NCCL say, as the one or the other of these.
        if (
            not has_joined()
            or sys.modules["jax"].process_count() == 1
            or not re.match(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|\w+_EXCEEDED): ", str(error))
        ):
            raise
        raise OSError(
            f"another process was lost ({str(error).splitlines()[0]:.200}); start all of them again with the same "
            "command, and they resume from the last kept epoch"
        ) from None
