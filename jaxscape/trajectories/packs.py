"""A buffer of snapshots that are written together as one pack.

A checkpoint costs about ten files and 0.05 s, however small it is. Many small snapshots therefore share one.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.index import Leaf

PACK_BYTES = 2**26  # of parameters; a larger epoch is a pack of its own
PACK_EPOCHS = 4096  # limits the number of checksums, which are all in one JSON file
PACK_SECONDS = 60.0  # limits what a killed process loses if steps are slow


class Pack(NamedTuple):
    """Stacked snapshots of consecutive epochs."""

    epochs: range
    updates: tuple[int | None, ...]
    arrays: dict[Leaf, np.ndarray]  # [epoch, member, ...]


class PackBuffer:
    """A buffer for copies of consecutive snapshots, which become a pack.

    It is full at `PACK_BYTES` of parameters, at `PACK_EPOCHS` epochs, or `PACK_SECONDS` after its first snapshot.
    """

    def __init__(self, first: int, leaves: list[Leaf], num_members: int):
        """Allocate the buffer for the epochs from `first` on."""
        epoch_bytes = num_members * sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)
        self._capacity = min(PACK_EPOCHS, max(1, PACK_BYTES // epoch_bytes))
        # The system commits this memory only as it is filled.
        self._arrays = {leaf: np.empty((self._capacity, num_members, *leaf.shape), leaf.dtype) for leaf in leaves}
        self._first = first
        self._updates: list[int | None] = []
        self._started = math.inf

    @property
    def next_epoch(self) -> int:
        """Return the epoch that follows those in the buffer."""
        return self._first + len(self._updates)

    @property
    def is_full(self) -> bool:
        """Return whether the buffer is to be written."""
        return len(self._updates) == self._capacity or time.monotonic() - self._started >= PACK_SECONDS

    def add(self, arrays: Mapping[Leaf, Any], update: int | None) -> None:
        """Copy the next snapshot into the buffer."""
        for array in arrays.values():
            if isinstance(array, jax.Array):
                array.copy_to_host_async()  # all transfers run in parallel
        for leaf, array in arrays.items():
            self._arrays[leaf][len(self._updates)] = array
        if not self._updates:
            self._started = time.monotonic()
        self._updates.append(update)

    def pack(self) -> Pack:
        """Return the contents without a copy; nothing may be added afterwards."""
        count = len(self._updates)
        arrays = {leaf: array[:count] for leaf, array in self._arrays.items()}
        return Pack(range(self._first, self.next_epoch), tuple(self._updates), arrays)
