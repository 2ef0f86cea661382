"""The matrix of all snapshots, some columns at a time, with every byte read once.

A leaf of a large network is one chunk a member on disk, larger than what a block takes of it. tensorstore would read
the whole chunk for each block that it reaches into, so the bytes of a block's columns are asked for by themselves. They
come in order, each once, so that the checksum of a chunk goes along with them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from xxhash import xxh3_64

from jaxscape.lazy import jnp
from jaxscape.trajectories.index import Leaf
from jaxscape.trajectories.snapshots import StoredArray, naming_damage

# A chunk is the array as it lies in memory, alone in its file entry, the entry's index behind it.
PLAIN_BYTES = [{"name": "bytes", "configuration": {"endian": "little"}}]


class Piece(NamedTuple):
    """The columns from start to stop of one flattened leaf."""

    leaf: Leaf
    start: int
    stop: int


def _plan_blocks(leaves: list[Leaf], width: int) -> Iterator[list[Piece]]:
    """Cut the columns of all leaves into blocks of `width`, the last one narrower."""
    pieces: list[Piece] = []
    room = width
    for leaf in leaves:
        start = 0
        while start < leaf.size:
            stop = min(leaf.size, start + room)
            pieces.append(Piece(leaf, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], width
    if pieces:
        yield pieces


def read_blocks(
    open_array: Callable[[int, Leaf], StoredArray],
    leaves: list[Leaf],
    width: int,
    counts: list[int],
    members: np.ndarray,
) -> Iterator[np.ndarray]:
    """Read the matrix of all epochs and some members, `width` columns at a time.

    Args:
        open_array: starts to open the array of a snapshot or pack, by its place in `counts`, and of a leaf.
        leaves: their columns in this order, each leaf in C order.
        width: columns of a block; the last one may be narrower.
        counts: the epochs in each snapshot (1) or pack; rows go epoch by epoch, members within.
        members: the numbers of the members.

    Returns:
        Iterator of float32 (epochs x members, columns). What it has given is verified, where checksums were
        kept, once the block with the last column of a leaf has come.

    Raises:
        ValueError: where a snapshot is damaged.
    """
    opened: dict[Leaf, list[_Source]] = {}
    ends = np.cumsum(counts) * len(members)
    for pieces in _plan_blocks(leaves, width):
        opened = {  # a leaf that reaches into several blocks stays open
            leaf: opened.get(leaf) or _open_all([open_array(place, leaf) for place in range(len(counts))], members)
            for leaf, _, _ in pieces
        }
        stops = np.cumsum([stop - start for _, start, stop in pieces])
        block = np.empty((ends[-1], stops[-1]), np.float32)
        for place, rows in enumerate(np.split(block, ends[:-1])):
            # The reads of a snapshot or a pack run together; more would hold more than the block in memory.
            parts = zip(pieces, np.split(rows, stops[:-1], axis=1), strict=True)
            fills = [opened[leaf][place].start_reading(start, stop, part) for (leaf, start, stop), part in parts]
            for fill in fills:
                fill()
        yield block


class _Source(Protocol):
    """The values of one leaf and some members in one snapshot or pack, on disk."""

    def start_reading(self, start: int, stop: int, part: np.ndarray) -> Callable[[], None]:
        """Start to read some columns; what comes back waits and writes them into `part`, (rows, columns)."""
        ...


def _open_all(arrays: list[StoredArray], members: np.ndarray) -> list[_Source]:
    return [_Bytes(array, members) if _has_chunk_by_row(array) else _Whole(array, members) for array in arrays]


class _Whole:
    """Small leaves that share a chunk, and what lies otherwise on disk: read whole, whatever the columns."""

    def __init__(self, array: StoredArray, members: np.ndarray):
        self._array = array
        self._members = members

    def start_reading(self, start: int, stop: int, part: np.ndarray) -> Callable[[], None]:
        wait = self._array.start_reading(np.array(self._array.snapshot.epochs), self._members)

        def fill() -> None:
            part[:] = wait().reshape(len(part), -1)[:, start:stop]

        return fill


class _Bytes:
    """A leaf with a chunk for each row, as it lies in memory: ranges of bytes, in the order of the columns."""

    def __init__(self, array: StoredArray, members: np.ndarray):
        self._array = array
        self._dtype = jnp.dtype(array.leaf.dtype)
        epochs = np.array(array.snapshot.epochs)
        self._rows = array.rows(epochs, members)
        prefixes = [f"{place}/" for place in range(len(epochs))] if array.snapshot.packed else [""]
        end = "/0" * len(array.leaf.shape)
        self._keys = [f"c/{prefix}{member}{end}" for prefix in prefixes for member in members]
        self._sums = [] if array.checksums is None else [xxh3_64() for _ in self._keys]  # of the bytes so far

    def start_reading(self, start: int, stop: int, part: np.ndarray) -> Callable[[], None]:
        columns = slice(start * self._dtype.itemsize, stop * self._dtype.itemsize)
        chunks = self._array.result().kvstore
        reads = [chunks.read(key, byte_range=columns) for key in self._keys]

        def fill() -> None:
            for row, (part_row, read) in enumerate(zip(part, reads, strict=True)):
                part_row[:] = self._wait(row, read, len(part_row))
            if self._sums and stop == self._array.leaf.size:
                self._array.verify(self._rows, np.array([sums.intdigest() for sums in self._sums], np.uint64))

        return fill

    def _wait(self, row: int, read: Any, count: int) -> np.ndarray:
        with naming_damage(self._array.snapshot):
            content = read.result().value
        if len(content) != count * self._dtype.itemsize:
            raise self._array.snapshot.damaged(f"{self._array.describe(self._rows[row])} is missing or cut")
        if self._sums:
            self._sums[row].update(content)
        return np.frombuffer(content, self._dtype)


def _has_chunk_by_row(stored: StoredArray) -> bool:
    """Whether each row is a chunk of its own, as it lies in memory; small leaves are one chunk altogether."""
    chunk = [*([1] if stored.snapshot.packed else []), 1, *stored.leaf.shape]
    metadata = stored.result().spec().to_json()["metadata"]
    codecs = metadata["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        shard = codecs[0]["configuration"]
        if shard["chunk_shape"] != chunk or shard["index_location"] != "end":
            return False
        codecs = shard["codecs"]
    return (
        codecs == PLAIN_BYTES
        and metadata["chunk_grid"]["configuration"]["chunk_shape"] == chunk
        and metadata["chunk_key_encoding"] == {"name": "default"}
    )
