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


@dataclass(frozen=True)
class Cluster:
    """How this process finds the others."""

    distributed: bool = False
    """Share the copies with other processes that run the same command, as SLURM, Open MPI, Kubernetes or a TPU pod
    start them."""
    coordinator: str | None = None
    """Where nothing of that kind starts them: HOST:PORT of the first process, the same for all."""
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
    import jax

    try:
        jax.distributed.initialize(*named)
    except ValueError as error:
        raise ValueError(
            f"no other processes were found ({error}). SLURM, Open MPI, Kubernetes and TPU pods are known; elsewhere "
            "give every process --coordinator HOST:PORT, --num-processes and --process-id"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        raise OSError(f"the other processes do not answer: {str(error).splitlines()[0]}") from None


def is_first() -> bool:
    """Whether this process prints and writes; a process alone does."""
    import jax

    return jax.process_index() == 0


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


def give_up(message: str) -> NoReturn:
    """Exit with a message and without waiting for other processes, which then end too."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


@contextmanager
def others_may_fail() -> Iterator[None]:
    """What a process sees of another one that was lost is an error of the communication.

    Raises:
        OSError: in its place, in words.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        import jax

        # jax passes on what Gloo or NCCL say, as the one or the other of these.
        if jax.process_count() == 1 or not re.match(
            r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|\w+_EXCEEDED): ", str(error)
        ):
            raise
        raise OSError(
            f"another process was lost ({str(error).splitlines()[0]:.200}); start all of them again with the same "
            "command, and they go on from the last epoch kept"
        ) from None
