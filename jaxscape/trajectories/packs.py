"""Snapshots that wait in memory until they are written as one pack.

A checkpoint costs some ten files and 0.05 s, however small it is. Many small snapshots therefore share one.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.index import Leaf

PACK_BYTES = 2**26  # of parameters; an epoch that is larger is a pack of its own
PACK_EPOCHS = 4096  # bounds the checksums of a pack, for they stand in one JSON file
PACK_SECONDS = 60.0  # bounds what a killed process loses of slow steps


class Pack(NamedTuple):
    """Consecutive snapshots, stacked."""

    epochs: range
    updates: tuple[int | None, ...]
    arrays: dict[Leaf, np.ndarray]  # [epoch, member, ...]


class PackBuffer:
    """Copies of consecutive snapshots, which become a pack.

    It is full at `PACK_BYTES` of parameters, at `PACK_EPOCHS` epochs, or `PACK_SECONDS` after its first snapshot.
    """

    def __init__(self, first: int, leaves: list[Leaf], num_members: int):
        """Make room for the epochs from `first` on."""
        epoch_bytes = num_members * sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)
        self._room = min(PACK_EPOCHS, max(1, PACK_BYTES // epoch_bytes))
        # Memory that the system gives out as it is filled.
        self._arrays = {leaf: np.empty((self._room, num_members, *leaf.shape), leaf.dtype) for leaf in leaves}
        self._first = first
        self._updates: list[int | None] = []
        self._started = math.inf

    @property
    def next_epoch(self) -> int:
        """The epoch that follows those in it."""
        return self._first + len(self._updates)

    @property
    def is_full(self) -> bool:
        """Whether it is to be written."""
        return len(self._updates) == self._room or time.monotonic() - self._started >= PACK_SECONDS

    def add(self, arrays: Mapping[Leaf, Any], update: int | None) -> None:
        """Copy the next snapshot."""
        for array in arrays.values():
            if isinstance(array, jax.Array):
                array.copy_to_host_async()  # all transfers run together
        for leaf, array in arrays.items():
            self._arrays[leaf][len(self._updates)] = array
        if not self._updates:
            self._started = time.monotonic()
        self._updates.append(update)

    def pack(self) -> Pack:
        """Return what is in it, without a copy; nothing may be added afterwards."""
        count = len(self._updates)
        arrays = {leaf: array[:count] for leaf, array in self._arrays.items()}
        return Pack(range(self._first, self.next_epoch), tuple(self._updates), arrays)
